"""``vidssl ava validate`` and ``ava import``, as a person with data of their own runs them."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from typer.testing import Result

Cli = Callable[..., Result]
Refused = Callable[..., str]

LABELS = 'item { name: "walk" id: 1 }\nitem { name: "wave" id: 2 }\n'
ROWS = [
    "park,0001,0.1,0.1,0.3,0.5,1,0",
    "park,0001,0.1,0.1,0.3,0.5,2,0",
    "park,0001,0.5,0.1,0.9,0.9,1,1",
    "park,0002,0.1,0.1,0.3,0.5,1,0",
    "lane,0001,0.2,0.2,0.4,0.8,2,0",
]


@pytest.fixture
def data(tmp_path: Path) -> Callable[..., list[object]]:
    """Write a data set with these rows and give the arguments that name it."""

    def write(*rows: str, labels: str = LABELS, **others: list[str]) -> list[object]:
        (tmp_path / "train.csv").write_text("\n".join(rows or ROWS) + "\n")
        (tmp_path / "labels.pbtxt").write_text(labels)
        arguments: list[object] = ["--annotations", tmp_path / "train.csv"]
        arguments += ["--labels", tmp_path / "labels.pbtxt"]
        for name, lines in others.items():
            (tmp_path / f"{name}.csv").write_text("\n".join(lines) + "\n")
            arguments += [f"--{name}", tmp_path / f"{name}.csv"]
        return arguments

    return write


Data = Callable[..., list[object]]


def report(cli: Cli, *arguments: object, code: int = 0) -> dict[str, Any]:
    result = cli("ava", "validate", *arguments, "--json", "-")
    assert result.exit_code == code, result.output
    found: dict[str, Any] = json.loads(result.stdout)
    return found


def told(found: list[dict[str, Any]]) -> list[str]:
    return [f"{one['file']}:{one['line']}: {one['what']}" for one in found]


def test_a_sound_data_set_is_counted(cli: Cli, data: Data) -> None:
    boxes = ["park,0001,0.1,0.1,0.3,0.5,,0.9", "park,0002,0.6,0.6,0.7,0.7,,0.5"]
    arguments = data(boxes=boxes, excluded=["park,0009"])
    found = report(cli, *arguments)
    assert found["sound"] is True
    assert found["problems"] == []
    counts = found["counts"]
    assert (counts["rows"], counts["videos"], counts["key_frames"], counts["people"]) == (
        5,
        2,
        3,
        4,
    )
    assert (counts["classes"], counts["classes_used"], counts["spacing_s"]) == (2, 2, 1.0)
    # Two of three key frames have a box; one of four people is met.
    assert counts["boxes_share_of_key_frames"] == pytest.approx(2 / 3)
    assert counts["boxes_recall"] == 0.25
    assert told(found["warnings"]) == [
        "boxes.csv:None: 1 of 3 annotated key frames have no box; nothing can be predicted there"
    ]
    result = cli("ava", "validate", *arguments)
    assert result.exit_code == 0
    assert (
        "5 rows: 4 people in 3 key frames, 1 s apart of 2 videos, 2 of 2 classes" in result.stdout
    )
    assert result.stdout.splitlines()[-1] == "sound: 0 problems, 1 warning"


def test_all_mistakes_of_all_files_are_told_at_once(cli: Cli, data: Data) -> None:
    arguments = data(
        "park,0001,0.1,0.1,0.3,0.5,1,0",
        "park,0001,0.1,0.1,0.3,0.5,1,0",
        "park,0001,0.2,0.1,0.3,0.5,2,0",
        "park,soon,0.1,0.1,0.3,0.5,1,0",
        "park,0002,12,14,96,90,1,0",
        "park,0002,0.1,0.1,0.3,0.5,0,0",
        "park,0002,0.1,0.1",
        "lane,0003",
        "lane,0003,0.1,0.1,0.3,0.5,1,0",
        labels=LABELS + "item { name: 'run' id: 2 }\n",
        boxes=["park,0001,0.1,0.1,0.3,0.5,7,0.9", "park,0001,0.1,0.1,0.3,0.5,,9"],
        excluded=["park"],
    )
    lines = told(report(cli, *arguments, code=2)["problems"])
    assert any(line.startswith("labels.pbtxt:3: repeated id") for line in lines)
    # Without a label map, labels are not held against it, but the rest of the rows is.
    for expected in (
        "train.csv:4: malformed timestamp: expected seconds from 0 up, found soon",
        "train.csv:5: box outside [0, 1]",
        "train.csv:6: label outside the list: expected an id from 1 up (were the labels counted",
        "train.csv:7: wrong number of columns: expected 8",
        "boxes.csv:1: not a person box",
        "boxes.csv:2: score outside [0, 1]",
        "excluded.csv:1: wrong number of columns: expected 2",
    ):
        assert any(line.replace("'", "").startswith(expected) for line in lines), (expected, lines)
    (Path(str(arguments[3]))).write_text(LABELS)
    lines = told(report(cli, *arguments, code=2)["problems"])
    for expected in (
        "train.csv:2: repeated row: expected each box and class once in a key frame, found that of "
        "line 1 again (park at 1 s)",
        "train.csv:3: person 0 in two places: expected the box of line 1, found another",
        "train.csv:8: an empty key frame: expected no boxes in it, found some in other rows",
    ):
        assert any(line.startswith(expected) for line in lines), (expected, lines)
    assert len(lines) == 10


def test_more_than_twenty_mistakes_are_all_in_the_json(cli: Cli, data: Data) -> None:
    rows = [f"park,{n:04d},0.9,0.1,0.3,0.5,1,0" for n in range(60)]
    arguments = data(*rows, boxes=["park,0001,0.9,0.1,0.3,0.5,,1"])
    assert len(report(cli, *arguments, code=2)["problems"]) == 61
    shown = cli("ava", "validate", *arguments).stdout
    assert "... and 40 more problems of train.csv (--json has all)" in shown
    assert "problem: boxes.csv:1: empty box" in shown


def test_labels_counted_from_0_are_told_of(cli: Cli, data: Data) -> None:
    found = report(cli, *data("park,0001,0.1,0.1,0.3,0.5,0,0", ROWS[0]), code=2)
    assert "train.csv:None: no row has label 2, some have 0: add 1 to all?" in told(
        found["warnings"]
    )


@pytest.mark.parametrize(
    ("name", "hint"),
    [
        ("clips/park.mp4", "leave out the folder and the suffix, as in 'park'"),
        ("Park", "it is written 'park' there"),
    ],
)
def test_ids_that_are_written_otherwise_are_problems(
    cli: Cli, data: Data, name: str, hint: str
) -> None:
    boxes = [f"{name},0001,0.1,0.1,0.3,0.5,,0.9", "lane,0001,0.2,0.2,0.4,0.8,,0.9"]
    found = report(cli, *data(boxes=boxes), code=2)
    assert told(found["problems"]) == [f"boxes.csv:None: {name!r} is not annotated: {hint}"]


def test_boxes_on_another_clock_are_told_of(cli: Cli, data: Data) -> None:
    found = report(cli, *data(boxes=["park,0901,0.1,0.1,0.3,0.5,,0.9"]), code=2)
    assert told(found["problems"]) == [
        "boxes.csv:None: no box is in an annotated key frame: 'park' is annotated 1..2 s, "
        "has boxes 901..901 s (another time origin?)"
    ]


def test_predictions_that_would_score_0_are_told_why(cli: Cli, data: Data) -> None:
    swapped = ["park,0001,0.1,0.1,0.5,0.3,1,0.9", "park,0001,0.1,0.5,0.9,0.9,1,0.9"]
    found = report(cli, *data(predictions=swapped), code=2)
    assert any(
        "would score 0: no predicted box overlaps" in line for line in told(found["problems"])
    )


def test_key_frames_close_to_one_another_and_exclusions_are_warned_of(cli: Cli, data: Data) -> None:
    rows = [f"park,{n},0.1,0.1,0.3,0.5,1,0" for n in (1, 2, 3, 3.01, 4)]
    found = report(cli, *data(*rows, excluded=["park,0002", "moon,0001"]))
    warnings = told(found["warnings"])
    assert any(
        "nearly on top of one another, 1 s apart elsewhere: park at 3 and 3.01" in w
        for w in warnings
    )
    assert any(
        w.startswith("excluded.csv:1: 1 excluded key frames are annotated") for w in warnings
    )
    assert any("1 of 2 classes have no row: 2 (wave)" in w for w in warnings)


def test_videos_are_held_against_the_key_frames(
    cli: Cli, playground: Path, index: Path, tmp_path: Path
) -> None:
    arguments = ["--labels", playground / "action_list.pbtxt", "--videos", index]
    found = report(cli, "--annotations", playground / "train.csv", *arguments)
    assert found["counts"]["videos_there"] == 3
    assert found["counts"]["key_frames_outside"] == 0
    assert found["time_origins"][0]["origin_s"] == 0.0
    rows = (playground / "train.csv").read_text().splitlines()
    late = rows[0].split(",")
    late[1] = "0700"
    lost = ["train_0009", *rows[0].split(",")[1:]]
    changed = tmp_path / "train.csv"
    changed.write_text("\n".join([*rows, ",".join(late), ",".join(lost)]) + "\n")
    found = report(cli, "--annotations", changed, *arguments, code=2)
    assert len(found["problems"]) == 1
    assert found["problems"][0]["line"] == len(rows) + 1
    assert found["problems"][0]["what"].startswith("outside of the video: expected 0 to 14.")
    assert any(
        "1 of 4 annotated videos are not there (1 rows): train_0009; did you mean" in one["what"]
        for one in found["warnings"]
    )


def test_the_playground_is_sound(cli: Cli, playground: Path) -> None:
    for split in ("train", "val"):
        found = report(
            cli,
            *("--annotations", playground / f"{split}.csv"),
            *("--labels", playground / "action_list.pbtxt"),
            *("--boxes", playground / f"{split}_person_detections.csv"),
            *("--excluded", playground / f"{split}_excluded_timestamps.csv"),
        )
        assert found["problems"] == []
        assert found["counts"]["boxes_recall"] > 0.5


@pytest.mark.parametrize("option", ["--annotations", "--labels", "--boxes"])
def test_a_missing_file_is_one_problem_among_the_others(cli: Cli, data: Data, option: str) -> None:
    arguments = data(boxes=["park,0001,0.1,0.1,0.3,0.5,,0.9"])
    at = arguments.index(option) + 1
    path = Path(str(arguments[at]))
    arguments[at] = path.with_stem(path.stem + "s")
    lines = told(report(cli, *arguments, code=2)["problems"])
    assert any(f"no such file; did you mean {path.name!r}?" in line for line in lines)


def test_folders_and_absent_videos_are_problems_too(cli: Cli, data: Data) -> None:
    arguments = data()
    lines = told(report(cli, *arguments, "--boxes", ".", "--videos", "nowhere", code=2)["problems"])
    assert lines == [
        ".:None: cannot be read: Is a directory",
        "nowhere:None: no such file or folder",
    ]


# --- import


def coco(tmp_path: Path) -> Path:
    images = [
        {"id": n, "file_name": f"park/{n:06d}.jpg", "width": 200, "height": 100} for n in range(30)
    ]
    boxes = [
        {"id": n, "image_id": n, "category_id": 1 + n // 20, "bbox": [n, 10, 40, 30], "track_id": 2}
        for n in range(30)
    ]
    categories = [{"id": 1, "name": "walk"}, {"id": 2, "name": "wave"}, {"id": 3, "name": "run"}]
    path = tmp_path / "coco.json"
    path.write_text(json.dumps({"images": images, "annotations": boxes, "categories": categories}))
    return path


@pytest.fixture
def exported(tmp_path: Path) -> Path:
    """A file of COCO with one person at 10 pictures a second, walking for 2 s and then waving."""
    return coco(tmp_path)


def test_what_is_imported_is_sound(cli: Cli, exported: Path, tmp_path: Path) -> None:
    out = tmp_path / "ava"
    result = cli("ava", "import", "coco", exported, "--out", out, "--fps", 10)
    assert result.exit_code == 0, result.output
    assert "annotations.csv: 3 rows of 3 classes in 3 key frames of 1 videos" in result.stdout
    assert "note: 27 of 30 annotated boxes are at no multiple of 1 s" in result.stdout
    assert (out / "annotations.csv").read_text().splitlines() == [
        "park,0000,0.0,0.1,0.2,0.4,1,2",
        "park,0001,0.05,0.1,0.25,0.4,1,2",
        "park,0002,0.1,0.1,0.3,0.4,2,2",
    ]
    assert (out / "boxes.csv").read_text().splitlines()[0] == "park,0000,0.0,0.1,0.2,0.4,,1.0"
    arguments = ["--annotations", out / "annotations.csv", "--labels", out / "labels.pbtxt"]
    found = report(cli, *arguments, "--boxes", out / "boxes.csv")
    assert found["problems"] == []
    assert found["counts"]["boxes_recall"] == 1.0


def test_key_frames_may_be_closer_or_every_moment(cli: Cli, exported: Path, tmp_path: Path) -> None:
    counts = {}
    for every in ("0.5", "0"):
        out = tmp_path / every
        options = ["--fps", 10, "--every", every, "--out", out, "--json", "-"]
        counts[every] = json.loads(cli("ava", "import", "coco", exported, *options).stdout)
    assert (counts["0.5"]["key_frames"], counts["0"]["key_frames"]) == (6, 30)
    assert counts["0"]["classes"] == {"1": "walk", "2": "wave", "3": "run"}


def test_a_label_map_decides_the_ids(cli: Cli, exported: Path, tmp_path: Path) -> None:
    labels = tmp_path / "list.pbtxt"
    labels.write_text('item { name: "wave" id: 12 }\nitem { name: "walk" id: 80 }\n')
    options = ["--fps", 10, "--labels", labels, "--out", tmp_path / "ava"]
    assert cli("ava", "import", "coco", exported, *options).exit_code == 0
    rows = (tmp_path / "ava" / "annotations.csv").read_text().splitlines()
    assert [row.split(",")[6] for row in rows] == ["80", "80", "12"]


def test_size_and_rate_come_from_the_videos(
    cli: Cli, playground: Path, index: Path, tmp_path: Path
) -> None:
    held = json.loads(coco(tmp_path).read_text())
    for image in held["images"]:
        image["file_name"] = image["file_name"].replace("park", "train_000")
    path = tmp_path / "coco.json"
    path.write_text(json.dumps(held))
    result = cli("ava", "import", "coco", path, "--videos", index, "--out", tmp_path / "ava")
    assert result.exit_code == 0, result.output
    first = (tmp_path / "ava" / "annotations.csv").read_text().splitlines()
    assert {row.split(",")[0] for row in first} == {"train_000"}
    arguments = ["--labels", tmp_path / "ava" / "labels.pbtxt", "--videos", index]
    found = report(cli, "--annotations", tmp_path / "ava" / "annotations.csv", *arguments)
    assert found["problems"] == []


def test_an_unknown_format_is_answered_with_the_nearest(refused: Refused, exported: Path) -> None:
    message = refused("ava", "import", "coc", exported, "--out", "ava")
    assert "no format 'coc' in vidssl.ava.formats; did you mean 'coco'?" in message
    assert "(choices: coco, cvat, label_studio, via)" in message


def test_refused_imports_leave_nothing_behind(refused: Refused, exported: Path) -> None:
    start = ["ava", "import", "coco", exported, "--out", "ava"]
    assert "frame rate not known: expected --fps or --videos" in refused(*start)
    assert "coco.json:1:1: not XML" in refused("ava", "import", "cvat", exported, "--out", "ava")
    assert "expected WIDTHxHEIGHT" in refused(*start, "--size", "200")
    message = refused(*start, "--fps", 10, "--labels", "no.pbtxt")
    assert "no.pbtxt: no such file" in message
    Path("list.pbtxt").write_text('item { name: "walks" id: 1 }\n')
    message = refused(*start, "--fps", 10, "--labels", "list.pbtxt")
    assert "actions that the label map does not have:" in message
    assert "'walk'; did you mean 'walks'?" in message
    for every in ("1e-9", "inf"):
        message = refused(*start, "--fps", 10, "--every", every)
        assert "--every: expected 0, or seconds from 0.001 up" in message
    message = refused("ava", "import", "coco", "coca.json", "--out", "ava")
    assert "coca.json: no such file; did you mean 'coco.json'?" in message


def test_a_grid_that_meets_nothing_is_told_of(refused: Refused, exported: Path) -> None:
    held = json.loads(exported.read_text())
    held["annotations"] = [one for one in held["annotations"] if one["image_id"] % 10 == 4]
    exported.write_text(json.dumps(held))
    message = refused("ava", "import", "coco", exported, "--fps", 10, "--out", "ava")
    assert "no box is at a multiple of 1 s: found 3 moments from 0.4 to 2.4 s" in message
    assert "--every 0 takes every annotated moment" in message


def test_files_that_are_there_are_not_written_over(refused: Refused, exported: Path) -> None:
    Path("ava").mkdir()
    Path("ava/labels.pbtxt").write_text(LABELS)
    message = refused("ava", "import", "coco", exported, "--fps", 10, "--out", "ava")
    assert "ava: has labels.pbtxt already; choose another folder for --out" in message
    shutil.rmtree("ava")
    Path("ava").write_text("")
    message = refused("ava", "import", "coco", exported, "--fps", 10, "--out", "ava")
    assert "ava: is a file; expected a folder to write" in message
