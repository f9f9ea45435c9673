"""Recipes: one self-contained YAML file becomes one frozen, closed object.

The file's name is the registry: ``method: {name: moco}`` is validated by ``vidssl.methods.moco``'s
``Config``. Unknown keys, repeated keys and values out of range are refused, all at once.
"""

import importlib.resources
import json
import re
from collections.abc import Hashable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal, Self, TypeVar

import yaml
from pydantic import (
    BeforeValidator,
    Field,
    NonNegativeInt,
    PositiveFloat,
    PositiveInt,
    SerializeAsAny,
    ValidationError,
    model_validator,
)
from pydantic_core import ErrorDetails

from vidssl.augment.recognition import RecognitionConfig
from vidssl.augment.views import DetectionConfig, SSLConfig
from vidssl.backbones import BackboneConfig
from vidssl.data.clips import SamplingConfig
from vidssl.data.labelled import LabelledSampling, LabelsConfig
from vidssl.data.loader import LoaderConfig
from vidssl.detection.detector import HeadConfig
from vidssl.errors import RecipeError, listed, nearest
from vidssl.methods import MethodConfig
from vidssl.recognition import recogniser
from vidssl.section import NestedError, Section, choose
from vidssl.train.optim import OptimConfig
from vidssl.train.trainer import Precision
from vidssl.video.reader import Decoder

TASKS = ("pretrain", "detection", "recognition", "extract", "long_term")
VERSION = 1
"""Of the format. A new key's default does what was done before there was the key; where that cannot
be, or a key means something else, the version grows and :func:`load` translates older ones."""


Backbone = Annotated[
    SerializeAsAny[BackboneConfig], BeforeValidator(partial(choose, "vidssl.backbones"))
]
Method = Annotated[SerializeAsAny[MethodConfig], BeforeValidator(partial(choose, "vidssl.methods"))]


class FaultConfig(Section):
    """What is done about a loss, gradient or weight that is no number."""

    rollbacks: NonNegativeInt = 3
    """How often a training goes back a little and leaves the steps since out, before it gives up;
    counted anew after ``save_every`` good steps."""
    snapshot_every: PositiveInt = 100
    """Steps from one copy of the state in memory to the next: at most what going back costs."""


class RecipeFile(Section):
    """What every file of a recipe has."""

    folder: ClassVar[str]
    version: Literal[1] = Field(default=1, exclude=True)
    """Of the format, not of what is trained: two recipes that differ in it alone are the same."""


class Recipe(RecipeFile):
    """What the recipe of one network has."""

    seed: Annotated[int, Field(ge=0, lt=2**31)] = 0
    device: Literal["auto", "cpu"] = "auto"
    """``auto`` takes the GPU where there is one."""
    precision: Precision = "auto"
    """Of the training: ``auto`` computes in bfloat16 on a GPU that is made for it; ``fp16`` scales
    the loss."""
    compile: bool = False
    """Whether the backbone is compiled for training: faster steps after a minute or two."""
    faults: FaultConfig = FaultConfig()
    backbone: Backbone
    loader: LoaderConfig = LoaderConfig()
    decode_short_side_px: PositiveInt | None = None
    """Shrink frames to this short side as they are decoded; null keeps their size."""
    decoder: Decoder = "auto"
    """``auto`` is PyAV; torchcodec and decord refuse what they would read wrongly."""


class MonitorConfig(Section):
    """A few fixed videos on which a pretraining is watched, two clips of each.

    Logged are ``knn_video``, the share of clips whose nearest neighbour is the other clip of their
    video, and where the source knows classes ``knn_class``, by the nearest clips of other videos.
    """

    videos: NonNegativeInt = 64
    """How many; 0 does not look."""
    every: PositiveInt = 500
    """Steps from one look to the next; the first and the last step are looked at besides."""


