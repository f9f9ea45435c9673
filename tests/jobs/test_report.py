"""The report of a run, from folders written by hand as training writes them."""

import json
import re
from html import unescape
from pathlib import Path
from typing import Any

import pytest

from vidssl.errors import CheckpointError
from vidssl.jobs._event_words import WORDS, in_words
from vidssl.jobs.report import ReportResult, run
from vidssl.train.folder import IDENTITY
from vidssl.video.index import write_index
from vidssl.video.probe import VideoFacts

RECIPE = {"task": "pretrain", "method": {"name": "moco"}, "backbone": {"name": "slow"}}


def entry(step: int, *, clips_per_s: float = 20.0, data_wait: float = 0.01) -> dict[str, Any]:
    return {
        "step": step,
        "loss": 3 - step / 10,
        "lr": 0.1,
        "samples_seen": 400 * (step + 1),
        "clips_per_s": clips_per_s,
        "data_wait": data_wait,
    }


def lines(path: Path, entries: list[Any]) -> None:
    path.write_text("".join(json.dumps(e) + "\n" for e in entries), encoding="utf-8")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    path = tmp_path / "first run"
    path.mkdir()
    identity = {"command": "pretrain", "videos": "/data/my videos", "recipe": RECIPE}
    (path / IDENTITY).write_text(json.dumps(identity))
    (path / "recipe.yaml").write_text("task: pretrain\nseed: 7\n")
    lines(path / "log.jsonl", [entry(step) for step in range(5)])
    lines(path / "events.jsonl", [{"event": "start", "time": 1700000000.0, "step": 0}])
    return path


def shown(folder: Path) -> str:
    """The page's text without its tags."""
    html = (folder / "report.html").read_text(encoding="utf-8")
    body = html.partition("<body>")[2].partition("<script")[0]
    return unescape(re.sub(r"<[^>]+>", " ", body))


def charts(folder: Path) -> list[dict[str, Any]]:
    """What plotly is told to draw."""
    html = (folder / "report.html").read_text(encoding="utf-8")
    found = re.search(r'id="page-data">(.*?)</script>', html, re.S)
    assert found
    drawn: list[dict[str, Any]] = json.loads(found[1])["charts"]
    return drawn


def score(**changes: Any) -> dict[str, Any]:
    return {
        "mean_ap": 0.5,
        "ap": {"1": 0.75, "2": 0.25, "5": None},
        "names": {"1": "stand", "2": "sit", "5": "dance"},
        "protocol": {"protocol": "activitynet", "classes": 3},
        "expected": 10,
        "evaluated": 9,
        "failed": 1,
        "notes": [],
        **changes,
    }


def write_score(folder: Path, name: str, value: Any) -> None:
    (folder / name).mkdir()
    (folder / name / "score.json").write_text(json.dumps(value))


def test_the_page_says_what_was_done_when_and_how_to_repeat_it(folder: Path) -> None:
    result = run(folder)
    assert result.path == folder / "report.html"
    text = shown(folder)
    assert "Self-supervised pretraining, method moco, backbone slow; not finished." in text
    assert "2023-11-14 22:13:20 UTC" in text  # 1700000000 s
    assert "seed: 7" in text
    command = "vidssl pretrain '{0}/recipe.yaml' --videos '/data/my videos' --out '{0}-again'"
    assert command.format(folder) in text
    assert f"vidssl report '{folder}'" in text


def test_the_numbers_at_the_top_are_those_of_the_log(folder: Path) -> None:
    result = run(folder)
    assert (result.command, result.steps, result.finished) == ("pretrain", 5, False)
    assert result.loss == pytest.approx(2.6)
    assert result.samples_seen == 2000
    assert "2,000" in shown(folder)
    assert result.clips_per_s == pytest.approx(20.0)
    assert result.data_wait == pytest.approx(0.01)


def test_each_scalar_of_the_log_has_a_curve_in_words_too(folder: Path) -> None:
    run(folder)
    html = (folder / "report.html").read_text(encoding="utf-8")
    assert 'aria-label="loss: 3 at step 0, 2.6 at step 4"' in html
    # loss, lr, clips_per_s, data_wait; samples_seen grows as the steps do.
    names = [chart["data"][0]["y"] for chart in charts(folder)]
    assert names == [[3.0, 2.9, 2.8, 2.7, 2.6], [0.1] * 5, [20.0] * 5, [0.01] * 5]
    assert html.count("data-chart=") == 4
    assert "What training minimises." in shown(folder)


