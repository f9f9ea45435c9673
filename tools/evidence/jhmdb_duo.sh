#!/usr/bin/env bash
# Does pretraining on unlabelled clips help a detector on other videos? Three seeds, each once from
# the pretrained encoder and once from fresh weights, all else equal. Stopped, it goes on.
#   tools/evidence/jhmdb_duo.sh DATA OUT [SEED...]
set -euo pipefail
data=$1 out=$2
shift 2
[ $# -gt 0 ] || set -- 0 1 2
duo=$data/jhmdb_duo_dev
mkdir -p "$out"
vidssl index "$data/jhmdb_dev/videos" --out "$out/clips.parquet"
vidssl index "$duo/videos" --out "$out/duo.parquet"
for s in "$@"; do
  vidssl pretrain moco_small --videos "$out/clips.parquet" --set seed="$s" --out "$out/moco-$s"
  for start in moco random; do
    encoder=random
    [ $start = moco ] && encoder=$out/moco-$s
    vidssl finetune small --encoder "$encoder" --videos "$out/duo.parquet" --set seed="$s" \
      --annotations "$duo/train.csv" --labels "$duo/action_list.pbtxt" --out "$out/$start-det-$s"
    vidssl eval-ava --checkpoint "$out/$start-det-$s" --videos "$out/duo.parquet" \
      --boxes "$duo/val_person_detections.csv" --annotations "$duo/val.csv" \
      --labels "$duo/action_list.pbtxt" --excluded "$duo/val_excluded_timestamps.csv" \
      --protocol slowfast --json "$out/$start-$s.json"
  done
done
