"""Who holds the others up, in real groups of processes of which one goes wrong."""

import json
import re
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from vidssl.errors import LaunchError
from vidssl.train.watch import PATIENCE_S, VARIABLE, Watch, patience, watching

PATIENCE = 8.0  # of which a quarter is silence: many processes share two cores here

# One process imports torch once, then parts into a group of two for each fault, all at once.
RANKS = """\
import json, os, signal, socket, sys, time
import torch, torch.distributed as dist
from vidssl.nn.distributed import joined, rank
from vidssl.train.watch import watching

FAULTS = {faults!r}
here = sys.argv[1]
torch.set_num_threads(1)

def report(words):
    with open(f"{{here}}/{{fault}}-{{rank()}}.report", "w") as file:
        file.write(words)

def reach_step_3_then(fault, guilty):
    with joined(), watching(report) as watch:
        time.sleep(1)  # until they know of one another
        for step in range(1, 5):
            if step == 4 and rank() == guilty:
                open(f"{{here}}/{{fault}}.begun", "w").close()
                if fault.startswith("stopped"):
                    os.kill(os.getpid(), signal.SIGSTOP)
                elif fault.startswith("killed"):
                    os.kill(os.getpid(), signal.SIGKILL)
                elif fault.startswith("asleep"):
                    time.sleep(600)
                elif fault == "error":
                    raise ValueError("a bad clip")
                elif fault == "early":
                    return
                elif fault == "pause":
                    with watch.paused("writing"):
                        time.sleep({patience} * 2)
            dist.all_reduce(torch.ones(3))
            watch.beat(step)

processes, start = {{}}, time.time()
for fault, guilty in FAULTS.items():
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    for number in range(2):
        child = os.fork()
        if child == 0:
            os.dup2(os.open(f"{{here}}/{{fault}}-{{number}}.stderr", os.O_WRONLY | os.O_CREAT), 2)
            os.environ.update(RANK=str(number), WORLD_SIZE="2", MASTER_ADDR="127.0.0.1")
            os.environ["MASTER_PORT"] = str(port)
            reach_step_3_then(fault, guilty)
            sys.exit(0)
        processes[child] = fault, number
ended = {{}}
stopped = [p for p, (fault, number) in processes.items() if fault == f"stopped{{number}}"]
while len(ended) < len(processes) - len(stopped):
    child, status = os.wait()
    fault, number = processes[child]
    ended[f"{{fault}}-{{number}}"] = os.waitstatus_to_exitcode(status), time.time()
for child in stopped:
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)
print(json.dumps(ended))
"""
FAULTS = {
    **{
        f"{fault}{guilty}": guilty for fault in ("stopped", "killed", "asleep") for guilty in (0, 1)
    },
    **{"error": 1, "early": 1, "pause": 0},
}


@pytest.fixture(scope="module")
def groups(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, Any]]:
    """The folder of what the processes said, and by fault and rank the exit code and its time."""
    folder = tmp_path_factory.mktemp("groups")
    script = folder / "ranks.py"
    script.write_text(RANKS.format(faults=FAULTS, patience=PATIENCE))
    done = subprocess.run(
        [sys.executable, "-W", "ignore::DeprecationWarning", str(script), str(folder)],
        capture_output=True,
        text=True,
        timeout=200,
        env={"PATH": "", "OMP_NUM_THREADS": "1", VARIABLE: str(PATIENCE)},
    )
    assert done.returncode == 0, done.stderr
    return folder, json.loads(done.stdout)


def told(groups: tuple[Path, dict[str, Any]], fault: str, rank: int) -> str:
    """Return what a rank says of a fault on its end, which is within the time set."""
    folder, ended = groups
    code, at = ended[f"{fault}-{rank}"]
    assert code == 1
    assert at - (folder / f"{fault}.begun").stat().st_mtime < 3 * PATIENCE + 15
    report = (folder / f"{fault}-{rank}.report").read_text()
    assert report in (folder / f"{fault}-{rank}.stderr").read_text()
    return report


@pytest.mark.parametrize("guilty", [0, 1])
def test_a_rank_that_sleeps_in_its_step_is_named_with_the_line(
    groups: tuple[Path, dict[str, Any]], guilty: int
) -> None:
    for rank in (0, 1):  # the sleeper ends as well
        words = told(groups, f"asleep{guilty}", rank)
        assert words.startswith(f"rank {rank} stands still at step 3: rank {guilty} (host ")
        line = RANKS[: RANKS.index("time.sleep(600)")].count("\n") + 1
        assert "does not get on: it stands at step 3 in reach_step_3_then" in words
        assert f"ranks.py:{line})" in words


@pytest.mark.parametrize("guilty", [0, 1])
@pytest.mark.parametrize("fault", ["stopped", "killed"])
def test_a_rank_that_is_dead_or_stopped_is_named(
    groups: tuple[Path, dict[str, Any]], fault: str, guilty: int
) -> None:
    words = told(groups, f"{fault}{guilty}", 1 - guilty)
    assert words.startswith(f"rank {1 - guilty} stands still at step 3: rank {guilty} (host ")
    assert "is dead, stopped or cut off: it gave its last sign of life at step" in words
    assert re.search(r"host [^?]\S*, process \d+\)", words)


def test_a_rank_that_ends_with_an_error_is_named_with_it(
    groups: tuple[Path, dict[str, Any]],
) -> None:
    words = told(groups, "error", 0)
    assert words.endswith("ended at step 3 with ValueError: a bad clip")
    assert groups[1]["error-1"][0] == 1


def test_a_rank_that_ends_too_early_is_named(groups: tuple[Path, dict[str, Any]]) -> None:
    assert told(groups, "early", 0).endswith("ended at step 3 already")
    assert groups[1]["early-1"][0] == 0


def test_the_others_wait_for_one_that_takes_its_time_for_a_reason(
    groups: tuple[Path, dict[str, Any]],
) -> None:
    folder, ended = groups
    assert [ended[f"pause-{rank}"][0] for rank in (0, 1)] == [0, 0]
    assert not list(folder.glob("pause-*.report"))


def test_a_beat_costs_a_step_nothing() -> None:
    watch, start = Watch(), time.perf_counter()
    for step in range(10_000):
        watch.beat(step)
    assert (time.perf_counter() - start) / 10_000 < 1e-4
    assert watch.step == 9_999


def test_one_process_alone_is_not_watched(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(VARIABLE, "0.1")
    with watching(pytest.fail) as watch:
        watch.beat(1)
        time.sleep(0.5)
        assert watch.stands_s() > 0.1
        with watch.paused("indexing"):
            assert watch.pause == "indexing"
            assert watch.stands_s() == 0
        assert watch.stands_s() < 0.4


@pytest.mark.parametrize("given", ["long", "0", "-3", "nan", "inf"])
def test_a_time_out_that_is_none_is_refused(monkeypatch: pytest.MonkeyPatch, given: str) -> None:
    monkeypatch.setenv(VARIABLE, given)
    with pytest.raises(LaunchError, match=f"{VARIABLE}={given}: expected seconds"):
        patience()
    monkeypatch.delenv(VARIABLE)
    assert patience() == PATIENCE_S
