"""What the commands share: errors, progress, output, and starting several processes."""

import json
import os
import shlex
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal, NoReturn

import typer
from rich.console import Console
from rich.markup import escape
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    SpinnerColumn,
    TaskID,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)
from typer.core import TyperGroup

from vidssl.errors import Interrupted, RankLostError, VidsslError
from vidssl.progress import REMARK
from vidssl.progress import Progress as Callback

if TYPE_CHECKING:
    from vidssl.train.prove import Proof

out = Console(highlight=False, soft_wrap=True, emoji=False)
err = Console(stderr=True, highlight=False, soft_wrap=True, emoji=False)

RANK_LOST, WRONG_INPUT, TOO_MANY_FAILED, INTERRUPTED, STOPPED = 1, 2, 3, 75, 130
DIFFERS = TOO_MANY_FAILED
"""The input was right, and yet what was promised is not so."""
SHOWN = 20
PLAIN_EVERY_S = 5.0
OTHERS_WAIT_S = 3.0
NO_TEMPORARY = "No usable temporary directory"
"""What Python's ``tempfile`` says, wherever it is that one is needed first."""


def _named(target: str | None) -> str | None:
    """Return where JSON goes, refused before any work is done if that cannot be a file."""
    if target is not None and not Path(target).name:
        raise typer.BadParameter(f"expected the name of a file, or - for stdout, found {target!r}")
    return target


JsonTo = Annotated[
    str | None,
    typer.Option(
        "--json",
        metavar="FILE|-",
        callback=_named,
        help="Write the result as JSON; - is stdout.",
    ),
]
Overrides = Annotated[
    list[str] | None, typer.Option("--set", metavar="KEY=VALUE", help="Change a recipe value.")
]
Steps = Annotated[
    int | None, typer.Option(min=1, help="Train this many steps instead of the recipe's length.")
]
ResumeProve = Annotated[
    int | None,
    typer.Option(
        min=1,
        metavar="N",
        help="Do N steps of the run again, twice, from its oldest checkpoint, and compare them "
        "with each other and with what the run did; change nothing.",
    ),
]
DryRun = Annotated[
    bool,
    typer.Option(
        "--dry-run",
        help="Do a few steps, forecast hours, memory and disk as JSON, and write nothing.",
    ),
]
Autotune = Annotated[
    bool, typer.Option("--autotune", help="Measure, then take the workers and threads that suit.")
]
TensorBoard = Annotated[
    bool, typer.Option("--tensorboard", help="Write OUT/tensorboard too, for TensorBoard.")
]
Gpus = Annotated[int, typer.Option(min=1, help="Processes to start on each machine, one a GPU.")]
Retry = Annotated[bool, typer.Option("--retry", help="Read videos again that failed.")]
MaxRestarts = Annotated[
    int,
    typer.Option(min=0, help="Start all again from the last checkpoint when one process dies."),
]
Slurm = Annotated[
    bool,
    typer.Option(
        "--slurm",
        help="Submit this command as a job of Slurm; with --dry-run, print its file instead.",
        rich_help_panel="Slurm",
    ),
]
Nodes = Annotated[int, typer.Option(min=1, help="Machines of the job.", rich_help_panel="Slurm")]
Partition = Annotated[str | None, typer.Option(help="Where it is to run.", rich_help_panel="Slurm")]
TimeLimit = Annotated[
    str | None,
    typer.Option(
        "--time",
        metavar="MINUTES|HH:MM:SS",
        help="Its limit, at which it saves, goes back into the queue and on from there.",
        rich_help_panel="Slurm",
    ),
]
SlurmOptions = Annotated[
    list[str] | None,
    typer.Option(
        "--slurm-option",
        metavar="KEY=VALUE",
        help="A further option of sbatch, as account=NAME.",
        rich_help_panel="Slurm",
    ),
]

Scales = Annotated[
    str | None,
    typer.Option(
        metavar="PIXELS,...",
        help="Short sides to average scores over. Unless it is said, the recipe's.",
    ),
]
Flip = Annotated[bool, typer.Option("--flip", help="Average over mirrored pictures too.")]
Clips = Annotated[
    int,
    typer.Option(metavar="N", help="Average over N clips about each key frame; an odd number."),
]

