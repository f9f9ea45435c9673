"""Boxes against areas worked out by hand, and against a grid of points."""

import numpy as np
import pytest

from vidssl.boxes import area, clip, from_pixels, iou, to_pixels

UNIT = np.array([[0.0, 0.0, 1.0, 1.0]])


def test_areas_are_sides_multiplied_and_never_negative() -> None:
    boxes = np.array([[0.1, 0.2, 0.4, 0.6], [0.5, 0.5, 0.5, 0.9], [0.5, 0.5, 0.4, 0.4]])
    assert area(boxes) == pytest.approx([0.3 * 0.4, 0, 0])


def test_overlap_is_counted_once_in_the_union() -> None:
    # Left and right halves with a shared quarter: 0.25 / (0.5 + 0.5 - 0.25).
    left, middle = np.array([[0.0, 0.0, 0.5, 1.0]]), np.array([[0.25, 0.0, 0.75, 1.0]])
    assert iou(left, middle)[0, 0] == pytest.approx(1 / 3)
    assert iou(left, UNIT)[0, 0] == pytest.approx(0.5)
    assert iou(left, left)[0, 0] == 1.0
    right = np.array([[0.5, 0.0, 1.0, 1.0]])
    assert iou(left, right)[0, 0] == 0.0  # touching is not overlapping


def test_boxes_without_area_overlap_nothing_not_even_themselves() -> None:
    point = np.array([[0.5, 0.5, 0.5, 0.5]])
    assert iou(point, point)[0, 0] == 0.0
    assert iou(point, UNIT)[0, 0] == 0.0
    assert iou(np.zeros((0, 4)), UNIT).shape == (0, 1)


def test_every_pair_equals_a_count_of_points() -> None:
    rng = np.random.default_rng(0)
    corners = np.sort(rng.random((9, 2, 2)), axis=1).reshape(9, 4)
    one, two = corners[:5], corners[5:]
    axis = (np.arange(1000) + 0.5) / 1000

    def inside(
        box: np.ndarray[tuple[int], np.dtype[np.float64]],
    ) -> np.ndarray[tuple[int, int], np.dtype[np.bool_]]:
        x1, y1, x2, y2 = box
        across, down = (axis >= x1) & (axis < x2), (axis >= y1) & (axis < y2)
        return np.logical_and.outer(down, across)

    for i, a in enumerate(one):
        for j, b in enumerate(two):
            both, either = inside(a) & inside(b), inside(a) | inside(b)
            assert iou(one, two)[i, j] == pytest.approx(both.sum() / either.sum(), abs=0.01)
    assert np.array_equal(iou(one, two), iou(two, one).T)


def test_clipping_keeps_what_is_in_the_picture() -> None:
    boxes = np.array([[-0.5, 0.2, 0.5, 1.5], [1.2, 0.0, 1.5, 1.0]])
    assert clip(boxes).tolist() == [[0.0, 0.2, 0.5, 1.0], [1.0, 0.0, 1.0, 1.0]]
    assert area(clip(boxes))[1] == 0.0


def test_pixels_and_shares_are_two_units_of_the_same() -> None:
    boxes = np.array([[0.25, 0.5, 0.75, 1.0]])
    assert to_pixels(boxes, 640, 480).tolist() == [[160, 240, 480, 480]]
    assert from_pixels(to_pixels(boxes, 640, 480), 640, 480).tolist() == boxes.tolist()
