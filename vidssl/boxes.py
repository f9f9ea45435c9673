"""Boxes in numpy: normalised x1 y1 x2 y2, continuous coordinates, origin at the top left.

Array suffixes: N and M boxes.
"""

import numpy as np
from numpy.typing import NDArray

Boxes = NDArray[np.float64]


def area(boxes_N4: Boxes) -> NDArray[np.float64]:
    """Return the area of each box, ``(N,)``; a box with a negative side has area 0."""
    sides = np.clip(boxes_N4[:, 2:] - boxes_N4[:, :2], 0.0, None)
    return np.asarray(sides[:, 0] * sides[:, 1])


def iou(one_N4: Boxes, two_M4: Boxes) -> NDArray[np.float64]:
    """Return intersection over union of every pair, ``(N, M)``; 0 where the union has no area.

    No pixel is added to a side: coordinates are continuous (spec of the AVA evaluation).
    """
    top_left = np.maximum(one_N4[:, None, :2], two_M4[None, :, :2])
    bottom_right = np.minimum(one_N4[:, None, 2:], two_M4[None, :, 2:])
    sides = np.clip(bottom_right - top_left, 0.0, None)
    overlap = sides[..., 0] * sides[..., 1]
    union = area(one_N4)[:, None] + area(two_M4)[None, :] - overlap
    return np.asarray(np.divide(overlap, union, out=np.zeros_like(overlap), where=union > 0))


def clip(boxes_N4: Boxes) -> Boxes:
    """Return the boxes cut to the image, ``[0, 1]`` on both axes."""
    return np.clip(boxes_N4, 0.0, 1.0)


def to_pixels(boxes_N4: Boxes, width_px: int, height_px: int) -> Boxes:
    """Return normalised boxes in pixels of an image of the given size."""
    return boxes_N4 * np.array([width_px, height_px, width_px, height_px], dtype=np.float64)


def from_pixels(boxes_px_N4: Boxes, width_px: int, height_px: int) -> Boxes:
    """Return pixel boxes normalised by the size of their image."""
    return boxes_px_N4 / np.array([width_px, height_px, width_px, height_px], dtype=np.float64)