Probes = Annotated[
    str,
    typer.Option(
        metavar="NAME,...", help="Of knn, linear, retrieval, few-shot, attentive; by commas."
    ),
]
Neighbours = Annotated[int, typer.Option("--k", min=1, help="Neighbours that vote.")]
Temperature = Annotated[
    float, typer.Option(min=1e-6, help="Votes weigh exp(cosine / temperature).")
]
Views = Annotated[
    str, typer.Option(metavar="CLIPSxCROPS", help="Of each video; their mean counts.")
]
ShortSide = Annotated[
    int | None, typer.Option(min=8, help="Of the pictures before they are cut, pixels.")
]
Crop = Annotated[
    int | None, typer.Option(min=8, help="Side of the square that is cut from them, pixels.")
]
Centre = Annotated[
    bool, typer.Option("--centre/--no-centre", help="Retrieval: subtract each set's mean.")
]
Group = Annotated[
    str | None,
    typer.Option(
        metavar="REGEX", help="Its first group, in a video's name, says which film a clip is from."
    ),
]
FeatureCache = Annotated[
    Path | None,
    typer.Option(file_okay=False, help="Folder of features; probe beside the encoder otherwise."),
]
FeaturePrecision = Annotated[
    Literal["fp32", "bf16", "fp16"], typer.Option(help="To compute features in.")
]
ClipsAtOnce = Annotated[int, typer.Option(min=1, help="Clips that are encoded at once.")]
Decoders = Annotated[
    int | None, typer.Option(min=0, help="Processes that decode; as many as cores.")
]

TimeOrigin = Annotated[
    str,
    typer.Option(
        metavar="auto|SECONDS|CSV",
        help="The annotations' time at which a video begins: 0 for films, 900 for AVA's cuts; "
        "or a csv of video and second.",
    ),
]


@contextmanager
def user_errors() -> Iterator[None]:
    """Turn what a person can cause into one message and an exit code; leave bugs as they are."""
    try:
        yield
    except VidsslError as error:
        if not is_first():
            time.sleep(OTHERS_WAIT_S)  # the first, if it fails too, has told of it by then
        err.print(f"[bold red]error:[/] {escape(printable(str(error)))}")
        raise typer.Exit(WRONG_INPUT) from error
    except Interrupted as error:
        err.print(f"{escape(printable(str(error)))}; the same command goes on from there")
        raise typer.Exit(INTERRUPTED) from error
    except RankLostError as error:
        told = escape(printable(str(error)))
        err.print(f"[bold red]error:[/] {told}; the same command goes on from the last checkpoint")
        raise typer.Exit(RANK_LOST) from error
    except KeyboardInterrupt as error:
        err.print("stopped; the same command goes on from what was kept, or starts again")
        raise typer.Exit(STOPPED) from error


class Program(TyperGroup):
    """The commands, which a machine without a temporary folder cannot run.

    Whatever needs one first, if only an import of torch, ends with the same message.
    """

    def invoke(self, ctx: Any) -> Any:
        """Run a command."""
        try:
            return super().invoke(ctx)
        except FileNotFoundError as error:
            if NO_TEMPORARY not in str(error):
                raise
            told = escape(printable(error.strerror or str(error)))
            err.print(f"[bold red]error:[/] {told}; set TMPDIR to a folder that can be written")
            raise typer.Exit(WRONG_INPUT) from error


def printable(text: str) -> str:
    """Return text whose control characters, as in a file name, cannot steer the terminal."""
    return "".join(c if c.isprintable() or c == "\n" else repr(c)[1:-1] for c in text)


@contextmanager
def progress() -> Iterator[Callback]:
    """Give a progress callback: bars on a terminal, a plain line now and then elsewhere."""
    if not err.is_terminal:
        yield _plain()
        return
    columns = (
        SpinnerColumn(),
        TextColumn("{task.description}", markup=False),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TextColumn("left"),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=err) as bars:
        yield _bars(bars)


def _bars(bars: Progress) -> Callback:
    """Return a callback with a bar for each piece of work; what follows a comma may change."""
    tasks: dict[str, TaskID] = {}

    def show(what: str, done: int, total: int) -> None:
        if total == REMARK:
            bars.console.print(printable(what), markup=False)
            return
        piece = what.partition(",")[0]
        if piece not in tasks:
            tasks[piece] = bars.add_task(what, total=total or None)
        bars.update(tasks[piece], description=what, completed=done, total=total or None)

    return show


def _plain() -> Callback:
    told: dict[str, float] = {}

    def show(what: str, done: int, total: int) -> None:
        piece, now = what.partition(",")[0], time.monotonic()
        if total == REMARK:
            err.print(printable(what), markup=False)
        elif done == total or now - told.get(piece, 0.0) > PLAIN_EVERY_S:
            told[piece] = now
            err.print(f"{what}: {done}/{total}" if total else f"{what}: {done}", markup=False)

    return show