def test_the_first_step_and_short_steps_count_for_little_in_the_speed(folder: Path) -> None:
    slow = entry(1, clips_per_s=10.0, data_wait=0.9)
    fast = entry(2, clips_per_s=30.0, data_wait=0.1)
    lines(folder / "log.jsonl", [entry(0, clips_per_s=0.1, data_wait=1.0), slow, fast])
    result = run(folder)
    # A clip takes 1/10 s and 1/30 s: 2 clips in 4/30 s. Waiting: (3 x 0.9 + 1 x 0.1) / 4.
    assert result.clips_per_s == pytest.approx(15.0)
    assert result.data_wait == pytest.approx(0.7)


@pytest.mark.parametrize(
    ("share", "verdict"),
    [
        (0.04, "The data keeps up: 4 % of"),
        (0.1, "The data nearly keeps up: 10 % of"),
        (0.5, "Training waits for data: 50 % of"),
    ],
)
def test_the_verdict_follows_the_share_of_waiting(folder: Path, share: float, verdict: str) -> None:
    lines(folder / "log.jsonl", [entry(step, data_wait=share) for step in range(3)])
    assert run(folder).verdict.startswith(verdict)
    assert verdict in shown(folder)


def test_a_finished_run_shows_its_weights(folder: Path) -> None:
    classes = {str(n): f"class {n}" for n in range(80)}
    card = {"hash": "abc123", "classes": classes, "trained_by": {"steps": 40}}
    (folder / "detector.json").write_text(json.dumps(card))
    result = run(folder)
    assert result.finished
    assert result.steps == 40
    text = shown(folder)
    assert "abc123" in text
    assert "80 entries" in text


def test_a_run_without_logged_steps_says_so(folder: Path) -> None:
    (folder / "log.jsonl").unlink()
    result = run(folder)
    assert (result.steps, result.loss, result.clips_per_s) == (0, None, None)
    assert "The run has no logged step yet." in shown(folder)
    html = (folder / "report.html").read_text(encoding="utf-8")
    assert "<script" not in html  # nothing to draw: no plotly, and no other script
    assert len(html) < 20_000


def test_what_happened_at_a_step_is_marked_on_every_curve(folder: Path) -> None:
    events = [
        {"event": "start", "time": 0, "step": 0, "steps": 9},
        {"event": "alarm", "time": 0, "step": 1, "words": "<b>collapse</b>"},
        {"event": "alarm", "time": 0, "step": "soon", "words": "at no step"},
        {"event": "interrupted", "time": 0, "words": "stopped"},
        {"event": "start", "time": 0, "step": 2, "steps": 9},
        {"event": "rolled back", "time": 0, "first": 3, "last": 4, "reason": "nan"},
    ]
    lines(folder / "events.jsonl", events)
    run(folder)
    for chart in charts(folder):
        heads = chart["data"][-1]
        assert heads["x"] == [1, 2, 4]
        assert heads["marker"]["symbol"] == ["triangle-down", "circle", "x"]
        assert heads["text"][0] == "alarm at step 1: &lt;b&gt;collapse&lt;/b&gt;"
        assert heads["text"][1] == "goes on after step 2 of 9"
        assert heads["text"][2].startswith("steps 3 to 4 undone")
        assert [line["x0"] for line in chart["layout"]["shapes"]] == [1, 2, 4]
    assert "a triangle is an alarm, a cross steps that were undone, a dot where" in shown(folder)


def test_a_training_without_such_events_has_no_marks(folder: Path) -> None:
    run(folder)
    assert all(len(chart["data"]) == 1 for chart in charts(folder))
    assert "dotted line" not in shown(folder)


def test_of_very_many_numbers_the_first_are_drawn(folder: Path) -> None:
    many = {f"n{number}": 0.5 for number in range(300)}
    lines(folder / "log.jsonl", [{"step": step, **many} for step in range(3)])
    run(folder)
    assert len(charts(folder)) == 200
    assert "The first 200 of 300 numbers; all are in log.jsonl." in shown(folder)


def test_events_are_listed_and_of_too_many_both_ends(folder: Path) -> None:
    broken = [
        {"event": "video set aside", "time": 1.7e9 + n, "path": f"v{n:03}.mp4", "error": "cut"}
        for n in range(300)
    ]
    lines(folder / "events.jsonl", broken)
    run(folder)
    text = shown(folder)
    assert "v000.mp4: cut" in text
    assert "v299.mp4" in text
    assert text.count("video set aside") == 100
    assert "of 300 events" in text


