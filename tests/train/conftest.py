"""A training of one weight, whose every number can be worked out by hand."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import nn

from vidssl.nn.step import StepOutput
from vidssl.train.optim import OptimConfig
from vidssl.train.trainer import Plan, Trainer


class Slope(nn.Module):
    """One weight, whose loss is the weight times the batch: its gradient is the batch."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(1, 1))
        self.register_buffer("seen", torch.zeros(()))
        self.seen: torch.Tensor

    def forward(self, batch: float) -> StepOutput:
        self.seen += batch
        return StepOutput((self.weight * batch).sum())

    def after_step(self, progress: float) -> None:
        pass


@pytest.fixture
def slope() -> Callable[..., tuple[Trainer, Slope]]:
    """Return a training of one weight from 1, by plain SGD at a constant rate of 0.5."""

    def make(steps: int = 6, *, ema: float | None = None, **plan: Any) -> tuple[Trainer, Slope]:
        options = {"momentum": 0.0, "weight_decay": 0.0, "schedule": "constant", "ema": ema}
        config = OptimConfig.model_validate({"lr": 0.5, "batch": 1, "steps": steps, **options})
        module = Slope()
        length = Plan(config, steps, seed=0, log_every=1, **plan)
        return Trainer(module, length, torch.device("cpu")), module

    return make
