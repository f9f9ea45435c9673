"""``vidssl transcode`` from the user's side: what is copied, kept, refused, and taken up again."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
from numpy.typing import NDArray
from typer.testing import Result

from vidssl.errors import OutputError, SourceError
from vidssl.jobs.transcode import estimate, run, targets
from vidssl.video.reader import open_reader
from vidssl.video.transcode import Copying
from vidssl.video.workers import Limits

Cli = Callable[..., Result]
Refused = Callable[..., str]
WriteNumbered = Callable[..., Path]
ReadNumbers = Callable[[NDArray[np.uint8]], list[int]]
SMALL = Copying(short_side_px=32, gop=8)


@pytest.fixture
def videos(write_numbered: WriteNumbered, tmp_path: Path) -> Path:
    """Five videos in two folders, and one that is none."""
    folder = tmp_path / "videos"
    (folder / "deep" / "er").mkdir(parents=True)
    for number in range(5):
        place = folder if number < 3 else folder / "deep" / "er"
        write_numbered(place / f"v{number}.mp4", 30, first=10 * number)
    (folder / "broken.mp4").write_bytes(b"no video")
    return folder


def state(folder: Path) -> dict[str, tuple[int, int]]:
    return {
        str(path.relative_to(folder)): (path.stat().st_size, path.stat().st_mtime_ns)
        for path in folder.rglob("*")
        if path.is_file()
    }


def copies(folder: Path) -> set[str]:
    return {str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file()}


def test_the_copies_keep_folders_and_frames_and_index_cleanly(
    cli: Cli, videos: Path, read_numbers: ReadNumbers, tmp_path: Path
) -> None:
    before = state(videos)
    out = tmp_path / "small"
    result = cli("transcode", videos, "--out", out, "--short-side", 32, "--workers", 1)
    assert result.exit_code == 0, result.output
    assert "5 videos copied" in result.stdout
    assert "not copied: 1 unreadable" in result.stdout
    assert "times as fast (measured on " in result.stderr
    good = {"v0.mp4", "v1.mp4", "v2.mp4", "deep/er/v3.mp4", "deep/er/v4.mp4"}
    assert copies(out) == good | {"transcode.parquet"}
    assert state(videos) == before
    told = cli("index", out, "--out", tmp_path / "i.parquet", "--json", "-", "--workers", 1)
    assert json.loads(told.stdout)["counts"] == {"ok": 5}
    with open_reader(str(out / "deep/er/v3.mp4")) as reader:
        clip = reader.frames_at(np.arange(30) / 10)
    assert read_numbers(clip.frames) == list(range(30, 60))


def test_the_result_for_machines(cli: Cli, videos: Path, tmp_path: Path) -> None:
    result = cli(
        *("transcode", videos, "--out", tmp_path / "small", "--short-side", 32),
        *("--workers", 1, "--json", "-"),
    )
    told = json.loads(result.stdout)
    assert told["counts"] == {"ok": 5, "unreadable": 1}
    assert (told["copied"], told["kept"], told["videos"], told["frames"]) == (5, 0, 6, 150)
    sizes = [path.stat().st_size for path in (tmp_path / "small").rglob("*.mp4")]
    assert told["bytes_after"] == sum(sizes)
    (failed,) = told["failed"]
    assert failed["path"] == str(videos / "broken.mp4")
    assert "cannot be opened as a video" in failed["error"]
    gain = told["estimate"]
    assert gain["times_faster"] == pytest.approx(gain["read_ms_before"] / gain["read_ms_after"])
    assert 1 <= len(gain["measured"]) <= 3
    rows = pq.read_table(tmp_path / "small" / "transcode.parquet").to_pylist()
    assert {row["path"] for row in rows} == {str(p) for p in videos.rglob("*.mp4")}


def test_a_second_run_copies_what_is_new_changed_missing_or_asked_otherwise(
    videos: Path, write_numbered: WriteNumbered, tmp_path: Path
) -> None:
    out = tmp_path / "small"
    (videos / "broken.mp4").unlink()
    first = run(str(videos), out, SMALL, workers=1)
    assert (first.copied, first.kept) == (5, 0)
    before = state(out)
    again = run(str(videos), out, SMALL, workers=1)
    assert (again.copied, again.kept, again.estimate) == (0, 5, None)
    assert state(out) == before
    write_numbered(videos / "new.mp4", 12)
    write_numbered(videos / "v0.mp4", 20, first=99)
    (out / "v1.mp4").unlink()
    (out / "v2.mp4").write_bytes(b"cut")
    mended = run(str(videos), out, SMALL, workers=1)
    assert (mended.copied, mended.kept) == (4, 2)
    assert mended.frames == 20 + 12 + 4 * 30
    other = run(str(videos), out, Copying(short_side_px=32, gop=4), workers=1)
    assert (other.copied, other.kept) == (6, 0)


def test_an_estimate_leaves_nothing_behind(cli: Cli, videos: Path, tmp_path: Path) -> None:
    before = copies(tmp_path)
    result = cli(
        *("transcode", videos, "--out", tmp_path / "small", "--short-side", 32),
        *("--workers", 1, "--estimate"),
    )
    assert result.exit_code == 0, result.output
    assert "times as fast (measured on" in result.stdout
    assert "6 videos, " in result.stdout
    assert copies(tmp_path) == before
    assert not (tmp_path / "small").exists()


def test_an_estimate_scales_what_was_measured_by_the_bytes(videos: Path, tmp_path: Path) -> None:
    found = estimate(str(videos), tmp_path / "small", SMALL, workers=1)
    share = sum(p.stat().st_size for p in videos.rglob("*.mp4")) / sum(
        one.bytes_before for one in found.measured
    )
    assert found.bytes_after == round(share * sum(one.bytes_after for one in found.measured))
    assert found.seconds == pytest.approx(share * sum(one.seconds for one in found.measured))
    (videos / "deep").rename(tmp_path / "deep")
    for path in videos.glob("*.mp4"):
        path.write_bytes(b"no video")
    with pytest.raises(SourceError, match="none of 3 videos can be copied"):
        estimate(str(videos), tmp_path / "small", SMALL, workers=1)


# --- names


def test_videos_that_would_share_a_name_keep_their_suffix() -> None:
    names, renamed = targets("list.csv", ["/d/a.avi", "/d/a.mp4", "/d/a.mkv", "/d/b.avi"])
    assert list(names.values()) == ["a.avi.mp4", "a.mp4", "a.mkv.mp4", "b.mp4"]
    assert renamed == 2


def test_a_name_that_is_taken_all_the_same_is_refused() -> None:
    with pytest.raises(SourceError, match=r"a\.avi\.mp4: /d/a\.avi, /d/a\.avi\.mp4"):
        targets("list.csv", ["/d/a.avi", "/d/a.mp4", "/d/a.avi.mp4"])


def test_members_of_archives_and_addresses_have_names_too() -> None:
    one = ["/d/x.tar!s/a.avi@512+10", "/d/y.tar!b.mp4@512+10"]
    assert list(targets("shards:/d/{x,y}.tar", one)[0].values()) == ["x/s/a.mp4", "y/b.mp4"]
    two = ["https://me:pw@h.org/d/a%20b.webm?key=1", "https://h.org/d/e/c.mp4"]
    assert list(targets("list.txt", two)[0].values()) == ["a b.mp4", "e/c.mp4"]
    upward = ["s3://b/k/../../../etc/x.mp4", "s3://b/k/y.mp4"]
    assert all(".." not in name for name in targets("l.txt", upward)[0].values())


def test_a_list_keeps_the_folders_below_it(videos: Path, tmp_path: Path) -> None:
    (videos / "list.txt").write_text("deep/er/v3.mp4\ndeep/er/v4.mp4\n")
    run(str(videos / "list.txt"), tmp_path / "small", SMALL, workers=1)
    assert copies(tmp_path / "small") == {
        *("deep/er/v3.mp4", "deep/er/v4.mp4", "transcode.parquet"),
    }


# --- what is refused


@pytest.mark.parametrize("out", ["videos", "videos/small", "link/small"])
def test_copies_among_the_videos_are_refused(
    refused: Refused, videos: Path, tmp_path: Path, out: str
) -> None:
    (tmp_path / "link").symlink_to(videos)
    told = refused("transcode", videos, "--out", tmp_path / out)
    assert "lies in the folder of the videos" in told


def test_a_folder_that_holds_the_videos_of_a_list_is_refused(
    refused: Refused, videos: Path, tmp_path: Path
) -> None:
    (tmp_path / "list.txt").write_text(f"{videos}/v0.mp4\n")
    told = refused("transcode", tmp_path / "list.txt", "--out", tmp_path)
    assert "choose a folder for the copies that holds none of the videos" in told


def test_files_of_others_are_not_overwritten(
    refused: Refused, videos: Path, tmp_path: Path
) -> None:
    (tmp_path / "small").mkdir()
    (tmp_path / "small" / "v1.mp4").write_text("mine")
    told = refused("transcode", videos, "--out", tmp_path / "small")
    assert "holds files that this command did not make" in told
    assert "v1.mp4" in told
    (tmp_path / "small" / "v1.mp4").unlink()
    (tmp_path / "small" / "transcode.parquet").write_text("mine")
    told = refused("transcode", videos, "--out", tmp_path / "small")
    assert "is not what `vidssl transcode` writes" in told


@pytest.mark.alone
def test_a_file_in_place_of_the_folder_is_refused(
    refused: Refused, videos: Path, tmp_path: Path
) -> None:
    (tmp_path / "small").write_text("mine")
    told = refused("transcode", videos, "--out", tmp_path / "small")
    assert "small" in told
    assert (tmp_path / "small").read_text() == "mine"


def test_a_source_without_a_usable_video_leaves_nothing(
    refused: Refused, videos: Path, tmp_path: Path
) -> None:
    told = refused("transcode", videos / "broken.mp4", "--out", tmp_path / "new" / "small")
    assert "none of the 1 videos can be copied" in told


def test_two_runs_at_once_are_refused(videos: Path, tmp_path: Path) -> None:
    from vidssl.jobs.transcode import _working

    with (
        _working(tmp_path / "small"),
        pytest.raises(OutputError, match="another process makes copies there"),
    ):
        run(str(videos), tmp_path / "small", SMALL, workers=1)


# --- stopping, hanging, a full disk


def started(program: str) -> "subprocess.Popen[str]":
    return subprocess.Popen(
        [sys.executable, "-c", program],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )


COMMAND = """
import sys
from importlib.metadata import entry_points
(entry,) = entry_points(group="console_scripts", name="vidssl")
sys.argv = ["vidssl", "transcode", {source!r}, "--out", {out!r}, "--short-side", "32",
            "--workers", "2"]
