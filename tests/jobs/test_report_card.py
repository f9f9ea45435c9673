"""``vidssl report-card``: the scores of the probes on a page, from real videos and weights."""

import json
import os
import re
import shlex
import shutil
from collections.abc import Callable, Iterator
from dataclasses import replace
from html import unescape
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from typer.testing import Result

from vidssl.ava.annotations import read_annotations
from vidssl.data.loader import LoaderConfig
from vidssl.features import Bank
from vidssl.jobs import _card_videos, probe
from vidssl.jobs._card_boxes import BoxTask, look, score_boxes
from vidssl.jobs._classifier import save_classifier
from vidssl.jobs._probe_encoder import load
from vidssl.jobs._strips import LARGE, Shown, make_strips
from vidssl.jobs.report import run as report
from vidssl.jobs.report_card import Request, run
from vidssl.recognition.classifier import Classifier
from vidssl.report.card_strips import LADDER
from vidssl.video.reader import decoder_version
from vidssl.video.write import write_video

Cli = Callable[..., Result]
Refused = Callable[..., str]
CLASSES = ("<b>grow & shrink", "left", "right")
VIDEOS = 5
QUICK = ["--workers", "0", "--crop", "32", "--views", "1x1"]


def frames(kind: str, seed: int) -> Iterator[NDArray[np.uint8]]:
    """A bright square of 48 x 64 pictures that moves by its class, on one of many grounds."""
    rng = np.random.default_rng(seed)
    ground = np.clip(rng.normal(rng.integers(40, 160, 3), 8, (48, 64, 3)), 0, 255)
    top = int(rng.integers(4, 28))
    for number in range(20):
        frame = ground.copy()
        side, left = 10, {"left": 40 - number, "right": 10 + number}.get(kind, 20)
        if kind.startswith("<"):
            side = 6 + number // 2
        frame[top : top + side, left : left + side] = (240, 220, 90)
        yield frame.astype(np.uint8)


def make_videos(folder: Path, seed: int, count: int = VIDEOS) -> Path:
    for kind_number, kind in enumerate(CLASSES):
        (folder / kind).mkdir(parents=True)
        for number in range(count):
            path = folder / kind / f"{kind[0]}'{number}\".mp4"
            write_video(path, frames(kind, seed + 100 * kind_number + number), 10, gop=10, crf=20)
    return folder


@pytest.fixture(scope="module")
def videos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three classes of five videos, and one that cannot be read."""
    folder = make_videos(tmp_path_factory.mktemp("on") / "videos", seed=0)
    (folder / "left" / "broken.mp4").write_bytes(b"no video")
    return folder


@pytest.fixture(scope="module")
def tests(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_videos(tmp_path_factory.mktemp("test") / "videos", seed=1000, count=2)


@pytest.fixture(scope="module")
def encoder(pretrained: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of one's own, in which features may be kept."""
    return Path(shutil.copytree(pretrained, tmp_path_factory.mktemp("card") / "run"))


@pytest.fixture(scope="module")
def made(cli: Cli, encoder: Path, videos: Path) -> Path:
    """A card with everything on it; too many of its videos fail, which is said in the end."""
    result = cli(
        *("report-card", encoder, "--on", videos, *QUICK, "--name", "mine"),
        *("--baseline", "majority", "--baseline", "random"),
    )
    assert result.exit_code == 3, result.output
    assert "1 of 16 videos failed, more than 1.00%" in result.stderr
    assert "kNN accuracy" in result.stdout
    return encoder / "report-card"


