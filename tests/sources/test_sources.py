"""From a name on the command line to videos: folders, lists of every form, what is absent."""

import importlib
import os
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from vidssl import sources
from vidssl.errors import SourceError
from vidssl.video.index import write_index
from vidssl.video.probe import VideoFacts


def scan(source: str) -> list[Path]:
    return [Path(location) for location in sources.scan(source)]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Three files with a video's name (nothing is opened here), and others without."""
    for name in ("b.mp4", "a.MKV", "deep/er/c.avi", "notes.txt", "b.jpg", "d.mp4/inside.webm"):
        path = tmp_path / "videos" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
    return tmp_path / "videos"


def test_a_folder_gives_the_videos_below_it_sorted_by_path(folder: Path) -> None:
    # d.mp4 is a folder: no video itself, but what lies in it counts.
    names = ["a.MKV", "b.mp4", "d.mp4/inside.webm", "deep/er/c.avi"]
    assert scan(str(folder)) == [folder / name for name in names]


def test_one_file_stands_for_itself_whatever_its_suffix(folder: Path) -> None:
    assert scan(str(folder / "b.mp4")) == [folder / "b.mp4"]
    assert scan(str(folder / "b.jpg")) == [folder / "b.jpg"]  # the probe will judge it


def test_a_relative_name_gives_absolute_paths(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # An index must hold in another working folder than the one it was made in.
    monkeypatch.chdir(folder.parent)
    (folder.parent / "list.txt").write_text("videos/b.mp4\n")
    for source in ("videos/b.mp4", "list.txt"):
        assert scan(source) == [folder / "b.mp4"]
    assert scan("videos")[0] == folder / "a.MKV"


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("list.txt", "b.mp4\n\ndeep/er/c.avi\nb.mp4\n"),
        ("windows.txt", "\ufeffb.mp4\r\ndeep/er/c.avi\r\n"),
        ("list.csv", "path,label\nb.mp4,3\ndeep/er/c.avi,4\n"),
        ("windows.csv", "\ufeffLabel, Path \r\n3,b.mp4\r\n\r\n4,deep/er/c.avi\r\n"),
        ("quoted.csv", 'path\n"b.mp4"\n"deep/er/c.avi"\n'),
    ],
)
def test_a_list_gives_its_videos_in_its_order_each_once(
    name: str, content: str, folder: Path
) -> None:
    (folder / name).write_bytes(content.encode())
    assert scan(str(folder / name)) == [folder / "b.mp4", folder / "deep/er/c.avi"]


def test_a_parquet_table_and_an_index_are_lists(folder: Path, tmp_path: Path) -> None:
    table = pa.table({"label": [1, 2], "path": ["deep/er/c.avi", str(folder / "b.mp4")]})
    pq.write_table(table, folder / "list.parquet")
    expected = [folder / "deep/er/c.avi", folder / "b.mp4"]
    assert scan(str(folder / "list.parquet")) == expected
    (tmp_path / "elsewhere").mkdir()
    rows = [VideoFacts(str(path)) for path in expected]
    write_index(tmp_path / "elsewhere" / "index.parquet", rows)
    assert scan(str(tmp_path / "elsewhere" / "index.parquet")) == expected


@pytest.mark.parametrize(
    "name", ['"a" film.mp4', '"half.mp4', "one, two.mp4", " [1] é.mp4", "line\u2028break.mp4"]
)
def test_every_line_of_a_text_list_is_one_name_as_it_stands(name: str, folder: Path) -> None:
    path = folder / name.strip()
    path.touch()
    (folder / "list.txt").write_text(f"{name}\nb.mp4\n", encoding="utf-8")
    assert scan(str(folder / "list.txt")) == [path, folder / "b.mp4"]


def test_a_quoted_name_in_a_csv_may_hold_anything(folder: Path) -> None:
    for name in ("one, two.mp4", "line\nbreak.mp4", 'a "film".mp4'):
        (folder / name).touch()
    (folder / "list.csv").write_text(
        'path,label\n"one, two.mp4",1\n"line\nbreak.mp4",2\n"a ""film"".mp4",3\n'
    )
    names = [path.name for path in scan(str(folder / "list.csv"))]
    assert names == ["one, two.mp4", "line\nbreak.mp4", 'a "film".mp4']


