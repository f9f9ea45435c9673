"""What a bank says of itself: ``bank.json``, and the ``shard-NNNNN.json`` of each finished shard.

``bank.json`` exists from the start, with ``complete: false`` and the plan (which videos go into
which shard); its last version adds row counts and checksums and says ``complete: true``.
"""

import json
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal, cast, get_args

from vidssl.errors import BankError
from vidssl.files import sha256, write_text

FORMAT_VERSION = 1
Kind = Literal["box", "clip", "grid"]
"""What a row is: a box of a person, a whole clip, or one of equal cells of it."""
DTYPE = "float16"
BANK_JSON = "bank.json"


@dataclass(frozen=True)
class BankIdentity:
    """What made the rows: two banks may be continued or exchanged only if all of this is equal.

    ``details`` is free: the recipe, the decoder, a hash of the videos and boxes. It is kept as JSON
    keeps it (a tuple becomes a list).

    Raises:
        ValueError: if ``details`` holds something that JSON cannot keep.
    """

    encoder_hash: str
    details: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        """Pass the details through JSON, so that written and unwritten identities compare equal."""
        try:
            plain = json.loads(json.dumps(dict(self.details), allow_nan=False))
        except TypeError as error:
            raise ValueError(f"a bank's identity must be plain JSON: {error}") from error
        object.__setattr__(self, "details", plain)


@dataclass(frozen=True)
class ShardRecord:
    """One finished shard: how many rows, and the SHA-256 of its two files.

    ``failed_keyframes`` counts those that belong into it and could not be read; ``made_of`` hashes
    the videos' files as they were then, and is empty if nobody said it.
    """

    rows: int
    npy_sha256: str
    parquet_sha256: str
    failed_keyframes: int = 0
    made_of: str = ""

    def as_json(self) -> dict[str, Any]:
        """Return the record as it stands in a file; what was not said does not."""
        return {key: value for key, value in asdict(self).items() if key != "made_of" or value}

    def problems(self, folder: Path, name: str) -> list[str]:
        """Return what is wrong with the shard's files, by checksum; empty if nothing is."""
        expected = {f"{name}.npy": self.npy_sha256, f"{name}.parquet": self.parquet_sha256}
        found = []
        for file, checksum in expected.items():
            if not (folder / file).is_file():
                found.append(f"{file}: missing")
            elif sha256(folder / file) != checksum:
                found.append(f"{file}: its bytes do not match the checksum taken when written")
        return found


