"""Parts of one bank, made in several folders, put together: in any order the same bytes.

Parts are what several machines wrote of one extraction: each folder has the whole plan and some of
its shards. Shards are taken over as they are, so a merged bank has the bytes of one that was made
in one place.
"""

import shutil
from collections.abc import Sequence
from pathlib import Path

from vidssl.errors import BankError, listed
from vidssl.features.bank import Bank
from vidssl.features.manifest import Manifest, ShardRecord, read_record, shard_name, write_json
from vidssl.features.writer import BankWriter
from vidssl.files import replacing

SUFFIXES = ("npy", "parquet")


def merge(parts: Sequence[Path], folder: Path) -> Bank:
    """Put the shards of ``parts`` together in ``folder``, which is made if absent.

    A shard that several parts hold must have the same bytes in all of them. A merge that was
    stopped is finished by the same call.

    Raises:
        BankError: if the parts are not of one extraction, a shard differs between them, or one is
            missing or damaged in all.
        OutputError: if ``folder`` holds anything else.
        ValueError: if there are no parts.
    """
    if not parts:
        raise ValueError("nothing to merge")
    manifests = [Manifest.read(part) for part in parts]
    first = manifests[0]
    for part, manifest in zip(parts, manifests, strict=True):
        if found := first.differences(manifest):
            raise BankError(listed(f"{part} is of another bank than {parts[0]}", found))
    chosen = _chosen(parts, len(first.plan))
    writer = BankWriter(
        folder, dim=first.dim, identity=first.identity, plan=first.plan, kind=first.kind
    )
    for index in writer.missing():
        part, record = chosen[index]
        name = shard_name(index)
        for suffix in SUFFIXES:
            with replacing(folder / f"{name}.{suffix}") as aside:
                shutil.copyfile(part / f"{name}.{suffix}", aside)
        write_json(folder / f"{name}.json", {"name": name, **record.as_json()})
    return writer.close()


def _chosen(parts: Sequence[Path], shards: int) -> list[tuple[Path, ShardRecord]]:
    """Return, for each shard, a part that has it whole, and its record."""
    found: list[tuple[Path, ShardRecord]] = []
    lost: list[str] = []
    differ: list[str] = []
    for index in range(shards):
        name = shard_name(index)
        records = [(part, read_record(part, index)) for part in parts]
        there = [(part, record) for part, record in records if record is not None]
        for part, record in there[1:]:
            if record != there[0][1]:
                differ.append(f"{name}: {part} and {there[0][0]} hold different rows")
        damage = {part: record.problems(part, name) for part, record in there}
        whole = [(part, record) for part, record in there if not damage[part]]
        if whole:
            found.append(whole[0])
        else:
            words = [f"{part / problem}" for part, all_ in damage.items() for problem in all_]
            lost.append("; ".join(words) or f"{name}: in none of the parts")
    if differ:
        raise BankError(listed("the parts contradict each other", differ))
    if lost:
        raise BankError(listed("the parts do not make a whole bank; extract what is missing", lost))
    return found
