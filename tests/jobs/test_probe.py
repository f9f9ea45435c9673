"""``vidssl probe`` on real tiny videos: painted and shuffled labels, motion, cache, failures."""

import json
import shutil
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import nn
from typer.testing import Result

from vidssl.augment import geometry
from vidssl.augment.views import normalise
from vidssl.errors import BankError, CheckpointError, Interrupted, RecipeError, SourceError
from vidssl.features import Bank
from vidssl.jobs import _probe_features
from vidssl.jobs._classifier import save_classifier
from vidssl.jobs._probe_encoder import load
from vidssl.jobs._probe_result import ProbeResult, SplitAccount, plain
from vidssl.jobs._tested import expected_of
from vidssl.jobs.probe import Request, chosen, run
from vidssl.probe.attentive import fit_attentive
from vidssl.recipe import backbone_from
from vidssl.recognition.classifier import Classifier
from vidssl.train.weights import save_weights
from vidssl.video.reader import open_reader
from vidssl.video.write import write_video

Cli = Callable[..., Result]

BACKBONE = {"name": "slow", "width": 8, "depths": [1, 1, 1, 1], "frames": 4, "stride": 15}
RED, GREEN, BLUE = (220, 30, 30), (30, 200, 40), (40, 40, 230)
FPS, FRAMES = 10, 20


