"""``vidssl eval-ava`` from the user's side: scores worked out by hand, and what is refused."""

import json
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from typer.testing import Result

Cli = Callable[..., Result]
Refused = Callable[..., str]
LABELS = "item { name: 'run' id: 1 }\nitem { name: 'sit' id: 2 }\n"
TRUTH = "v,0001,0.1,0.1,0.5,0.5,1,0\nv,0002,0.1,0.1,0.5,0.5,1,0\nv,0003,0.1,0.1,0.5,0.5,1,0\n"
PREDICTIONS = """\
v,0001,0.1,0.1,0.5,0.5,1,0.9
v,0002,0.6,0.6,0.9,0.9,1,0.8
v,0002,0.1,0.1,0.5,0.5,1,0.7
v,0003,0.1,0.1,0.5,0.5,2,0.6
"""


@pytest.fixture
def scoring(tmp_path: Path) -> list[object]:
    """Score three predictions of one class, and one of a class that is never true."""
    (tmp_path / "truth.csv").write_text(TRUTH)
    (tmp_path / "labels.pbtxt").write_text(LABELS)
    (tmp_path / "found.csv").write_text(PREDICTIONS)
    return [
        *("eval-ava", "--annotations", tmp_path / "truth.csv"),
        *("--labels", tmp_path / "labels.pbtxt", "--predictions", tmp_path / "found.csv"),
    ]


def test_a_score_is_that_worked_out_by_hand(cli: Cli, scoring: list[object]) -> None:
    # Class 1 by falling score: right, wrong, right, of 3 true boxes. Precision 1 at recall 1/3,
    # 2/3 at recall 2/3, nothing beyond: 1/3 * 1 + 1/3 * 2/3 = 5/9. Class 2 has no true box.
    told = json.loads(cli(*scoring, "--json", "-").stdout)
    assert told["ap"]["1"] == pytest.approx(5 / 9)
    assert told["ap"]["2"] is None
    assert told["mean_ap"] == pytest.approx(5 / 9)
    assert (told["expected"], told["evaluated"], told["failed"]) == (3, 3, 0)
    assert told["positives"] == {"1": 3, "2": 0}
    assert told["protocol"]["protocol"] == "activitynet"


def test_excluded_key_frames_are_left_out_where_the_protocol_does(
    cli: Cli, scoring: list[object], tmp_path: Path
) -> None:
    # Without second 2: right, of 2 true boxes: 1/2.
    (tmp_path / "excluded.csv").write_text("v,0002\n")
    command = [*scoring, "--excluded", tmp_path / "excluded.csv", "--json", "-"]
    told = json.loads(cli(*command, "--protocol", "slowfast").stdout)
    assert told["mean_ap"] == pytest.approx(1 / 2)
    assert told["protocol"]["excluded_keyframes"] == 1
    assert (told["expected"], told["evaluated"]) == (2, 2)
    assert told["notes"] == []


def test_a_protocol_that_passes_over_exclusions_says_so(
    cli: Cli, scoring: list[object], tmp_path: Path
) -> None:
    (tmp_path / "excluded.csv").write_text("v,0002\nv,0077\n")
    result = cli(*scoring, "--excluded", tmp_path / "excluded.csv")
    assert "mAP@0.5 0.555556" in result.stdout
    assert "note: 1 excluded key frames are in truth.csv and were scored" in result.stdout
    (tmp_path / "excluded.csv").write_text("v,0077\n")
    assert "note:" not in cli(*scoring, "--excluded", tmp_path / "excluded.csv").stdout


def test_key_frames_without_predictions_are_counted(
    cli: Cli, scoring: list[object], tmp_path: Path
) -> None:
    (tmp_path / "found.csv").write_text(PREDICTIONS.splitlines()[0] + "\n")
    told = json.loads(cli(*scoring, "--json", "-").stdout)
    assert (told["expected"], told["evaluated"]) == (3, 1)
    assert told["mean_ap"] == pytest.approx(1 / 3)


def test_a_score_of_nothing_is_null_and_json(
    cli: Cli, scoring: list[object], tmp_path: Path
) -> None:
    (tmp_path / "truth.csv").write_text("v,0001\nv,0002\n")
    result = cli(*scoring, "--json", tmp_path / "score.json")
    assert result.exit_code == 0
    assert "mAP@0.5 not defined" in result.stdout

    def no_constant(name: str) -> None:
        raise AssertionError(f"{name} is not JSON")

    told = json.loads((tmp_path / "score.json").read_text(), parse_constant=no_constant)
    assert told["mean_ap"] is None
    assert told["ap"] == {"1": None, "2": None}


