"""What a moment sees, against dictionaries of lists and against values worked out by hand."""

from collections import defaultdict
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from vidssl.features import Bank, BankIdentity, BankRows, BankWriter, Window, WindowConfig
from vidssl.features.window import Pick, choose

Rows = Callable[[int], BankRows]


def bank_of(folder: Path, seconds: list[float], scores: list[float]) -> Bank:
    """One video, "v"; the feature of each row is its number from 1."""
    writer = BankWriter(folder, dim=1, identity=BankIdentity("e"), plan=[["v"]])
    count = len(seconds)
    writer.write_shard(
        0,
        BankRows(
            ["v"] * count,
            np.array(seconds),
            np.zeros((count, 4)),
            np.array(scores),
            np.arange(1.0, count + 1)[:, None],
        ),
    )
    return writer.close()


def view(
    bank: Bank, second: float, before_s: int, after_s: int, per_step: int, **how: object
) -> Window:
    pick: Pick = "random" if "seed" in how else "top"
    seed = int(str(how.get("seed", 0)))
    return bank.window(
        "v", second, before_s=before_s, after_s=after_s, per_step=per_step, pick=pick, seed=seed
    )


def test_rows_go_to_their_step_and_place(tmp_path: Path) -> None:
    # Steps of t = 10 with 2 s before and 2 after: seconds 8, 9, 10, 11, of which 2 rows each.
    bank = bank_of(
        tmp_path / "b", seconds=[7, 8, 10, 10, 10, 11, 12], scores=[1, 1, 0.2, 0.9, 0.5, 1, 1]
    )
    window = view(bank, 10, 2, 2, 2)
    # second 8: row 2; second 9: nothing; second 10: rows 4 (0.9) and 5 (0.5); second 11: row 6.
    assert window.features[:, 0].tolist() == [2, 0, 0, 0, 4, 5, 6, 0]
    assert window.mask.tolist() == [True, False, False, False, True, True, True, False]
    assert window.offset_s.tolist() == [-2, 0, 0, 0, 0, 0, 1, 0]
    assert window.features.dtype == np.float16
    assert window.offset_s.dtype == np.float32


def test_the_papers_window_starts_30_seconds_before_and_ends_29_after(tmp_path: Path) -> None:
    bank = bank_of(tmp_path / "b", seconds=[float(s) for s in range(900, 1000)], scores=[1.0] * 100)
    config = WindowConfig()
    window = view(bank, 940, config.before_s, config.after_s, config.per_step)
    assert len(window.mask) == 300
    seen = window.features[window.mask, 0] + 899  # row 1 is second 900
    assert seen.tolist() == list(range(910, 970))
    # Near the start of what is annotated, the steps before it are zero.
    early = view(bank, 902, 30, 30, 5)
    assert not early.mask[: 28 * 5].any()
    assert early.mask[28 * 5 :: 5].all()


def test_a_window_on_the_past_does_not_see_the_next_second(tmp_path: Path) -> None:
    bank = bank_of(tmp_path / "b", seconds=[1, 2, 3, 4], scores=[1, 1, 1, 1])
    window = view(bank, 3, 2, 1, 1)
    assert window.features[:, 0].tolist() == [1, 2, 3]


def test_times_between_steps_go_to_the_nearer_step(tmp_path: Path) -> None:
    # Offsets from 10.02: -1.52 is outside two steps, -1.5 + 0.02 - 0.04 = -1.48 is in the first.
    bank = bank_of(tmp_path / "b", seconds=[8.5, 8.54, 9.6, 10.51, 10.53], scores=[1, 1, 1, 1, 1])
    window = view(bank, 10.02, 1, 1, 3)
    # step -1: [8.52, 9.52) has row 2; step 0: [9.52, 10.52) has rows 3 and 4.
    assert window.features[:, 0].tolist() == [2, 0, 0, 3, 4, 0]
    assert window.offset_s == pytest.approx([-1.48, 0, 0, -0.42, 0.49, 0], abs=1e-6)


