"""The reasons given for a score of zero."""

from dataclasses import replace

import numpy as np
import pytest

from vidssl.ava.annotations import Annotations, Predictions
from vidssl.ava.labels import LabelMap
from vidssl.ava.mean_ap import explain_zero, mean_ap

LABELS = LabelMap({label: f"action {label}" for label in range(1, 6)})


@pytest.fixture
def truth() -> Annotations:
    """Two videos of 50 key frames with one person each, whose action goes through 2, 4, 4."""
    rng = np.random.default_rng(0)
    corner = rng.random((100, 2)) * [0.3, 0.6]
    return Annotations(
        np.repeat(["clip1", "clip2"], 50),
        np.tile(np.arange(902.0, 952.0), 2),
        np.concatenate([corner, corner + np.array([0.4, 0.2])], axis=1),
        np.resize([2, 4, 4], 100),
        np.full(100, -1),
    )


@pytest.fixture
def right(truth: Annotations) -> Predictions:
    """What would score 1."""
    return Predictions(truth.video, truth.timestamp, truth.box, truth.action, np.full(100, 0.9))


def test_a_score_of_1_needs_no_reason(truth: Annotations, right: Predictions) -> None:
    assert mean_ap(truth, right, LABELS).mean_ap == 1.0
    assert explain_zero(truth, right, LABELS) == []


def reason(truth: Annotations, wrong: Predictions, labels: LabelMap = LABELS) -> str:
    assert mean_ap(truth, wrong, labels).mean_ap == 0.0
    reasons = explain_zero(truth, wrong, labels)
    return reasons[0]


def test_predictions_without_a_box(truth: Annotations, right: Predictions) -> None:
    assert reason(truth, replace(right, action=right.action * 0)) == "the predictions hold no box"


def test_actions_outside_the_map(truth: Annotations, right: Predictions) -> None:
    wrong = replace(right, action=right.action + 100)
    text = "no predicted action is in the label map: predicted 102..104, map 1..5"
    assert reason(truth, wrong) == text


def test_videos_with_folder_and_extension(truth: Annotations, right: Predictions) -> None:
    wrong = replace(right, video=np.array([f"val/{name}.mp4" for name in right.video]))
    assert reason(truth, wrong) == (
        "no video is in both files: 'clip1' is annotated, 'val/clip1.mp4' is predicted"
        "; leave out the folder and the extension"
    )


def test_videos_that_are_others(truth: Annotations, right: Predictions) -> None:
    wrong = replace(right, video=np.full(100, "other"))
    assert reason(truth, wrong).endswith("'clip1' is annotated, 'other' is predicted")


def test_times_counted_from_the_start_of_the_clip(truth: Annotations, right: Predictions) -> None:
    wrong = replace(right, timestamp=right.timestamp - 902)
    assert reason(truth, wrong) == (
        "0 of 100 predicted key frames are annotated: "
        "'clip1' is annotated 902..951 s, predicted 0..49 s"
        "; adding 902 s to the predicted times makes 50 of 50 meet"
    )


def test_times_counted_in_frames(truth: Annotations, right: Predictions) -> None:
    # Frame 930 of each clip is also a second; that it meets is chance.
    wrong = replace(right, timestamp=(right.timestamp - 900) * 30)
    text = explain_zero(truth, wrong, LABELS)[0]
    assert text.startswith("2 of 100 predicted key frames are annotated")
    assert text.endswith("annotated 902..951 s, predicted 60..1530 s")


def test_boxes_in_pixels(truth: Annotations, right: Predictions) -> None:
    wrong = replace(right, box=right.box * 320)
    assert reason(truth, wrong) == "the predicted boxes look like pixels; divide by the frame size"


def test_boxes_with_x_and_y_exchanged(truth: Annotations, right: Predictions) -> None:
    wrong = replace(right, box=right.box[:, [1, 0, 3, 2]])
    text = "no predicted box overlaps an annotated one by half; they look like y1,x1,y2,x2"
    assert reason(truth, wrong) == text


@pytest.mark.parametrize("shift", [-1, 1])
def test_labels_off_by_one(truth: Annotations, right: Predictions, shift: int) -> None:
    wrong = replace(right, action=right.action + shift)
    assert reason(truth, wrong) == (
        f"labels look off by one: they agree best after adding {-shift:+d} to the predicted ids"
    )


def test_an_action_that_is_never_predicted(truth: Annotations, right: Predictions) -> None:
    kept = right.action == 4
    some = Predictions(
        right.video[kept],
        right.timestamp[kept],
        right.box[kept],
        right.action[kept],
        right.score[kept],
    )
    assert mean_ap(truth, some, LABELS).ap[2] == 0.0
    assert explain_zero(truth, some, LABELS) == [
        "1 of 2 annotated actions are never predicted: 2 (action 2)"
    ]
