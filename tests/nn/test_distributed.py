"""Collectives: the identity in one process, and the rows of both in two real ones."""

import json
from collections.abc import Callable

import pytest
import torch
import torch.distributed as dist

from vidssl.nn.distributed import (
    exchange,
    first_here,
    gather,
    joined,
    local_rows,
    rank,
    world_size,
)

InTwo = Callable[..., list[str]]


def test_one_process_alone_needs_no_group(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("WORLD_SIZE", raising=False)
    rows = torch.arange(6.0).reshape(3, 2)
    with joined(), first_here():
        assert not dist.is_initialized()
        assert (rank(), world_size()) == (0, 1)
        assert torch.equal(gather(rows), rows)
        assert torch.equal(local_rows(rows), rows)
        assert torch.equal(exchange(rows, torch.tensor([2, 0, 1])), rows[[2, 0, 1]])


COLLECTIVES = """
import json
import time
from pathlib import Path
import sys

import torch
import torch.distributed as dist

from vidssl.nn.distributed import first_here, gather, joined, local_rows, rank, world_size

with joined():
    mine = torch.tensor([[10.0 * rank() + row] for row in range(3)], requires_grad=True)
    everything = gather(mine)
    file = Path(sys.argv[1])
    with first_here():
        if rank() == 0:
            time.sleep(0.5)
            file.write_text("written by the first")
        seen = file.read_text()
    print(json.dumps({
        "rank": rank(),
        "world": world_size(),
        "backend": dist.get_backend(),
        "everything": everything[:, 0].tolist(),
        "gradient": everything.requires_grad,
        "turned": gather(mine.T.contiguous().T)[:, 0].tolist(),
        "mine": local_rows(everything)[:, 0].tolist(),
        "seen": seen,
    }))
assert not dist.is_initialized()
"""


def test_two_processes_see_the_rows_of_both_and_the_first_goes_first(
    in_two_processes: InTwo, tmp_path: object
) -> None:
    said = [json.loads(out) for out in in_two_processes(COLLECTIVES, f"{tmp_path}/file")]
    for number, seen in enumerate(said):
        assert (seen["rank"], seen["world"]) == (number, 2)
        assert seen["backend"] == ("nccl" if torch.cuda.is_available() else "gloo")
        assert seen["everything"] == seen["turned"] == [0, 1, 2, 10, 11, 12]
        assert seen["mine"] == [10 * number + row for row in range(3)]
        assert seen["gradient"] is False
        assert seen["seen"] == "written by the first"


EXCHANGES = """
import json

import torch

from vidssl.nn.distributed import exchange, gather, joined, local_rows, rank

with joined():
    clips = torch.arange(20.0).view(5, 2, 2) + 100 * rank()
    pairs = []
    for seed in range(20):
        order = torch.randperm(10, generator=torch.Generator().manual_seed(seed))
        pairs.append((exchange(clips, order), local_rows(gather(clips)[order])))
    stay, cross = torch.arange(10), torch.arange(10).roll(5)
    print(json.dumps({
        "random": [torch.equal(*pair) for pair in pairs],
        "stay": torch.equal(exchange(clips, stay), clips),
        "cross": exchange(clips, cross)[0, 0, 0].item(),
    }))
"""


def test_rows_are_exchanged_as_if_all_had_been_gathered(in_two_processes: InTwo) -> None:
    for number, out in enumerate(in_two_processes(EXCHANGES)):
        said = json.loads(out)
        assert said["random"] == [True] * 20
        assert said["stay"] is True  # nothing crosses
        assert said["cross"] == 100 * (1 - number)  # all of it does
