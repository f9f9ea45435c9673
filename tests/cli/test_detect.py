"""``vidssl detect``: the scores of eval-ava, and files that hold together, about a real video."""

import base64
import hashlib
import html
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from fractions import Fraction
from html.parser import HTMLParser
from importlib.metadata import entry_points
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image
from typer.testing import Result

from vidssl.ava.annotations import read_predictions
from vidssl.ava.detections import Detections, as_json, as_webvtt, read_detections
from vidssl.report.player import render
from vidssl.video.index import read_rows
from vidssl.video.reader import open_reader

Cli = Callable[..., Result]
Refused = Callable[..., str]
NAME = "fasterrcnn_mobilenet_v3_large_320_fpn"
FILES = {
    *("predictions.csv", "detections.json", "detections.schema.json", "boxes.csv"),
    *("timeline.vtt", "annotated.mp4", "index.html"),
}
HOSTILE = "<script>alert('&amp;')</script> --> \"x\""


@pytest.fixture(scope="session")
def video(playground: Path) -> Path:
    return playground / "videos" / "val_000.mp4"


@pytest.fixture(scope="session")
def boxes(playground: Path) -> Path:
    return playground / "val_person_detections.csv"


@pytest.fixture(scope="session")
def found(
    cli: Cli, video: Path, boxes: Path, detector: Path, tmp_path_factory: pytest.TempPathFactory
) -> Path:
    """One run's folder; an untrained detector scores about a half, so the threshold is low."""
    out = tmp_path_factory.mktemp("detect") / "deep" / "out"
    result = cli(
        *("detect", video, "--checkpoint", detector, "--boxes", boxes, "--out", out),
        *("--threshold", 0.01, "--top", 2),
    )
    assert result.exit_code == 0, result.output
    return out


def test_the_scores_are_those_of_eval_ava(
    cli: Cli, found: Path, playground: Path, index: Path, boxes: Path, detector: Path
) -> None:
    result = cli(
        *("eval-ava", "--annotations", playground / "val.csv"),
        *("--labels", playground / "action_list.pbtxt", "--checkpoint", detector),
        *("--videos", index, "--boxes", boxes, "--quick"),
    )
    assert result.exit_code == 0, result.output
    theirs = read_predictions(detector / "eval-val" / "predictions.csv")
    ours = read_predictions(found / "predictions.csv")
    full = theirs.action > 0  # eval-ava notes annotated key frames without detections as well
    assert full.sum() == len(ours.action) > 50
    for column in ("video", "timestamp", "box", "action", "score"):
        assert (getattr(ours, column) == getattr(theirs, column)[full]).all(), column


def test_out_holds_what_is_promised_and_nothing_else(found: Path) -> None:
    assert {path.name for path in found.iterdir()} == FILES
    assert [path.name for path in found.parent.iterdir()] == ["out"]


def test_the_json_comes_back_and_agrees_with_the_csv(found: Path, video: Path) -> None:
    told = read_detections(found / "detections.json")
    assert as_json(told) == (found / "detections.json").read_text()
    assert (told.video.file, told.video.id) == ("val_000.mp4", "val_000")
    table = read_predictions(found / "predictions.csv")
    scores = {
        (time, tuple(box), action): score
        for time, box, action, score in zip(
            table.timestamp.tolist(),
            table.box.tolist(),
            table.action.tolist(),
            table.score.tolist(),
            strict=True,
        )
    }
    seen = 0
    for instant in told.key_frames:
        for person in instant.people:
            own = {
                a: s for (t, b, a), s in scores.items() if (t, b) == (instant.time_s, person.box)
            }
            assert len(own) == len(told.classes)
            best = sorted(own.values(), reverse=True)[:2]
            assert [action.score for action in person.actions] == best
            assert all(own[action.id] == action.score for action in person.actions)
            assert all(told.classes[action.id] == action.name for action in person.actions)
            seen += 1
    assert seen * len(told.classes) == len(scores)
    assert [i.time_s for i in told.key_frames] == sorted({*table.timestamp.tolist()})


