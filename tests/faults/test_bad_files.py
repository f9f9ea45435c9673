"""Files that no collection is without: each gets a stated status, in bounded time, and harms none.

Nothing is mocked: every file is written here and read by the real decoder. What hangs or aborts is
a function of our own in place of the decoder, since no file is known that makes this one do so.
"""

import csv
import hashlib
import json
import os
import signal
import struct
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from datetime import datetime
from pathlib import Path

import av
import numpy as np
import pyarrow.parquet as pq
import pytest
from av.video.stream import VideoStream
from typer.testing import Result

from vidssl.errors import OutputError, SourceError
from vidssl.jobs import index as job
from vidssl.jobs._journal import folder_of
from vidssl.sources import Listing, read
from vidssl.video.index import ClipIndex, read_rows
from vidssl.video.probe import VideoFacts, probe
from vidssl.video.workers import Limits
from vidssl.video.write import write_video

Cli = Callable[..., Result]
Numbered = Callable[..., Path]
GOOD = ("a good.mp4", "z good.mp4")


@pytest.fixture(scope="module")
def good(tmp_path_factory: pytest.TempPathFactory, write_numbered: Numbered) -> bytes:
    path = tmp_path_factory.mktemp("good") / "good.mp4"
    return write_numbered(path, 20).read_bytes()


def encoded(path: Path, frames: int, codec: str = "mpeg4", **options: str) -> bytes:
    """Write noise in any container, and return the file's content."""
    rng = np.random.default_rng(0)
    with av.open(str(path), "w", options=options) as container:
        stream = container.add_stream(codec, rate=10)
        assert isinstance(stream, VideoStream)
        stream.width, stream.height = 96, 64
        stream.pix_fmt = {"mjpeg": "yuvj420p", "gif": "rgb8"}.get(codec, "yuv420p")
        for _ in range(frames):
            noise = rng.integers(0, 255, (64, 96, 3), dtype=np.uint8)
            container.mux(stream.encode(av.VideoFrame.from_ndarray(noise, "rgb24")))
        container.mux(stream.encode(None))
    return path.read_bytes()


def gif(width: int, height: int, frames: int) -> bytes:
    """A GIF of one grey pixel a frame, whatever its canvas."""
    canvas = b"GIF89a" + struct.pack("<HHBBB", width, height, 0x80, 0, 0) + b"\0\0\0\xff\xff\xff"
    pause = b"\x21\xf9\x04\x00" + struct.pack("<H", 4) + b"\x00\x00"
    pixel = b"\x2c" + struct.pack("<HHHHB", 0, 0, 1, 1, 0) + b"\x02\x02\x44\x01\x00"
    return canvas + (pause + pixel) * frames + b"\x3b"


def sound_only(path: Path) -> None:
    with av.open(str(path), "w") as container:
        stream = container.add_stream("aac", rate=16_000)
        frame = av.AudioFrame.from_ndarray(np.zeros((1, 16_000), np.float32), "fltp", "mono")
        frame.sample_rate = 16_000
        container.mux([*stream.encode(frame), *stream.encode(None)])