def test_the_table_shows_every_class_and_the_denominators(cli: Cli, scoring: list[object]) -> None:
    result = cli(*scoring)
    assert "0.5556" in result.stdout
    assert "mAP@0.5 0.555556 (activitynet protocol)" in result.stdout
    assert "key frames: 3 expected, 3 evaluated, 0 failed" in result.stdout
    for name in ("run", "sit"):
        assert name in result.stdout


def test_a_score_of_zero_comes_with_its_likely_reason(
    cli: Cli, scoring: list[object], tmp_path: Path
) -> None:
    (tmp_path / "found.csv").write_text(PREDICTIONS.replace("v,", "w,"))
    result = cli(*scoring)
    assert result.exit_code == 0
    assert "note: " in result.stdout


def test_the_protocol_is_the_one_asked_for(cli: Cli, scoring: list[object]) -> None:
    told = json.loads(cli(*scoring, "--protocol", "slowfast", "--json", "-").stdout)
    assert told["protocol"]["protocol"] == "slowfast"
    assert told["mean_ap"] == pytest.approx(5 / 9)


# --- what explains a score


@pytest.fixture
def two_videos(scoring: list[object], tmp_path: Path) -> list[object]:
    """A second video, in which the only person is found."""
    (tmp_path / "truth.csv").write_text(TRUTH + "w,0001,0.1,0.1,0.5,0.5,2,0\n")
    (tmp_path / "found.csv").write_text(PREDICTIONS + "w,0001,0.1,0.1,0.5,0.5,2,0.9\n")
    return scoring


def test_a_score_comes_with_interval_ceiling_and_errors(cli: Cli, two_videos: list[object]) -> None:
    # Class 2: v's wrong row lies below w's right one, so 1; the mean of 5/9 and 1 is 7/9.
    told = cli(*two_videos).stdout
    assert "mAP@0.5 0.777778" in told
    assert "95% interval: 0.5556 to 1.0000 (bootstrap over 2 videos, 1000 draws, seed 0)" in told
    assert "groups: none, the label map names none" in told
    assert "ceiling, a perfect classifier on these boxes: 1.0000" in told
    # Without the background row: 2 of 3 found, precision 1. The third truth is on a box of class 2.
    assert "gained if mended alone: missed on a box 0.1389 (1 rows), background 0.0556" in told
    assert "wrong class 0.0000 (1 rows)" in told
    detail = json.loads(cli(*two_videos, "--json", "-").stdout)["detail"]
    assert detail["interval"]["ap"]["2"] == [1.0, 1.0]
    assert detail["ap_ceiling"] == {"1": 1.0, "2": 1.0}
    assert detail["coco"] == pytest.approx(7 / 9)
    assert detail["over_thresholds"]["0.95"] == pytest.approx(7 / 9)
    assert {error["kind"]: error["rows"] for error in detail["errors"]}["background"] == 1


def test_a_quick_score_is_the_same_and_alone(cli: Cli, two_videos: list[object]) -> None:
    full, quick = (
        json.loads(cli(*two_videos, *more, "--json", "-").stdout) for more in ((), ("--quick",))
    )
    assert quick.pop("detail") is None
    del full["detail"]
    assert quick == full
    assert "interval" not in cli(*two_videos, "--quick").stdout


def test_one_video_has_no_interval(cli: Cli, scoring: list[object]) -> None:
    assert "interval: none, a bootstrap needs two videos or more" in cli(*scoring).stdout
    assert json.loads(cli(*scoring, "--json", "-").stdout)["detail"]["interval"] is None


def test_groups_that_a_label_map_names_are_scored(
    cli: Cli, two_videos: list[object], tmp_path: Path
) -> None:
    (tmp_path / "labels.pbtxt").write_text(
        "label { name: 'run' label_id: 1 label_type: MOVE }\nlabel { name: 'sit' label_id: 2 }\n"
    )
    assert "groups: MOVE 0.5556" in cli(*two_videos).stdout
    cli(*two_videos, "--csv", tmp_path / "classes.csv", "--bars", tmp_path / "bars.png")
    rows = (tmp_path / "classes.csv").read_text().splitlines()
    assert rows[0] == "id,name,group,truth,ap,low,high,ceiling"
    assert rows[1].startswith("1,run,MOVE,3,0.5555555555555")
    assert rows[2] == "2,sit,,1,1.0,1.0,1.0,1.0"
    assert (tmp_path / "bars.png").read_bytes().startswith(b"\x89PNG")


