"""Plots and sheets, looked at pixel by pixel where it can be worked out what must be there."""

import io
from collections.abc import Callable

import matplotlib
import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from vidssl.report import _drawing, _short, figures, pictures
from vidssl.report.figures import MarkedBox, MarkedFrame

Pixels = NDArray[np.int64]
NAMES = {1: "chase", 2: "has returned after a long time away from the picture", 7: "costs $5 or $6"}
BOX = np.array([0.25, 0.25, 0.75, 0.75])


def pixels(png: bytes) -> Pixels:
    with Image.open(io.BytesIO(png)) as image:
        return np.asarray(image.convert("RGB")).astype(np.int64)


def count(png: bytes, colour: str, slack: int = 6) -> int:
    """How many pixels have (nearly) this colour."""
    wanted = np.array([int(colour[i : i + 2], 16) for i in (1, 3, 5)])
    return int((np.abs(pixels(png) - wanted).max(axis=2) <= slack).sum())


def flat(colour: tuple[int, int, int], height: int = 40, width: int = 60) -> NDArray[np.uint8]:
    return np.full((height, width, 3), colour, dtype=np.uint8)


def test_a_bar_is_as_long_as_its_value() -> None:
    def length(value: float) -> int:
        png = figures.average_precision_bars({1: "a"}, {"s": {1: value}})
        blue = np.abs(pixels(png) - np.array([0x00, 0x72, 0xB2])).max(axis=2) <= 6
        return length_of(np.flatnonzero(blue[-blue.shape[0] // 2 :].any(axis=0)))

    assert length(0.8) == pytest.approx(4 * length(0.2), rel=0.02)


def length_of(indices: NDArray[np.int64]) -> int:
    return int(indices.max() - indices.min())


def test_several_series_stand_side_by_side_in_their_colours() -> None:
    series = {"without": {1: 0.5, 2: 0.5}, "with": {1: 0.5, 2: 0.5}, "chance": {1: 0.5, 2: 0.5}}
    png = figures.average_precision_bars(NAMES, series)
    areas = [count(png, colour) for colour in (_drawing.BLUE, _drawing.ORANGE, _drawing.GREY)]
    assert min(areas) > 2000
    assert max(areas) < 1.05 * min(areas)


@pytest.mark.parametrize("absent", [{1: float("nan")}, {1: None}, {}])
def test_a_class_without_ground_truth_has_no_bar(absent: dict[int, float | None]) -> None:
    without = figures.average_precision_bars({1: "a", 2: "b"}, {"s": {**absent, 2: 0.5}})
    zero = figures.average_precision_bars({1: "a", 2: "b"}, {"s": {1: 0.0, 2: 0.5}})
    assert count(without, _drawing.BLUE) == count(zero, _drawing.BLUE)
    assert without != zero  # a dash is not a 0.00


def test_headings_take_room_and_choose_the_order() -> None:
    series = {"s": dict.fromkeys(NAMES, 0.4)}
    plain = figures.average_precision_bars(NAMES, series)
    grouped = figures.average_precision_bars(NAMES, series, {"Near": [7], "Far": [1, 2]})
    assert pixels(grouped).shape[0] > pixels(plain).shape[0] + 50


def test_dollars_in_a_name_are_no_formula() -> None:
    drawn = figures.average_precision_bars(
        {1: r"a $\frac{ b"}, {"$x_$": {1: 0.4}}, {r"$\bad$": [1]}
    )
    assert pixels(drawn).std() > 0


def test_letters_that_the_font_lacks_pass_without_a_warning() -> None:
    drawn = figures.average_precision_bars({1: "𓀀 歩く"}, {"s": {1: 0.4}})
    assert pixels(drawn).std() > 0


def test_bars_of_nothing_are_refused() -> None:
    with pytest.raises(ValueError, match="expected series and classes, got 1 and 0"):
        figures.average_precision_bars({}, {"s": {}})


def test_true_boxes_are_solid_and_predicted_ones_dashed() -> None:
    # Without the tags, which have no line: the same box once as true, once as predicted.
    frame = flat((0, 0, 0), 96, 128)
    solid = figures.keyframe_grid([MarkedFrame("k", frame, true=[MarkedBox(BOX, ["a"])])])
    dashed = figures.keyframe_grid([MarkedFrame("k", frame, predicted=[MarkedBox(BOX, ["a"])])])
    bare = figures.keyframe_grid([MarkedFrame("k", frame)])
    blue = count(solid, pictures.TRUE) - count(bare, pictures.TRUE)
    orange = count(dashed, pictures.PREDICTED) - count(bare, pictures.PREDICTED)
    assert blue > 500
    assert 0.3 * blue < orange < 0.85 * blue


def test_each_said_thing_takes_a_line_under_its_frame() -> None:
    frame = flat((0, 0, 0), 96, 128)
    one = figures.keyframe_grid([MarkedFrame("k", frame, true=[MarkedBox(BOX, ["walk"])])])
    three = figures.keyframe_grid(
        [
            MarkedFrame(
                "k",
                frame,
                true=[MarkedBox(BOX, ["walk"])],
                predicted=[MarkedBox(BOX, ["walk"], [0.9]), MarkedBox(BOX, ["run"], [0.2])],
            )
        ]
    )
    # 0.165 inches a line.
    assert pixels(three).shape[0] - pixels(one).shape[0] == pytest.approx(2 * 0.165 * 144, abs=2)


def test_labels_and_scores_must_go_together() -> None:
    said = MarkedBox(BOX, ["walk", "run"], [0.9])
    with pytest.raises(ValueError, match="argument 2 is shorter"):
        figures.keyframe_grid([MarkedFrame("k", flat((0, 0, 0)), predicted=[said])])


def test_frames_of_different_shapes_share_a_grid() -> None:
    items = [MarkedFrame("k", flat((9, 9, 9), *size)) for size in ((40, 60), (60, 40), (50, 50))]
    assert pixels(figures.keyframe_grid(items)).shape[1] == int((3 * (3.4 + 0.15) + 0.15) * 144)


def test_a_frame_that_is_no_picture_is_refused() -> None:
    wrong = np.zeros((4, 4), np.uint8)
    with pytest.raises(ValueError, match=r"expected a uint8 frame \(H, W, 3\), got uint8 \(4, 4\)"):
        figures.keyframe_grid([MarkedFrame("k", wrong)])


def test_a_grid_of_nothing_is_refused() -> None:
    with pytest.raises(ValueError, match="needs at least one"):
        figures.keyframe_grid([])


@pytest.mark.parametrize(
    "draw",
    [
        lambda: figures.average_precision_bars(NAMES, {"s": {1: 0.5}}),
        lambda: figures.keyframe_grid([MarkedFrame("t", flat((1, 2, 3)), [MarkedBox(BOX, ["a"])])]),
    ],
    ids=["bars", "grid"],
)
def test_equal_input_makes_equal_bytes_and_settings_stay(draw: Callable[[], bytes]) -> None:
    before = dict(matplotlib.rcParams)
    first = draw()
    assert first == draw()
    assert dict(matplotlib.rcParams) == before


def test_a_hostile_title_stays_on_one_short_line() -> None:
    title = _short.printable("a\nb\x1b[31m" + "x" * 200)
    assert title.startswith(r"a\nb\x1b[31m")
    assert "…" in title
    assert len(title) <= 90
