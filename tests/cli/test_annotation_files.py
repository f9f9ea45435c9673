"""Annotations, boxes, labels and exclusions with mistakes, for every command that reads them."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from typer.testing import Result

Cli = Callable[..., Result]
Refused = Callable[..., str]
COMMANDS = ("finetune", "eval-ava", "eval-ava --checkpoint")


@pytest.fixture(params=COMMANDS)
def command(
    request: pytest.FixtureRequest,
    playground_copy: Path,
    tiny: dict[str, Path],
    index: Path,
    detector: Path,
    tmp_path: Path,
) -> list[object]:
    """A command that reads all files of ``playground_copy``; it runs below ``tmp_path``."""
    split = "train" if request.param == "finetune" else "val"
    files: list[object] = [
        *("--annotations", playground_copy / f"{split}.csv"),
        *("--labels", playground_copy / "action_list.pbtxt"),
        *("--excluded", playground_copy / f"{split}_excluded_timestamps.csv"),
    ]
    boxes = ["--boxes", playground_copy / f"{split}_person_detections.csv"]
    if request.param == "finetune":
        encoder = ("--encoder", detector, "--videos", index)
        return ["finetune", tiny["detection"], *encoder, *files, *boxes, "--out", "run"]
    if request.param == "eval-ava":
        return ["eval-ava", "--predictions", playground_copy / "val.csv", *files]
    shutil.copytree(detector, tmp_path / "detector")
    return ["eval-ava", "--checkpoint", "detector", "--videos", index, *files, *boxes]


def argument(command: list[object], option: str) -> Path:
    """Return the file that an option names, or skip a command that does not have it."""
    if option not in command:
        pytest.skip(f"this form of the command has no {option}")
    return Path(str(command[command.index(option) + 1]))


def with_lines(path: Path, lines: dict[int, str]) -> None:
    """Put other text on some lines of a file, counted from 1."""
    text = path.read_text().splitlines()
    for number, line in lines.items():
        text[number - 1] = line
    path.write_text("\n".join(text) + "\n")


def cells(path: Path, number: int, changes: dict[int, str]) -> str:
    """Return a line of a csv file with other cells."""
    row = path.read_text().splitlines()[number - 1].split(",")
    return ",".join(changes.get(column, cell) for column, cell in enumerate(row))


def test_all_mistakes_of_annotations_are_told_at_once_with_file_and_line(
    refused: Refused, command: list[object]
) -> None:
    path = argument(command, "--annotations")
    missing = ",".join(path.read_text().splitlines()[1].split(",")[:5])
    with_lines(
        path,
        {
            2: missing,
            4: cells(path, 4, {6: "99"}),
            5: cells(path, 5, {4: "1.5"}),
            7: cells(path, 7, {3: "left"}),
            8: cells(path, 8, {1: "soon"}),
            9: cells(path, 9, {2: "0.9", 4: "0.1"}),
            10: cells(path, 10, {2: "12", 4: "96"}),
        },
    )
    told = refused(*command)
    assert f"{path} has 7 problems:" in told
    where, layout = path.name, "video,timestamp,x1,y1,x2,y2,action,person"
    assert f"{where}:2: wrong number of columns: expected 8 ({layout}), found 5 (" in told
    assert f"{where}:4: label outside the list: expected an id from 1 to 9, found '99'" in told
    assert f"{where}:5: box outside [0, 1]: expected normalised x1,y1,x2,y2, found" in told
    assert f"{where}:7: malformed number: expected y1 as a number, found 'left'" in told
    assert f"{where}:8: malformed timestamp: expected seconds from 0 up, found 'soon'" in told
    assert f"{where}:9: empty box: expected x1 < x2 and y1 < y2, found 0.9" in told
    assert f"{where}:10: box outside [0, 1]" in told
    assert "(boxes look like pixels; divide by the frame size)" in told


def test_labels_counted_from_0_are_told_of(refused: Refused, command: list[object]) -> None:
    path = argument(command, "--annotations")
    with_lines(path, {3: cells(path, 3, {6: "0"})})
    told = refused(*command)
    assert f"{path.name}:3: label outside the list: expected an id from 1 up" in told
    assert "were the labels counted from 0?" in told


@pytest.mark.parametrize("option", ["--annotations", "--labels", "--excluded", "--boxes"])
def test_a_missing_file_is_answered_with_the_nearest(
    refused: Refused, command: list[object], option: str
) -> None:
    path = argument(command, option)
    wrong = path.with_stem(path.stem + "s")
    told = refused(*(wrong if part == path else part for part in command))
    assert f"{wrong}: no such file; did you mean {path.name!r}?" in told


@pytest.mark.parametrize("option", ["--annotations", "--labels", "--boxes"])
def test_an_empty_file_is_told_of(refused: Refused, command: list[object], option: str) -> None:
    path = argument(command, option)
    path.write_text("")
    assert str(path) in refused(*command)


@pytest.mark.parametrize("option", ["--annotations", "--labels", "--excluded", "--boxes"])
def test_a_file_that_is_no_text_is_told_of(
    refused: Refused, command: list[object], option: str
) -> None:
    path = argument(command, option)
    path.write_bytes(b"train_000,0002\n\xff\xd8\n")
    told = refused(*command)
    assert f"{path.name}:2: not text: expected UTF-8, found the byte 0xff" in told


@pytest.mark.parametrize("option", ["--annotations", "--labels", "--excluded", "--boxes"])
def test_a_folder_in_place_of_a_file_is_told_of(
    refused: Refused, command: list[object], option: str, playground_copy: Path
) -> None:
    path = argument(command, option)
    told = refused(*(playground_copy if part == path else part for part in command))
    assert str(playground_copy) in told


def test_a_label_map_of_another_format_is_told_with_the_formats(
    refused: Refused, command: list[object]
) -> None:
    path = argument(command, "--labels")
    path.write_text('{"1": "shake", "2": "bounce"}\n')
    told = refused(*command)
    assert f"{path.name}:1: not a label map: expected 'item {{ name: ... id: ... }}'" in told
    path.write_text("item {\n  nmae: 'shake'\n  id: 1\n}\n")
    told = refused(*command)
    assert f"{path.name}:2: not a field of a label; did you mean 'name'?" in told


def test_all_mistakes_of_boxes_are_told_at_once(refused: Refused, command: list[object]) -> None:
    path = argument(command, "--boxes")
    with_lines(path, {2: cells(path, 2, {6: "3"}), 3: cells(path, 3, {7: "7"})})
    told = refused(*command)
    assert f"{path} has 2 problems:" in told
    assert f"{path.name}:2: not a person box: expected an empty 7th column" in told
    assert f"{path.name}:3: score outside [0, 1]" in told


def test_an_exclusion_with_too_many_columns_is_told_of(
    refused: Refused, command: list[object]
) -> None:
    path = argument(command, "--excluded")
    with_lines(path, {1: cells(path, 1, {}) + ",7"})
    assert f"{path.name}:1: wrong number of columns: expected 2 (video,timestamp)" in refused(
        *command
    )


# --- what must change nothing


@pytest.fixture(params=["CRLF", "BOM", "both"])
def rewritten(request: pytest.FixtureRequest, playground_copy: Path) -> None:
    """Give every file of the playground other line ends, a byte order mark, or both."""
    for path in [*playground_copy.glob("*.csv"), *playground_copy.glob("*.pbtxt")]:
        data = path.read_bytes()
        if request.param != "BOM":
            data = data.replace(b"\n", b"\r\n")
        path.write_bytes(data if request.param == "CRLF" else b"\xef\xbb\xbf" + data)


@pytest.mark.usefixtures("rewritten")
def test_line_ends_and_byte_order_marks_do_not_change_a_score(
    cli: Cli, playground: Path, playground_copy: Path
) -> None:
    plain, marked = (
        json.loads(cli(*_scoring(folder), "--json", "-").stdout)
        for folder in (playground, playground_copy)
    )
    assert marked["mean_ap"] == plain["mean_ap"] == pytest.approx(1.0)
    assert marked["ap"] == plain["ap"]


@pytest.mark.usefixtures("rewritten")
def test_line_ends_and_byte_order_marks_do_not_change_a_detector(
    cli: Cli,
    playground_copy: Path,
    tiny: dict[str, Path],
    index: Path,
    pretrained: Path,
    detector: Path,
    tmp_path: Path,
) -> None:
    result = cli(
        *("finetune", tiny["detection"], "--encoder", pretrained, "--videos", index),
        *("--annotations", playground_copy / "train.csv"),
        *("--labels", playground_copy / "action_list.pbtxt", "--out", tmp_path / "run"),
        *("--json", "-"),
    )
    card = json.loads((detector / "detector.json").read_text())
    assert json.loads(result.stdout)["detector_hash"] == card["hash"]


def _scoring(folder: Path) -> list[object]:
    """Score the truth as if a perfect detector had found it."""
    truth = [line.split(",") for line in (folder / "val.csv").read_text().splitlines()]
    predictions = folder.parent / f"{folder.name}-predictions.csv"
    predictions.write_text("\n".join(",".join([*row[:7], "1.0"]) for row in truth) + "\n")
    return [
        *("eval-ava", "--annotations", folder / "val.csv", "--predictions", predictions),
        *("--labels", folder / "action_list.pbtxt"),
    ]
