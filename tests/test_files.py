"""Files are whole or absent, whatever happens on the way."""

import os
from pathlib import Path

import pytest

from vidssl.errors import OutputError
from vidssl.files import replacing, replacing_folder, sha256, sync, write_text


def test_a_file_takes_its_name_only_when_it_is_whole(tmp_path: Path) -> None:
    path = tmp_path / "deep" / "file.txt"
    with replacing(path) as aside:
        aside.write_text("new")
        assert not path.exists()
        assert aside.parent == path.parent  # the same disk, so that it can be renamed
    assert path.read_text() == "new"
    assert [p.name for p in path.parent.iterdir()] == ["file.txt"]


def fail(path: Path, failure: BaseException) -> None:
    with replacing(path) as aside:
        aside.write_text("half")
        raise failure


def test_a_failure_leaves_the_old_content_and_nothing_else(tmp_path: Path) -> None:
    path = tmp_path / "file.txt"
    write_text(path, "old")
    for failure in (ValueError("a bug"), KeyboardInterrupt()):
        with pytest.raises(type(failure)):
            fail(path, failure)
    with pytest.raises(OutputError, match=r"file\.txt: cannot be written: No space left"):
        fail(path, OSError(28, "No space left on device"))
    assert path.read_text() == "old"
    assert [p.name for p in tmp_path.iterdir()] == ["file.txt"]


def test_writing_nothing_at_all_is_told_of(tmp_path: Path) -> None:
    with pytest.raises(OutputError, match="No such file"), replacing(tmp_path / "file.txt"):
        pass
    assert list(tmp_path.iterdir()) == []


def test_a_place_that_cannot_be_written_is_told_of(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    for path in (tmp_path / "file" / "below.txt", tmp_path):
        with pytest.raises(OutputError, match="cannot be written"):
            write_text(path, "text")


def test_text_is_written_as_utf_8(tmp_path: Path) -> None:
    write_text(tmp_path / "text", "é → 日本\n")
    assert (tmp_path / "text").read_bytes() == "é → 日本\n".encode()


def test_the_hash_is_that_of_the_content(tmp_path: Path) -> None:
    (tmp_path / "abc").write_bytes(b"abc")  # the example of the standard
    assert sha256(tmp_path / "abc").startswith("ba7816bf8f01cfea414140de5dae2223")


def test_syncing_leaves_no_file_open(tmp_path: Path) -> None:
    if not Path("/proc/self/fd").is_dir():
        pytest.skip("needs /proc")
    before = len(os.listdir("/proc/self/fd"))
    for _ in range(5):
        sync(tmp_path)
        write_text(tmp_path / "file", "text")
    assert len(os.listdir("/proc/self/fd")) == before


def test_a_folder_takes_its_name_only_when_it_is_whole(tmp_path: Path) -> None:
    path = tmp_path / "deep" / "out"
    with replacing_folder(path) as aside:
        (aside / "file.txt").write_text("new")
        assert not path.exists()
    assert [p.name for p in path.parent.iterdir()] == ["out"]
    assert (path / "file.txt").read_text() == "new"
    with pytest.raises(OutputError, match="out: is there already"), replacing_folder(path):
        pass
    assert (path / "file.txt").read_text() == "new"
    with pytest.raises(OutputError, match="is there already"), replacing_folder(Path(".")):
        pass


def fail_in_folder(path: Path, failure: BaseException) -> None:
    with replacing_folder(path) as aside:
        (aside / "file.txt").write_text("half")
        raise failure


@pytest.mark.parametrize("failure", [ValueError("a bug"), KeyboardInterrupt(), OSError(28, "full")])
def test_a_folder_that_fails_goes_with_those_made_above_it(
    tmp_path: Path, failure: BaseException
) -> None:
    (tmp_path / "there").mkdir()
    kind = OutputError if isinstance(failure, OSError) else type(failure)
    with pytest.raises(kind):
        fail_in_folder(tmp_path / "there" / "not" / "yet" / "out", failure)
    assert list((tmp_path / "there").iterdir()) == []