class Pretrain(Recipe):
    """Self-supervised pretraining."""

    folder: ClassVar[str] = "pretrain"
    task: Literal["pretrain"]
    method: Method
    sampling: SamplingConfig = SamplingConfig()
    augment: SSLConfig = SSLConfig()
    optim: OptimConfig
    monitor: MonitorConfig = MonitorConfig()
    log_every: PositiveInt = 10
    save_every: PositiveInt = 500

    @model_validator(mode="after")
    def _backbone_takes_the_clips(self) -> Self:
        self.backbone.require_side(self.augment.crop_px, "augment.crop_px")
        self.backbone.require_batch(self.optim.batch)
        return self

    @model_validator(mode="after")
    def _changes_are_taken_once(self) -> Self:
        views = range(len(self.augment.views) + 1)
        if self.backbone.sees == "changes" and any(self.augment.of(v).difference for v in views):
            raise ValueError(
                "augment.difference must be 0 where backbone.sees is changes, or what changes in "
                "the changes is seen"
            )
        return self

    @model_validator(mode="after")
    def _method_takes_the_clips(self) -> Self:
        self.method.require_batch(self.optim.batch)
        wanted = self.method.starts
        if self.sampling.starts not in wanted:
            name, found = self.method.name, self.sampling.starts
            raise ValueError(
                f"sampling.starts: {name} trains on clips drawn as {' or '.join(wanted)}, "
                f"found {found}"
            )
        return self


class DetectionBoxes(Section):
    """Which boxes a detector is trained and tested on."""

    train_iou: Annotated[float, Field(ge=0.0, le=1.0)] = 0.9
    """Detector boxes that overlap a true box at least this much are trained on as well."""
    train_min_score: Annotated[float, Field(ge=0.0, le=1.0)] = 0.8
    test_min_score: Annotated[float, Field(ge=0.0, le=1.0)] = 0.8
    negatives: bool = False
    """Whether detector boxes that miss every true box are trained on too, as doing nothing."""
    negative_iou: Annotated[float, Field(ge=0.0, le=1.0)] = 0.5
    """Such boxes overlap each true one less than this; between it and ``train_iou`` none are
    trained on. How the published lists drew the line is not known; at 0.5 a box counts as found."""

    @model_validator(mode="after")
    def _nothing_is_both(self) -> Self:
        if self.negatives and self.negative_iou > self.train_iou:
            raise ValueError(
                f"negative_iou {self.negative_iou:g} is above train_iou {self.train_iou:g}: boxes "
                "between them would do something and nothing"
            )
        return self


class Detection(Recipe):
    """Training of an action detector."""

    folder: ClassVar[str] = "detection"
    task: Literal["detection"]
    head: HeadConfig = HeadConfig()
    boxes: DetectionBoxes = DetectionBoxes()
    augment: DetectionConfig = DetectionConfig()
    optim: OptimConfig
    init: Literal["encoder", "detector"] = "encoder"
    """``encoder`` starts with a fresh head; ``detector`` takes the head's common part as well."""
    freeze: Literal["none", "backbone"] = "none"
    log_every: PositiveInt = 10
    save_every: PositiveInt = 500

    @model_validator(mode="after")
    def _backbone_takes_the_clips(self) -> Self:
        self.backbone.require_side(self.augment.crop_px, "augment.crop_px")
        self.backbone.require_side(self.augment.test_short_side_px, "augment.test_short_side_px")
        if self.freeze == "none":
            self.backbone.require_batch(self.optim.batch)
        return self


class Recognition(Recipe):
    """Training of a classifier of clips: fine-tuning, a linear probe, or a share of the labels."""

    folder: ClassVar[str] = "recognition"
    task: Literal["recognition"]
    head: recogniser.HeadConfig = recogniser.HeadConfig()
    labels: LabelsConfig = LabelsConfig()
    sampling: LabelledSampling = LabelledSampling()
    augment: RecognitionConfig = RecognitionConfig()
    optim: OptimConfig
    init: Literal["encoder", "classifier"] = "encoder"
    """``encoder`` starts with a fresh head; ``classifier`` goes on from that of a run."""
    freeze: recogniser.Freeze = "none"
    """``backbone``: its weights and BatchNorm's statistics stay; ``backbone_train_bn``: its weights
    stay, BatchNorm normalises by each batch and its statistics adapt. Both are called linear."""
    log_every: PositiveInt = 10
    save_every: PositiveInt = 500

    @model_validator(mode="after")
    def _backbone_takes_the_clips(self) -> Self:
        self.backbone.require_side(self.augment.crop_px, "augment.crop_px")
        self.backbone.require_side(self.augment.test_crop_px, "augment.test_crop_px")
        if self.freeze != "backbone":
            self.backbone.require_batch(self.optim.batch)
        return self

    @model_validator(mode="after")
    def _parts_agree(self) -> Self:
        if self.freeze != "none" and self.optim.precise_bn:
            raise ValueError(
                "optim.precise_bn takes BatchNorm's statistics anew, which freeze: "
                f"{self.freeze} decides on"
            )
        if self.head.operator is not None:
            self._require_reader()
        if self.sampling.samples == "videos" and self.head.loss == "softmax":
            raise ValueError(
                "sampling.samples: videos gives a clip any number of classes, which is for "
                "head.loss: sigmoid"
            )
        return self

    def _require_reader(self) -> None:
        """Refuse what a bank cannot be read with."""
        if self.head.scaling != "none":
            raise ValueError(
                f"head.scaling: {self.head.scaling} changes the features with which head.operator "
                "asks a bank; expected none"
            )
        if self.augment.mixup or self.augment.cutmix:
            raise ValueError(
                "augment.mixup and augment.cutmix mix clips of two videos, head.operator reads the "
                "bank of one"
            )


