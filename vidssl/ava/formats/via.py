"""VIA 3, the VGG Image Annotator for video: the JSON project that it saves.

https://www.robots.ox.ac.uk/~vgg/software/via/ (3.0 and 3.1; ``via_video_annotator.html``). Read are
the entries of ``metadata`` that have one time in ``z`` and a rectangle in ``xy``,
``[2, x, y, width, height]`` in pixels of the picture as it is shown, of views with one video.
Temporal segments (two times, no region), points, circles and polygons are passed over and counted.

- VIA does not follow people and does not interpolate: a rectangle is at its own moment alone, so
  that by default every annotated moment is a key frame (``--every 1`` takes those on whole seconds
  only).
- It does not store the size of the pictures: it comes from ``--size`` or ``--videos``.
- A rectangle's ``av`` holds its attributes. Those called person, person_id, track, track_id,
  instance or instance_id say who it is; which ones are actions: see ``vidssl.ava.formats``. VIA has
  no labels; an only attribute is that of the action, whatever it is called.
- Rectangles of one moment with the same region, or the same person, are one person with the actions
  of all.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from vidssl.ava.formats import (
    PERSON_NAMES,
    Hints,
    Imported,
    chosen_attributes,
    needed,
    normalised,
    person_of,
    told_apart,
    video_of,
)
from vidssl.ava.formats._faults import Faults, Node, read_json
from vidssl.ava.tracks import Shape, Track
from vidssl.errors import AnnotationError, nearest

EVERY_S = 0.0
RECTANGLE = 2
TEXT, CHECKBOX = 1, 2  # types of attributes; 3 is a radio button, 4 a list to choose from
VIDEO = 4  # type of a file; 2 is an image, 8 sound
WRITTEN_DIGITS = 3  # VIA writes times with up to 5 decimals; half a millisecond is no moment


@dataclass(frozen=True)
class _Attribute:
    name: str
    type: int
    options: Mapping[str, str]


def read(path: Path, hints: Hints) -> Imported:
    """Return a track for each rectangle, and the actions that the attributes offer.

    Raises:
        AnnotationError: if the file is of another kind, or has mistakes; with all of them.
    """
    content = read_json(path)
    faults = content.faults
    if not content["_via_img_metadata"].is_absent or content["metadata"].is_absent:
        content["metadata"].wrong("a project of VIA 3 for video (VIA 2 has none)", "another format")
        faults.check()
    attributes = {key: _attribute(node) for key, node in content["attribute"].entries()}
    videos = {key: _video(content, node, faults) for key, node in content["view"].entries()}
    faults.check()
    names = {key: one.name for key, one in attributes.items()}
    chosen = chosen_attributes(hints, names.values(), faults, has_labels=False)
    actions = {key: one for key, one in attributes.items() if one.name in chosen}
    people = [key for key, name in names.items() if name.strip().lower() in PERSON_NAMES]
    reader = _Reader(hints, faults, actions, people, {})
    passed_over = 0
    for _, node in content["metadata"].entries():
        vid = str(node["vid"].value)
        if vid not in videos:
            expected = f"a view of the project{nearest(vid, videos)}"
            faults.add(node["vid"].where, "unknown view", expected, vid)
        elif _is_rectangle(node):
            reader.take(node, videos[vid])
        else:
            passed_over += 1
    faults.check()
    if not reader.found:
        raise AnnotationError(f"{path}: no boxes: expected rectangles in 'metadata', found none")
    remarks = [f"{passed_over} entries without a rectangle passed over"] if passed_over else []
    offered = [o for one in actions.values() for o in one.options.values() if o]
    return Imported(reader.tracks(), list(dict.fromkeys(offered)), remarks=remarks)


class _Reader:
    """Rectangles of one moment put together: by video, time and who, or which region, it is."""

    def __init__(
        self,
        hints: Hints,
        faults: Faults,
        actions: Mapping[str, _Attribute],
        people: list[str],
        sizes: dict[str, tuple[int, int] | None],
    ) -> None:
        self.hints, self.faults, self.actions, self.people = hints, faults, actions, people
        self.sizes = sizes
        self.found: dict[tuple[str, float, object], tuple[Node, str | None, Shape]] = {}

    def take(self, node: Node, video: str) -> None:
        """Take a rectangle in."""
        if video not in self.sizes:
            self.sizes[video] = self.hints.size_px(video)
            needed(self.sizes[video], video, "size of its pictures", "--size", self.faults)
        time_s = next(node["z"].parts()).number("seconds from 0 up", least=0)
        _, x, y, width, height = node["xy"].numbers(5, "[2, x, y, width, height]")
        size_px = self.sizes[video] or (1, 1)
        faults = self.faults if self.sizes[video] else Faults(self.faults.path)
        box = normalised((x, y, x + width, y + height), size_px, node["xy"].where, faults)
        if math.isnan(time_s):
            return
        values = dict(node["av"].entries())
        person = person_of(values[key] for key in self.people if key in values)
        shape = Shape(time_s, box, self._actions(values), goes_on=False)
        key = video, round(time_s, WRITTEN_DIGITS), person if person is not None else box
        if key not in self.found:
            self.found[key] = node, person, shape
            return
        first, _, before = self.found[key]
        if before.box != box:
            expected = f"one box (there is one in {first.where})"
            self.faults.add(node.where, f"person {person} twice at {time_s:g} s", expected, "two")
        both = tuple(dict.fromkeys((*before.actions, *shape.actions)))
        self.found[key] = first, person, Shape(before.time_s, box, both, goes_on=False)

    def tracks(self) -> list[Track]:
        """Return a track for each rectangle."""
        return [
            Track(video, person, [shape], 0.5 / (self.hints.fps(video) or math.inf))
            for (video, _, _), (_, person, shape) in self.found.items()
        ]

    def _actions(self, values: Mapping[str, Node]) -> tuple[str, ...]:
        found: list[str] = []
        for key, attribute in self.actions.items():
            if key not in values or values[key].value in (None, ""):
                continue
            text = str(values[key].value)
            if attribute.type == TEXT:
                found += told_apart(text)
                continue
            for option in text.split(",") if attribute.type == CHECKBOX else [text]:
                if option.strip() not in attribute.options:
                    choices = ", ".join(attribute.options)
                    expected = f"an option of attribute {attribute.name!r} ({choices})"
                    self.faults.add(values[key].where, "unknown option", expected, option)
                elif attribute.options[option.strip()]:
                    found.append(attribute.options[option.strip()])
        return tuple(dict.fromkeys(found))


def _attribute(node: Node) -> _Attribute:
    options = {key: str(one.value).strip() for key, one in node["options"].entries()}
    return _Attribute(node["aname"].text("its name"), _type(node["type"]), options)


def _type(node: Node) -> int:
    value = node.number("the type of an attribute, a number")
    return 0 if math.isnan(value) else int(value)


def _video(content: Node, view: Node, faults: Faults) -> str:
    """Return the id of the only video of a view."""
    files = [content["file"][str(one.value)] for one in view["fid_list"].parts()]
    if len(files) != 1:
        faults.add(view.where, "no single video", "one file in a view", f"{len(files)}")
        return ""
    if files[0].is_absent:
        files[0].wrong("the file of a view")
        return ""
    if files[0]["type"].value != VIDEO:
        files[0]["type"].wrong(f"{VIDEO}, a video (2 is an image, 8 sound)", "no video")
        return ""
    return video_of(files[0].first("fname", "src").text("the name of a file"))


def _is_rectangle(node: Node) -> bool:
    times, region = node["z"].value, node["xy"].value
    has_time = isinstance(times, list) and len(times) == 1
    return has_time and isinstance(region, list) and bool(region) and region[0] == RECTANGLE
