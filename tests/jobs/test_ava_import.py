"""The playground's truth, written as each tool exports, comes back as it was."""

import json
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from types import FrameType
from typing import Any

import pytest

from vidssl.ava.annotations import read_annotations, read_person_boxes
from vidssl.ava.labels import LabelMap, read_labels, write_labels
from vidssl.errors import AnnotationError
from vidssl.jobs import ava_validate
from vidssl.jobs.ava_import import Request, run

FPS, WIDTH, HEIGHT = 25.0, 128, 96
Row = tuple[str, float, tuple[float, float, float, float], tuple[str, ...], int]


@pytest.fixture
def truth(playground: Path) -> list[Row]:
    """Everybody who does something: video, seconds, box, actions, person."""
    table = read_annotations(playground / "train.csv")
    names = read_labels(playground / "action_list.pbtxt").names
    found: dict[tuple[Any, ...], list[str]] = {}
    columns = (table.video, table.timestamp, table.box, table.action, table.person)
    for video, time_s, box, action, person in zip(*(c.tolist() for c in columns), strict=True):
        if action:
            found.setdefault((video, time_s, tuple(box), person), []).append(names[action])
    assert len(found) > 20
    return [(v, t, b, tuple(actions), p) for (v, t, b, p), actions in found.items()]


def pixels(box: Sequence[float]) -> list[float]:
    return [value * side for value, side in zip(box, (WIDTH, HEIGHT) * 2, strict=True)]


def corner_and_size(box: Sequence[float]) -> list[float]:
    x1, y1, x2, y2 = box
    return [x1, y1, x2 - x1, y2 - y1]


def as_coco(rows: Sequence[Row]) -> str:
    pictures = {key: n for n, key in enumerate(dict.fromkeys((v, t) for v, t, *_ in rows))}
    images = [
        {
            "id": n,
            "file_name": f"{video}/{round(time_s * FPS):06d}.jpg",
            "width": WIDTH,
            "height": HEIGHT,
        }
        for (video, time_s), n in pictures.items()
    ]
    annotations = [
        {
            "id": n,
            "image_id": pictures[video, time_s],
            "category_id": 1,
            "track_id": person,
            "bbox": corner_and_size(pixels(box)),
            "attributes": {"action": list(actions)},
        }
        for n, (video, time_s, box, actions, person) in enumerate(rows)
    ]
    categories = [{"id": 1, "name": "person"}]
    content = {"images": images, "annotations": annotations, "categories": categories}
    return json.dumps(content)


def as_cvat(rows: Sequence[Row]) -> str:
    actions = sorted({action for *_, own, _ in rows for action in own})
    attributes = "".join(
        f"<attribute><name>{a}</name><input_type>checkbox</input_type></attribute>" for a in actions
    )
    head = (
        f"<meta><task><source>{rows[0][0]}.mp4</source><original_size><width>{WIDTH}</width>"
        f"<height>{HEIGHT}</height></original_size><labels><label><name>person</name>"
        f"<attributes>{attributes}</attributes></label></labels></task></meta>"
    )
    tracks = []
    for number in sorted({row[4] for row in rows}):
        boxes = []
        for _, time_s, box, own, person in rows:
            if person != number:
                continue
            sides = zip(("xtl", "ytl", "xbr", "ybr"), pixels(box), strict=True)
            said = " ".join(f'{name}="{value!r}"' for name, value in sides)
            ticked = "".join(
                f'<attribute name="{a}">{str(a in own).lower()}</attribute>' for a in actions
            )
            frame = round(time_s * FPS)
            boxes.append(f'<box frame="{frame}" outside="0" {said}>{ticked}</box>')
            boxes.append(f'<box frame="{frame + 1}" outside="1" {said}/>')
        tracks.append(f'<track id="{number}" label="person">{"".join(boxes)}</track>')
    return f"<annotations>{head}{''.join(tracks)}</annotations>"


def as_via(rows: Sequence[Row]) -> str:
    videos = {video: str(n) for n, video in enumerate(dict.fromkeys(row[0] for row in rows), 1)}
    actions = {a: str(n) for n, a in enumerate(sorted({a for row in rows for a in row[3]}))}
    options = {number: action for action, number in actions.items()}
    metadata = {
        f"{videos[video]}_{n}": {
            "vid": videos[video],
            "flg": 0,
            "z": [time_s],
            "xy": [2, *corner_and_size(pixels(box))],
            "av": {"1": ",".join(actions[a] for a in own), "2": str(person)},
        }
        for n, (video, time_s, box, own, person) in enumerate(rows)
    }
    return json.dumps(
        {
            "attribute": {
                "1": {
                    "aname": "action",
                    "anchor_id": "FILE1_Z1_XY1",
                    "type": 2,
                    "options": options,
                },
                "2": {"aname": "person", "anchor_id": "FILE1_Z1_XY1", "type": 1, "options": {}},
            },
            "file": {n: {"fid": n, "fname": f"{v}.mp4", "type": 4} for v, n in videos.items()},
            "view": {n: {"fid_list": [n]} for n in videos.values()},
            "metadata": metadata,
        }
    )


