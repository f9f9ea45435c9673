"""The index on disk: what is written comes back, and other processes open it by its path."""

import multiprocessing
import os
import pickle
from collections.abc import Callable
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from vidssl.errors import OutputError, SourceError
from vidssl.video.index import ClipIndex, is_index, read_rows, reusable, write_index
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


def test_a_changed_file_is_looked_at_anew(
    path: Path, tmp_path: Path, write_numbered: Callable[..., Path]
) -> None:
    def known(name: str) -> bool:
        stat = (tmp_path / name).stat()
        return (str(tmp_path / name), stat.st_size, stat.st_mtime) in reusable(read_rows(path))

    assert known("a.mp4")
    assert known("d é.mp4")
    os.utime(tmp_path / "a.mp4", (1, 1))  # touched
    assert not known("a.mp4")
    times = (tmp_path / "d é.mp4").stat()
    write_numbered(tmp_path / "d é.mp4", 10)  # another content, its time set back
    os.utime(tmp_path / "d é.mp4", ns=(times.st_atime_ns, times.st_mtime_ns))
    assert not known("d é.mp4")


def test_an_index_that_cannot_be_written_leaves_the_old_one(
    path: Path, rows: list[VideoFacts], monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(pq, "write_table", full)
    with pytest.raises(OutputError, match=r"index\.parquet: cannot be written: No space left"):
        write_index(path, rows[:1])
    assert read_rows(path) == rows
