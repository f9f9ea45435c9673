"""COCO: the JSON of its detection task (https://cocodataset.org/#format-data), pictures of videos.

COCO has no videos of its own; what is read are the usual ways to name the picture of a video:

- the video: an image's ``video_id``, an entry of ``videos`` with ``id`` and ``name`` (or
  ``file_name``), as in CocoVID and TAO; without it the folder of ``file_name``, or what stands
  before its number: ``walk/000031.jpg``, ``walk/img_000031.jpg`` and ``walk_000031.jpg`` are of
  ``walk``. ``frame_000031.jpg`` and the like without a folder name no video and are refused;
- the time: an image's ``timestamp`` or ``time``, in seconds; else its ``frame_index``,
  ``frame_id`` or ``frame``, from 0; else the number in its file name less ``--first-frame`` (0;
  pictures that FFmpeg extracted count from 1), divided by the video's ``fps``, or ``--fps``;
- the box: ``bbox``, x, y, width and height in pixels of the image's ``width`` and ``height``;
- the person: ``track_id`` or ``instance_id`` of the annotation, or of its ``attributes``;
- the action: the category, or ``attributes`` of the annotation (``vidssl.ava.formats`` says which).
  Categories keep their ids if these are from 1 up.

Annotations of one image with one ``track_id``, or with exactly one box, are one person with the
actions of all. Nothing is interpolated: a box is in its own picture alone, which answers for a key
frame not further away than half a picture. Crowds (``iscrowd``) and annotations without ``bbox``
are passed over and counted; segmentations and key points are not read, nor is YouTube-VIS, whose
annotations have ``bboxes``.
"""

import math
import re
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
from vidssl.ava.formats._faults import DIGITS, Faults, Node, read_json
from vidssl.ava.labels import LARGEST_ID
from vidssl.ava.tracks import Shape, Track
from vidssl.errors import AnnotationError

EVERY_S = 1.0
NUMBERED = re.compile(r"^(?P<stem>.*?)[-_.]?(?P<number>\d+)$")
UNNAMED = ("", "frame", "image", "img", "pic")


@dataclass(frozen=True)
class _Picture:
    video: str
    time_s: float
    size_px: tuple[float, float]


def read(path: Path, hints: Hints) -> Imported:
    """Return a track for each box, and the actions of the categories or attributes.

    Raises:
        AnnotationError: if the file is of another kind, or has mistakes; with all of them.
    """
    content = read_json(path)
    faults = content.faults
    for key in ("images", "annotations", "categories"):
        if content[key].is_absent:
            content[key].wrong(f"a list of {key}", "another format")
    faults.check()
    categories = _categories(content["categories"])
    pictures = _Pictures(content, hints).all()
    attributes = dict.fromkeys(
        key for one in content["annotations"].parts() for key, _ in one["attributes"].entries()
    )
    chosen = chosen_attributes(hints, attributes, faults, has_labels=True)
    reader = _Reader(faults, pictures, categories, chosen)
    for annotation in content["annotations"].parts():
        reader.take(annotation)
    faults.check()
    if not reader.found:
        raise AnnotationError(f"{path}: no boxes: expected 'annotations' with 'bbox', found none")
    remarks = [f"{count} {what} passed over" for what, count in reader.passed_over.items() if count]
    tracks = reader.tracks(hints, dict(_rates(content)))
    if chosen:
        names = dict.fromkeys(a for track in tracks for s in track.shapes for a in s.actions)
        return Imported(tracks, list(names), remarks=remarks)
    ids = {name: key for key, name in categories.items()}
    is_usable = all(1 <= number <= LARGEST_ID for number in ids.values())
    return Imported(tracks, list(ids), ids if is_usable else {}, remarks)


def _categories(node: Node) -> dict[int, str]:
    """Return the categories' names by id."""
    found: dict[int, str] = {}
    for one in node.parts():
        key, name = one["id"].value, one["name"].text("its name")
        if not isinstance(key, int) or isinstance(key, bool):
            one["id"].wrong("a whole number")
        elif key in found or name in found.values():
            expected = "each id and each name once"
            node.faults.add(one.where, "repeated category", expected, f"{key} {name!r}")
        else:
            found[key] = name
    return found


def _rates(content: Node) -> list[tuple[str, float]]:
    """Return the videos' frame rates, those that the file gives."""
    there = [one for one in content["videos"].parts() if not one["fps"].is_absent]
    return [(_name(one), one["fps"].number("pictures a second", least=1e-3)) for one in there]


def _name(video: Node) -> str:
    return video_of(video.first("name", "file_name").text("the name of the video"))


