"""A classifier that reads a feature bank: what it learns from it, and what does not fit."""

import csv
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from typer.testing import Result

from vidssl.augment.recognition import RecognitionConfig, side_crops
from vidssl.features import Bank, BankIdentity, BankRows, BankWriter
from vidssl.features.operators import BankWindow
from vidssl.jobs import _training as training
from vidssl.jobs import recognise
from vidssl.jobs._classifier import load_classifier
from vidssl.jobs.index import open_index
from vidssl.recipe import Extract, Recognition, find, load
from vidssl.recognition import scores
from vidssl.sources import read
from vidssl.train.folder import read_log
from vidssl.train.optim import schedule as rates
from vidssl.video.reader import open_reader
from vidssl.video.sampling import clip_times

Cli = Callable[..., Result]
Refused = Callable[..., str]

RECIPE = """\
task: recognition
backbone: {name: slow, width: 8, depths: [1, 1, 1, 1], frames: 4, stride: 4}
decode_short_side_px: 36
head:
  dropout: 0
  operator:
    {name: fbo_nl, width: 16, layers: 1, dropout: 0, window: {before_s: 2, after_s: 3, per_step: 1}}
augment: {crop_px: 32, short_side_px: [32, 36], test_short_side_px: 36, test_crop_px: 36}
optim: {optimizer: adamw, lr: 0.02, batch: 6, steps: 30}
loader: {workers: 0}
log_every: 1
"""
CLIPS = """\
task: extract
features: clip
rate: 1
backbone: {name: slow, width: 8, depths: [1, 1, 1, 1], frames: 4, stride: 4}
decode_short_side_px: 36
short_side_px: 32
loader: {workers: 0}
"""


