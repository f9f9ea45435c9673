"""``vidssl propose``: boxes by a detector from a file of weights, and tracks of given boxes."""

import json
import os
import pickle
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from importlib.metadata import entry_points
from pathlib import Path

import pytest
from typer.testing import Result

from vidssl.ava.annotations import read_person_boxes
from vidssl.errors import OutputError
from vidssl.jobs import propose

Cli = Callable[..., Result]
Refused = Callable[..., str]
NAME = "fasterrcnn_mobilenet_v3_large_320_fpn"


@pytest.fixture
def detecting(weights: Path, index: Path) -> list[object]:
    """Arguments that look for people in the playground, every 7 s."""
    return [
        *("propose", "--videos", index, "--detector", weights, "--model", NAME, "--every", 7),
        *("--min-score", 0.05, "--short-side", 64, "--workers", 0),
    ]


@pytest.fixture
def detecting_when_told(detecting: list[object]) -> list[object]:
    """The same without a distance of key frames, for a csv of them."""
    every = detecting.index("--every")
    return [*detecting[:every], *detecting[every + 2 :]]


def test_a_detector_writes_the_published_form(
    cli: Cli, detecting: list[object], tmp_path: Path
) -> None:
    out = tmp_path / "boxes.csv"
    result = cli(*detecting, "--out", out, "--json", "-")
    assert result.exit_code == 0, result.output
    told = json.loads(result.stdout)
    # Four videos of 14 s: key frames at 0 and 7 s.
    assert told["key_frames"] == 8
    assert told["failed"] == 0
    rows = [line.split(",") for line in out.read_text().splitlines()]
    assert len(rows) == told["rows"] > 0
    assert {len(row) for row in rows} == {8}
    assert {row[6] for row in rows} == {""}
    assert {row[1] for row in rows} <= {"0000", "0007"}
    found = read_person_boxes(out)
    assert found.score.min() >= 0.05
    assert [path.name for path in tmp_path.iterdir()] == ["boxes.csv"]


def test_key_frames_come_from_a_csv_and_their_clock(
    cli: Cli, detecting_when_told: list[object], playground: Path, tmp_path: Path
) -> None:
    times = tmp_path / "times.csv"
    times.write_text("train_000,0902\ntrain_000,0905\nval_000,0904\n")
    arguments = [*detecting_when_told, "--times", times, "--time-origin", "900"]
    result = cli(*arguments, "--out", tmp_path / "late.csv")
    assert result.exit_code == 0, result.output
    times.write_text("train_000,0002\ntrain_000,0005\nval_000,0004\n")
    result = cli(*detecting_when_told, "--times", times, "--out", tmp_path / "early.csv")
    assert result.exit_code == 0, result.output
    early, late = ((tmp_path / f"{name}.csv").read_text() for name in ("early", "late"))
    assert late.replace(",09", ",00") == early
    assert {line.split(",")[1] for line in early.splitlines()} <= {"0002", "0004", "0005"}


def test_a_stopped_run_goes_on_and_writes_the_same(
    cli: Cli, detecting: list[object], tmp_path: Path
) -> None:
    whole, out = tmp_path / "whole.csv", tmp_path / "boxes.csv"
    assert cli(*detecting, "--out", whole).exit_code == 0
    (entry,) = entry_points(group="console_scripts", name="vidssl")
    command = [sys.executable, "-m", entry.module.rpartition(".")[0]]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    process = subprocess.Popen(
        [*command, *map(str, detecting), "--out", str(out)], stderr=subprocess.PIPE, env=environment
    )
    journal = tmp_path / ".boxes.csv.frames.jsonl"
    end = time.monotonic() + 90
    while time.monotonic() < end and process.poll() is None:
        if journal.exists() and journal.read_bytes().count(b"\n") >= 2:
            process.send_signal(signal.SIGTERM)
            break
        time.sleep(0.01)
    _, said = process.communicate(timeout=90)
    assert process.returncode == 75, said
    assert b"key frames have been looked at; the same command goes on from there" in said
    assert not out.exists()
    kept = journal.read_bytes()
    assert 2 <= kept.count(b"\n") < 9
    journal.write_bytes(kept + b'{"video": "train_0')  # as if the power had gone as well
    assert cli(*detecting, "--out", out).exit_code == 0
    assert out.read_text() == whole.read_text()
    assert not journal.exists()


def test_a_run_with_other_settings_does_not_go_on(
    cli: Cli, refused: Refused, detecting: list[object]
) -> None:
    Path(".boxes.csv.frames.jsonl").write_text('{"identity": "another"}\n')
    message = refused(*detecting, "--out", "boxes.csv")
    assert "boxes.csv: was begun with other weights, settings or videos" in message


