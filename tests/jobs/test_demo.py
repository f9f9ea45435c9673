"""The demonstration, short: every step leaves its files, and the page shows them."""

import json
import math
from pathlib import Path

import pytest

from vidssl.ava.labels import LabelMap
from vidssl.errors import OutputError
from vidssl.jobs import demo


def test_a_short_demonstration_leaves_every_step_s_files_and_a_page(tmp_path: Path) -> None:
    out = tmp_path / "demo"
    result = demo.run(out, videos=4, seconds=12, steps=2)
    for file in (
        "playground/train.csv",
        "index.parquet",
        "pretrain/encoder.safetensors",
        "detector/detector.safetensors",
        "bank/bank.json",
        "detector_bank/detector.safetensors",
        "detector/eval-val/predictions.csv",
        "detector_bank/eval-val-empty-bank/score.json",
    ):
        assert (out / file).is_file(), file
    page = result.report.read_text(encoding="utf-8")
    page, _, carried = page.partition('<script type="text/plain" id="plotly">')
    assert carried  # the plots of what follows
    assert page.count("data:image/png") == 2  # what the method saw, and key frames
    # bars of three groups; five numbers of pretraining, three of each detector
    assert page.count("data-chart=") >= 3 + 5 + 3 + 3
    assert "vidssl extract-features playground" in page
    assert "has returned" in page
    assert set(result.chance) == {"person movement", "person interaction", "long memory"}
    score = json.loads((out / "detector/eval-val/score.json").read_text(encoding="utf-8"))
    movement = [score["ap"][str(label)] for label in (1, 2, 3, 4)]
    known = [ap for ap in movement if ap is not None]
    assert result.without_bank["person movement"] == pytest.approx(sum(known) / len(known))

    again = demo.run(out, videos=4, seconds=12, steps=2)  # all of it is there already
    assert again.with_bank == result.with_bank


def test_a_folder_of_other_files_is_refused_and_left_alone(tmp_path: Path) -> None:
    (tmp_path / "holiday.txt").write_text("mine")
    with pytest.raises(OutputError, match="holds other files; choose an empty folder"):
        demo.run(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["holiday.txt"]


def test_groups_are_the_label_map_s_and_their_mean_leaves_out_what_has_no_truth() -> None:
    labels = LabelMap({1: "a", 2: "b", 3: "c"}, {1: "PERSON_MOVEMENT", 2: "LONG_MEMORY", 3: ""})
    groups = demo.groups_of(labels)
    assert groups == {"person movement": [1], "long memory": [2], "all": [3]}
    means = demo.group_means({1: 0.5, 2: None, 3: 0.25}, {"both": [1, 3], "none": [2]})
    assert means["both"] == pytest.approx(0.375)
    assert math.isnan(means["none"])
