"""Processes that hang, abort, are killed or eat memory: each costs one task, and is replaced."""

import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from vidssl.video.workers import KEPT_BLOCKS, Failure, Limits, WorkerError, Workers

TASKS = '''
"""What workers do here."""
import ctypes, os, pathlib, signal, time
import numpy as np
from vidssl.errors import VideoError
from vidssl.video.workers import beat

def do(task):
    name, value = task
    if name == "sleep":
        time.sleep(value)
    elif name == "spin":
        while True:
            pass
    elif name == "abort":
        os.abort()
    elif name == "segfault":
        ctypes.string_at(0)
    elif name == "exit":
        os._exit(value)
    elif name == "killed":
        os.kill(os.getpid(), signal.SIGKILL)
    elif name == "memory":
        return bytes(np.ones(int(value * 2**30), np.uint8)[:1])
    elif name == "video":
        raise VideoError(f"{value}: broken", "unreadable")
    elif name == "bug":
        raise ZeroDivisionError("of our own making")
    elif name == "beats":
        for _ in range(value):
            time.sleep(0.2)
            beat()
    elif name == "array":
        return {"pixels": np.full(value, 7, np.uint8), "empty": np.empty(0), "pid": os.getpid()}
    elif name == "pid":
        time.sleep(value)
        return os.getpid()
    elif name == "length":
        return len(value)
    elif name == "lambda":
        return lambda: None
    elif name == "touch":
        pathlib.Path(value).touch()
        time.sleep(600)
    return value
'''

Pool = Callable[..., Workers[Any, Any]]


