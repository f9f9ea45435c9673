"""The order of rows against the official reader's heaps, played through for every frame."""

import heapq

import numpy as np
import pytest

from vidssl.ava.capped import Rows, by_action, by_action_officially


def through_heaps(rows: Rows, limit: int) -> list[tuple[float, ...]]:
    """The rows (frame, action, box, score) as the official reader hands them on, class by class."""
    heaps: dict[int, list[tuple[float, ...]]] = {}
    for frame, action, (x1, y1, x2, y2), score in entries(rows):
        heap, entry = heaps.setdefault(frame, []), (score, action, y1, x1, y2, x2)
        if not limit or len(heap) < limit:
            heapq.heappush(heap, entry)
        elif score > heap[0][0]:
            heapq.heapreplace(heap, entry)
    ordered = [
        (frame, int(action), x1, y1, x2, y2, score)
        for frame, heap in heaps.items()
        for score, action, y1, x1, y2, x2 in sorted(heap, key=lambda entry: -entry[0])
    ]
    return sorted(ordered, key=lambda row: row[1])


def entries(rows: Rows) -> list[tuple[int, int, list[float], float]]:
    columns = (rows.frame, rows.action, rows.box, rows.score)
    return list(zip(*(column.tolist() for column in columns), strict=True))


def listed(rows: Rows) -> list[tuple[float, ...]]:
    return [(frame, action, *box, score) for frame, action, box, score in entries(rows)]


def random_rows(seed: int, count: int, frames: int, actions: int, decimals: int) -> Rows:
    """Rows whose scores tie the more, the fewer their decimals; some rows twice."""
    rng = np.random.default_rng(seed)
    rows = Rows(
        rng.integers(0, frames, count),
        rng.choice([1, 2, 3, 700_000], count) if actions < 4 else rng.integers(1, actions, count),
        rng.integers(0, 5, (count, 4)) / 4,
        rng.random(count).round(decimals),
    )
    return rows.take(rng.choice(count, count))


@pytest.mark.parametrize("limit", [0, 1, 3, 50])
@pytest.mark.parametrize("decimals", [0, 1, 2, 3, 9])
@pytest.mark.parametrize("seed", range(3))
def test_the_order_is_that_of_the_heaps(seed: int, decimals: int, limit: int) -> None:
    for count, frames, actions in ((1, 1, 3), (400, 40, 3), (900, 5, 61), (300, 1, 9)):
        rows = random_rows(seed, count, frames, actions, decimals)
        found = rows.take(by_action_officially(rows, limit))
        assert listed(found) == through_heaps(rows, limit)


def test_a_score_that_is_no_number_goes_through_the_heap() -> None:
    rows = random_rows(0, 600, 4, 9, 2)
    rows.score[::37] = np.nan
    found = rows.take(by_action_officially(rows, 50))
    assert str(listed(found)) == str(through_heaps(rows, 50))


def test_no_rows_have_no_order() -> None:
    rows = random_rows(0, 5, 1, 3, 1).take(np.zeros(0, dtype=np.int64))
    assert len(by_action_officially(rows, 50)) == len(by_action(rows)) == 0


@pytest.mark.parametrize("seed", range(3))
def test_the_order_of_the_file_is_kept_within_a_frame_and_an_action(seed: int) -> None:
    rows = random_rows(seed, 300, 20, 3, 1)
    groups: dict[int, list[int]] = {}
    for row, frame in enumerate(rows.frame.tolist()):
        groups.setdefault(frame, []).append(row)
    expected = sorted((r for group in groups.values() for r in group), key=rows.action.__getitem__)
    assert by_action(rows).tolist() == expected
