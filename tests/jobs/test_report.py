"""The report of a run, from folders written by hand as training writes them."""

import json
import re
from html import unescape
from pathlib import Path
from typing import Any

import pytest

from vidssl.errors import CheckpointError
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
    body = html.partition("<body>")[2]
    return unescape(re.sub(r"<[^>]+>", " ", body))


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
    assert 'alt="loss: 3 at step 0, 2.6 at step 4"' in html
    # loss, lr, clips_per_s, data_wait; samples_seen grows as the steps do.
    assert html.count("<img") == 4


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


def test_events_are_listed_and_of_too_many_both_ends(folder: Path) -> None:
    broken = [
        {"event": "video set aside", "time": 1.7e9 + n, "path": f"v{n:03}.mp4", "error": "cut"}
        for n in range(300)
    ]
    lines(folder / "events.jsonl", broken)
    run(folder)
    text = shown(folder)
    assert "path: v000.mp4, error: cut" in text
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
    lines(folder / "log.jsonl", [[1], {"step": "x"}, {"step": 3, "loss": float("nan"), "a": "b"}])
    lines(folder / "events.jsonl", [7, {"time": "soon"}, {"event": "e", "time": 1e300}])
    write_score(folder, "eval-a", {"ap": {"1": "high", "x": 0.4}, "mean_ap": "good"})
    write_score(folder, "eval-b", {"ap": 3, "protocol": 4})
    result = run(folder)
    assert result.steps == 4
    assert result.scores == {"eval-a": None, "eval-b": None}


def test_text_from_files_is_never_markup(folder: Path) -> None:
    hostile = "<script>alert(1)</script>"
    (folder / "recipe.yaml").write_text(hostile)
    lines(folder / "events.jsonl", [{"event": hostile, "time": 0, hostile: hostile}])
    lines(folder / "log.jsonl", [{"step": 0, hostile: 1.0}])
    write_score(folder, "eval-x", score(names={"1": hostile}, notes=[hostile]))
    run(folder)
    html = (folder / "report.html").read_text(encoding="utf-8")
    assert "<script" not in html
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
