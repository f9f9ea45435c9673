"""Orders of frames, and the share of the accuracy that needs time."""

import numpy as np
import pytest

from vidssl.probe.motion import TIMES, frame_order, needs_time


def test_orders_of_frames() -> None:
    assert frame_order("normal", 5).tolist() == [0, 1, 2, 3, 4]
    assert frame_order("reversed", 5).tolist() == [4, 3, 2, 1, 0]
    assert frame_order("static", 5).tolist() == [2] * 5
    assert frame_order("single", 4).tolist() == [2]
    assert TIMES == ("normal", "shuffled", "reversed", "single", "static")


def test_each_clip_is_shuffled_in_an_order_of_its_own_and_never_left_alone() -> None:
    orders = {
        tuple(frame_order("shuffled", 6, name=name, clip=clip))
        for name in map(str, range(20))
        for clip in range(3)
    }
    assert len(orders) > 50
    assert all(sorted(order) == [0, 1, 2, 3, 4, 5] for order in orders)
    for name in map(str, range(50)):
        assert frame_order("shuffled", 2, name=name).tolist() == [1, 0]
    assert frame_order("shuffled", 1).tolist() == [0]
    one = frame_order("shuffled", 6, name="x")
    assert (one == frame_order("shuffled", 6, name="x")).all()


def test_the_share_that_needs_time_by_hand() -> None:
    # Eight videos of two classes; normal clips: 4 and 2 right, static ones: 1 and 2.
    label = np.repeat([0, 1, 2], [4, 4, 1])
    normal = np.array([1, 1, 1, 1, 1, 1, 0, 0, 0], np.bool_)
    static = np.array([1, 0, 0, 0, 1, 1, 0, 0, 1], np.bool_)
    whole, by_class = needs_time(normal, static, label_M=label, classes=4)
    assert whole.value == pytest.approx((6 - 4) / 6)
    assert 0 <= whole.low < whole.value < whole.high <= 1
    assert [share.value for share in by_class[:2]] == [0.75, 0.0]
    assert np.isnan([by_class[2].value, by_class[3].value]).all()  # nothing was right, no video


def test_better_on_static_clips_needs_no_time_and_one_film_has_no_interval() -> None:
    normal, static = np.array([1, 0, 0, 0]), np.array([1, 1, 1, 0])
    whole, none = needs_time(normal, static, group_M=np.zeros(4, np.int64))
    assert whole.value == 0.0
    assert np.isnan([whole.low, whole.high]).all()
    assert none == ()
    with pytest.raises(ValueError, match="as many videos"):
        needs_time(normal, static[:2])
