"""Several processes of one command: which failures start them again, and how signals reach them."""

import os
import subprocess
import sys
from importlib.metadata import entry_points

import pytest

(ENTRY,) = entry_points(group="console_scripts", name="vidssl")
LAUNCH = ENTRY.module.rpartition(".")[0] + "._launch"

# A stand-in that does not import torch: rank 1 ends as it is told for each start, rank 0 is well,
# or waits until it is ended. Each start leaves a line.
STANDIN = """\
import os, signal, sys, time
starts, *ends = sys.argv[1:]
with open(starts, "a") as file:
    file.write(os.environ["RANK"])
with open(starts) as file:
    attempt = file.read().count(os.environ["RANK"]) - 1
end = ends[attempt]
if end == "well":
    sys.exit(0)
if end.startswith("lost ") and os.environ["RANK"] == "0":
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))  # as one that has lost another
if os.environ["RANK"] == "0":
    time.sleep(60)
print("told by", os.environ["RANK"], file=sys.stderr, flush=True)
if end == "killed":
    os.kill(os.getpid(), signal.SIGKILL)
if end == "signal":
    os.kill(os.getppid(), signal.SIGUSR1)
    time.sleep(60)
sys.exit(int(end.removeprefix("lost ")))
"""


CASES = {  # how rank 1 ends at each start, with so many restarts
    "mended": (3, ["killed", "1", "well"]),
    "too often": (1, ["killed", "killed"]),
    **{str(code): (5, [str(code)]) for code in (2, 3, 75, 130)},
    "stopped": (5, ["signal"]),
    "lost 2": (5, ["lost 2"]),
}
Ends = dict[str, tuple[int, int, str]]


@pytest.fixture(scope="module")
def ends(tmp_path_factory: pytest.TempPathFactory) -> Ends:
    """By case the exit code, how often all started, and what was told."""
    folder = tmp_path_factory.mktemp("launch")
    (folder / "standin.py").write_text(STANDIN)
    program = f"""
import sys
from {LAUNCH} import launch
for case, (restarts, ends) in {CASES!r}.items():
    print("case", case, file=sys.stderr, flush=True)
    arguments = [{str(folder)!r} + "/" + case, *ends]
    print(launch("standin", arguments, 2, "cpu", restarts), flush=True)
"""
    done = subprocess.run(
        [sys.executable, "-c", program],
        env={**os.environ, "PYTHONPATH": str(folder), "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=100,
    )
    assert done.returncode == 0, done.stderr
    told = done.stderr.split("case ")[1:]
    return {
        case: (
            int(code),
            (folder / case).read_text().count("1"),
            " ".join(words.removeprefix(case).split()),
        )
        for case, code, words in zip(CASES, done.stdout.split(), told, strict=True)
    }


def test_a_process_that_dies_starts_all_again(ends: Ends) -> None:
    code, starts, told = ends["mended"]
    assert (code, starts) == (0, 3)
    assert told == (
        "told by 1 rank 1 was ended by SIGKILL (memory, or by hand); all start again from the last "
        "checkpoint (1 of 3) told by 1 a process failed; all start again from the last checkpoint "
        "(2 of 3)"
    )


def test_restarts_come_to_an_end(ends: Ends) -> None:
    code, starts, told = ends["too often"]
    assert (code, starts) == (1, 2)
    assert told.endswith(
        "told by 1 error: rank 1 was ended by SIGKILL (memory, or by hand); the same command goes "
        "on from the last checkpoint"
    )


@pytest.mark.parametrize("code", [2, 3, 75, 130])
def test_what_would_end_in_the_same_way_is_not_started_again(ends: Ends, code: int) -> None:
    assert ends[str(code)] == (code, 1, "told by 1")


def test_wrong_input_of_one_rank_is_not_started_again_for_what_the_first_makes_of_it(
    ends: Ends,
) -> None:
    assert ends["lost 2"][:2] == (2, 1)


def test_a_signal_to_stop_ends_all_and_starts_nothing(ends: Ends) -> None:
    assert ends["stopped"] == (75, 1, "")


def test_one_process_that_needs_no_restarts_needs_no_launcher() -> None:
    program = f"""
import sys
from {LAUNCH.replace("_launch", "_common")} import start_processes
start_processes(1, "cpu")
print("goes on", {LAUNCH!r} in sys.modules)
"""
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=False
    )
    assert (done.returncode, done.stdout) == (0, "goes on False\n"), done.stderr