def test_the_schema_describes_the_json(found: Path) -> None:
    schema = json.loads((found / "detections.schema.json").read_text())
    told = json.loads((found / "detections.json").read_text())
    assert schema["properties"]["version"]["const"] == told["version"] == 1
    assert schema["properties"].keys() == told.keys()
    parts = schema["$defs"]
    person = told["key_frames"][0]["people"][0]
    assert parts["Person"]["properties"].keys() == person.keys()
    assert parts["Action"]["properties"].keys() == person["actions"][0].keys()
    assert parts["Track"]["properties"].keys() == told["tracks"][0].keys()


def test_tracks_hold_everybody_once(found: Path) -> None:
    told = read_detections(found / "detections.json")
    counts: dict[int, int] = {}
    for instant in told.key_frames:
        tracks = [person.track for person in instant.people]
        assert len(set(tracks)) == len(tracks) == len(set(tracks) & {t.track for t in told.tracks})
        for track in tracks:
            counts[track] = counts.get(track, 0) + 1
    assert {track.track: track.key_frames for track in told.tracks} == counts
    assert [track.track for track in told.tracks] == list(range(1, len(counts) + 1))


def test_intervals_are_where_the_scores_reach_the_threshold(
    cli: Cli, found: Path, video: Path, boxes: Path, detector: Path, tmp_path: Path
) -> None:
    table = read_predictions(found / "predictions.csv")
    threshold = float(np.median(table.score))
    out = tmp_path / "out"
    arguments = ["--checkpoint", detector, "--boxes", boxes, "--threshold", threshold]
    assert cli("detect", video, *arguments, "--top", 99, "--out", out).exit_code == 0
    told = read_detections(out / "detections.json")
    high = low = 0
    for instant in told.key_frames:
        for person in instant.people:
            intervals = told.tracks[person.track - 1].intervals
            for action in person.actions:
                covering = [
                    i
                    for i in intervals
                    if i.action == action.id and i.from_s <= instant.time_s < i.to_s
                ]
                assert len(covering) == (action.score >= threshold)
                high += len(covering)
                low += not covering
    assert high > 5
    assert low > 5


def test_subtitles_are_strict_webvtt_with_rising_times(found: Path) -> None:
    told = read_detections(found / "detections.json")
    cues = parse_webvtt((found / "timeline.vtt").read_text(encoding="utf-8"))
    starts = [start for start, _, _ in cues]
    assert starts == sorted(starts)
    assert len(cues) == sum(len(track.intervals) for track in told.tracks) > 3
    spoken = {
        (f"<v Person {t.track}>{i.name} ({i.score:.2f})", round(i.from_s, 3), round(i.to_s, 3))
        for t in told.tracks
        for i in t.intervals
    }
    assert {(html.unescape(text), start, stop) for start, stop, text in cues} == spoken
    assert max(stop for _, stop, _ in cues) <= told.video.duration_s + 0.001


def test_the_annotated_video_keeps_frames_and_speed_and_marks_people(
    cli: Cli, found: Path, video: Path, tmp_path: Path
) -> None:
    for name, path in (("own", video), ("marked", found / "annotated.mp4")):
        assert cli("index", path, "--out", tmp_path / f"{name}.parquet").exit_code == 0
    (own,), (marked,) = (read_rows(tmp_path / f"{n}.parquet") for n in ("own", "marked"))
    assert marked.codec == "h264"
    assert (marked.frames, marked.fps) == (own.frames, own.fps)
    assert marked.duration_s == pytest.approx(own.duration_s, abs=0.5 / own.fps)
    assert (marked.width, marked.height) == (own.width, own.height)

    told = read_detections(found / "detections.json")
    instants = [i for i in told.key_frames if 0.5 < i.time_s < own.duration_s - 1]
    times = np.array([instant.time_s for instant in instants])
    before, after = frames(video, times), frames(found / "annotated.mp4", times)
    change = np.abs(before.astype(int) - after.astype(int)).mean(axis=3)
    # What is drawn: the outlines, and the captions above or in them.
    for instant, one in zip(instants, change, strict=True):
        height, width = one.shape
        for person in instant.people:
            x1, y1, x2, y2 = (
                round(v * (s - 1)) for v, s in zip(person.box, (width, height) * 2, strict=True)
            )
            edges = [one[y1, x1:x2], one[y2, x1:x2], one[y1:y2, x1], one[y1:y2, x2]]
            assert min(np.median(edge) for edge in edges) > 15, (instant.time_s, person)
    # What is not: the first half of the second between two key frames far away from everybody.
    assert np.median(change) < 6