def corpus(folder: Path, good: bytes) -> dict[str, str]:
    """Write the bad files, and return the status of each; what follows ``+`` is also asked for."""
    rng = np.random.default_rng(0)
    scratch = folder.parent / "scratch"
    scratch.mkdir()
    moov = good.index(b"moov") - 4
    mjpeg = bytearray(encoded(scratch / "m.avi", 3, "mjpeg"))
    at = -1
    while (at := mjpeg.find(b"\xff\xc0\x00\x11\x08", at + 1)) >= 0:
        mjpeg[at + 5 : at + 9] = struct.pack(">HH", 32_768, 32_768)
    damaged = bytearray(encoded(scratch / "d.mkv", 50, "libx264"))
    damaged[len(damaged) // 2 : len(damaged) // 2 + 2000] = bytes(2000)
    no_length = bytearray(good)
    for table in (b"mvhd", b"tkhd", b"mdhd"):
        start = no_length.index(table) + 4
        length = {b"mvhd": 16, b"tkhd": 20, b"mdhd": 16}[table]
        no_length[start + length : start + length + 4] = bytes(4)
    avi = encoded(scratch / "c.avi", 50)
    content: dict[str, tuple[bytes, str]] = {
        "empty.mp4": (b"", "empty"),
        "random.mp4": (rng.bytes(50_000), "unreadable"),
        "moov missing.mp4": (good[:moov], "unreadable"),
        "header only.mp4": (good[:40], "unreadable"),
        "header only.avi": (avi[: avi.index(b"movi") + 4], "no_frames|unreadable"),
        "damaged middle.mkv": (bytes(damaged), "ok"),
        "cut tail.avi": (avi[: len(avi) * 2 // 3], "ok"),
        "no length.mp4": (bytes(no_length), "ok"),
        "really mkv.mp4": (encoded(scratch / "w.mkv", 10, "libx264"), "ok"),
        "raw.mp4": (encoded(scratch / "r.m4v", 10), "ok"),
        "huge picture.avi": (bytes(mjpeg), "no_frames|memory"),
        "huge canvas.mp4": (gif(32_768, 32_768, 3), "no_frames|memory|unreadable"),
        "many frames.mp4": (gif(16, 16, 100_000), "ok"),
        "playlist.mp4": (b"#EXTM3U\n#EXTINF:1,\nfile:///etc/passwd\n", "unreadable"),
        "concat.mp4": (b"ffconcat version 1.0\nfile 'a good.mp4'\n", "unreadable"),
        "text.mp4": (b"404 Not Found\n", "unreadable"),
        "page.mp4": (b"<!DOCTYPE html><html>\x1b[31m</html>" * 100, "unreadable"),
    }
    for name, (data, _) in content.items():
        (folder / name).write_bytes(data)
    sound_only(folder / "sound.mp4")
    write_video(folder / "one.mp4", [np.zeros((32, 32, 3), np.uint8)], 10)
    return {name: status for name, (_, status) in content.items()} | {
        "sound.mp4": "no_video",
        "one.mp4": "ok",
    }


def test_every_bad_file_gets_a_status_and_the_good_ones_are_used(
    tmp_path: Path, good: bytes
) -> None:
    videos = tmp_path / "videos"
    videos.mkdir()
    expected = corpus(videos, good)
    for name in GOOD:
        (videos / name).write_bytes(good)
    before = checksums(videos)
    start = time.monotonic()
    found = job.run(
        str(videos),
        tmp_path / "index.parquet",
        workers=2,
        limits=Limits(deadline_s=20, memory_gb=1),
        quarantine=tmp_path / "index.quarantine.csv",
    )
    assert time.monotonic() - start < 150
    rows = {Path(row.path).name: row for row in read_rows(found.path)}
    assert rows.keys() == {*expected, *GOOD}
    wrong = {
        name: (rows[name].status, rows[name].error)
        for name, status in expected.items()
        if rows[name].status not in status.split("|")
    }
    assert not wrong
    assert [rows[name].frames for name in GOOD] == [20, 20]
    assert all(row.error for row in rows.values() if row.status != "ok")
    assert all(row.bytes == (videos / name).stat().st_size for name, row in rows.items())
    assert rows["one.mp4"].frames == 1
    assert rows["many frames.mp4"].frames == 100_000
    assert rows["no length.mp4"].frames == 20
    assert rows["raw.mp4"].frames == rows["really mkv.mp4"].frames == 10
    assert 20 < rows["damaged middle.mkv"].frames <= 50
    assert rows["cut tail.avi"].cut_off
    assert "cut off: the last" in rows["cut tail.avi"].error
    assert "breaks off: " in rows["damaged middle.mkv"].error
    assert found.cut_off == 2
    with (tmp_path / "index.quarantine.csv").open(newline="") as file:
        told = {Path(line["path"]).name: line for line in csv.DictReader(file)}
    assert told.keys() == {name for name, row in rows.items() if row.status != "ok"}
    assert list(told["empty.mp4"]) == ["path", "bytes", "status", "decoder", "error", "time"]
    assert checksums(videos) == before
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        *("index.parquet", "index.quarantine.csv", "scratch", "videos")
    ]


def test_what_is_no_regular_file_is_never_opened(tmp_path: Path, good: bytes) -> None:
    os.mkfifo(tmp_path / "fifo.mp4")
    (tmp_path / "folder.mp4").mkdir()
    (tmp_path / "loop.mp4").symlink_to(tmp_path / "loop.mp4")
    (tmp_path / "dangling.mp4").symlink_to(tmp_path / "nowhere.mp4")
    start = time.monotonic()
    for name in ("fifo.mp4", "folder.mp4", "loop.mp4", "dangling.mp4", "absent.mp4"):
        facts = probe(str(tmp_path / name))
        assert facts.status in {"missing", "unreadable"}, name
        assert name in facts.error
    assert time.monotonic() - start < 10
    (tmp_path / "good.mp4").write_bytes(good)
    found = job.run(str(tmp_path), tmp_path / "index.parquet")
    assert [Path(row.path).name for row in read_rows(found.path) if row.status == "ok"] == [
        "good.mp4"
    ]


def test_a_file_that_may_not_be_read_is_set_aside(good: bytes) -> None:
    with tempfile.TemporaryDirectory() as folder:  # tmp_path is closed to others as a whole
        Path(folder).chmod(0o755)
        secret = Path(folder, "secret.mp4")
        secret.write_bytes(good)
        secret.chmod(0)
        closed = Path(folder, "closed")
        closed.mkdir(mode=0)
        before = os.geteuid()
        if before == 0:
            os.seteuid(65_534)  # root may read anything
        try:
            found = [probe(str(path)) for path in (secret, closed / "any.mp4")]
        finally:
            os.seteuid(before)
    assert [row.status for row in found] == ["unreadable", "unreadable"]
    assert "secret.mp4: cannot be opened as a video (Permission denied)" in found[0].error
    assert "any.mp4: access denied" in found[1].error


NAMES = (
    "new\nline: 1 of 1 videos usable.mp4",
    "esc\x1b[31mred\x1b]0;title\x07.mp4",
    "[bold red]markup[reset].mp4",
    "-y.mp4",
    "concat:a|b.mp4",
    "100%d.mp4",
    "quote\",'.mp4",
    "right\u202eleft.mp4",
    "=cmd().mp4",
)


def test_names_and_messages_print_inert_and_forge_no_line(
    cli: Cli, tmp_path: Path, good: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    videos = tmp_path / "videos"
    videos.mkdir()
    for name in NAMES:
        (videos / name).write_bytes(good)
        (videos / f"bad {name}").write_text("not a video")
    monkeypatch.chdir(videos)  # where a name that begins with "-" or "concat:" would be an option
    result = cli("index", videos, "--out", tmp_path / "i.parquet", "--workers", 2)
    assert result.exit_code == 0, result.output
    rows = {Path(row.path).name: row for row in read_rows(tmp_path / "i.parquet")}
    assert rows.keys() == {*NAMES, *(f"bad {name}" for name in NAMES)}
    assert {rows[name].frames for name in NAMES} == {20}
    assert set(ClipIndex(tmp_path / "i.parquet").paths()) == {str(videos / n) for n in NAMES}
    lines = result.stdout.splitlines()
    assert sum("videos usable" in line and line.startswith(str(tmp_path)) for line in lines) == 1
    assert sum(line.startswith("set aside (unreadable): ") for line in lines) == len(NAMES)
    assert len(lines) == 2 + len(NAMES)
    told = result.output + (tmp_path / "i.quarantine.csv").read_text()
    assert not [c for c in told if not c.isprintable() and c != "\n"]
    assert "[bold red]markup[reset]" in told
    assert r"esc\x1b[31mred\x1b]0;title\x07.mp4" in told
    assert r"new\nline: 1 of 1" in told
    assert (tmp_path / "i.quarantine.csv").read_text().count("\n") == 1 + len(NAMES)


def test_a_name_that_is_no_utf8_is_counted_and_told_of(
    cli: Cli, tmp_path: Path, good: bytes
) -> None:
    videos = tmp_path / "videos"
    videos.mkdir()
    (videos / "good.mp4").write_bytes(good)
    try:
        Path(os.fsdecode(os.fsencode(videos) + b"/caf\xe9\x1b[31m.mp4")).write_bytes(good)
    except OSError:
        pytest.skip("this file system takes names in UTF-8 only")
    result = cli("index", videos, "--out", tmp_path / "i.parquet")
    assert result.exit_code == 0, result.output
    assert r"caf\xe9\x1b[31m.mp4" in result.output
    assert ClipIndex(tmp_path / "i.parquet").paths() == [str(videos / "good.mp4")]
    again = cli("index", videos, "--out", tmp_path / "i.parquet")
    assert again.exit_code == 0, again.output


def test_a_list_of_unstorable_names_is_indexed_but_for_these(
    tmp_path: Path, good: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "good.mp4").write_bytes(good)
    names = [str(tmp_path / "good.mp4"), f"{tmp_path}/caf\udce9.mp4"]
    listing = Listing.plain("folder", names)  # whatever a source gives
    monkeypatch.setattr("vidssl.jobs.index.read", lambda source: listing)
    found = job.run("any", tmp_path / "i.parquet")
    assert found.counts == {"bad_name": 1, "ok": 1}
    assert found.set_aside[0].error == (
        f"{tmp_path}/caf\\xe9.mp4: the name is not valid UTF-8; rename the file to use it"
    )


@pytest.mark.parametrize("title", [b"\x1b[31mred\x1b[0m [bold]x[/] \n1 ok", b"caf\xe9 \xff\xfe"])
def test_titles_within_the_file_do_no_harm(title: bytes, tmp_path: Path) -> None:
    path = tmp_path / "titled.mp4"
    placeholder = "T" * len(title)
    with av.open(str(path), "w") as container:
        container.metadata["title"] = placeholder
        stream = container.add_stream("mpeg4", rate=10)
        assert isinstance(stream, VideoStream)
        stream.width, stream.height, stream.pix_fmt = 32, 32, "yuv420p"
        frame = av.VideoFrame.from_ndarray(np.zeros((32, 32, 3), np.uint8), "rgb24")
        container.mux([*stream.encode(frame), *stream.encode(None)])
    content = path.read_bytes()
    assert placeholder.encode() in content
    path.write_bytes(content.replace(placeholder.encode(), title))
    assert (probe(str(path)).status, probe(str(path)).frames) == ("ok", 1)


def test_all_files_bad_ends_soon_with_counts_and_leaves_nothing(cli: Cli, tmp_path: Path) -> None:
    videos = tmp_path / "videos"
    videos.mkdir()
    for number in range(300):
        (videos / f"{number:03}.mp4").write_bytes(b"" if number % 3 else b"garbage\x1b[31m" * 50)
    start = time.monotonic()
    result = cli("index", videos, "--out", tmp_path / "i.parquet", "--workers", 2)
    assert time.monotonic() - start < 60
    assert result.exit_code == 2
    assert "none of the 300 videos can be decoded:\n  200 empty, 100 unreadable\n" in result.stderr
    assert "... and 292 more" in result.stderr
    assert len(result.stderr.splitlines()) < 20
    assert sorted(path.name for path in tmp_path.iterdir()) == ["videos"]


def test_a_file_that_vanishes_after_the_listing_is_missing(
    tmp_path: Path, good: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in GOOD:
        (tmp_path / name).write_bytes(good)

    def listed_then_gone(source: str) -> Listing:
        found = read(source)
        (tmp_path / GOOD[0]).unlink()
        return found

    monkeypatch.setattr("vidssl.jobs.index.read", listed_then_gone)
    found = job.run(str(tmp_path), tmp_path / "i.parquet")
    assert found.counts == {"missing": 1, "ok": 1}


def test_files_that_were_cut_are_set_aside_if_asked_for(
    cli: Cli, tmp_path: Path, good: bytes
) -> None:
    videos = tmp_path / "videos"
    videos.mkdir()
    (videos / "good.mp4").write_bytes(good)
    avi = encoded(tmp_path / "c.avi", 50)
    (videos / "cut.avi").write_bytes(avi[: len(avi) * 2 // 3])
    arguments = ("index", videos, "--out", tmp_path / "i.parquet")
    told = cli(*arguments).stdout
    assert "2 of 2 videos usable" in told
    assert "1 of them are cut off and used as far as they go" in told
    assert not (tmp_path / "i.quarantine.csv").exists()
    again = cli(*arguments, "--cut-files", "set-aside")
    assert "1 of 2 videos usable" in again.stdout
    assert "set aside (truncated): " in again.stdout
    assert "indexing" not in again.stderr  # nothing is decoded anew
    assert "cut.avi" in (tmp_path / "i.quarantine.csv").read_text()
    assert "2 of 2 videos usable" in cli(*arguments).stdout
    assert not (tmp_path / "i.quarantine.csv").exists()


def test_the_quarantine_says_since_when(cli: Cli, tmp_path: Path, good: bytes) -> None:
    videos, table = tmp_path / "videos", tmp_path / "i.quarantine.csv"
    videos.mkdir()
    (videos / "good.mp4").write_bytes(good)
    (videos / "bad.mp4").write_bytes(b"")
    cli("index", videos, "--out", tmp_path / "i.parquet")
    (line,) = csv.DictReader(table.read_text().splitlines())
    assert abs(datetime.fromisoformat(line["time"]).timestamp() - time.time()) < 60
    table.write_text(table.read_text().replace(line["time"], "2020-02-02T02:02:02+00:00"))
    (videos / "new.mp4").write_text("not a video")
    cli("index", videos, "--out", tmp_path / "i.parquet")
    lines = list(csv.DictReader(table.read_text().splitlines()))
    assert [row["time"][:4] == "2020" for row in lines] == [True, False]


def test_a_foreign_file_of_the_quarantines_name_is_left_alone(
    cli: Cli, tmp_path: Path, good: bytes
) -> None:
    (tmp_path / "good.mp4").write_bytes(good)
    (tmp_path / "i.quarantine.csv").write_text("mine\n")
    result = cli("index", tmp_path / "good.mp4", "--out", tmp_path / "i.parquet")
    assert result.exit_code == 2
    assert "i.quarantine.csv: exists and is not a quarantine table" in result.stderr
    assert (tmp_path / "i.quarantine.csv").read_text() == "mine\n"


# --- decoders that hang, abort and eat memory

LOOKS = '''
"""Stand in for a decoder."""
import os, pathlib, time
import numpy as np
from vidssl.video.probe import VideoFacts, probe
from vidssl.video.workers import beat

def look(location):
    name = pathlib.Path(location).stem
    if name == "hang":
        while True:
            time.sleep(1)
    if name == "abort":
        os.abort()
    if name == "greedy":
        np.ones(4 << 30, np.uint8)
    if name == "film":
        for _ in range(15):
            time.sleep(0.2)
            beat()
    return probe(location)

def slowly(location):
    time.sleep(0.05)
    return probe(location)
'''


@pytest.fixture(scope="module")
def looks(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("looks")
    (folder / "looks_of_bad_files.py").write_text(LOOKS)
    return folder


def test_what_hangs_aborts_or_eats_memory_costs_its_own_video(
    looks: Path, tmp_path: Path, good: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.syspath_prepend(looks)
    from looks_of_bad_files import look  # type: ignore[import-not-found]

    names = ["abort", "film", "good", "greedy", "hang", "more", "most"]
    for name in names:
        (tmp_path / f"{name}.mp4").write_bytes(good)
    out = tmp_path / "i.parquet"
    limits = Limits(deadline_s=2.0, memory_gb=0.5)
    found = job.run(str(tmp_path), out, workers=2, limits=limits, look=look)
    statuses = {Path(row.path).stem: row.status for row in read_rows(out)}
    assert statuses == {
        **dict.fromkeys(("film", "good", "more", "most"), "ok"),
        **{"abort": "crashed", "greedy": "memory", "hang": "timeout"},
    }
    assert found.counts == {"crashed": 1, "memory": 1, "ok": 4, "timeout": 1}
    errors = {Path(row.path).stem: row.error for row in found.set_aside}
    assert "abort.mp4: the process that read it was ended by SIGABRT" in errors["abort"]
    assert "no answer within 2 s" in errors["hang"]
    assert {row.bytes for row in found.set_aside} == {len(good)}
    # They stay so, until another look is asked for.
    told: list[str] = []
    job.run(str(tmp_path), out, progress=lambda what, done, total: told.append(what))
    assert told == []
    again = job.run(str(tmp_path), out, retry=True)
    assert again.counts == {"ok": 7}


# --- stopped at any moment

CLI = (
    "from importlib.metadata import entry_points\n"
    "if __name__ == '__main__':\n"
    "    (e,) = entry_points(group='console_scripts', name='vidssl')\n"
    "    e.load()()\n"
)
MANY = 250


@pytest.fixture
def many(tmp_path: Path, good: bytes) -> Path:
    videos = tmp_path / "videos"
    videos.mkdir()
    for number in range(MANY):
        (videos / f"{number:04}.mp4").write_bytes(good)
    return videos


@pytest.mark.parametrize(
    ("number", "whole_group", "expected"),
    [
        (signal.SIGKILL, False, -signal.SIGKILL),
        (signal.SIGTERM, False, 75),
        (signal.SIGTERM, True, 75),  # as a batch system sends it
        (signal.SIGINT, True, 75),  # as a terminal does
    ],
    ids=["kill", "term", "term to all", "ctrl-c"],
)
def test_a_run_that_was_stopped_goes_on_where_it_was(
    number: signal.Signals,
    whole_group: bool,
    expected: int,
    many: Path,
    cli: Cli,
    tmp_path: Path,
) -> None:
    out = tmp_path / "i.parquet"
    (tmp_path / "cli.py").write_text(CLI)
    process = subprocess.Popen(
        [sys.executable, tmp_path / "cli.py", "index", many, "--out", out, "--workers", "2"],
        start_new_session=True,
        stderr=subprocess.PIPE,
        text=True,
    )
    wait(lambda: len(journalled(out)) >= 20, process)
    (os.killpg if whole_group else os.kill)(process.pid, number)
    _, told = process.communicate(timeout=60)
    assert process.returncode == expected, told
    if expected == 75:
        assert f"of {MANY} videos; the same command goes on from there" in told
        assert "Traceback" not in told
    wait(lambda: not in_session(process.pid))
    known = journalled(out)
    assert 20 <= len(known) < MANY
    assert {row["status"] for row in known.values()} == {"ok"}
    assert not out.exists()  # a part is no index
    assert {path.name for path in tmp_path.iterdir()} == {"cli.py", "videos", ".i.parquet.parts"}
    again = cli("index", many, "--out", out, "--workers", 2)
    assert f"{MANY} of {MANY} videos usable" in again.stdout
    rows = {row.path: row for row in read_rows(out)}
    assert list(rows) == sorted(map(str, many.iterdir()))
    assert f"indexing videos: {len(known) + 1}/{MANY}" in again.stderr  # the others are not redone
    assert {path.name for path in tmp_path.iterdir()} == {"cli.py", "videos", "i.parquet"}
    assert pq.read_table(out)["status"].to_pylist() == ["ok"] * MANY


def test_a_full_disk_is_told_of_and_what_was_written_counts(
    many: Path, cli: Cli, tmp_path: Path
) -> None:
    out = tmp_path / "i.parquet"
    limit = "import resource, signal\nresource.setrlimit(resource.RLIMIT_FSIZE, (8000, 8000))\n"
    (tmp_path / "cli.py").write_text(limit + CLI)  # no file may grow larger: as a disk that is full
    done = subprocess.run(
        [sys.executable, tmp_path / "cli.py", "index", many, "--out", out, "--workers", "2"],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 2, done.stderr
    assert f"error: {out}: cannot be written: File too large" in done.stderr
    assert "Traceback" not in done.stderr
    assert not out.exists()
    known = journalled(out)
    assert len(known) > 10
    again = cli("index", many, "--out", out)
    assert f"{MANY} of {MANY} videos usable" in again.stdout
    assert f"indexing videos: {len(known) + 1}/{MANY}" in again.stderr


def test_a_line_that_was_cut_short_costs_its_own_row(tmp_path: Path, good: bytes) -> None:
    for name in GOOD:
        (tmp_path / name).write_bytes(good)
    out = tmp_path / "i.parquet"
    rows = [probe(str(tmp_path / name)) for name in GOOD]
    marked = [VideoFacts(**{**vars(row), "codec": "as noted"}) for row in rows]
    whole, cut = (json.dumps(vars(row)) for row in marked)
    folder_of(out).mkdir()
    (folder_of(out) / "123.jsonl").write_bytes(f"\n{whole}\n\n{cut[:-30]}".encode() + bytes(99))
    (folder_of(out) / ".rows-000000.parquet.9.part").write_bytes(b"half")
    job.run(str(tmp_path), out)
    assert [row.codec for row in read_rows(out)] == ["as noted", rows[1].codec]
    assert not folder_of(out).exists()


def test_of_two_runs_for_one_index_the_second_is_refused(tmp_path: Path, good: bytes) -> None:
    from vidssl.jobs._journal import Journal

    (tmp_path / "good.mp4").write_bytes(good)
    out = tmp_path / "i.parquet"
    with (
        Journal(out),
        pytest.raises(OutputError, match=r"i\.parquet: another process is making this index"),
    ):
        job.run(str(tmp_path), out)
    assert job.run(str(tmp_path), out).videos == 1


def test_a_stopped_update_leaves_the_old_index_whole(
    looks: Path, many: Path, tmp_path: Path, good: bytes
) -> None:
    out = tmp_path / "i.parquet"
    first = tmp_path / "first.txt"
    first.write_text(str(many / "0000.mp4"))
    job.run(str(first), out)
    before = out.read_bytes()
    script = tmp_path / "slow.py"
    script.write_text(
        "import sys; from pathlib import Path; sys.path.insert(0, sys.argv[1])\n"
        "from vidssl.jobs.index import run\n"
        "from looks_of_bad_files import slowly\n"
        "if __name__ == '__main__': run(sys.argv[2], Path(sys.argv[3]), workers=1, look=slowly)\n"
    )
    process = subprocess.Popen([sys.executable, script, looks, many, out])
    wait(lambda: len(journalled(out)) >= 5, process)
    process.kill()
    process.wait()
    assert out.read_bytes() == before
    assert len(ClipIndex(out)) == 1
    assert job.run(str(many), out).counts == {"ok": MANY}


def test_no_usable_video_leaves_an_older_index_as_it_was(tmp_path: Path, good: bytes) -> None:
    (tmp_path / "a.mp4").write_bytes(good)
    out = tmp_path / "i.parquet"
    job.run(str(tmp_path), out)
    before = out.read_bytes()
    (tmp_path / "a.mp4").write_text("damaged since")
    with pytest.raises(SourceError, match="none of the 1 videos"):
        job.run(str(tmp_path), out)
    assert out.read_bytes() == before


def checksums(folder: Path) -> dict[str, tuple[str, float]]:
    return {
        path.name: (hashlib.sha256(path.read_bytes()).hexdigest(), path.stat().st_mtime)
        for path in folder.iterdir()
    }


def journalled(out: Path) -> dict[str, dict[str, object]]:
    """Return the rows that are on the disk, by path."""
    lines = [
        line
        for path in folder_of(out).glob("*.jsonl")
        for line in path.read_bytes().split(b"\n")
        if line.endswith(b"}")
    ]
    return {row["path"]: row for row in map(json.loads, lines)}


def in_session(leader: int) -> list[int]:
    """Return the processes of a session that are alive."""
    found = []
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            state, _, _, session = stat.read_text().rpartition(")")[2].split()[:4]
        except OSError:
            continue
        if int(session) == leader and state != "Z":
            found.append(int(stat.parent.name))
    return found


def wait(
    condition: Callable[[], bool],
    process: "subprocess.Popen[str] | subprocess.Popen[bytes] | None" = None,
) -> None:
    end = time.monotonic() + 90
    while not condition():
        assert time.monotonic() < end, "it did not come to pass"
        assert process is None or process.poll() is None, "it ended too soon"
        time.sleep(0.02)