@dataclass(frozen=True)
class Manifest:
    """The whole of ``bank.json``; ``records`` is empty until the bank is complete.

    ``plan`` holds the videos of each shard.
    """

    dim: int
    identity: BankIdentity
    plan: tuple[tuple[str, ...], ...]
    records: tuple[ShardRecord, ...] = ()
    complete: bool = False
    kind: Kind = "box"

    def differences(self, other: "Manifest") -> list[str]:
        """Return one line for each thing in which the two banks' contents cannot be the same."""
        here, there = (dict(flatten("", bank.described())) for bank in (self, other))
        keys = sorted({*here, *there})
        lines = [
            f"{key}: found {there.get(key, 'nothing')!r}, expected {here.get(key, 'nothing')!r}"
            for key in keys
            if here.get(key) != there.get(key) or (key in here) != (key in there)
        ]
        return lines or self._plan_differences(other)

    def described(self) -> dict[str, Any]:
        """Return what decides the values of the rows, as it stands in the file."""
        return {
            "format_version": FORMAT_VERSION,
            "kind": self.kind,
            "dim": self.dim,
            "dtype": DTYPE,
            "encoder_hash": self.identity.encoder_hash,
            "identity": dict(self.identity.details),
        }

    def _plan_differences(self, other: "Manifest") -> list[str]:
        if self.plan == other.plan:
            return []
        here = {video for videos in self.plan for video in videos}
        there = {video for videos in other.plan for video in videos}
        for extra, where in ((there - here, "found"), (here - there, "expected")):
            if extra:
                return [f"videos: {len(extra)} only {where}, such as {min(extra)!r}"]
        return ["videos: the same, but divided otherwise into shards"]

    def write(self, folder: Path) -> None:
        """Write ``bank.json``, whole or not at all."""
        shards: list[dict[str, Any]] = [
            {"name": shard_name(index), "videos": list(videos)}
            for index, videos in enumerate(self.plan)
        ]
        for shard, record in zip(shards, self.records, strict=False):
            shard.update(record.as_json())
        write_json(
            folder / BANK_JSON, {**self.described(), "complete": self.complete, "shards": shards}
        )

    @classmethod
    def read(cls, folder: Path) -> "Manifest":
        """Return what ``bank.json`` says.

        Raises:
            BankError: if it is absent, is no bank's, or is of a version that is not known here.
        """
        path = folder / BANK_JSON
        content = read_json(path)
        version = content.get("format_version")
        if version != FORMAT_VERSION:
            raise BankError(f"{path}: expected format_version {FORMAT_VERSION}, found {version!r}")
        if content.get("dtype") != DTYPE:
            raise BankError(f"{path}: expected dtype {DTYPE!r}, found {content.get('dtype')!r}")
        kind = content.get("kind")
        if kind not in get_args(Kind):
            kinds = " or ".join(get_args(Kind))
            raise BankError(f"{path}: expected kind {kinds}, found {kind!r}")
        try:
            complete, shards = bool(content["complete"]), list(content["shards"])
            return cls(
                dim=int(content["dim"]),
                identity=BankIdentity(str(content["encoder_hash"]), content["identity"]),
                plan=tuple(tuple(shard["videos"]) for shard in shards),
                records=tuple(map(record_of, shards)) if complete else (),
                complete=complete,
                kind=cast(Kind, kind),
            )
        except (KeyError, TypeError, ValueError, OverflowError) as error:
            raise BankError(f"{path}: not a feature bank's manifest ({error!r})") from error


def shard_name(index: int) -> str:
    """Return the stem of a shard's files."""
    return f"shard-{index:05d}"


def record_of(content: Mapping[str, Any]) -> ShardRecord:
    """Return the record in a shard's JSON object."""
    return ShardRecord(
        rows=int(content["rows"]),
        npy_sha256=str(content["npy_sha256"]),
        parquet_sha256=str(content["parquet_sha256"]),
        failed_keyframes=int(content.get("failed_keyframes", 0)),
        made_of=str(content.get("made_of", "")),
    )


def read_record(folder: Path, index: int) -> ShardRecord | None:
    """Return the record of a finished shard, or None if there is none that can be read."""
    try:
        return record_of(read_json(folder / f"{shard_name(index)}.json"))
    except (BankError, KeyError, TypeError, ValueError):
        return None


def write_json(path: Path, content: Mapping[str, Any]) -> None:
    """Write an object, whole or not at all; equal objects give equal bytes."""
    write_text(path, json.dumps(content, indent=1, sort_keys=True, allow_nan=False) + "\n")


def read_json(path: Path) -> dict[str, Any]:
    """Return the object in a file.

    Raises:
        BankError: if the file is absent or holds no JSON object.
    """
    if not path.is_file():
        raise BankError(f"{path.parent}: not a feature bank (it holds no {path.name})")
    try:
        content = json.loads(path.read_bytes())
    except ValueError as error:
        raise BankError(f"{path}: not valid JSON ({error})") from error
    if not isinstance(content, dict):
        raise BankError(f"{path}: expected a JSON object, found {type(content).__name__}")
    return content


def flatten(prefix: str, value: object) -> Iterator[tuple[str, object]]:
    """Give (dotted key, leaf) of nested dictionaries; a list or an empty dictionary is a leaf."""
    if isinstance(value, dict) and value:
        for key, inner in value.items():
            yield from flatten(f"{prefix}.{key}" if prefix else str(key), inner)
    else:
        yield prefix, value
