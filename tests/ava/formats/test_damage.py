"""Files with anything anywhere: refused in words or read, never a traceback."""

import copy
import json
import math
import random
import re
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from vidssl.ava.annotations import read_annotations, read_person_boxes
from vidssl.ava.formats import Facts, Hints, Imported, find
from vidssl.ava.labels import read_labels
from vidssl.ava.tracks import as_annotations, as_person_boxes, at_key_frames
from vidssl.errors import VidsslError
from vidssl.jobs import ava_import
from vidssl.jobs.ava_import import Request

HINTS = Hints(stated=Facts(10.0, (200, 100)))
JUNK: tuple[Any, ...] = (
    *(None, True, 0, -1, 1.5, 1e300, 10**30, "", "x", "1", "é\x1b\n", [], [1], [[]], {}, {"a": 1}),
    *(1e-300, 10**400, math.inf, "\ud800", "a\nb", "http://[", "9" * 400, "9" * 5000, ' "\\ ,'),
)

COCO = {
    "images": [{"id": 1, "video_id": 5, "frame_id": 10}, {"id": 2, "file_name": "v/20.jpg",
                "width": 200, "height": 100}],
    "videos": [{"id": 5, "name": "v.mp4", "width": 200, "height": 100, "fps": 10}],
    "annotations": [
        {"id": 1, "image_id": 1, "category_id": 2, "bbox": [1, 2, 30, 40], "track_id": 4,
         "iscrowd": 0, "attributes": {"action": ["a", "b"], "person": 3}},
        {"id": 2, "image_id": 2, "category_id": 2, "bbox": [1, 2, 30, 40]},
    ],
    "categories": [{"id": 2, "name": "walk"}],
}  # fmt: skip
VIA = {
    "attribute": {"1": {"aname": "action", "type": 2, "options": {"1": "a", "2": "b"}},
                  "2": {"aname": "person", "type": 1, "options": {}}},
    "file": {"1": {"fid": "1", "fname": "v.mp4", "type": 4}},
    "view": {"1": {"fid_list": ["1"]}},
    "metadata": {"m": {"vid": "1", "z": [1], "xy": [2, 1, 2, 30, 40],
                       "av": {"1": "1,2", "2": "p"}}},
}  # fmt: skip
LABEL_STUDIO = [
    {"data": {"video": "/data/upload/1/0a1b2c3d-v.mp4"},
     "annotations": [{"was_cancelled": False, "ground_truth": False, "result": [
         {"id": "a", "type": "videorectangle",
          "value": {"framesCount": 40, "duration": 4.0, "labels": ["walk"], "sequence": [
              {"frame": 10, "time": 1.0, "enabled": True, "rotation": 5,
               "x": 1, "y": 2, "width": 30, "height": 40},
              {"frame": 20, "enabled": False, "x": 1, "y": 2, "width": 30, "height": 40}]}},
         {"id": "a", "type": "choices", "from_name": "action", "value": {"choices": ["b"]}},
     ]}]},
]  # fmt: skip
CVAT = (
    '<annotations><version>1.1</version><meta><task><name>n</name><source>v.mp4</source><labels>'
    "<label><name>person</name><attributes><attribute><name>action</name><input_type>select"
    "</input_type><values>a\nb</values></attribute></attributes></label></labels><original_size>"
    "<width>200</width><height>100</height></original_size></task></meta>"
    '<track id="0" label="person"><box frame="10" outside="0" xtl="1" ytl="2" xbr="30" ybr="40" '
    'rotation="5"><attribute name="action">a</attribute></box><box frame="20" outside="1" xtl="1" '
    'ytl="2" xbr="30" ybr="40"/></track></annotations>'
)  # fmt: skip
DOCUMENTS: dict[str, Any] = {"coco": COCO, "via": VIA, "label_studio": LABEL_STUDIO}


