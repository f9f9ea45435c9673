"""The playground: videos with sound and every truth about them, made from a seed.

Textured actors come, act and go before photographic backgrounds. The annotations have the layout
of AVA, so that each command reads them like anybody's data.

Nine labels, several to a box. What it takes to tell them:

- shake, bounce, spin, glide: how the actor moves. Exactly one holds; actors are tilted at random,
  so a single frame does not tell.
- chase, follow: running or walking after the other around an ellipse; the one in front has no
  label. meet: both come together and stay side by side.
- has returned: the present visit began 8 s or more after an earlier visit of this actor ended.
  will be met again: the actor comes back, 8 s or more after leaving. Visits last under 8 s, and a
  toss of a coin decides who comes next, so only other visits tell, found by the actor's look.
"""

from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from vidssl.errors import SourceError
from vidssl.sources._folder import find
from vidssl.sources._listing import Columns, Listing, class_ids, matched
from vidssl.sources._place import Place
from vidssl.sources._render import AUDIO_RATE, Pictures, coverage, frames, sound
from vidssl.sources._scenario import DIGITS, FPS, HEIGHT, SCENES, WIDTH, Scenario, scenario
from vidssl.sources._tables import read_table
from vidssl.sources._truth import (
    LABELS,
    Annotation,
    Label,
    annotations,
    detections,
    excluded,
    visits,
)
from vidssl.video.storage import shown

__all__ = [
    "AUDIO_RATE",
    "FORMAT",
    "FPS",
    "HEIGHT",
    "LABELS",
    "OPTIONS",
    "SCENES",
    "WIDTH",
    "Annotation",
    "Label",
    "Pictures",
    "Scenario",
    "action_list",
    "annotations",
    "coverage",
    "detections",
    "excluded",
    "frames",
    "name_of",
    "pictures",
    "read",
    "scan",
    "scenario",
    "sound",
    "tables",
    "visits",
]

FORMAT = 1
"""Goes up whenever the same arguments no longer make the same labels and videos."""

OPTIONS: dict[str, str] = {}

_README = """\
# A playground for video models

Rendered videos of actors that come, act and go; everything about them is known. Seed {seed},
{videos} videos of {seconds:g} s, {width}x{height}, {fps} frames a second, H.264 and AAC.
The layout is AVA's. Boxes are x1, y1, x2, y2 in 0 to 1, times are whole seconds.

| file | what it holds |
| --- | --- |
| videos/ | the videos; train and val share no video and no cast |
| train.csv, val.csv | video, second, box, action, person; one row an action |
| action_list.pbtxt | the actions and their kinds |
| *_excluded_timestamps.csv | seconds without labels: somebody comes, goes or changes |
| *_person_detections.csv | video, second, box, nothing, score; as of a detector, every second |
| videos.csv | the videos with their split and scene, a label of the whole video |
| visits.csv | which actor each person is, from when to when: the truth behind 8 and 9 |
| playground.json | the arguments that made this folder |

| action | what it means |
| --- | --- |
| 1 shake | quickly to and fro sideways, 3 times a second |
| 2 bounce | up and down, 3 times in 2 seconds |
| 3 spin | turns around itself, once in 1.2 to 1.9 s |
| 4 glide | none of these: drifts, or goes where an interaction leads |
| 5 chase | runs around an ellipse after the other, who flees and has no label |
| 6 follow | the same at a walk, a third as fast |
| 7 meet | stands side by side with another; both have the label |
| 8 has returned | was here before, in a visit that ended 8 s or more before this one began |
| 9 will be met again | will be back, 8 s or more after leaving |

Actions 1 to 4 need fine time, 5 to 7 the other actor, 8 and 9 a memory of 10 to 30 s that knows
an actor by its look. Nothing within a visit tells 8 and 9, but the time does a little: nobody
has returned in the first 10 s, and nobody will in the last 10.

    vidssl index playground:. --out index.parquet
    vidssl pretrain moco_small --videos playground:. --out run
    vidssl eval-ava --annotations val.csv --labels action_list.pbtxt \\
        --excluded val_excluded_timestamps.csv --predictions predictions.csv
"""