@pytest.mark.parametrize(
    ("header", "rows", "messages"),
    [
        ("path,start_s,end_s", ["b.mp4,2,1", "b.mp4,1,2"], [":2: end_s 1 is before start_s 2"]),
        ("path,label", ["b.mp4,-3", "b.mp4,-1"], [":2: expected a label from 0, or -1 for none"]),
        ("path,label", ["b.mp4,1", "b.mp4,2", "b.mp4,run"], [":4: expected a number as label"]),
        ("path,label", ["b.mp4,run", "b.mp4,1", "b.mp4,sit"], [":3: expected a name as label"]),
        ("path,label", ["b.mp4,1", "b.mp4,", "b.mp4"], [":3: no label", ":4: no label"]),
    ],
)
def test_labels_and_times_that_make_no_sense_are_told_with_their_lines(
    header: str, rows: list[str], messages: list[str], folder: Path
) -> None:
    (folder / "list.csv").write_text("\n".join([header, *rows]))
    with pytest.raises(SourceError) as caught:
        scan(str(folder / "list.csv"))
    told = str(caught.value).splitlines()[1:]
    assert len(told) == len(messages)
    assert all(one in line for one, line in zip(messages, told, strict=True))


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ('path\nb.mp4\n"deep/er/c.avi\nb.mp4\n', ":3: not a csv file (a quote is opened and not"),
        ('path\nb.mp4\n"deep"/er/c.avi\n', ":3: not a csv file ("),
        ("path,label,path\nb.mp4,1,a.MKV\n", ":1: expected each column once, found path twice"),
    ],
)
def test_a_csv_that_could_be_read_in_two_ways_is_refused(
    content: str, message: str, folder: Path
) -> None:
    (folder / "list.csv").write_text(content)
    with pytest.raises(SourceError) as caught:
        scan(str(folder / "list.csv"))
    assert f"list.csv{message}" in str(caught.value)


def test_a_list_of_which_part_is_absent_is_kept_whole_for_the_index_to_tell(folder: Path) -> None:
    (folder / "list.txt").write_text("gone.mp4\nb.mp4\n")
    assert scan(str(folder / "list.txt")) == [folder / "gone.mp4", folder / "b.mp4"]


def test_a_list_of_which_all_is_absent_tells_where(folder: Path) -> None:
    (folder / "list.csv").write_text("path\ngone.mp4\nlost.mp4\n")
    with pytest.raises(SourceError) as caught:
        scan(str(folder / "list.csv"))
    message = str(caught.value)
    assert "list.csv: none of the 2 videos is there" in message
    assert f"list.csv:2: no such file: {folder / 'gone.mp4'}" in message
    assert f"list.csv:3: no such file: {folder / 'lost.mp4'}" in message


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("empty.txt", b"\n \n", "empty.txt: the list names no video"),
        ("empty.csv", b"", "empty.csv: the list names no video"),
        ("header.csv", b"path,label\n", "header.csv: the list names no video"),
        (
            "column.csv",
            b"paths,label\nb.mp4,1\n",
            r"column\.csv:1: expected a column named path, found \['paths', 'label'\]; "
            "did you mean 'paths'",
        ),
        ("short.csv", b"label,path\n1,b.mp4\n2\n", r"short\.csv:3: no path in this row"),
        ("latin.csv", "path\né.mp4\n".encode("latin-1"), r"latin\.csv: not a text file in UTF-8"),
        ("long.csv", b"path\n" + b"x" * 200_000, r"long\.csv:2: not a csv file \(field larger"),
        ("not.parquet", b"words", r"not\.parquet: not a Parquet table"),
    ],
)
def test_a_list_that_cannot_be_used_says_why(
    name: str, content: bytes, message: str, folder: Path
) -> None:
    (folder / name).write_bytes(content)
    with pytest.raises(SourceError, match=message):
        scan(str(folder / name))


