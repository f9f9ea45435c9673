"""``vidssl index`` from the user's side: what is looked at, set aside, kept and refused."""

import errno
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from typer.testing import Result

from vidssl.jobs.index import _latest
from vidssl.video.index import account_of, read_rows

Cli = Callable[..., Result]
Refused = Callable[..., str]
CONTRACT = (
    "path status error bytes mtime codec width height fps variable_rate rotation duration_s frames "
    "keyframes_s has_audio decoder cut_off"
)


def damage(videos: Path) -> None:
    """Put three broken videos among the good ones: cut off, no video at all, and empty."""
    whole = (videos / "train_000.mp4").read_bytes()
    (videos / "cut.mp4").write_bytes(whole[: len(whole) // 2])
    (videos / "text.mp4").write_text("not a video")
    (videos / "empty.mp4").write_bytes(b"")


def test_the_index_holds_what_is_in_each_video(cli: Cli, playground: Path, tmp_path: Path) -> None:
    result = cli("index", playground / "videos", "--out", tmp_path / "new" / "index.parquet")
    assert result.exit_code == 0
    assert "4 of 4 videos usable, 840 frames, 0.02 hours" in result.stdout  # 4 x 14 s x 15 a second
    table = pq.read_table(tmp_path / "new" / "index.parquet")
    assert table.column_names == CONTRACT.split()
    for row in table.to_pylist():
        assert row["status"] == "ok"
        assert Path(row["path"]).is_file()
        assert (row["width"], row["height"], row["frames"]) == (128, 96, 210)
        assert row["fps"] == pytest.approx(15)
        assert row["duration_s"] == pytest.approx(14)
        assert row["has_audio"]


def test_json_alone_goes_to_stdout_and_progress_to_stderr(
    cli: Cli, playground: Path, tmp_path: Path
) -> None:
    result = cli("index", playground / "videos", "--out", tmp_path / "i.parquet", "--json", "-")
    told = json.loads(result.stdout)
    assert told["videos"] == 4
    assert told["counts"] == {"ok": 4}
    assert told["frames"] == 840
    assert told["set_aside"] == []
    assert "indexing videos: 4/4" in result.stderr
    to_file = cli(
        *("index", playground / "videos", "--out", tmp_path / "i.parquet"),
        *("--json", tmp_path / "i.json"),
    )
    assert "4 of 4 videos usable" in to_file.stdout
    assert json.loads((tmp_path / "i.json").read_text()) == told


def test_broken_videos_are_named_counted_and_set_aside(
    cli: Cli, playground_copy: Path, tmp_path: Path
) -> None:
    damage(playground_copy / "videos")
    result = cli("index", playground_copy / "videos", "--out", tmp_path / "i.parquet")
    assert result.exit_code == 0
    assert "4 of 7 videos usable" in result.stdout
    aside = [line for line in result.stdout.splitlines() if line.startswith("set aside")]
    assert len(aside) == 3
    assert "not usable: 1 empty, 2 unreadable; all are in " in result.stdout
    for name in ("cut.mp4", "text.mp4", "empty.mp4"):
        assert sum(name in line for line in aside) == 1
    rows = {
        Path(row["path"]).name: row for row in pq.read_table(tmp_path / "i.parquet").to_pylist()
    }
    assert rows["empty.mp4"]["status"] == "empty"
    assert {row["status"] for row in rows.values()} >= {"ok", "unreadable"}
    assert all(row["error"] for row in rows.values() if row["status"] != "ok")


def test_videos_in_several_containers_and_folders_are_found(
    cli: Cli, playground: Path, tmp_path: Path
) -> None:
    (tmp_path / "v" / "deep").mkdir(parents=True)
    shutil.copy(playground / "videos" / "train_000.mp4", tmp_path / "v" / "deep" / "A.MP4")
    (tmp_path / "v" / "notes.txt").write_text("not looked at")
    result = cli("index", tmp_path / "v", "--out", tmp_path / "i.parquet")
    assert "1 of 1 videos usable" in result.stdout


def test_a_second_look_is_only_at_what_changed(
    cli: Cli, playground_copy: Path, tmp_path: Path
) -> None:
    videos, out = playground_copy / "videos", tmp_path / "i.parquet"
    cli("index", videos, "--out", out)
    before = out.read_bytes()
    again = cli("index", videos, "--out", out)
    assert "indexing" not in again.stderr
    assert out.read_bytes() == before
    (videos / "train_001.mp4").write_text("damaged since")
    changed = cli("index", videos, "--out", out)
    assert "3 of 4 videos usable" in changed.stdout
    (videos / "train_001.mp4").unlink()
    assert "3 of 3 videos usable" in cli("index", videos, "--out", out).stdout


def test_the_account_follows_the_list_where_the_videos_stay(
    cli: Cli, playground: Path, tmp_path: Path
) -> None:
    (tmp_path / "v").mkdir()
    shutil.copy(playground / "videos" / "train_000.mp4", tmp_path / "v" / "one.mp4")
    listing, out = tmp_path / "list.txt", tmp_path / "i.parquet"
    for lines, expected in (("one.mp4 0", 1), ("one.mp4 0\ntwo.mp4 1", 2), ("one.mp4 0", 1)):
        listing.write_text(lines)
        result = cli("index", f"kinetics:{tmp_path / 'v'},list={listing}", "--out", out)
        account = account_of(out)
        assert account is not None
        assert (account["expected"], account["missing"]["count"]) == (expected, expected - 1)
    assert "indexing" not in result.stderr  # the row was there
    before = out.stat().st_mtime_ns
    cli("index", f"kinetics:{tmp_path / 'v'},list={listing}", "--out", out)
    assert out.stat().st_mtime_ns == before


def test_of_several_rows_for_a_path_the_last_counts() -> None:
    known = pa.chunked_array([["a", "b", "a"], ["c", "b"]])
    wanted = pa.array(["b", "x", "a", "c", "b"], pa.large_string())
    assert _latest(wanted, known).tolist() == [4, -1, 2, 3, 4]
    assert _latest(wanted, known.slice(0, 0)).tolist() == [-1] * 5


def test_rows_follow_the_order_of_the_source_whatever_was_known(
    cli: Cli, playground: Path, tmp_path: Path
) -> None:
    videos = sorted((playground / "videos").iterdir())
    listing, out = tmp_path / "list.txt", tmp_path / "i.parquet"
    for order in ([1, 3], [3, 2, 1, 0], [0, 3]):
        listing.write_text("".join(f"{videos[n]}\n" for n in order))
        result = cli("index", listing, "--out", out)
        assert f"{len(order)} of {len(order)} videos usable" in result.stdout
        assert pq.read_table(out)["path"].to_pylist() == [str(videos[n]) for n in order]
    assert "indexing" not in result.stderr  # the last order needs no look at any video


# --- what is refused


def test_a_missing_folder_is_answered_with_the_nearest(
    refused: Refused, playground_copy: Path
) -> None:
    told = refused("index", playground_copy / "vidoes", "--out", "i.parquet")
    assert f"{playground_copy / 'vidoes'}: no such file or folder; did you mean 'videos'?" in told
    told = refused("index", "no/where/at/all", "--out", "i.parquet")
    assert "no/where/at/all: no such file or folder (nor is there a folder no/where/at)" in told


def test_a_folder_without_videos_is_refused_with_what_was_looked_for(
    refused: Refused, tmp_path: Path
) -> None:
    (tmp_path / "none").mkdir()
    told = refused("index", "none", "--out", "i.parquet")
    assert "none: holds no video file (looked for .3gp .asf .avi" in told


def test_a_folder_without_one_decodable_video_is_refused_with_reasons(
    refused: Refused, playground_copy: Path
) -> None:
    videos = playground_copy / "videos"
    for path in videos.iterdir():
        path.write_text("not a video")
    told = refused("index", videos, "--out", "i.parquet")
    assert f"{videos}: none of the 4 videos can be decoded:" in told
    assert "train_000.mp4" in told
    assert "val_000.mp4" in told


@pytest.mark.parametrize("name", ["notes.txt", "table.parquet"])
def test_a_file_that_is_no_index_is_not_overwritten(
    refused: Refused, playground: Path, tmp_path: Path, name: str
) -> None:
    (tmp_path / "notes.txt").write_text("mine")
    pq.write_table(pa.table({"path": ["a.mp4"], "mine": [1]}), tmp_path / "table.parquet")
    told = refused("index", playground / "videos", "--out", name)
    assert f"{name}: exists and is not an index; choose another name for --out" in told


def test_an_unknown_kind_of_source_is_answered_with_the_nearest(
    refused: Refused, playground: Path
) -> None:
    told = refused("index", f"playgruond:{playground}", "--out", "i.parquet")
    assert "no source 'playgruond' in vidssl.sources; did you mean 'playground'?" in told


@pytest.mark.parametrize("name", ["i.parquet", "i.quarantine.csv"])
@pytest.mark.parametrize("kind", ["pipe", "folder"])
def test_what_is_no_file_is_not_written_over(
    refused: Refused, playground: Path, tmp_path: Path, name: str, kind: str
) -> None:
    if kind == "pipe":
        os.mkfifo(tmp_path / name)  # to open it would wait for ever
    else:
        (tmp_path / name).mkdir()
    told = refused("index", playground / "videos", "--out", "i.parquet")
    assert name in told
    assert "is not a" in told or "is a directory" in told


def test_a_quarantine_that_cannot_be_removed_is_told_of(
    cli: Cli, playground_copy: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (playground_copy / "videos" / "bad.mp4").write_bytes(b"no video")
    arguments = ("index", playground_copy / "videos", "--out", tmp_path / "i.parquet")
    cli(*arguments)
    (playground_copy / "videos" / "bad.mp4").unlink()

    def refuse(path: Path, missing_ok: bool = False) -> None:
        if path.suffix == ".csv":
            raise PermissionError(errno.EACCES, "Permission denied")
        if path.exists():
            os.unlink(path)

    monkeypatch.setattr(Path, "unlink", refuse)
    result = cli(*arguments)
    assert result.exit_code == 2
    assert "i.quarantine.csv: cannot be written: Permission denied" in result.stderr


def test_an_equal_quarantine_table_is_left_alone(
    cli: Cli, playground_copy: Path, tmp_path: Path
) -> None:
    damage(playground_copy / "videos")
    arguments = ("index", playground_copy / "videos", "--out", tmp_path / "i.parquet")
    cli(*arguments)
    table = tmp_path / "i.quarantine.csv"
    before = table.stat()
    cli(*arguments)
    assert table.stat().st_ino == before.st_ino  # another file would have taken its name
    (playground_copy / "videos" / "more.mp4").write_bytes(b"no video")
    cli(*arguments)
    assert len(table.read_text().splitlines()) == 1 + 4


@pytest.mark.parametrize("target", ["", ".", "/"])
def test_json_goes_to_a_file_with_a_name(refused: Refused, playground: Path, target: str) -> None:
    told = refused("index", playground / "videos", "--out", "i.parquet", "--json", target)
    assert "expected the name of a file" in told


def test_json_is_not_written_over_the_index(refused: Refused, playground: Path) -> None:
    told = refused("index", playground / "videos", "--json", "i.parquet", "--out", "./i.parquet")
    assert "is named by --out and by --json" in told


@pytest.mark.parametrize("command", ["index", "sample"])
def test_a_machine_without_a_temporary_folder_is_told_of(
    command: str, playground: Path, tiny: dict[str, Path], tmp_path: Path
) -> None:
    out = {"index": ["i.parquet"], "sample": ["s.png", "--recipe", str(tiny["pretrain"])]}[command]
    lines = (
        "import sys, tempfile",
        "tempfile._candidate_tempdir_list = lambda: ['/no/where']",
        "from importlib.metadata import entry_points",
        "(entry,) = entry_points(group='console_scripts', name='vidssl')",
        "entry.load()()",
    )
    words: list[str | Path] = [
        sys.executable,
        "-c",
        "\n".join(lines),
        command,
        playground / "videos",
        "--out",
        *out,
    ]
    result = subprocess.run(words, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert result.returncode == 2, result.stderr
    told = "error: No usable temporary directory found in ['/no/where']; set TMPDIR to a folder"
    assert told in result.stderr
    assert not list(tmp_path.iterdir())


def test_a_list_is_refused_with_its_lines(refused: Refused, tmp_path: Path) -> None:
    (tmp_path / "list.csv").write_text("paht,label\na.mp4,1\n")
    told = refused("index", "list.csv", "--out", "i.parquet")
    assert "list.csv:1: expected a column named path, found ['paht', 'label']" in told
    assert "did you mean 'paht'?" in told
    (tmp_path / "list.csv").write_text("path,label\na.mp4,1\nb.mp4,2\n")
    told = refused("index", "list.csv", "--out", "i.parquet")
    assert "list.csv: none of the 2 videos is there" in told
    assert "list.csv:3: no such file: b.mp4" in told


def test_a_missing_video_of_a_list_is_set_aside(cli: Cli, playground: Path, tmp_path: Path) -> None:
    good = playground / "videos" / "train_000.mp4"
    (tmp_path / "list.txt").write_text(f"{good}\ngone.mp4\n")
    result = cli("index", tmp_path / "list.txt", "--out", tmp_path / "i.parquet")
    assert result.exit_code == 0
    assert "1 of 2 videos usable" in result.stdout
    assert "set aside (missing)" in result.stdout
    assert "gone.mp4" in result.stdout


def test_an_output_below_a_file_is_refused(
    refused: Refused, playground: Path, tmp_path: Path
) -> None:
    (tmp_path / "file").write_text("mine")
    told = refused("index", playground / "videos", "--out", "file/i.parquet")
    assert "file/i.parquet: cannot be written" in told


def test_the_source_s_account_is_kept_in_the_index_and_in_the_run(
    cli: Cli, tiny: dict[str, Path], index: Path, tmp_path: Path
) -> None:
    videos = [row.path for row in read_rows(index)][:2]
    rows = "".join(f"class{n},vid{n},0,10,val\n" for n in range(4))
    (tmp_path / "val.csv").write_text("label,youtube_id,time_start,time_end,split\n" + rows)
    for number, video in enumerate(videos):
        shutil.copy(video, tmp_path / f"vid{number}_000000_000010.mp4")
    (tmp_path / "vid2_000000_000010.mp4").write_bytes(b"no video")
    source, out = f"kinetics:{tmp_path},list=val.csv", tmp_path / "run"
    result = cli("pretrain", tiny["pretrain"], "--videos", source, "--out", out)
    assert result.exit_code == 0, result.output
    account = account_of(out / "index.parquet")
    assert account is not None
    assert (account["expected"], account["present"]) == (4, 3)
    assert account["missing"]["names"] == ["vid3_000000_000010"]
    assert [Path(p).name for p in account["undecodable"]["names"]] == ["vid2_000000_000010.mp4"]
    events = [json.loads(line) for line in (out / "events.jsonl").read_text().splitlines()]
    (told,) = [event for event in events if event["event"] == "source"]
    assert (told["expected"], told["missing"], told["undecodable"]) == (4, 1, 1)
    assert told["source"] == source
    assert told["told"] == "3 of 4 videos are present (75.0%), 1 missing, 1 not decodable"
