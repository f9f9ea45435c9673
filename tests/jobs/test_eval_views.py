"""``vidssl eval-ava`` over several views: means of single ones, told of in the fingerprint."""

import json
import shutil
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import nn
from typer.testing import Result

from vidssl.augment.views import DetectionConfig
from vidssl.ava.annotations import read_predictions
from vidssl.data import keyframes
from vidssl.data.keyframes import KeyFramePlan, KeyFrameSample, Moment, Reading, read_keyframes
from vidssl.jobs import _detector as shared
from vidssl.train.weights import save_weights
from vidssl.video.reader import open_reader
from vidssl.video.write import write_video

Cli = Callable[..., Result]
Refused = Callable[..., str]
Evaluate = Callable[..., dict[str, Any]]
CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def run(detector: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A detector whose scores are not all a half."""
    folder = tmp_path_factory.mktemp("views") / "run"
    shutil.copytree(detector, folder)
    trained = shared.load_detector(folder)
    torch.manual_seed(0)
    nn.init.normal_(trained.detector.classifier.weight, std=1.0)
    rewrite(folder, trained, {})
    return folder


def rewrite(folder: Path, trained: shared.Trained, augment: dict[str, Any]) -> None:
    """Write a detector anew, with its recipe's augmentation changed."""
    card = json.loads((folder / "detector.json").read_text())
    card["recipe"]["augment"] |= augment
    card.pop("hash")
    save_weights(folder, "detector", trained.detector, card)


@pytest.fixture(scope="module")
def evaluate(cli: Cli, run: Path, playground: Path, index: Path) -> Evaluate:
    def ask(*more: object) -> dict[str, Any]:
        result = cli(
            *("eval-ava", "--checkpoint", run, "--videos", index, "--quick"),
            *("--boxes", playground / "val_person_detections.csv"),
            *("--annotations", playground / "val.csv"),
            *("--labels", playground / "action_list.pbtxt", "--json", "-", *more),
        )
        assert result.exit_code == 0, result.output
        told: dict[str, Any] = json.loads(result.stdout)
        return told

    return ask


def scores(told: dict[str, Any]) -> NDArray[np.float64]:
    return read_predictions(Path(told["predictions"])).score


def test_scores_are_the_mean_over_the_views(evaluate: Evaluate) -> None:
    # Decoded at 48, which is the recipe's; smaller scales come of the same pictures.
    singles = {side: scores(evaluate("--scales", side)) for side in (32, 40, 48)}
    assert np.abs(singles[32] - singles[48]).max() > 0.01
    several = evaluate("--scales", "48,32, 40")
    assert scores(several) == pytest.approx(np.mean(list(singles.values()), axis=0), abs=2e-6)
    # flip = (plain + mirrored) / 2 at each scale, so of two scales the mean of both.
    flipped = {side: scores(evaluate("--scales", side, "--flip")) for side in (32, 48)}
    assert np.abs(flipped[32] - singles[32]).max() > 1e-3
    both = evaluate("--scales", "32,48", "--flip")
    assert scores(both) == pytest.approx(np.mean(list(flipped.values()), axis=0), abs=2e-6)
    folders = {Path(told["predictions"]).parent.name for told in (several, both)}
    assert len(folders) == 2
    assert both["protocol"]["views"] == "4 (short sides 32, 48 px; mirrored too)"


def test_one_view_is_what_it_was(evaluate: Evaluate) -> None:
    plain, said = evaluate(), evaluate("--scales", 48, "--clips", 1)
    assert plain == said  # the folder as well: it is the same evaluation
    assert plain["protocol"]["views"] == "1 (short side 48 px)"


def test_several_clips_are_the_mean_of_each(
    evaluate: Evaluate, cli: Cli, run: Path, playground: Path, index: Path, tmp_path: Path
) -> None:
    # A stride of 4 frames at 30 a second, a third of it: 2/45 s. Boxes moved in time give the
    # clips one by one.
    three = evaluate("--clips", 3)
    told = "3 (short side 48 px; clips at -0.044, +0.000, +0.044 s)"
    assert three["protocol"]["views"] == told
    table = read_predictions(Path(three["predictions"]))
    rows = [r.split(",") for r in (playground / "val_person_detections.csv").read_text().split()]
    singles = []
    for shift_s in (-2 / 45, 0.0, 2 / 45):
        moved = [",".join([r[0], f"{float(r[1]) + shift_s:.9f}", *r[2:]]) for r in rows]
        (tmp_path / "boxes.csv").write_text("\n".join(moved))
        request = ("--boxes", tmp_path / "boxes.csv", "--time-origin", 0)
        one = read_predictions(Path(evaluate(*request)["predictions"]))
        full = one.action > 0
        singles.append(one.score[full])
        assert (one.box[full] == table.box[table.action > 0]).all()
    assert np.abs(singles[0] - singles[2]).max() > 1e-3
    expected = np.mean(singles, axis=0)
    assert table.score[table.action > 0] == pytest.approx(expected, abs=2e-6)


def test_a_key_frame_s_clips_are_decoded_in_one_go(
    playground: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    video = playground / "videos" / "val_000.mp4"
    box = np.array([[0.1, 0.1, 0.5, 0.5]])
    moments = tuple(
        Moment("val_000", s, box, np.zeros((1, 0), np.bool_), np.ones(1)) for s in (3.0, 4.0)
    )
    reading = Reading(frames=4, stride=6, shifts_s=(-0.05, 0.0, 0.05))
    asked: list[NDArray[np.float64]] = []
    opened = open_reader

    def counting(*arguments: Any) -> Any:
        reader = opened(*arguments)
        frames_at = reader.frames_at

        def noting(times_s: NDArray[np.float64], *more: Any) -> Any:
            asked.append(times_s)
            return frames_at(times_s, *more)

        monkeypatch.setattr(reader, "frames_at", noting)
        return reader

    monkeypatch.setattr(keyframes, "open_reader", counting)
    samples = read_keyframes(reading, None, KeyFramePlan(str(video), moments, (0, 0)))
    assert [len(times_s) for times_s in asked] == [2 * 3 * 4]
    for sample in samples:
        for number, shift_s in enumerate(reading.shifts_s):
            alone = replace(sample.moment, timestamp=sample.moment.timestamp + shift_s)
            (one,) = read_keyframes(Reading(4, 6), None, KeyFramePlan(str(video), (alone,), (0,)))
            assert torch.equal(sample.clip[4 * number : 4 * number + 4], one.clip)


# --- mirrored


def sample_of(clip: torch.Tensor, boxes: NDArray[np.float64]) -> KeyFrameSample:
    people = len(boxes)
    moment = Moment("v", 1.0, boxes, np.zeros((people, 0), np.bool_), np.ones(people))
    return KeyFrameSample(moment, clip)


def mirror(boxes: NDArray[np.float64]) -> NDArray[np.float64]:
    x1, y1, x2, y2 = boxes.T
    return np.stack([1 - x2, y1, 1 - x1, y2], axis=1)


def test_a_mirrored_clip_with_mirrored_boxes_seen_mirrored_is_the_clip_itself(run: Path) -> None:
    torch.manual_seed(0)
    clip = torch.randint(0, 256, (4, 48, 64, 3), dtype=torch.uint8)
    boxes = np.array([[0.1, 0.2, 0.4, 0.9], [0.5, 0.0, 1.0, 0.5]])
    config = DetectionConfig(short_side_px=(48, 48), crop_px=None, test_short_side_px=48)
    plain, mirrored = (
        shared.batcher(config, 16, CPU, training=False, mirrored=way) for way in (False, True)
    )
    itself = plain([sample_of(clip, boxes)], 0)
    back = mirrored([sample_of(clip.flip(2), mirror(boxes))], 0)
    assert torch.equal(itself.clips, back.clips)
    assert torch.allclose(itself.boxes[0], back.boxes[0], atol=1e-6)
    detector = shared.load_detector(run).detector.eval()
    with torch.no_grad():
        one, two = (detector.logits(batch.clips, batch.boxes) for batch in (itself, back))
        other = mirrored([sample_of(clip, boxes)], 0)
        three = detector.logits(other.clips, other.boxes)
    assert torch.allclose(one, two, atol=1e-4)
    assert not torch.allclose(one, three, atol=1e-2)


def grey_pictures(*, mirrored: bool) -> Iterator[NDArray[np.uint8]]:
    """Give ten pictures a second: noise that only this one has."""
    for number in range(40):
        cells = np.random.default_rng(number).integers(0, 256, (6, 8, 1), np.uint8)
        picture = np.broadcast_to(np.kron(cells, np.ones((8, 8, 1), np.uint8)), (48, 64, 3))
        yield (picture[:, ::-1] if mirrored else picture).copy()


def test_a_mirrored_video_scores_the_same_where_mirrored_pictures_count(
    cli: Cli, run: Path, playground: Path, tmp_path: Path
) -> None:
    boxes = np.array([[0.1, 0.2, 0.4, 0.9], [0.5, 0.0, 1.0, 0.5]])
    found: dict[tuple[bool, bool], NDArray[np.float64]] = {}
    for mirrored in (False, True):
        folder = tmp_path / str(mirrored)
        folder.mkdir()
        write_video(folder / "v.mp4", grey_pictures(mirrored=mirrored), 10, crf=0)
        rows = (mirror(boxes) if mirrored else boxes).tolist()
        lines = [",".join(["v", "2", *(f"{x:.6f}" for x in row)]) for row in rows]
        (folder / "boxes.csv").write_text("".join(f"{line},,0.9\n" for line in lines))
        (folder / "true.csv").write_text("".join(f"{line},1,7\n" for line in lines))
        for flip in (False, True):
            result = cli(
                *("eval-ava", "--checkpoint", run, "--videos", folder, "--quick"),
                *("--boxes", folder / "boxes.csv", "--annotations", folder / "true.csv"),
                *("--labels", playground / "action_list.pbtxt", "--time-origin", 0),
                *("--json", "-", *(["--flip"] if flip else [])),
            )
            assert result.exit_code == 0, result.output
            found[mirrored, flip] = scores(json.loads(result.stdout))
    assert found[True, True] == pytest.approx(found[False, True], abs=1e-4)
    assert np.abs(found[True, False] - found[False, False]).max() > 0.01


# --- what it is told of, and where it goes


def test_scores_of_other_views_are_not_compared(
    evaluate: Evaluate, cli: Cli, run: Path, playground: Path, index: Path, tmp_path: Path
) -> None:
    (tmp_path / "one.json").write_text(json.dumps(evaluate()))
    result = cli(
        *("eval-ava", "--checkpoint", run, "--videos", index, "--quick", "--flip"),
        *("--boxes", playground / "val_person_detections.csv"),
        *("--annotations", playground / "val.csv", "--labels", playground / "action_list.pbtxt"),
        *("--compare", tmp_path / "one.json"),
    )
    assert "NOT COMPARABLE" in result.stdout
    line = "views: 1 (short side 48 px) and 2 (short side 48 px; mirrored too)"
    assert line in " ".join(result.stdout.split())


def test_an_evaluation_does_not_take_the_place_of_another(
    evaluate: Evaluate, run: Path, tmp_path: Path
) -> None:
    for folder in run.glob("eval-*"):
        shutil.rmtree(folder)
    first = evaluate()
    assert Path(first["predictions"]) == run / "eval-val" / "predictions.csv"
    kept = (run / "eval-val" / "score.json").read_bytes()
    second = evaluate("--min-score", 0.6)
    assert Path(second["predictions"]).parent.name == "eval-val-2"
    assert (run / "eval-val" / "score.json").read_bytes() == kept
    for again, name in ((("--min-score", 0.6), "eval-val-2"), ((), "eval-val")):
        assert Path(evaluate(*again)["predictions"]).parent.name == name
    # What was not finished is done again, and what the detector scored before more training.
    (run / "eval-val" / "score.json").write_text("{")
    assert evaluate() == first
    stale = json.loads((run / "eval-val" / "score.json").read_text())
    stale["protocol"]["detector"] = "0" * 16
    (run / "eval-val" / "score.json").write_text(json.dumps(stale))
    assert evaluate() == first
    assert sorted(path.name for path in run.glob("eval-*")) == ["eval-val", "eval-val-2"]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("--clips", 0), "--clips: expected an odd number from 1, found 0"),
        (("--clips", 2), "--clips: expected an odd number from 1, found 2"),
        (("--clips", -1), "--clips: expected an odd number from 1, found -1"),
        (("--scales", "48,48"), "--scales: 48 is there twice"),
        (("--scales", "48,x"), "--scales: expected short sides in pixels, as 224,256,320, found"),
        (("--scales", ""), "--scales: expected short sides in pixels"),
        (("--scales", "0"), "--scales: expected short sides in pixels"),
    ],
)
def test_views_that_make_no_sense_are_refused(
    refused: Refused, run: Path, playground: Path, index: Path, options: Any, message: str
) -> None:
    told = refused(
        *("eval-ava", "--checkpoint", run, "--videos", index, *options),
        *("--boxes", playground / "val_person_detections.csv"),
        *("--annotations", playground / "val.csv", "--labels", playground / "action_list.pbtxt"),
    )
    assert message in told
    told = refused(
        *("detect", playground / "videos" / "val_000.mp4", "--checkpoint", run, "--out", "out"),
        *("--boxes", playground / "val_person_detections.csv", *options),
    )
    assert message in told


