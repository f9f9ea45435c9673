"""The order of samples: complete, repeatable, and the same however it is shared out."""

import pytest

from vidssl.data.order import Order, StepBatches, rng_for


def test_each_epoch_is_a_permutation_of_its_own() -> None:
    order = Order(7, seed=3)
    epochs = [[order.at(7 * epoch + place) for place in range(7)] for epoch in range(20)]
    for number, epoch in enumerate(epochs):
        assert [e for e, _ in epoch] == [number] * 7
        assert sorted(sample for _, sample in epoch) == list(range(7))
    assert len({tuple(epoch) for epoch in epochs}) == 20
    other = [Order(7, seed=4).at(place)[1] for place in range(70)]
    assert other != [order.at(place)[1] for place in range(70)]


def test_a_place_is_the_same_whatever_was_asked_before() -> None:
    forth = [Order(5, seed=0).at(position) for position in range(30)]
    back = [Order(5, seed=0).at(position) for position in reversed(range(30))]
    assert forth == back[::-1]


def test_attempts_meet_every_sample_of_the_epoch_and_none_of_the_neighbours() -> None:
    order = Order(100, seed=1)
    tried = [order.at(100 + 7, attempt) for attempt in range(100)]
    assert sorted(tried) == [(1, sample) for sample in range(100)]
    # 0.382 * 100 = 38, which shares a divisor with 100: 39 places on, 78, 117 - 100 = 17, ...
    places = [order.at(100 + place) for place in (7, 46, 85, 24)]
    assert tried[:4] == places
    assert [Order(1, seed=0).at(3, attempt) for attempt in range(2)] == [(3, 0), (3, 0)]


def test_an_order_over_nothing_is_refused() -> None:
    with pytest.raises(ValueError, match="at least 1 sample, got 0"):
        Order(0, seed=0)


@pytest.mark.parametrize("world", [1, 2, 3, 4, 6, 12])
def test_the_batch_of_all_ranks_does_not_depend_on_their_number(world: int) -> None:
    shares = [list(StepBatches(12, 2, 5, rank, world)) for rank in range(world)]
    assert [len(StepBatches(12, 2, 5, rank, world)) for rank in range(world)] == [3] * world
    for step, parts in zip(range(2, 5), zip(*shares, strict=True), strict=True):
        assert {len(part) for part in parts} == {12 // world}
        everything = sorted(position for part in parts for position in part)
        assert everything == list(range(step * 12, step * 12 + 12))


def test_batches_from_a_later_step_are_the_tail_of_a_full_run() -> None:
    full = list(StepBatches(4, 0, 10, 1, 2))
    assert list(StepBatches(4, 6, 10, 1, 2)) == full[6:]
    assert list(StepBatches(4, 10, 10)) == []
    assert len(StepBatches(4, 11, 10)) == 0


def test_a_batch_that_cannot_be_shared_equally_is_refused() -> None:
    with pytest.raises(ValueError, match="a batch of 6 cannot be split over 4"):
        StepBatches(6, 0, 1, 0, 4)


def test_samples_and_the_order_itself_draw_from_streams_of_their_own() -> None:
    # The permutation's stream is numbered -1, one before the first sample's.
    keys = [(seed, epoch, index) for seed in (0, 1) for epoch in (0, 1) for index in (-1, 0, 1)]
    assert len({int(rng_for(*key).integers(2**62)) for key in keys}) == len(keys)
    assert rng_for(5, 6, 7).random() == rng_for(5, 6, 7).random()