def test_scores_stand_with_their_denominators_and_classes(folder: Path) -> None:
    write_score(folder, "eval-val", score())
    result = run(folder)
    assert result.scores == {"eval-val": 0.5}
    html = (folder / "report.html").read_text(encoding="utf-8")
    rows = [re.findall(r"<td[^>]*>(.*?)</td>", row) for row in html.split("<tr>")]
    assert ["eval-val", "0.5", "10", "9", "1"] in rows
    assert ["1", "stand", "0.75"] in rows
    assert ["5", "dance", "–"] in rows


def test_scores_under_different_settings_are_told_apart(folder: Path) -> None:
    write_score(folder, "eval-val", score())
    other = {"protocol": "slowfast", "classes": 3}
    write_score(folder, "eval-val-empty-bank", score(mean_ap=None, protocol=other))
    result = run(folder)
    assert result.scores == {"eval-val": 0.5, "eval-val-empty-bank": None}
    assert "The evaluations differ in: protocol." in shown(folder)


def test_damaged_files_beside_the_run_are_named_in_the_page(folder: Path) -> None:
    (folder / "encoder.json").write_text("{")
    write_score(folder, "eval-val", [1, 2])
    result = run(folder)
    assert not result.finished
    assert result.scores == {}
    text = shown(folder)
    assert "encoder.json: cannot be read as JSON" in text
    assert "score.json: expected a JSON object, found list" in text


def test_strange_values_in_the_files_do_not_stop_the_report(folder: Path) -> None:
    lines(
        folder / "log.jsonl",
        [
            [1],
            {"step": "x"},
            {"step": 3, "loss": float("nan"), "a": "b"},
            {"step": 4, "loss": 10**400},
        ],
    )
    lines(folder / "events.jsonl", [7, {"time": "soon"}, {"event": "e", "time": 1e300}])
    write_score(folder, "eval-a", {"ap": {"1": "high", "x": 0.4}, "mean_ap": "good"})
    write_score(folder, "eval-b", {"ap": 3, "protocol": 4})
    result = run(folder)
    assert result.steps == 5
    assert result.scores == {"eval-a": None, "eval-b": None}


def test_text_from_files_is_never_markup(folder: Path) -> None:
    hostile = "<script>alert(1)</script>"
    (folder / "recipe.yaml").write_text(hostile)
    lines(folder / "events.jsonl", [{"event": hostile, "time": 0, hostile: hostile}])
    lines(folder / "log.jsonl", [{"step": 0, hostile: 1.0}])
    write_score(folder, "eval-x", score(names={"1": hostile}, notes=[hostile]))
    run(folder)
    html = (folder / "report.html").read_text(encoding="utf-8")
    assert html.count("<script") == html.count("</script>") == 3
    assert "<script>alert" not in html.partition('id="plotly"')[0]
    assert shown(folder).count(hostile) >= 5


def test_usable_and_set_aside_videos_are_counted(folder: Path) -> None:
    rows = [
        VideoFacts("a.mp4", duration_s=1800.0),
        VideoFacts("b.mp4", duration_s=1800.0),
        VideoFacts("c.mp4", status="empty", error="c.mp4: empty", duration_s=9999.0),
    ]
    write_index(folder / "index.parquet", rows)
    run(folder)
    assert "2, 1.00 hours (1 set aside)" in shown(folder)


def test_a_detector_s_command_names_all_its_files(folder: Path) -> None:
    data = {"videos": "/v", "annotations": "/a b.csv", "labels": "/l", "boxes": None, "bank": "/k"}
    identity = {"command": "finetune", "encoder": "/runs/one", "data": data, "recipe": {}}
    (folder / IDENTITY).write_text(json.dumps(identity))
    run(folder)
    expected = (
        f"vidssl finetune '{folder}/recipe.yaml' --encoder /runs/one --videos /v "
        f"--annotations '/a b.csv' --labels /l --bank /k --out '{folder}-again'"
    )
    assert expected in shown(folder)


def test_equal_folders_make_equal_pages(folder: Path) -> None:
    run(folder)
    first = (folder / "report.html").read_bytes()
    run(folder)
    assert (folder / "report.html").read_bytes() == first