@pytest.fixture(scope="module")
def recipe(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("recipe") / "bank.yaml"
    path.write_text(RECIPE)
    return path


@pytest.fixture(scope="module")
def moments(playground: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Twelve stretches of real videos as long as a clip; their classes are in the bank alone."""
    path = tmp_path_factory.mktemp("list") / "moments.csv"
    with path.open("w", newline="") as file:
        table = csv.writer(file)
        table.writerow(["path", "label", "start_s", "end_s"])
        for number, video in enumerate(sorted((playground / "videos").iterdir())):
            for n in range(3):
                label = "ab"[(number + n) % 2]
                table.writerow([video, label, 4 * n + 1, 4 * n + 1.401])
    return path


@pytest.fixture(scope="module")
def bank(playground: Path, moments: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A row a second, which tells the class of the stretch that begins two seconds later."""
    videos = sorted(path.stem for path in (playground / "videos").iterdir())
    with moments.open(newline="") as file:
        rows = list(csv.DictReader(file))
    truth = {(Path(row["path"]).stem, int(row["start_s"])): row["label"] for row in rows}
    rng = np.random.default_rng(0)
    seconds = np.arange(14.0)
    identity = BankIdentity("f00d", {"recipe": {"features": "clip", "rate": 1.0}})
    folder = tmp_path_factory.mktemp("bank") / "bank"
    writer = BankWriter(folder, dim=6, identity=identity, plan=[videos], kind="clip")
    features = 0.1 * rng.normal(size=(len(videos) * 14, 6))
    for number, video in enumerate(videos):
        for (name, start_s), label in truth.items():
            if name == video:
                features[14 * number + start_s - 1, 0] = 3.0 if label == "a" else -3.0
    many = len(videos)
    writer.write_shard(
        0,
        BankRows(
            [video for video in videos for _ in seconds],
            np.tile(seconds, many),
            np.tile([0.0, 0.0, 1.0, 1.0], (many * 14, 1)),
            np.ones(many * 14),
            features,
        ),
    )
    writer.close()
    return folder


@pytest.fixture(scope="module")
def run(
    cli: Cli, recipe: Path, moments: Path, bank: Path, tmp_path_factory: pytest.TempPathFactory
) -> Path:
    out = tmp_path_factory.mktemp("run") / "run"
    command = ("finetune", recipe, "--encoder", "random", "--videos", moments, "--bank", bank)
    result = cli(*command, "--out", out)
    assert result.exit_code == 0, result.output
    return out


def test_it_learns_what_only_the_bank_tells(
    run: Path, cli: Cli, recipe: Path, moments: Path, tmp_path: Path
) -> None:
    with_bank = np.mean([entry["top1"] for entry in read_log(run)[-4:]])
    without = ("--set", "head.operator=null")
    command = ("finetune", recipe, "--encoder", "random", "--videos", moments, *without)
    assert cli(*command, "--out", tmp_path / "run").exit_code == 0
    alone = np.mean([entry["top1"] for entry in read_log(tmp_path / "run")[-4:]])
    assert with_bank > 0.9
    assert alone < with_bank


def test_the_classifier_says_how_it_reads_which_bank(run: Path, bank: Path) -> None:
    card = json.loads((run / "classifier.json").read_text())
    assert card["bank"] == {
        "encoder": "f00d",
        "dim": 6,
        "made_by": {"kind": "clip", "decoder": "", "features": "clip"},
    }
    assert card["operator"]["name"] == "fbo_nl"
    trained = load_classifier(run)
    assert trained.operator is not None
    assert trained.operator.window.before_s == 2
    width = trained.classifier.encoder.features
    assert trained.classifier.classifier.in_features == width + 16


def test_the_window_is_centred_on_each_clip(
    recipe: Path, moments: Path, bank: Path, tmp_path: Path
) -> None:
    plan = load(Recognition, recipe, ["sampling.clips=2", "head.operator={name: fbo_avg, "
        "window: {before_s: 1, after_s: 2, per_step: 1}}"])  # fmt: skip
    listing = read(str(moments))
    data = recognise._data(plan, listing, open_index(str(moments), tmp_path / "i.parquet"))
    reader = Bank.open(bank)
    module = recognise._initial(plan, "random", data.learnt, reader)
    trainer = training.trainer(module, plan, len(data.learnt))
    clips = recognise._clips(plan, data)
    samples = [clips[position] for position in range(4)]
    batch = recognise._preparation(plan, trainer, reader)(samples, 0)
    assert batch.window is not None
    assert batch.window.features.shape == (8, 3, 6)
    # The first clips of all samples, then the second ones; a clip lasts 0.4 s.
    order = [(sample, view) for view in (0, 1) for sample in samples]
    for row, (sample, view) in enumerate(order):
        times_s = sample.clip.times_s[view]
        middle_s = float(times_s[0] + times_s[-1]) / 2
        offsets = batch.window.offset_s[row][batch.window.mask[row]]
        expected = [s - middle_s for s in range(14) if -1.5 <= s - middle_s < 1.5]
        assert offsets.tolist() == pytest.approx(expected, abs=1e-5)


def test_a_trained_classifier_s_own_columns_come_along_and_the_rest_starts_fresh(
    cli: Cli, recipe: Path, moments: Path, bank: Path, tmp_path: Path
) -> None:
    command = ("finetune", recipe, "--videos", moments)
    plain, second = tmp_path / "plain", tmp_path / "second"
    alone = ("--encoder", "random", "--set", "head.operator=null", "--steps", 3)
    assert cli(*command, *alone, "--out", plain).exit_code == 0
    # As on Charades: the first one's weights, its backbone frozen.
    changes = ("init=classifier", "freeze=backbone")
    words = [word for change in changes for word in ("--set", change)]
    begun = ("--encoder", plain, "--bank", bank, *words, "--steps", 1, "--set", "optim.lr=1e-9")
    result = cli(*command, *begun, "--out", second)
    assert result.exit_code == 0, result.output
    before, after = (load_classifier(folder).classifier for folder in (plain, second))
    width = before.encoder.features
    torch.testing.assert_close(
        after.classifier.weight[:, :width], before.classifier.weight, rtol=0, atol=1e-6
    )
    torch.testing.assert_close(after.classifier.bias, before.classifier.bias, rtol=0, atol=1e-6)
    for name, value in before.encoder.state_dict().items():
        assert torch.equal(after.encoder.state_dict()[name], value)
    assert after.classifier.weight[:, width:].abs().max() > 0


def test_a_bank_of_clips_is_made_and_read(
    cli: Cli, recipe: Path, moments: Path, playground: Path, tmp_path: Path
) -> None:
    """The whole path: a classifier, the bank of its encoder, a classifier that reads it."""
    (tmp_path / "clips.yaml").write_text(CLIPS)
    plain = tmp_path / "plain"
    command = ("finetune", recipe, "--encoder", "random", "--videos", moments, "--steps", 1)
    assert cli(*command, "--set", "head.operator=null", "--out", plain).exit_code == 0
    made = cli(
        *("extract-features", tmp_path / "clips.yaml", "--encoder", plain),
        *("--videos", playground / "videos", "--out", tmp_path / "bank"),
    )
    assert made.exit_code == 0, made.output
    second = cli(*command, "--bank", tmp_path / "bank", "--out", tmp_path / "second")
    assert second.exit_code == 0, second.output


def test_a_run_is_known_by_the_rows_that_it_reads(run: Path, bank: Path) -> None:
    identity = json.loads((run / "run.json").read_text())
    assert identity["bank_content"]["sha256"] == Bank.open(bank).content_hash
    assert identity["bank_content"]["rows"] == len(Bank.open(bank))


# --- its test


@pytest.fixture
def evaluate(cli: Cli, run: Path, moments: Path, tmp_path: Path) -> Callable[..., Result]:
    copy = Path(shutil.copytree(run, tmp_path / "copy"))
    command = ("eval-kinetics", "--checkpoint", copy, "--videos", moments, "--workers", 0)
    return lambda *more: cli(*command, *more)


def told_of(result: Result) -> dict[str, Any]:
    assert result.exit_code == 0, result.output
    found: dict[str, Any] = json.loads(result.stdout)
    return found


def test_what_it_knows_from_the_bank_it_shows_in_a_test_and_not_without(
    evaluate: Callable[..., Result], bank: Path
) -> None:
    one = ("--views", "1x1", "--bank", bank, "--json", "-")
    told, emptied = told_of(evaluate(*one)), told_of(evaluate(*one, "--empty-bank"))
    assert told["top1"] > 0.9
    assert emptied["top1"] < told["top1"] - 0.2
    assert told["protocol"]["bank_encoder"] == "f00d"
    assert (told["protocol"]["bank_emptied"], emptied["protocol"]["bank_emptied"]) == (False, True)
    assert told["scores"] != emptied["scores"]  # each in a folder of its own


def test_each_clip_of_a_test_asks_its_own_window(
    evaluate: Callable[..., Result], run: Path, bank: Path, moments: Path
) -> None:
    told = told_of(evaluate("--views", "2x3", "--bank", bank, "--batch", 6, "--json", "-"))
    found = scores.read(Path(told["scores"][0]))
    network, reader = load_classifier(run).classifier.eval(), Bank.open(bank)
    with moments.open(newline="") as file:
        rows = list(csv.DictReader(file))
    crops = RecognitionConfig(crop_px=1, short_side_px=None, test_short_side_px=36, test_crop_px=36)
    for number in (0, 4):
        start_s = float(rows[number]["start_s"])
        views = []
        for _ in range(2):  # a stretch as long as a clip: both clips are the same one
            times_s = clip_times(0.0, 4, 4, "stride") + start_s
            with open_reader(rows[number]["path"]) as video:
                clip = video.frames_at(times_s, 36)
            middle_s = float(clip.times_s[0] + clip.times_s[-1]) / 2
            window = reader.window(
                Path(rows[number]["path"]).stem, middle_s,
                before_s=2, after_s=3, per_step=1, pick="random", seed=0,
            )  # fmt: skip
            parts = (torch.from_numpy(part)[None] for part in vars(window).values())
            features, offset_s, mask = parts
            seen = BankWindow(features, mask, offset_s)
            for crop in side_crops(
                torch.from_numpy(clip.frames), crops, ("left", "centre", "right")
            ):
                with torch.no_grad():
                    views.append(network(crop[None], seen)[0].softmax(dim=0))
        expected = torch.stack(views).double().mean(dim=0)
        np.testing.assert_allclose(found.scores[number], expected.numpy(), atol=1e-5)


def test_another_bank_or_none_is_refused_in_a_test(
    evaluate: Callable[..., Result], bank: Path, tmp_path: Path
) -> None:
    result = evaluate()
    assert result.exit_code == 2
    assert "reads a feature bank: give one with --bank" in result.stderr
    shutil.copytree(bank, tmp_path / "other")
    manifest = tmp_path / "other" / "bank.json"
    manifest.write_text(manifest.read_text().replace('"features": "clip"', '"features": "grid"'))
    result = evaluate("--bank", tmp_path / "other")
    assert result.exit_code == 2
    assert "was made in another way than the classifier's bank" in result.stderr
    assert "features: 'grid' in the bank, 'clip' in the one it was trained with" in result.stderr


# --- what is refused


@pytest.fixture
def finetune(refused: Refused, recipe: Path, moments: Path) -> Refused:
    command = ("finetune", recipe, "--encoder", "random", "--videos", moments, "--out", "run")
    return lambda *more: refused(*command, *more)


def test_a_bank_is_given_exactly_if_the_head_reads_one(finetune: Refused, bank: Path) -> None:
    assert "the recipe's head reads a feature bank: give one with --bank" in finetune()
    told = finetune("--bank", bank, "--set", "head.operator=null")
    assert f"{bank}: the recipe's head has no operator to read a bank with" in told


def test_a_bank_without_the_videos_is_refused_with_their_names(
    finetune: Refused, bank: Path, moments: Path, tmp_path: Path
) -> None:
    other = tmp_path / "other.csv"
    video = Path(moments.read_text().splitlines()[1].split(",")[0])
    shutil.copy(video, tmp_path / "stranger.mp4")
    text = moments.read_text() + f"{tmp_path / 'stranger.mp4'},a,0,1\n"
    other.write_text(text.replace("\r\n", "\n"))
    told = finetune("--videos", other, "--bank", bank)
    assert "bank: lacks 1 of the 5 videos" in told
    assert "stranger" in told


def test_what_does_not_go_with_a_bank_is_refused(finetune: Refused, bank: Path) -> None:
    told = finetune("--bank", bank, "--set", "augment.mixup=0.8")
    assert "mix clips of two videos, head.operator reads the bank of one" in told
    told = finetune("--bank", bank, "--set", "head.scaling=batch")
    assert "changes the features with which head.operator asks a bank" in told


def test_the_run_of_another_bank_is_refused(
    finetune: Refused, run: Path, bank: Path, tmp_path: Path
) -> None:
    shutil.copytree(run, tmp_path / "run")
    shutil.copytree(bank, tmp_path / "other")
    manifest = tmp_path / "other" / "bank.json"
    manifest.write_text(manifest.read_text().replace("f00d", "beef"))
    told = finetune("--bank", tmp_path / "other")
    assert 'bank_encoder: "f00d" there, "beef" asked' in told


# --- the published settings


@pytest.mark.parametrize(
    ("name", "rows", "steps", "rate", "operator"),
    [
        ("epic_verb_lfb", 40, (28_000, 4_000, 4_000), 1e-3, "fbo_max"),
        ("epic_noun_lfb", 120, (40_000, 5_000, 5_000), 3e-4, "fbo_max"),
        ("charades_lfb", 20, (10_000, 2_000), 0.02, "fbo_nl"),
        ("charades_i3d", 0, (20_000, 4_000), 0.02, None),
    ],
)
def test_a_bundled_recipe_has_the_papers_window_and_schedule(
    name: str, rows: int, steps: tuple[int, ...], rate: float, operator: str | None
) -> None:
    plan = load(Recognition, find(Recognition, name))
    assert (plan.optim.steps, plan.optim.lr, plan.optim.batch) == (sum(steps), rate, 16)
    schedule = rates(plan.optim)
    found = [schedule(step / sum(steps)) for step in range(0, sum(steps), 100)]
    expected = [rate * 0.1**n for n, part in enumerate(steps) for _ in range(part // 100)]
    assert found == pytest.approx(expected)
    if plan.head.operator is None:
        assert operator is None
        return
    window = plan.head.operator.window
    assert (window.before_s + window.after_s) * window.per_step == rows
    assert plan.head.operator.name == operator


def test_the_bank_and_its_reader_see_with_the_same_network() -> None:
    for extract, reader in (
        ("i3d_nl_epic", "epic_verb_lfb"),
        ("i3d_nl_epic_objects", "epic_noun_lfb"),
        ("i3d_nl_charades", "charades_lfb"),
    ):
        bank = load(Extract, find(Extract, extract))
        assert bank.backbone == load(Recognition, find(Recognition, reader)).backbone
        baseline = {"epic_verb_lfb": "epic_verb", "epic_noun_lfb": "epic_noun"}
        before = baseline.get(reader, "charades_i3d")
        assert bank.backbone == load(Recognition, find(Recognition, before)).backbone
