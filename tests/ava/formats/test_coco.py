"""COCO's JSON of videos' pictures: what of it arrives, and what is refused with its place."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from vidssl.ava.formats import Facts, Hints
from vidssl.ava.formats.coco import read
from vidssl.ava.tracks import at_key_frames
from vidssl.errors import AnnotationError

Save = Callable[[Any], Path]
TEN = Hints(stated=Facts(fps=10.0))


def content() -> dict[str, Any]:
    images = [
        {"id": n, "video_id": 5, "frame_index": n, "file_name": f"{n:06d}.jpg"}
        for n in range(0, 25, 5)
    ]
    boxes = [
        {"id": 1, "image_id": 10, "category_id": 2, "bbox": [20, 10, 40, 30], "track_id": 4},
        {"id": 2, "image_id": 10, "category_id": 3, "bbox": [20, 10, 40, 30], "track_id": 4},
        {"id": 3, "image_id": 15, "category_id": 2, "bbox": [22, 10, 40, 30], "track_id": 4},
        {"id": 4, "image_id": 20, "category_id": 2, "bbox": [24, 10, 40, 30], "track_id": 4},
        {"id": 5, "image_id": 20, "category_id": 2, "bbox": [0, 0, 9, 9], "iscrowd": 1},
    ]
    names = [{"id": 2, "name": "walk"}, {"id": 3, "name": "wave"}, {"id": 7, "name": "run"}]
    videos = [{"id": 5, "name": "park/noon.mp4", "width": 200, "height": 100, "fps": 10}]
    return {"images": images, "videos": videos, "annotations": boxes, "categories": names}


@pytest.fixture
def save(tmp_path: Path) -> Save:
    def write(held: Any) -> Path:
        path = tmp_path / "instances.json"
        path.write_text(json.dumps(held))
        return path

    return write


def test_pictures_on_whole_seconds_are_key_frames(save: Save) -> None:
    found = read(save(content()), Hints())
    assert (found.actions, found.ids) == (["walk", "wave", "run"], {"walk": 2, "wave": 3, "run": 7})
    assert found.remarks == ["1 crowds passed over"]
    sampled = at_key_frames(found.tracks, 1.0)
    assert sampled.rows == [
        ("noon", 1.0, (0.1, 0.1, 0.3, 0.4), 4, ("walk", "wave")),
        ("noon", 2.0, (0.12, 0.1, 0.32, 0.4), 4, ("walk",)),
    ]
    assert (sampled.moments, sampled.between) == (3, 1)


@pytest.mark.parametrize(
    ("file_name", "first", "video", "time_s"),
    [
        ("noon/000031.jpg", 1, "noon", 3.0),
        ("a/noon/img_000030.png", 0, "noon", 3.0),
        ("noon_000030.jpg", 0, "noon", 3.0),
        ("day.2-000030.jpg", 0, "day.2", 3.0),
    ],
)
def test_file_names_tell_video_and_frame(
    save: Save, file_name: str, first: int, video: str, time_s: float
) -> None:
    held = content()
    held["images"] = [{"id": 10, "file_name": file_name, "width": 200, "height": 100}]
    held["annotations"] = held["annotations"][:1]
    found = read(save(held), Hints(stated=Facts(fps=10.0), first_frame=first))
    assert [(row[0], row[1]) for row in at_key_frames(found.tracks, 0).rows] == [(video, time_s)]


def test_a_stated_time_needs_no_frame_rate(save: Save) -> None:
    held = content()
    del held["videos"][0]["fps"]
    with pytest.raises(AnnotationError) as error:
        read(save(held), Hints())
    assert "has 1 problem:" in str(error.value)
    assert "video 'noon': frame rate not known: expected --fps or --videos" in str(error.value)
    for image in held["images"]:
        image["timestamp"] = 900 + image["id"]
    assert at_key_frames(read(save(held), Hints()).tracks, 1.0).rows[0][1] == 910.0


def test_attributes_may_be_the_actions(save: Save) -> None:
    held = content()
    held["annotations"] = [
        {
            "id": 1,
            "image_id": 10,
            "category_id": 2,
            "bbox": [0, 0, 40, 30],
            "attributes": {"actions": ["sit", "eat"], "smiles": True, "track_id": 8},
        },
    ]
    found = read(save(held), Hints())
    assert at_key_frames(found.tracks, 1.0).rows[0][3:] == (8, ("sit", "eat"))
    found = read(save(held), Hints(("smiles", "actions")))
    assert found.actions == ["smiles", "sit", "eat"]


def test_categories_from_0_are_counted_anew(save: Save) -> None:
    held = content()
    for category in held["categories"]:
        category["id"] -= 2
    for annotation in held["annotations"]:
        annotation["category_id"] -= 2
    found = read(save(held), Hints())
    assert (found.actions, found.ids) == (["walk", "wave", "run"], {})


def test_all_mistakes_are_told_with_their_place(save: Save) -> None:
    held = content()
    held["images"] += [
        {"id": 10, "file_name": "x/3.jpg", "width": 9, "height": 9},
        {"id": 90, "file_name": "frame_000003.jpg", "width": 9, "height": 9},
        {"id": 91, "file_name": "x/open.jpg", "width": 9, "height": 9},
        {"id": 92, "video_id": 6, "frame_index": 1, "width": 9, "height": 9},
        {"id": 93, "video_id": 5, "frame_index": -1, "width": 0, "height": 9},
    ]
    held["annotations"] += [
        {"id": 6, "image_id": 77, "category_id": 2, "bbox": [1, 1, 2, 2]},
        {"id": 7, "image_id": 15, "category_id": 1, "bbox": [1, 1, 2, 2]},
        {"id": 8, "image_id": 15, "category_id": 2, "bbox": [1, 1, 2]},
        {"id": 9, "image_id": 15, "category_id": 2, "bbox": [1, 1, 0, 2]},
        {"id": 10, "image_id": 15, "category_id": 2, "bbox": [1, 1, 900, 2]},
        {"id": 11, "image_id": 15, "category_id": 2, "bbox": [1, 1, 9, 9], "track_id": 4},
    ]
    with pytest.raises(AnnotationError) as error:
        read(save(held), TEN)
    told = str(error.value)
    assert "has 12 problems:" in told
    for expected in (
        "images[5].id: not understood: expected an id of its own, found 10",
        "images[6]: of no video: expected 'video_id', or a file name as VIDEO/000031.jpg",
        "images[7]: at no time: expected 'timestamp', 'frame_index', or a number",
        "images[8].video_id: not understood: expected an id of 'videos' (5), found 6",
        "images[9].width: not understood: expected pixels, found 0",
        "images[9].frame_index: not understood: expected the number of a frame, from 0, found -1",
        "annotations[5].image_id: not understood: expected the id of an image, found 77",
        "annotations[6].category_id: not understood: expected the id of a category, found 1",
        "annotations[7].bbox: not understood: expected [x, y, width, height] in pixels",
        "annotations[8].bbox: empty box",
        "annotations[9].bbox: box outside of the picture: expected a box inside of 200x100",
        "annotations[10]: person 4 twice in an image: expected one box (there is one in annot",
    ):
        assert expected in told


def test_other_files_are_refused_in_words(save: Save) -> None:
    with pytest.raises(AnnotationError, match="images: another format: expected a list of images"):
        read(save({"annotations": [], "categories": []}), TEN)
    held = content()
    held["annotations"] = [{"id": 1, "video_id": 5, "bboxes": [[1, 1, 2, 2]]}]
    with pytest.raises(AnnotationError, match="YouTube-VIS is not read"):
        read(save(held), TEN)
    held["annotations"] = []
    with pytest.raises(AnnotationError, match="no boxes"):
        read(save(held), TEN)


@pytest.mark.parametrize("blank", [None, "", " "])
def test_a_blank_person_is_nobody(save: Save, blank: str | None) -> None:
    held = content()
    for one, x in zip(held["annotations"][:2], (0, 20), strict=True):
        one |= {"bbox": [x, 0, 10, 10], "track_id": blank}
    tracks = read(save(held), Hints()).tracks
    assert [track.person for track in tracks] == [None, None, "4", "4"]


def test_a_number_that_no_frame_has_is_refused_with_its_place(save: Save) -> None:
    for digits in (16, 400, 5000):
        held = content()
        held["images"][2] = {**held["images"][2], "file_name": f"{'7' * digits}.jpg"}
        del held["images"][2]["frame_index"]
        with pytest.raises(AnnotationError, match=r"images\[2\]: at no time: .*at most 15 digits"):
            read(save(held), Hints())
