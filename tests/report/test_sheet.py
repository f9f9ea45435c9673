"""The sheet of samples, looked at pixel by pixel where it can be worked out what must be there."""

import io
from dataclasses import replace

import matplotlib
import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from vidssl.report import sheet
from vidssl.report._drawing import DPI
from vidssl.report.sheet import SheetBlock, SheetView, sample_sheet

Pixels = NDArray[np.int64]
WHOLE = np.array([0.0, 0.0, 1.0, 1.0])
BLUE, VERMILION = (0x00, 0x72, 0xB2), (0xD5, 0x5E, 0x00)


def flat(colour: tuple[int, int, int], height: int = 60, width: int = 80) -> NDArray[np.uint8]:
    return np.full((height, width, 3), colour, dtype=np.uint8)


def view(number: int = 1, start_s: float = 2.0, frames: int = 8) -> SheetView:
    return SheetView(
        f"view {number}",
        "told",
        flat((90, 90, 90)),
        start_s,
        np.array([0.25, 0.25, 0.75, 0.75]),
        [flat((20 * n, 0, 200), 40, 40) for n in range(frames)],
        [start_s + n / 10 for n in range(frames)],
    )


def block(*views: SheetView, length_s: float = 10.0) -> SheetBlock:
    return SheetBlock("a.mp4", "facts", length_s, [0.0, 5.0], views or (view(),))


def pixels(*blocks: SheetBlock) -> Pixels:
    with Image.open(io.BytesIO(sample_sheet("title", "subtitle", blocks))) as image:
        return np.asarray(image.convert("RGB")).astype(np.int64)


def near(picture: Pixels, colour: tuple[int, int, int], slack: int = 6) -> NDArray[np.bool_]:
    return np.asarray(np.abs(picture - np.array(colour)).max(axis=2) <= slack)


def lane(picture: Pixels, colour: tuple[int, int, int]) -> tuple[float, float]:
    """Return where on the time line, as shares of it, a view's marks begin and end."""
    top = int((0.95 + 0.16 + sheet.HEAD + sheet.FACTS + 0.06) * DPI)
    part = near(picture, colour, 40)[top : top + int(0.25 * DPI)]
    columns = np.flatnonzero(part.any(axis=0)) / DPI - sheet.MARGIN - 0.16
    # The line shows 0.4 % of the video's length on either side of it.
    shares = columns / (sheet.WIDTH - 2 * (sheet.MARGIN + 0.16)) * 1.008 - 0.004
    return float(shares.min()), float(shares.max())


def test_a_window_lies_where_it_was_taken() -> None:
    picture = pixels(block(view(1, 2.0), view(2, 6.0)))
    # From 2.0 to 2.7 s, and from 6.0 to 6.7 s, of 10 s.
    assert lane(picture, BLUE) == pytest.approx((0.2, 0.27), abs=0.004)
    assert lane(picture, VERMILION) == pytest.approx((0.6, 0.67), abs=0.004)


def test_a_moment_of_a_long_film_can_be_seen() -> None:
    picture = pixels(block(view(1, 3000.0), length_s=7200.0))
    first, last = lane(picture, BLUE)
    assert first == pytest.approx(3000 / 7200, abs=0.005)
    assert last - first < 0.01


def test_every_frame_stands_in_its_column() -> None:
    picture = pixels(block())
    rows = np.flatnonzero(near(picture, (0, 0, 200)).any(axis=1))
    row = picture[int(rows.mean())]
    for column in range(8):
        x = (sheet.PICTURES + column * (sheet.CELL + sheet.GAP) + sheet.CELL / 2) * DPI
        assert row[int(x)].tolist() == [20 * column, 0, 200]


def test_the_frame_with_the_people_is_among_those_shown() -> None:
    one = replace(view(frames=32), marked=16, carried=WHOLE[None])
    assert 16 in sheet._columns(one)
    assert len(sheet._columns(one)) == 8
    assert sheet._columns(view(frames=3)) == [0, 1, 2]


def test_people_outside_of_the_crop_are_not_drawn_there() -> None:
    people = np.array([[0.1, 0.1, 0.4, 0.9], [0.5, 0.1, 0.9, 0.9]])
    gone = np.array([[0.0, 0.2, 0.0, 0.8], [0.1, 0.1, 0.9, 0.9]])
    yellow = (0xF0, 0xE4, 0x42)
    counts = []
    for carried in (people, gone, gone[:1]):
        one = replace(view(), people=people, carried=carried, marked=4, said=("walk", "run"))
        counts.append(int(near(pixels(block(one)), yellow).sum()))
    assert counts[0] > counts[1] > counts[2] > 200


def test_what_is_outside_of_the_crop_fades() -> None:
    picture = pixels(block(replace(view(), source=flat((0, 0, 0)))))
    # White at 0.55 over black: 255 * 0.55 = 140. 3/4 of the picture are outside.
    faded, kept = near(picture, (140, 140, 140), 2).sum(), near(picture, (0, 0, 0), 2).sum()
    assert faded > 10_000
    assert 2 < faded / kept < 6


@pytest.mark.parametrize("size", [(60, 400), (400, 60), (3, 3), (2, 900)])
def test_pictures_of_any_shape_stay_in_their_cells(size: tuple[int, int]) -> None:
    odd = replace(view(), source=flat((250, 0, 0), *size), crop=WHOLE)
    picture = pixels(block(odd))
    columns = np.flatnonzero(near(picture, (250, 0, 0), 60).any(axis=0)) / DPI
    assert columns.max(initial=0) <= sheet.MARGIN + sheet.EDGE + sheet.SOURCE + 0.02


def test_hostile_and_long_words_stay_on_the_sheet() -> None:
    wild = "x" * 300 + "\x1b[31m\n$\\frac{" + "𓀀" * 50
    one = replace(view(), told=wild, said=[wild] * 30, people=np.tile(WHOLE, (30, 1)))
    picture = pixels(SheetBlock(wild, wild, 10.0, [], [one]))
    edge = int(0.05 * DPI)
    assert (picture[:, -edge:] == 255).all()
    assert (picture[:, :edge] == 255).all()


def test_many_videos_are_one_long_sheet() -> None:
    one, six = pixels(block()), pixels(*[block(view(1), view(2))] * 6)
    assert one.shape[1] == six.shape[1]
    assert six.shape[0] > 6 * 300


def test_equal_input_makes_equal_bytes_and_settings_stay() -> None:
    before = dict(matplotlib.rcParams)
    assert sample_sheet("t", "s", [block()]) == sample_sheet("t", "s", [block()])
    assert dict(matplotlib.rcParams) == before


def test_a_sheet_of_nothing_is_refused() -> None:
    for blocks in ([], [SheetBlock("a", "f", 1.0, [], [])]):
        with pytest.raises(ValueError, match="at least one video, and a view of each"):
            sample_sheet("t", "s", blocks)