def write_json(value: Any, target: str) -> None:
    """Write a result for machines: to stdout for ``-``, else to the file, whole or not at all.

    Of several processes the first alone does.
    """
    from vidssl.files import write_text

    if not is_first():
        return
    text = json.dumps(value, indent=1, default=str) + "\n"
    if target == "-":
        sys.stdout.write(text)
    else:
        write_text(Path(target), text)


def check_json(target: str | None, made: Path) -> None:
    """Refuse to write JSON over what the command makes.

    Raises:
        OutputError: if both bear one name.
    """
    from vidssl.errors import OutputError

    if target not in {None, "-"} and os.path.realpath(str(target)) == os.path.realpath(made):
        raise OutputError(f"{made}: is named by --out and by --json; choose another name for one")


def say(line: str) -> None:
    """Print one line of the result, as it is; of several processes the first alone does."""
    if is_first():
        out.print(printable(line), markup=False)


def warn(warnings: list[str]) -> None:
    """Tell on stderr what a person should know before going on."""
    for words in warnings:
        err.print(f"[bold yellow]warning:[/] {escape(printable(words))}")


def say_origins(found: "list[dict[str, object]]") -> None:
    """Tell from where the times of videos were counted, and why, unless all are own data."""
    from vidssl.ava.origins import is_worth_telling, told

    if is_worth_telling(found):
        say(told(found))


def say_proof(proof: "Proof", json_to: str | None) -> None:
    """Tell whether steps done again were the same, and end with an exit code of its own if not."""
    from dataclasses import asdict

    if json_to is not None:
        write_json(asdict(proof), json_to)
    if json_to != "-":
        steps = f"{proof.checkpoint.name}: steps {proof.first} to {proof.last - 1}, done twice"
        passed = f" and {len(proof.checkpoints)} later checkpoints" if proof.checkpoints else ""
        compared = f"compared with {proof.logged} logged steps{passed}"
        verdict = f"{len(proof.differences)} differences" if proof.differences else "all equal"
        say(f"{steps}, {compared}: {verdict}")
    for difference in proof.differences[:SHOWN]:
        err.print(f"[bold red]{escape(printable(difference))}[/]")
    if proof.differences:
        raise typer.Exit(DIFFERS)


def too_many_failed(failed: int, expected: int, what: str, allowed: float) -> NoReturn:
    """Say that a score stands on less than it should, and end with an exit code of its own."""
    err.print(f"[bold red]{failed} of {expected} {what} failed, more than {allowed:.2%}[/]")
    raise typer.Exit(TOO_MANY_FAILED)


def length(overrides: list[str] | None, steps: int | None) -> list[str]:
    """Return the overrides with a length in steps in place of the recipe's."""
    own = list(overrides or ())
    return own if steps is None else [*own, f"optim.steps={steps}", "optim.epochs=null"]


def start_processes(count: int, device: str, restarts: int = 0) -> None:
    """Run this command as ``count`` processes, in place of this one, if that was asked for.

    ``device`` is the recipe's. ``restarts`` is how often all start again when one dies.
    """
    if (count == 1 and not restarts) or "WORLD_SIZE" in os.environ:
        return
    from ._launch import launch

    raise typer.Exit(launch(__package__ or "", sys.argv[1:], count, device, restarts))


def given(ctx: typer.Context) -> dict[str, Any]:
    """Return the options that were given, though it be their usual value, and their values."""
    found = {}
    for parameter in ctx.command.params:
        source = ctx.get_parameter_source(parameter.name or "")
        if parameter.param_type_name == "option" and source and source.name == "COMMANDLINE":
            value = ctx.params[parameter.name or ""]
            names = parameter.secondary_opts if value is False else parameter.opts
            found[next(name for name in names if name.startswith("--"))] = value
    return found


def command(ctx: typer.Context) -> str:
    """Return the command as it was given, for a shell: its arguments, then its options.

    Of addresses what may be secret is left out.
    """
    from vidssl.video.storage import shown

    arguments = [p.name or "" for p in ctx.command.params if p.param_type_name == "argument"]
    words = ["vidssl", str(ctx.info_name), *(str(ctx.params[name]) for name in arguments)]
    for option, value in given(ctx).items():
        if isinstance(value, bool):
            words.append(option)
            continue
        for one in value if isinstance(value, list | tuple) else [value]:
            words += [option, str(one)]
    return shlex.join(shown(word) if "://" in word else word for word in words)


def is_first() -> bool:
    """Whether this process is the one of several, if there are several, that tells the result."""
    return os.environ.get("RANK", "0") == "0"
