"""Boxes at key frames: between shapes, at their ends, and in the arrays that are written."""

import numpy as np
import pytest

from vidssl.ava.tracks import (
    Shape,
    Track,
    as_annotations,
    as_person_boxes,
    at_key_frames,
)
from vidssl.errors import AnnotationError

LEFT, RIGHT = (0.0, 0.0, 0.2, 0.4), (0.4, 0.0, 0.6, 0.4)


def times(track: Track, every_s: float) -> list[float]:
    return [row[1] for row in at_key_frames([track], every_s).rows]


def test_half_a_picture_belongs_to_each_shape() -> None:
    # Pictures at 0.99 and 1.09 s, 10 a second: key frame 1.0 is nearer to the first.
    stills = [Shape(0.99, LEFT, goes_on=False), Shape(1.09, RIGHT, goes_on=False)]
    rows = at_key_frames([Track("v", "1", stills, slack_s=0.05)], 1.0).rows
    assert [(row[1], row[2]) for row in rows] == [(1.0, LEFT)]


def test_a_still_too_far_from_any_key_frame_is_counted_as_between() -> None:
    sampled = at_key_frames([Track("v", None, [Shape(1.2, LEFT, goes_on=False)], 0.05)], 1.0)
    assert (sampled.rows, sampled.moments, sampled.between) == ([], 1, 1)


def test_a_moment_without_length_is_met_exactly() -> None:
    track = Track("v", None, [Shape(2.0, LEFT, goes_on=False)])
    assert times(track, 1.0) == [2.0]
    assert times(track, 0.3) == []


def test_the_last_shape_lasts_as_long_as_the_tool_says() -> None:
    track = Track("v", None, [Shape(1.0, LEFT)], slack_s=0.02, until_s=3.5)
    assert times(track, 1.0) == [1.0, 2.0, 3.0]
    assert times(Track("v", None, [Shape(1.0, LEFT)], slack_s=0.02), 1.0) == [1.0]


def test_times_that_make_no_sense_do_not_fill_the_memory() -> None:
    track = Track("v", None, [Shape(0.0, LEFT), Shape(1e15, LEFT)])
    with pytest.raises(AnnotationError, match=r"video 'v': from 0 to 1e\+15 s there would be more"):
        at_key_frames([track], 1.0)


@pytest.mark.parametrize("every_s", [0.1, 0.25, 1.0, 1 / 3])
def test_interpolated_boxes_lie_on_the_line_between_the_shapes(every_s: float) -> None:
    track = Track("v", None, [Shape(0.0, LEFT), Shape(4.0, RIGHT, goes_on=False)])
    rows = at_key_frames([track], every_s).rows
    assert len(rows) == 4 / every_s + 1
    for _, time_s, box, _, _ in rows:
        assert box[0] == pytest.approx(0.1 * time_s, abs=1e-6)
        assert box[2] - box[0] == pytest.approx(0.2, abs=2e-6)


def test_boxes_are_cut_to_the_picture_and_counted() -> None:
    track = Track("v", None, [Shape(0.0, (-0.1, 0.2, 0.5, 1.2), goes_on=False)])
    sampled = at_key_frames([track], 1.0)
    assert sampled.rows[0][2] == (0.0, 0.2, 0.5, 1.0)
    assert sampled.cut == 1


def test_people_keep_numbers_and_get_some_where_they_have_names() -> None:
    tracks = [Track(v, p, [Shape(0.0, LEFT)]) for v, p in (("a", "7"), ("a", "2"), ("b", "7"))]
    assert [row[3] for row in at_key_frames(tracks, 1.0).rows] == [2, 7, 7]
    tracks = [Track(v, p, [Shape(0.0, LEFT)]) for v, p in (("a", "ann"), ("a", "2"), ("b", "bob"))]
    assert [row[3] for row in at_key_frames(tracks, 1.0).rows] == [0, 1, 0]
    assert at_key_frames([Track("a", None, [Shape(0.0, LEFT)])], 1.0).rows[0][3] == -1


def test_a_row_for_each_action_and_a_box_for_everybody() -> None:
    tracks = [
        Track("v", "0", [Shape(1.0, LEFT, ("walk", "wave"))]),
        Track("v", "1", [Shape(1.0, RIGHT)]),
        Track("v", "2", [Shape(1.0, LEFT, ("walk",))]),  # the same box once more
    ]
    sampled = at_key_frames(tracks, 1.0)
    assert sampled.without_action == 1
    table = as_annotations(sampled, {"walk": 1, "wave": 3})
    assert table.action.tolist() == [1, 3]
    assert table.person.tolist() == [0, 0]
    assert np.array_equal(table.box, [LEFT, LEFT])
    people = as_person_boxes(sampled)
    assert people.box.tolist() == [list(LEFT), list(RIGHT)]
    assert people.score.tolist() == [1.0, 1.0]


def test_a_time_that_no_file_holds_is_refused() -> None:
    for time_s in (1e13, np.inf):
        for every_s in (0.0, 1.0):
            with pytest.raises(AnnotationError, match="s: expected at most"):
                at_key_frames([Track("v", None, [Shape(time_s, LEFT, goes_on=False)])], every_s)
