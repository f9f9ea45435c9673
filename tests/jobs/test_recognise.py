"""``vidssl finetune`` with a recognition recipe, from the user's side, and what it learns."""

import csv
import json
import math
import shutil
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from typer.testing import Result

from vidssl.data.labelled import LabelledSample
from vidssl.errors import Interrupted, SourceError
from vidssl.jobs import _training as training
from vidssl.jobs import recognise as job
from vidssl.jobs._classifier import load_classifier
from vidssl.jobs.index import open_index
from vidssl.recipe import Recognition, load
from vidssl.sources import read
from vidssl.train.folder import read_events, read_log
from vidssl.train.trainer import Trainer
from vidssl.train.weights import load_weights

Cli = Callable[..., Result]
Refused = Callable[..., str]

RECIPE = """\
task: recognition
backbone: {name: slow, width: 8, depths: [1, 1, 1, 1], frames: 4, stride: 4}
decode_short_side_px: 36
head: {dropout: 0}
augment: {crop_px: 32, short_side_px: [32, 36], test_short_side_px: 36, test_crop_px: 36}
optim: {lr: 0.05, batch: 4, steps: 4}
loader: {workers: 0}
log_every: 1
"""


@pytest.fixture(scope="module")
def recipe(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("recipe") / "tiny.yaml"
    path.write_text(RECIPE)
    return path


@pytest.fixture(scope="module")
def folders(playground: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two class folders of two real videos each."""
    root = tmp_path_factory.mktemp("classes")
    for number, video in enumerate(sorted((playground / "videos").iterdir())):
        (root / ("left", "right")[number % 2]).mkdir(exist_ok=True)
        shutil.copy(video, root / ("left", "right")[number % 2])
    return root


@pytest.fixture(scope="module")
def sixteen(playground: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Sixteen stretches of real videos, as long as a clip, of four classes by lot."""
    path = tmp_path_factory.mktemp("list") / "sixteen.csv"
    with path.open("w", newline="") as file:
        table = csv.writer(file)
        table.writerow(["path", "label", "start_s", "end_s"])
        for number, video in enumerate(sorted((playground / "videos").iterdir())):
            for n in range(4):
                label = "abcd"[(number * 3 + n * n) % 4]
                table.writerow([video, label, 3 * n, 3 * n + 0.401])
    return path


@pytest.fixture(scope="module")
def classifier(
    cli: Cli, recipe: Path, folders: Path, tmp_path_factory: pytest.TempPathFactory
) -> Path:
    """A finished run."""
    out = tmp_path_factory.mktemp("classifier") / "run"
    command = ("finetune", recipe, "--encoder", "random", "--videos", f"kinetics:{folders}")
    result = cli(*command, "--out", out)
    assert result.exit_code == 0, result.output
    assert "classifier.safetensors: 4 steps on 4 samples of 2 classes, last loss" in result.stdout
    return out


def plan_of(recipe: Path, *overrides: str) -> Recognition:
    return load(Recognition, recipe, overrides)


# --- the run


def test_a_run_holds_what_scripts_rely_on(classifier: Path) -> None:
    names = {path.name for path in classifier.iterdir()}
    assert names >= {
        *("recipe.yaml", "log.jsonl", "events.jsonl", "checkpoints", "report.html"),
        *("classifier.safetensors", "classifier.json", "encoder.safetensors", "encoder.json"),
    }
    card = json.loads((classifier / "classifier.json").read_text())
    assert card["labels"] == ["left", "right"]
    assert card["test"] == {
        **{"frames": 4, "stride": 4, "segments": False, "indexing": "stride"},
        **{"short_side_px": 36, "crop_px": 36, "train_crop_px": 32},
        **{"activation": "softmax", "decode_short_side_px": 36},
    }
    assert card["geometry"] == {"frames": 4, "stride": 4, "crop_px": 32}
    assert {"version": 1, **card["recipe"]} == yaml.safe_load(
        (classifier / "recipe.yaml").read_text()
    )
    trained_by = {"task": "recognition", "steps": 4, "samples_seen": 16, "samples_seen_before": 0}
    assert card["trained_by"] == trained_by
    assert json.loads((classifier / "encoder.json").read_text())["trained_by"] == trained_by
    assert [entry["step"] for entry in read_log(classifier)] == [0, 1, 2, 3]
    assert all(entry["loss"] > 0 and 0 <= entry["top1"] <= 1 for entry in read_log(classifier))


def test_the_saved_classifier_answers_as_its_encoder_does(classifier: Path) -> None:
    trained = load_classifier(classifier)
    _, encoder = load_weights(classifier, "encoder")
    own = trained.classifier.encoder.state_dict()
    assert all(torch.equal(own[name], value) for name, value in encoder.items())
    assert trained.labels == ("left", "right")


def test_the_first_loss_is_that_of_guessing(classifier: Path) -> None:
    # The layer starts at N(0, 0.01) and features have lengths of about 10: logits of 0.1 or so.
    assert read_log(classifier)[0]["loss"] == pytest.approx(math.log(2), abs=0.15)


def test_what_was_learnt_from_is_written_down(classifier: Path) -> None:
    (told,) = [event for event in read_events(classifier) if event["event"] == "labels"]
    assert (told["samples"], told["of"], told["classes"]) == (4, 4, 2)
    assert (told["fewest"], told["most"], told["lost"]) == (2, 2, {})


def test_the_report_and_the_list_of_runs_take_it(cli: Cli, classifier: Path) -> None:
    assert cli("report", classifier, "--json", "-").exit_code == 0
    told = json.loads(cli("runs", classifier, "--json", "-").stdout)
    assert "4" in json.dumps(told)


def test_a_dry_run_tells_what_to_expect_and_writes_nothing(
    cli: Cli, recipe: Path, folders: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    result = cli(
        *("finetune", recipe, "--encoder", "random", "--videos", f"kinetics:{folders}"),
        *("--out", "run", "--dry-run", "--set", "optim.steps=null", "--set", "optim.epochs=50"),
    )
    assert result.exit_code == 0
    assert not list(tmp_path.iterdir())
    told = json.loads(result.stdout)
    assert (told["samples"], told["steps"]) == (4, 50)
    assert told["loss"] == pytest.approx(math.log(2), abs=0.15)
    for quantity in ("memory_gb", "hours", "load_s", "step_s", "disk_gb"):
        assert told[quantity] > 0


def test_a_broken_video_is_set_aside_and_its_rows_counted(
    cli: Cli, recipe: Path, folders: Path, tmp_path: Path
) -> None:
    shutil.copytree(folders, tmp_path / "own")
    broken = next((tmp_path / "own" / "left").iterdir())
    broken.write_text("not a video")
    command = ("finetune", recipe, "--encoder", "random", "--steps", 1, "--out", tmp_path / "run")
    result = cli(*command, "--videos", f"kinetics:{tmp_path / 'own'}")
    assert result.exit_code == 0
    assert "not trained on: 1 rows: video missing or not decodable" in result.stdout
    assert f"{broken.name}: cannot be opened as a video" in result.stdout


# --- what it learns


def batches_of(plan: Recognition, source: Path, out: Path) -> tuple[Trainer, list[Any]]:
    """A training of a plan at step 0, and all its samples as one batch."""
    index = open_index(str(source), out / "index.parquet")
    data = job._data(plan, read(str(source)), index)
    module = job._initial(plan, "random", data.learnt)
    trainer = training.trainer(module, plan, len(data.learnt))
    clips = job._clips(plan, data)
    samples: list[LabelledSample] = [clips[n] for n in range(len(clips))]
    return trainer, [job._preparation(plan, trainer)(samples, 0)]


def test_sixteen_clips_are_learnt_by_heart(recipe: Path, sixteen: Path, tmp_path: Path) -> None:
    options = ("optim.steps=120", "optim.batch=16", "augment.flip=0", "optim.lr=0.1")
    trainer, (batch,) = batches_of(plan_of(recipe, *options), sixteen, tmp_path)
    assert batch.clips.shape == (16, 3, 4, 32, 32)
    logged = [trainer.train_step(batch) for _ in range(120)]
    assert logged[0]["loss"] == pytest.approx(math.log(4), abs=0.1)
    assert float(logged[0]["top1"]) < 0.6
    assert [float(step["top1"]) for step in logged[-20:]] == [1.0] * 20
    # And in evaluation, by the statistics that have been gathered.
    module = trainer.module.eval()
    with torch.no_grad():
        assert float(module(batch).scalars["top1"]) > 0.9


def test_mixing_takes_clip_and_class_alike(recipe: Path, sixteen: Path, tmp_path: Path) -> None:
    _, (whole,) = batches_of(plan_of(recipe, "optim.batch=16"), sixteen, tmp_path)
    for kind in ("mixup", "cutmix"):
        plan = plan_of(recipe, "optim.batch=16", f"augment.{kind}=1.0")
        trainer, (mixed,) = batches_of(plan, sixteen, tmp_path)
        assert mixed.is_mixed
        assert torch.allclose(mixed.targets.sum(1), torch.ones(16))
        # From the labels the share that each clip keeps, from that the clip itself.
        differs = whole.targets.argmax(1) != whole.targets.roll(1, 0).argmax(1)
        keep = mixed.targets[differs].gather(1, whole.targets[differs].argmax(1)[:, None])
        assert 0.01 < keep[0] < 0.99
        assert torch.allclose(keep, keep[0].expand_as(keep))
        own, before = whole.clips, whole.clips.roll(1, 0)
        if kind == "mixup":
            expected = keep[0] * own + (1 - keep[0]) * before
            assert torch.allclose(mixed.clips, expected, atol=1e-5)
        else:
            is_own = (mixed.clips == own).all(dim=1)
            is_before = (mixed.clips == before).all(dim=1)
            assert (is_own | is_before).all()
            kept = (is_own & ~is_before).float().sum() / (is_own ^ is_before).float().sum()
            assert kept == pytest.approx(keep[0].item(), abs=0.02)
        assert "top1" not in trainer.train_step(mixed)
    assert not whole.is_mixed


def test_a_step_mixes_as_it_did_before_a_stop(recipe: Path, sixteen: Path, tmp_path: Path) -> None:
    plan = plan_of(recipe, "optim.batch=16", "augment.mixup=0.8", "augment.cutmix=1.0")
    trainer, _ = batches_of(plan, sixteen, tmp_path)
    index = open_index(str(sixteen), tmp_path / "i")
    data = job._data(plan, read(str(sixteen)), index)
    clips = job._clips(plan, data)
    samples = [clips[n] for n in range(4)]
    prepare = job._preparation(plan, trainer)
    first = [prepare(samples, step) for step in range(6)]
    assert all(
        torch.equal(prepare(samples, step).clips, found.clips) for step, found in enumerate(first)
    )
    assert len({found.targets[0].max().item() for found in first}) > 3


def test_several_clips_of_a_sample_have_its_class(
    recipe: Path, sixteen: Path, tmp_path: Path
) -> None:
    plan = plan_of(recipe, "optim.batch=16", "sampling.clips=2")
    _, (batch,) = batches_of(plan, sixteen, tmp_path)
    assert batch.clips.shape[0] == 32
    assert torch.equal(batch.targets[:16], batch.targets[16:])


# --- what it begins from


def trained(
    cli: Cli, recipe: Path, encoder: object, folders: Path, out: Path, *more: object
) -> Path:
    result = cli(
        *("finetune", recipe, "--encoder", encoder, "--videos", f"kinetics:{folders}"),
        *("--out", out, *more),
    )
    assert result.exit_code == 0, result.output
    return out


def weights(run: Path, name: str = "encoder") -> dict[str, torch.Tensor]:
    return load_weights(run, name)[1]


def test_the_two_linear_protocols_keep_the_encoders_weights(
    cli: Cli, recipe: Path, folders: Path, classifier: Path, tmp_path: Path
) -> None:
    before = weights(classifier)
    running = {name for name in before if "running" in name}
    learnt = {name for name in before if "running" not in name and "num_batches" not in name}
    assert running
    for freeze, kept in (("backbone", learnt | running), ("backbone_train_bn", learnt)):
        out = tmp_path / freeze
        more = ("--set", f"freeze={freeze}", "--set", "head.scaling=batch", "--steps", 2)
        after = weights(trained(cli, recipe, classifier, folders, out, *more))
        assert {name for name in learnt | running if after[name].equal(before[name])} == kept
        assert load_classifier(out).classifier.scaling == "batch"
        card = json.loads((out / "classifier.json").read_text())
        assert card["trained_by"]["samples_seen_before"] == 16


def test_a_classifier_goes_on_with_its_head(
    cli: Cli, recipe: Path, folders: Path, classifier: Path, tmp_path: Path
) -> None:
    more = ("--set", "init=classifier", "--set", "optim.lr=1e-12", "--steps", 1)
    out = trained(cli, recipe, classifier, folders, tmp_path / "on", *more)
    before, after = weights(classifier, "classifier"), weights(out, "classifier")
    assert torch.allclose(before["classifier.weight"], after["classifier.weight"], atol=1e-9)
    assert before["classifier.weight"].abs().max() > 1e-3


def test_a_share_of_the_labels_is_told_and_the_rest_is_not_read(
    cli: Cli, recipe: Path, sixteen: Path, tmp_path: Path
) -> None:
    result = cli(
        *("finetune", recipe, "--encoder", "random", "--videos", sixteen),
        *("--out", tmp_path / "run", "--steps", 1, "--set", "labels.share=0.1"),
    )
    assert result.exit_code == 0
    assert "1 steps on 4 of 16 samples of 4 classes" in result.stdout  # one of each class


def test_weights_of_classes_stand_in_the_log(
    cli: Cli, recipe: Path, playground: Path, tmp_path: Path
) -> None:
    videos = sorted((playground / "videos").iterdir())
    names = ["often", "often", "often", "rare"]
    rows = [f"{video},{name}" for video, name in zip(videos, names, strict=True)]
    (tmp_path / "list.csv").write_text("path,label\n" + "\n".join(rows) + "\n")
    result = cli(
        *("finetune", recipe, "--encoder", "random", "--videos", tmp_path / "list.csv"),
        *("--out", tmp_path / "run", "--steps", 1, "--set", "head.class_weights=inverse"),
    )
    assert result.exit_code == 0, result.output
    (told,) = [e for e in read_events(tmp_path / "run") if e["event"] == "class weights"]
    # 4 / (2 * 3) and 4 / (2 * 1).
    assert told["weights"] == {"often": 0.6667, "rare": 2.0}


def test_several_classes_a_clip_are_learnt_by_sigmoids(
    cli: Cli, recipe: Path, playground: Path, tmp_path: Path
) -> None:
    video = min((playground / "videos").iterdir())
    rows = [f"{video},{n % 3},{n},{n + 2}" for n in range(8)]
    (tmp_path / "list.csv").write_text("path,label,start_s,end_s\n" + "\n".join(rows) + "\n")
    out = tmp_path / "run"
    result = cli(
        *("finetune", recipe, "--encoder", "random", "--videos", tmp_path / "list.csv"),
        *("--out", out, "--set", "head.loss=sigmoid", "--set", "sampling.samples=videos"),
    )
    assert result.exit_code == 0, result.output
    first = read_log(out)[0]
    assert first["loss"] == pytest.approx(math.log(2), abs=0.02)
    assert {"positive_score", "negative_score"} < first.keys()
    card = json.loads((out / "classifier.json").read_text())
    assert card["test"]["activation"] == "sigmoid"
    assert card["labels"] == ["0", "1", "2"]


# --- data sets as they are published

CHARADES = "id,actions\n{0},c000 0.0 4.0;c001 3.0 9.0\n{1},\n{2},c002 1.0 30.0\n"
EPIC = (
    "narration_id,video_id,start_timestamp,stop_timestamp,verb_class,noun_class\n"
    "a,{0},00:00:01.00,00:00:03.50,0,2\nb,{0},00:00:05.00,00:00:05.20,1,0\n"
    "c,{2},00:00:02.00,00:00:09.00,0,1\n"
)
SSV2 = (
    '[{{"id": "{0}", "template": "Pushing [one]"}}, {{"id": "{1}", "template": "Pulling [one]"}}, '
    '{{"id": "missing", "template": "Pulling [one]"}}]'
)


@pytest.mark.parametrize(
    ("source", "list_name", "text", "options", "samples", "classes", "start"),
    [
        # A video without actions is a sample too: nothing of the list is seen in it.
        (
            *("charades", "Charades_v1_train.csv", CHARADES),
            *(("head.loss=sigmoid", "sampling.samples=videos"), 3, 3, math.log(2)),
        ),
        ("epic", "EPIC_100_train.csv", EPIC, ("head.target=verb",), 3, 2, math.log(2)),
        ("epic", "EPIC_100_train.csv", EPIC, ("head.target=noun",), 3, 3, math.log(3)),
        (
            *("somethingv2", "something-something-v2-train.json", SSV2),
            *(("sampling.frames=segments", "augment.flip=0"), 2, 2, math.log(2)),
        ),
    ],
    ids=["charades", "verbs", "nouns", "something"],
)
def test_a_published_data_set_is_learnt_as_it_lies(
    recipe: Path,
    playground: Path,
    tmp_path: Path,
    source: str,
    list_name: str,
    text: str,
    options: tuple[str, ...],
    samples: int,
    classes: int,
    start: float,
) -> None:
    shutil.copytree(playground / "videos", tmp_path / "set")
    ids = sorted(path.stem for path in (tmp_path / "set").iterdir())
    (tmp_path / "set" / list_name).write_text(text.format(*ids))
    name = f"{source}:{tmp_path / 'set'}" + (",label=noun" if "head.target=noun" in options else "")
    plan = plan_of(recipe, *options, "optim.steps=1")
    told: list[str] = []
    result = job.run(
        plan, "random", name, tmp_path / "run", progress=lambda words, *_: told.append(words)
    )
    assert (result.samples, result.classes) == (samples, classes)
    assert not any("left from right" in words for words in told)
    assert result.videos_missing == ("missing" in text)
    assert result.loss == pytest.approx(start, abs=0.15)
    card = json.loads((tmp_path / "run" / "classifier.json").read_text())
    assert card["test"]["segments"] == ("sampling.frames=segments" in options)
    names = {"somethingv2": ["Pulling one", "Pushing one"]}
    assert card["labels"] == names.get(source, [str(n) for n in range(classes)])


def test_a_flip_where_classes_have_sides_is_told_of(
    recipe: Path, playground: Path, tmp_path: Path
) -> None:
    shutil.copytree(playground / "videos", tmp_path / "set")
    ids = sorted(path.stem for path in (tmp_path / "set").iterdir())
    (tmp_path / "set" / "train.json").write_text(SSV2.format(*ids))
    told: list[str] = []
    job.run(
        plan_of(recipe, "optim.steps=1"),
        *("random", f"somethingv2:{tmp_path / 'set'}", tmp_path / "run"),
        progress=lambda words, *_: told.append(words),
    )
    assert any(words.startswith("augment.flip is 0.5: classes of Something") for words in told)


def test_splits_are_those_of_the_lists(recipe: Path, playground: Path, tmp_path: Path) -> None:
    videos = sorted((playground / "videos").iterdir())
    for video, name in zip(
        videos, ("v_Bow_g01", "v_Bow_g08", "v_Dig_g01", "v_Dig_g08"), strict=True
    ):
        folder = tmp_path / "ucf" / name.split("_")[1]
        folder.mkdir(parents=True, exist_ok=True)
        shutil.copy(video, folder / f"{name}_c01.mp4")
    lists = tmp_path / "ucf" / "ucfTrainTestlist"
    lists.mkdir()
    (lists / "classInd.txt").write_text("1 Bow\n2 Dig\n")
    (lists / "trainlist01.txt").write_text("Bow/v_Bow_g08_c01.avi 1\nDig/v_Dig_g08_c01.avi 2\n")
    (lists / "testlist01.txt").write_text("Bow/v_Bow_g01_c01.avi\nDig/v_Dig_g01_c01.avi\n")
    plan = plan_of(recipe, "optim.steps=1")
    both = f"ucf101:{tmp_path / 'ucf'},split=1"
    with pytest.raises(SourceError, match=r"test, train.*trained on as one.*option part=train"):
        job.run(plan, "random", both, tmp_path / "run")
    assert not (tmp_path / "run").exists()
    source = f"{both},part=train"
    result = job.run(plan, "random", source, tmp_path / "run")
    assert (result.samples, result.classes, result.videos_missing) == (2, 2, 0)
    card = json.loads((tmp_path / "run" / "classifier.json").read_text())
    assert card["labels"] == ["Bow", "Dig"]


# --- stopping and going on


def test_a_killed_run_goes_on_to_the_same_weights(
    recipe: Path, sixteen: Path, tmp_path: Path
) -> None:
    options = ("save_every=2", "augment.mixup=0.8", "optim.layer_decay=0.7", "head.dropout=0.5")
    plan = plan_of(recipe, *options, "optim.steps=6")
    whole = job.run(plan, "random", str(sixteen), tmp_path / "whole")

    def kill_at(what: str, done: int, total: int) -> None:
        if what.startswith("training") and done == 3:
            signal.raise_signal(signal.SIGTERM)

    with pytest.raises(Interrupted):
        job.run(plan, "random", str(sixteen), tmp_path / "killed", progress=kill_at)
    again = job.run(plan, "random", str(sixteen), tmp_path / "killed", resume=True)
    assert again.classifier_hash == whole.classifier_hash
    assert again.samples_seen == whole.samples_seen == 24
    proof = job.prove(plan, "random", str(sixteen), tmp_path / "whole", 3)
    assert proof.differences == []
    assert proof.logged > 0


# --- what is refused


@pytest.fixture
def finetune(refused: Refused, recipe: Path, folders: Path) -> Refused:
    """Finetune on the class folders, which must be refused."""

    def run(*more: object, encoder: object = "random", videos: object = None) -> str:
        source = f"kinetics:{folders}" if videos is None else videos
        return refused(
            *("finetune", recipe, "--encoder", encoder, "--videos", source, "--out", "run"), *more
        )

    return run


def test_options_of_a_detector_are_refused_all_at_once(finetune: Refused, playground: Path) -> None:
    labels = ("--labels", playground / "action_list.pbtxt")
    told = finetune(*labels, "--boxes", playground / "train.csv", "--time-origin", 0)
    assert "--labels, --boxes, --time-origin: for a detection recipe; " in told
    assert "is a recognition recipe, whose classes are those of --videos" in told


def test_a_detector_needs_its_annotations(
    refused: Refused, tiny: dict[str, Path], playground: Path
) -> None:
    command = ("finetune", tiny["detection"], "--encoder", "random", "--out", "run")
    told = refused(*command, "--videos", playground / "videos")
    assert "missing --annotations and --labels: " in told
    assert "is a detection recipe, which is trained on annotated people" in told
    labels = ("--labels", playground / "action_list.pbtxt")
    assert "missing --annotations: " in refused(*command, "--videos", playground, *labels)


def test_videos_without_labels_are_refused(finetune: Refused, playground: Path) -> None:
    assert "the videos have no labels; expected a csv" in finetune(videos=playground / "videos")
    assert "the videos have no labels" in finetune("--dry-run", videos=playground / "videos")


def test_a_list_of_which_nothing_can_be_decoded_leaves_nothing(
    finetune: Refused, tmp_path: Path
) -> None:
    (tmp_path / "a.mp4").write_text("no video")
    (tmp_path / "b.mp4").write_text("no video")
    (tmp_path / "list.csv").write_text("path,label\na.mp4,x\nb.mp4,y\n")
    assert "none of the 2 videos can be decoded" in finetune(videos="list.csv")


def test_nothing_to_keep_and_other_classes_are_refused(
    finetune: Refused, classifier: Path, sixteen: Path, pretrained: Path
) -> None:
    told = finetune("--set", "freeze=backbone")
    assert "--encoder random has nothing for init: encoder with freeze: backbone to keep" in told
    told = finetune("--set", "init=classifier", encoder=classifier, videos=sixteen)
    assert "was trained on 2 classes that are not the 4 of the videos" in told
    told = finetune("--set", "init=classifier", "--set", "head.scaling=l2", encoder=classifier)
    assert "head.scaling is none there, l2 in the recipe" in told
    assert "backbone.name: slowfast in the encoder, slow in the recipe" in finetune(
        encoder=pretrained
    )
    assert "holds no classifier.safetensors" in finetune(
        "--set", "init=classifier", encoder=pretrained
    )


def test_settings_that_contradict_each_other_are_refused(finetune: Refused) -> None:
    told = finetune("--set", "freeze=backbone", "--set", "optim.precise_bn=2")
    assert "optim.precise_bn takes BatchNorm's statistics anew, which freeze: backbone" in told
    told = finetune("--set", "sampling.samples=videos")
    assert "sampling.samples: videos gives a clip any number of classes, which is for" in told
    assert "head.dropuot: unknown key; did you mean 'dropout'?" in finetune(
        "--set", "head.dropuot=1"
    )


def test_the_folder_of_another_run_is_refused_with_what_differs(
    finetune: Refused, classifier: Path, tmp_path: Path
) -> None:
    shutil.copytree(classifier, tmp_path / "run")
    told = finetune("--set", "labels.share=0.5", "--set", "head.label_smoothing=0.1")
    assert "recipe.labels.share: 1.0 there, 0.5 asked" in told
    assert "recipe.head.label_smoothing: 0.0 there, 0.1 asked" in told