@pytest.fixture(scope="module")
def tasks_module(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("tasks")
    (folder / "tasks_of_workers.py").write_text(TASKS)
    return folder


@pytest.fixture
def workers(tasks_module: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Pool]:
    monkeypatch.syspath_prepend(tasks_module)
    from tasks_of_workers import do  # type: ignore[import-not-found]

    made: list[Workers[Any, Any]] = []

    def make(count: int = 2, **limits: Any) -> Workers[Any, Any]:
        made.append(Workers(do, count, Limits(**limits)))
        return made[-1]

    yield make
    for pool in made:
        pool.close()


def test_results_come_in_the_order_of_the_tasks(workers: Pool) -> None:
    tasks = [("sleep", 0.3), ("number", 1), ("sleep", 0.1), *(("number", n) for n in range(40))]
    assert list(workers().run(tasks, ahead=8)) == [0.3, 1, 0.1, *range(40)]


@pytest.mark.parametrize(
    ("task", "reason", "words"),
    [
        (("sleep", 3600), "timeout", r"no answer within 2 s"),
        (("spin", 0), "timeout", r"no answer within 2 s"),
        (("abort", 0), "crashed", r"ended by SIGABRT"),
        (("segfault", 0), "crashed", r"ended by SIGSEGV"),
        (("killed", 0), "crashed", r"ended by SIGKILL"),
        (("exit", 3), "crashed", r"ended with status 3"),
        (("memory", 4.0), "memory", r"more than the 0.5 GiB"),
        (("video", "a.mp4"), "unreadable", r"a.mp4: broken"),
    ],
)
def test_one_task_is_lost_and_no_other(
    task: tuple[str, object], reason: str, words: str, workers: Pool
) -> None:
    pool = workers(deadline_s=2.0, memory_gb=0.5)
    around = [("number", n) for n in range(6)]
    found = list(pool.run([*around[:3], task, *around[3:]], ahead=4))
    assert [item for item in found if not isinstance(item, Failure)] == list(range(6))
    assert isinstance(found[3], Failure)
    assert found[3].reason == reason
    assert words in found[3].message
    assert len(pool.pids) == 2


def test_a_lost_task_may_be_replaced_in_its_place(workers: Pool) -> None:
    pool = workers(deadline_s=1.0)
    told = []

    def instead(task: tuple[str, object], failure: Failure) -> tuple[str, object] | None:
        told.append((task[0], failure.reason))
        return {"abort": ("spin", 0), "spin": ("number", "third try")}[task[0]]

    found = list(pool.run([("number", 0), ("abort", 0), ("number", 2)], ahead=3, instead=instead))
    assert found == [0, "third try", 2]
    assert told == [("abort", "crashed"), ("spin", "timeout")]


def test_a_task_that_shows_progress_outlives_the_deadline(workers: Pool) -> None:
    # 15 * 0.2 s = 3 s of work, told every 0.5 s, under a deadline of 1.5 s.
    assert list(workers(1, deadline_s=1.5).run([("beats", 15)], ahead=1)) == [15]


def test_every_task_fails_and_the_run_ends(workers: Pool) -> None:
    start = time.monotonic()
    found = list(workers(deadline_s=0.5).run([("spin", 0)] * 6, ahead=6))
    assert [item.reason for item in found] == ["timeout"] * 6
    assert time.monotonic() - start < 60


def test_an_error_of_our_own_is_raised_with_its_traceback(workers: Pool) -> None:
    run = workers().run([("number", 0), ("bug", 0), ("number", 1)], ahead=3)
    assert next(run) == 0
    with pytest.raises(WorkerError, match=r"(?s)in do.*ZeroDivisionError: of our own making"):
        list(run)


def test_arrays_arrive_in_memory_that_was_not_copied(workers: Pool) -> None:
    found: Any
    (found,) = workers(1).run([("array", 5_000_001)], ahead=1)
    pixels: Any = found["pixels"]
    assert found["pid"] != os.getpid()
    assert (pixels == 7).all()
    assert len(pixels) == 5_000_001
    assert len(found["empty"]) == 0
    pixels[0] = 1  # writable, as tensors must be
    while isinstance(pixels, np.ndarray | memoryview):
        pixels = pixels.base if isinstance(pixels, np.ndarray) else pixels.obj
    assert type(pixels).__name__ == "mmap"


def test_memory_is_filled_again_once_its_result_is_gone(workers: Pool) -> None:
    pool = workers(1)
    run: Any = pool.run([("array", 100_000)] * 50, ahead=1)
    places = {found["pixels"].ctypes.data for found in run}
    assert len(places) <= 4  # the one at hand, the one on its way, and those in the making


def test_memory_that_is_still_held_is_not_touched(workers: Pool) -> None:
    held: list[Any] = []
    found: Any
    for found in workers().run([("array", 1000 + n) for n in range(40)], ahead=4):
        found["pixels"][:] = len(held)  # a worker that filled it again would write 7
        held.append(found)
    assert [set(found["pixels"].tolist()) for found in held] == [{n} for n in range(40)]
    assert [len(found["pixels"]) for found in held] == [1000 + n for n in range(40)]


def test_larger_results_take_the_place_of_smaller_memory(workers: Pool) -> None:
    pool = workers(1)
    found: Any
    for size in (1_000, 1_000_000, 10, 3_000_000, 500_000):
        for found in pool.run([("array", size)] * 3, ahead=1):
            assert (found["pixels"] == 7).all()
            assert len(found["pixels"]) == size


def test_descriptors_do_not_pile_up(workers: Pool) -> None:
    pool = workers(1)
    list(pool.run([("array", 10_000)], ahead=1))
    before = len(os.listdir("/proc/self/fd"))
    held = list(pool.run([("array", 10_000)] * 600, ahead=8))
    assert len(held) == 600
    del held
    list(pool.run([("array", 10_000)] * 20, ahead=1))
    assert len(os.listdir("/proc/self/fd")) <= before + KEPT_BLOCKS + 4


def test_no_more_is_begun_than_was_asked_for(workers: Pool) -> None:
    begun = []

    def tasks() -> Iterator[tuple[str, int]]:
        for number in range(100):
            begun.append(number)
            yield ("number", number)

    run = workers().run(tasks(), ahead=5)
    assert next(run) == 0
    time.sleep(1.0)
    assert len(begun) <= 6  # the one that was given, and five ahead
    run.close()  # type: ignore[attr-defined]


def test_a_run_that_is_left_early_leaves_the_workers_usable(workers: Pool) -> None:
    pool = workers(deadline_s=60)
    run = pool.run([("number", 0), *[("sleep", 3600)] * 4], ahead=5)
    assert next(run) == 0
    run.close()  # type: ignore[attr-defined]
    assert list(pool.run([("number", 1), ("number", 2)], ahead=2)) == [1, 2]


def test_workers_end_with_their_parent_even_in_a_decoder_that_hangs(
    tasks_module: Path, tmp_path: Path
) -> None:
    script = (
        "import sys; sys.path.insert(0, sys.argv[1])\n"
        "from tasks_of_workers import do\n"
        "from vidssl.video.workers import Workers\n"
        "if __name__ == '__main__':\n"
        "    pool = Workers(do, 1)\n"
        "    list(pool.run([('array', 1), ('touch', sys.argv[2])][:1], ahead=1))\n"
        "    print(pool.pids[0], flush=True)\n"
        "    list(pool.run([('touch', sys.argv[2])], ahead=1))\n"
    )
    begun = tmp_path / "begun"
    parent = subprocess.Popen(
        [sys.executable, "-c", script, str(tasks_module), str(begun)],
        stdout=subprocess.PIPE,
        text=True,
    )
    assert parent.stdout is not None
    worker = int(parent.stdout.readline())
    _wait(begun.exists)
    parent.kill()
    parent.communicate()
    _wait(lambda: not _alive(worker))


def test_a_process_that_cannot_begin_is_not_tried_for_ever(
    tasks_module: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.syspath_prepend(tasks_module)
    from tasks_of_workers import do

    with (
        Workers(do, 1, start=os.abort) as pool,
        pytest.raises(WorkerError, match=r"3 processes in a row .*SIGABRT"),
    ):
        list(pool.run([("number", 1)], ahead=1))


def test_idle_workers_come_first(workers: Pool) -> None:
    pool = workers(2)
    list(pool.run([("pid", 0.3)] * 6, ahead=6))  # both are up
    found: Any = list(pool.run([("pid", 0.3), ("pid", 0.3)], ahead=8))
    assert len(set(found)) == 2


def test_a_large_task_does_not_wait_in_a_pipe_that_nobody_reads(workers: Pool) -> None:
    pool = workers(1, deadline_s=1.5)
    tasks = [("spin", 0), ("length", b"x" * 3_000_000), ("number", 2)]
    found = list(pool.run(tasks, ahead=3))
    assert isinstance(found[0], Failure)
    assert found[1:] == [3_000_000, 2]


def test_a_result_that_cannot_be_sent_is_a_bug_of_ours(workers: Pool) -> None:
    with pytest.raises(WorkerError, match="lambda"):
        list(workers(1).run([("lambda", 0)], ahead=1))


def test_a_run_ends_when_its_workers_are_closed_or_given_another(workers: Pool) -> None:
    pool = workers(1)
    first = pool.run([("number", n) for n in range(9)], ahead=1)
    assert next(first) == 0
    assert list(pool.run([("number", 7)], ahead=1)) == [7]
    with pytest.raises(WorkerError, match="given something else to do, or closed"):
        list(first)
    second = pool.run([("number", n) for n in range(9)], ahead=1)
    assert next(second) == 0
    pool.close()
    with pytest.raises(WorkerError, match="closed"):
        list(second)


def test_a_forked_child_leaves_the_workers_to_its_parent(workers: Pool) -> None:
    pool = workers(1)
    assert list(pool.run([("number", 1)], ahead=1)) == [1]
    child = os.fork()
    if child == 0:
        pool.close()
        os._exit(0)
    os.waitpid(child, 0)
    before = pool.pids
    assert list(pool.run([("number", 2)], ahead=1)) == [2]
    assert pool.pids == before


def test_modules_of_the_working_folder_are_not_taken(tasks_module: Path, tmp_path: Path) -> None:
    (tmp_path / "random.py").write_text("raise SystemExit('a file of a data set ran')\n")
    (tmp_path / "org.py").write_text(f"open({str(tmp_path / 'ran')!r}, 'w')\n")
    script = tmp_path / "elsewhere" / "main.py"
    script.parent.mkdir()
    script.write_text(
        f"import sys; sys.path.insert(0, {str(tasks_module)!r})\n"
        "from tasks_of_workers import do\n"
        "from vidssl.video.workers import Workers\n"
        "if __name__ == '__main__':\n"
        "    with Workers(do, 1) as pool:\n"
        "        print(*pool.run([('number', 5)], ahead=1))\n"
    )
    done = subprocess.run(
        [sys.executable, str(script)], cwd=tmp_path, capture_output=True, text=True
    )
    assert done.stdout == "5\n", done.stderr
    assert not (tmp_path / "ran").exists()


def test_no_worker_is_refused() -> None:
    with pytest.raises(ValueError, match="at least 1 worker, got 0"):
        Workers(str, 0)


def _wait(condition: Callable[[], bool], seconds: float = 60.0) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "it did not come to pass"
        time.sleep(0.05)


def _alive(pid: int) -> bool:
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except FileNotFoundError:
        return False
    return state != "Z"
