"""``vidssl long-term``: the two models of a feature bank, from one recipe.

Wu et al., "Long-Term Feature Banks for Detailed Video Understanding", CVPR 2019,
https://arxiv.org/abs/1812.05038: a detector without a bank is trained, it writes the bank, and a
second one is trained to read it. Each of the three stages is the job of its name in a folder of its
own; ``stages.json`` keeps what came of each, by which it is known again.
"""

import json
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch

from vidssl.ava.labels import read_labels
from vidssl.backbones._layers import Tapped
from vidssl.data.keyframes import Moment
from vidssl.errors import BankError, CheckpointError, VidsslError
from vidssl.features import Bank
from vidssl.files import write_text
from vidssl.jobs import _detector as shared
from vidssl.jobs import _training as training
from vidssl.jobs import extract_features, finetune
from vidssl.jobs.index import open_index
from vidssl.nn.distributed import first_here, gather_texts, joined, rank, wait_for_all
from vidssl.progress import Progress, silent
from vidssl.recipe import Detection, LongTerm, dump
from vidssl.train.folder import IDENTITY, RunFolder, Terms, claim
from vidssl.train.prove import Proof
from vidssl.train.trainer import device_of
from vidssl.train.weights import load_weights

STAGES = "stages.json"
INDEX = "index.parquet"
FIRST, BANK, SECOND = "first", "bank", "second"


@dataclass(frozen=True)
class LongTermData:
    """What both detectors are trained on, and of whom the bank is.

    ``boxes`` are of every video that the second detector is to be trained or tested on, none where
    the bank is of clips or grids; ``train_boxes`` are trained on beside the true ones. The rest is
    as :class:`vidssl.jobs.finetune.DetectionData` has it.
    """

    videos: str
    annotations: Path
    labels: Path
    boxes: tuple[Path, ...] = ()
    train_boxes: Path | None = None
    excluded: Path | None = None
    time_origin: str = "auto"

    def of_detector(self, videos: str, bank: Path | None) -> finetune.DetectionData:
        """Return what one of the two is trained on."""
        return finetune.DetectionData(
            videos=videos,
            annotations=self.annotations,
            labels=self.labels,
            boxes=self.train_boxes,
            excluded=self.excluded,
            bank=bank,
            time_origin=self.time_origin,
        )


@dataclass(frozen=True)
class LongTermResult:
    """What came of each stage, as ``finetune --json`` and ``extract-features --json`` tell it.

    ``done_now`` names the stages that this call had to do. ``failures`` says of how many key frames
    how many failed in the bank; where these were too many, there is no ``second``.
    """

    out: Path
    first: dict[str, Any]
    bank: dict[str, Any]
    second: dict[str, Any] | None
    failures: tuple[int, int, str]
    done_now: list[str]
    seconds: float


def run(
    plan: LongTerm,
    encoder: str,
    data: LongTermData,
    out: Path,
    *,
    max_failed: float = 0.01,
    retry: bool = False,
    progress: Progress = silent,
) -> LongTermResult:
    """Train, extract and train again in ``out``, or go on with whichever stage is not finished.

    What is finished is compared with its record, byte by byte, and not done again. ``encoder`` is a
    run, an encoder file, or ``random``; where more than ``max_failed`` of the bank's key frames
    failed, the call ends before the second training. ``retry`` reads again what failed, looks for
    videos that were not there, and leaves the rest of the bank as it is.

    Raises:
        VidsslError: as the jobs of the stages do; what can be seen to be wrong, before the first.
        OutputError: if ``out`` belongs to something else.
        CheckpointError: if a finished detector is damaged and cannot be made again as it was, or
            the second was trained on other rows than the bank's.
        BankError: for another try at a bank that the second training already reads.
        Interrupted: on Ctrl-C; the same call goes on.
    """
    started = time.monotonic()
    identity = _identity(plan, encoder, data)
    claim(out, identity, _terms())
    require_sound(plan, encoder, data)
    if retry:
        _require_unread(out)
    with (
        joined(device_of(plan.first.device)),
        RunFolder(out, identity, dump(plan), _terms()) as folder,
        _kept_once_begun(out, folder),
    ):
        with first_here():
            # The other processes find what the first has looked at.
            again = retry and rank() == 0 and _is_between(out)
            index = open_index(data.videos, out / INDEX, progress, retry=again).path
        stages = _Stages(plan, data, index, out, progress)
        stages.train(FIRST, plan.first, encoder, None)
        stages.extract(retry=retry)
        failed, expected, what = stages.done[BANK]["failures"]
        if failed <= max_failed * expected:
            begin = begin_of_second(plan, encoder, out / FIRST)
            stages.train(SECOND, plan.second, begin, out / BANK)
    return LongTermResult(
        out=out,
        first=stages.done[FIRST]["result"],
        bank=stages.done[BANK]["result"],
        second=stages.done[SECOND]["result"] if SECOND in stages.done else None,
        failures=(failed, expected, what),
        done_now=stages.done_now,
        seconds=time.monotonic() - started,
    )


