"""VIA's projects: what of them arrives, and what is refused with its place."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from vidssl.ava.formats import Facts, Hints
from vidssl.ava.formats.via import read
from vidssl.ava.tracks import at_key_frames
from vidssl.errors import AnnotationError

Save = Callable[[Any], Path]
HINTS = Hints(stated=Facts(size_px=(200, 100)))


def project() -> dict[str, Any]:
    return {
        "project": {"pid": "__VIA_PROJECT_ID__", "pname": "kitchen", "vid_list": ["1"]},
        "config": {"ui": {}},
        "attribute": {
            "1": {
                "aname": "TEMPORAL-SEGMENTS",
                "anchor_id": "FILE1_Z2_XY0",
                "type": 4,
                "desc": "",
                "options": {"default": "Default"},
                "default_option_id": "",
            },
            "2": {
                "aname": "Action",
                "anchor_id": "FILE1_Z1_XY1",
                "type": 2,
                "desc": "",
                "options": {"a": "sit", "b": "eat", "c": "stand"},
                "default_option_id": "",
            },
            "3": {
                "aname": "person",
                "anchor_id": "FILE1_Z1_XY1",
                "type": 1,
                "desc": "",
                "options": {},
                "default_option_id": "",
            },
        },
        "file": {"1": {"fid": "1", "fname": "kitchen.mp4", "type": 4, "loc": 1, "src": ""}},
        "view": {"1": {"fid_list": ["1"]}},
        "metadata": {
            "1_a": {
                "vid": "1",
                "flg": 0,
                "z": [1.5],
                "xy": [2, 20, 10, 40, 30],
                "av": {"2": "a,b", "3": "ann"},
            },
            "1_b": {
                "vid": "1",
                "flg": 0,
                "z": [2],
                "xy": [2, 100, 0, 60, 100],
                "av": {"2": "c", "3": "bob"},
            },
            "1_c": {"vid": "1", "flg": 0, "z": [0.1, 4.2], "xy": [], "av": {"1": "default"}},
            "1_d": {"vid": "1", "flg": 0, "z": [2], "xy": [1, 100, 50], "av": {}},
        },
    }


@pytest.fixture
def save(tmp_path: Path) -> Save:
    def write(content: Any) -> Path:
        path = tmp_path / "project.json"
        path.write_text(json.dumps(content))
        return path

    return write


def test_rectangles_arrive_at_their_own_moments(save: Save) -> None:
    found = read(save(project()), HINTS)
    assert found.actions == ["sit", "eat", "stand"]
    assert found.remarks == ["2 entries without a rectangle passed over"]
    assert at_key_frames(found.tracks, 0).rows == [
        ("kitchen", 1.5, (0.1, 0.1, 0.3, 0.4), 0, ("sit", "eat")),
        ("kitchen", 2.0, (0.5, 0.0, 0.8, 1.0), 1, ("stand",)),
    ]
    sampled = at_key_frames(found.tracks, 1.0)
    assert [row[1] for row in sampled.rows] == [2.0]
    assert (sampled.moments, sampled.between) == (2, 1)


def test_rectangles_of_one_person_and_moment_are_one_with_all_actions(save: Save) -> None:
    content = project()
    content["metadata"]["1_e"] = {**content["metadata"]["1_a"], "av": {"2": "c", "3": "ann"}}
    rows = at_key_frames(read(save(content), HINTS).tracks, 0).rows
    assert rows[0][4] == ("sit", "eat", "stand")
    content["metadata"]["1_e"]["xy"] = [2, 0, 0, 40, 30]
    with pytest.raises(AnnotationError, match=r"metadata\['1_e'\]: person ann twice at 1.5 s"):
        read(save(content), HINTS)


def test_the_only_attribute_is_the_action_whatever_it_is_called(save: Save) -> None:
    content = project()
    del content["attribute"]["1"]
    content["attribute"]["2"]["aname"] = "What is done"
    assert read(save(content), HINTS).actions == ["sit", "eat", "stand"]


def test_several_attributes_without_a_telling_name_are_asked_about(save: Save) -> None:
    content = project()
    content["attribute"]["2"]["aname"] = "doing"
    expected = r"which attributes hold actions\?.*there are: TEMPORAL-SEGMENTS, doing, person"
    with pytest.raises(AnnotationError, match=expected):
        read(save(content), HINTS)
    assert read(save(content), Hints(("doing",), HINTS.stated)).actions[0] == "sit"


def test_all_mistakes_are_told_with_their_place(save: Save) -> None:
    content = project()
    content["metadata"]["1_a"]["xy"] = [2, 20, 10, "wide", 30]
    content["metadata"]["1_b"]["av"]["2"] = "d"
    content["metadata"]["1_e"] = {"vid": "9", "z": [1], "xy": [2, 1, 1, 2, 2], "av": {}}
    content["metadata"]["1_f"] = {"vid": "1", "z": [-1], "xy": [2, 1, 1, 2, 2], "av": {}}
    content["metadata"]["1_g"] = {"vid": "1", "z": [3], "xy": [2, 1, 1, 0, 2], "av": {}}
    with pytest.raises(AnnotationError) as error:
        read(save(content), HINTS)
    told = str(error.value)
    assert "has 5 problems:" in told
    assert "metadata['1_a'].xy: not understood: expected [2, x, y, width, height], found" in told
    assert (
        "metadata['1_b'].av['2']: unknown option: expected an option of attribute 'Action'" in told
    )
    assert "metadata['1_e'].vid: unknown view: expected a view of the project" in told
    assert "metadata['1_f'].z[0]: not understood: expected seconds from 0 up, found -1" in told
    assert "metadata['1_g'].xy: empty box" in told


def test_the_size_of_pictures_is_asked_for_once(save: Save) -> None:
    with pytest.raises(AnnotationError) as error:
        read(save(project()), Hints())
    assert "has 1 problem:" in str(error.value)
    assert "video 'kitchen': size of its pictures not known: expected --size" in str(error.value)


def test_projects_of_images_and_of_via_2_are_refused(save: Save) -> None:
    content = project()
    content["file"]["1"]["type"] = 2
    with pytest.raises(AnnotationError, match=r"file\.1\.type: no video: expected 4, a video"):
        read(save(content), HINTS)
    with pytest.raises(AnnotationError, match="expected a project of VIA 3 for video"):
        read(save({"_via_img_metadata": {}, "_via_settings": {}}), HINTS)
    with pytest.raises(AnnotationError, match="another format"):
        read(save([1, 2]), HINTS)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("", "not JSON: Expecting value, found an empty file"),
        ('{"metadata": ', "project.json:1:14: not JSON"),
        ('{"metadata": NaN}', "not JSON: expected plain numbers, found NaN"),
        ("[" * 100_000, "not JSON"),
        ('{"a": ' + "9" * 5000 + "}", "not JSON"),
    ],
)
def test_what_is_no_json_is_refused_in_words(tmp_path: Path, text: str, expected: str) -> None:
    path = tmp_path / "project.json"
    path.write_text(text)
    with pytest.raises(AnnotationError) as error:
        read(path, HINTS)
    assert expected in str(error.value)


def test_a_file_that_would_fill_the_memory_is_not_read(tmp_path: Path) -> None:
    path = tmp_path / "project.json"
    with path.open("wb") as file:
        file.truncate(2**31)  # takes no room on the disk
    with pytest.raises(AnnotationError, match="too large: expected at most 1,073,741,824 bytes"):
        read(path, HINTS)


@pytest.mark.parametrize("blank", [None, "", " "])
def test_a_blank_person_is_nobody(save: Save, blank: str | None) -> None:
    content = project()
    one = next(m for m in content["metadata"].values() if len(m["z"]) == 1 and m["xy"])
    two = {**one, "xy": [2, 100, 10, 40, 30], "av": {**one["av"], "3": blank}}
    one["av"]["3"] = blank
    content["metadata"] = {"a": one, "b": two}
    assert [track.person for track in read(save(content), HINTS).tracks] == [None, None]