def as_label_studio(rows: Sequence[Row]) -> str:
    tasks = []
    for video in dict.fromkeys(row[0] for row in rows):
        result = []
        for number, (_, time_s, box, own, _) in enumerate(r for r in rows if r[0] == video):
            x, y, width, height = (100 * value for value in corner_and_size(box))
            one = {
                "frame": round(time_s * FPS),
                "time": time_s,
                "enabled": False,
                "rotation": 0,
                "x": x,
                "y": y,
                "width": width,
                "height": height,
            }
            value = {"sequence": [one], "labels": list(own), "framesCount": 350, "duration": 14.0}
            result.append({"id": str(number), "type": "videorectangle", "value": value})
        tasks.append({"data": {"video": f"{video}.mp4"}, "annotations": [{"result": result}]})
    return json.dumps(tasks)


WRITERS: dict[str, Callable[[Sequence[Row]], str]] = {
    "coco": as_coco, "cvat": as_cvat, "via": as_via, "label_studio": as_label_studio,
}  # fmt: skip


@pytest.mark.parametrize("name", WRITERS)
def test_the_truth_comes_back_as_it_was(
    name: str, truth: list[Row], playground: Path, tmp_path: Path
) -> None:
    rows = truth if name != "cvat" else [row for row in truth if row[0] == truth[0][0]]
    source = tmp_path / "exported"
    source.write_text(WRITERS[name](rows))
    labels = playground / "action_list.pbtxt"
    own = {action for row in rows for action in row[3]} if name == "cvat" else set()
    request = Request(
        labels=labels, fps=FPS, size_px=(WIDTH, HEIGHT), attributes=tuple(sorted(own))
    )
    result = run(name, source, tmp_path / "ava", request)

    table = read_annotations(result.annotations)
    names = read_labels(labels).names
    found = {
        (video, time_s, tuple(round(side, 4) for side in box), names[action])
        for video, time_s, box, action in zip(
            *(c.tolist() for c in (table.video, table.timestamp, table.box, table.action)),
            strict=True,
        )
    }
    wanted = {
        (video, time_s, tuple(round(min(max(side, 0.0), 1.0), 4) for side in box), action)
        for video, time_s, box, actions, _ in rows
        for action in actions
    }
    assert found == wanted
    if name != "label_studio":  # which does not say who it is
        assert set(table.person.tolist()) == {row[4] for row in rows}
    assert len(read_person_boxes(result.boxes).score) == len(rows)

    files = ava_validate.Files(result.annotations, result.labels, result.boxes)
    report = ava_validate.run(files, None)
    assert report.problems == []
    assert report.counts["boxes_recall"] == 1.0


def test_names_that_no_line_holds_are_told_all_at_once(truth: list[Row], tmp_path: Path) -> None:
    source = tmp_path / "exported"
    rows = [(f"{v}\n", t, b, (*actions, "a\x1bb"), p) for v, t, b, actions, p in truth]
    source.write_text(as_via(rows))
    with pytest.raises(AnnotationError) as error:
        run("via", source, tmp_path / "ava", Request(size_px=(WIDTH, HEIGHT)))
    told = str(error.value)
    assert f"video {rows[0][0]!r}" in told
    assert r"action 'a\x1bb'" in told
    assert not (tmp_path / "ava").exists()


def test_ctrl_c_between_the_files_leaves_none(truth: list[Row], tmp_path: Path) -> None:
    source, out = tmp_path / "exported", tmp_path / "ava"
    source.write_text(as_via(truth))

    def interrupt(frame: FrameType, event: str, argument: object) -> None:
        if event == "call" and frame.f_code.co_name == "write_labels":
            raise KeyboardInterrupt

    sys.setprofile(interrupt)
    try:
        with pytest.raises(KeyboardInterrupt):
            run("via", source, out, Request(size_px=(WIDTH, HEIGHT)))
    finally:
        sys.setprofile(None)
    assert not out.exists()


def test_a_label_map_with_one_name_under_two_ids_is_refused(
    truth: list[Row], tmp_path: Path
) -> None:
    source, labels = tmp_path / "exported", tmp_path / "labels.pbtxt"
    source.write_text(as_via(truth))
    names = dict.fromkeys(action for row in truth for action in row[3])
    write_labels(labels, LabelMap(dict(enumerate([*names, next(iter(names))], 1))))
    with pytest.raises(AnnotationError, match="actions with several ids in the label map") as error:
        run("via", source, tmp_path / "ava", Request(labels=labels, size_px=(WIDTH, HEIGHT)))
    assert f"{next(iter(names))!r}: 1, {len(names) + 1}" in str(error.value)