def test_a_parquet_table_needs_paths_that_are_text(folder: Path) -> None:
    pq.write_table(pa.table({"file": ["b.mp4"]}), folder / "other.parquet")
    with pytest.raises(SourceError, match=r"other\.parquet: not a Parquet table with a column"):
        scan(str(folder / "other.parquet"))
    pq.write_table(pa.table({"path": ["b.mp4", None]}), folder / "holes.parquet")
    with pytest.raises(SourceError, match=r"must hold text:\n  row 2: None"):
        scan(str(folder / "holes.parquet"))


def test_a_path_that_is_not_there_names_the_nearest_that_is(folder: Path) -> None:
    with pytest.raises(SourceError, match=r"vidoes: no such file or folder; did you mean 'videos'"):
        scan(str(folder.parent / "vidoes"))
    with pytest.raises(SourceError, match=rf"nor is there a folder {folder / 'gone'}\)"):
        scan(str(folder / "gone" / "b.mp4"))


def test_a_folder_without_videos_says_what_was_looked_for(tmp_path: Path) -> None:
    (tmp_path / "notes.txt").touch()
    with pytest.raises(SourceError, match=r"holds no video file \(looked for .*\.mp4"):
        scan(str(tmp_path))


def test_a_named_source_that_is_not_known_names_those_that_are(tmp_path: Path) -> None:
    with pytest.raises(
        SourceError,
        match=r"no source 'playgruond' .*did you mean 'playground'\? \(choices: .*listing",
    ):
        scan(f"playgruond:{tmp_path}")


def test_a_file_with_a_colon_is_a_file(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (folder / "take:two.mp4").touch()
    monkeypatch.chdir(folder)
    assert scan("take:two.mp4") == [folder / "take:two.mp4"]
    assert scan("listing:" + os.fspath(_list(folder))) == [folder / "b.mp4"]


def _list(folder: Path) -> Path:
    (folder / "list.txt").write_text("b.mp4\n")
    return folder / "list.txt"


def test_a_list_may_hold_labels_and_times(folder: Path) -> None:
    (folder / "list.csv").write_text(
        "class,path,start_s,end_s\nrun,b.mp4,0.5,1:02.5\nwalk,deep/er/c.avi,,\nrun,gone.mp4,1,2\n"
    )
    listing = sources.read(str(folder / "list.csv"))
    assert listing.classes == {0: "run", 1: "walk"}
    assert listing.entries.to_pylist() == [
        {"id": "b", "video": 0, "labels": [0], "start_s": 0.5, "end_s": 62.5},
        {"id": "c", "video": 1, "labels": [1], "start_s": None, "end_s": None},
        {"id": "gone", "video": None, "labels": [0], "start_s": 1.0, "end_s": 2.0},
    ]
    assert listing.by_class() == {0: (2, 1), 1: (1, 1)}
    assert listing.ledger.sentence() == "2 of 3 videos are present (66.7%), 1 missing"
    assert listing.ledger.missing == ("gone.mp4",)
    pq.write_table(pa.table({"path": ["b.mp4"], "label": [7]}), folder / "list.parquet")
    assert sources.read(str(folder / "list.parquet")).entries["labels"].to_pylist() == [[7]]
    (folder / "list.csv").write_text("path,start_s\nb.mp4,soon\n,1\n")
    with pytest.raises(SourceError) as caught:
        sources.read(str(folder / "list.csv"))
    assert str(caught.value).splitlines()[1:] == [
        f"  {folder}/list.csv:2: expected start_s in seconds, found 'soon'",
        f"  {folder}/list.csv:3: no path in this row",
    ]


def test_every_source_says_what_it_takes() -> None:
    # Each has its grammar in its docstring, and every option that it takes.
    names = [path.stem for path in Path(sources.__file__).parent.glob("[!_]*.py")]
    assert len(names) > 10
    for name in names:
        module = importlib.import_module(f"vidssl.sources.{name}")
        assert callable(module.read)
        if name != "playground":
            grammar = str(module.__doc__).split(f"{name}:PATH")[1]
            assert all(f"[,{option}=" in grammar for option in module.OPTIONS), name