def film(colours: list[tuple[int, int, int]], seed: int) -> Iterator[NDArray[np.uint8]]:
    """Frames of 32 x 32 in ``colours`` for equal parts of 2 s, with noise of the video's own."""
    noise = np.random.default_rng(seed).integers(-15, 15, (32, 32, 3))
    for number in range(FRAMES):
        colour = np.array(colours[number * len(colours) // FRAMES])
        yield np.clip(noise + colour, 0, 255).astype(np.uint8)


def write_class(
    folder: Path, colours: list[tuple[int, int, int]], count: int, seed: int = 0
) -> None:
    folder.mkdir(parents=True)
    for number in range(count):
        frames = film(colours, seed + number)
        write_video(folder / f"{folder.name}{number}.mp4", frames, FPS)


@pytest.fixture(scope="module")
def painted(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Class folders ``train`` and ``test`` of videos that have their class's colour."""
    folder = tmp_path_factory.mktemp("painted")
    for split, count in (("train", 5), ("test", 3)):
        for name, colour in (("red", RED), ("green", GREEN), ("blue", BLUE)):
            write_class(folder / split / name, [colour], count, seed=count * 100)
    return folder


@pytest.fixture(scope="module")
def directed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two classes of the same frames, one the other backwards; in the middle they are alike."""
    folder = tmp_path_factory.mktemp("directed") / "videos"
    write_class(folder / "there", [RED, BLUE, BLUE, GREEN], 6)
    write_class(folder / "back", [GREEN, BLUE, BLUE, RED], 6)
    return folder


@pytest.fixture(scope="module")
def encoder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run's folder with the encoder of an untrained network that looks at time."""
    folder = tmp_path_factory.mktemp("encoder") / "run"
    backbone = backbone_from({"backbone": BACKBONE}, "here")
    torch.manual_seed(0)
    network = backbone.build()
    for part in network.modules():
        if isinstance(part, nn.BatchNorm3d):
            nn.init.ones_(part.weight)  # the last of a block begin at 0, and hide its kernels
    card = {"backbone": backbone.model_dump(mode="json"), "features": network.features}
    save_weights(folder, "encoder", network, card)
    return folder


def request(encoder: Path, train: Path, test: Path | None = None) -> Request:
    """What all tests ask for: one clip of 32 pixels a video, read in this process."""
    return Request(
        *(encoder, str(train), None if test is None else str(test)),
        k=3,
        views="1x1",
        crop_px=32,
        short_side_px=32,
        workers=0,
        device="cpu",
    )


def values(result: ProbeResult) -> dict[str, float]:
    return {score.key: score.value for score in result.scores}


def test_painted_labels_are_all_found(encoder: Path, painted: Path) -> None:
    asked = request(encoder, painted / "train", painted / "test")
    everything = chosen("knn,linear,retrieval,few-shot")
    result = run(replace(asked, probes=everything))
    found = values(result)
    assert {key: found[key] for key in ("knn.top1", "linear.top1", "retrieval.R@1")} == {
        "knn.top1": 1.0,
        "linear.top1": 1.0,
        "retrieval.R@1": 1.0,
    }
    assert found["few-shot.top1@1"] == 1.0
    assert result.classes == ("blue", "green", "red")
    assert result.predictions["knn"] == (0, 0, 0, 1, 1, 1, 2, 2, 2)
    assert (result.expected, result.failed) == (9, 0)
    knn = result.score("knn.top1")
    assert (knn.low, knn.high, knn.units) == (1.0, 1.0, 9)
    assert knn.chance == pytest.approx(1 / 3)
    assert result.probabilities["linear"].sum(axis=1) == pytest.approx(np.ones(9))
    assert [one.right["knn"] for one in result.by_class] == [1.0] * 3
    json.dumps(plain(result), allow_nan=False)


def test_one_source_is_judged_by_its_other_videos(encoder: Path, painted: Path) -> None:
    asked = replace(
        request(encoder, painted / "train"), probes=chosen("knn,linear,retrieval,few-shot")
    )
    result = run(asked)
    assert result.test is None
    assert {v for k, v in values(result).items() if "R@" not in k} == {1.0}
    assert (result.expected, len(result.train_features)) == (15, 15)
    assert any("a fifth" in note for note in result.notes)


def test_shuffled_labels_score_chance(encoder: Path, painted: Path, tmp_path: Path) -> None:
    paths = sorted((painted / "train").rglob("*.mp4")) + sorted((painted / "test").rglob("*.mp4"))
    labels = np.random.default_rng(2).permutation(np.arange(len(paths)) % 3)
    rows = [f"{path},{label}" for path, label in zip(paths, labels, strict=True)]
    (tmp_path / "list.csv").write_text("\n".join(["path,label", *rows]) + "\n")
    result = run(request(encoder, tmp_path / "list.csv"))
    for key in ("knn.top1", "linear.top1"):
        assert result.score(key).low <= 1 / 3 <= result.score(key).high
        assert result.score(key).value < 0.7


def test_features_are_those_of_the_encoder_on_the_middle_of_the_video(
    encoder: Path, painted: Path
) -> None:
    result = run(request(encoder, painted / "test"))
    network = load(encoder).encoder.eval()
    for row in (0, 4):
        path = result.videos[row].path
        assert path is not None
        with open_reader(path) as reader:  # 4 frames half a second apart, 1.5 s of 2 s
            clip = torch.from_numpy(
                reader.frames_at(np.arange(4) * 0.5 + np.float64(0.2495)).frames
            )
        pixels = geometry.apply(clip, geometry.whole(32, 32))
        with torch.inference_mode():
            expected = network(normalise(pixels)[None])[0].numpy()
        assert result.test_features[row] == pytest.approx(expected, rel=2e-3, abs=2e-3)


def test_what_needs_time_is_lost_on_clips_that_stand_still(encoder: Path, directed: Path) -> None:
    result = run(replace(request(encoder, directed), motion=True))
    motion = result.motion
    assert motion is not None
    assert motion.scores["normal"].value == 1.0
    assert motion.scores["reversed"].value == 1.0  # the probe is fitted anew
    assert motion.scores["static"].value <= 0.6
    assert motion.scores["single"].value <= 0.6
    assert motion.scores["shuffled"].value < 1.0
    assert motion.drop["static"] == pytest.approx(1 - motion.scores["static"].value)
    assert motion.share is not None
    assert motion.share.value == pytest.approx(motion.drop["static"])
    assert motion.share.low > 0
    shares = [one.needs_time for one in result.by_class]
    assert all(share is not None and share.value > 0 for share in shares)
    assert len({score.fingerprint for score in motion.scores.values()}) == 5
    still = run(replace(request(encoder, directed), time="static"))
    assert still.score("knn.top1") == motion.scores["static"]
    assert still.train.decoded == 0


def test_colours_need_no_time(encoder: Path, painted: Path) -> None:
    result = run(replace(request(encoder, painted / "train", painted / "test"), motion=True))
    assert result.motion is not None
    assert result.motion.share is not None
    assert result.motion.share.value == 0.0


def test_a_second_probe_never_decodes(encoder: Path, painted: Path, tmp_path: Path) -> None:
    asked = replace(request(encoder, painted / "train"), cache=tmp_path / "cache")
    first = run(asked)
    again = run(asked)
    other = run(replace(asked, k=1, centre=False))
    assert (first.train.decoded, again.train.decoded, other.train.decoded) == (15, 0, 0)
    assert first.scores == again.scores
    assert other.score("knn.top1").fingerprint != first.score("knn.top1").fingerprint
    assert other.score("linear.top1").fingerprint == first.score("linear.top1").fingerprint
    bank = Bank.open(first.train.features / "normal")
    assert (bank.kind, len(bank), bank.dim) == ("clip", 15, first.dim)
    finer = run(replace(asked, views="2x3", short_side_px=40))
    assert finer.train.decoded == 15
    assert finer.score("knn.top1").fingerprint != first.score("knn.top1").fingerprint
    assert len(Bank.open(finer.train.features / "normal")) == 30


def test_a_video_that_changed_is_looked_at_again(
    encoder: Path, painted: Path, tmp_path: Path
) -> None:
    shutil.copytree(painted / "test", tmp_path / "test")
    asked = replace(request(encoder, tmp_path / "test"), cache=tmp_path / "cache")
    before = run(asked)
    write_video(tmp_path / "test" / "red" / "red0.mp4", film([BLUE], 7), FPS)
    after = run(asked)
    assert after.train.decoded == 9
    assert before.train.data != after.train.data
    assert after.predictions["knn"][6] == 0  # it is blue now


def test_a_damaged_cache_is_told_of(encoder: Path, painted: Path, tmp_path: Path) -> None:
    asked = replace(request(encoder, painted / "test"), cache=tmp_path / "cache")
    features = run(asked).train.features
    shard = features / "normal" / "shard-00000.npy"
    shard.write_bytes(shard.read_bytes()[:-8])
    with pytest.raises(BankError, match=r"shard-00000.npy: expected \d+ bytes"):
        run(asked)


def test_an_interrupted_probe_goes_on(
    encoder: Path, painted: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = run(request(encoder, painted / "train"))
    monkeypatch.setattr(_probe_features, "VIDEOS_A_SHARD", 4)

    def interrupt(what: str, done: int, total: int) -> None:
        if what == "looking at videos" and done == 6:
            raise KeyboardInterrupt

    asked = replace(request(encoder, painted / "train"), cache=tmp_path / "cache")
    with pytest.raises(Interrupted, match="3 of 4 parts are to do"):
        run(asked, progress=interrupt)
    result = run(asked)
    assert result.train.decoded == 11
    assert np.allclose(result.test_features, whole.test_features, atol=2e-3)


def test_videos_that_fail_are_in_the_denominator(
    cli: Cli, encoder: Path, painted: Path, tmp_path: Path
) -> None:
    shutil.copytree(painted / "test", tmp_path / "test")
    (tmp_path / "test" / "red" / "red1.mp4").write_bytes(b"no video")
    asked = request(encoder, painted / "train", tmp_path / "test")
    result = run(asked)
    assert result.predictions["knn"] == (0, 0, 0, 1, 1, 1, 2, -1, 2)
    for score in result.scores:
        assert (score.expected, score.evaluated, score.failed) == (9, 8, 1)
        assert score.value == pytest.approx(8 / 9)
        assert score.over_evaluated == 1.0
    assert "red1.mp4" in result.videos[7].reason
    assert result.by_class[2].right["knn"] == pytest.approx(2 / 3)
    arguments = [
        *("probe", "--encoder", encoder, "--train", painted / "train"),
        *("--test", tmp_path / "test", "--views", "1x1", "--crop", 32, "--short-side", 32),
        *("--workers", 0, "--k", 3, "--csv", tmp_path / "c.csv", "--json", tmp_path / "r.json"),
    ]
    told = cli(*arguments)
    assert told.exit_code == 3
    assert "test: 9 videos expected, 8 evaluated, 1 failed" in told.stdout
    assert "1 of 9 videos of folder failed" in told.stderr
    assert cli(*arguments, "--max-failed", 0.2).exit_code == 0
    rows = (tmp_path / "c.csv").read_text().splitlines()
    assert rows[0].startswith("number,name,train,expected,evaluated,knn,linear,needs_time")
    assert rows[3].startswith("2,red,5,3,2,0.666667,")
    written = json.loads((tmp_path / "r.json").read_text())
    assert written["scores"] == plain(result)["scores"]
    assert set(written["test"]["failures"]) == {result.videos[7].id}


def test_videos_that_a_list_names_and_that_are_absent_have_failed(
    encoder: Path, painted: Path, tmp_path: Path
) -> None:
    rows = [f"{path},{path.parent.name}" for path in sorted((painted / "test").rglob("*.mp4"))]
    rows.append(f"{tmp_path}/gone.mp4,red")
    (tmp_path / "list.csv").write_text("\n".join(["path,label", *rows]) + "\n")
    result = run(request(encoder, painted / "train", tmp_path / "list.csv"))
    assert result.test is not None
    assert (result.test.expected, result.test.failed) == (10, 1)
    assert values(result)["knn.top1"] == pytest.approx(0.9)


def test_clips_of_one_film_do_not_vouch_for_each_other(
    encoder: Path, painted: Path, tmp_path: Path
) -> None:
    for number, path in enumerate(sorted((painted / "train").rglob("*.mp4"))[:10]):
        label = "ab"[number % 2]
        (tmp_path / "videos" / label).mkdir(parents=True, exist_ok=True)
        for copy in range(2):
            target = tmp_path / "videos" / label / f"film{number}_part{copy}.mp4"
            shutil.copy(path, target)
    asked = replace(request(encoder, tmp_path / "videos"), k=1)
    assert values(run(asked))["knn.top1"] == 1.0  # by its own copy
    apart = run(replace(asked, group=r"(film\d+)"))
    assert values(apart)["knn.top1"] < 0.9
    assert apart.score("knn.top1").units == 10
    assert apart.score("knn.top1").interval == "bootstrap over groups"


def test_videos_of_several_classes_have_a_mean_average_precision(
    encoder: Path, painted: Path, tmp_path: Path
) -> None:
    lines = ["id,actions"]
    for path in sorted((painted / "train").rglob("*.mp4")):
        shutil.copy(path, tmp_path)
        actions = {"red": "c000 0 1;c001 0 2", "green": "c001 0 1", "blue": ""}
        lines.append(f"{path.stem},{actions[path.parent.name]}")
    (tmp_path / "Charades_v1_train.csv").write_text("\n".join(lines) + "\n")
    result = run(
        replace(
            request(encoder, Path()),
            train=f"charades:{tmp_path}",
            cache=tmp_path / "c",
            motion=True,
        )
    )
    assert values(result) == {"knn.mean_ap": 1.0, "linear.mean_ap": 1.0}
    assert result.several_classes
    assert any("no retrieval" in note for note in result.notes)
    assert result.motion is not None
    assert result.motion.share is None


def test_the_attentive_probe_is_given_tokens_of_the_map(encoder: Path, painted: Path) -> None:
    asked = request(encoder, painted / "train", painted / "test")
    result = run(replace(asked, probes=("attentive",)))
    assert values(result)["attentive.top1"] == 1.0
    bank = Bank.open(result.train.features / "tokens")
    assert bank.kind == "grid"
    assert len(bank) == 15 * result.score("attentive.top1").facts["tokens"]
    # and reads them there, to the same end as from memory
    assert result.test is not None
    train = whole(result.train, [item.id for item in expected_of(asked.train).items])
    test = whole(result.test, [video.id for video in result.videos])
    labels = np.asarray(result.train_labels, np.int64)
    found = fit_attentive(train, labels, test, classes=3, device=torch.device("cpu"))
    assert (found.probabilities.astype(np.float32) == result.probabilities["attentive"]).all()


def whole(side: SplitAccount, ids: list[str]) -> NDArray[np.float16]:
    """All tokens of a source, ``(N, L, F)``, row by row."""
    rows: dict[str, list[NDArray[np.float16]]] = {}
    for table, features in Bank.open(side.features / "tokens").shards():
        for name, row in zip(table["video"].to_pylist(), features, strict=True):
            rows.setdefault(name, []).append(row)
    return np.stack([np.stack(rows[one]) for one in ids])


def test_the_encoder_of_any_run_is_taken(
    encoder: Path, detector: Path, pretrained: Path, tmp_path: Path
) -> None:
    one = load(encoder)
    backbone = one.backbone
    classifier = Classifier(one.encoder, num_classes=3)
    save_classifier(tmp_path, classifier, backbone, labels=None, facts={})
    for path in (tmp_path, tmp_path / "classifier.safetensors"):
        found = load(path).encoder.state_dict()
        assert all(torch.equal(v, found[k]) for k, v in one.encoder.state_dict().items())
    assert load(detector).hash == load(detector / "encoder.safetensors").hash
    theirs = load(detector / "detector.safetensors").encoder.state_dict()
    own = load(detector).encoder.state_dict()
    assert all(torch.equal(v, theirs[k]) for k, v in own.items())
    assert load(pretrained).side_px == 32  # by the run's recipe
    with pytest.raises(CheckpointError, match=r"holds no encoder\.safetensors"):
        load(tmp_path.parent)


def test_fresh_weights_are_a_baseline_of_their_own(encoder: Path, painted: Path) -> None:
    state = torch.get_rng_state()
    one, same, other = load(encoder, 1), load(encoder, 1), load(encoder, 2)
    assert torch.equal(state, torch.get_rng_state())
    assert one.hash == same.hash
    assert len({one.hash, other.hash, load(encoder).hash}) == 3
    weights = [next(found.encoder.parameters()) for found in (one, same, other)]
    assert torch.equal(weights[0], weights[1])
    assert not torch.equal(weights[0], weights[2])
    asked = request(encoder, painted / "train")
    trained, fresh = run(asked), run(replace(asked, random=1))
    assert fresh.encoder_hash == one.hash
    assert not np.allclose(trained.train_features, fresh.train_features)
    # Scores of two encoders compare: their protocols are the same.
    assert fresh.score("knn.top1").fingerprint == trained.score("knn.top1").fingerprint


def test_wrong_input_is_refused(encoder: Path, painted: Path, tmp_path: Path) -> None:
    good = request(encoder, painted / "train")
    with pytest.raises(RecipeError, match=r"--probes: .* found 'knnn'; did you mean 'knn'"):
        chosen("knnn")
    with pytest.raises(RecipeError, match="found none"):
        chosen(" , ")
    with pytest.raises(RecipeError, match="--views: expected CLIPSxCROPS"):
        run(replace(good, views="3"))
    with pytest.raises(RecipeError, match="--group: expected a regular expression"):
        run(replace(good, group="("))
    with pytest.raises(RecipeError, match="in parentheses"):
        run(replace(good, group="film"))
    with pytest.raises(RecipeError, match="normal clips alone"):
        run(replace(good, probes=("attentive",), time="static"))
    with pytest.raises(SourceError, match="have no labels"):
        run(replace(good, train=str(painted / "train" / "red" / "red0.mp4")))
    only = tmp_path / "only"
    shutil.copytree(painted / "train" / "red", only / "red")
    with pytest.raises(SourceError, match="of a single class"):
        run(replace(good, train=str(only)))
    other = tmp_path / "other"
    shutil.copytree(painted / "train" / "red", other / "reds")
    shutil.copytree(painted / "train" / "blue", other / "blues")
    with pytest.raises(SourceError, match=r"none of its classes.*\n.*'blues'; did you mean 'blue'"):
        run(replace(good, test=str(other)))
    (tmp_path / "list.csv").write_text(f"path,label\n{only}/red/red0.mp4,0\n")
    with pytest.raises(SourceError, match=r"names its classes, .* only numbers"):
        run(replace(good, test=str(tmp_path / "list.csv")))


def test_classes_and_videos_that_both_sides_lack_or_share_are_noted(
    encoder: Path, painted: Path, tmp_path: Path
) -> None:
    rows = [f"{path},{path.parent.name}" for path in sorted((painted / "train").rglob("*.mp4"))]
    (tmp_path / "train.csv").write_text("\n".join(["path,label", *rows[5:]]) + "\n")
    (tmp_path / "test.csv").write_text("\n".join(["path,label", *rows[3:8]]) + "\n")
    result = run(request(encoder, tmp_path / "train.csv", tmp_path / "test.csv"))
    assert result.classes == ("green", "red", "blue")
    assert "3 test videos are training videos too: their scores are no test" in result.notes
    assert "1 classes of the test videos have no training video" in result.notes
    assert values(result)["knn.top1"] == pytest.approx(3 / 5)


def test_the_command_refuses_in_one_line(refused: Callable[..., str], encoder: Path) -> None:
    told = refused("probe", "--encoder", encoder, "--train", "nowhere")
    assert "nowhere" in told
    assert "error:" in told


def test_features_of_frames_are_not_taken_for_those_of_changes(
    encoder: Path, painted: Path, tmp_path: Path
) -> None:
    seeing = Path(shutil.copytree(encoder, tmp_path / "seeing"))  # the same weights' hash
    card = json.loads((seeing / "encoder.json").read_text())
    card["backbone"]["sees"] = "changes"
    (seeing / "encoder.json").write_text(json.dumps(card))
    asked = [request(one, painted / "train", painted / "test") for one in (encoder, seeing)]
    frames, changes = (run(replace(one, cache=tmp_path / "cache")) for one in asked)
    assert values(frames)["knn.top1"] == 1.0
    assert values(changes)["knn.top1"] < 0.9  # nothing changes in these videos