def prove(
    plan: LongTerm,
    encoder: str,
    data: LongTermData,
    out: Path,
    steps: int,
    *,
    progress: Progress = silent,
) -> dict[str, Proof]:
    """Do some steps of each training in ``out`` that was begun again, twice, and compare them.

    Nothing is changed. The bank has checksums, which ``run`` compares.

    Raises:
        OutputError: if ``out`` belongs to something else.
        CheckpointError: if neither was begun, or there is no checkpoint with steps after it.
    """
    claim(out, _identity(plan, encoder, data), _terms())
    begun = [name for name in (FIRST, SECOND) if (out / name / IDENTITY).is_file()]
    if not begun:
        raise CheckpointError(f"{out}: holds no training of which steps could be done again")
    index = training.as_indexed(data.videos, out)
    found = {}
    for name in begun:
        part, bank = (plan.first, None) if name == FIRST else (plan.second, out / BANK)
        begin = begin_of_second(plan, encoder, out / FIRST) if name == SECOND else encoder
        given = data.of_detector(index, bank)
        found[name] = finetune.prove(part, begin, given, out / name, steps, progress=progress)
    return found


def begin_of_second(plan: LongTerm, encoder: str, first: Path) -> str:
    """Return from what the second training begins, the first one's folder being ``first``."""
    return str(first) if plan.second_begins == "first" else encoder


class _Stages:
    """The three stages, each done unless its record says that it is, and its files agree."""

    def __init__(
        self, plan: LongTerm, data: LongTermData, index: Path, out: Path, progress: Progress
    ) -> None:
        self.plan, self.data, self.index, self.out = plan, data, index, out
        self.progress = progress
        self.done: dict[str, dict[str, Any]] = read_stages(out)
        self.done_now: list[str] = []

    def train(self, name: str, plan: Detection, begin: str, bank: Path | None) -> None:
        """Train a detector in the folder ``name``, or go on with it.

        Raises:
            CheckpointError: if it is recorded as finished, is damaged, and cannot be made again.
        """
        folder = self.out / name
        before = self.done.get(name)
        content = {} if bank is None else {"bank": Bank.open(bank).content_hash}
        if before is not None and before.get("bank") not in {None, content.get("bank")}:
            _require_removed(folder, before["bank"], content["bank"])
            before = None
        if before is not None and self._agreed(_detector_hash(folder) == before["hash"]):
            return
        data = self.data.of_detector(str(self.index), bank)
        result = finetune.run(plan, begin, data, folder, progress=self._telling(name))
        if rank() == 0 and before is not None and result.detector_hash != before["hash"]:
            raise CheckpointError(
                f"{folder}: detector {before['hash']} was damaged or lost, and what was made in "
                f"its place is {result.detector_hash}; what follows of it is in the way: begin "
                "again in another folder"
            )
        self._keep(name, {"hash": result.detector_hash, **content, "result": asdict(result)})

    def extract(self, *, retry: bool) -> None:
        """Write the bank, go on with it, or make its damaged shards again.

        With ``retry`` also those shards in which key frames failed, and those of absent videos.
        """
        folder = self.out / BANK
        wants_more = retry and (BANK not in self.done or _failed(self.done) > 0)
        if BANK in self.done and not wants_more and self._agreed(_is_whole(folder)):
            return
        result = extract_features.run(
            self.plan.extract,
            self.out / FIRST,
            str(self.index),
            self.data.boxes,
            folder,
            time_origin=self.data.time_origin,
            retry=wants_more,
            progress=self._telling(BANK),
        )
        record = {"hash": result.encoder_hash, "failures": list(result.failures)}
        self._keep(BANK, {**record, "result": asdict(result)})

    def _agreed(self, holds: bool) -> bool:
        """Return what the first process says, so that all do the same."""
        return gather_texts({"holds": str(holds)} if rank() == 0 else {})["holds"] == "True"

    def _keep(self, name: str, record: dict[str, Any]) -> None:
        """Write down what came of a stage, once every process is through with it."""
        wait_for_all()
        self.done[name] = json.loads(json.dumps(record, default=str))
        self.done_now.append(name)
        if rank() == 0:
            write_text(self.out / STAGES, json.dumps(self.done, indent=1) + "\n")

    def _telling(self, name: str) -> Progress:
        def tell(what: str, done: int, total: int) -> None:
            self.progress(f"{name}: {what}", done, total)

        return tell


def read_stages(out: Path) -> dict[str, dict[str, Any]]:
    """Return the records of the finished stages; a damaged file is no record."""
    try:
        found = json.loads((out / STAGES).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}


def _failed(done: Mapping[str, Any]) -> int:
    """Return how many of the bank's key frames, or videos, failed."""
    return int(done[BANK]["failures"][0])


def _is_between(out: Path) -> bool:
    """Whether no training is under way whose videos another look at them could change."""
    return FIRST in read_stages(out) and not (out / SECOND / IDENTITY).is_file()