def test_nothing_is_drawn_where_nobody_is(
    cli: Cli, video: Path, detector: Path, boxes: Path, tmp_path: Path
) -> None:
    line = next(row for row in boxes.read_text().splitlines() if row.startswith("val_000,"))
    fields = line.split(",")
    own = tmp_path / "one.csv"
    own.write_text(",".join([fields[0], "0004", "0.2", "0.3", "0.5", "0.9", "", "0.99"]) + "\n")
    out = tmp_path / "out"
    command = ["detect", video, "--checkpoint", detector, "--boxes", own, "--out", out]
    assert cli(*command).exit_code == 0
    # A lone key frame counts for half a second before and after.
    times = np.array([1.0, 3.4, 3.6, 4.4, 4.6, 9.0])
    change = np.abs(
        frames(video, times).astype(int) - frames(out / "annotated.mp4", times).astype(int)
    ).mean(axis=3)
    height, width = change.shape[1:]
    left = np.median(change[:, int(0.5 * height) : int(0.8 * height), round(0.2 * (width - 1))], 1)
    assert (left > 15).tolist() == [False, False, True, True, False, False]


def test_the_page_is_whole_asks_for_nothing_and_shows_every_interval(found: Path) -> None:
    text = (found / "index.html").read_text(encoding="utf-8")
    page = Page(text)
    told = read_detections(found / "detections.json")
    intervals = [interval for track in told.tracks for interval in track.intervals]
    spans = [a for tag, a in page.elements if tag == "a" and "style" in a]
    own = sorted(f"annotated.mp4#t={i.from_s:.3f},{i.to_s:.3f}" for i in intervals)
    assert sorted(str(a["href"]) for a in spans) == own
    for tag, attributes in page.elements:
        for name in ("src", "href", "action", "data", "srcset", "poster"):
            if name in attributes:
                assert re.fullmatch(r"annotated\.mp4(#t=[\d.]+,[\d.]+)?", attributes[name] or ""), (
                    tag
                )
        assert not any(name.startswith("on") for name in attributes)
    assert "//" not in re.sub(r"(?s)<script>.*</script>", "", text).replace("<!DOCTYPE", "")
    assert not re.search(r"https?:|url\(|@import|fetch\(|import\(", text)
    assert [tag for tag, _ in page.elements].count("script") == 1


def test_names_with_markup_stay_names(found: Path) -> None:
    told = json.loads((found / "detections.json").read_text())
    for track in told["tracks"]:
        for interval in track["intervals"]:
            interval["name"] = HOSTILE + "\n\nevil"
    told["video"]["file"] = HOSTILE
    hostile = Detections.model_validate(told)
    page = Page(render(hostile, "annotated.mp4"))
    assert [tag for tag, _ in page.elements].count("script") == 1
    assert any(HOSTILE in text for text in page.texts)
    cues = parse_webvtt(as_webvtt(hostile.tracks))
    assert len(cues) == sum(len(track.intervals) for track in hostile.tracks)
    for _, _, text in cues:
        assert text.count("<") == 1  # the voice
        assert "&lt;script&gt;" in text


