"""The columns of a block of an AVA file as numbers, every wrong cell noted with its line.

Array suffixes: R rows of the block.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from vidssl.ava.frames import Names, Seconds
from vidssl.ava.labels import LabelMap
from vidssl.ava.rows import MALFORMED, Block, Problems, floats, shortened, wholes
from vidssl.boxes import Boxes

TOLERANCE = 1e-6  # the rounding of a float32 division by the frame size; published files have none
PIXELS = 2.0  # a coordinate beyond this is no rounding: it counts pixels
NOBODY = -1
COORDINATES = ("x1", "y1", "x2", "y2")


@dataclass(frozen=True)
class Columns:
    """Readers of one block's columns; what they refuse goes to ``problems``.

    A refused cell still gets some value, so that the rest of its row is looked at too.
    """

    block: Block
    problems: Problems

    def frame(self) -> tuple[Names, Seconds]:
        """Return the videos and the times in seconds, ``(R,)`` both."""
        video = np.array(self.block.cells[0], dtype=np.str_)
        timestamp = floats(self.block.cells[1])
        self.refuse(video == "", 0, "no video", "the name of a video")
        self.refuse(~(timestamp >= 0), 1, "malformed timestamp", "seconds from 0 up")
        return video, timestamp

    def box(self) -> Boxes:
        """Return ``(R, 4)``, kept as read; NaN in bare rows."""
        box = np.stack([floats(cells) for cells in self.block.cells[2:6]], axis=1)
        malformed = np.isnan(box) & ~self.block.bare[:, None]
        for column, name in enumerate(COORDINATES):
            self.refuse(malformed[:, column], 2 + column, "malformed number", f"{name} as a number")
        self._refuse_boxes(box)
        return box

    def action(self, labels: LabelMap | None) -> NDArray[np.int64]:
        """Return ``(R,)`` ids, 0 in bare rows; refuse those beyond ``labels.limit``."""
        action = wholes(self.block.cells[6])
        malformed = action == MALFORMED
        expected = "a whole number (empty? then the file holds person boxes)"
        self.refuse(malformed, 6, "malformed action", expected)
        reason = "label outside the list"
        below = (action < 1) & ~self.block.bare & ~malformed
        self.refuse(below, 6, reason, "an id from 1 up (were the labels counted from 0?)")
        if labels is not None:
            self.refuse(action > labels.limit, 6, reason, f"an id from 1 to {labels.limit}")
        return action

    def person(self) -> NDArray[np.int64]:
        """Return ``(R,)`` person ids, ``NOBODY`` in bare rows and where there is no such column."""
        if len(self.block.cells) < 8:
            return np.full(len(self.block.lines), NOBODY, dtype=np.int64)
        person = wholes(self.block.cells[7])
        expected = "a whole number (a score? then the file holds predictions)"
        self.refuse(person < NOBODY, 7, "malformed person id", expected)
        return np.where(self.block.bare, NOBODY, person)

    def score(self, column: int) -> NDArray[np.float64]:
        """Return ``(R,)`` finite scores, 0 in bare rows."""
        score = floats(self.block.cells[column])
        self.refuse(np.isnan(score), column, "malformed number", "the score")
        return score

    def detection_score(self) -> NDArray[np.float64]:
        """Return ``(R,)`` scores in [0, 1] from the last column; 1 where there is none."""
        width = len(self.block.cells)
        if width == 8:
            filled = np.array([bool(cell.strip()) for cell in self.block.cells[6]])
            expected = "an empty 7th column (an action? then the file holds no person boxes)"
            self.refuse(filled, 6, "not a person box", expected)
        if width == 6:
            return np.ones(len(self.block.lines))
        score = self.score(width - 1)
        outside = (score < 0) | (score > 1)
        self.refuse(outside, width - 1, "score outside [0, 1]", "a confidence (an action id?)")
        return score

    def refuse(self, wrong_R: NDArray[np.bool_], column: int, reason: str, expected: str) -> None:
        """Note a problem for every wrong row, with the cell of ``column`` as what was found."""
        for row in np.flatnonzero(wrong_R):
            found = repr(shortened(self.block.cells[column][row]))
            self.problems.add(self.block.lines[row], reason, expected, found)

    def _refuse_boxes(self, box: Boxes) -> None:
        outside = np.any((box < -TOLERANCE) | (box > 1 + TOLERANCE), axis=1)
        empty = (box[:, 2] <= box[:, 0]) | (box[:, 3] <= box[:, 1])
        for row in np.flatnonzero(outside | empty):
            line = self.block.lines[row]
            found = ",".join(cells[row] for cells in self.block.cells[2:6])
            if not outside[row]:
                self.problems.add(line, "empty box", "x1 < x2 and y1 < y2", found)
                continue
            if box[row].max() > PIXELS:
                found += " (boxes look like pixels; divide by the frame size)"
            self.problems.add(line, "box outside [0, 1]", "normalised x1,y1,x2,y2", found)
