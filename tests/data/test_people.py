"""Boxes of people by video and second, and that they are where the pixels are."""

import tracemalloc
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from vidssl.augment.views import SSLConfig, draw_view, ssl_view
from vidssl.ava.annotations import PersonBoxes
from vidssl.ava.origins import parse_origin
from vidssl.data.clips import ClipDataset, ClipReading, ClipSample, augmented, carried
from vidssl.data.people import People
from vidssl.errors import AnnotationError
from vidssl.video.index import ClipIndex, write_index
from vidssl.video.probe import VideoFacts, probe
from vidssl.video.write import write_video

Row = tuple[str, float, Sequence[float], float]


def table(*rows: Row) -> PersonBoxes:
    videos, seconds, boxes, scores = zip(*rows, strict=True)
    return PersonBoxes(np.array(videos), np.array(seconds), np.array(boxes), np.array(scores))


def box(n: int) -> list[float]:
    return [0.1 * n, 0.2, 0.1 * n + 0.1, 0.6]


def number(index: ClipIndex, name: str) -> int:
    return [Path(path).stem for path in index.paths()].index(name)


# --- the table


def test_the_nearest_annotated_second_tells_who_is_there(index: ClipIndex) -> None:
    rows = [
        ("video1", 3.0, box(3), 0.9),
        ("video0", 1.0, box(1), 0.8),
        ("video1", 1.0, box(4), 0.7),
        ("video1", 1.0, box(5), 0.6),
        ("video1", 2.0, box(6), 0.5),
    ]
    people = People([table(*rows)], index, {})
    video = number(index, "video1")

    def lefts(time_s: float) -> list[float]:
        return [round(float(left) * 10) for left in people.near(video, time_s)[:, 0]]

    assert lefts(1.4) == [4, 5]
    assert lefts(0.5) == [4, 5]  # half a second is near enough,
    assert lefts(0.49) == []  # more is not
    assert lefts(1.51) == [6]
    assert lefts(3.5) == [3]
    assert lefts(3.51) == []
    assert people.near(video, 2.1).tolist() == [pytest.approx([0.6, 0.2, 0.7, 0.6, 0.5])]
    assert people.near(number(index, "video0"), 1.0)[0, 4] == pytest.approx(0.8)
    assert people.near(number(index, "video3"), 1.0).shape == (0, 5)
    assert (people.videos, people.absent) == (2, 0)


def test_several_tables_are_one_and_videos_that_are_not_there_are_counted(
    index: ClipIndex,
) -> None:
    one = table(("video2", 1.0, box(1), 0.9), ("elsewhere", 1.0, box(1), 0.9))
    two = table(("video2", 1.0, box(2), 0.8))
    people = People([one, two], index, {})
    assert len(people.near(number(index, "video2"), 1.0)) == 2
    assert (people.videos, people.absent) == (1, 1)


def test_times_count_from_the_origin(index: ClipIndex) -> None:
    rows = table(("video2", 901.0, box(1), 0.9), ("video2", 902.0, box(2), 0.9))
    people = People([rows], index, {}, parse_origin("900"))
    assert people.near(number(index, "video2"), 2.1)[0, 0] == pytest.approx(0.2)
    assert people.time_origins == [{"origin_s": 900.0, "videos": 1, "evidence": "as stated"}]
    with pytest.raises(AnnotationError, match="from where do the key frames' times count"):
        People([rows], index, {})


def test_boxes_that_lie_outside_of_their_videos_are_refused(index: ClipIndex) -> None:
    rows = [("video0", float(second), box(1), 0.9) for second in range(1, 10)]  # it has 3 s
    with pytest.raises(AnnotationError, match=r"6 of 9, such as video0 at 4 s; it is 3\.00 s long"):
        People([table(*rows)], index, {})


def test_boxes_of_other_videos_are_refused(index: ClipIndex) -> None:
    with pytest.raises(AnnotationError, match=r"none of the 1 annotated videos \(film, ...\)"):
        People([table(("film", 1.0, box(1), 0.9))], index, {})