@pytest.mark.alone
def test_a_browser_plays_it_from_the_disk_and_a_span_seeks(found: Path, tmp_path: Path) -> None:
    chromium = shutil.which("chromium") or shutil.which("google-chrome")
    if chromium is None:
        pytest.skip("no Chromium to open the page in")
    folder = shutil.copytree(found, tmp_path / "copy")
    page = folder / "index.html"
    # The page's own policy lets nothing else run; the script that clicks gets its hash into it.
    script = """
    const note = (text) => { document.title = text; };
    const v = document.querySelector("video");
    v.addEventListener("error", () => note("video: error " + v.error.code));
    const go = () => {
      const from = (a) => Number(a.hash.slice(3).split(",")[0]);
      const all = [...document.querySelectorAll(".lane a")];
      const last = all.reduce((a, b) => from(a) > from(b) ? a : b);
      v.addEventListener("seeked", () => {
        const wide = document.documentElement.scrollWidth - innerWidth;
        note(["seeked", v.currentTime, from(last), v.videoWidth, v.duration,
          last.classList.contains("now"), wide].join(" "));
      });
      last.click();
    };
    if (v.readyState >= 1) go(); else v.addEventListener("loadedmetadata", go);
    """
    digest = hash_of(script)
    text = page.read_text(encoding="utf-8")
    text = text.replace("script-src ", f"script-src '{digest}' ")
    page.write_text(text.replace("</body>", f"<script>{script}</script></body>"), encoding="utf-8")
    shown = subprocess.run(
        [
            *(chromium, "--headless", "--no-sandbox", "--disable-gpu", "--dump-dom"),
            *("--virtual-time-budget=8000", "--window-size=500,900"),
            *(f"--user-data-dir={tmp_path / 'profile'}", page.as_uri()),
        ],
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    title = re.search(r"<title>(.*?)</title>", shown.stdout)
    assert title, shown.stderr[-2000:]
    words = title[1].split()
    assert words[0] == "seeked", title[1]
    told = read_detections(found / "detections.json")
    assert float(words[1]) == pytest.approx(float(words[2]), abs=0.01)
    assert float(words[2]) > 1
    assert int(words[3]) == told.video.width_px
    assert float(words[4]) == pytest.approx(told.video.duration_s, abs=0.1)
    assert words[5] == "true"
    assert int(words[6]) <= 0  # nothing sticks out sideways of a small window


def test_a_detector_finds_the_people_at_key_frames_that_are_apart_as_asked(
    cli: Cli, video: Path, detector: Path, weights: Path, boxes: Path, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    looking = ["--detector", weights, "--model", NAME, "--min-score", 0.05, "--short-side", 64]
    command = ["detect", video, "--checkpoint", detector, *looking, "--every", 5]
    result = cli(*command, "--out", out, "--json", "-")
    assert result.exit_code == 0, result.output
    told = json.loads(result.stdout)
    assert set(told["files"]) == FILES
    found = read_detections(out / "detections.json")
    assert {i.time_s for i in found.key_frames} <= {0.0, 5.0, 10.0}
    assert told["boxes"] == sum(len(i.people) for i in found.key_frames) > 0
    assert found.made_by.people.startswith(NAME)
    # The boxes it found, given as a file, lead to the same scores.
    again = tmp_path / "again"
    given = ["--boxes", out / "boxes.csv", "--min-score", 0.05]
    assert cli("detect", video, "--checkpoint", detector, *given, "--out", again).exit_code == 0
    for name in ("predictions.csv", "boxes.csv"):
        assert (again / name).read_text() == (out / name).read_text()


def test_a_video_without_anybody_is_an_answer_too(
    cli: Cli, video: Path, detector: Path, weights: Path, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    looking = ["--detector", weights, "--model", NAME, "--min-score", 1, "--every", 7]
    result = cli("detect", video, "--checkpoint", detector, *looking, "--out", out)
    assert result.exit_code == 0, result.output
    assert "0 boxes in 0 key frames of 14.0 s, 0 people followed" in result.stdout
    assert "nobody was found; is --class 1 the person, or --min-score too high?" in result.stderr
    assert {path.name for path in out.iterdir()} == FILES
    told = read_detections(out / "detections.json")
    assert (told.key_frames, told.tracks, told.unread) == ([], [], [])
    assert (out / "predictions.csv").read_text() == ""
    assert (out / "timeline.vtt").read_text() == "WEBVTT\n"
    times = np.arange(14, dtype=np.float64) + 0.5
    change = frames(video, times).astype(int) - frames(out / "annotated.mp4", times).astype(int)
    assert np.abs(change).mean() < 6


def test_a_bank_is_read_where_the_detector_wants_one(
    cli: Cli,
    refused: Refused,
    video: Path,
    boxes: Path,
    bank: Path,
    bank_detector: Path,
    detector: Path,
    tmp_path: Path,
) -> None:
    common = ["detect", video, "--boxes", boxes]
    message = refused(*common, "--checkpoint", bank_detector, "--out", "out")
    assert "reads a feature bank: give it with --bank" in message
    message = refused(*common, "--checkpoint", detector, "--bank", bank, "--out", "out")
    assert "was trained without a bank" in message
    other = tmp_path / "other.mp4"
    shutil.copy(video, other)
    strange = ["detect", other, "--boxes", boxes, "--checkpoint", bank_detector, "--bank", bank]
    assert "holds nothing of the video 'other'" in refused(*strange, "--out", "out")
    out = tmp_path / "out"
    result = cli(*common, "--checkpoint", bank_detector, "--bank", bank, "--out", out)
    assert result.exit_code == 0, result.output
    assert read_detections(out / "detections.json").made_by.bank is not None


def test_every_frame_is_there_once_at_a_rate_that_is_no_whole_number(
    cli: Cli,
    write_numbered: Callable[..., Path],
    read_numbers: Callable[[NDArray[np.uint8]], list[int]],
    detector: Path,
    tmp_path: Path,
) -> None:
    fps = Fraction(30_000, 1001)
    video = write_numbered(tmp_path / "own.mp4", 75, fps=fps)
    boxes, out = tmp_path / "boxes.csv", tmp_path / "out"
    # Below the numbers, and one key frame behind the end of 2.5 s, which is told of.
    rows = [f"own,{time},0.4,0.7,0.6,0.9,,0.9" for time in ("0001", "0002", "0009")]
    boxes.write_text("\n".join(rows) + "\n")
    command = ["detect", video, "--checkpoint", detector, "--boxes", boxes, "--threshold", 1]
    result = cli(*command, "--out", out)
    assert result.exit_code == 0, result.output
    assert "not readable: 1 key frames" in result.stdout
    marked = frames(out / "annotated.mp4", np.arange(75) / float(fps))
    assert read_numbers(marked) == list(range(75))
    told = read_detections(out / "detections.json")
    assert told.unread[0].time_s == 9
    assert "outside of the video, which is 2.50 s long" in told.unread[0].reason
    assert [(t.from_s, t.to_s, t.intervals) for t in told.tracks] == [(0.5, 2.5, [])]
    assert (out / "timeline.vtt").read_text() == "WEBVTT\n"
    assert "Nobody does anything of so high a score" in (out / "index.html").read_text()


def test_a_folder_of_frames_of_odd_size_is_a_video_too(
    cli: Cli, detector: Path, tmp_path: Path
) -> None:
    folder, out = tmp_path / "own", tmp_path / "out"
    folder.mkdir()
    for number in range(30):
        picture = np.full((65, 97, 3), 20 + 7 * number, np.uint8)
        Image.fromarray(picture).save(folder / f"img_{number:05d}.png")
    (folder / "fps.txt").write_text("10")
    boxes = tmp_path / "boxes.csv"
    boxes.write_text("own,0001,0.2,0.2,0.8,0.8,,0.9\nown,0002,0.35,0.2,0.95,0.8,,0.9\n")
    command = ["detect", folder, "--checkpoint", detector, "--boxes", boxes, "--threshold", 1]
    result = cli(*command, "--out", out)
    assert result.exit_code == 0, result.output
    told = read_detections(out / "detections.json")
    assert (told.video.width_px, told.video.height_px, told.video.fps) == (97, 65, 10)
    marked = frames(out / "annotated.mp4", np.arange(30) / 10)
    assert marked.shape == (30, 66, 98, 3)  # the last row and column repeated
    assert marked[:, -3, 2, 1].tolist() == pytest.approx([20 + 7 * n for n in range(30)], abs=4)
    # From 1 s to 2 s the box moves in a line, its left side from 0.2 to 0.35; after that it stays.
    blue = np.array([0x56, 0xB4, 0xE9])  # of the first person
    for number, left in ((10, 0.2), (15, 0.275), (18, 0.32), (20, 0.35), (24, 0.35)):
        near = np.abs(marked[number, 40].astype(int) - blue).sum(axis=1)
        assert abs(int(near[:60].argmin()) - left * 97) < 3, number


def test_what_is_stopped_leaves_nothing_behind(
    video: Path, boxes: Path, detector: Path, tmp_path: Path
) -> None:
    (entry,) = entry_points(group="console_scripts", name="vidssl")
    arguments = ["detect", video, "--checkpoint", detector, "--boxes", boxes]
    process = subprocess.Popen(
        [
            *(sys.executable, "-m", entry.module.rpartition(".")[0]),
            *map(str, [*arguments, "--out", tmp_path / "deep" / "out"]),
        ],
        stderr=subprocess.PIPE,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )
    end = time.monotonic() + 90
    while time.monotonic() < end and process.poll() is None:
        if list(tmp_path.glob("deep/.out.*.part")):
            process.send_signal(signal.SIGTERM)
            break
        time.sleep(0.005)
    _, said = process.communicate(timeout=90)
    assert process.returncode == 130, said
    assert list(tmp_path.iterdir()) == []


def test_wrong_input_is_refused_and_nothing_is_left_behind(
    refused: Refused, video: Path, boxes: Path, detector: Path, playground: Path
) -> None:
    def asked(*options: object, of: object = video, run: object = detector) -> str:
        return refused("detect", of, "--checkpoint", run, *options, "--out", "deep/out")

    assert "give either --boxes or --detector" in asked()
    assert "give either --boxes" in asked("--boxes", boxes, "--detector", "w.pth")
    assert "--every is that of --detector" in asked("--boxes", boxes, "--every", 2)
    assert "none.mp4: no such file" in asked("--boxes", boxes, of="none.mp4")
    assert "expected one video, found 4" in asked("--boxes", boxes, of=playground / "videos")
    assert "a list; expected one video" in asked("--boxes", boxes, of=boxes)
    assert "no.csv: " in asked("--boxes", "no.csv")
    assert "no such" in asked("--boxes", boxes, run="nowhere")
    assert "no.pth: no such file" in asked("--detector", "no.pth")
    assert "--every: expected seconds from 0.01 up" in asked("--detector", "no.pth", "--every", 0)
    train = playground / "train_person_detections.csv"
    message = asked("--boxes", train)
    assert "expected boxes of 'val_000' (the file's name without its suffix)" in message
    assert "train_000" in message
    assert "--threshold" in asked("--boxes", boxes, "--threshold", "nan")
    assert "no box has a score of at least 1" in asked("--boxes", boxes, "--min-score", 1)
    Path("late.csv").write_text("val_000,0904,0.1,0.1,0.5,0.5,,0.9\n")
    assert "the video ends at 14" in asked("--boxes", "late.csv")
    Path("broken.mp4").write_bytes(video.read_bytes()[:300])
    assert "broken.mp4" in asked("--boxes", boxes, of="broken.mp4")
    Path("deep").mkdir()
    Path("deep/out").mkdir()
    assert "deep/out: is there already; choose another name" in asked("--boxes", boxes)


def frames(path: Path, times_s: NDArray[np.float64]) -> NDArray[np.uint8]:
    with open_reader(str(path)) as reader:
        return reader.frames_at(times_s + 0.01).frames


def hash_of(script: str) -> str:
    return "sha256-" + base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()


def parse_webvtt(text: str) -> list[tuple[float, float, str]]:
    """Return (start, end, text) of each cue; refuse what the standard does not allow."""
    moment = r"(\d{2,}):([0-5]\d):([0-5]\d)\.(\d{3})"
    header, *blocks = text.rstrip("\n").split("\n\n")
    assert header == "WEBVTT"
    cues = []
    for block in blocks:
        timing, *lines = block.split("\n")
        match = re.fullmatch(f"{moment} --> {moment}", timing)
        assert match, timing
        numbers = [int(group) for group in match.groups()]
        start, stop = (
            h * 3600 + m * 60 + s + t / 1000 for h, m, s, t in (numbers[:4], numbers[4:])
        )
        assert start < stop
        assert len(lines) == 1
        assert "-->" not in lines[0]
        rest = re.sub(r"<v [^<>&]+>", "", lines[0], count=1)
        assert not re.search(r"[<>]|&(?!(amp|lt|gt);)", rest), rest
        cues.append((start, stop, lines[0]))
    return cues


class Page(HTMLParser):
    """The elements of a page with their attributes, and the text between them."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.texts: list[str] = []
        self.feed(text)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))

    def handle_data(self, data: str) -> None:
        self.texts.append(data)