def card(folder: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((folder / "card.json").read_text(encoding="utf-8"))
    return found


def shown(folder: Path) -> str:
    text = (folder / "index.html").read_text(encoding="utf-8").partition("<body>")[2]
    text = re.sub(r"<script.*?</script>", " ", text, flags=re.S)
    return re.sub(r"\s+", " ", unescape(re.sub(r"<[^>]+>", " ", text)))


def request(encoder: Path, videos: Path) -> probe.Request:
    """What the quick card asks of the probes."""
    return probe.Request(encoder, str(videos), views="1x1", crop_px=32, workers=0)


def test_its_scores_are_those_of_the_probes_and_nothing_is_decoded_again(
    made: Path, encoder: Path, videos: Path
) -> None:
    theirs = probe.run(request(encoder, videos))
    assert theirs.train.decoded == 0
    ours = {score["key"]: score for score in card(made)["scores"]}
    assert {*ours} == {score.key for score in theirs.scores} | {"motion.share"}
    for score in theirs.scores:
        mine = ours[score.key]
        assert (mine["value"], mine["fingerprint"]) == (score.value, score.fingerprint)
        assert (mine["low"], mine["high"]) == (score.low, score.high)
        assert (mine["expected"], mine["evaluated"], mine["failed"]) == (16, 15, 1)


def test_every_part_is_there_and_counts_what_it_should(made: Path) -> None:
    found = card(made)
    assert {path.name for path in made.iterdir()} == {"index.html", "card.json"}
    assert found["name"] == "mine"
    assert found["classes"] == list(CLASSES)
    assert np.sum(found["confusion"]) == 15
    assert [len(found["map"][way]) for way in ("PCA", "t-SNE")] == [15, 15]
    assert [v["key"] for v in found["motion"]["variants"]] == ["knn.top1"] * 4
    assert len(found["motion"]["per_class"]) == 3
    assert found["failures"][0]["video"] == "broken"
    assert found["costs"]["feature"] == "288 numbers"
    wrong = 15 - int(np.trace(found["confusion"]))
    assert len(found["mistakes"]) == wrong
    least = [mistake["probability_of_class"] for mistake in found["mistakes"]]
    assert least == sorted(least)
    assert all(len(near) == 5 for near in found["neighbours"].values())
    assert all(name not in {n for n, _ in near} for name, near in found["neighbours"].items())
    text = shown(made)
    for words in ("loss", "What training minimises.", "parameters", "Does it look at motion?"):
        assert words in text


def test_every_video_that_could_be_read_has_its_clip(made: Path) -> None:
    text = (made / "index.html").read_text(encoding="utf-8")
    lines = text.partition('id="card-strips">')[2].partition("</script>")[0].split("\n")
    assert len(lines) == 15
    assert all(line.startswith(f"{LARGE.frames} UklGR") for line in lines)  # RIFF in base64
    assert text.count("<script") == 4
    assert "<b>grow" not in text.partition('id="plotly"')[0]


def test_the_baselines_are_what_they_say(made: Path, encoder: Path, videos: Path) -> None:
    majority, random = card(made)["compared_with"]
    # five readable videos of each class; the first of equals is answered: 5 of 16 are right
    assert majority["name"] == "majority class"
    assert {score["value"] for score in majority["scores"]} == {5 / 16}
    assert random["name"] == "random network"
    theirs = probe.run(
        probe.Request(encoder, str(videos), views="1x1", crop_px=32, workers=0, random=0)
    )
    values = {score["key"]: score["value"] for score in random["scores"]}
    assert values.pop("motion.share", None) is not None
    assert values == {score.key: score.value for score in theirs.scores}
    prints = {s["key"]: s["fingerprint"] for s in card(made)["scores"]}
    assert all(prints[s["key"]] == s["fingerprint"] for s in random["scores"])


def test_an_earlier_card_is_compared_and_one_of_another_protocol_is_not(
    cli: Cli, made: Path, encoder: Path, videos: Path, tmp_path: Path
) -> None:
    out = tmp_path / "card"
    command = ["report-card", encoder, "--on", videos, *QUICK, "--no-motion", "--out", out]
    told = cli(
        *(*command, "--compare", made, "--baseline", "chance", "--k", 3),
        *("--max-failed", 1, "--name", "it's $mine", "--precision", "fp32", "--json", "-"),
    )
    assert told.exit_code == 0, told.output
    (line,) = card(out)["commands"]
    assert line in shown(out)
    typed = [*command, "--compare", made, "--baseline", "chance", "--k", 3, "--max-failed", 1.0]
    typed += ["--name", "it's $mine", "--precision", "fp32", "--json", "-"]
    assert shlex.split(line)[:3] == ["vidssl", "report-card", str(encoder)]
    assert sorted(shlex.split(line)[1:]) == sorted(map(str, typed))
    assert json.loads(told.stdout)["compared_with"] == ["mine", "chance"]
    chance = card(out)["compared_with"][1]["scores"]
    assert {score["value"] for score in chance if score["key"] == "knn.top1"} == {1 / 3}
    text = shown(out)
    assert re.search(r"Linear probe mine (\S+ %) \1 \+0\.0", text)
    assert "Not comparable. The protocols differ in k: 3, 20." in text
    assert card(out)["motion"] is None
    assert "Does it look at motion?" not in text
    # and again into the same folder, in which something of a person's own lies
    (out / "notes.txt").write_text("mine")
    again = cli(*command, "--max-failed", 1)
    assert again.exit_code == 0, again.output
    assert (out / "notes.txt").read_text() == "mine"
    assert card(out)["compared_with"][0]["name"] == "majority class"


def test_with_videos_to_test_on_the_neighbours_are_training_videos(
    cli: Cli, encoder: Path, videos: Path, tests: Path, tmp_path: Path
) -> None:
    command = ["report-card", encoder, "--on", videos, "--test", tests, *QUICK, "--no-motion"]
    told = cli(*command, "--out", tmp_path / "card")
    assert told.exit_code == 3, told.output  # the broken one is no test video, but to be learnt of
    assert "1 of 16 training videos failed" in told.stderr
    found = card(tmp_path / "card")
    assert found["scores"][0]["expected"] == 6
    assert len(found["map"]["videos"]) == 6
    assert len(found["neighbours"]) == 6
    assert np.sum(found["confusion"]) == 6
    text = (tmp_path / "card" / "index.html").read_text(encoding="utf-8")
    lines = text.partition('id="card-strips">')[2].partition("</script>")[0].split("\n")
    assert len(lines) > 6
    assert all(lines)


def test_of_several_sources_scores_name_theirs_and_of_many_videos_some_are_on_the_map(
    encoder: Path, videos: Path, tests: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(_card_videos, "MAP_MOST", 6)
    monkeypatch.setattr(_card_videos, "QUERIES", 2)
    asked = replace(request(encoder, videos), probes=("knn",))
    out = tmp_path / "card"
    result = run(Request(encoder, (str(videos), str(tests)), (), out, motion=False, probing=asked))
    assert (result.expected, result.failed) == (22, 1)
    assert result.counts == ((1, 22, "videos"), (0, 0, "training videos"))
    titles = [score.title for score in result.scores]
    assert titles == [f"kNN accuracy on {folder}" for folder in (videos, tests)]
    assert len({score.fingerprint for score in result.scores}) == 2
    found = card(out)
    assert len(found["map"]["videos"]) == 6
    assert "6 of the 15 videos." in shown(out)
    for folder, count in ((videos, 16), (tests, 6)):
        told = found["facts"][f"training videos, scores on {folder}"]
        assert f"15 of {count}" in told or f"{count} of {count}" in told
    assert np.sum(found["confusion"]) == 15
    assert 2 <= len(found["neighbours"]) <= 2 + len(found["mistakes"])


def test_videos_of_several_classes_have_a_map_and_no_mistakes(
    encoder: Path, videos: Path, tmp_path: Path
) -> None:
    lines = ["id,actions"]
    (tmp_path / "videos").mkdir()
    told = {"<": "c000 0 1;c001 0 2", "l": "c001 0 1", "r": ""}
    for number, path in enumerate(sorted(videos.rglob('*".mp4'))):
        shutil.copy(path, tmp_path / "videos" / f"v{number}.mp4")
        lines.append(f"v{number},{told[path.name[0]]}")
    (tmp_path / "videos" / "Charades_v1_train.csv").write_text("\n".join(lines) + "\n")
    asked = replace(request(encoder, videos), cache=tmp_path / "cache")
    run(Request(encoder, (f"charades:{tmp_path / 'videos'}",), (), tmp_path / "c", probing=asked))
    found = card(tmp_path / "c")
    assert [score["key"] for score in found["scores"]] == ["knn.mean_ap", "linear.mean_ap"]
    assert found["scores"][0]["expected"] == 15
    assert (found["confusion"], found["mistakes"]) == (None, [])
    assert len(found["map"]["PCA"]) == len(found["neighbours"]) == 15
    assert len(found["motion"]["variants"]) == 4


def test_the_report_of_the_run_has_the_card_s_scores(made: Path, encoder: Path) -> None:
    report(encoder)
    text = (encoder / "report.html").read_text(encoding="utf-8")
    value = card(made)["scores"][0]["value"]
    rows = [re.findall(r"<td[^>]*>(.*?)</td>", row) for row in text.split("<tr>")]
    (row,) = [row for row in rows if row and row[0] == "kNN accuracy"]
    assert row[1] == f"{100 * value:.1f} %"
    assert row[3:6] == ["16", "15", "1"]


# --- people in boxes


@pytest.fixture
def task(playground: Path, index: Path) -> BoxTask:
    return BoxTask(
        *(str(index), playground / "train.csv", playground / "val.csv"),
        playground / "action_list.pbtxt",
    )


def seen_at(encoder: Path, cache: Path, short_px: int = 32) -> probe.Request:
    """How people are seen in these tests."""
    return probe.Request(
        encoder, "", crop_px=32, short_side_px=short_px, cache=cache, workers=0, device="cpu"
    )


def test_actions_of_people_are_scored_by_ava_s_protocol_on_true_boxes(
    encoder: Path, task: BoxTask, tmp_path: Path
) -> None:
    asked = seen_at(encoder, tmp_path)
    found = score_boxes(task, asked)
    truth = read_annotations(task.test)
    frames = {*zip(truth.video.tolist(), truth.timestamp.tolist(), strict=True)}
    assert (found.expected, found.evaluated, found.failed) == (len(frames), len(frames), 0)
    assert found.value is not None
    assert 0 < found.value < 1
    assert found.unit == "key frames"
    made: list[str] = []
    again = score_boxes(task, asked, progress=lambda what, done, total: made.append(what))
    assert again == found
    assert made == []  # nothing was looked at anew


def test_what_the_probes_are_told_of_pictures_and_numbers_holds_for_people_too(
    encoder: Path, task: BoxTask, tmp_path: Path
) -> None:
    asked = seen_at(encoder, tmp_path)
    found = score_boxes(task, asked)
    assert found.protocol["decoder"] == decoder_version("auto")
    assert found.protocol["precision"] == "fp32"
    half = score_boxes(task, replace(asked, precision="bf16"))
    assert half.protocol["precision"] == "bf16"
    larger = score_boxes(task, replace(asked, short_side_px=64))
    banks = [Bank.open(path.parent) for path in tmp_path.glob("*/bank.json")]
    recipes = [dict(bank.identity.details["recipe"]) for bank in banks]
    sizes = sorted((one["short_side_px"], one["precision"]) for one in recipes)
    assert sizes == sorted([(32, "fp32"), (32, "bf16"), (64, "fp32")] * 2)
    assert len({one.fingerprint for one in (found, half, larger)}) == 3
    # of the same short side as the other scores where nobody says it: 32 * 256 / 224
    usual = score_boxes(task, replace(asked, short_side_px=None))
    assert json.loads(usual.protocol["recipe"])["short_side_px"] == 37


def test_a_video_of_people_that_changed_is_looked_at_again_and_compares_with_nothing_before(
    encoder: Path, playground_copy: Path, tmp_path: Path
) -> None:
    (labels,) = playground_copy.glob("*.pbtxt")
    (one,) = {*read_annotations(playground_copy / "val.csv").video.tolist()}
    (path,) = playground_copy.rglob(f"{one}.*")
    task = BoxTask(
        str(path.parent), playground_copy / "train.csv", playground_copy / "val.csv", labels
    )
    asked = seen_at(encoder, tmp_path / "cache")
    before = score_boxes(task, asked)
    rng = np.random.default_rng(0)
    noise = (rng.integers(0, 255, (48, 64, 3)).astype(np.uint8) for _ in range(14 * 10))
    write_video(path, noise, 10)
    after = score_boxes(task, asked)
    assert after.protocol["train"] == before.protocol["train"]
    assert after.protocol["test"] != before.protocol["test"]
    assert after.fingerprint != before.fingerprint
    assert after.value != before.value


def test_a_video_of_people_that_was_set_aside_is_looked_at_again_if_that_is_asked_for(
    encoder: Path, playground_copy: Path, tmp_path: Path
) -> None:
    (labels,) = playground_copy.glob("*.pbtxt")
    one = min(read_annotations(playground_copy / "train.csv").video.tolist())
    (path,) = playground_copy.rglob(f"{one}.*")
    task = BoxTask(
        str(path.parent), playground_copy / "train.csv", playground_copy / "val.csv", labels
    )
    asked = seen_at(encoder, tmp_path / "cache")
    content, times = path.read_bytes(), (path.stat().st_mtime_ns,) * 2
    told = []
    for found, retry in ((b"\0" * len(content), False), (content, False), (content, True)):
        path.write_bytes(found)
        os.utime(path, ns=times)
        told.append(look(task, replace(asked, retry=retry)))
    of_one = told[0].learnt.video == one
    assert [seen.learnt.known[of_one].any() for seen in told] == [False, False, True]
    assert all(seen.learnt.known[~of_one].all() for seen in told)


def test_the_encoder_of_a_classifier_is_shown_people_too(
    encoder: Path, task: BoxTask, tmp_path: Path
) -> None:
    looked = load(encoder)
    network = Classifier(looked.encoder, num_classes=3)
    save_classifier(tmp_path / "run", network, looked.backbone, labels=None, facts={})
    theirs = score_boxes(task, seen_at(tmp_path / "run", tmp_path / "theirs"))
    assert theirs == score_boxes(task, seen_at(encoder, tmp_path / "own"))


def test_the_untrained_network_is_shown_people_and_damaged_clips_as_the_encoder_was(
    encoder: Path, task: BoxTask, tests: Path, tmp_path: Path
) -> None:
    asked = replace(seen_at(encoder, tmp_path / "cache"), views="1x1", probes=("knn",), k=2)
    card_of = Request(
        *(encoder, (str(tests),), (), tmp_path / "card"),
        baselines=("random",),
        boxes=task,
        probing=asked,
    )
    remarks: list[str] = []
    result = run(
        card_of, progress=lambda what, _, total: remarks.append(what) if total < 0 else None
    )
    (rival,) = result.rivals
    ours = {score.key: score for score in result.scores}
    theirs = {score.key: score for score in rival.scores}
    assert {*ours} == {*theirs} == {"knn.top1", "motion.share", "boxes.mean_ap"}
    for key, score in ours.items():
        assert theirs[key].fingerprint == score.fingerprint
    untrained = replace(asked, random=0)
    assert theirs["boxes.mean_ap"] == score_boxes(task, untrained)
    assert theirs["boxes.mean_ap"].value != ours["boxes.mean_ap"].value
    probed = probe.run(replace(untrained, train=str(tests), motion=True))
    assert probed.train.decoded == 0
    assert probed.motion is not None
    assert probed.motion.share is not None
    assert theirs["motion.share"].value == probed.motion.share.value
    assert any("as long again" in remark for remark in remarks)
    costs = card(tmp_path / "card")["costs"]
    assert {"people in boxes took", "the same of the random network took"} <= {*costs}


def test_a_probe_that_is_shown_the_answers_makes_no_mistake(
    encoder: Path, task: BoxTask, tmp_path: Path
) -> None:
    # Trained and tested on the same few boxes, a hundred times fewer than numbers of a feature.
    few = tmp_path / "few.csv"
    lines = task.test.read_text().splitlines()
    kept = dict.fromkeys(line.rsplit(",", 2)[0] for line in lines)
    boxes = {*list(kept)[:4]}
    few.write_text("\n".join(line for line in lines if line.rsplit(",", 2)[0] in boxes) + "\n")
    found = score_boxes(replace(task, train=few, test=few), seen_at(encoder, tmp_path))
    assert found.value == pytest.approx(1.0)


def test_a_key_frame_that_cannot_be_read_is_missed(
    encoder: Path, task: BoxTask, tmp_path: Path
) -> None:
    late = tmp_path / "late.csv"
    first = task.test.read_text().splitlines()[0].split(",")
    lines = [task.test.read_text(), ",".join(["absent", *first[1:]])]
    late.write_text("".join(lines) + "\n")
    found = score_boxes(replace(task, test=late), seen_at(encoder, tmp_path))
    assert found.failed == 1
    assert found.expected == found.evaluated + 1


# --- refused


def test_a_folder_of_something_else_is_left_alone(
    refused: Refused, encoder: Path, videos: Path, tmp_path: Path
) -> None:
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.txt").write_text("all of it")
    message = refused("report-card", encoder, "--on", videos, "--out", tmp_path / "mine")
    assert "mine: holds something else than a report card" in message
    (tmp_path / "file").write_text("")
    message = refused("report-card", encoder, "--on", videos, "--out", tmp_path / "file")
    assert "file: expected a folder, found a file" in message


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--baseline", "chanse"], "majority, random, found 'chanse'; did you mean 'chance'"),
        (["--probes", "knm"], "'knm'; did you mean 'knn'"),
        (["--test", "a", "--test", "b"], "expected a --test for each of the 1 --on, or none"),
        (["--compare", "nothing.json"], "nothing.json: no such file"),
        (["--boxes-on", "videos"], "expected --boxes-on, --boxes-train, --boxes-test and"),
    ],
)
def test_what_makes_no_sense_is_refused_before_any_work(
    refused: Refused, encoder: Path, videos: Path, options: list[str], message: str
) -> None:
    assert message in re.sub(
        r"\s+", " ", refused("report-card", encoder, "--on", videos, "--out", "out", *options)
    )