class Extract(Recipe):
    """Extraction of a long-term feature bank."""

    folder: ClassVar[str] = "extract"
    task: Literal["extract"]
    features: Literal["box", "clip", "grid"] = "box"
    """Of what: each person's box, the whole clip, or ``grid`` x ``grid`` equal cells of it."""
    rate: PositiveFloat = 1.0
    """Clips a second of video; boxes come with times of their own."""
    grid: PositiveInt = 2
    pooling: Literal["max", "mean"] | None = None
    """Over the map's cells; null is the papers': the maximum of a box, the mean of clip and grid.
    Over time it is the mean."""
    layers: tuple[str, ...] = ()
    """Whose maps, joined, as PyTorch names them (``trunk.res4``); none is the last map."""
    short_side_px: PositiveInt = 256
    roi_resolution: PositiveInt = 7
    aligned: bool = True
    """As the detector's ``head.aligned``, whose features the bank is to hold."""
    min_score: Annotated[float, Field(ge=0.0, le=1.0)] = 0.9
    """Boxes below this detector score are left out."""
    batch: PositiveInt = 8
    """Key frames in one forward pass."""
    videos_per_shard: PositiveInt = 8

    @property
    def side(self) -> int:
        """Cells a side: a clip is a grid of one."""
        return 1 if self.features == "clip" else self.grid

    @model_validator(mode="after")
    def _backbone_takes_the_clips(self) -> Self:
        self.backbone.require_side(self.short_side_px, "short_side_px")
        return self


class LongTerm(RecipeFile):
    """The two models of a long-term feature bank: one that it is made with, one that reads it."""

    folder: ClassVar[str] = "long_term"
    task: Literal["long_term"]
    first: Detection
    extract: Extract
    second: Detection
    second_begins: Literal["encoder", "first"] = "encoder"
    """From what: the weights that the first began from, as published for AVA and EPIC, or those
    that the first ended with, as published for Charades."""

    @model_validator(mode="after")
    def _one_makes_the_bank_and_the_other_reads_it(self) -> Self:
        if self.first.head.operator is not None:
            raise ValueError("first.head.operator: there is no bank yet that it could read")
        if self.second.head.operator is None:
            raise ValueError("second.head.operator: missing; it reads the bank of the first")
        return self

    @model_validator(mode="after")
    def _weights_fit(self) -> Self:
        first = self.first.backbone.geometry_free()
        readers = {"extract": self.extract.backbone}
        if self.second_begins == "first":
            readers["second"] = self.second.backbone
        differences = [
            f"{name}.backbone.{key}: {there.get(key)} does not fit first.backbone's {first[key]}"
            for name, config in readers.items()
            for there in [config.geometry_free()]
            for key in first
            if there.get(key) != first[key]
        ]
        if self.extract.backbone.sees != self.first.backbone.sees:
            differences.append(
                f"extract.backbone.sees: {self.extract.backbone.sees} does not fit "
                f"first.backbone's {self.first.backbone.sees}"
            )
        if differences:
            raise ValueError("; ".join(differences))
        return self


Kind = TypeVar("Kind", bound=RecipeFile)


def bundled(kind: type[RecipeFile]) -> dict[str, Path]:
    """Return the bundled recipes of one kind by name."""
    root = Path(str(importlib.resources.files("vidssl_recipes"))) / kind.folder
    return {path.stem: path for path in sorted(root.glob("*.yaml"))}


