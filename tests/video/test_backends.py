"""Decoders are tried where a crash or a hang of theirs takes nothing with it."""

import os
import subprocess
import sys
import time
from collections.abc import Callable
from importlib.machinery import PathFinder
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


def test_torchcodec_without_ffmpeg_is_broken_though_it_can_be_imported(folder: Path) -> None:
    (folder / "bare_decoder.py").write_text("ffmpeg_major_version = None\n")
    found = backends.load("bare_decoder", 60)
    assert found == backends.Backend(None, "finds no FFmpeg libraries")


def test_auto_is_the_decoder_that_is_always_there() -> None:
    assert backends.resolved("auto") == "pyav"
    assert [backends.resolved(name) for name in backends.MODULES] == list(backends.MODULES)


WITH_PYAVS = """
import sys
for module in sys.argv[2:]:
    __import__(module)
import torchcodec
from torchcodec.decoders import VideoDecoder
print(torchcodec.ffmpeg_major_version, len(VideoDecoder(sys.argv[1])))
maps = open("/proc/self/maps").read()
print(len({line.split()[-1] for line in maps.splitlines() if "libavcodec" in line}))
"""


@pytest.mark.parametrize("before", [[], ["av"], ["torch", "av"]], ids=str)
def test_torchcodec_works_with_the_ffmpeg_of_pyav(
    before: list[str], tmp_path: Path, write_numbered: Callable[..., Path]
) -> None:
    libraries = backends.ffmpeg_libraries(tmp_path / "libraries")
    if libraries is None or backends.available()["torchcodec"].installed is False:
        pytest.skip("torchcodec is not installed, or PyAV brings no FFmpeg of its own")
    assert backends.ffmpeg_libraries(libraries) == libraries  # links are replaced, not refused
    assert all(link.resolve().is_file() for link in libraries.iterdir())
    video = write_numbered(tmp_path / "video.mp4", 20)
    process = subprocess.run(
        [sys.executable, "-c", WITH_PYAVS, str(video), *before],
        env={**os.environ, "LD_LIBRARY_PATH": str(libraries)},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert process.returncode == 0, process.stderr
    found, copies = process.stdout.splitlines()
    major = av.library_versions["libavcodec"][0] - 54  # FFmpeg 8 has libavcodec 62
    assert found == f"{major} 20"
    assert copies == "1"


def test_without_libraries_of_its_own_pyav_lends_none(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "av").mkdir()
    (tmp_path / "av" / "__init__.py").touch()
    monkeypatch.setattr(
        "importlib.util.find_spec", lambda name: PathFinder.find_spec(name, [str(tmp_path)])
    )
    assert backends.ffmpeg_libraries(tmp_path / "libraries") is None
    assert not (tmp_path / "libraries").exists()