def test_classes_without_ground_truth_are_empty_cells(
    cli: Cli, scoring: list[object], tmp_path: Path
) -> None:
    cli(*scoring, "--quick", "--csv", tmp_path / "c.csv", "--bars", tmp_path / "c.png")
    assert (tmp_path / "c.csv").read_text().splitlines()[2] == "2,sit,,0,,,,"
    assert (tmp_path / "c.png").is_file()


def test_bars_are_a_png(refused: Refused, scoring: list[object], tmp_path: Path) -> None:
    told = refused(*scoring, "--bars", tmp_path / "bars.svg")
    assert "expected a name ending in .png for the bars" in told


def test_a_score_is_shown_beside_an_earlier_one(
    cli: Cli, scoring: list[object], tmp_path: Path
) -> None:
    cli(*scoring, "--json", tmp_path / "before.json")
    (tmp_path / "found.csv").write_text(PREDICTIONS.replace("0.7", "0.99"))
    told = cli(*scoring, "--compare", tmp_path / "before.json").stdout
    # Right, right, wrong of 3: 2/3.
    assert "mAP: 0.6667, in before.json 0.5556" in told
    assert "both were scored alike; not said by either: min_score, views" in told
    assert "NOT COMPARABLE" not in told


def test_scores_of_different_protocols_are_said_not_to_compare(
    cli: Cli, scoring: list[object], tmp_path: Path
) -> None:
    cli(*scoring, "--json", tmp_path / "before.json")
    more = ("--protocol", "slowfast", "--compare", tmp_path / "before.json")
    told = cli(*scoring, *more).stdout
    assert "NOT COMPARABLE, scored differently (before and now):" in told
    assert "  protocol: activitynet and slowfast\n" in told
    assert "both were scored alike" not in told
    # The same rules over other annotations do not compare either.
    (tmp_path / "truth.csv").write_text(TRUTH + "w,0001,0.1,0.1,0.5,0.5,2,0\n")
    told = cli(*scoring, "--compare", tmp_path / "before.json").stdout
    assert "NOT COMPARABLE" in told
    assert "  annotations: " in told


def test_scores_with_other_key_frames_left_out_are_said_not_to_compare(
    cli: Cli, scoring: list[object], tmp_path: Path
) -> None:
    for name, row in (("one", "v,0903\n"), ("two", "v,0904\n")):
        (tmp_path / f"{name}.csv").write_text(row)
    slowfast = ("--protocol", "slowfast", "--excluded")
    cli(*scoring, *slowfast, tmp_path / "one.csv", "--json", tmp_path / "before.json")
    compare = ("--compare", tmp_path / "before.json")
    told = cli(*scoring, *slowfast, tmp_path / "two.csv", *compare).stdout
    assert "NOT COMPARABLE" in told
    assert "  excluded_file: " in told


def test_what_a_detector_is_told_is_refused_where_a_file_is_scored(
    refused: Refused, scoring: list[object]
) -> None:
    told = refused(*scoring, "--min-score", 0.8, "--bank", "b", "--empty-bank", "--videos", "v")
    assert "leave out --videos, --bank, --empty-bank, --min-score, which a detector is told" in told


@pytest.mark.parametrize(
    "text", ["", "{}", "[1]", '{"ap": {"x": 1}, "mean_ap": 1, "protocol": {}}']
)
def test_what_is_no_score_is_not_compared(
    refused: Refused, scoring: list[object], tmp_path: Path, text: str
) -> None:
    (tmp_path / "before.json").write_text(text)
    told = refused(*scoring, "--compare", tmp_path / "before.json")
    assert "expected what eval-ava --json wrote, found no score" in told
    assert "cannot be read" in refused(*scoring, "--compare", tmp_path / "none.json")


def test_a_class_that_scores_0_is_explained(
    cli: Cli, two_videos: list[object], tmp_path: Path
) -> None:
    (tmp_path / "found.csv").write_text(PREDICTIONS)
    told = cli(*two_videos).stdout
    assert "note: AP 0, no box of theirs overlaps an annotated one by half: 2 (sit)" in told


