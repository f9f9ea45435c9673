"""``vidssl eval-tubes``: frame-mAP and video-mAP of action tubes from two csv files."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from vidssl.ava.tubes import FRAME_IOU, Area, notes, read_tubes, tube_score
from vidssl.files import sha256


@dataclass(frozen=True)
class TubesResult:
    """A score of tubes: means, the same by action, and over what they were taken.

    ``video_map``, ``video_ap`` and ``interval`` are by IoU of tubes, as text with two decimals;
    ``interval`` holds the ends of the middle 95 % of video-mAP had other videos been drawn, and is
    empty with fewer than two videos.
    """

    frame_map: float
    video_map: dict[str, float]
    coco: float
    frame_ap: dict[str, float]
    video_ap: dict[str, dict[str, float]]
    tubes: dict[str, int]
    videos: int
    evaluated: int
    protocol: dict[str, Any]
    notes: list[str]
    interval: dict[str, tuple[float, float]]


def run(
    annotations: Path, predictions: Path, *, inclusive: bool = False, area: Area = "trapezoid"
) -> TubesResult:
    """Score predicted tubes.

    Raises:
        AnnotationError: if a file is wrong, with every problem of it.
    """
    truth = read_tubes(annotations, scored=False)
    found = read_tubes(predictions, scored=True)
    score = tube_score(truth, found, inclusive=inclusive, area=area)
    return TubesResult(
        frame_map=score.frame_map,
        video_map={f"{iou:.2f}": value for iou, value in score.video_map.items()},
        coco=score.coco,
        frame_ap=score.frame_ap,
        video_ap={f"{iou:.2f}": ap for iou, ap in score.video_ap.items()},
        tubes=score.tubes,
        videos=score.videos,
        evaluated=score.evaluated,
        protocol={
            "protocol": "tubes",
            "actions": len(score.tubes),
            "frame_iou": FRAME_IOU,
            "area": area,
            "box_ends": "inclusive" if inclusive else "continuous",
            "tube_score": "mean of its boxes",
            "videos_outside_ground_truth": "ignored",
            "annotations": sha256(annotations)[:16],
        },
        notes=notes(truth, found, score),
        interval={f"{iou:.2f}": ends for iou, ends in score.interval.items()},
    )
