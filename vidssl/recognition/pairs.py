"""Actions that are a verb and a noun: EPIC-KITCHENS.

Wu et al., "Long-Term Feature Banks", CVPR 2019, https://arxiv.org/abs/1812.05038, and its released
code: the score of an action is the verb's softmax times the noun's, times how often the training
has the pair, a frequency "normalised per row". That a row is a verb, so that the frequencies of
a verb's nouns sum to 1, is our reading, a reconstruction.

Array suffixes: N segments, V verbs, M nouns.
"""

import csv
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from vidssl.errors import AnnotationError, listed
from vidssl.recognition.metrics import top_k

AT_ONCE = 4_000_000  # scores of one array
COLUMNS = ("verb_class", "noun_class")


def prior_of(path: Path, verbs: int, nouns: int) -> NDArray[np.float64]:
    """Return how often each verb of a training list has each noun, ``(V, M)``; rows sum to 1, or
    to 0 for a verb that the list does not have.

    Raises:
        AnnotationError: if the file is no csv with ``verb_class`` and ``noun_class``.
    """
    counts = np.zeros((verbs, nouns))
    problems = []
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            rows = csv.DictReader(file)
            lacking = [name for name in COLUMNS if name not in (rows.fieldnames or ())]
            if lacking:
                raise AnnotationError(
                    f"{path}: expected a training list with the columns {' and '.join(COLUMNS)}, "
                    f"found {', '.join((rows.fieldnames or ())[:12])}"
                )
            for row in rows:
                cells = [str(row[name]) for name in COLUMNS]
                verb, noun = (int(cell) if cell.isdecimal() else -1 for cell in cells)
                if 0 <= verb < verbs and 0 <= noun < nouns:
                    counts[verb, noun] += 1
                else:
                    problems.append(
                        f"{path}:{rows.line_num}: expected numbers below {verbs} and {nouns}, "
                        f"found {cells[0][:20]!r}, {cells[1][:20]!r}"
                    )
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise AnnotationError(f"{path}: cannot be read as a training list: {error}") from None
    if problems:
        raise AnnotationError(listed(f"{path}: {len(problems)} mistakes", problems, 8))
    total_V1 = counts.sum(axis=1, keepdims=True)
    share = np.divide(counts, total_V1, out=np.zeros_like(counts), where=total_V1 > 0)
    return np.asarray(share)


def action_hits(
    verb_NV: NDArray[np.float32],
    noun_NM: NDArray[np.float32],
    pair_N2: NDArray[np.int64],
    prior_VM: NDArray[np.float64] | None,
    ks: tuple[int, ...],
) -> NDArray[np.float64]:
    """Return for each of ``ks`` the chance that each segment's pair is among the k best, (N, ks).

    Of all V x M pairs; with a prior, those that the training never has score 0.
    """
    (count, verbs), nouns = verb_NV.shape, noun_NM.shape[1]
    step = max(1, AT_ONCE // (verbs * nouns))
    hits = np.zeros((count, len(ks)))
    for first in range(0, count, step):
        part = slice(first, first + step)
        scores = verb_NV[part, :, None].astype(np.float64) * noun_NM[part, None, :]
        if prior_VM is not None:
            scores *= prior_VM
        flat = scores.reshape(len(scores), -1)
        label = pair_N2[part, 0] * nouns + pair_N2[part, 1]
        for column, k in enumerate(ks):
            hits[part, column] = top_k(flat, label, k)
    return hits