def test_a_sum_that_rounds_to_the_edge_stays_inside(tmp_path: Path) -> None:
    # The largest time before half a second is in step 0, although 1.5 more of it rounds to 2.
    last = float(np.nextafter(0.5, 0))
    assert last + 1.5 == 2.0
    bank = bank_of(tmp_path / "b", seconds=[last, 0.5], scores=[1, 1])
    assert view(bank, 0, 1, 1, 1).features[:, 0].tolist() == [0, 1]


@pytest.mark.parametrize("per_step", [1, 3, 5, 20])
def test_windows_equal_those_of_a_dictionary(bank: Bank, shard_rows: Rows, per_step: int) -> None:
    book: dict[tuple[str, float], list[tuple[float, list[float]]]] = defaultdict(list)
    for shard in range(4):
        rows = shard_rows(shard)
        for row, video in enumerate(rows.videos):
            feature = rows.features[row].astype(np.float16).tolist()
            book[video, float(rows.seconds[row])].append((float(rows.scores[row]), feature))

    rng = np.random.default_rng(1)
    for _ in range(60):
        video = str(rng.choice(bank.videos))
        second, before_s, after_s = 890 + int(rng.integers(60)), *map(int, rng.integers(0, 12, 2))
        expected, offsets = [], []
        for step in range(-before_s, after_s + 1):
            best = sorted(book.get((video, float(second + step)), []), reverse=True)[:per_step]
            zero = [[0.0] * bank.dim] * (per_step - len(best))
            expected += [feature for _, feature in best] + zero
            offsets += [float(step)] * len(best) + [0.0] * len(zero)
        window = bank.window(
            video, second, before_s=before_s, after_s=after_s + 1, per_step=per_step,
            pick="top", seed=0,
        )  # fmt: skip
        assert window.features.tolist() == expected
        assert window.offset_s.tolist() == offsets


def test_a_random_pick_is_decided_by_its_seed_and_fair(tmp_path: Path) -> None:
    bank = bank_of(tmp_path / "b", seconds=[5, 5, 5, 5, 6, 6], scores=[1, 0.9, 0.1, 0.1, 1, 0])
    counts = np.zeros(7)
    for seed in range(800):
        window = view(bank, 5, 0, 2, 3, seed=seed)
        taken = window.features[:, 0].astype(int)
        assert set(taken[:3]) < {1, 2, 3, 4}
        assert len(set(taken[:3])) == 3  # without replacement
        assert sorted(taken[3:]) == [0, 5, 6]  # no more than three: all are taken
        assert np.array_equal(window.features, view(bank, 5, 0, 2, 3, seed=seed).features)
        counts[taken[:3]] += 1
    # Each of the four is taken with 3/4: 600 times, standard deviation 12.
    assert counts[1:5] == pytest.approx([600] * 4, abs=60)


def test_choose_takes_the_lowest_priorities_of_each_step() -> None:
    step = np.array([2, 0, 2, 2, 0])
    taken, slot = choose(step, np.array([3.0, 1.0, 1.0, 2.0, 1.0]), per_step=2)
    # step 0: rows 1 and 4 tie and go in order; step 2: row 2 (1.0), row 3 (2.0); row 0 is left.
    assert taken.tolist() == [1, 4, 2, 3]
    assert slot.tolist() == [0, 1, 4, 5]


@pytest.mark.parametrize(
    ("before_s", "after_s", "per_step"), [(0, 0, 5), (-1, 3, 5), (3, -1, 5), (3, 3, 0)]
)
def test_a_window_without_rows_is_refused(
    bank: Bank, before_s: int, after_s: int, per_step: int
) -> None:
    with pytest.raises(ValueError, match=f"no window of {before_s} s .* {per_step} a step"):
        view(bank, 910, before_s, after_s, per_step)
