"""``vidssl playground``."""

from pathlib import Path
from typing import Annotated

import typer

from . import _common


def playground(
    out: Annotated[Path, typer.Option("--out", "-o", file_okay=False, help="Folder to fill.")],
    videos: Annotated[
        int, typer.Option("--videos", min=2, help="How many; a quarter is for validation.")
    ] = 40,
    seconds: Annotated[
        float, typer.Option("--seconds", min=4, max=9999, help="Length of each video.")
    ] = 45,
    seed: Annotated[int, typer.Option("--seed", min=0, help="Another seed, other videos.")] = 0,
) -> None:
    """Render videos with known truth, to try everything on.

    OUT receives videos with sound, AVA-style annotations with motion, interaction and long-memory
    labels, detector-like boxes, and a README.md that explains them. Stopped, the same command
    continues.
    """
    # Imported here because they pull in numpy and FFmpeg: `vidssl --help` must not wait for them.
    from vidssl.jobs.playground import run

    with _common.user_errors(), _common.progress() as progress:
        made = run(out, videos=videos, seconds=seconds, seed=seed, progress=progress)
    _common.out.print(
        f"wrote {made.videos} videos and {made.rows} annotations ({made.bytes / 1e6:.1f} MB)"
        f" to {made.folder}",
        markup=False,
    )
