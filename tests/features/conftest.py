"""A small bank with the awkward in it: a video without boxes, an empty shard, busy seconds."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from vidssl.features import Bank, BankIdentity, BankRows, BankWriter

DIM = 6
PLAN = [["beach", "attic"], ["zoo", "a video without boxes"], ["cellar"], ["another without"]]


def rows_of(shard: int) -> BankRows:
    """Boxes of each video of the shard over 40 s, 0 to 9 a second, in no order."""
    rng = np.random.default_rng(shard)
    videos = [video for video in PLAN[shard] if "without" not in video]
    count = 180 * len(videos)
    corners = np.sort(rng.random((count, 2, 2)), axis=1).reshape(count, 4)
    return BankRows(
        videos=[videos[index % len(videos)] for index in range(count)],
        seconds=900 + rng.integers(0, 40, count).astype(np.float64),
        boxes=corners,
        scores=rng.random(count),
        features=rng.normal(size=(count, DIM)),
    )


@pytest.fixture
def identity() -> BankIdentity:
    return BankIdentity("f00d", {"recipe": {"frames": 32, "stride": 2}, "decoder": "pyav 14"})


@pytest.fixture
def shard_rows() -> Callable[[int], BankRows]:
    return rows_of


@pytest.fixture
def writer_in(identity: BankIdentity) -> Callable[[Path], BankWriter]:
    return lambda folder: BankWriter(folder, dim=DIM, identity=identity, plan=PLAN)


@pytest.fixture
def bank(tmp_path: Path, writer_in: Callable[[Path], BankWriter]) -> Bank:
    writer = writer_in(tmp_path / "bank")
    for shard in writer.missing():
        writer.write_shard(shard, rows_of(shard))
    return writer.close()
