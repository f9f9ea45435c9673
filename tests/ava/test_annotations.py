"""AVA tables: every published layout, what is refused and how it is said, exact round trips."""

from collections.abc import Callable
from dataclasses import fields
from pathlib import Path

import numpy as np
import pytest

from vidssl.ava import rows
from vidssl.ava.annotations import (
    Annotations,
    PersonBoxes,
    Predictions,
    group_keyframes,
    keyframes,
    read_annotations,
    read_excluded,
    read_person_boxes,
    read_predictions,
    stamp,
    write_annotations,
    write_excluded,
    write_person_boxes,
    write_predictions,
)
from vidssl.ava.labels import LabelMap
from vidssl.boxes import Boxes
from vidssl.errors import AnnotationError, OutputError

Write = Callable[..., Path]
Table = Annotations | Predictions | PersonBoxes

EIGHT = [
    "a,0902,0.002,0.118,0.714,0.977,12,1",
    "a,0902,0.002,0.118,0.714,0.977,79,1",
    "b,0903,0,0.25,0.5,1,3,0",
]
WHOLE = LabelMap({label: f"action {label}" for label in range(1, 81)})


def same(one: Table, two: Table) -> bool:
    return type(one) is type(two) and all(
        np.array_equal(
            getattr(one, part.name), getattr(two, part.name), equal_nan=part.name == "box"
        )
        for part in fields(one)
    )


def message_of(read: Callable[..., object], *arguments: object) -> str:
    with pytest.raises(AnnotationError) as caught:
        read(*arguments)
    return str(caught.value)


def test_eight_columns_are_read(write: Write) -> None:
    table = read_annotations(write("train.csv", *EIGHT), WHOLE)
    assert table.video.tolist() == ["a", "a", "b"]
    assert table.timestamp.tolist() == [902.0, 902.0, 903.0]
    assert table.box.tolist()[2] == [0.0, 0.25, 0.5, 1.0]
    assert table.action.tolist() == [12, 79, 3]
    assert table.person.tolist() == [1, 1, 0]


def test_seven_columns_have_no_person(write: Write) -> None:
    table = read_annotations(write("test.csv", *(row.rsplit(",", 1)[0] for row in EIGHT)))
    assert table.action.tolist() == [12, 79, 3]
    assert table.person.tolist() == [-1, -1, -1]


@pytest.mark.parametrize("row", [EIGHT[0], EIGHT[0].rsplit(",", 1)[0]])
def test_two_columns_are_a_key_frame_without_a_box(write: Write, row: str) -> None:
    table = read_annotations(write("kinetics.csv", "a,10.5", row, "b,3.25"))
    assert table.timestamp.tolist() == [10.5, 902.0, 3.25]
    assert table.action.tolist() == [0, 12, 0]
    assert np.isnan(table.box).all(axis=1).tolist() == [True, False, True]
    assert table.person[[0, 2]].tolist() == [-1, -1]


def test_line_ends_a_byte_order_mark_a_header_and_blank_lines_change_nothing(write: Write) -> None:
    plain = read_annotations(write("plain.csv", *EIGHT))
    header = "video_id,timestamp,x1,y1,x2,y2,action_id,person_id"
    variants = {
        "crlf.csv": "\r\n".join(EIGHT).encode(),
        "bom.csv": b"\xef\xbb\xbf" + "\n".join(EIGHT).encode(),
        "both.csv": b"\xef\xbb\xbf" + "".join(f"{row}\r\n" for row in [header, *EIGHT]).encode(),
        "blank.csv": ("\n" + "\n\n".join(EIGHT) + "\n  \n").encode(),
        "quoted.csv": "\n".join(row.replace("a,", '"a",', 1) for row in EIGHT).encode(),
    }
    for name, data in variants.items():
        assert same(read_annotations(write(name, data=data)), plain), name


def test_line_numbers_count_headers_and_blank_lines(write: Write) -> None:
    header = "video_id,timestamp,x1,y1,x2,y2,action_id,person_id"
    path = write("train.csv", header, "", EIGHT[0], "", EIGHT[1].replace("79", "seventy"))
    assert "train.csv:5: malformed action" in message_of(read_annotations, path)