def test_wrong_weights_times_and_videos_leave_nothing_behind(
    refused: Refused, detecting: list[object], detecting_when_told: list[object]
) -> None:
    def asked(**changes: object) -> str:
        arguments = list(detecting_when_told if "times" in changes else detecting)
        for option, value in changes.items():
            name = f"--{option.replace('_', '-')}"
            if name in arguments:
                arguments[arguments.index(name) + 1] = value
            else:
                arguments += [name, value]
        return refused(*arguments, "--out", "boxes.csv")

    assert "no.pth: no such file" in asked(detector="no.pth")
    message = asked(model="fcos_resnet50")
    assert (
        "no detector 'fcos_resnet50' in torchvision; did you mean 'fcos_resnet50_fpn'?" in message
    )
    message = asked(model="ssdlite320_mobilenet_v3_large")
    assert "ssdlite320_mobilenet_v3_large has a size of its own; leave it out" in message
    assert "does not fit fcos_resnet50_fpn (" in asked(model="fcos_resnet50_fpn")
    assert "--class: expected one from 1 to 2, found 5" in asked(**{"class": 5})
    assert "found nobody of a score of at least 1" in asked(min_score=1)
    assert "nowhere: no such file or folder" in asked(videos="nowhere")
    assert "times.csv: no such file" in asked(times="times.csv")
    assert "--every: expected seconds from 0.01 up" in asked(every=0)
    assert "--time-origin is that of --times" in asked(time_origin=900)
    Path("times.csv").write_text("train_000,soon\n")
    assert "times.csv:1: malformed timestamp" in asked(times="times.csv")
    Path("boxes.csv").write_text("")
    assert "boxes.csv: is there already; choose another name for --out" in asked()


def test_what_to_do_must_be_said(refused: Refused, weights: Path, index: Path) -> None:
    out = ("--out", "b.csv")
    assert "give either --detector with --videos, or --track" in refused("propose", *out)
    both = ("--detector", weights, "--track", "x.csv")
    assert "give either --detector" in refused("propose", *both, *out)
    assert "--detector needs --videos" in refused("propose", "--detector", weights, *out)
    message = refused("propose", "--track", "x.csv", "--videos", index, *out)
    assert "leave out --videos, --times" in message


class Payload:
    """What runs a command when an ordinary reader of pickles meets it."""

    def __init__(self, target: Path) -> None:
        self.target = target

    def __reduce__(self) -> tuple[object, tuple[str]]:
        return os.system, (f"touch {self.target}",)


def test_nothing_in_a_file_of_weights_runs(
    refused: Refused, detecting: list[object], tmp_path: Path
) -> None:
    target = tmp_path / "it_ran"
    bad = tmp_path / "bad.pth"
    bad.write_bytes(pickle.dumps({"backbone.weight": Payload(target)}))
    detecting[detecting.index("--detector") + 1] = bad
    refused(*detecting, "--out", "boxes.csv")
    assert not target.exists()


def test_boxes_are_linked_and_keep_the_published_form(
    cli: Cli, playground: Path, tmp_path: Path
) -> None:
    boxes, out = playground / "val_person_detections.csv", tmp_path / "tracked.csv"
    result = cli("propose", "--track", boxes, "--iou", 0.3, "--min-length", 2, "--out", out)
    assert result.exit_code == 0, result.output
    kept = read_person_boxes(out)
    tracks = [line.split(",") for line in (tmp_path / "tracked.tracks.csv").read_text().split()]
    assert len(tracks) == len(kept.score)
    assert [row[0] for row in tracks] == kept.video.tolist()
    assert [float(row[1]) for row in tracks] == kept.timestamp.tolist()
    counts: dict[tuple[str, str], int] = {}
    for video, _, track in tracks:
        counts[video, track] = counts.get((video, track), 0) + 1
    assert min(counts.values()) >= 2
    assert f"{len(counts)} tracks" in result.stdout
    whole = read_person_boxes(boxes)
    assert f"{len(whole.score) - len(kept.score)} boxes left out" in result.stdout


def test_tracking_refuses_what_is_no_boxes_and_what_keeps_none(
    refused: Refused, playground: Path
) -> None:
    out = ("--out", "tracked.csv")
    assert "not a person box" in refused("propose", "--track", playground / "val.csv", *out)
    boxes = playground / "val_person_detections.csv"
    message = refused("propose", "--track", boxes, "--min-length", 999, *out)
    assert "no track is kept of" in message
    Path("tracked.tracks.csv").write_text("")
    message = refused("propose", "--track", boxes, *out)
    assert "tracked.tracks.csv: is there already" in message