def _require_unread(out: Path) -> None:
    """Refuse to change a bank that the second training reads.

    Raises:
        BankError: if it has begun, and another try could change the bank.
    """
    done = read_stages(out)
    if (out / SECOND / IDENTITY).is_file() and BANK in done and _failed(done):
        failed, expected, what = done[BANK]["failures"]
        raise BankError(
            f"--retry: {out / SECOND} is trained on {out / BANK} as it is, of which {failed} of "
            f"{expected} {what} failed; remove {out / SECOND} to have both made again"
        )


def _require_removed(folder: Path, was: str, now: str) -> None:
    """Refuse to go on with a detector that was trained on other rows than the bank's.

    Raises:
        CheckpointError: if it is there.
    """
    if (folder / IDENTITY).is_file():
        raise CheckpointError(
            f"{folder}: was trained on rows of a bank with the hash {was}; the bank there now has "
            f"{now}; remove {folder} to have it trained again"
        )


def _detector_hash(folder: Path) -> str:
    """Return the hash of a whole detector whose encoder is whole too, or nothing."""
    try:
        load_weights(folder, "encoder")
        return str(load_weights(folder, "detector")[0]["hash"])
    except CheckpointError:
        return ""


def _is_whole(folder: Path) -> bool:
    try:
        return not Bank.open(folder).verify()
    except BankError:
        return False


def require_sound(plan: LongTerm, encoder: str, data: LongTermData) -> None:
    """Refuse before anything is trained what a later stage would refuse after days."""
    labels = read_labels(data.labels)
    people = extract_features.people_of(plan.extract, data.boxes)
    for part in (plan.first, plan.second):
        trained = finetune.training_moments(data.of_detector(data.videos, None), labels, part)
        _require_people(people, trained, data)
    _require_rows(plan)
    beginning = [plan.first, *([plan.second] if plan.second_begins == "encoder" else [])]
    for part in beginning:
        if encoder != shared.RANDOM:
            name = "detector" if part.init == "detector" else "encoder"
            load_weights(Path(encoder), name)
            card, _ = load_weights(Path(encoder), "encoder")
            shared.check_encoder(card, part.backbone, encoder)
        elif (part.init, part.freeze) != ("encoder", "none"):
            raise CheckpointError(
                "--encoder random has nothing for init: detector or freeze: backbone to keep; "
                "give a run"
            )


def _require_people(
    people: Sequence[Moment] | None, trained: Sequence[Moment], data: LongTermData
) -> None:
    """Refuse boxes of other videos than those that are trained on."""
    names = {moment.video for moment in trained}
    if people is not None and names.isdisjoint(moment.video for moment in people):
        raise BankError(
            f"--boxes: {', '.join(map(str, data.boxes))}: nobody is in the {len(names)} videos of "
            f"{data.annotations}; give the boxes of the training videos too"
        )


def _require_rows(plan: LongTerm) -> None:
    """Refuse layers that the backbone does not have, and rows that the operator cannot read.

    Raises:
        RecipeError: if a layer is none.
        BankError: if the operator and the rows do not fit.
    """
    backbone, operator = plan.extract.backbone, plan.second.head.operator
    assert operator is not None
    with torch.random.fork_rng(devices=[]):  # weights are drawn, if only to be left
        rows = backbone.build()
        if plan.extract.layers:
            rows = Tapped(rows, plan.extract.layers, backbone.frames)
        with torch.device("meta"):
            operator.build(plan.second.backbone.build().features, rows.features)


@contextmanager
def _kept_once_begun(out: Path, folder: RunFolder) -> Iterator[None]:
    """Keep the folder if the first stage has begun; else leave no index behind in it."""
    had_index = (out / INDEX).exists()
    try:
        yield
    except VidsslError:
        if not (out / FIRST / IDENTITY).is_file() and not had_index and rank() == 0:
            (out / INDEX).unlink(missing_ok=True)
        raise
    finally:
        if (out / FIRST / IDENTITY).is_file():
            folder.keep()


def _identity(plan: LongTerm, encoder: str, data: LongTermData) -> dict[str, Any]:
    named = {
        key: [*map(str, value)] if isinstance(value, tuple) else str(value)
        for key, value in asdict(data).items()
        if value
    }
    if data.time_origin == "auto":
        del named["time_origin"]
    card = None if encoder == shared.RANDOM else load_weights(Path(encoder), "encoder")[0]
    return {
        "command": "long-term",
        "encoder": encoder,
        "encoder_hash": None if card is None else str(card["hash"]),
        "data": named,
        "recipe": plan.model_dump(mode="json"),
    }


def _terms() -> Terms:
    """Return on which terms it is gone on: as each stage by itself."""
    of_training = [f"recipe.{part}.{key}" for part in (FIRST, SECOND) for key in training.HARMLESS]
    of_bank = [f"recipe.extract.{key}" for key in extract_features.HARMLESS]
    return Terms((*of_training, *of_bank))