def test_line_numbers_go_on_from_block_to_block(
    write: Write, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(rows, "BLOCK_ROWS", 2)
    good = read_annotations(write("good.csv", *EIGHT))
    assert len(good.action) == 3
    bad = write("bad.csv", *EIGHT, EIGHT[0].replace("0902", "x"), EIGHT[0].replace("12", "y"))
    message = message_of(read_annotations, bad)
    assert "bad.csv:4: malformed timestamp" in message
    assert "bad.csv:5: malformed action" in message


def test_a_missing_column_is_refused_where_it_is_missing(write: Write) -> None:
    path = write("val.csv", EIGHT[0], EIGHT[1].replace("0.118,", ""), EIGHT[2])
    assert message_of(read_annotations, path) == (
        f"{path} has 1 problem:\n"
        "  val.csv:2: wrong number of columns: expected 8 "
        "(video,timestamp,x1,y1,x2,y2,action,person), found 7 (a,0902,0.002,0.714,0.977,79,1)"
    )


def test_all_problems_of_a_file_come_at_once_in_the_order_of_the_lines(write: Write) -> None:
    path = write(
        "val.csv",
        *EIGHT,
        "a,0902,0.1,abc,0.3,0.4,12,1",
        "a,0902,0.1,0.2,0.3,1.2,12,1",
        "a,0902,0.1,0.2,0.3,0.4,81,1",
        "a,0902,0.1,0.2,0.3",
        "a,-1,0.1,0.2,0.3,0.4,12,1",
        ",0902,0.3,0.2,0.3,0.4,12,one",
    )
    title, *problems = message_of(read_annotations, path, WHOLE).splitlines()
    assert title == f"{path} has 8 problems:"
    assert problems == [
        "  val.csv:4: malformed number: expected y1 as a number, found 'abc'",
        "  val.csv:5: box outside [0, 1]: expected normalised x1,y1,x2,y2, found 0.1,0.2,0.3,1.2",
        "  val.csv:6: label outside the list: expected an id from 1 to 80, found '81'",
        "  val.csv:7: wrong number of columns: expected 8 "
        "(video,timestamp,x1,y1,x2,y2,action,person), found 5 (a,0902,0.1,0.2,0.3)",
        "  val.csv:8: malformed timestamp: expected seconds from 0 up, found '-1'",
        "  val.csv:9: no video: expected the name of a video, found ''",
        "  val.csv:9: empty box: expected x1 < x2 and y1 < y2, found 0.3,0.2,0.3,0.4",
        "  val.csv:9: malformed person id: expected a whole number "
        "(a score? then the file holds predictions), found 'one'",
    ]


def test_a_long_list_of_problems_is_cut_and_counted(write: Write) -> None:
    path = write("val.csv", *["a,0902,0.1,0.2,0.3,0.4,zero,1"] * 50)
    message = message_of(read_annotations, path)
    assert "has 50 problems" in message
    assert message.endswith("... and 30 more")


@pytest.mark.parametrize("cell", ["abc", "", "nan", "inf", "-inf", "1e999", "0_1", "0,1", "0x1"])
def test_a_malformed_number_is_refused(write: Write, cell: str) -> None:
    quoted = f'"{cell}"' if "," in cell else cell
    path = write("val.csv", f"a,0902,{quoted},0.2,0.9,0.4,12,1")
    expected = f"val.csv:1: malformed number: expected x1 as a number, found {cell!r}"
    assert expected in message_of(read_annotations, path)


@pytest.mark.parametrize("cell", ["1.0", "", "one", "1_2", "9" * 30])
def test_a_malformed_action_is_refused(write: Write, cell: str) -> None:
    path = write("val.csv", f"a,0902,0.1,0.2,0.3,0.4,{cell},1")
    assert "val.csv:1: malformed action" in message_of(read_annotations, path)


def test_boxes_in_pixels_are_named_as_such(write: Write) -> None:
    message = message_of(read_annotations, write("val.csv", "a,0902,12,30,200,400,12,1"))
    assert "found 12,30,200,400 (boxes look like pixels; divide by the frame size)" in message


@pytest.mark.parametrize("edge", ["1.0000005", "-0.0000005"])
def test_the_rounding_of_a_float32_is_no_mistake_and_is_kept(write: Write, edge: str) -> None:
    low, high = sorted([edge, "0.5"], key=float)
    table = read_annotations(write("val.csv", f"a,0902,{low},0.2,{high},0.4,12,1"))
    assert float(edge) in table.box[0].tolist()


@pytest.mark.parametrize("edge", ["1.00001", "-0.00001", "1.5"])
def test_a_box_beyond_rounding_is_refused(write: Write, edge: str) -> None:
    low, high = sorted([edge, "0.5"], key=float)
    path = write("val.csv", f"a,0902,{low},0.2,{high},0.4,12,1")
    assert "val.csv:1: box outside [0, 1]" in message_of(read_annotations, path)


def test_labels_counted_from_0_are_named_as_such(write: Write) -> None:
    message = message_of(read_annotations, write("val.csv", "a,0902,0.1,0.2,0.3,0.4,0,1"))
    assert "label outside the list: expected an id from 1 up (were the labels counted" in message


def test_a_white_list_lets_the_other_actions_of_ava_through(write: Write) -> None:
    white_list = LabelMap({10: "run", 11: "sit", 12: "stand"})
    assert read_annotations(write("val.csv", *EIGHT), white_list).action.tolist() == [12, 79, 3]
    beyond = write("beyond.csv", EIGHT[0].replace(",12,", ",81,"))
    assert "from 1 to 80, found '81'" in message_of(read_annotations, beyond, white_list)


def test_predictions_given_as_annotations_are_recognised(write: Write) -> None:
    message = message_of(read_annotations, write("p.csv", "a,0902,0.1,0.2,0.3,0.4,12,0.93"))
    assert "malformed person id" in message
    assert "then the file holds predictions" in message


@pytest.mark.parametrize("read", [read_annotations, read_predictions, read_person_boxes])
def test_an_empty_file_is_refused(write: Write, read: Callable[[Path], object]) -> None:
    header = "video_id,timestamp,x1,y1,x2,y2,action_id,score"
    for data in (b"", b"\n\r\n", b"\xef\xbb\xbf", header.encode()):
        path = write("empty.csv", data=data)
        assert message_of(read, path) == f"{path}: empty: expected rows of a csv file, found none"


@pytest.mark.parametrize(
    "read", [read_annotations, read_predictions, read_person_boxes, read_excluded]
)
def test_a_missing_file_gets_a_suggestion(write: Write, read: Callable[[Path], object]) -> None:
    path = write("ava_val_v2.2.csv", *EIGHT).with_name("ava_val_v2.1.csv")
    assert message_of(read, path) == f"{path}: no such file; did you mean 'ava_val_v2.2.csv'?"


def test_a_file_in_a_missing_folder_and_a_folder_are_refused(tmp_path: Path) -> None:
    assert message_of(read_annotations, tmp_path / "no" / "val.csv").endswith("no such file")
    assert "cannot be read" in message_of(read_annotations, tmp_path)


def test_bytes_that_are_no_text_are_refused_with_their_line(write: Write) -> None:
    path = write("val.csv", data=f"{EIGHT[0]}\nb\xe9b\xe9,".encode("latin-1"))
    assert message_of(read_annotations, path) == (
        "val.csv:2: not text: expected UTF-8, found the byte 0xe9"
    )


@pytest.mark.parametrize(
    "row", ['"a,0902,0.1,0.2,0.3,0.4,12,1', '"a\nb",0902,0.1,0.2,0.3,0.4,12,1']
)
def test_a_quote_that_runs_over_the_line_is_refused(write: Write, row: str) -> None:
    assert "not a csv row" in message_of(read_annotations, write("val.csv", EIGHT[0], row))


def test_predictions_are_read_in_their_order(write: Write) -> None:
    path = write(
        "pred.csv",
        "b,0903,0.1,0.2,0.3,0.4,5,0.25",
        "c,0904",
        "a,0902,0.1,0.2,0.3,0.4,12,1e-07",
    )
    table = read_predictions(path, WHOLE)
    assert table.video.tolist() == ["b", "c", "a"]
    assert table.action.tolist() == [5, 0, 12]
    assert table.score.tolist() == [0.25, 0.0, 1e-07]


def test_predictions_without_a_score_are_refused(write: Write) -> None:
    message = message_of(read_predictions, write("pred.csv", "a,0902,0.1,0.2,0.3,0.4,12"))
    assert "pred.csv:1: wrong number of columns: expected 8" in message
    assert "(video,timestamp,x1,y1,x2,y2,action,score), found 7" in message


def test_person_boxes_given_as_predictions_are_recognised(write: Write) -> None:
    message = message_of(read_predictions, write("boxes.csv", "a,0902,0.1,0.2,0.3,0.4,,0.9"))
    assert "malformed action: expected a whole number (empty? then" in message


@pytest.mark.parametrize("cell", ["high", "", "nan"])
def test_a_malformed_score_is_refused(write: Write, cell: str) -> None:
    path = write("pred.csv", f"a,0902,0.1,0.2,0.3,0.4,12,{cell}")
    expected = f"pred.csv:1: malformed number: expected the score, found {cell!r}"
    assert expected in message_of(read_predictions, path)


@pytest.mark.parametrize(
    ("row", "score"),
    [
        ("a,0902,0.1,0.2,0.3,0.4,,0.25", 0.25),
        ("a,0902,0.1,0.2,0.3,0.4,0.25", 0.25),
        ("a,0902,0.1,0.2,0.3,0.4", 1.0),
    ],
)
def test_person_boxes_have_three_layouts(write: Write, row: str, score: float) -> None:
    table = read_person_boxes(write("boxes.csv", row))
    assert table.score.tolist() == [score]
    assert table.box.tolist() == [[0.1, 0.2, 0.3, 0.4]]


def test_person_boxes_below_the_least_score_are_left_out(write: Write) -> None:
    path = write("boxes.csv", *(f"a,{s},0.1,0.2,0.3,0.4,,0.{s}" for s in (3, 8, 5, 9)))
    assert read_person_boxes(path, min_score=0.8).timestamp.tolist() == [8.0, 9.0]


def test_annotations_given_as_person_boxes_are_recognised(write: Write) -> None:
    message = message_of(read_person_boxes, write("train.csv", *EIGHT))
    assert "not a person box: expected an empty 7th column (an action?" in message
    seven = write("test.csv", EIGHT[0].rsplit(",", 1)[0])
    assert "score outside [0, 1]: expected a confidence" in message_of(read_person_boxes, seven)


def test_excluded_key_frames_are_compared_to_a_microsecond(write: Write) -> None:
    path = write("excluded.csv", "a,0902", "a,902.0000001", "b,7.5")
    assert read_excluded(path) == {("a", 902.0), ("b", 7.5)}
    assert read_excluded(write("none.csv")) == frozenset()


def test_a_malformed_exclusion_is_refused(write: Write) -> None:
    message = message_of(read_excluded, write("excluded.csv", "a,0902", "a", "b,late"))
    assert "excluded.csv:2: wrong number of columns: expected 2 (video,timestamp)" in message
    assert (
        "excluded.csv:3: malformed timestamp: expected seconds from 0 up, found 'late'" in message
    )


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(2.0, "0002"), (902.0, "0902"), (12345.0, "12345"), (1.5, "1.500000"), (2.9999999999, "0003")],
)
def test_whole_seconds_are_written_with_four_digits(seconds: float, text: str) -> None:
    assert stamp(seconds) == text