def name_of(index: int, videos: int) -> tuple[str, str]:
    """Return the name and the split of video ``index`` of ``videos``; the last quarter is val."""
    train = videos - max(1, videos // 4)
    return (f"train_{index:03d}", "train") if index < train else (f"val_{index - train:03d}", "val")


def tables(scenarios: Sequence[Scenario]) -> dict[str, str]:
    """Return the text of every file but the videos and the arguments, by name.

    ``scenarios`` are all videos of a playground in order, at least two.
    """
    named = [(*name_of(what.index, len(scenarios)), what) for what in scenarios]
    texts = {"action_list.pbtxt": action_list(), "README.md": _readme(scenarios)}
    for split in ("train", "val"):
        mine = [(name, what) for name, where, what in named if where == split]
        texts[f"{split}.csv"] = _csv(
            (name, f"{row.second:04d}", *row.box, action, row.person)
            for name, what in mine
            for row in annotations(what)
            for action in row.actions
        )
        texts[f"{split}_excluded_timestamps.csv"] = _csv(
            (name, f"{second:04d}") for name, what in mine for second in excluded(what)
        )
        texts[f"{split}_person_detections.csv"] = _csv(
            (name, f"{second:04d}", *box, "", score)
            for name, what in mine
            for second, box, score in detections(what)
        )
    texts["videos.csv"] = "video,split,scene,path,seconds\n" + _csv(
        (name, split, what.scene, f"videos/{name}.mp4", what.frames / FPS)
        for name, split, what in named
    )
    texts["visits.csv"] = "video,person,actor,start_s,end_s\n" + _csv(
        (name, *visit) for name, _, what in named for visit in visits(what)
    )
    return texts


def action_list() -> str:
    """Return the label map in AVA's text form."""
    return "".join(
        f'label {{\n  name: "{label.name}"\n  label_id: {label.number}\n'
        f"  label_type: {label.kind}\n}}\n"
        for label in LABELS
    )


def pictures() -> Pictures:
    """Return what all is cut from: scikit-learn's two photographs at half size, and its digits."""
    from sklearn.datasets import load_digits, load_sample_images

    first, second = (_halved(image) for image in load_sample_images().images)
    digits = np.asarray(load_digits().images[:DIGITS] / 16, dtype=np.float32)
    return Pictures((first, second), digits)


def read(place: Place) -> Listing:
    """Return the videos of the playground in a folder, with their scene as class and their split.

    Raises:
        SourceError: if the folder is not a playground.
    """
    table = Path(place.path) / "videos.csv"
    if not table.is_file():
        raise SourceError(f"{shown(place.path)}: not a playground: it has no videos.csv")
    rows = read_table(str(table), ["path", "split", "scene"])
    labels, classes = class_ids(rows.cells["scene"])
    ids = [Path(name).stem for name in rows.cells["path"]]
    columns = Columns(ids, labels, more={"split": rows.cells["split"]})
    files = find(str(Path(place.path) / "videos"))
    return matched("playground", str(table), columns, files, once=True, classes=classes)


def scan(path: Path) -> list[Path]:
    """Return the videos of the playground in a folder.

    Raises:
        SourceError: if the folder is not a playground.
    """
    return [Path(video) for video in read(Place("playground", str(path), {})).videos]


def _halved(photo: NDArray[np.uint8]) -> NDArray[np.float32]:
    """Return a photograph at half its size, values 0 to 1, ``(H // 2, W // 2, 3)``."""
    height, width = photo.shape[0] // 2, photo.shape[1] // 2
    cells = photo[: 2 * height, : 2 * width].reshape(height, 2, width, 2, 3)
    return np.asarray(cells.mean(axis=(1, 3)) / 255, dtype=np.float32)


def _csv(rows: Iterable[Sequence[object]]) -> str:
    """Return rows as csv, floats with three decimals; no cell needs quotes."""
    return "".join(
        ",".join(f"{cell:.3f}" if isinstance(cell, float) else str(cell) for cell in row) + "\n"
        for row in rows
    )


def _readme(scenarios: Sequence[Scenario]) -> str:
    return _README.format(
        seed=scenarios[0].seed,
        videos=len(scenarios),
        seconds=scenarios[0].frames / FPS,
        width=WIDTH,
        height=HEIGHT,
        fps=FPS,
    )
