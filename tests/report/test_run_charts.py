"""Curves and bars of a training: what plotly is told, worked out by hand."""

import json
from itertools import pairwise
from typing import Any

import numpy as np
import pytest

from vidssl.report import run_charts
from vidssl.report.card import LearningCurve
from vidssl.report.charts import plain, unique
from vidssl.report.run_charts import Mark, curve_of, running_mean, thinned

Entry = dict[str, Any]
Series = dict[str, dict[int, float | None]]


def drawn(values: list[float], **given: Any) -> dict[str, Any]:
    """The trace of values over the steps 0, 1, ..."""
    (chart,) = run_charts.curves([LearningCurve("loss", range(len(values)), values)], **given)
    return chart.data[0]


def test_loss_and_rate_come_first_and_the_step_is_no_scalar() -> None:
    log: list[Entry] = [
        {"step": 0, "top1": 0.1, "lr": 1.0},
        {"step": 1, "loss": 2.0, "note": "x", "ok": True},
    ]
    assert run_charts.scalars(log) == ["loss", "lr", "top1"]


def test_a_curve_has_the_steps_at_which_it_was_logged() -> None:
    log: list[Entry] = [
        {"step": 0, "loss": 2},
        {"step": 5},
        {"step": 6, "loss": None},
        {"step": 7, "loss": "x"},
        {"step": 8, "loss": 10**400},  # a whole number that no float holds
        {"step": 9, "loss": 1.5},
        {"loss": 3.0},
        {"step": "x", "loss": 3.0},
        {"step": 10**400, "loss": 3.0},
    ]
    found = curve_of(log, "loss", "what it means")
    assert (found.steps, found.meaning) == ([0, 8, 9], "what it means")
    (chart,) = run_charts.curves([found])
    assert chart.data[0]["y"] == [2.0, None, 1.5]
    assert chart.note == "what it means"


def test_a_curve_leaves_a_gap_where_it_is_not_finite() -> None:
    wild = [3.0, float("nan"), float("inf"), -1e300, 1.0]
    assert drawn(wild)["y"] == [3.0, None, None, None, 1.0]
    (chart,) = run_charts.curves([LearningCurve("loss", range(5), wild)])
    assert chart.alt == "loss: 3 at step 0, 1 at step 4"
    (never,) = run_charts.curves([LearningCurve("loss", [0], [float("nan")])])
    assert never.alt == "loss: never a finite number"


def test_a_few_values_are_kept_as_they_are() -> None:
    assert thinned(np.array([3.0, 1.0, 2.0]), 5).tolist() == [0, 1, 2]
    assert thinned(np.zeros(0), 5).tolist() == []


def test_of_each_bin_the_lowest_the_highest_and_the_first_gap_are_kept() -> None:
    # room for 8: two bins of five, and both ends
    values = np.array([5.0, 9.0, 5.0, 1.0, 5.0, 5.0, np.nan, np.nan, 2.0, 3.0])
    # first bin: highest at 1, lowest at 3; second: highest at 5, gap at 6, lowest at 8
    assert thinned(values, 8).tolist() == [0, 1, 3, 5, 6, 8, 9]


def test_a_bin_without_a_finite_value_keeps_its_gap_alone() -> None:
    values = np.array([1.0, 2.0, 3.0, 4.0, 5.0, np.nan, np.inf, np.nan, np.nan, np.nan])
    assert thinned(values, 8).tolist() == [0, 4, 5, 9]


def test_a_long_curve_keeps_its_spikes_and_its_room() -> None:
    rng = np.random.default_rng(0)
    values = rng.normal(size=20_011)
    values[[17, 12_345]] = (1e6, -1e6)
    places = thinned(values, 500)
    assert len(places) <= 500
    assert {0, 17, 12_345, 20_010} <= set(places.tolist())
    assert (np.diff(places) > 0).all()
    # nowhere is more than two bins' length left out, and each stretch keeps its extremes
    edges = np.linspace(0, len(values), 166 + 1).round().astype(int)
    for low, high in pairwise(edges):
        inside = values[places[(places >= low) & (places < high)]]
        assert (inside.min(), inside.max()) == (values[low:high].min(), values[low:high].max())


def test_no_room_is_refused() -> None:
    with pytest.raises(ValueError, match="room for 5 values or more, got 4"):
        thinned(np.zeros(9), 4)


def test_a_page_of_many_long_curves_stays_small_and_says_what_it_left_out() -> None:
    rng = np.random.default_rng(0)
    values = rng.normal(size=20_000).tolist()
    one = LearningCurve("loss", range(20_000), values, "What training minimises.")
    (alone,) = run_charts.curves([one])
    assert 1000 < len(alone.data[0]["x"]) <= run_charts.MOST_POINTS
    # 666 bins: 3 x 20,000 / 1,998 = 30.03 values each
    assert alone.note == (
        "What training minimises. 20,000 values, thinned: the lowest and highest of each 31."
    )
    many = run_charts.curves([one] * 50)
    assert sum(len(chart.data[0]["x"]) for chart in many) <= run_charts.PAGE_POINTS
    assert len(json.dumps([chart.data for chart in many])) < 4_000_000