def test_the_table_stays_in_arrays(tmp_path: Path, facts: list[VideoFacts]) -> None:
    videos, seconds = 3000, 10
    rows = [VideoFacts(**{**vars(facts[0]), "path": f"/v/{n:05}.mp4"}) for n in range(videos)]
    long = [VideoFacts(**{**vars(row), "duration_s": 10.0}) for row in rows]
    write_index(tmp_path / "many.parquet", long)
    index = ClipIndex(tmp_path / "many.parquet")
    boxes = PersonBoxes(
        np.repeat(np.array([f"{n:05}" for n in range(videos)]), seconds),
        np.tile(np.arange(seconds, dtype=np.float64), videos),
        np.tile(np.array(box(1)), (videos * seconds, 1)),
        np.full(videos * seconds, 0.9),
    )
    tracemalloc.start()
    people = People([boxes], index, {})
    held, _ = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert people.videos == videos
    # 8 bytes of time and 20 of box and score a row, 16 a video, and what is held once.
    assert held < 28 * videos * seconds + 16 * videos + 100_000


# --- where the pixels are

SIDE, TALL, WIDE = 24, 96, 128
STILL = SSLConfig(crop_px=64, area=(0.3, 0.8), jitter=0.0, grey=0.0, blur=0.0)


def corner(second: int) -> tuple[int, int]:
    """Left and top of the square around a second."""
    return 8 + 16 * second, 4 + 11 * second