def random_boxes(rng: np.random.Generator, count: int) -> Boxes:
    corner = rng.random((count, 2)) * 0.5
    return np.concatenate([corner, corner + 0.1 + rng.random((count, 2)) * 0.4], axis=1)


def test_every_table_is_read_back_to_the_last_digit(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    video = np.array(["a", "b,c", "ü 1", 'q"q'])
    seconds = np.array([902.0, 7.25, 0.0, 1798.0])
    box, score = random_boxes(rng, 4), rng.random(4)
    action = np.array([3, 80, 1, 5])
    path = tmp_path / "table.csv"

    predictions = Predictions(video, seconds, box, action, score)
    write_predictions(path, predictions)
    assert same(read_predictions(path), predictions)

    people = PersonBoxes(video, seconds, box, score)
    write_person_boxes(path, people)
    assert same(read_person_boxes(path), people)

    for person in (np.array([0, 4, -1, 2]), np.full(4, -1)):
        annotations = Annotations(video, seconds, box, action, person)
        write_annotations(path, annotations)
        assert same(read_annotations(path), annotations)

    excluded = frozenset({("b,c", 7.25), ("a", 902.0)})
    write_excluded(path, excluded)
    assert read_excluded(path) == excluded
    assert list(tmp_path.iterdir()) == [path]


def test_key_frames_without_a_box_survive_a_round_trip(tmp_path: Path, write: Write) -> None:
    path, copy = write("table.csv", "a,0901", EIGHT[0]), tmp_path / "copy"
    annotations = read_annotations(path)
    write_annotations(copy, annotations)
    assert same(read_annotations(copy), annotations)
    assert copy.read_text().splitlines()[0] == "a,0901"

    predictions = read_predictions(path)
    write_predictions(copy, predictions)
    assert same(read_predictions(copy), predictions)
    assert copy.read_text().splitlines()[0] == "a,0901"


def test_an_interrupted_write_leaves_the_old_file(write: Write) -> None:
    path = write("pred.csv", "old")
    broken = Predictions(
        np.array(["a", "b"]), np.array([1.0, 2.0]), np.zeros((2, 4)), np.ones(2, int), np.zeros(1)
    )
    with pytest.raises(ValueError, match="shorter"):
        write_predictions(path, broken)
    assert path.read_text() == "old\n"
    assert list(path.parent.iterdir()) == [path]


def test_a_folder_cannot_be_written_over(tmp_path: Path) -> None:
    with pytest.raises(OutputError, match="cannot be written"):
        write_excluded(tmp_path, [("a", 1.0)])


FRAMES = [
    "b,0903,0.1,0.1,0.5,0.5,2,7",
    "a,0902,0.1,0.1,0.5,0.5,1,4",
    "b,0903,0.2,0.2,0.6,0.6,3,8",
    "b,0903,0.1,0.1,0.5,0.5,3,7",
    "c,5.5",
    "b,0904,0.1,0.1,0.5,0.5,1,9",
]


def test_key_frames_come_once_in_the_order_of_the_file(write: Write) -> None:
    table = read_annotations(write("train.csv", *FRAMES))
    assert keyframes(table) == [("b", 903.0), ("a", 902.0), ("c", 5.5), ("b", 904.0)]


def test_rows_of_one_box_are_one_person_with_several_labels(write: Write) -> None:
    table = read_annotations(write("train.csv", *FRAMES))
    first, second, empty, last = group_keyframes(table, num_classes=3)
    assert (first.video, first.timestamp) == ("b", 903.0)
    assert first.boxes.tolist() == [[0.1, 0.1, 0.5, 0.5], [0.2, 0.2, 0.6, 0.6]]
    assert first.labels.tolist() == [[False, True, True], [False, False, True]]
    assert first.persons.tolist() == [7, 8]
    assert (second.video, second.persons.tolist()) == ("a", [4])
    assert (empty.boxes.shape, empty.labels.shape, empty.persons.shape) == ((0, 4), (0, 3), (0,))
    assert last.labels.tolist() == [[True, False, False]]


def test_excluded_key_frames_are_not_grouped(write: Write) -> None:
    table = read_annotations(write("train.csv", *FRAMES))
    frames = group_keyframes(table, 3, frozenset({("b", 903.0000001), ("z", 1.0)}))
    assert [(frame.video, frame.timestamp) for frame in frames] == [
        ("a", 902.0),
        ("c", 5.5),
        ("b", 904.0),
    ]


def test_an_action_beyond_the_classes_cannot_be_grouped(write: Write) -> None:
    table = read_annotations(write("train.csv", *FRAMES))
    with pytest.raises(AnnotationError, match="expected ids up to 2 classes, found 3"):
        group_keyframes(table, num_classes=2)


def test_grouping_keeps_every_row_of_random_annotations() -> None:
    rng = np.random.default_rng(1)
    count = 500
    table = Annotations(
        rng.choice(["a", "b", "c"], count),
        rng.integers(0, 20, count).astype(float),
        random_boxes(rng, 4)[rng.integers(0, 4, count)],
        rng.integers(1, 6, count),
        np.full(count, -1),
    )
    rows_of = zip(table.video, table.timestamp, map(tuple, table.box), table.action, strict=True)
    expected = {(v, t, b, a) for v, t, b, a in rows_of}
    found = {
        (frame.video, frame.timestamp, tuple(box), column + 1)
        for frame in group_keyframes(table, 5)
        for box, labels in zip(frame.boxes, frame.labels, strict=True)
        for column in np.flatnonzero(labels)
    }
    assert found == expected


def test_the_published_files_are_read(shared_data: Path) -> None:
    published = shared_data / "ava_annotations"
    v22 = read_annotations(published / "ava_val_v2.2_sample_64rows.csv", WHOLE)
    assert len(v22.action) == 64
    assert keyframes(v22)[0] == ("1j20qq1JyX4", 902.0)
    v10 = read_annotations(shared_data / "ava_eval" / "ava_v1_test" / "ava_test_v1.0.csv", WHOLE)
    assert (len(v10.action), len(set(v10.video.tolist())), len(keyframes(v10))) == (
        41425,
        38,
        10140,
    )
    assert len(read_excluded(published / "ava_val_excluded_timestamps_v2.2.csv")) == 37
    duo = shared_data / "jhmdb_duo_dev"
    frames = group_keyframes(read_annotations(duo / "val.csv"), 14)
    assert sum(len(frame.boxes) for frame in frames) == 120
    assert {int(row.sum()) for frame in frames for row in frame.labels} == {2}
    people = read_person_boxes(duo / "val_person_detections.csv", min_score=0.5)
    assert people.score.min() >= 0.5
    assert len(read_person_boxes(duo / "val_person_detections.csv").score) == 819
