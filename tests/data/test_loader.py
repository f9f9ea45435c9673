"""The loader: samples kept apart and in order, from workers that Ctrl-C leaves alone."""

import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from pydantic import ValidationError

from vidssl.data.clips import ClipDataset, ClipPlan
from vidssl.data.loader import Loader, LoaderConfig, _Ticket, _words
from vidssl.data.order import StepBatches
from vidssl.errors import VideoError
from vidssl.video.index import ClipIndex
from vidssl.video.workers import Failure


def test_batches_are_lists_of_samples_in_the_order_of_their_positions(index: ClipIndex) -> None:
    dataset = ClipDataset(index, frames=1, stride=1, views=1, seed=0)
    expected = [dataset[position].video for position in range(6, 12)]
    for workers in (0, 2):
        batches = list(Loader(dataset, StepBatches(3, 2, 4), LoaderConfig(workers=workers)))
        assert [len(batch) for batch in batches] == [3, 3]
        assert [sample.video for batch in batches for sample in batch] == expected
        assert isinstance(batches[0][0].views[0], torch.Tensor)


def test_a_failure_in_a_worker_arrives_with_its_kind_and_words(
    broken_index: Callable[[set[int]], ClipIndex],
) -> None:
    dataset = ClipDataset(broken_index({0, 1, 2, 3, 4}), frames=1, stride=1, views=1, seed=0)
    with pytest.raises(VideoError, match="5 videos in a row cannot be read"):
        list(Loader(dataset, StepBatches(2, 0, 1), LoaderConfig(workers=1)))


def test_batches_may_be_empty_or_come_but_once(index: ClipIndex) -> None:
    dataset = ClipDataset(index, frames=1, stride=1, views=1, seed=0)
    for workers in (0, 1):
        given = iter([[], [0, 1], [], [2]])
        found = list(Loader(dataset, given, LoaderConfig(workers=workers)))
        assert [[s.video for s in b] for b in found] == [
            [dataset[0].video, dataset[1].video],
            [dataset[2].video],
        ]


TRAPS = '''
"""Reading that ends badly for chosen videos."""
import os, time
from dataclasses import dataclass
from pathlib import Path
from vidssl.data.clips import ClipReading

@dataclass(frozen=True)
class Trapped(ClipReading):
    traps: tuple = ()

    def __call__(self, plan):
        trap = dict(self.traps).get(Path(plan.location).stem)
        if trap == "sleep":
            time.sleep(3600)
        if trap == "abort":
            os.abort()
        return super().__call__(plan)
'''


@pytest.fixture
def trapped(
    index: ClipIndex, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Callable[..., ClipDataset]:
    (tmp_path / "traps_of_loading.py").write_text(TRAPS)
    monkeypatch.syspath_prepend(tmp_path)
    from traps_of_loading import Trapped  # type: ignore[import-not-found]

    def make(**traps: str) -> ClipDataset:
        reading = Trapped(traps=tuple(traps.items()))
        return ClipDataset(index, frames=2, stride=3, views=2, seed=0, reading=reading)

    return make


def test_a_decoder_that_hangs_or_aborts_costs_one_clip(
    trapped: Callable[..., ClipDataset], index: ClipIndex
) -> None:
    config = LoaderConfig(workers=2, deadline_s=2.0)
    batches = list(Loader(trapped(video1="sleep", video3="abort"), StepBatches(5, 0, 2), config))
    assert [len(batch) for batch in batches] == [5, 5]  # every rank has its whole batch
    healthy = ClipDataset(index, frames=2, stride=3, views=2, seed=0)
    lost: list[str] = []
    for position, sample in enumerate(sample for batch in batches for sample in batch):
        assert Path(sample.video).stem not in {"video1", "video3"}
        lost += [Path(location).stem for location, _ in sample.failed]
        attempt = len(sample.failed)
        plan = healthy.plan(position, attempt)
        assert plan is not None
        expected = healthy.read(plan)  # what takes the place is fixed by the order
        assert sample.video == expected.video
        assert all(map(torch.equal, sample.views, expected.views))
        for location, error in sample.failed:
            said = "no answer within 2 s" if "video1" in location else "SIGABRT"
            assert error.startswith(f"{location}: ")
            assert said in error
    assert {"video1", "video3"} <= set(lost)


def test_a_lost_clip_is_told_of_without_the_secrets_of_its_address() -> None:
    address = "http://bob:secret@host/a.mp4?token=secret"
    ticket = _Ticket(0, ClipPlan(address, np.zeros((1, 1)), seed=0))
    told = _words(ticket, Failure("timeout", "gave no answer within 2 s"))
    assert told == "http://...@host/a.mp4?...: gave no answer within 2 s"


def test_when_every_decoder_hangs_the_end_comes_in_bounded_time(
    trapped: Callable[..., ClipDataset],
) -> None:
    traps = trapped(**{f"video{n}": "sleep" for n in range(5)})
    loader = Loader(traps, StepBatches(2, 0, 100), LoaderConfig(workers=2, deadline_s=0.5))
    with pytest.raises(VideoError, match=r"(?s)5 videos in a row cannot be read.*no answer within"):
        list(loader)


def test_tensors_lie_in_the_memory_that_the_worker_filled(index: ClipIndex) -> None:
    dataset = ClipDataset(index, frames=2, stride=3, views=2, seed=0)
    ((sample,),) = Loader(dataset, StepBatches(1, 0, 1), LoaderConfig(workers=1))
    address = sample.views[0].data_ptr()
    mapped = [line for line in Path("/proc/self/maps").read_text().splitlines() if "vidssl" in line]
    edges = [[int(edge, 16) for edge in line.split()[0].split("-")] for line in mapped]
    assert any(start <= address < end for start, end in edges)
    sample.views[0][0] = 3
    assert sample.views[0][0].eq(3).all()


def test_what_makes_no_sense_is_refused() -> None:
    with pytest.raises(ValidationError, match="workers"):
        LoaderConfig(workers=-1)
    with pytest.raises(ValidationError, match="prefetch"):
        LoaderConfig(prefetch=0)


SCRIPT = """
import signal
import sys
from pathlib import Path

from vidssl.data.clips import ClipDataset, ClipPlan
from vidssl.data.loader import Loader, LoaderConfig
from vidssl.data.order import StepBatches
from vidssl.video.index import ClipIndex

if __name__ == "__main__":
    dataset = ClipDataset(ClipIndex(Path(sys.argv[1])), frames=1, stride=1, views=1, seed=0)
    batches = iter(Loader(dataset, StepBatches(2, 0, 100), LoaderConfig(workers=1)))
    caught = []
    signal.signal(signal.SIGINT, lambda number, frame: caught.append(number))
    print("first", len(next(batches)), flush=True)
    sys.stdin.readline()
    rest = sum(len(batch) for batch in batches)
    print("caught", len(caught), "rest", rest, flush=True)
"""


def test_ctrl_c_reaches_the_training_alone_and_its_workers_go_on(
    index: ClipIndex, tmp_path: Path
) -> None:
    script = tmp_path / "reading.py"
    script.write_text(SCRIPT)
    process = subprocess.Popen(
        [sys.executable, str(script), str(index.path)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,  # Ctrl-C goes to a whole group of processes
    )
    assert process.stdout is not None
    assert process.stdout.readline() == "first 2\n"
    os.killpg(process.pid, signal.SIGINT)
    out, err = process.communicate("\n", timeout=60)
    assert out == "caught 1 rest 198\n", err
    assert process.returncode == 0
