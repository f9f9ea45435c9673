"""The single videos of a report card: on the map, as neighbours, as mistakes, and their clips.

Array suffixes: N training videos that could be read, M test videos that could be read, C
neighbours, F features, K classes.
"""

import numpy as np
from numpy.typing import NDArray

from vidssl.data.loader import LoaderConfig
from vidssl.errors import SourceError
from vidssl.features import Bank
from vidssl.jobs import _probe_encoder as encoders
from vidssl.jobs import probe
from vidssl.jobs._limits import usable_cores
from vidssl.jobs._probe_result import ProbeResult, SplitAccount
from vidssl.jobs._strips import Shown, make_strips
from vidssl.jobs._tested import Item, expected_of
from vidssl.probe import projection
from vidssl.probe.motion import TIMES
from vidssl.probe.neighbours import LeaveOut, nearest
from vidssl.progress import Progress
from vidssl.report import card_page
from vidssl.report.card import UNKNOWN, CardMap, CardVideo, Neighbours, Projection, Strip
from vidssl.video.sampling import clip_times
from vidssl.video.storage import shown
from vidssl.video.workers import preload

MAP_MOST = 5_000
"""Videos on the map; of more, as many at equal distances in the source's order."""
QUERIES, NEAR, MISTAKES = 12, 5, 24


