"""The IoU tracker: who is linked to whom, against a slow telling of the same rules."""

import numpy as np
import pytest
from numpy.typing import NDArray

from vidssl.ava.annotations import PersonBoxes
from vidssl.ava.linking import Linking, link, usual_gap_s

Row = tuple[str, float, tuple[float, float, float, float], float]


def people(*rows: Row) -> PersonBoxes:
    video, time, box, score = zip(*rows, strict=True)
    return PersonBoxes(np.array(video), np.array(time, float), np.array(box), np.array(score))


def at(video: str, time_s: float, x: float, score: float = 0.9) -> Row:
    """Return a box of 0.2 x 0.2 at ``x``; two that are 0.05 apart overlap by 0.15 / 0.25 = 0.6."""
    return video, time_s, (x, 0.4, x + 0.2, 0.6), score


def test_a_person_who_moves_a_little_stays_one_track() -> None:
    table = people(at("a", 1, 0.1), at("a", 2, 0.15), at("a", 3, 0.2), at("a", 1, 0.7))
    assert link(table, Linking()).tolist() == [0, 0, 0, 1]
    assert link(table, Linking(iou=0.61)).tolist() == [0, 2, 3, 1]


def test_the_order_of_the_rows_and_other_videos_change_nothing() -> None:
    rows = [at("b", 2, 0.15), at("a", 1, 0.1), at("b", 1, 0.1), at("a", 2, 0.5)]
    assert link(people(*rows), Linking()).tolist() == [0, 0, 0, 1]


def test_the_older_track_takes_the_box_that_both_want() -> None:
    # At 2 s one box lies between the two of 1 s, nearer to the second: the first in the file has
    # begun first and takes it; the second ends.
    table = people(at("a", 1, 0.10), at("a", 1, 0.20), at("a", 2, 0.16))
    assert link(table, Linking(iou=0.5)).tolist() == [0, 1, 0]


def test_of_two_boxes_the_better_one_is_taken() -> None:
    table = people(at("a", 1, 0.1), at("a", 2, 0.15), at("a", 2, 0.11))
    assert link(table, Linking()).tolist() == [0, 1, 0]


def test_short_and_unsure_tracks_are_left_out_and_numbers_close_up() -> None:
    table = people(
        at("a", 1, 0.7),
        *(at("a", t, 0.1, 0.4) for t in (1, 2, 3)),
        *(at("a", t, 0.4, 0.8) for t in (2, 3)),
    )
    assert link(table, Linking(min_length=2)).tolist() == [-1, 0, 0, 0, 1, 1]
    assert link(table, Linking(min_length=2, peak_score=0.5)).tolist() == [-1, -1, -1, -1, 0, 0]
    assert link(table, Linking(min_score=0.85)).tolist() == [0, -1, -1, -1, -1, -1]


def test_a_track_may_miss_as_long_as_the_gap() -> None:
    table = people(at("a", 1, 0.1), at("a", 2, 0.7), at("a", 3, 0.1), at("a", 4, 0.7))
    assert usual_gap_s(table) == 1.0
    assert link(table, Linking()).tolist() == [0, 1, 2, 3]
    assert link(table, Linking(gap_s=2.0)).tolist() == [0, 1, 0, 1]


def test_nobody_and_one_box_are_no_trouble() -> None:
    none = PersonBoxes(np.array([], np.str_), np.zeros(0), np.zeros((0, 4)), np.zeros(0))
    assert link(none, Linking()).tolist() == []
    assert link(people(at("a", 1, 0.1)), Linking()).tolist() == [0]


def slow(table: PersonBoxes, least: float) -> NDArray[np.int64]:
    """Link box by box, as one would by hand; key frames one second apart without gaps."""
    found = np.full(len(table.score), -1)
    for video in sorted(set(table.video.tolist())):
        ends: dict[int, tuple[float, NDArray[np.float64]]] = {}
        for time_s in sorted(set(table.timestamp[table.video == video].tolist())):
            free = [
                row
                for row in range(len(found))
                if table.video[row] == video and table.timestamp[row] == time_s
            ]
            for number, (last_s, box) in sorted(ends.items()):
                overlaps = [overlap(box, table.box[row]) for row in free]
                if last_s == time_s - 1 and overlaps and max(overlaps) >= least:
                    row = free.pop(overlaps.index(max(overlaps)))
                    found[row], ends[number] = number, (time_s, table.box[row])
            for row in free:
                found[row] = len(ends)
                ends[len(ends)] = time_s, table.box[row]
    return found


def overlap(a: NDArray[np.float64], b: NDArray[np.float64]) -> float:
    width = max(min(a[2], b[2]) - max(a[0], b[0]), 0.0)
    height = max(min(a[3], b[3]) - max(a[1], b[1]), 0.0)
    both = (a[2] - a[0]) * (a[3] - a[1]) + (b[2] - b[0]) * (b[3] - b[1])
    return float(width * height / (both - width * height))


@pytest.mark.parametrize("seed", range(5))
def test_it_links_as_one_would_by_hand(seed: int) -> None:
    rng = np.random.default_rng(seed)
    rows: list[Row] = []
    for video in ("a", "b"):
        for time_s in range(12):
            for _ in range(rng.integers(1, 6)):
                x, y = rng.uniform(0, 0.5, 2)
                box = (float(x), float(y), float(x + 0.4), float(y + 0.4))
                rows.append((video, float(time_s), box, float(rng.uniform())))
    table = people(*(rows[i] for i in rng.permutation(len(rows))))
    for least in (0.2, 0.5):
        assert link(table, Linking(iou=least, gap_s=1.0)).tolist() == slow(table, least).tolist()


def test_people_who_never_stay_are_as_many_tracks() -> None:
    # Nobody stays: as many tracks as key frames, of which one is alive at any time.
    count = 2_000
    table = PersonBoxes(
        np.full(count, "a"),
        np.arange(count, dtype=float),
        np.array([(0.0, 0.0, 0.2, 0.2), (0.7, 0.7, 0.9, 0.9)] * (count // 2)),
        np.ones(count),
    )
    assert link(table, Linking()).tolist() == list(range(count))
