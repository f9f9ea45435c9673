"""What simple measurements of the pixels tell of real clips, without any network.

    python tools/evidence/handmade.py JHMDB OUT.json

JHMDB is a folder with clips.csv (path, label, split1, split2, split3) and the clips. On each of the
three splits a logistic regression of a fixed strength, on standardised features, is fitted to the
training clips and scored on the test clips. An encoder that does not pass these has not been worth
its training. Needs OpenCV for the optical flow: pip install opencv-python-headless.

- majority: the class that most training clips have;
- grey: the mean grey frame, 16 x 12;
- difference: the mean absolute difference of successive grey frames, 16 x 12;
- colour: how often each of 8 x 8 x 8 colours stands in every fourth frame;
- flow: of Farneback's optical flow at 160 x 120, how much goes in each of 8 directions, in each of
  4 x 4 parts of the picture;
- flow + colour: both side by side.
"""

import argparse
import itertools
import json
from pathlib import Path

import av
import cv2
import numpy as np
import probes
from numpy.typing import NDArray
from sklearn.dummy import DummyClassifier
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

STRENGTH = 0.02
COARSE = (16, 12)
FLOW_SIZE = (160, 120)
PARTS, DIRECTIONS = 4, 8
SPLITS = (1, 2, 3)


def main() -> None:
    """Measure all clips, then write the accuracies of each split."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("jhmdb", type=Path)
    parser.add_argument("out", type=Path)
    asked = parser.parse_args()
    rows = list(probes.rows_of(asked.jhmdb / "clips.csv"))
    labels = np.array([int(row["label"]) for row in rows])
    measured = [measurements(asked.jhmdb / row["path"]) for row in rows]
    features = {name: np.stack([one[name] for one in measured]) for name in measured[0]}
    features["flow + colour"] = np.concatenate([features["flow"], features["colour"]], axis=1)
    found: dict[str, list[float]] = {"majority": []}
    for split in SPLITS:
        trains = np.array([row[f"split{split}"] == "train" for row in rows])
        constant = DummyClassifier().fit(labels[trains], labels[trains])
        found["majority"].append(constant.score(labels[~trains], labels[~trains]))
        for name, all_NF in features.items():
            probe = make_pipeline(
                StandardScaler(), LogisticRegression(C=STRENGTH, max_iter=3000)
            ).fit(all_NF[trains], labels[trains])
            found.setdefault(name, []).append(probe.score(all_NF[~trains], labels[~trains]))
    asked.out.write_text(json.dumps(found, indent=1) + "\n")


def measurements(path: Path) -> dict[str, NDArray[np.float64]]:
    """Return the features of one clip, each ``(F,)``."""
    with av.open(str(path)) as container:
        frames = list(container.decode(video=0))
        colours = np.stack([frame.to_ndarray(format="rgb24") for frame in frames[::4]])
        greys = np.stack([frame.to_ndarray(format="gray") for frame in frames])
    changes = np.abs(np.diff(greys.astype(np.float32), axis=0)).mean(axis=0)
    coarse = np.stack([resized(grey, COARSE) for grey in greys]).astype(np.float32)
    counts = np.histogramdd(colours.reshape(-1, 3), bins=(8, 8, 8), range=[(0, 256)] * 3)[0]
    return {
        "grey": coarse.mean(axis=0).ravel(),
        "difference": resized(changes, COARSE).ravel(),
        "colour": (counts / counts.sum()).ravel(),
        "flow": flow(np.stack([resized(grey, FLOW_SIZE) for grey in greys])),
    }


def flow(greys_THW: NDArray[np.uint8]) -> NDArray[np.float64]:
    """Return the mean length of flow by part of the picture and direction, ``(4 * 4 * 8,)``."""
    height, width = greys_THW.shape[1:]
    rows, columns = np.mgrid[:height, :width]
    part = rows * PARTS // height * PARTS + columns * PARTS // width
    summed = np.zeros((PARTS * PARTS, DIRECTIONS))
    for before, after in itertools.pairwise(greys_THW):
        field = cv2.calcOpticalFlowFarneback(before, after, None, 0.5, 3, 15, 3, 5, 1.2, 0)
        turn = (np.arctan2(field[..., 1], field[..., 0]) + np.pi) / (2 * np.pi)
        direction = (turn * DIRECTIONS).astype(int) % DIRECTIONS
        np.add.at(summed, (part, direction), np.hypot(field[..., 0], field[..., 1]))
    return summed.ravel() / (len(greys_THW) - 1)


def resized(picture: NDArray, size: tuple[int, int]) -> NDArray:  # type: ignore[type-arg]
    """Return a picture at (width, height), each pixel a mean of those it covers."""
    return cv2.resize(picture, size, interpolation=cv2.INTER_AREA)


if __name__ == "__main__":
    main()