class Gathered:
    """What the page shows of single videos, under one numbering of them.

    The test videos that could be read come first, then training videos that are shown as
    neighbours.
    """

    def __init__(
        self, plan: probe.Request, result: ProbeResult, looked: encoders.Looked, progress: Progress
    ) -> None:
        self.plan, self.result, self.looked = plan, result, looked
        self.progress = progress
        self.alone = result.test is None
        self.probe = next((p for p in ("linear", "knn") if p in result.predictions), None)
        rows = spaced(len(result.test_features), MAP_MOST)
        self.rows, self.videos = rows, [self._test_video(row) for row in rows]
        self.mistakes = self._mistakes()
        self.items: list[tuple[bool, Item]] = []
        self.neighbours = self._neighbours()
        self.map = self._map()
        self.confusion = self._confusion()
        self.strips = self._strips()

    def _test_video(self, row: int) -> CardVideo:
        place = int(self.result.test_rows[row])
        video = self.result.videos[place]
        label = video.labels[0] if len(video.labels) == 1 else UNKNOWN
        if self.probe is None or self.result.several_classes:
            return CardVideo(video.id, label)
        predicted = self.result.predictions[self.probe][place]
        chances_K = self.result.probabilities[self.probe][place]
        return CardVideo(
            video.id,
            label,
            predicted,
            None if predicted == UNKNOWN else float(chances_K[predicted]),
            float(chances_K[label]),
        )

    def _mistakes(self) -> list[int]:
        """Return the wrong ones of the videos, those least sure of the truth first."""
        wrong = [
            number
            for number, video in enumerate(self.videos)
            if UNKNOWN not in (video.label, video.predicted) and video.label != video.predicted
        ]

        def sure(number: int) -> tuple[float, float]:
            video = self.videos[number]
            return (video.truth or 0.0, -(video.confidence or 0.0))

        return sorted(wrong, key=sure)[:MISTAKES]

    def _neighbours(self) -> list[Neighbours]:
        """Return each video's neighbours where all can be on the page, else those of a few."""
        result = self.result
        train_NF, test_MF = result.train_features, result.test_features
        everybody = len(test_MF) + (0 if self.alone else len(train_NF)) <= MAP_MOST
        queries = self._queries()
        asked = [*queries, *(n for n in range(len(self.rows)) if everybody and n not in {*queries})]
        if not everybody:
            asked = list(dict.fromkeys([*queries, *self.mistakes]))
        if not asked or len(train_NF) < 2:
            return []
        rows = np.array([self.rows[number] for number in asked])
        leave_out = LeaveOut(np.arange(len(train_NF)), rows) if self.alone else None
        near_MC, cosine_MC = nearest(train_NF, test_MF[rows], NEAR, leave_out=leave_out)
        number_of = {row: number for number, row in enumerate(self.rows)} if self.alone else {}
        train_ids = self._train_items()
        found = []
        for number, near, cosines in zip(asked, near_MC.tolist(), cosine_MC.tolist(), strict=True):
            places = []
            for row, cosine in zip(near, cosines, strict=True):
                if row < 0:
                    continue
                if row not in number_of:
                    number_of[row] = len(self.videos)
                    self.videos.append(self._train_video(row, train_ids[row]))
                    self.items.append((True, train_ids[row]))
                places.append((number_of[row], cosine))
            found.append(Neighbours(number, places))
        return found

    def _queries(self) -> list[int]:
        """Return some of the videos, spread over the classes, wrong ones among them."""
        order = sorted(range(len(self.rows)), key=lambda n: (self.videos[n].label, n))
        return [order[n] for n in spaced(len(order), QUERIES)]

    def _train_items(self) -> list[Item]:
        """Return the training videos that could be read, in the order of their features."""
        failed = self.result.train.failures
        items = [i for i in expected_of(self.plan.train).items if i.id not in failed]
        if len(items) != len(self.result.train_features):
            raise SourceError(
                f"{shown(self.plan.train)}: has changed since it was probed: expected "
                f"{len(self.result.train_features)} videos, found {len(items)}"
            )
        return items

    def _train_video(self, row: int, item: Item) -> CardVideo:
        labels = self.result.train_labels
        label = int(labels[row]) if labels.ndim == 1 else UNKNOWN
        return CardVideo(item.id, label)

    def _map(self) -> CardMap | None:
        """Return the features in the plane, by all ways there are."""
        if len(self.rows) < 2:
            return None
        features = self.result.test_features[self.rows]
        xy, share = projection.pca(features)
        found = [Projection("PCA", xy, f"Two components, {share:.0%} of the variance.")]
        far = "Distances between far points, and the sizes of heaps, mean nothing."
        ways = [("t-SNE", projection.t_sne)]
        if projection.has_umap():
            ways.append(("UMAP", projection.umap))
        for name, way in ways:
            self.progress(f"drawing the map, {name}", 0, 0)
            arranged = way(features)
            if arranged is not None:
                found.append(Projection(name, arranged, far))
        whole = len(self.result.test_features)
        note = "" if len(features) == whole else f"{len(features)} of the {whole} videos."
        return CardMap(range(len(self.rows)), found, note)

    def _confusion(self) -> NDArray[np.int64] | None:
        """Return the confusion of all test videos, those that are not on the page too."""
        result = self.result
        if self.probe is None or result.several_classes:
            return None
        counts_KK = np.zeros((len(result.classes),) * 2, np.int64)
        for video, predicted in zip(result.videos, result.predictions[self.probe], strict=True):
            if predicted != UNKNOWN:
                counts_KK[video.labels[0], predicted] += 1
        return counts_KK

    def _strips(self) -> dict[int, Strip]:
        preload(["vidssl.jobs._strips"])
        result, videos = self.result, dict[int, Shown]()
        sides = {True: result.train, False: result.test or result.train}
        starts = {is_train: _starts(side) for is_train, side in sides.items()}
        clip_s = float(
            clip_times(0.0, self.looked.backbone.frames, self.looked.backbone.stride)[-1]
        )

        def add(number: int, is_train: bool, name: str, path: str | None) -> None:
            if path is not None and name in starts[is_train]:
                from_s, last_s = starts[is_train][name]
                videos[number] = Shown(path, from_s, last_s + clip_s)

        for number, row in enumerate(self.rows):
            video = result.videos[int(result.test_rows[row])]
            add(number, self.alone, video.id, video.path)
        for number, (is_train, item) in enumerate(self.items, len(self.rows)):
            add(number, is_train, item.id, item.path)
        large = [
            *self.mistakes,
            *(n for near in self.neighbours[:QUERIES] for n in (near.video, *dict(near.nearest))),
        ]
        return make_strips(
            videos,
            large,
            card_page.room_for_strips(len(self.videos)),
            decoder=self.plan.decoder,
            loader=LoaderConfig(
                workers=usable_cores() if self.plan.workers is None else self.plan.workers
            ),
            progress=self.progress,
        )


def _starts(side: SplitAccount) -> dict[str, tuple[float, float]]:
    """Return when the first and the last clip of each video begin, as its bank tells."""
    found: dict[str, tuple[float, float]] = {}
    folder = next(side.features / name for name in TIMES if (side.features / name).is_dir())
    for table, _ in Bank.open(folder).shards():
        for name, start_s in zip(
            table["video"].to_pylist(), table["second"].to_pylist(), strict=True
        ):
            first_s, last_s = found.get(name, (start_s, start_s))
            found[name] = (min(first_s, start_s), max(last_s, start_s))
    return found


def spaced(count: int, most: int) -> list[int]:
    """Return at most ``most`` numbers below ``count``, at equal distances."""
    most = min(count, most)
    return [int((n + 0.5) * count / most) for n in range(most)]
