"""Reading that goes wrong in training: ranks stay in step, processes part, memory stays flat."""

import multiprocessing
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from vidssl.data.order import Order
from vidssl.video.backends import MODULES, available
from vidssl.video.index import ClipIndex, write_index
from vidssl.video.probe import probe
from vidssl.video.reader import open_reader

Numbers = Callable[[NDArray[np.uint8]], list[int]]
Ranks = Callable[..., list[str]]

TRAINING = """
import sys
from pathlib import Path
import torch, torch.distributed as dist
from vidssl.data.clips import ClipDataset
from vidssl.data.loader import Loader, LoaderConfig
from vidssl.data.order import StepBatches
from vidssl.video.index import ClipIndex

if __name__ == "__main__":
    dist.init_process_group("gloo")
    rank = dist.get_rank()
    clips = ClipDataset(ClipIndex(Path(sys.argv[1])), frames=2, stride=3, views=2, seed=0)
    steps, failed = 0, 0
    for batch in Loader(clips, StepBatches(4, 0, 3, rank, 2), LoaderConfig(workers=1)):
        together = torch.tensor([1.0 * len(batch)])
        dist.all_reduce(together)  # would hang if the other rank had no batch
        assert together.item() == 4
        steps += 1
        failed += sum(len(sample.failed) for sample in batch)
    dist.barrier()
    print(steps, failed)
    dist.destroy_process_group()
"""


def test_a_rank_that_gets_all_the_broken_videos_stays_in_step(
    in_two_processes: Ranks, write_numbered: Callable[..., Path], tmp_path: Path
) -> None:
    videos = [write_numbered(tmp_path / f"{n:02d}.mp4", 20) for n in range(12)]
    index = tmp_path / "index.parquet"
    write_index(index, [probe(str(path)) for path in videos])
    # Of three steps of four, rank 1 has the odd places of the order: all its videos go bad.
    order = Order(12, seed=0)
    for position in range(1, 12, 2):
        Path(ClipIndex(index).video(order.at(position)[1])[0]).write_bytes(b"gone bad")
    said = [tuple(map(int, out.split())) for out in in_two_processes(TRAINING, index)]
    assert [steps for steps, _ in said] == [3, 3]
    assert said[0][1] == 0
    assert said[1][1] >= 6


def read_in_another_process(path: str, wanted: list[int]) -> NDArray[np.uint8]:
    with open_reader(path) as reader:
        return reader.frames_at((np.array(wanted) + 0.5) / 10).frames


@pytest.mark.parametrize("way", ["fork", "spawn", "forkserver"])
def test_videos_are_read_however_a_process_was_started(
    way: str, write_numbered: Callable[..., Path], read_numbers: Numbers, tmp_path: Path
) -> None:
    path, wanted = write_numbered(tmp_path / "a.mp4", 30), [3, 29, 0, 17]
    assert read_numbers(read_in_another_process(str(path), wanted)) == wanted  # before the parting
    with multiprocessing.get_context(way).Pool(1) as pool:
        task = pool.apply_async(read_in_another_process, (str(path), wanted))
        assert read_numbers(task.get(timeout=120)) == wanted
        pool.close()  # where other tests have begun the fork server, signals are held back in it
        pool.join()


@pytest.mark.slow
@pytest.mark.parametrize("decoder", list(MODULES))
def test_memory_and_open_files_stay_flat_over_many_reads(decoder: str) -> None:
    found = available()[decoder]
    if found.version is None:
        pytest.skip(f"{decoder}: {found.reason}")
    script = Path(__file__).parents[2] / "tools" / "bench" / "reads.py"
    command = [sys.executable, str(script), "--reads", "1000", "--decoder", decoder]
    said = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    slope = re.search(r"([+-][\d.]+) KiB per 1000 reads", said)
    files = re.search(r"open files \[([\d, ]+)\]", said)
    assert slope is not None
    assert files is not None
    assert abs(float(slope[1])) < 4096, said  # a frame kept of each read would be 18 000
    assert len(set(files[1].split(", "))) == 1, said
