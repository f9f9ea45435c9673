"""Label Studio: the JSON that it exports of projects with ``Video`` and ``VideoRectangle``.

https://labelstud.io/guide/export and https://labelstud.io/tags/videorectangle (as of 1.4 to 1.20;
"JSON", not "JSON-MIN"). A file is a list of tasks; of each are read the results of type
``videorectangle``, each one person, with ``value.sequence``:

- ``x``, ``y``, ``width``, ``height`` in percent of the picture, ``rotation`` in degrees clockwise
  about the top left corner (the upright box around it is taken, for which the size of the pictures
  must be known);
- ``time`` in seconds. Where it is missing it is ``frame`` divided by the frame rate, as Label
  Studio has it itself, although its frames count from 1: ``framesCount / duration``, ``--fps``;
- ``enabled``: between an enabled shape and the next the box moves in a straight line; after one
  that is not it is gone. The last shape, if enabled, lasts until the end of the video, by
  ``duration`` or ``framesCount``.

Of a task with several annotations the one marked as ground truth is taken; cancelled ones and
predictions are not. Exports with every frame interpolated read the same. Actions are the labels of
the box, or what was chosen for it by ``Choices`` with ``perRegion``, whose name counts as that of
an attribute (``vidssl.ava.formats`` says which). Videos are called after the task's ``data``;
what Label Studio puts before the names of uploaded files is taken off.
"""

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import parse_qs, unquote, urlsplit

from vidssl.ava.formats import (
    Hints,
    Imported,
    chosen_attributes,
    needed,
    normalised,
    told_apart,
    turned,
    video_of,
)
from vidssl.ava.formats._faults import Faults, Node, read_json
from vidssl.ava.tracks import Shape, Track
from vidssl.errors import AnnotationError

EVERY_S = 1.0
PERCENT = 100.0
LEAST_FPS, MOST_FPS = 1e-3, 1e5
UPLOADED = re.compile(r"^[0-9a-f]{8}-(?=.)")
SUFFIXES = (".mp4", ".webm", ".mkv", ".avi", ".mov", ".m4v", ".mpg", ".mpeg", ".ogv", ".ts")


@dataclass
class _Person:
    """A box through a video, and what was chosen for it, by the choice's name."""

    result: Node
    video: str
    chosen: dict[str, list[str]] = field(default_factory=dict)


def read(path: Path, hints: Hints) -> Imported:
    """Return the people of an export; actions are in order of appearance.

    Raises:
        AnnotationError: if the file is of another kind, or has mistakes; with all of them.
    """
    content = read_json(path)
    faults = content.faults
    if not isinstance(content.value, list):
        content.wrong("a list of tasks; export as JSON", "another format")
        faults.check()
    people: list[_Person] = []
    passed_over = 0
    for task in content.parts():
        results = _results(task)
        people += _people(task, results)
        passed_over += sum(
            one["type"].value not in ("videorectangle", "choices", "labels") for one in results
        )
    faults.check()
    names = [name for person in people for name in person.chosen]
    attributes = chosen_attributes(hints, names, faults, has_labels=True)
    tracks = [_track(person, number, attributes, hints) for number, person in enumerate(people)]
    faults.check()
    if not tracks:
        raise AnnotationError(
            f"{path}: no boxes: expected results of type 'videorectangle', found none"
        )
    actions = dict.fromkeys(a for track in tracks for shape in track.shapes for a in shape.actions)
    remarks = [f"{passed_over} results of other types passed over"] if passed_over else []
    return Imported(tracks, list(actions), remarks=remarks)


def _results(task: Node) -> list[Node]:
    """Return the results of the one annotation of a task that counts."""
    annotations = task.first("annotations", "completions")
    if annotations.is_absent:
        is_min = isinstance(task.value, dict) and task["data"].is_absent
        also = " (JSON-MIN? export as JSON)" if is_min else ""
        annotations.wrong(f"the task's annotations{also}")
        return []
    there = [one for one in annotations.parts() if not one["was_cancelled"].value]
    if len(there) > 1:
        there = [one for one in there if one["ground_truth"].value]
        if len(there) != 1:
            expected = "one annotation, or one marked as ground truth"
            annotations.faults.add(annotations.where, "several annotations", expected, len(there))
            return []
    return [result for one in there for result in one["result"].parts()]


def _people(task: Node, results: Sequence[Node]) -> list[_Person]:
    boxes = [one for one in results if one["type"].value == "videorectangle"]
    if not boxes:
        return []
    video = _video(task["data"])
    found = [_Person(one, video) for one in boxes]
    by_id = {str(person.result["id"].value): person for person in found}
    for one in results:
        person = by_id.get(str(one["id"].value))
        if person is not None and one["type"].value == "choices":
            choices = [c.text("the name of a choice") for c in one["value"]["choices"].parts()]
            person.chosen.setdefault(one["from_name"].text(), []).extend(choices)
    return found