def test_a_mistake_in_a_file_of_boxes_is_told_of_before_any_video_is_looked_at(
    refused: Refused, encoder: Path, task: BoxTask, videos: Path, tmp_path: Path
) -> None:
    (tmp_path / "train.csv").write_text("not,what,was,meant\n")
    boxes = ["--boxes-on", task.videos, "--boxes-train", str(tmp_path / "train.csv")]
    boxes += ["--boxes-test", str(task.test), "--boxes-labels", str(task.labels)]
    cache = ("--cache", tmp_path / "cache", "--out", tmp_path / "card")
    message = refused("report-card", encoder, "--on", videos, *QUICK, *cache, *boxes)
    assert "train.csv" in message
    assert not (tmp_path / "cache").exists()


def test_what_is_no_encoder_is_refused(refused: Refused, videos: Path) -> None:
    assert "encoder" in refused("report-card", videos, "--on", videos, "--out", "out")


# --- clips


@pytest.fixture
def plans(videos: Path) -> dict[int, Shown]:
    paths = sorted((videos / "right").glob("*.mp4"))
    return {number: Shown(str(path), 0.0, 1.9) for number, path in enumerate(paths)}


def test_large_clips_get_the_best_picture_and_broken_ones_none(
    plans: dict[int, Shown], videos: Path
) -> None:
    plans[5] = Shown(str(videos / "left" / "broken.mp4"), 0.0, 1.0)
    strips = make_strips(plans, [1], 200_000, loader=LoaderConfig(workers=0))
    assert {*strips} == {0, 1, 2, 3, 4}
    assert strips[1].frames == LARGE.frames


def test_clips_shrink_until_they_fit_and_are_left_out_before_they_do_not(
    plans: dict[int, Shown],
) -> None:
    config = LoaderConfig(workers=0)
    free = make_strips(plans, [], 10**9, loader=config)
    tight = make_strips(plans, [], 3000, loader=config)
    assert all(one.frames == LADDER[0].frames for one in free.values())
    assert 0 < sum(len(one.image) for one in tight.values()) <= 3000
    assert make_strips(plans, [], 300, loader=config) == {}
    assert make_strips({}, [], 300, loader=config) == {}


def test_workers_make_the_same_clips(plans: dict[int, Shown]) -> None:
    here = make_strips(plans, [0], 100_000, loader=LoaderConfig(workers=0))
    there = make_strips(plans, [0], 100_000, loader=LoaderConfig(workers=2))
    assert here == there