def test_a_folder_that_is_no_run_is_refused(folder: Path) -> None:
    with pytest.raises(CheckpointError, match=r"not a run: expected the run\.json .* first run"):
        run(folder.parent)
    with pytest.raises(CheckpointError, match=r"no such folder; did you mean 'first run'\?"):
        run(folder.parent / "frist run")
    (folder / IDENTITY).write_text("not json")
    with pytest.raises(CheckpointError, match=r"run\.json: cannot be read as JSON"):
        run(folder)


def test_a_refused_folder_is_left_as_it_was(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError):
        run(tmp_path)
    assert not list(tmp_path.iterdir())


def test_the_result_is_fit_for_json(folder: Path) -> None:
    result = run(folder)
    assert isinstance(result, ReportResult)
    assert json.loads(json.dumps(vars(result), default=str, allow_nan=False))["steps"] == 5


# --- events in words


def told(*events: dict[str, Any], batch: int | None = 4) -> list[str]:
    return [in_words({"time": 0.0, **event}, batch) for event in events]


def test_starts_and_ends_are_told_in_words() -> None:
    assert told(
        {"event": "start", "step": 0, "steps": 300},
        {"event": "start", "step": 0},
        {"event": "start", "step": 40, "steps": 300},
        {"event": "start", "step": 40},
        {"event": "start", "step": 300, "steps": 300},
        {"event": "interrupted", "words": "stopped at step 40 of 300"},
        {"event": "failed", "words": "no space left"},
        {"event": "finished"},
    ) == [
        "from the beginning, 300 steps",
        "from the beginning",
        "goes on after step 40 of 300",
        "goes on after step 40",
        "all of 300 steps were done",
        "stopped at step 40 of 300",
        "no space left",
        "to the end",
    ]


def test_what_was_undone_is_told_with_its_steps_and_clips() -> None:
    back = {"event": "rolled back", "reason": "the loss became nan at step 57", "clips": "r/x.json"}
    assert told({**back, "first": 50, "last": 57}, {**back, "first": 57, "last": 57}) == [
        "steps 50 to 57 undone and left out (8 steps, 32 clips): the loss became nan at step 57; "
        "the clips are listed in r/x.json",
        "step 57 undone and left out (1 step, 4 clips): the loss became nan at step 57; "
        "the clips are listed in r/x.json",
    ]


def test_videos_set_aside_are_named_up_to_a_few() -> None:
    many = {f"{n}.mp4": "empty" for n in range(7)}
    assert told(
        {"event": "videos set aside", "videos": many, "keyframes": 12},
        {"event": "videos set aside", "videos": {"a.mp4": "missing"}},
        {"event": "video set aside", "path": "b.mp4", "error": "cut off"},
    ) == [
        "7 videos, with 12 key frames: 0.mp4 (empty), 1.mp4 (empty), 2.mp4 (empty), 3.mp4 (empty), "
        "4.mp4 (empty) and 2 more",
        "1 video: a.mp4 (missing)",
        "b.mp4: cut off",
    ]


@pytest.mark.parametrize("kind", [*WORDS, "unheard of"])
def test_an_event_that_is_not_as_expected_is_shown_as_it_is(kind: str) -> None:
    odd: dict[str, Any] = {
        "event": kind,
        "step": "x",
        "first": None,
        "words": 7,
        "videos": [],
        "changes": {},
    }
    assert told(odd) == ["step: x, first: null, words: 7, videos: [], changes: {}"] or (
        kind == "alarm" and told(odd) == ["step x: 7"]
    )


def test_the_summary_says_what_did_not_go_smoothly(folder: Path) -> None:
    run(folder)
    assert "The training went" not in shown(folder)
    identity = {"command": "pretrain", "recipe": {**RECIPE, "optim": {"batch": 4}}}
    (folder / IDENTITY).write_text(json.dumps(identity))
    events = [
        {"event": "start", "time": 1.7e9, "step": 0, "steps": 90},
        {"event": "rolled back", "time": 1.7e9, "first": 3, "last": 5, "reason": "nan"},
        {"event": "interrupted", "time": 1.7e9, "words": "stopped at step 40 of 90"},
        {"event": "start", "time": 1.7e9, "step": 40, "steps": 90},
        {"event": "failed", "time": 1.7e9, "words": "the disk is full"},
        {"event": "start", "time": 1.7e9, "step": 60, "steps": 90},
    ]
    lines(folder / "events.jsonl", events)
    run(folder)
    assert (
        "The training went on twice (after step 40, 60), was stopped once, failed once, "
        "rolled back once (3 steps, 12 clips left out)."
    ) in shown(folder)
