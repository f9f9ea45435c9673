"""Label maps in every published form, and what is said of a file in another one."""

from collections.abc import Callable
from pathlib import Path

import pytest

from vidssl.ava.labels import LabelMap, read_labels, write_labels
from vidssl.errors import AnnotationError, OutputError

Write = Callable[..., Path]

ITEMS = (
    'item {\n  name: "bend/bow (at the waist)"\n  id: 1\n}\nitem {\n  name: "swim"\n  id: 3\n}\n'
)
LABELS = 'label {\n  name: "bend"\n  label_id: 1\n  label_type: PERSON_MOVEMENT\n}\n'


def test_items_are_read_with_gaps_in_the_order_of_the_file(write: Write) -> None:
    labels = read_labels(write("map.pbtxt", data=ITEMS.encode()))
    assert labels.names == {1: "bend/bow (at the waist)", 3: "swim"}
    assert labels.ids == (1, 3)
    assert labels.size == 3
    assert labels.groups == {1: "", 3: ""}


def test_labels_keep_their_group(write: Write) -> None:
    labels = read_labels(write("map.pbtxt", data=LABELS.encode()))
    assert labels == LabelMap({1: "bend"}, {1: "PERSON_MOVEMENT"})


def test_the_csv_form_is_read(write: Write) -> None:
    path = write(
        "list.csv", "label_id,label_name,label_type", '2,"talk, loudly",PERSON', "1,crawl,MOVE"
    )
    labels = read_labels(path)
    assert labels.names == {2: "talk, loudly", 1: "crawl"}
    assert labels.groups == {2: "PERSON", 1: "MOVE"}


def test_line_ends_byte_order_marks_comments_and_layout_change_nothing(write: Write) -> None:
    plain = read_labels(write("plain.pbtxt", data=ITEMS.encode()))
    windows = b"\xef\xbb\xbf" + ITEMS.replace("\n", "\r\n").encode()
    assert read_labels(write("windows.pbtxt", data=windows)) == plain
    dense = "# a comment\n" + ITEMS.replace("\n", " ")
    assert read_labels(write("dense.pbtxt", data=dense.encode())) == plain


@pytest.mark.parametrize(
    ("names", "limit"),
    [
        ({1: "a", 2: "b"}, 2),  # a whole list: 3 would be a mistake
        ({10: "run", 11: "sit"}, 80),  # a white-list: AVA's other actions may occur
        ({1: "a", 90: "b"}, 90),
    ],
)
def test_a_map_with_gaps_allows_the_other_actions_of_ava(names: dict[int, str], limit: int) -> None:
    assert LabelMap(names).limit == limit


@pytest.mark.parametrize(
    ("text", "line", "found"),
    [
        ("1: bend/bow\n3: crouch\n", 1, "'1: bend/bow'"),
        ('{"0": "abseiling"}\n', 1, '\'{"0": "abseiling"}\''),
        ('item {\n  name: "a"\n  id: 1\n}\nvideo,0902,0.1\n', 5, "'video,0902,0.1'"),
        ("label,name\n1,a\n", 1, "'label,name'"),
    ],
)
def test_another_format_is_refused_with_line_expected_and_found(
    write: Write, text: str, line: int, found: str
) -> None:
    with pytest.raises(AnnotationError) as caught:
        read_labels(write("map.txt", data=text.encode()))
    message = str(caught.value)
    assert f"map.txt:{line}: not a label map" in message
    assert "expected 'item { name: ... id: ... }'" in message
    assert f"found {found}" in message


def test_a_misspelt_block_gets_a_suggestion(write: Write) -> None:
    with pytest.raises(AnnotationError, match="not a label map; did you mean 'item'"):
        read_labels(write("map.pbtxt", data=ITEMS.replace("item", "itme").encode()))


def test_a_misspelt_field_gets_a_suggestion(write: Write) -> None:
    with pytest.raises(AnnotationError, match=r":3: not a field .*did you mean 'label_id'"):
        read_labels(write("map.pbtxt", data=LABELS.replace("label_id", "labelid").encode()))


def test_an_unclosed_block_is_refused(write: Write) -> None:
    with pytest.raises(AnnotationError, match="block not closed: expected '}'"):
        read_labels(write("map.pbtxt", 'item { name: "a" id: 1'))


