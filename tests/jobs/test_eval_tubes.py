"""``vidssl eval-tubes`` from the user's side."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest
from typer.testing import Result

Cli = Callable[..., Result]
Refused = Callable[..., str]
TRUTH = "v,1,0,0,9,9,run,0\nv,2,0,0,9,9,run,0\nw,1,0,0,9,9,sit,0\n"


@pytest.fixture
def scoring(tmp_path: Path) -> list[object]:
    """One of two tubes found, in one of its two frames."""
    (tmp_path / "truth.csv").write_text(TRUTH)
    (tmp_path / "found.csv").write_text("v,1,0,0,9,9,run,a,0.9\nz,1,0,0,9,9,run,a,0.9\n")
    files = ("--annotations", tmp_path / "truth.csv", "--predictions", tmp_path / "found.csv")
    return ["eval-tubes", *files]


def test_the_score_is_told_with_its_denominators(cli: Cli, scoring: list[object]) -> None:
    # run: 1 of 2 boxes, a tube of overlap 1/2; sit: nothing.
    told = cli(*scoring).stdout
    assert "frame-mAP@0.50 0.250000" in told
    assert "video-mAP@0.20 0.500000" in told
    assert "video-mAP@0.75 0.000000" in told
    # Of v twice run alone is there, found; of w twice sit alone, not found.
    assert "video-mAP@0.50 0.500000, 95% interval 0.0000 to 1.0000 (videos)" in told
    assert "video-mAP@0.50:0.95 0.050000" in told
    assert "videos: 2 expected, 1 with predictions" in told
    assert "area trapezoid, box_ends continuous, tube_score mean of its boxes" in told
    assert "note: 1 predicted videos are not in the truth: passed over" in told


def test_json_holds_the_same(cli: Cli, scoring: list[object]) -> None:
    told = json.loads(cli(*scoring, "--json", "-").stdout)
    assert told["frame_map"] == 0.25
    assert told["video_map"] == {"0.20": 0.5, "0.50": 0.5, "0.75": 0.0}
    assert told["video_ap"]["0.50"] == {"run": 1.0, "sit": 0.0}
    assert told["tubes"] == {"run": 1, "sit": 1}
    assert told["interval"] == {"0.20": [0, 1], "0.50": [0, 1], "0.75": [0, 0]}
    more = ("--inclusive", "--area", "interpolated")
    protocol = json.loads(cli(*scoring, *more, "--json", "-").stdout)["protocol"]
    assert (protocol["area"], protocol["box_ends"]) == ("interpolated", "inclusive")


def test_a_single_video_has_no_interval(cli: Cli, scoring: list[object], tmp_path: Path) -> None:
    (tmp_path / "truth.csv").write_text(TRUTH.rsplit("w,", 1)[0])
    told = cli(*scoring)
    assert "interval" not in told.stdout
    assert json.loads(cli(*scoring, "--json", "-").stdout)["interval"] == {}


def test_a_mistake_is_told_with_its_line(
    refused: Refused, scoring: list[object], tmp_path: Path
) -> None:
    (tmp_path / "found.csv").write_text("v,1,0,0,9,9,run,a,0.9\nv,1,0,0,9,9,run,a,0.9\n")
    assert "found.csv:2: two boxes" in refused(*scoring)
    (tmp_path / "found.csv").unlink()
    assert "no such file" in refused(*scoring)