def test_from_some_points_on_a_mean_is_drawn_over_the_values() -> None:
    (short,) = run_charts.curves([LearningCurve("loss", range(39), [1.0] * 39)])
    assert len(short.data) == 1
    values = [float(n % 2) for n in range(100)]
    (long,) = run_charts.curves([LearningCurve("loss", range(100), values)])
    pale, mean = long.data
    assert pale["opacity"] < 1
    assert mean["x"] == pale["x"]
    # 100 // 20 = 5 values: around place 50, where 0 1 0 1 0 stand, 2 of 5
    assert mean["y"][50] == pytest.approx(0.4)
    assert mean["hovertemplate"].startswith("mean of 5: ")


def test_the_mean_of_a_thinned_curve_is_that_of_all_its_values() -> None:
    values = [0.0] * 9_999 + [1000.0] + [0.0] * 10_000
    (chart,) = run_charts.curves([LearningCurve("loss", range(20_000), values)])
    pale, mean = chart.data
    # 20,000 // 20 = 1,000 values and one, for the same number on both sides
    assert mean["y"][pale["y"].index(1000.0)] == pytest.approx(1000 / 1001)


def test_the_running_mean_of_a_window_of_three() -> None:
    values = np.array([0.0, 3.0, np.nan, 9.0, 12.0])
    # (0 + 3) / 2; (0 + 3) / 2; (3 + 9) / 2; (9 + 12) / 2; (9 + 12) / 2
    assert running_mean(values, 3, range(5)).tolist() == [1.5, 1.5, 6.0, 10.5, 10.5]
    assert running_mean(values, 3, [2, 4]).tolist() == [6.0, 10.5]


def test_a_window_without_a_value_has_no_mean() -> None:
    mean = running_mean(np.array([1.0, np.nan, np.nan, np.nan, 2.0]), 3, range(5))
    assert np.isnan(mean).tolist() == [False, False, True, False, False]


def test_an_exploded_loss_leaves_the_means_after_it_as_they_are() -> None:
    mean = running_mean(np.array([1.0, 1e200, 1.0, 1.0, 1.0]), 3, range(5))
    assert mean.tolist()[3:] == [1.0, 1.0]


def test_the_axis_of_a_constant_does_not_show_its_last_bits() -> None:
    (chart,) = run_charts.curves([LearningCurve("lr", range(3), [0.1, 0.1 + 1e-12, 0.1])])
    assert chart.layout["yaxis"]["range"] == pytest.approx([0.0999, 0.1001])
    (moving,) = run_charts.curves([LearningCurve("lr", range(2), [0.1, 0.2])])
    assert "range" not in moving.layout["yaxis"]


def test_marks_stand_on_every_curve_and_of_too_many_some() -> None:
    one = LearningCurve("loss", [0, 1], [1.0, 2.0])
    marks = [Mark("alarm", n, "collapse") for n in range(1000)]
    for chart in run_charts.curves([one, one], marks):
        heads = chart.data[-1]
        assert len(heads["x"]) == len(chart.layout["shapes"]) == run_charts.MOST_MARKS
        assert (heads["x"][0], heads["x"][-1]) == (0, 999)


def test_a_mark_s_words_are_lines_of_text_and_no_markup() -> None:
    words = "<b>" + "long " * 20 + "&\n\x1b"
    (chart,) = run_charts.curves([LearningCurve("a", [0], [1.0])], [Mark("undone", 3, words)])
    lines = chart.data[-1]["text"][0].split("<br>")
    assert len(lines) > 2
    assert lines[0].startswith("&lt;b&gt;long")
    assert all("<" not in line for line in lines)
    assert r"\n\x1b" in lines[-1]


def test_bars_are_as_long_as_their_values_and_absent_ones_dashes() -> None:
    names = {1: "sit", 2: "sit", 3: "run"}
    series: Series = {"a": {1: 0.5, 2: float("nan")}, "<b>": {1: 0.25, 2: None, 3: 1.0}}
    chart = run_charts.average_precision("AP", names, series)
    first, second = chart.data
    assert first["y"] == second["y"] == ["sit", "sit (2)", "run"]
    assert (first["x"], first["text"]) == ([0.5, 0.0, 0.0], ["0.50", "–", "–"])
    assert (second["x"], second["text"]) == ([0.25, 0.0, 1.0], ["0.25", "–", "1.00"])
    assert second["name"] == "&lt;b&gt;"
    assert first["marker"] != second["marker"]
    assert chart.layout["showlegend"]
    assert not run_charts.average_precision("AP", names, {"a": {1: 1.0}}).layout["showlegend"]


def test_bars_of_nothing_are_refused() -> None:
    with pytest.raises(ValueError, match="expected series and classes, got 1 and 0"):
        run_charts.average_precision("AP", {}, {"s": {}})


def test_a_name_is_no_markup_and_no_colour_of_the_page() -> None:
    assert plain("<i>&") == "&lt;i&gt;&amp;"
    assert plain("@blue") == "&#64;blue"
    assert plain("a@b") == "a@b"
    assert unique(["a", "b", "a", "a"]) == ["a", "b", "a (2)", "a (3)"]
    assert unique(["a", "a", "a (2)", "a (2)"]) == ["a", "a (3)", "a (2)", "a (2) (2)"]
