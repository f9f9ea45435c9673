"""Which detected boxes a detector is trained on, and what is said of those that miss everybody."""

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from typer.testing import Result

from vidssl.data.keyframes import Moment
from vidssl.jobs.finetune import with_detected

Cli = Callable[..., Result]
Refused = Callable[..., str]

# Side by side with the true box, 0.4 wide and as high, shifted by d: IoU (0.4 - d) / (0.4 + d).
TRUE = (0.1, 0.1, 0.5, 0.5)
NEAR, HALF, FAR = (0.11, 0.1, 0.51, 0.5), (0.2, 0.1, 0.6, 0.5), (0.6, 0.6, 0.9, 0.9)
# 0.39 / 0.41 = 0.951; 0.3 / 0.5 = 0.6; none.


def moment(boxes: list[tuple[float, ...]], labels: list[list[int]], second: float = 1.0) -> Moment:
    box = np.array(boxes, dtype=np.float64).reshape(-1, 4)
    multi_hot = np.array(labels, dtype=np.bool_).reshape(len(boxes), -1 if labels else 3)
    return Moment("v", second, box, multi_hot, np.linspace(1, 0.5, len(boxes)))


def found(*boxes: tuple[float, ...], second: float = 1.0) -> Moment:
    return Moment(
        "v", second, np.array(boxes), np.zeros((len(boxes), 0), np.bool_), np.ones(len(boxes))
    )


@pytest.mark.parametrize(
    ("below", "boxes", "labels"),
    [
        (None, [TRUE, NEAR], [[1, 0, 1], [1, 0, 1]]),
        (0.5, [TRUE, NEAR, FAR], [[1, 0, 1], [1, 0, 1], [0, 0, 0]]),
        (0.9, [TRUE, NEAR, HALF, FAR], [[1, 0, 1], [1, 0, 1], [0, 0, 0], [0, 0, 0]]),
    ],
)
def test_boxes_that_miss_everybody_do_nothing_and_those_between_are_left_out(
    below: float | None, boxes: list[tuple[float, ...]], labels: list[list[int]]
) -> None:
    (one,) = with_detected([moment([TRUE], [[1, 0, 1]])], [found(FAR, NEAR, HALF)], 0.9, below)
    assert {tuple(box) for box in one.boxes.tolist()} == set(boxes)
    assert [tuple(box) for box in one.boxes.tolist()][:2] == boxes[:2]  # the true box first
    assert one.labels.tolist() == [[bool(label) for label in row] for row in labels]
    assert len(one.scores) == len(boxes)


def test_a_frame_annotated_as_empty_has_negatives_alone() -> None:
    empty = moment([], [])
    (one,) = with_detected([empty], [found(FAR, TRUE)], 0.9, 0.5)
    assert one.labels.tolist() == [[False] * 3] * 2
    for iou in (0.9, 0.0):
        (one,) = with_detected([empty], [found(FAR, TRUE)], iou)
        assert len(one.boxes) == 0


def test_people_of_other_moments_change_nothing() -> None:
    true = moment([TRUE], [[1, 0, 1]])
    assert with_detected([true], [found(FAR, second=2.0)], 0.9, 0.5) == [true]


def test_negatives_are_trained_on_and_counted(
    cli: Cli, tiny: dict[str, Path], playground: Path, index: Path, tmp_path: Path
) -> None:
    lines = (playground / "train.csv").read_text().splitlines()
    first = lines[0].split(",")[:2]
    kept = [line for line in lines if line.split(",")[:2] != first]
    # The first key frame becomes one that is annotated as empty; one besides is not annotated.
    (tmp_path / "train.csv").write_text("\n".join([",".join(first), *kept]) + "\n")
    boxes = [f"{','.join(first)},0.1,0.1,0.4,0.9,,0.95"]
    second = kept[0].split(",")[:2]
    corner = "0.0,0.0,0.01,0.01"
    boxes += [f"{','.join(second)},{corner},,0.95", f"{','.join(second)},{corner},,0.1"]
    (tmp_path / "boxes.csv").write_text("\n".join([*boxes, f"{first[0]},0000,{corner},,0.95"]))
    told = {}
    for negatives in ("false", "true"):
        result = cli(
            *("finetune", tiny["detection"], "--encoder", "random", "--videos", index),
            *("--annotations", tmp_path / "train.csv", "--boxes", tmp_path / "boxes.csv"),
            *("--labels", playground / "action_list.pbtxt", "--out", tmp_path / negatives),
            *("--set", f"boxes.negatives={negatives}", "--steps", 1, "--json", "-"),
        )
        assert result.exit_code == 0, result.output
        told[negatives] = json.loads(result.stdout)
    assert told["false"]["negatives"] == 0
    assert told["true"]["negatives"] == 2
    assert told["true"]["people"] == told["false"]["people"] + 2
    assert told["true"]["keyframes"] == told["false"]["keyframes"] + 1


def test_a_box_may_not_do_something_and_nothing(
    refused: Refused, tiny: dict[str, Path], training_data: list[object]
) -> None:
    told = refused(
        *("finetune", tiny["detection"], "--encoder", "random", *training_data, "--out", "run"),
        *("--set", "boxes.negatives=true", "--set", "boxes.negative_iou=0.95"),
    )
    assert "boxes: " in told
    assert "negative_iou 0.95 is above train_iou 0.9" in told
