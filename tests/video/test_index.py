"""The index on disk: what is written comes back, and other processes open it by its path."""

import multiprocessing
import pickle
import resource
import signal
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from vidssl.errors import OutputError, SourceError
from vidssl.video.index import (
    GROUP_ROWS,
    SCHEMA,
    ClipIndex,
    Rows,
    has_map,
    is_index,
    read_rows,
    set_aside,
    tables,
    write_index,
)
from vidssl.video.probe import VideoFacts, probe


@pytest.fixture
def rows(tmp_path: Path, write_numbered: Callable[..., Path]) -> list[VideoFacts]:
    """Two good videos around an empty file and one that is not there."""
    (tmp_path / "empty.mp4").touch()
    write_numbered(tmp_path / "a.mp4", 20)
    write_numbered(tmp_path / "d é.mp4", 35)
    return [probe(str(tmp_path / name)) for name in ("a.mp4", "empty.mp4", "gone.mp4", "d é.mp4")]


@pytest.fixture
def path(tmp_path: Path, rows: list[VideoFacts]) -> Path:
    write_index(tmp_path / "index.parquet", rows)
    return tmp_path / "index.parquet"


def test_every_row_comes_back_as_it_was(path: Path, rows: list[VideoFacts]) -> None:
    assert [row.status for row in rows] == ["ok", "empty", "missing", "ok"]
    assert read_rows(path) == rows
    assert is_index(path)


def test_the_usable_videos_are_numbered_and_the_others_counted(
    path: Path, rows: list[VideoFacts], tmp_path: Path
) -> None:
    index = ClipIndex(path)
    assert (len(index), index.set_aside) == (2, 2)
    assert index.paths() == [str(tmp_path / "a.mp4"), str(tmp_path / "d é.mp4")]
    assert index.video(1)[0] == str(tmp_path / "d é.mp4")
    assert index.video(1)[1] == pytest.approx(3.5)


def test_an_index_is_pickled_as_its_path_and_opened_anew(path: Path) -> None:
    index = ClipIndex(path)
    content = pickle.dumps(index)
    assert len(content) < 500
    assert pickle.loads(content).paths() == index.paths()
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        assert pool.apply(ClipIndex.fingerprint, (index,)) == index.fingerprint()


def test_the_fingerprint_follows_names_and_lengths_not_places(
    path: Path, rows: list[VideoFacts], tmp_path: Path
) -> None:
    def fingerprint(*changed: VideoFacts) -> str:
        write_index(tmp_path / "other.parquet", changed)
        return ClipIndex(tmp_path / "other.parquet").fingerprint()

    a, _, _, d = rows
    moved = VideoFacts(**{**vars(a), "path": "/elsewhere/a.mp4"})
    renamed = VideoFacts(**{**vars(a), "path": "/elsewhere/b.mp4"})
    longer = VideoFacts(**{**vars(a), "duration_s": 9.0})
    same = ClipIndex(path).fingerprint()
    assert fingerprint(a, d) == fingerprint(moved, d) == same
    assert len({same, fingerprint(renamed, d), fingerprint(longer, d), fingerprint(a)}) == 4


def test_an_index_without_a_usable_video_names_the_others(tmp_path: Path) -> None:
    (tmp_path / "empty.mp4").touch()
    path = tmp_path / "index.parquet"
    write_index(path, [probe(str(tmp_path / "empty.mp4")), VideoFacts("/x.mp4", status="crashed")])
    with pytest.raises(SourceError) as caught:
        ClipIndex(path)
    assert "index.parquet: none of the 2 videos can be decoded" in str(caught.value)
    assert f"{tmp_path / 'empty.mp4'}: the file is empty" in str(caught.value)
    assert "  crashed" in str(caught.value)


def test_what_is_no_index_is_refused(tmp_path: Path) -> None:
    (tmp_path / "words.parquet").write_text("words")
    pq.write_table(pa.table({"path": ["a.mp4"]}), tmp_path / "list.parquet")
    for name in ("words.parquet", "list.parquet", "absent.parquet"):
        assert not is_index(tmp_path / name)
        with pytest.raises(SourceError, match=rf"{name}: not an index: expected the Parquet file"):
            ClipIndex(tmp_path / name)


