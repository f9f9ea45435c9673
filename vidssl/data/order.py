"""The order of training samples: a pure function of the seed, so that a resume is exact.

A run draws positions 0, 1, 2, ... without end; epoch e covers positions e * n to (e + 1) * n - 1,
each in its own permutation. Step s of a global batch of B takes positions s * B to (s + 1) * B - 1,
and rank r of R takes every R-th of them, so the global batch does not depend on R.
"""

import math
from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True)
class Order:
    """The endless shuffled order over ``length`` samples."""

    length: int
    seed: int

    def __post_init__(self) -> None:
        """Refuse an empty order."""
        if self.length < 1:
            raise ValueError(f"an order needs at least 1 sample, got {self.length}")

    def at(self, position: int, attempt: int = 0) -> tuple[int, int]:
        """Return (epoch, sample) at a position, or what takes its place after failed attempts.

        Attempts stride through the epoch, so that the one in the place of a broken sample is not
        among its neighbours in the batch; all samples are met once before any is met again.
        """
        epoch, place = divmod(position, self.length)
        order = _permutation(self.length, self.seed, epoch)
        return epoch, int(order[(place + attempt * _stride(self.length)) % self.length])


@lru_cache(maxsize=8)
def _stride(length: int) -> int:
    """Return a step of about 0.382 of the length that shares no divisor with it."""
    stride = max(1, round(length * 0.381966))
    while math.gcd(stride, length) > 1:
        stride += 1
    return stride


@lru_cache(maxsize=2)
def _permutation(length: int, seed: int, epoch: int) -> NDArray[np.int64]:
    return rng_for(seed, epoch, -1).permutation(length)


def rng_for(seed: int, epoch: int, index: int) -> np.random.Generator:
    """Return the generator that makes every random choice for one sample of one epoch."""
    return np.random.default_rng(np.random.SeedSequence([seed, epoch, index + 1]))


@dataclass(frozen=True)
class StepBatches:
    """A batch sampler for one rank: positions for the steps ``first`` to ``last - 1``."""

    global_batch: int
    first: int
    last: int
    rank: int = 0
    world: int = 1

    def __post_init__(self) -> None:
        """Refuse a global batch that cannot be shared out equally."""
        if self.global_batch % self.world:
            raise ValueError(f"a batch of {self.global_batch} cannot be split over {self.world}")

    def __len__(self) -> int:
        """Return the number of steps."""
        return max(0, self.last - self.first)

    def __iter__(self) -> Iterator[list[int]]:
        """Give the positions of each step."""
        for step in range(self.first, self.last):
            start = step * self.global_batch
            yield list(range(start + self.rank, start + self.global_batch, self.world))