def find(kind: type[RecipeFile], name: str) -> Path:
    """Return the file of a bundled recipe's name, or the file that ``name`` is the path of.

    Raises:
        RecipeError: if there is neither.
    """
    recipes = bundled(kind)
    if name in recipes:
        return recipes[name]
    path = Path(name)
    if path.is_file():
        return path
    if path.suffix in {".yaml", ".yml"} or path.parent != Path():
        files = [p.name for p in path.parent.glob("*")]
        raise RecipeError(f"{path}: no such recipe file{nearest(path.name, files)}")
    choices = ", ".join(recipes) or "none"
    raise RecipeError(
        f"no {kind.folder} recipe {name!r}{nearest(name, recipes)} (choices: {choices}, or a file)"
    )


def find_any(kinds: Sequence[type[RecipeFile]], name: str) -> Path:
    """Return as :func:`find` does the file of a bundled recipe of one of several kinds, or a file.

    Raises:
        RecipeError: if there is neither.
    """
    for kind in kinds:
        if name in bundled(kind):
            return bundled(kind)[name]
    if Path(name).is_file() or Path(name).suffix or Path(name).parent != Path():
        return find(kinds[0], name)
    recipes = [name for kind in kinds for name in bundled(kind)]
    folders = " or ".join(kind.folder for kind in kinds)
    raise RecipeError(
        f"no {folders} recipe {name!r}{nearest(name, recipes)} (choices: {', '.join(recipes)}, or "
        "a file)"
    )


def load(kind: type[Kind], path: Path, overrides: Sequence[str] = ()) -> Kind:
    """Return the recipe at ``path`` with ``key.path=value`` overrides, values read as YAML.

    Raises:
        RecipeError: with every problem of the file and of the overrides.
    """
    return load_any((kind,), path, overrides)


def load_any(kinds: Sequence[type[Kind]], path: Path, overrides: Sequence[str] = ()) -> Kind:
    """Return the recipe at ``path`` as the one of ``kinds`` whose task it has; else as the first.

    Raises:
        RecipeError: with every problem of the file and of the overrides.
    """
    values = _values(path, overrides)
    task, folders = values.get("task"), [kind.folder for kind in kinds]
    if task in TASKS and task not in folders:
        expected = " or ".join(map(_a, folders))
        raise RecipeError(f"{path}: is {_a(task)} recipe; expected {expected} recipe")
    kind = kinds[folders.index(task)] if task in folders else kinds[0]
    return validate(kind, values, str(path))


def _values(path: Path, overrides: Sequence[str]) -> dict[str, Any]:
    """Return what a file says, with the overrides."""
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise RecipeError(f"{path}: cannot be read as a text file ({error})") from error
    values = parse(text, str(path))
    if not isinstance(values, dict):
        found = {type(None): "nothing", list: "a list"}.get(type(values), "a single value")
        raise RecipeError(f"{path}: expected keys and values, found {found}")
    for override in overrides:
        _override(values, override)
    return values


def validate(kind: type[Kind], values: dict[str, Any], where: str) -> Kind:
    """Return the recipe with the given values.

    Raises:
        RecipeError: with every problem, by its dotted key.
    """
    version = values.get("version", VERSION)
    if type(version) is int and version > VERSION:  # whatever else seems wrong follows from it
        raise RecipeError(
            f"{where}: version {version} was written by a newer vidssl; this one reads recipes of "
            f"version {VERSION}"
        )
    try:
        return kind.model_validate(values)
    except ValidationError as error:
        title = f"{where} is not a valid {kind.folder} recipe"
        raise RecipeError(listed(title, list(_problems(error, kind)))) from error


def dump(recipe: RecipeFile) -> str:
    """Return the resolved recipe as YAML that loads to an equal recipe."""
    values = {"version": recipe.version, **recipe.model_dump(mode="json")}
    return yaml.safe_dump(values, sort_keys=False)


def backbone_from(card: dict[str, Any], where: str) -> BackboneConfig:
    """Return the backbone that a weights' card describes.

    Raises:
        RecipeError: if this version does not know it.
    """
    try:
        config: BackboneConfig = choose("vidssl.backbones", card.get("backbone"))
    except NestedError as error:
        problems = list(_problems(error.error, error.config, "backbone"))
        raise RecipeError(listed(f"{where}: describes an unknown backbone", problems)) from error
    except ValueError as error:
        raise RecipeError(f"{where}: describes an unknown backbone: {error}") from error
    if not isinstance(config, BackboneConfig):
        raise RecipeError(f"{where}: describes no backbone")
    return config


# --- reading YAML: no tags, no repeated keys, and 1e-3 is a number


