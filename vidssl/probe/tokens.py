"""Tokens of many videos, in files: what is asked for is read, and the rest stays on the disk.

Array suffixes: N videos, B videos of a batch, L tokens of a video, F features.
"""

from collections import OrderedDict
from collections.abc import Sequence
from pathlib import Path
from typing import final

import numpy as np
from numpy.typing import NDArray

MAPS_KEPT = 32
"""Each holds a file descriptor, of which a process has about a thousand."""


@final
class StoredTokens:
    """Tokens ``(N, L, F)`` in ``.npy`` files of rows ``(any, F)``, L rows in a row for a video.

    Indexing with numbers gives an array, as of a whole array; only these videos are read then.
    """

    def __init__(
        self,
        files: Sequence[Path],
        file_N: NDArray[np.int64],
        first_N: NDArray[np.int64],
        *,
        tokens: int,
        features: int,
    ) -> None:
        """Take which file each video is in, and the first of its rows there.

        Raises:
            ValueError: if these are not of the same videos.
        """
        if file_N.shape != first_N.shape or file_N.ndim != 1:
            raise ValueError(f"expected (N,) twice, got {file_N.shape} and {first_N.shape}")
        self.files, self.file_N, self.first_N = tuple(files), file_N, first_N
        self.shape = (len(file_N), tokens, features)
        self._maps: OrderedDict[int, NDArray[np.floating]] = OrderedDict()

    @property
    def ndim(self) -> int:
        """3, as of a whole array."""
        return len(self.shape)

    def __len__(self) -> int:
        """Return N."""
        return self.shape[0]

    def __getitem__(self, number_B: NDArray[np.int64]) -> NDArray[np.floating]:
        """Return the tokens of some videos, ``(B, L, F)``."""
        _, tokens, features = self.shape
        parts = [np.zeros((0, tokens, features), np.float16)]
        for number in number_B.tolist():
            first = int(self.first_N[number])
            parts.append(self._rows(int(self.file_N[number]))[first : first + tokens][None])
        return np.concatenate(parts)

    def of(self, number_B: NDArray[np.int64]) -> "StoredTokens":
        """Return some of the videos, not yet read."""
        return StoredTokens(
            *(self.files, self.file_N[number_B], self.first_N[number_B]),
            tokens=self.shape[1],
            features=self.shape[2],
        )

    def _rows(self, file: int) -> NDArray[np.floating]:
        if file not in self._maps:
            self._maps[file] = np.load(self.files[file], mmap_mode="r")
            if len(self._maps) > MAPS_KEPT:
                self._maps.popitem(last=False)
        self._maps.move_to_end(file)
        return self._maps[file]
