"""The long-term feature bank on disk: what each box of each second of a video looked like.

A folder: ``bank.json`` (what made it, which videos, checksums) and for each shard the features in
``shard-NNNNN.npy`` (float16, mapped), the rows they belong to in ``shard-NNNNN.parquet`` (video,
second, x1, y1, x2, y2, score, row) and ``shard-NNNNN.json``, written last, which vouches for both.

Wu et al., "Long-Term Feature Banks for Detailed Video Understanding", CVPR 2019,
https://arxiv.org/abs/1812.05038. Theirs is one pickle of float32 in memory; half precision and the
layout on disk are ours.
"""

from vidssl.features.bank import Bank
from vidssl.features.manifest import BankIdentity
from vidssl.features.rows import BankRows
from vidssl.features.window import Window, WindowConfig
from vidssl.features.writer import BankWriter

__all__ = ["Bank", "BankIdentity", "BankRows", "BankWriter", "Window", "WindowConfig"]