class _Loader(yaml.SafeLoader):
    """The safe loader, which builds plain values only, made strict."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Hashable, Any]:
        """Refuse a key that stands twice, which PyYAML would silently overwrite."""
        seen: dict[Any, yaml.Mark] = {}
        for key_node, _ in node.value:
            key = self.construct_object(key_node, deep=True)
            mark = key_node.start_mark
            if not isinstance(key, Hashable):
                raise yaml.constructor.ConstructorError(None, None, "a key must be a word", mark)
            if key in seen:
                raise yaml.constructor.ConstructorError(
                    None,
                    None,
                    f"key {key!r} stands twice (first on line {seen[key].line + 1})",
                    mark,
                )
            seen[key] = mark
        return super().construct_mapping(node, deep)


# The copy keeps the resolver of the safe loader itself as it is. YAML 1.1 reads 1e-3 as a string.
_Loader.yaml_implicit_resolvers = {k: list(v) for k, v in _Loader.yaml_implicit_resolvers.items()}
_Loader.add_implicit_resolver(
    "tag:yaml.org,2002:float",
    re.compile(r"^[-+]?(\d+(\.\d*)?|\.\d+)[eE][-+]?\d+$"),
    list("-+0123456789."),
)


def parse(text: str, where: str) -> Any:
    """Return what a text in YAML says: plain values only.

    Raises:
        RecipeError: with the place, if it is no YAML or a key stands twice.
    """
    try:
        return yaml.load(text, _Loader)
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark
        at = f":{mark.line + 1}:{mark.column + 1}" if mark else ""
        raise RecipeError(f"{where}{at}: {error.problem or error}") from error
    except yaml.YAMLError as error:
        raise RecipeError(f"{where}: not YAML: {error}") from error


def parse_texts(text: str) -> Any:
    """Return what a stranger's text in YAML says, every value a text, or None if it is no YAML.

    Making numbers and dates of texts raises whatever it likes, and merged keys grow without bound.
    """
    try:
        return yaml.load(text, yaml.BaseLoader)
    except (yaml.YAMLError, RecursionError):
        return None


def _override(values: dict[str, Any], override: str) -> None:
    """Set ``a.b=1`` in nested values."""
    key, equals, text = override.partition("=")
    if not equals or not key:
        raise RecipeError(f"--set {override}: expected KEY=VALUE, such as optim.lr=0.1")
    *parents, last = key.split(".")
    place = values
    for parent in parents:
        if place.get(parent) is None:
            place[parent] = {}
        place = place[parent]
        if not isinstance(place, dict):
            raise RecipeError(f"--set {override}: {parent} holds a value, not further keys")
    place[last] = parse(text, f"--set {override}")


# --- messages


def _a(task: str) -> str:
    return f"an {task}" if task[0] in "aeiou" else f"a {task}"


def _problems(error: ValidationError, kind: type[Section], at: str = "") -> Iterator[str]:
    """Give one line a problem, nested configs included."""
    for detail in error.errors():
        key = ".".join([*([at] if at else []), *(str(part) for part in detail["loc"])])
        cause = detail.get("ctx", {}).get("error")
        if isinstance(cause, NestedError):
            yield from _problems(cause.error, cause.config, key)
        else:
            yield f"{key or 'recipe'}: {_words(detail, kind)}"


def _words(detail: ErrorDetails, kind: type[Section]) -> str:
    if detail["type"] == "missing":
        return "missing"
    if detail["type"] == "extra_forbidden":
        return f"unknown key{_nearest_key(detail, kind)}"
    message = detail["msg"].removeprefix("Value error, ").removeprefix("Input ")
    given = detail["input"]
    if isinstance(given, (str, int, float, bool)) or given is None:
        return f"{message}, found {json.dumps(given)}"
    return message


def _nearest_key(detail: ErrorDetails, kind: type[Section]) -> str:
    """Return the hint for an unknown key from the fields of the section that it stands in."""
    section: Any = kind
    for part in detail["loc"][:-1]:
        field = getattr(section, "model_fields", {}).get(part)
        section = _section_in(field.annotation) if field else None
    return nearest(str(detail["loc"][-1]), getattr(section, "model_fields", {}))


def _section_in(annotation: Any) -> Any:
    """Return the section among the parts of an annotation such as ``Section | None``."""
    for part in (annotation, *getattr(annotation, "__args__", ())):
        if isinstance(part, type) and issubclass(part, Section):
            return part
    return None