entry.load()()
"""


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGKILL])
def test_stopped_the_same_command_goes_on(
    write_numbered: WriteNumbered, tmp_path: Path, number: signal.Signals
) -> None:
    source, out = tmp_path / "videos", tmp_path / "small"
    source.mkdir()
    long = write_numbered(source / "v00.mp4", 200)
    for copy in range(1, 40):
        shutil.copy(long, source / f"v{copy:02}.mp4")
    process = started(COMMAND.format(source=str(source), out=str(out)))
    while len(list(out.glob("v*.mp4"))) < 4 and process.poll() is None:
        time.sleep(0.05)
    process.send_signal(number)
    _, err = process.communicate(timeout=60)
    assert process.returncode == (-9 if number == signal.SIGKILL else 75), err
    done = {path.name: path.stat().st_mtime_ns for path in out.glob("v*.mp4")}
    assert 4 <= len(done) < 40
    if number != signal.SIGKILL:
        assert "transcoded " in err
        assert copies(out) == {*done, "transcode.parquet"}
    time.sleep(0.5)  # workers end with their parent
    result = run(str(source), out, Copying(short_side_px=32), workers=2)
    assert result.kept >= len(done) - 1
    assert result.kept + result.copied == 40
    assert copies(out) == {*(f"v{copy:02}.mp4" for copy in range(40)), "transcode.parquet"}
    still = {name for name, mtime in done.items() if (out / name).stat().st_mtime_ns == mtime}
    assert len(still) == result.kept


def test_a_copy_that_was_noted_but_never_got_its_name_is_made_again_without_a_trace(
    videos: Path, tmp_path: Path
) -> None:
    out = tmp_path / "small"
    run(str(videos), out, SMALL, workers=1)
    (row,) = (r for r in pq.read_table(out / "transcode.parquet").to_pylist() if "v1" in r["path"])
    (out / "v1.mp4").unlink()
    (out / ".transcode").mkdir()
    # What a worker leaves that is killed between its note and the renaming.
    (out / ".transcode" / "1.jsonl").write_text(json.dumps({**row, "seconds": 0.0}) + "\n")
    assert run(str(videos), out, SMALL, workers=1).copied == 1
    assert not (out / ".transcode").exists()
    assert (out / "v1.mp4").is_file()


def test_a_video_that_hangs_costs_itself_alone(
    videos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (videos / "broken.mp4").unlink()
    monkeypatch.setattr("vidssl.jobs.transcode._copy", _hangs_on_v1)
    result = run(str(videos), tmp_path / "small", SMALL, workers=1, limits=Limits(2.0))
    assert result.counts == {"ok": 4, "timeout": 1}
    (failed,) = result.failed
    assert "v1.mp4: the process that read it gave no answer within 2 s" in failed.error
    assert not list((tmp_path / "small").rglob("*.part"))


def _hangs_on_v1(task: object) -> object:
    from vidssl.jobs.transcode import _copy

    if "v1" in str(getattr(task, "path", "")):
        time.sleep(600)
    return _copy(task)  # type: ignore[arg-type]


def test_a_full_disk_is_one_error_and_leaves_whole_files(
    write_numbered: WriteNumbered, tmp_path: Path
) -> None:
    source, out = tmp_path / "videos", tmp_path / "small"
    source.mkdir()
    for number in range(3):
        write_numbered(source / f"a{number}.mp4", 20)
    rng = np.random.default_rng(0)
    from vidssl.video.write import write_video

    noise = [rng.integers(0, 256, (64, 96, 3)).astype(np.uint8) for _ in range(60)]
    write_video(source / "z.mp4", noise, 10)
    # A limit on the size of files stands for the disk: the small copies fit, the noise does not.
    limit = "import resource, signal\nsignal.signal(signal.SIGXFSZ, signal.SIG_IGN)\n"
    limit += "resource.setrlimit(resource.RLIMIT_FSIZE, (20000, 20000))\n"
    process = started(limit + COMMAND.format(source=str(source), out=str(out)))
    _, err = process.communicate(timeout=120)
    assert process.returncode == 2, err
    assert "z.mp4: cannot be written: File too large" in err
    assert "Traceback" not in err
    assert not list(out.rglob("*.part"))
    assert not (out / "z.mp4").exists()
    whole = run(str(source), out, Copying(short_side_px=32), workers=1)
    assert whole.kept >= 2
    assert whole.counts == {"ok": 4}