class _Pictures:
    """The images of a file: which video each is of, when it is, and how large."""

    def __init__(self, content: Node, hints: Hints) -> None:
        self.content, self.hints, self.faults = content, hints, content.faults
        self.videos = {str(one["id"].value): one for one in content["videos"].parts()}
        self.rates = dict(_rates(content))
        self.told: set[str] = set()

    def all(self) -> dict[str, _Picture]:
        """Return the images by id."""
        found: dict[str, _Picture] = {}
        for node in self.content["images"].parts():
            key = str(node["id"].value)
            if node["id"].is_absent or key in found:
                node["id"].wrong("an id of its own")
                continue
            found[key] = self._picture(node)
        return found

    def _picture(self, node: Node) -> _Picture:
        file_name = str(node["file_name"].value or "")
        numbered = NUMBERED.match(video_of(file_name))
        video = self._video(node, file_name, numbered)
        said = self.videos.get(str(node["video_id"].value), node)
        size_px = tuple(
            (node if not node[side].is_absent else said)[side].number("pixels", least=1)
            for side in ("width", "height")
        )
        return _Picture(video, self._time_s(node, video, numbered), (size_px[0], size_px[1]))

    def _video(self, node: Node, file_name: str, numbered: "re.Match[str] | None") -> str:
        held = node["video_id"]
        if not held.is_absent:
            if str(held.value) in self.videos:
                return _name(self.videos[str(held.value)])
            held.wrong(
                f"an id of 'videos' ({', '.join(list(self.videos)[:5]) or 'there are none'})"
            )
            return ""
        folder = re.split(r"[/\\]", file_name)[:-1]
        if folder and folder[-1]:
            return folder[-1]
        stem = numbered["stem"] if numbered else ""
        if stem.lower() in UNNAMED:
            expected = "'video_id', or a file name as VIDEO/000031.jpg or VIDEO_000031.jpg"
            self.faults.add(node.where, "of no video", expected, repr(file_name))
        return stem

    def _time_s(self, node: Node, video: str, numbered: "re.Match[str] | None") -> float:
        stated = node.first("timestamp", "time")
        if not stated.is_absent:
            return stated.number("seconds from 0 up", least=0)
        counted = node.first("frame_index", "frame_id", "frame")
        if not counted.is_absent:
            number = counted.number("the number of a frame, from 0", least=0)
        elif numbered and len(numbered["number"]) > DIGITS:
            expected = f"a number of at most {DIGITS} digits in 'file_name'"
            self.faults.add(node.where, "at no time", expected, node["file_name"].value)
            return math.nan
        elif numbered:
            number = int(numbered["number"]) - self.hints.first_frame
        else:
            expected = "'timestamp', 'frame_index', or a number in 'file_name'"
            self.faults.add(node.where, "at no time", expected, repr(node["file_name"].value))
            return math.nan
        if number < 0:
            expected = f"a number from --first-frame {self.hints.first_frame} up"
            self.faults.add(node.where, "before the first frame", expected, node["file_name"].value)
        fps = self.hints.fps(video, self.rates.get(video))
        if fps is None and video and video not in self.told:
            self.told.add(video)
            needed(fps, video, "frame rate", "--fps", self.faults)
        return number / fps if fps else math.nan


class _Reader:
    """Annotations of one picture put together: by who, or which region, it is."""

    def __init__(
        self,
        faults: Faults,
        pictures: Mapping[str, _Picture],
        categories: Mapping[int, str],
        chosen: tuple[str, ...],
    ) -> None:
        self.faults, self.pictures, self.categories = faults, pictures, categories
        self.chosen = chosen
        self.found: dict[tuple[str, object], tuple[str, str | None, Shape]] = {}
        self.passed_over = {"crowds": 0, "annotations without bbox": 0}

    def take(self, node: Node) -> None:
        """Take an annotation in."""
        if not node["bboxes"].is_absent:
            node["bboxes"].wrong("'image_id' and 'bbox'; YouTube-VIS is not read", "another format")
            return
        is_bare = node["bbox"].is_absent
        if is_bare or node["iscrowd"].value == 1:
            self.passed_over["annotations without bbox" if is_bare else "crowds"] += 1
            return
        key = str(node["image_id"].value)
        if key not in self.pictures:
            node["image_id"].wrong("the id of an image")
            return
        picture = self.pictures[key]
        x, y, width, height = node["bbox"].numbers(4, "[x, y, width, height] in pixels")
        box_px = (x, y, x + width, y + height)
        box = normalised(box_px, picture.size_px, node["bbox"].where, self.faults)
        attributes = dict(node["attributes"].entries())
        keys = {name.lower(): name for name in attributes}
        own = [attributes[keys[name]] for name in PERSON_NAMES if name in keys]
        held = [node["track_id"], node["instance_id"], *own]
        person = person_of(held)
        shape = Shape(picture.time_s, box, self._actions(node, attributes), goes_on=False)
        self._add((key, person if person is not None else box), node, person, shape)

    def _add(self, key: tuple[str, object], node: Node, person: str | None, shape: Shape) -> None:
        if key not in self.found:
            self.found[key] = node.where, person, shape
            return
        where, _, before = self.found[key]
        if before.box != shape.box:
            expected = f"one box (there is one in {where})"
            self.faults.add(node.where, f"person {person} twice in an image", expected, "two")
        both = tuple(dict.fromkeys((*before.actions, *shape.actions)))
        self.found[key] = where, person, Shape(before.time_s, before.box, both, goes_on=False)

    def _actions(self, node: Node, attributes: Mapping[str, Node]) -> tuple[str, ...]:
        if not self.chosen:
            key = node["category_id"].value
            if not isinstance(key, int) or key not in self.categories:
                node["category_id"].wrong("the id of a category")
                return ()
            return (self.categories[key],)
        found: list[str] = []
        for name in self.chosen:
            held = attributes[name].value if name in attributes else None
            for value in held if isinstance(held, list) else [held]:
                if value is True:
                    found.append(name)
                elif isinstance(value, str):
                    found += told_apart(value)
                elif value not in (None, False):
                    attributes[name].wrong("a text, true or false, or a list of texts")
        return tuple(dict.fromkeys(found))

    def tracks(self, hints: Hints, rates: Mapping[str, float]) -> list[Track]:
        """Return a track for each box."""
        found = []
        for (key, _), (_, person, shape) in self.found.items():
            video = self.pictures[key].video
            fps = hints.fps(video, rates.get(video))
            found.append(Track(video, person, [shape], 0.5 / (fps or math.inf)))
        return found
