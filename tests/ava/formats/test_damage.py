"""Files with anything anywhere: refused in words or read, never a traceback."""

import copy
import json
import random
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from vidssl.ava.formats import Facts, Hints, Imported, find
from vidssl.ava.tracks import as_annotations, as_person_boxes, at_key_frames
from vidssl.errors import VidsslError

HINTS = Hints(stated=Facts(10.0, (200, 100)))
JUNK: tuple[Any, ...] = (
    *(None, True, 0, -1, 1.5, 1e300, 10**30, "", "x", "1", "é\x1b\n", [], [1], [[]], {}, {"a": 1}),
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
    """Read a file all the way to its tables; return whether it could be."""
    try:
        imported: Imported = find(name).read(path, HINTS)
        for every_s in (0.0, 1.0):
            sampled = at_key_frames(imported.tracks, every_s)
            names = {a for t in imported.tracks for s in t.shapes for a in s.actions}
            as_annotations(sampled, {action: n for n, action in enumerate(names, 1)})
            as_person_boxes(sampled)
    except VidsslError as error:
        told = str(error)
    else:
        return True
    assert path.name in told or "video " in told
    assert told.replace("\n", "").isprintable()
    return False


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
            path.write_text(json.dumps(damaged))
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
    junk = rng.choice(["", "-1", "nan", "1e400", "x", "9" * 30, "&#0;", "&lt;"])
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
