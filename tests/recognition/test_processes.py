"""A classifier trained by two processes is the one that a single process trains."""

import json
from collections.abc import Callable

import pytest

SCRIPT = """
import json
import torch
import torch.distributed as dist
from torch.nn.parallel import DistributedDataParallel
from vidssl.backbones import slow
from vidssl.nn.distributed import joined, rank, world_size
from vidssl.recognition.recogniser import HeadConfig, Recogniser, RecognitionBatch

torch.manual_seed(0)
config = slow.Config(width=8, depths=(1, 1, 1, 1), frames=2, norm="sync")
head = HeadConfig(dropout=0, scaling="batch", label_smoothing=0.1)
weights = torch.tensor([0.5, 3.0, 1.0])
module = Recogniser(config.build(), head, num_classes=3, weights_K=weights).train()
clips = torch.randn(4, 3, 2, 32, 32)
targets = torch.eye(3)[[0, 1, 2, 1]]
with joined(torch.device("cpu")):
    wrapped = module
    if world_size() > 1:
        wrapped = DistributedDataParallel(module)
    own = slice(rank(), None, world_size())
    loss = wrapped(RecognitionBatch(clips[own], targets[own])).loss
    loss.backward()
    mean = loss.detach().clone()
    if world_size() > 1:
        dist.all_reduce(mean)
    gradients = [p.grad.norm().item() for p in module.parameters()]
    found = [(mean / world_size()).item(), *gradients]
    print(json.dumps(found))
"""


def test_two_processes_have_the_loss_and_gradients_of_one(
    in_two_processes: Callable[..., list[str]],
) -> None:
    here: dict[str, list[float]] = {}
    exec(SCRIPT, here)
    alone = here["found"]
    for text in in_two_processes(SCRIPT):
        assert json.loads(text) == pytest.approx(alone, rel=1e-4, abs=1e-6)
    assert len(alone) > 20
    assert alone[0] > 0.5