def test_a_scale_below_the_crop_of_training_is_refused(
    refused: Refused, run: Path, playground: Path, index: Path, tmp_path: Path
) -> None:
    shutil.copytree(run, tmp_path / "cropped")
    rewrite(tmp_path / "cropped", shared.load_detector(run), {"crop_px": 48})
    told = refused(
        *("eval-ava", "--checkpoint", "cropped", "--videos", index, "--scales", "64,40"),
        *("--boxes", playground / "val_person_detections.csv"),
        *("--annotations", playground / "val.csv", "--labels", playground / "action_list.pbtxt"),
    )
    assert "--scales: 40 is shorter than the crop of 48 pixels" in told


def test_views_are_nothing_to_a_file_of_predictions(
    refused: Refused, playground: Path, tmp_path: Path
) -> None:
    (tmp_path / "found.csv").write_text("v,0001,0.1,0.1,0.5,0.5,1,0.9\n")
    told = refused(
        *("eval-ava", "--predictions", "found.csv", "--scales", "48", "--flip", "--clips", 3),
        *("--annotations", playground / "val.csv", "--labels", playground / "action_list.pbtxt"),
    )
    assert "leave out --scales, --flip, --clips" in told


def test_detect_scores_as_eval_ava_does(
    evaluate: Evaluate, cli: Cli, run: Path, playground: Path, tmp_path: Path
) -> None:
    options = ("--scales", "32,48", "--flip", "--clips", 3)
    theirs = read_predictions(Path(evaluate(*options)["predictions"]))
    result = cli(
        *("detect", playground / "videos" / "val_000.mp4", "--checkpoint", run, *options),
        *("--boxes", playground / "val_person_detections.csv", "--out", tmp_path / "out"),
    )
    assert result.exit_code == 0, result.output
    ours = read_predictions(tmp_path / "out" / "predictions.csv")
    assert (ours.score == theirs.score[theirs.action > 0]).all()
    told = json.loads((tmp_path / "out" / "detections.json").read_text())
    assert told["made_by"]["views"].startswith("12 (short sides 32, 48 px; mirrored too; clips at")