def places(node: Any, way: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """Give the way to every value inside of a document."""
    for key, held in node.items() if isinstance(node, dict) else enumerate(node):
        yield (*way, key)
        if isinstance(held, (dict, list)):
            yield from places(held, (*way, key))


def survives(name: str, path: Path) -> bool:
    """Import a file and read what was written; return whether it could be."""
    every_s = float(path.stat().st_size % 2)  # one or the other: writing waits for the disk
    out = path.parent / "ava"
    try:
        imported: Imported = find(name).read(path, HINTS)
        at_key_frames(imported.tracks, 1.0 - every_s)
        result = ava_import.run(name, path, out, Request(every_s, fps=10.0, size_px=(200, 100)))
        came_back(result, imported, every_s)
        shutil.rmtree(out)
    except VidsslError as error:
        told = str(error)
    else:
        return True
    assert path.name in told or "video " in told, told
    assert told.replace("\n", "").isprintable()
    return False


def came_back(result: ava_import.ImportResult, imported: Imported, every_s: float) -> None:
    """Check that the written files hold what was imported."""
    labels = read_labels(result.labels)
    assert labels.names == result.classes
    sampled = at_key_frames(imported.tracks, every_s)
    meant = as_annotations(sampled, {name: number for number, name in labels.names.items()})
    for one, two in (
        (read_annotations(result.annotations), meant),
        (read_person_boxes(result.boxes), as_person_boxes(sampled)),
    ):
        assert one.video.tolist() == two.video.tolist()
        assert one.timestamp.tolist() == two.timestamp.tolist()
        assert one.box.tolist() == two.box.tolist()


@pytest.mark.parametrize("name", DOCUMENTS)
def test_json_with_anything_anywhere_is_read_or_refused_in_words(name: str, tmp_path: Path) -> None:
    path = tmp_path / "export.json"
    document = DOCUMENTS[name]
    path.write_text(json.dumps(document))
    assert survives(name, path)
    read = refused = 0
    for way in places(document):
        for junk in JUNK:
            damaged = copy.deepcopy(document)
            inner = damaged
            for key in way[:-1]:
                inner = inner[key]
            inner[way[-1]] = junk
            path.write_text(json.dumps(damaged).replace("Infinity", "1e999"))
            if survives(name, path):
                read += 1
            else:
                refused += 1
    assert min(read, refused) > 50


def cut(text: str, rng: random.Random) -> str:
    at = rng.randrange(len(text))
    return text[:at]


def dropped(text: str, rng: random.Random) -> str:
    at = rng.randrange(len(text) - 5)
    return text[:at] + text[at + rng.randrange(1, 5) :]


def replaced(text: str, rng: random.Random) -> str:
    values = list(re.finditer(r'"[^"]*"|(?<=>)[^<]+(?=<)', text))
    match = rng.choice(values)
    junk = rng.choice(
        ["", "-1", "nan", "1e400", "x", "9" * 30, "&#0;", "&lt;", "9" * 400, "9" * 5000]
    )
    quoted = f'"{junk}"' if match[0].startswith('"') else junk
    return text[: match.start()] + quoted + text[match.end() :]


@pytest.mark.parametrize("damage", [cut, dropped, replaced])
def test_xml_with_damage_anywhere_is_read_or_refused_in_words(
    damage: Callable[[str, random.Random], str], tmp_path: Path
) -> None:
    path = tmp_path / "annotations.xml"
    path.write_text(CVAT)
    assert survives("cvat", path)
    rng = random.Random(0)
    for _ in range(300):
        path.write_text(damage(CVAT, rng))
        survives("cvat", path)


@pytest.mark.parametrize("encoding", ["gb18030", "utf-7", "foo", "hex", "utf-16", "a" * 5000, ""])
def test_xml_of_an_encoding_that_is_not_known_is_refused(encoding: str, tmp_path: Path) -> None:
    path = tmp_path / "annotations.xml"
    path.write_text(f'<?xml version="1.0" encoding="{encoding}"?>{CVAT}')
    assert not survives("cvat", path)


def test_xml_with_much_text_that_nobody_wants_is_read(tmp_path: Path) -> None:
    path = tmp_path / "annotations.xml"
    path.write_text(CVAT.replace("</task>", "<note>" + "a" * 2**24 + "</note></task>"))
    assert survives("cvat", path)


def test_a_time_at_the_end_of_time_is_not_written(tmp_path: Path) -> None:
    path = tmp_path / "annotations.xml"
    path.write_text(CVAT.replace('frame="10"', f'frame="{"9" * 400}"'))
    with pytest.raises(VidsslError, match="wrong frame: expected a whole number from 0"):
        find("cvat").read(path, HINTS)


def test_more_pictures_than_a_video_holds_are_refused_in_words(tmp_path: Path) -> None:
    path = tmp_path / "export.json"
    for count, expected in (("1e999", "a number of pictures"), ("1e14", "pictures a second")):
        path.write_text(
            json.dumps(LABEL_STUDIO).replace('"framesCount": 40', f'"framesCount": {count}')
        )
        with pytest.raises(VidsslError, match=rf"framesCount: .*expected .*{expected}"):
            find("label_studio").read(path, Hints())