def test_a_fingerprint_names_the_data_and_what_was_not_said(
    cli: Cli, scoring: list[object]
) -> None:
    told = json.loads(cli(*scoring, "--json", "-").stdout)["protocol"]
    assert told["dataset"] == "own"
    assert told["views"] == told["min_score"] == "not said"
    assert len(told["annotations"]) == len(told["labels"]) == 16


def test_a_file_is_scored_without_torch(scoring: list[object]) -> None:
    program = f"""
import sys
from typer.testing import CliRunner
from importlib.metadata import entry_points
(entry,) = entry_points(group="console_scripts", name="vidssl")
result = CliRunner().invoke(entry.load(), {[str(word) for word in scoring]!r})
assert result.exit_code == 0, result.output
assert not {{"torch", "matplotlib"}} & set(sys.modules)
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


# --- a detector's predictions


@pytest.fixture
def predicting(playground: Path, index: Path) -> list[object]:
    """What lets a detector predict on the three training videos, as if they were for validation."""
    return [
        *("--videos", index, "--boxes", playground / "train_person_detections.csv"),
        *("--annotations", playground / "train.csv"),
        *("--labels", playground / "action_list.pbtxt"),
    ]


def test_a_detectors_predictions_score_the_same_again(
    cli: Cli, detector: Path, predicting: list[object], tmp_path: Path
) -> None:
    run = Path(shutil.copytree(detector, tmp_path / "run"))
    result = cli("eval-ava", "--checkpoint", run, *predicting, "--json", "-")
    told = json.loads(result.stdout)
    assert json.loads((run / "eval-train" / "score.json").read_text()) == told
    assert told["failed"] == 0
    assert told["expected"] >= told["evaluated"] > 20
    assert 0 < told["mean_ap"] < 1
    assert told["protocol"].keys() >= {"detector", "boxes", "min_score", "bank", "annotations"}
    assert "predicting actions:" in result.stderr

    truth = predicting[predicting.index("--annotations") :]
    again = cli("eval-ava", "--predictions", told["predictions"], *truth, "--json", "-")
    rescored = json.loads(again.stdout)
    assert rescored["mean_ap"] == told["mean_ap"]
    assert rescored["ap"] == told["ap"]
    assert rescored["expected"] == told["expected"]
    assert rescored["evaluated"] == told["evaluated"]


def annotated_seconds(playground: Path, *videos: str) -> int:
    rows = (playground / "train.csv").read_text().splitlines()
    return len({row[:14] for row in rows if row.startswith(videos)})  # "train_001,0002"


def test_a_broken_or_missing_video_is_counted_and_the_rest_scored(
    cli: Cli, detector: Path, playground_copy: Path, predicting: list[object], tmp_path: Path
) -> None:
    (playground_copy / "videos" / "train_001.mp4").write_text("not a video")
    (playground_copy / "videos" / "train_002.mp4").unlink()
    run = Path(shutil.copytree(detector, tmp_path / "run"))
    result = cli(
        *("eval-ava", "--checkpoint", run, *predicting),
        *("--videos", playground_copy / "videos", "--json", tmp_path / "score.json"),
    )
    assert result.exit_code == 3  # a score that stands on less than it should
    told = json.loads((tmp_path / "score.json").read_text())
    assert told["failed"] == annotated_seconds(playground_copy, "train_001", "train_002") > 10
    share = f"{told['failed']} of {told['expected']} key frames failed, more than 1.00%"
    assert share in result.stderr
    assert told["evaluated"] == told["expected"] - told["failed"] > 0
    assert told["unusable_videos"].keys() == {"train_001", "train_002"}
    assert f"{told['failed']} failed" in result.stdout
    assert "failed: train_002: no such video" in result.stdout
    assert "mAP@0.5 0." in result.stdout


def test_a_video_that_goes_bad_after_the_index_is_counted_too(
    cli: Cli, detector: Path, playground_copy: Path, predicting: list[object], tmp_path: Path
) -> None:
    run = Path(shutil.copytree(detector, tmp_path / "run"))
    cli("index", playground_copy / "videos", "--out", tmp_path / "i.parquet")
    (playground_copy / "videos" / "train_001.mp4").write_text("damaged since")
    result = cli(
        *("eval-ava", "--checkpoint", run, *predicting),
        *("--videos", tmp_path / "i.parquet", "--json", "-", "--max-failed", "1"),
    )
    assert result.exit_code == 0
    told = json.loads(result.stdout)
    assert told["failed"] == annotated_seconds(playground_copy, "train_001") > 5
    assert told["mean_ap"] is not None
    assert "train_001" in json.dumps(told["unusable_videos"])


# --- what is refused


@pytest.mark.parametrize("both", [False, True])
def test_either_a_file_or_a_detector_is_scored(
    refused: Refused, scoring: list[object], detector: Path, both: bool
) -> None:
    command = [*scoring, "--checkpoint", detector] if both else scoring[:-2]
    told = refused(*command)
    assert "give either --predictions, or --checkpoint with --videos and --boxes" in told


def test_a_detector_needs_videos_and_boxes(
    refused: Refused, scoring: list[object], detector: Path
) -> None:
    told = refused(*scoring[:-2], "--checkpoint", detector)
    assert f"--checkpoint {detector} needs --videos and --boxes to predict on" in told
    told = refused(*scoring[:-2], "--checkpoint", detector, "--videos", "v")
    assert "needs --boxes to predict on" in told


def test_predictions_with_mistakes_are_refused_with_all_of_them(
    refused: Refused, scoring: list[object], tmp_path: Path
) -> None:
    (tmp_path / "found.csv").write_text(
        "v,0001,0.1,0.1,0.5,0.5,1,high\nv,0001,0.1,0.1,0.5,0.5,3,0.5\nv,0001,0.1,0.1\n"
    )
    told = refused(*scoring)
    assert "found.csv has 3 problems:" in told
    assert "found.csv:1: malformed number: expected the score, found 'high'" in told
    assert "found.csv:2: label outside the list: expected an id from 1 to 2, found '3'" in told
    assert "found.csv:3: wrong number of columns: expected 8" in told


@pytest.fixture
def evaluate(refused: Refused, tmp_path: Path, predicting: list[object]) -> Callable[..., str]:
    """Evaluate a copy of a run, which must be refused without a trace in it."""

    def run(checkpoint: Path, *more: object) -> str:
        shutil.copytree(checkpoint, tmp_path / "run")
        try:
            return refused("eval-ava", "--checkpoint", "run", *predicting, *more)
        finally:
            shutil.rmtree(tmp_path / "run")

    return run


def test_a_detector_is_not_scored_by_another_label_map(
    evaluate: Refused, detector: Path, playground_copy: Path
) -> None:
    labels = playground_copy / "action_list.pbtxt"
    labels.write_text(labels.read_text().replace('"shake"', '"quake"').replace("id: 9", "id: 10"))
    told = evaluate(detector, "--labels", labels)
    assert "run: was trained for other classes:" in told
    assert "1: 'shake' in the detector, 'quake' in the map" in told
    assert "10: 'no such class' in the detector, 'will be met again' in the map" in told


def test_a_bank_of_another_encoder_than_the_heads_is_refused(
    cli: Cli,
    evaluate: Refused,
    bank_detector: Path,
    pretrained: Path,
    playground: Path,
    index: Path,
    tiny: dict[str, Path],
    tmp_path: Path,
) -> None:
    made = cli(
        *("extract-features", tiny["extract"], "--encoder", pretrained, "--videos", index),
        *("--boxes", playground / "val_person_detections.csv", "--out", tmp_path / "other"),
    )
    assert made.exit_code == 0
    told = evaluate(bank_detector, "--bank", tmp_path / "other")
    here, there = (
        json.loads((run / "encoder.json").read_text())["hash"]
        for run in (pretrained, bank_detector)
    )
    assert f"{tmp_path / 'other'}: this bank was made by encoder {here}; the head was" in told
    assert "trained with a bank of encoder" in told
    assert "vidssl extract-features" in told
    assert here != there


def test_a_bank_made_in_another_way_is_refused_with_what_differs(
    cli: Cli,
    tiny: dict[str, Path],
    detector: Path,
    bank_detector: Path,
    index: Path,
    playground: Path,
    tmp_path: Path,
    evaluate: Refused,
) -> None:
    boxes = playground / "val_person_detections.csv"
    command = ("extract-features", tiny["extract"], "--encoder", detector, "--videos", index)
    changes = ("--set", "pooling=mean", "--set", "short_side_px=64", "--set", "min_score=0.6")
    result = cli(*command, "--boxes", boxes, "--out", tmp_path / "other", *changes)
    assert result.exit_code == 0, result.output
    told = evaluate(bank_detector, "--bank", tmp_path / "other")
    assert "was made in another way than the detector's bank" in told
    assert "pooling: 'mean' in the bank, None in the one it was trained with" in told
    assert "short_side_px: 64 in the bank, 48 in the one" in told
    assert "min_score" not in told  # which rows there are may differ


def test_a_bank_of_other_videos_is_refused(
    cli: Cli,
    tiny: dict[str, Path],
    detector: Path,
    bank_detector: Path,
    index: Path,
    playground: Path,
    tmp_path: Path,
    evaluate: Refused,
) -> None:
    result = cli(
        *("extract-features", tiny["extract"], "--encoder", detector, "--videos", index),
        *("--boxes", playground / "val_person_detections.csv", "--out", tmp_path / "other"),
    )
    assert result.exit_code == 0, result.output
    told = evaluate(bank_detector, "--bank", tmp_path / "other")
    assert f"{tmp_path / 'other'}: holds nothing of the" in told
    assert "(train_000" in told


def test_a_bank_is_given_exactly_if_the_head_reads_one(
    evaluate: Refused, detector: Path, bank_detector: Path, bank: Path
) -> None:
    told = evaluate(detector, "--bank", bank)
    assert f"{bank}: the detector of run was trained without a bank" in told
    told = evaluate(bank_detector)
    assert "the detector of run reads a feature bank: give it with --bank" in told


def test_emptying_a_bank_that_is_not_read_is_refused(evaluate: Refused, detector: Path) -> None:
    told = evaluate(detector, "--empty-bank")
    assert "--empty-bank: the detector of run was trained without a bank" in told


def test_a_run_without_a_detector_is_refused(
    evaluate: Refused, refused: Refused, pretrained: Path, predicting: list[object]
) -> None:
    told = evaluate(pretrained)
    assert "run: holds no detector.safetensors; expected the folder of a finished run" in told
    told = refused("eval-ava", "--checkpoint", "rnu", *predicting)
    assert "rnu: no such file" in told


def test_a_damaged_detector_is_refused(
    refused: Refused, detector: Path, predicting: list[object], tmp_path: Path
) -> None:
    run = Path(shutil.copytree(detector, tmp_path / "run"))
    weights = run / "detector.safetensors"
    weights.write_bytes(weights.read_bytes()[:-4])
    told = refused("eval-ava", "--checkpoint", "run", *predicting)
    assert "is not what detector.json describes" in told


def test_boxes_of_other_videos_than_the_annotated_are_refused(
    evaluate: Refused, detector: Path, playground: Path
) -> None:
    told = evaluate(detector, "--boxes", playground / "val_person_detections.csv")
    assert "no box is of any of the 3 annotated videos" in told


def test_a_score_that_no_box_has_is_refused(evaluate: Refused, detector: Path) -> None:
    told = evaluate(detector, "--min-score", 1.0)
    assert "train_person_detections.csv: no box has a score of at least 1" in told


def test_predicting_on_videos_that_are_not_there_is_refused(
    evaluate: Refused, detector: Path, playground: Path, tmp_path: Path
) -> None:
    told = evaluate(detector, "--videos", playground / "vidoes")
    assert "vidoes: no such file or folder; did you mean 'videos'?" in told
    (tmp_path / "bad.mp4").write_text("not a video")
    told = evaluate(detector, "--videos", tmp_path / "bad.mp4")
    assert "none of the 1 videos can be decoded" in told


def test_a_bank_of_changes_is_refused_by_who_was_trained_with_one_of_frames(
    cli: Cli,
    tiny: dict[str, Path],
    detector: Path,
    bank_detector: Path,
    index: Path,
    playground: Path,
    tmp_path: Path,
    evaluate: Refused,
) -> None:
    seeing = Path(shutil.copytree(detector, tmp_path / "seeing"))  # the same weights' hash
    card = json.loads((seeing / "encoder.json").read_text())
    card["backbone"]["sees"] = "changes"
    (seeing / "encoder.json").write_text(json.dumps(card))
    result = cli(
        *("extract-features", tiny["extract"], "--encoder", seeing, "--videos", index),
        *("--boxes", playground / "val_person_detections.csv", "--out", tmp_path / "other"),
        *("--set", "backbone.sees=changes"),
    )
    assert result.exit_code == 0, result.output
    told = evaluate(bank_detector, "--bank", tmp_path / "other")
    assert "backbone.sees: 'changes' in the bank, None in the one it was trained with" in told