def test_a_broken_video_is_told_of_and_counted(
    cli: Cli,
    detecting: list[object],
    detecting_when_told: list[object],
    playground_copy: Path,
    tmp_path: Path,
) -> None:
    videos = playground_copy / "videos"
    broken, gone = sorted(videos.iterdir())[:2]
    broken.write_bytes(broken.read_bytes()[:200])
    for arguments in (detecting, detecting_when_told):
        arguments[arguments.index("--videos") + 1] = videos
    result = cli(*detecting, "--out", tmp_path / "every.csv")
    assert result.exit_code == 0, result.output
    assert f"failed: {broken.stem}: " in result.stdout
    assert broken.stem not in (tmp_path / "every.csv").read_text()

    # Asked for by name, its key frames count.
    gone.unlink()
    times = tmp_path / "times.csv"
    kept = sorted(videos.iterdir())[-1].stem
    times.write_text(f"{broken.stem},0002\n{kept},0002\n{kept},0004\n{gone.stem},0002\n")
    result = cli(*detecting_when_told, "--times", times, "--out", tmp_path / "some.csv")
    assert result.exit_code == 3, result.output
    assert "not readable: 2" in result.stdout
    assert "2 of 4 key frames failed, more than 1.00%" in result.stderr
    assert f"failed: {gone.stem}: no such video" in result.stdout
    options = ["--max-failed", 0.5, "--out", tmp_path / "allowed.csv"]
    assert cli(*detecting_when_told, "--times", times, *options).exit_code == 0


def test_decoding_beside_gives_the_same_boxes(
    cli: Cli, detecting: list[object], tmp_path: Path
) -> None:
    assert cli(*detecting, "--out", tmp_path / "here.csv").exit_code == 0
    detecting[detecting.index("--workers") + 1] = 2
    assert cli(*detecting, "--out", tmp_path / "beside.csv").exit_code == 0
    assert (tmp_path / "here.csv").read_text() == (tmp_path / "beside.csv").read_text()


def test_where_no_key_frame_can_be_read_that_is_said_and_why(
    refused: Refused, cli: Cli, detecting: list[object], playground_copy: Path, tmp_path: Path
) -> None:
    index = tmp_path / "videos.parquet"
    assert cli("index", playground_copy / "videos", "--out", index).exit_code == 0
    for video in (playground_copy / "videos").iterdir():
        video.write_bytes(video.read_bytes()[:200])
    detecting[detecting.index("--videos") + 1] = index
    message = refused(*detecting, "--out", "boxes.csv")
    assert "none of 8 key frames could be read" in message
    assert "train_000 at 0 s: " in message
    assert "nobody" not in message


def test_options_of_the_other_way_are_refused_by_name(
    refused: Refused, detecting: list[object], playground: Path
) -> None:
    tracking = ["propose", "--track", playground / "val_person_detections.csv"]
    for option, value in (("--iou", 0.5), ("--peak-score", 0), ("--min-length", 1), ("--gap", 2)):
        message = refused(*detecting, option, value, "--out", "boxes.csv")
        assert f"{option}: of no use with --detector" in message
    for name, said in (
        ("--every", 1), ("--model", NAME), ("--class", 1), ("--short-side", 64), ("--workers", 2),
        ("--max-failed", 0.5),
    ):  # fmt: skip
        message = refused(*tracking, name, said, "--out", "boxes.csv")
        assert f"{name}: of no use with --track" in message
    message = refused(*tracking, "--every", 1, "--class", 1, "--out", "boxes.csv")
    assert "--every, --class: of no use with --track; leave out" in message
    times = ("--times", playground / "val.csv")
    message = refused(*detecting, *times, "--every", 2, "--out", "boxes.csv")
    assert "--every: of no use with --times, which say where to look; leave out" in message


@pytest.mark.parametrize(
    "line",
    ["[]", "3", '{"video": "train_000"}',
     '{"video": "train_000", "second": 0.0, "box": [[0.1, 0.2]], "score": [0.5]}',
     '{"video": "train_000", "second": 0.0, "box": "here", "score": [0.5]}'],
)  # fmt: skip
def test_a_journal_with_lines_of_another_shape_goes_on_from_the_last_good_one(
    line: str, tmp_path: Path
) -> None:
    out = tmp_path / "boxes.csv"
    journal = propose._Journal(out, "mine")
    journal.close()
    good = '{"video": "train_000", "second": 7.0, "box": [[0.1, 0.2, 0.3, 0.4]], "score": [0.5]}'
    kept = journal.path.read_text() + f"{good}\n"
    journal.path.write_text(f"{kept}{line}\n")
    journal = propose._Journal(out, "mine")
    journal.close()
    assert list(journal.done) == [("train_000", 7.0)]
    assert journal.path.read_text() == kept
    journal.path.write_text(f"{line}\n")
    with pytest.raises(OutputError, match="was begun with other weights"):
        propose._Journal(out, "mine")
