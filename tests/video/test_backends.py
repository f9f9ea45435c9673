"""Decoders are tried where a crash or a hang of theirs takes nothing with it."""

import time
from pathlib import Path

import av
import pytest

from vidssl.video import backends


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder whose modules the tried process can import."""
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    return tmp_path


def test_the_decoder_that_reads_videos_here_is_found_with_its_version() -> None:
    found = backends.available()
    assert list(found) == ["pyav", "torchcodec", "decord"]
    assert found["pyav"] == backends.Backend(av.__version__)


def test_its_ffmpeg_decodes_what_videos_are_made_of() -> None:
    library = backends.ffmpeg()
    assert library is not None
    assert library.version == av.ffmpeg_version_info
    assert library.missing == []


def test_an_absent_decoder_is_not_a_broken_one() -> None:
    found = backends.load("no_such_decoder", 60)
    assert found == backends.Backend(None, "not installed", installed=False)


def test_a_decoder_whose_own_part_is_absent_is_broken(folder: Path) -> None:
    (folder / "partial_decoder.py").write_text("import no_such_library\n")
    found = backends.load("partial_decoder", 60)
    assert found == backends.Backend(None, "No module named 'no_such_library'")


def test_a_decoder_without_its_library_says_which(folder: Path) -> None:
    (folder / "stale_decoder.py").write_text(
        "print('loading')\nraise OSError('libavutil.so.56: cannot open')\n"
    )
    found = backends.load("stale_decoder", 60)
    assert found.version is None
    assert found.reason == "OSError: libavutil.so.56: cannot open"


def test_a_decoder_that_crashes_takes_nothing_with_it(folder: Path) -> None:
    (folder / "crashing_decoder.py").write_text("import os\nos.kill(os.getpid(), 11)\n")
    found = backends.load("crashing_decoder", 60)
    assert found == backends.Backend(None, "crashed as it was loaded (signal 11)")


def test_a_decoder_that_hangs_is_given_up(folder: Path) -> None:
    (folder / "hanging_decoder.py").write_text("import time\ntime.sleep(60)\n")
    start = time.monotonic()
    found = backends.load("hanging_decoder", 1.0)
    assert time.monotonic() - start < 30
    assert found == backends.Backend(None, "did not load within 1 s")


def test_a_file_in_the_current_folder_is_no_decoder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "av.py").write_text("__version__ = 'forged'\n")
    monkeypatch.chdir(tmp_path)
    assert backends.load("av", 60).version == av.__version__
