"""Label Studio's JSON: what of it arrives, and what is refused with its place."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from vidssl.ava.formats import Facts, Hints
from vidssl.ava.formats.label_studio import read
from vidssl.ava.tracks import at_key_frames
from vidssl.errors import AnnotationError

Save = Callable[[Any], Path]


def shape(frame: int, x: object, *, enabled: bool = True, **more: object) -> dict[str, Any]:
    sides = {"x": x, "y": 10, "width": 20, "height": 40, "rotation": 0}
    return {"frame": frame, "enabled": enabled, "time": frame / 10, **sides, **more}


def person(name: str, label: str, *sequence: dict[str, Any], **more: object) -> dict[str, Any]:
    value = {"framesCount": 40, "duration": 4.0, "sequence": [*sequence], "labels": [label], **more}
    kind = {"from_name": "box", "to_name": "video", "type": "videorectangle", "origin": "manual"}
    return {"id": name, "value": value, **kind}


def export(*results: dict[str, Any], video: str = "/data/upload/3/0a1b2c3d-door.mp4") -> Any:
    annotation = {"id": 9, "result": [*results], "was_cancelled": False, "ground_truth": False}
    return [{"id": 1, "data": {"video": video, "fps": "10"}, "annotations": [annotation]}]


@pytest.fixture
def save(tmp_path: Path) -> Save:
    def write(content: Any) -> Path:
        path = tmp_path / "export.json"
        path.write_text(json.dumps(content))
        return path

    return write


def test_boxes_move_until_they_are_switched_off_or_the_video_ends(save: Save) -> None:
    path = save(
        export(
            person("a", "open", shape(10, 0), shape(20, 20), shape(30, 40, enabled=False)),
            person("b", "close", shape(20, 60)),
        )
    )
    found = read(path, Hints())
    assert found.actions == ["open", "close"]
    rows = at_key_frames(found.tracks, 0.5).rows
    first = [(time_s, box[0], actions) for _, time_s, box, who, actions in rows if who == 0]
    # Straight from 0 at 1 s to 0.2 at 2 s and 0.4 at 3 s, where it is switched off.
    assert first == [
        (1.0, 0.0, ("open",)),
        (1.5, 0.1, ("open",)),
        (2.0, 0.2, ("open",)),
        (2.5, 0.3, ("open",)),
        (3.0, 0.4, ("open",)),
    ]
    # The other stays where it is until the video ends at 4 s.
    assert [row[1] for row in rows if row[3] == 1] == [2.0, 2.5, 3.0, 3.5]
    assert {row[0] for row in rows} == {"door"}


def test_frames_are_seconds_by_the_rate_of_the_file_or_the_person(save: Save) -> None:
    sequence = [shape(n, 0) for n in (10, 20)]
    for one in sequence:
        del one["time"]
    path = save(export(person("a", "open", *sequence)))
    assert at_key_frames(read(path, Hints()).tracks, 1.0).rows[0][1] == 1.0
    stated = Hints(stated=Facts(fps=5.0))
    assert at_key_frames(read(path, stated).tracks, 1.0).rows[0][1] == 2.0
    unknown = person("a", "open", *sequence)
    del unknown["value"]["duration"]
    with pytest.raises(AnnotationError, match="video 'door': frame rate not known: expected --fps"):
        read(save(export(unknown)), Hints())


def test_choices_for_a_region_may_be_the_actions(save: Save) -> None:
    chosen = {
        "id": "a",
        "from_name": "action",
        "to_name": "video",
        "type": "choices",
        "value": {"choices": ["push", "talk"]},
    }
    path = save(export(person("a", "Person", shape(10, 0)), chosen))
    assert at_key_frames(read(path, Hints()).tracks, 1.0).rows[0][4] == ("push", "talk")
    chosen["from_name"] = "doing"
    path = save(export(person("a", "Person", shape(10, 0)), chosen))
    assert at_key_frames(read(path, Hints()).tracks, 1.0).rows[0][4] == ("Person",)
    assert read(path, Hints(("doing",))).actions == ["push", "talk"]


@pytest.mark.parametrize(
    ("address", "video"),
    [
        ("/data/upload/3/0a1b2c3d-door.mp4", "door"),
        ("/data/local-files/?d=clips%2Fdoor.mp4", "door"),
        ("s3://bucket/a/door.v2.mp4", "door.v2"),
        ("https://host/x/back%20door.mp4?token=1", "back door"),
        ("door.mp4", "door"),
    ],
)
def test_videos_are_called_after_their_files(save: Save, address: str, video: str) -> None:
    path = save(export(person("a", "open", shape(10, 0)), video=address))
    assert read(path, Hints()).tracks[0].video == video


def test_the_ground_truth_counts_of_several_annotations(save: Save) -> None:
    content = export(person("a", "open", shape(10, 0)))
    second = export(person("a", "close", shape(10, 0)))[0]["annotations"][0]
    content[0]["annotations"].append(second)
    expected = r"\[0\].annotations: several annotations: expected one annotation, or one marked"
    with pytest.raises(AnnotationError, match=expected):
        read(save(content), Hints())
    second["ground_truth"] = True
    assert read(save(content), Hints()).actions == ["close"]
    second["was_cancelled"] = True
    assert read(save(content), Hints()).actions == ["open"]


def test_a_rotated_box_needs_the_size_of_the_pictures(save: Save) -> None:
    path = save(export(person("a", "open", shape(10, 50, rotation=90))))
    with pytest.raises(AnnotationError, match=r"sequence\[0\].rotation: a rotated box: expected 0"):
        read(path, Hints())
    box = at_key_frames(read(path, Hints(stated=Facts(size_px=(100, 100)))).tracks, 1).rows[0][2]
    # 20 x 40 at (50, 10), turned clockwise about that corner: 40 to the left, 20 down.
    assert box == pytest.approx((0.1, 0.1, 0.5, 0.3))


def test_all_mistakes_are_told_with_their_place(save: Save) -> None:
    path = save(
        export(
            person("a", "open", shape(10, "left"), shape(12, 0, time=-1)),
            person("b", "open", shape(10, 500)),
            person("c", "open"),
        )
    )
    with pytest.raises(AnnotationError) as error:
        read(path, Hints())
    told = str(error.value)
    assert "has 4 problems:" in told
    where = "[0].annotations[0].result"
    assert f"{where}[0].value.sequence[0].x: not understood: expected x in percent, found" in told
    assert f"{where}[0].value.sequence[1].time: not understood: expected seconds from 0" in told
    assert f"{where}[1].value.sequence[0]: box outside of the picture" in told
    assert f"{where}[2].value.sequence: not understood: expected the shapes of the box" in told


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        ({"id": 1}, "expected a list of tasks; export as JSON"),
        ([{"id": 1, "video": "a.mp4", "box": []}], "JSON-MIN? export as JSON"),
        ([], "no boxes: expected results of type 'videorectangle'"),
        ([7], "expected the task's annotations, found nothing"),
    ],
)
def test_other_exports_are_refused_in_words(save: Save, content: Any, expected: str) -> None:
    with pytest.raises(AnnotationError) as error:
        read(save(content), Hints())
    assert expected in str(error.value)