def test_an_index_that_cannot_be_written_leaves_the_old_one(
    path: Path, rows: list[VideoFacts]
) -> None:
    folder = path.parent
    before = sorted(folder.iterdir())
    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1000, limits[1]))  # as a full disk would
    try:
        with pytest.raises(
            OutputError, match=r"index\.parquet: cannot be written: .*File too large"
        ):
            write_index(path, rows * 100)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert read_rows(path) == rows
    assert sorted(folder.iterdir()) == before


def test_other_readers_of_parquet_see_a_table_and_nothing_else(
    path: Path, rows: list[VideoFacts]
) -> None:
    assert has_map(path)
    assert pq.read_table(path).to_pylist() == [vars(row) for row in rows]
    assert pq.read_table(path).schema.equals(SCHEMA)


def test_a_table_that_another_tool_wrote_is_read_all_the_same(path: Path, tmp_path: Path) -> None:
    other = tmp_path / "other.parquet"
    pq.write_table(pq.read_table(path), other)
    assert not has_map(other)
    index, same = ClipIndex(path), ClipIndex(other)
    assert same.paths() == index.paths()
    assert same.duration_s.tolist() == index.duration_s.tolist()
    assert same.positions.tolist() == index.positions.tolist() == [0, 3]
    assert same.fingerprint() == index.fingerprint()


def test_an_index_of_the_first_format_is_read(
    path: Path, rows: list[VideoFacts], tmp_path: Path
) -> None:
    old = tmp_path / "old.parquet"
    pq.write_table(pq.read_table(path).drop_columns(["cut_off"]), old)
    assert is_index(old)
    assert [row.path for row in read_rows(old)] == [row.path for row in rows]
    assert not any(row.cut_off for row in read_rows(old))
    assert len(ClipIndex(old)) == 2


def test_the_map_of_a_shortened_or_replaced_file_is_not_believed(
    path: Path, tmp_path: Path
) -> None:
    content = path.read_bytes()
    (tmp_path / "cut.parquet").write_bytes(content[:-100])
    assert not is_index(tmp_path / "cut.parquet")
    with pytest.raises(SourceError, match="not an index"):
        ClipIndex(tmp_path / "cut.parquet")
    # The same bytes at another place: what the trailer says no longer fits.
    moved = tmp_path / "moved.parquet"
    moved.write_bytes(b"PAR1" + content)
    assert not has_map(moved)


def test_an_open_index_is_not_disturbed_by_a_new_one(path: Path, rows: list[VideoFacts]) -> None:
    index = ClipIndex(path)
    write_index(path, rows[3:])
    assert len(index) == 2
    assert index.video(1)[0] == rows[3].path
    assert ClipIndex(path).paths() == [rows[3].path]


def test_positions_count_from_either_end(path: Path, rows: list[VideoFacts]) -> None:
    index = ClipIndex(path)
    assert index.video(-1) == index.video(1)
    for wrong in (2, -3):
        with pytest.raises(IndexError):
            index.video(wrong)


def test_rows_of_several_files_are_taken_in_any_order(tmp_path: Path) -> None:
    sizes = [3, GROUP_ROWS + 5, 2]
    paths, first = [], 0
    for number, size in enumerate(sizes):
        paths.append(tmp_path / f"{number}.parquet")
        numbers = range(first, first + size)
        write_index(paths[-1], (VideoFacts(f"/v/{n}.mp4", frames=n) for n in numbers))
        first += size
    rows = Rows(paths)
    assert len(rows) == first == sum(sizes)
    assert rows.columns(["frames"])["frames"].to_pylist() == list(range(first))
    wanted = np.random.default_rng(0).permutation(first)
    parts = list(rows.take(wanted))
    assert [len(part) for part in parts] == [GROUP_ROWS, first - GROUP_ROWS]
    taken = pa.concat_tables(parts)
    assert taken["frames"].to_numpy().tolist() == wanted.tolist()
    assert taken["path"].to_pylist()[:2] == [f"/v/{n}.mp4" for n in wanted[:2]]
    assert len(Rows([])) == 0


def test_rows_come_in_tables_of_a_bounded_size() -> None:
    made = tables(VideoFacts(f"{n}") for n in range(GROUP_ROWS + 1))
    assert [len(table) for table in made] == [GROUP_ROWS, 1]


def test_what_is_set_aside_is_given_with_its_reason(path: Path, rows: list[VideoFacts]) -> None:
    assert list(set_aside(path)) == rows[1:3]
