"""A bank as one file that needs no vidssl: Parquet, or numpy's npz.

Array suffixes: N rows, D features.
"""

import os
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from vidssl.errors import BankError, OutputError, nearest
from vidssl.features.bank import Bank
from vidssl.features.rows import SCHEMA
from vidssl.files import replacing

COLUMNS = [name for name in SCHEMA.names if name != "row"]


def as_parquet(bank: Bank, path: Path) -> None:
    """Write video, second, x1, y1, x2, y2, score and ``feature``, D halves a row; shard by shard.

    Raises:
        OutputError: if it cannot be written.
    """
    feature = pa.field("feature", pa.list_(pa.float16(), bank.dim))
    schema = pa.schema([*(SCHEMA.field(name) for name in COLUMNS), feature])
    with replacing(path) as aside, pq.ParquetWriter(aside, schema, compression="zstd") as writer:
        for table, features_ND in bank.shards():
            values = pa.array(np.asarray(features_ND).reshape(-1), pa.float16())
            column = pa.FixedSizeListArray.from_arrays(values, bank.dim)
            writer.write_table(table.select(COLUMNS).append_column(feature, column).cast(schema))


def as_npz(bank: Bank, path: Path) -> None:
    """Write the arrays ``video`` ``(N,)``, ``second``, ``box`` ``(N, 4)``, ``score``, ``feature``.

    ``feature`` is ``(N, D)``, float16, all of it in memory while it is written.

    Raises:
        OutputError: if it cannot be written.
    """
    tables, features = [], [np.zeros((0, bank.dim), np.float16)]
    for table, features_ND in bank.shards():
        tables.append(table)
        features.append(features_ND)
    rows = pa.concat_tables(tables) if tables else SCHEMA.empty_table()
    box = [rows[name].to_numpy() for name in ("x1", "y1", "x2", "y2")]
    with replacing(path) as aside, aside.open("wb") as file:  # given a name, numpy would add .npz
        np.savez(
            file,
            video=np.array(rows["video"].to_pylist(), dtype=np.str_),
            second=rows["second"].to_numpy(),
            box=np.stack(box, axis=1),
            score=rows["score"].to_numpy(),
            feature=np.concatenate(features),
        )


FORMATS: dict[str, Callable[[Bank, Path], None]] = {".parquet": as_parquet, ".npz": as_npz}


def export(bank: Bank, path: Path) -> None:
    """Write the bank to ``path``, whose suffix says how.

    Raises:
        BankError: if the suffix is of no format, or the file would be one of the bank's folder.
        OutputError: if it is there already, or cannot be written.
    """
    if path.suffix not in FORMATS:
        known = " or ".join(FORMATS)
        raise BankError(
            f"{path}: expected a name that ends in {known}{nearest(path.suffix, FORMATS)}"
        )
    if path.absolute().parent.resolve() == bank.folder.resolve():
        raise BankError(f"{path}: is in the bank's own folder, which holds nothing but the bank")
    if os.path.lexists(path):
        raise OutputError(f"{path}: is there already; choose another name for --out")
    FORMATS[path.suffix](bank, path)
