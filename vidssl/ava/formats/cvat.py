"""CVAT: the XML that it exports as "CVAT for video 1.1", one task or job a file.

https://docs.cvat.ai/docs/manual/advanced/xml_format/ (version 1.1 of the format; 1.0 as well).
Read are ``<track>`` elements with ``<box>``; polygons, points, masks, skeletons and tags are passed
over and counted. The video is the task's ``source``, or its name where there is none; the size of
its pictures is ``original_size``.

- ``frame`` counts from 0, in pictures of the video itself, also where the task has a start frame or
  a step; the file has no frame rate, so that it comes from ``--fps`` or the video.
- Boxes are interpolated by CVAT, which writes one for every picture of a track. Where a file has
  only some, they are joined by straight lines, which is how CVAT joins them.
- A box with ``outside="1"`` is not there: the person left. ``occluded`` ones are there. A track
  ends with its last box.
- A rotated box becomes the upright one around it. CVAT turns boxes clockwise about their middle.
- A track's ``id`` is the person's. Which attributes are actions: see ``vidssl.ava.formats``.
"""

import itertools
import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from vidssl.ava.formats import (
    NOTHING,
    Hints,
    Imported,
    chosen_attributes,
    needed,
    normalised,
    told_apart,
    turned,
    video_of,
)
from vidssl.ava.formats._faults import DIGITS, LARGEST, Faults
from vidssl.ava.formats._xml import Element, top_elements
from vidssl.ava.tracks import Shape, Track
from vidssl.errors import AnnotationError, nearest

EVERY_S = 1.0
BOX = ("xtl", "ytl", "xbr", "ybr")
TICKED, UNTICKED = "true", "false"
PASSED_OVER = {"polygon", "polyline", "points", "cuboid", "mask", "skeleton", "ellipse", "tag"}


@dataclass
class _Task:
    """What the head of the file says; ``kinds`` are the input types of attributes by name."""

    video: str
    size_px: tuple[int, int] | None
    fps: float | None
    labels: list[str]
    kinds: dict[str, str]
    options: dict[str, list[str]]
    actions: tuple[str, ...] = ()
    passed_over: Counter[str] = field(default_factory=Counter)


def read(path: Path, hints: Hints) -> Imported:
    """Return the people of an export, and the actions that its labels or attributes know.

    Raises:
        AnnotationError: if the file is of another kind, or has mistakes; with all of them.
    """
    faults = Faults(path)
    task: _Task | None = None
    tracks: list[Track] = []
    for element in top_elements(path, "annotations"):
        if element.tag == "meta":
            task = _head(element, hints, faults)
        elif element.tag == "image":
            raise AnnotationError(
                f"{path.name}: {element.where}: exported as images: expected <track> elements; "
                "choose 'CVAT for video 1.1' when exporting"
            )
        elif element.tag == "track":
            if task is None:
                faults.check()
                raise AnnotationError(f"{path.name}: {element.where}: expected <meta> before it")
            track = _track(element, task, faults)
            tracks += [track] if track.shapes else []
        elif element.tag in PASSED_OVER and task is not None:
            task.passed_over[element.tag] += 1
    if task is None:
        raise AnnotationError(f"{path}: no <meta>: expected an export of CVAT, found another file")
    faults.check()
    if not tracks:
        raise AnnotationError(f"{path}: no boxes: expected <track> elements with <box>, found none")
    remarks = [
        f"{count} {tag} passed over: only boxes are read" for tag, count in task.passed_over.items()
    ]
    return Imported(tracks, _defined(task), remarks=remarks)


def _head(meta: Element, hints: Hints, faults: Faults) -> _Task:
    if next(meta.all("project"), None):
        raise AnnotationError(
            f"{faults.path.name}: {meta.where}: an export of a project: expected one of a task or "
            "job, as frames of several videos are counted through; export each task by itself"
        )
    kind = "job" if next(meta.all("job"), None) else "task"
    name = meta.said(kind, "source") or meta.said("source") or meta.said(kind, "name")
    if not name:
        faults.add(meta.where, "no video", "<source> or <name> in <task>", "neither")
    video = video_of(name)
    kinds, options = _attributes(list(meta.all(kind, "labels", "label")))
    labels = [label.said("name") for label in meta.all(kind, "labels", "label")]
    said = _size(meta, kind, faults)
    task = _Task(video, hints.size_px(video, said), hints.fps(video), labels, kinds, options)
    needed(task.size_px, video, "size of its pictures", "--size", faults)
    needed(task.fps, video, "frame rate", "--fps", faults)
    task.actions = chosen_attributes(hints, kinds, faults, has_labels=len(labels) > 1 or not kinds)
    return task


