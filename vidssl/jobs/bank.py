"""``vidssl bank``: what a feature bank holds, whether it is whole; parts merged, other formats."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from vidssl.errors import BankError, listed
from vidssl.features import Bank
from vidssl.features import export as formats
from vidssl.features import merge as parts_of
from vidssl.features.manifest import Manifest, read_record, shard_name


@dataclass(frozen=True)
class Info:
    """What a bank's folder holds; ``shards`` are planned, of which ``finished`` are there.

    ``failed_keyframes`` could not be read. ``made_by`` is what decides the values of the rows.
    """

    bank: Path
    complete: bool
    kind: str
    rows: int
    dim: int
    videos: int
    shards: int
    finished: int
    failed_keyframes: int
    bytes: int
    encoder_hash: str
    made_by: dict[str, Any]


def info(folder: Path) -> Info:
    """Tell of a bank, or of one under way; no feature is read.

    Raises:
        BankError: if there is none.
    """
    manifest = Manifest.read(folder)
    found = [read_record(folder, index) for index in range(len(manifest.plan))]
    records = [record for record in found if record is not None]
    names = [shard_name(index) for index, record in enumerate(found) if record is not None]
    files = [folder / f"{name}.{suffix}" for name in names for suffix in parts_of.SUFFIXES]
    return Info(
        bank=folder,
        complete=manifest.complete,
        kind=manifest.kind,
        rows=sum(record.rows for record in records),
        dim=manifest.dim,
        videos=sum(map(len, manifest.plan)),
        shards=len(manifest.plan),
        finished=len(records),
        failed_keyframes=sum(record.failed_keyframes for record in records),
        bytes=sum(file.stat().st_size for file in files if file.is_file()),
        encoder_hash=manifest.identity.encoder_hash,
        made_by=dict(manifest.identity.details),
    )


def verify(folder: Path) -> Info:
    """Read every byte of a bank.

    Raises:
        BankError: if it is not complete, or with everything that is damaged.
    """
    if problems := Bank.open(folder).verify():
        title = f"{folder} is damaged; the same extraction makes the damaged shards again"
        raise BankError(listed(title, problems))
    return info(folder)


def merge(parts: Sequence[Path], out: Path) -> Info:
    """Put parts of one extraction together.

    Raises:
        BankError, OutputError: as :func:`vidssl.features.merge.merge`.
    """
    parts_of.merge(parts, out)
    return info(out)


def export(folder: Path, out: Path) -> Info:
    """Write a bank as one file.

    Raises:
        BankError, OutputError: as :func:`vidssl.features.export.export`.
    """
    formats.export(Bank.open(folder), out)
    return info(folder)
