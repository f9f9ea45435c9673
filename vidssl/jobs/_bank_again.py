"""Another try at what failed when a bank was made: its shards with failures, and absent videos."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from vidssl.errors import BankError, listed
from vidssl.features.manifest import BANK_JSON, Manifest, read_record, shard_name

VIDEOS = "videos"
"""Of a bank's identity, what another try may change: the hash of the videos' files."""
Plan = Sequence[Sequence[str]]


def planned(out: Path, names: Sequence[str], size: int) -> Plan:
    """Return the videos of each shard: those of the bank in ``out`` if it is of the same videos.

    Otherwise ``size`` at a time in their order; after another try at some the two may differ.
    """
    if (out / BANK_JSON).is_file():
        there = Manifest.read(out).plan
        if sorted(video for videos in there for video in videos) == list(names):
            return there
    return _divided(names, size)


def reopen(
    out: Path,
    wanted: Manifest,
    size: int,
    made_of: Callable[[Sequence[str]], str],
    reasons: Mapping[str, str],
) -> None:
    """Have the bank in ``out`` lack what failed, so that it is written; do nothing without a bank.

    ``wanted`` is the bank as it is to be. What ``out`` holds keeps its shards; videos that it does
    not have come behind them, ``size`` at a time. Shards with failed key frames go, and if files
    have changed those for which ``made_of`` does not give what it gave then. Stopped anywhere, the
    same call does the rest. A bank that was made in another way is left to whoever opens it.

    Raises:
        BankError: if a video of the bank cannot be used any more, with ``reasons``.
    """
    if not (out / BANK_JSON).is_file():
        return
    there = Manifest.read(out)
    then = there.identity.details.get(VIDEOS)
    if _without(VIDEOS, wanted) != _without(VIDEOS, there):
        return
    names = [video for videos in wanted.plan for video in videos]
    known = {video for videos in there.plan for video in videos}
    if gone := sorted(known.difference(names)):
        title = (
            f"{out}: holds videos that cannot be used now; mend them, or remove that folder to "
            "have the bank made without them"
        )
        raise BankError(listed(title, [f"{v}: {reasons.get(v, 'no such video')}" for v in gone]))
    new = _divided([name for name in names if name not in known], size)
    is_other = bool(new) or then != wanted.identity.details.get(VIDEOS)
    doubtful = []
    for index, videos in enumerate(there.plan):
        record = read_record(out, index)
        if record is None:
            continue
        if record.failed_keyframes or (is_other and record.made_of != made_of(videos)):
            doubtful.append(index)
    for index in doubtful:
        (out / f"{shard_name(index)}.json").unlink(missing_ok=True)
    if is_other or doubtful:  # last: by the identity of then it is known which files have changed
        replace(wanted, plan=(*there.plan, *new), records=(), complete=False).write(out)


def _divided(names: Sequence[str], size: int) -> tuple[tuple[str, ...], ...]:
    return tuple(tuple(names[first : first + size]) for first in range(0, len(names), size))


def _without(key: str, manifest: Manifest) -> dict[str, Any]:
    """Return what decides a bank's rows but for one of its details."""
    found = manifest.described()
    details = {name: value for name, value in found["identity"].items() if name != key}
    return {**found, "identity": details}