def frame(n: int) -> NDArray[np.uint8]:
    """A bright square that jumps half a second before each full second; 10 frames a second."""
    left, top = corner((n + 5) // 10)
    picture = np.full((TALL, WIDE, 3), 30, np.uint8)
    picture[top : top + SIDE, left : left + SIDE] = 230
    return picture


@pytest.fixture(scope="module")
def square(tmp_path_factory: pytest.TempPathFactory) -> tuple[ClipIndex, PersonBoxes]:
    folder = tmp_path_factory.mktemp("square")
    write_video(folder / "square.mp4", (frame(n) for n in range(60)), 10, gop=30, crf=12)
    write_index(folder / "index.parquet", [probe(str(folder / "square.mp4"))])
    rows: list[Row] = []
    for second in range(6):
        left, top = corner(second)
        right, bottom = left + SIDE, top + SIDE
        where = [left / WIDE, top / TALL, right / WIDE, bottom / TALL]
        rows.append(("square", float(second), where, 0.9))
    return ClipIndex(folder / "index.parquet"), table(*rows)


@pytest.mark.parametrize("short_side_px", [None, 72])
def test_a_box_surrounds_in_the_view_what_it_surrounds_in_the_video(
    square: tuple[ClipIndex, PersonBoxes], short_side_px: int | None
) -> None:
    index, rows = square
    people = People([rows], index, {})
    clips = ClipDataset(
        index,
        frames=4,
        stride=6,
        views=2,
        seed=0,
        people=people,
        reading=ClipReading(short_side_px),
    )
    there, flipped = [], []
    for position in range(25):
        sample = clips[position]
        boxes, valid = carried(sample, STILL, 3)
        assert boxes.shape == (2, 3, 4)
        assert not valid[:, 1:].any()
        for view in range(2):
            pixels = ssl_view(sample.views[view], sample.seed + view, STILL, view)
            bright = pixels[:, 2].mean(dim=0) > 0  # the middle frame
            draw = draw_view(sample.seed + view, sample.size_px, STILL)
            there.append(bool(valid[view, 0]))
            flipped.append(draw.crop.flip)
            crop_px = (draw.crop.right - draw.crop.left) * (draw.crop.bottom - draw.crop.top)
            whole_px = SIDE * SIDE / (WIDE * TALL) / crop_px * 64 * 64
            share = float(bright.sum()) / whole_px
            if not there[-1]:
                assert share < 0.6
                continue
            assert share > 0.4
            rows_, columns = bright.nonzero().unbind(1)
            edges = [columns.min(), rows_.min(), columns.max() + 1, rows_.max() + 1]
            assert (boxes[view, 0] * 64).tolist() == pytest.approx(
                [float(edge) for edge in edges], abs=2.0
            )
    assert 5 < sum(there) < 50
    assert 5 < sum(flipped) < 45


def test_the_people_come_through_workers_and_augmentation(
    square: tuple[ClipIndex, PersonBoxes], augmenting: Callable[[ClipSample], ClipSample]
) -> None:
    index, rows = square
    people = People([rows], index, {})
    raw = ClipDataset(index, frames=4, stride=6, views=2, seed=0, people=people)
    done = ClipDataset(
        index,
        frames=4,
        stride=6,
        views=2,
        seed=0,
        people=people,
        reading=ClipReading(finish=augmenting),
    )
    for position in range(4):
        one, two = carried(raw[position], STILL, 2), carried(done[position], STILL, 2)
        assert all(torch.equal(a, b) for a, b in zip(one, two, strict=True))


@pytest.fixture
def augmenting() -> Callable[[ClipSample], ClipSample]:
    return partial(augmented, STILL)


# --- who counts


def by_hand(people: list[list[float]], **settings: object) -> tuple[torch.Tensor, torch.Tensor]:
    """The people of one view of a picture of 40 x 80, of which the middle square is kept."""
    middle = {"crop_px": 32, "area": (0.5, 0.5), "aspect": (1.0, 1.0), "flip": 0.0, **settings}
    sample = ClipSample(
        video="v",
        views=(torch.zeros(1, 40, 80, 3),),
        times_s=(torch.zeros(1),),
        seed=0,
        size_px=(40, 80),
        people=(torch.tensor(people).reshape(-1, 5),),
    )
    # A square of half the area is all of the height; where it begins is drawn.
    boxes, valid = carried(sample, SSLConfig.model_validate(middle), 3)
    return boxes[0], valid[0]


def test_the_surest_people_of_which_more_than_half_is_in_the_view_count() -> None:
    crop = draw_view(0, (40, 80), SSLConfig(crop_px=32, area=(0.5, 0.5), aspect=(1, 1))).crop
    left, right = crop.left, crop.right
    assert right - left == pytest.approx(0.5)
    inside = [left + 0.1, 0.2, left + 0.2, 0.6]
    hardly = [left - 0.11, 0.2, left + 0.1, 0.6]  # 10 of 21 parts
    mostly = [left - 0.09, 0.2, left + 0.1, 0.6]  # 10 of 19 parts
    boxes, valid = by_hand([[*inside, 0.3], [*hardly, 0.9], [*mostly, 0.6]])
    assert valid.tolist() == [True, True, False]
    assert boxes.flatten().tolist() == pytest.approx(
        [*(0.0, 0.2, 0.2, 0.6), *(0.2, 0.2, 0.4, 0.6), *(0.0,) * 4], abs=1e-5
    )
    mirrored, _ = by_hand([[*inside, 0.3]], flip=1.0)
    assert mirrored[0].tolist() == pytest.approx([0.6, 0.2, 0.8, 0.6], abs=1e-5)
    crowd = [[*inside[:3], 0.3 + 0.1 * n, 0.1 * n] for n in (1, 4, 3, 2)]
    boxes, valid = by_hand(crowd)
    assert valid.all()
    assert boxes[:, 3].tolist() == pytest.approx([0.7, 0.6, 0.5])


def test_nobody_leaves_all_places_free() -> None:
    boxes, valid = by_hand([])
    assert not boxes.any()
    assert not valid.any()


def test_a_box_without_area_does_not_count() -> None:
    _, valid = by_hand([[0.5, 0.5, 0.5, 0.5, 0.9]])
    assert not valid.any()
