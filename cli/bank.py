"""``vidssl bank``."""

from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from . import _common

if TYPE_CHECKING:
    from vidssl.jobs.bank import Info

app = typer.Typer(
    help="Feature banks: look at one, verify it, merge the parts of one, export it.",
    no_args_is_help=True,
)
Folder = Annotated[Path, typer.Argument(help="Folder of the bank.", metavar="BANK")]


@app.command()
def info(bank: Folder, json_to: _common.JsonTo = None) -> None:
    """Say what a bank holds and what made it; also of one that is not finished."""
    from vidssl.jobs import bank as job

    with _common.user_errors():
        found = job.info(bank)
        _tell(found, json_to)
    if json_to != "-":
        for key, value in _flat("", found.made_by).items():
            _common.say(f"  {key}: {value}")


@app.command()
def verify(bank: Folder, json_to: _common.JsonTo = None) -> None:
    """Read every byte of a bank and hold it against the checksums taken when it was written."""
    from vidssl.jobs import bank as job

    with _common.user_errors():
        _tell(job.verify(bank), json_to)
    if json_to != "-":
        _common.say("every byte is as it was written")


@app.command()
def merge(
    parts: Annotated[
        list[Path], typer.Argument(help="Folders that one extraction filled in parts.")
    ],
    out: Annotated[Path, typer.Option("--out", "-o", file_okay=False, help="Folder of the bank.")],
    json_to: _common.JsonTo = None,
) -> None:
    """Put the parts of one bank together, in any order to the same bytes.

    Parts come from `vidssl extract-features --part K/N`.
    """
    from vidssl.jobs import bank as job

    with _common.user_errors():
        _tell(job.merge(parts, out), json_to)


@app.command()
def export(
    bank: Folder,
    out: Annotated[Path, typer.Option("--out", "-o", dir_okay=False, help=".parquet or .npz")],
    json_to: _common.JsonTo = None,
) -> None:
    """Write a bank as one file that needs no vidssl: Parquet or npz, by the name's ending."""
    from vidssl.jobs import bank as job

    with _common.user_errors():
        found = job.export(bank, out)
        _tell(found, json_to)
    if json_to != "-":
        _common.say(f"{out}: {found.rows} rows")


def _tell(found: "Info", json_to: str | None) -> None:
    if json_to is not None:
        _common.write_json(asdict(found), json_to)
    if json_to == "-":
        return
    state = "complete" if found.complete else f"{found.finished} of {found.shards} shards so far"
    _common.say(
        f"{found.bank}: {found.rows} {found.kind} features of {found.dim} numbers from "
        f"{found.videos} videos, {found.bytes / 2**20:.1f} MiB, {state}"
    )
    _common.say(f"encoder {found.encoder_hash}; {found.failed_keyframes} key frames failed")


def _flat(prefix: str, value: object) -> dict[str, object]:
    if not isinstance(value, dict):
        return {prefix: value}
    found: dict[str, object] = {}
    for key, inner in value.items():
        found |= _flat(f"{prefix}.{key}" if prefix else str(key), inner)
    return found
