"""The loader: samples kept apart and in order, from workers that Ctrl-C leaves alone."""

import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from pydantic import ValidationError

from vidssl.data.clips import ClipDataset
from vidssl.data.loader import Loader, LoaderConfig
from vidssl.data.order import StepBatches
from vidssl.errors import VideoError
from vidssl.video.index import ClipIndex


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
    with pytest.raises(VideoError, match="5 videos in a row failed"):
        list(Loader(dataset, StepBatches(2, 0, 1), LoaderConfig(workers=1)))


def test_what_makes_no_sense_is_refused() -> None:
    with pytest.raises(ValidationError, match="workers"):
        LoaderConfig(workers=-1)
    with pytest.raises(ValidationError, match="prefetch"):
        LoaderConfig(prefetch=0)


SCRIPT = """
import signal
import sys
from pathlib import Path

from vidssl.data.clips import ClipDataset
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