def _video(data: Node) -> str:
    """Return the id of a task's video: of ``video``, or the only part of the data that is one."""
    names = [node for _, node in data.entries() if isinstance(node.value, str)]
    named = [one for one in names if one.where.endswith("['video']")]
    named = named or [one for one in names if _is_video(one.value)] or names
    if len(named) != 1:
        data.faults.add(data.where, "no video", "its address as 'video'", f"{len(named)} texts")
        return ""
    address = named[0].text("the address of the video")
    try:
        parts = urlsplit(address) if "://" in address or address.startswith("/") else None
    except ValueError:
        named[0].wrong("the address of the video")
        return ""
    path = address if parts is None else unquote(parts.path)
    if parts is not None and "d" in (asked := parse_qs(parts.query)):  # /data/local-files/?d=PATH
        path = asked["d"][0]
    video = video_of(path)
    return UPLOADED.sub("", video) if "/upload/" in path else video


def _is_video(address: str) -> bool:
    try:
        return urlsplit(address).path.endswith(SUFFIXES)
    except ValueError:
        return False


def _track(person: _Person, number: int, attributes: tuple[str, ...], hints: Hints) -> Track:
    value, faults = person.result["value"], person.result.faults
    sequence = list(value["sequence"].parts())
    if not sequence:
        value["sequence"].wrong("the shapes of the box")
    length_s = _stated(value["duration"], "seconds") or hints.length_s(person.video)
    count = _stated(value["framesCount"], "a number of pictures")
    fps = hints.fps(person.video, _rate(value, count, length_s))
    if any(one["time"].is_absent for one in sequence):
        needed(fps, person.video, "frame rate", "--fps", faults)
    if length_s is None and fps and count is not None:
        length_s = count / fps
    actions = _actions(person, attributes)
    size_px = hints.size_px(person.video)
    shapes = [_shape(one, actions, fps, size_px) for one in sequence]
    shapes = [shape for shape in shapes if not math.isnan(shape.time_s)]
    shapes.sort(key=lambda shape: shape.time_s)
    half_s = 0.5 / fps if fps else 0.0
    until_s = length_s if length_s is not None else -math.inf
    return Track(person.video, f"box {number}", shapes, slack_s=half_s, until_s=until_s)


def _stated(node: Node, expected: str) -> float | None:
    """Return a number from 0 up; None where there is none, or it was refused."""
    number = math.nan if node.is_absent else node.number(f"{expected} from 0 up", least=0)
    return None if math.isnan(number) else number


def _rate(value: Node, count: float | None, length_s: float | None) -> float | None:
    """Return the frame rate that a video's length and number of pictures make."""
    if not count or not length_s:
        return None
    fps = count / length_s
    if LEAST_FPS <= fps <= MOST_FPS:
        return fps
    expected = f"from {LEAST_FPS:g} to {MOST_FPS:g} pictures a second"
    reason = f"no frame rate with a duration of {length_s:g} s"
    value["framesCount"].wrong(expected, reason)
    return None


def _actions(person: _Person, attributes: tuple[str, ...]) -> tuple[str, ...]:
    if attributes:
        names = [name for key in attributes for name in person.chosen.get(key, [])]
    else:
        labels = person.result["value"]["labels"]
        names = [name for one in labels.parts() for name in told_apart(one.text())]
    return tuple(dict.fromkeys(names))


def _shape(
    node: Node, actions: tuple[str, ...], fps: float | None, size_px: tuple[int, int] | None
) -> Shape:
    if node["time"].is_absent:
        time_s = node["frame"].number("the number of a frame", least=0) / (fps or 1.0)
    else:
        time_s = node["time"].number("seconds from 0 up", least=0)
    x, y, width, height = (
        node[key].number(f"{key} in percent") for key in ("x", "y", "width", "height")
    )
    box = x, y, x + width, y + height
    if degrees := node["rotation"].number() if not node["rotation"].is_absent else 0.0:
        box = _upright(node, box, degrees, size_px)
    faults = node.faults if not any(map(math.isnan, box)) else Faults(node.faults.path)
    return Shape(
        time_s,
        normalised(box, (PERCENT, PERCENT), node.where, faults),
        actions,
        goes_on=node["enabled"].value is not False,
    )


def _upright(
    node: Node,
    box: tuple[float, float, float, float],
    degrees: float,
    size_px: tuple[int, int] | None,
) -> tuple[float, float, float, float]:
    """Return the upright box around a turned one, in percent: turning needs square pixels."""
    if size_px is None:
        expected = "0, or the size of the pictures by --size or --videos"
        node.faults.add(f"{node.where}.rotation", "a rotated box", expected, f"{degrees:g} degrees")
        return box
    across, down = size_px[0] / PERCENT, size_px[1] / PERCENT
    x1, y1, x2, y2 = box[0] * across, box[1] * down, box[2] * across, box[3] * down
    x1, y1, x2, y2 = turned((x1, y1, x2, y2), degrees, (x1, y1))
    return x1 / across, y1 / down, x2 / across, y2 / down
