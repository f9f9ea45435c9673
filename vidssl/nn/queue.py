"""A queue of earlier keys, kept as negatives.

Tensor suffixes: N rows that enter together, D projected features, K rows of the queue.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class Queue(nn.Module):
    """The last K rows, on unit length; part of every checkpoint.

    He et al., CVPR 2020, https://arxiv.org/abs/1911.05722, section 3.2. Random rows at first. K
    need not be a multiple of what enters at a time.
    """

    rows: Tensor  # (K, D)
    born: Tensor  # (K,)
    pointer: Tensor
    steps: Tensor

    def __init__(self, length: int, dim: int) -> None:
        """Fill the queue with random directions."""
        super().__init__()
        self.register_buffer("rows", F.normalize(torch.randn(length, dim), dim=1))
        self.register_buffer("born", torch.zeros(length, dtype=torch.long))
        self.register_buffer("pointer", torch.zeros((), dtype=torch.long))
        self.register_buffer("steps", torch.zeros((), dtype=torch.long))

    def __len__(self) -> int:
        """Return K."""
        return len(self.rows)

    @torch.no_grad()
    def enter(self, keys_ND: Tensor) -> None:
        """Overwrite the oldest rows, going round at the end; of too many keys the last stay."""
        length = len(self.rows)
        self.steps.add_(1)
        keys_ND = keys_ND[-length:].to(self.rows.dtype)
        places = (self.pointer + torch.arange(len(keys_ND), device=keys_ND.device)) % length
        self.rows[places] = keys_ND
        self.born[places] = self.steps
        self.pointer.copy_((self.pointer + len(keys_ND)) % length)

    def age(self) -> Tensor:
        """Return how many entries ago the rows were made, on average; 1 for the newest."""
        return (self.steps + 1 - self.born).float().mean()