def test_all_problems_of_a_map_come_at_once(write: Write) -> None:
    path = write(
        "map.pbtxt",
        'item { name: "a" id: 1 }',
        'item { name: "b" id: 1 }',
        'item { name: "c" id: 0 }',
        'item { name: "d" id: x }',
        "item { id: 5 }",
        'item { name: "f" }',
    )
    with pytest.raises(AnnotationError) as caught:
        read_labels(path)
    title, *problems = str(caught.value).splitlines()
    assert title == f"{path} has 5 problems:"
    assert problems == [
        "  map.pbtxt:2: repeated id: expected each id once (it is 'a'), found 1",
        "  map.pbtxt:3: wrong id: expected a whole number from 1 to 1000000, found 0",
        "  map.pbtxt:4: wrong id: expected a whole number from 1 to 1000000, found x",
        "  map.pbtxt:5: label without a name: expected a name, found none",
        "  map.pbtxt:6: wrong id: expected a whole number from 1 to 1000000, found none",
    ]


def test_a_csv_row_of_another_width_is_refused(write: Write) -> None:
    path = write("list.csv", "label_id,label_name,label_type", "1,crawl")
    with pytest.raises(AnnotationError, match=r"list.csv:2: wrong number of columns: expected 3"):
        read_labels(path)


@pytest.mark.parametrize("data", [b"", b"\n\n", b"label_id,label_name,label_type\n"])
def test_an_empty_map_is_refused(write: Write, data: bytes) -> None:
    with pytest.raises(AnnotationError, match="no labels"):
        read_labels(write("map.pbtxt", data=data))


def test_a_missing_map_gets_a_suggestion(write: Write) -> None:
    path = write("ava_action_list.pbtxt", data=ITEMS.encode())
    with pytest.raises(AnnotationError, match=r"no such file; did you mean 'ava_action_list\.p"):
        read_labels(path.with_name("ava_action_lst.pbtxt"))


@pytest.mark.parametrize(
    "labels",
    [
        LabelMap({1: 'say "hi" \\ bye', 3: "swim"}, {1: "", 3: ""}),
        LabelMap({2: "sit", 1: "run"}, {2: "POSE", 1: "POSE"}),
    ],
)
def test_a_written_map_is_read_back(tmp_path: Path, labels: LabelMap) -> None:
    path = tmp_path / "map.pbtxt"
    write_labels(path, labels)
    assert read_labels(path) == labels
    assert list(tmp_path.iterdir()) == [path]


def test_a_written_map_has_the_two_spaces_that_the_official_parser_looks_for(
    tmp_path: Path,
) -> None:
    write_labels(tmp_path / "map.pbtxt", LabelMap({7: "jump"}, {7: "POSE"}))
    lines = (tmp_path / "map.pbtxt").read_text().splitlines()
    assert lines == ["label {", '  name: "jump"', "  label_id: 7", "  label_type: POSE", "}"]


def test_a_map_cannot_be_written_into_a_folder_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(OutputError, match=r"map.pbtxt: cannot be written"):
        write_labels(tmp_path / "absent" / "map.pbtxt", LabelMap({1: "a"}))


def test_the_published_maps_are_read(shared_data: Path) -> None:
    folder = shared_data / "ava_annotations"
    v22 = read_labels(folder / "ava_action_list_v2.2.pbtxt")
    scored = read_labels(folder / "ava_action_list_v2.2_for_activitynet_2019.pbtxt")
    v20 = read_labels(folder / "ava_action_list_v2.0.csv")
    assert (len(v22.ids), v22.size, v22.limit) == (80, 80, 80)
    assert (len(scored.ids), scored.size, scored.limit) == (60, 80, 80)
    assert v20.ids == v22.ids
    assert set(v22.groups.values()) == {
        "PERSON_MOVEMENT",
        "OBJECT_MANIPULATION",
        "PERSON_INTERACTION",
    }
    assert all(v22.names[label] == name for label, name in scored.names.items())
    with pytest.raises(AnnotationError, match="not a label map"):
        read_labels(folder / "mmaction2_ava_label_map.txt")


def test_a_name_over_several_lines_is_neither_read_nor_written(
    write: Write, tmp_path: Path
) -> None:
    data = b'label_id,label_name,label_type\n1,"walk\nslowly",\n'
    path = write("map.csv", data=data)
    with pytest.raises(AnnotationError, match=r"control character: expected a name on one line"):
        read_labels(path)
    for name in ("walk\nslowly", "\x1bwalk", "walk\u2028", "\ud800"):
        with pytest.raises(ValueError, match="names with control characters"):
            write_labels(tmp_path / "new.pbtxt", LabelMap({1: name}))
    assert not (tmp_path / "new.pbtxt").exists()
