#!/bin/bash
# A Slurm of one node on this machine, to try jobs on: munged, slurmctld and slurmd without cgroups
# or accounts. As root, with Debian's slurm-wlm and munge: apt-get install slurm-wlm munge
#
#   tools/slurm/one_node.sh start FOLDER    writes the configuration there, prints what to export
#   tools/slurm/one_node.sh stop FOLDER
#
# Then: export SLURM_CONF=FOLDER/slurm.conf; pytest -m slurm
set -euo pipefail
if [ $# -ne 2 ] || [[ "$1" != start && "$1" != stop ]]; then
    sed -n '2,9s/^# \{0,1\}//p' "$0" >&2
    exit 2
fi
mkdir -p "$2"
folder=$(realpath "$2")
export SLURM_CONF=$folder/slurm.conf

stop() { # by their process ids, last started first
    local name pid
    for name in slurmd slurmctld munged; do
        pid=$(cat "$folder/$name.pid" 2>/dev/null || true)
        [ -n "$pid" ] && kill "$pid" 2>/dev/null || true
        for _ in $(seq 50); do kill -0 "${pid:-0}" 2>/dev/null && [ -n "$pid" ] || break; sleep 0.1; done
        rm -f "$folder/$name.pid"
    done
}

if [ "$1" = stop ]; then
    stop
    exit 0
fi

stop
chmod 755 "$folder"
mkdir -p "$folder/state" "$folder/spool"
if [ ! -s "$folder/munge.key" ]; then
    (umask 077 && head -c 1024 /dev/urandom > "$folder/munge.key")
fi
host=$(hostname -s)
cores=$(nproc)
memory=$(($(awk '/MemTotal/ {print $2}' /proc/meminfo) / 1024 * 9 / 10))
cat > "$SLURM_CONF" <<END
ClusterName=one
SlurmctldHost=$host(127.0.0.1)
SlurmctldPort=16817
SlurmdPort=16818
SlurmUser=root
AuthType=auth/munge
AuthInfo=socket=$folder/munge.socket
CryptoType=crypto/munge
StateSaveLocation=$folder/state
SlurmdSpoolDir=$folder/spool
SlurmctldPidFile=$folder/slurmctld.pid
SlurmdPidFile=$folder/slurmd.pid
SlurmctldLogFile=$folder/slurmctld.log
SlurmdLogFile=$folder/slurmd.log
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
SwitchType=switch/none
MpiDefault=none
SchedulerType=sched/backfill
SchedulerParameters=sched_interval=2,bf_interval=2
SelectType=select/cons_tres
AccountingStorageType=accounting_storage/none
JobAcctGatherType=jobacct_gather/none
JobRequeue=1
KillWait=10
ReturnToService=2
NodeName=$host NodeAddr=127.0.0.1 CPUs=$cores RealMemory=$memory State=UNKNOWN
PartitionName=all Nodes=$host Default=YES MaxTime=INFINITE State=UP OverSubscribe=FORCE:4
END

munged --force --key-file="$folder/munge.key" --socket="$folder/munge.socket" \
    --pid-file="$folder/munged.pid" --log-file="$folder/munged.log" --seed-file="$folder/munged.seed"
slurmctld -f "$SLURM_CONF"
slurmd -f "$SLURM_CONF"
for _ in $(seq 60); do
    if sinfo -h -o %T 2>/dev/null | grep -q idle; then
        echo "export SLURM_CONF=$SLURM_CONF"
        exit 0
    fi
    sleep 0.5
done
echo "the node did not become idle; see $folder/slurmctld.log and $folder/slurmd.log" >&2
exit 1
