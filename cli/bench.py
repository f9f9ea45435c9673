"""``vidssl bench``."""

from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from . import _common

if TYPE_CHECKING:
    from vidssl.jobs.bench import Measurement

app = typer.Typer(
    help="Measure this machine: two sides timed in turn, the ratio of their medians, the limit.",
    no_args_is_help=True,
)

Videos = Annotated[
    str | None,
    typer.Option("--videos", help="SOURCE to read; else videos of 340x256 are rendered."),
]
Samples = Annotated[int, typer.Option(min=1, help="Samples of each round.")]
Rounds = Annotated[int, typer.Option(min=1, help="Times that each side is measured.")]


@app.command()
def decode(
    videos: Videos = None,
    samples: Samples = 16,
    rounds: Rounds = 5,
    json_to: _common.JsonTo = None,
) -> None:
    """Time the read of two 8-frame views with each decoder that loads, on one thread."""
    from vidssl.jobs import bench

    _measure(bench.decode, videos, samples, rounds, json_to)


@app.command()
def loader(
    videos: Videos = None,
    samples: Samples = 24,
    rounds: Rounds = 5,
    json_to: _common.JsonTo = None,
) -> None:
    """Time the loader, with augmentation and without, against decoding alone."""
    from vidssl.jobs import bench

    _measure(bench.loader, videos, samples, rounds, json_to)


@app.command()
def step(
    model: Annotated[
        str, typer.Option(help="slow_r50_4x16, slow_r50_8x8, or slowfast_... alike.")
    ] = "slowfast_r50_8x8",
    clips: Annotated[int, typer.Option(min=1, help="Clips of one step.")] = 2,
    crop: Annotated[int, typer.Option(min=32, help="Side of the clips in pixels.")] = 224,
    rounds: Rounds = 5,
    compiled: Annotated[
        bool, typer.Option("--compile", help="Compile our side; its first round takes minutes.")
    ] = False,
    engine: Annotated[
        bool,
        typer.Option(
            "--engine", help="Time the training loop against a bare one instead, and a checkpoint."
        ),
    ] = False,
    json_to: _common.JsonTo = None,
) -> None:
    """Time training and inference against pytorchvideo's networks, and the largest product."""
    if engine:
        _engine(model, clips, crop, rounds, json_to)
        return
    from vidssl.jobs import bench_step

    with _common.user_errors():
        with _common.progress() as progress:
            result = bench_step.run(
                model, clips=clips, crop_px=crop, rounds=rounds, compiled=compiled,
                progress=progress,
            )  # fmt: skip
        if json_to is not None:
            _common.write_json(asdict(result), json_to)
    if json_to != "-":
        _tell(result.measurements, "the largest product")


@app.command("eval")
def eval_(
    rows: Annotated[int, typer.Option(min=60, help="Predicted rows, about.")] = 100_000,
    rounds: Rounds = 5,
    json_to: _common.JsonTo = None,
) -> None:
    """Time the scoring of predictions against the published algorithm in plain Python."""
    from vidssl.jobs import bench_eval

    with _common.user_errors():
        with _common.progress() as progress:
            result = bench_eval.run(rows=rows, rounds=rounds, progress=progress)
        if json_to is not None:
            _common.write_json(asdict(result), json_to)
    if json_to != "-":
        _tell(result.measurements, "reading the file alone")
        same = "one score" if result.agree else "TWO SCORES, which is a fault"
        _common.say(f"both have {same}: mAP {result.mean_ap:.6f} of {result.rows} rows")


@app.command()
def bank(
    videos: Videos = None,
    seconds: Annotated[int, typer.Option(min=1, help="Key frames, one a second.")] = 24,
    folder: Annotated[
        Path | None, typer.Option("--bank", help="A bank, whose windows are served as well.")
    ] = None,
    rounds: Rounds = 5,
    json_to: _common.JsonTo = None,
) -> None:
    """Time the reading of an extraction's overlapping windows, and the serving of a bank's."""
    from vidssl.jobs import bench_bank

    with _common.user_errors():
        with _common.progress() as progress:
            result = bench_bank.run(
                videos, seconds=seconds, rounds=rounds, bank=folder, progress=progress
            )
        if json_to is not None:
            _common.write_json(asdict(result), json_to)
    if json_to != "-":
        _tell(result.measurements, "decoding every frame once")
        if (found := result.serving) is not None:
            _common.say(
                f"{folder}: {found.rows} rows, opened in {found.open_ms:.1f} ms, "
                f"{found.windows_per_s:.0f} windows/s"
            )


def _engine(model: str, clips: int, crop: int, rounds: int, json_to: str | None) -> None:
    from vidssl.jobs import bench_engine

    with _common.user_errors():
        with _common.progress() as progress:
            result = bench_engine.run(
                model, clips=clips, crop_px=crop, rounds=rounds, progress=progress
            )
        if json_to is not None:
            _common.write_json(asdict(result), json_to)
    if json_to != "-":
        _tell(result.measurements, "the bare loop")
        _common.say(
            f"a checkpoint of {result.checkpoint_bytes / 2**20:.0f} MiB holds the loop up for "
            f"{result.blocked_s:.2f} s and is written {result.written_s:.2f} s later; with a copy "
            f"every 100 steps and a checkpoint every 500 the engine adds {result.added_share:.1%}"
        )


def _measure(
    job: Callable[..., Any], videos: str | None, samples: int, rounds: int, json_to: str | None
) -> None:
    with _common.user_errors():
        with _common.progress() as progress:
            result = job(videos, samples=samples, rounds=rounds, progress=progress)
        if json_to is not None:
            _common.write_json(asdict(result), json_to)
    if json_to != "-":
        _tell(result.measurements, "decoding alone")


def _tell(measurements: "list[Measurement]", limit: str) -> None:
    for found in measurements:
        _common.say(
            f"{found.name}: {found.ours:.2f} and {found.other:.2f} {found.unit}, "
            f"ratio {found.ratio:.2f}; {found.share_of_limit:.2f} of {limit} "
            f"({found.limit:.2f})"
        )