def _size(meta: Element, kind: str, faults: Faults) -> tuple[int, int] | None:
    texts = [
        meta.said(kind, "original_size", side) or meta.said("original_size", side)
        for side in ("width", "height")
    ]
    if not any(texts):
        return None
    if all(_is_whole(text) and int(text) > 0 for text in texts):
        return int(texts[0]), int(texts[1])
    faults.add(meta.where, "wrong original_size", "width and height in pixels", " x ".join(texts))
    return None


def _attributes(labels: Sequence[Element]) -> tuple[dict[str, str], dict[str, list[str]]]:
    """Return the input types and the options of the labels' attributes, by name.

    Version 1.0 has them in one text, as ``@select=name:first,second``.
    """
    kinds: dict[str, str] = {}
    options: dict[str, list[str]] = {}
    for label in labels:
        for attribute in label.all("attributes", "attribute"):
            name, kind = attribute.said("name"), attribute.said("input_type")
            values = attribute.said("values").split("\n")
            if not name and "=" in attribute.text:
                kind, _, rest = attribute.text.strip().lstrip("@~").partition("=")
                name, _, joined = rest.partition(":")
                values = joined.split(",")
            if name:
                kinds[name] = kind
                known = options.setdefault(name, [])
                known += [v.strip() for v in values if v.strip() not in (*NOTHING, *known)]
    return kinds, options


def _defined(task: _Task) -> list[str]:
    """Return the actions that the task's labels or attributes offer, in their order."""
    if not task.actions:
        return task.labels
    found: list[str] = []
    for name in task.actions:
        kind = task.kinds[name]
        found += {"checkbox": [name], "text": [], "number": []}.get(kind, task.options[name])
    return list(dict.fromkeys(found))


def _track(element: Element, task: _Task, faults: Faults) -> Track:
    label = element.attributes.get("label", "")
    if task.labels and label not in task.labels:
        expected = f"a label of <meta>{nearest(label, task.labels)}"
        faults.add(element.where, "unknown label", expected, repr(label))
    task.passed_over.update(child.tag for child in element.children if child.tag in PASSED_OVER)
    shapes = [_shape(box, element, label, task, faults) for box in element.all("box")]
    shapes = [shape for shape in shapes if not math.isnan(shape.time_s)]
    shapes.sort(key=lambda shape: shape.time_s)
    for one, two in itertools.pairwise(shapes):
        if one.time_s == two.time_s:
            frame = f"frame {round(one.time_s * (task.fps or 1))} once"
            faults.add(element.where, "two boxes in one frame", frame, "it twice")
            break
    half_s = 0.5 / (task.fps or 1)
    return Track(task.video, element.attributes.get("id"), shapes, slack_s=half_s)


def _shape(box: Element, track: Element, label: str, task: _Task, faults: Faults) -> Shape:
    frame = box.attributes.get("frame", "")
    if not _is_whole(frame):
        faults.add(box.where, "wrong frame", "a whole number from 0", repr(frame))
        frame = "nan"
    sides = [_number(box, name, faults) for name in BOX]
    degrees = _number(box, "rotation", faults) if "rotation" in box.attributes else 0.0
    x1, y1, x2, y2 = sides
    box_px = turned((x1, y1, x2, y2), degrees, ((x1 + x2) / 2, (y1 + y2) / 2))
    is_outside = box.attributes.get("outside", "0") not in ("0", "false", "False")
    size_px = task.size_px or (1, 1)
    place = faults if task.size_px and not is_outside else Faults(faults.path)
    return Shape(
        float(frame) / (task.fps or 1.0),
        normalised(box_px, size_px, box.where, place),
        _actions(box, track, label, task),
        visible=not is_outside,
        goes_on=not is_outside,
    )


def _is_whole(text: str) -> bool:
    return text.isascii() and text.isdigit() and len(text) <= DIGITS


def _number(box: Element, name: str, faults: Faults) -> float:
    try:
        value = float(box.attributes[name])
    except (KeyError, ValueError):
        value = math.nan
    if not abs(value) <= LARGEST:
        found = repr(box.attributes.get(name, "nothing"))
        faults.add(box.where, "malformed number", f"{name} in pixels", found)
        return math.nan
    return value


def _actions(box: Element, track: Element, label: str, task: _Task) -> tuple[str, ...]:
    if not task.actions:
        return (label,)
    found: list[str] = []
    held = [*track.all("attribute"), *box.all("attribute")]  # those of the box go before
    values = {one.attributes.get("name", ""): one.text.strip() for one in held}
    for name in task.actions:
        value, kind = values.get(name, ""), task.kinds[name]
        if kind == "checkbox" or (not kind and value.lower() in (TICKED, UNTICKED)):
            found += [name] if value.lower() == TICKED else []
        elif kind == "text":
            found += told_apart(value)
        elif value not in NOTHING:
            found.append(value)
    return tuple(dict.fromkeys(found))
