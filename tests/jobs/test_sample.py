"""The sheet of samples: the views of training, in its order, from real tiny videos."""

import io
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from typer.testing import Result

from vidssl.augment.views import MEAN, STD, normalise
from vidssl.data.clips import ClipDataset, ClipSample
from vidssl.errors import AnnotationError, OutputError, SourceError
from vidssl.jobs import _training as training
from vidssl.jobs import pretrain
from vidssl.jobs.index import run as index
from vidssl.jobs.sample import (
    augmented,
    boxes_of,
    crop_box,
    facts_of,
    prepared,
    run,
    run_detection,
)
from vidssl.methods import Batch
from vidssl.recipe import Detection, Pretrain, find, load
from vidssl.report.sheet import WIDTH
from vidssl.train.trainer import Trainer
from vidssl.video.index import ClipIndex
from vidssl.video.probe import VideoFacts
from vidssl.video.write import write_video

Cli = Callable[..., Result]
SMALL = ["augment.crop_px=32", "backbone.width=8", "backbone.frames=8", "backbone.alpha=4"]


@pytest.fixture(scope="module")
def videos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Four videos of 2 s, and one that is none."""
    folder = tmp_path_factory.mktemp("videos")
    for number in range(4):
        rng = np.random.default_rng(number)
        blocks = rng.integers(0, 256, (6, 8, 3)).repeat(8, axis=0).repeat(8, axis=1)
        frames = [np.roll(blocks.astype(np.uint8), 2 * step, axis=1) for step in range(50)]
        write_video(folder / f"clip_{number}.mp4", frames, 25)
    (folder / "broken.mp4").write_bytes(b"no video")
    return folder


def plan(*overrides: str) -> Pretrain:
    return load(Pretrain, find(Pretrain, "moco_small"), [*SMALL, *overrides])


def a_sample(videos: Path, folder: Path, recipe: Pretrain) -> ClipSample:
    index(str(videos / "clip_0.mp4"), folder / "index.parquet", workers=1)
    dataset = ClipDataset(
        ClipIndex(folder / "index.parquet"),
        frames=recipe.backbone.frames,
        stride=recipe.backbone.stride,
        views=2,
        seed=recipe.seed,
    )
    return dataset[0]


def a_trainer(recipe: Pretrain) -> Trainer:
    method = recipe.method.build(recipe.backbone.build())
    return training.trainer(method, recipe, 1, "of one video")


def test_a_sheet_has_a_row_for_each_view_of_each_video(videos: Path, tmp_path: Path) -> None:
    result = run(str(videos), plan(), tmp_path / "sheet.png", count=5)
    named = {f"clip_{number}.mp4" for number in range(4)}
    assert {Path(view.video).name for view in result.views} == named
    assert [view.view for view in result.views] == [0, 1] * 4
    for view in result.views:
        # 8 frames, 2 steps of 1/30 s apart, of a video of 25 a second: within a frame of 14/30 s.
        assert view.end_s - view.start_s == pytest.approx(14 / 30, abs=1 / 25 + 1e-6)
        assert 0 <= view.start_s < view.end_s < 2
    with Image.open(io.BytesIO(result.path.read_bytes())) as image:
        assert image.format == "PNG"
        assert image.width == int(WIDTH * 144)


def test_clips_are_chosen_as_the_recipe_says(videos: Path, tmp_path: Path) -> None:
    # 16 frames, 8 apart at 30 a second, are 4 s: two rounds of a video of 2 s.
    longer = ("backbone.frames=16", "backbone.stride=8")
    spans = []
    for short in ("repeat", "loop"):
        recipe = plan(*longer, f"sampling.short_videos={short}")
        result = run(str(videos), recipe, tmp_path / f"{short}.png", count=1 + 4)
        spans.append({view.end_s - view.start_s for view in result.views})
    assert all(span > 1.9 for span in spans[0])
    assert all(span < 1.9 for span in spans[1])
    assert (tmp_path / "repeat.png").read_bytes() != (tmp_path / "loop.png").read_bytes()


def test_a_broken_video_is_named_with_its_reason(videos: Path, tmp_path: Path) -> None:
    result = run(str(videos), plan(), tmp_path / "sheet.png", count=5)
    assert list(result.set_aside) == [str(videos / "broken.mp4")]
    assert "cannot be opened as a video" in result.set_aside[str(videos / "broken.mp4")]


def test_few_videos_are_taken_evenly_and_only_they_are_looked_at(
    videos: Path, tmp_path: Path
) -> None:
    told: list[tuple[str, int, int]] = []

    def progress(what: str, done: int, total: int) -> None:
        told.append((what, done, total))

    result = run(str(videos), plan(), tmp_path / "s.png", count=3, progress=progress)
    # Of broken, 0, 1, 2, 3 the first, the middle and the last; the first cannot be used.
    names = {Path(view.video).name for view in result.views}
    assert names == {"clip_1.mp4", "clip_3.mp4"}
    assert [t for t in told if t[0] == "looking at videos"][-1] == ("looking at videos", 3, 3)
    assert told[-1] == ("drawing clips", 2, 2)


def test_the_same_seed_draws_the_same_sheet_and_another_another(
    videos: Path, tmp_path: Path
) -> None:
    sheets = []
    for number, seed in enumerate((1, 1, 2)):
        path = tmp_path / f"{number}.png"
        run(str(videos), plan(f"seed={seed}"), path, count=2)
        sheets.append(path.read_bytes())
    assert sheets[0] == sheets[1]
    assert sheets[0] != sheets[2]


def test_a_view_is_that_of_training_in_colours_that_can_be_shown(
    videos: Path, tmp_path: Path
) -> None:
    recipe = plan()
    sample = a_sample(videos, tmp_path, recipe)
    fed_BCTHW = pretrain._on_device(recipe, a_trainer(recipe))([sample], 0).views[1]
    shown = torch.from_numpy(augmented(sample, 1, recipe.augment))
    assert shown.shape == (8, 32, 32, 3)
    back_BCTHW = normalise(shown.permute(3, 0, 1, 2)[None].float() / 255)
    inside = fed_BCTHW.clamp((0 - MEAN) / STD, (1 - MEAN) / STD)
    # Half a grey level of 255, in units of the deviation.
    assert (back_BCTHW - inside).abs().max() <= 0.5 / 255 / STD + 1e-6


def test_the_drawn_crop_is_what_the_view_keeps(videos: Path, tmp_path: Path) -> None:
    recipe = plan("augment.jitter=0", "augment.grey=0", "augment.blur=0", "augment.flip=0")
    sample = a_sample(videos, tmp_path, recipe)
    for view, clip_THWC in enumerate(sample.views):
        left, top, right, bottom = crop_box(sample, view, recipe.augment)[0] * [64, 48, 64, 48]
        kept_HWC = clip_THWC[0, round(top) : round(bottom), round(left) : round(right)]
        size = (recipe.augment.crop_px, recipe.augment.crop_px)
        expected = torch.nn.functional.interpolate(
            kept_HWC.permute(2, 0, 1)[None].float(), size, mode="bilinear", antialias=True
        )[0].permute(1, 2, 0)
        shown = torch.from_numpy(augmented(sample, view, recipe.augment))[0]
        assert (shown - expected).abs().max() <= 1.5


def test_the_rows_of_an_index_are_believed(videos: Path, tmp_path: Path) -> None:
    index(str(videos), tmp_path / "index.parquet", workers=1)
    told: list[str] = []

    def progress(what: str, done: int, total: int) -> None:
        told.append(what)

    source = str(tmp_path / "index.parquet")
    result = run(source, plan(), tmp_path / "s.png", count=9, progress=progress)
    assert len(result.views) == 8
    assert set(told) == {"drawing clips"}


def test_a_source_without_a_usable_video_is_refused(videos: Path, tmp_path: Path) -> None:
    broken = str(videos / "broken.mp4")
    told = (
        f"^{broken}: none of the 1 videos looked at can be decoded:\n  {broken}: cannot be opened"
    )
    with pytest.raises(SourceError, match=told):
        run(broken, plan(), tmp_path / "s.png")
    assert not list(tmp_path.iterdir())


def test_a_sheet_is_a_png(videos: Path, tmp_path: Path) -> None:
    with pytest.raises(OutputError, match=r"s\.jpg: the sheet is a picture; expected .* \.png"):
        run(str(videos), plan(), tmp_path / "s.jpg")


def test_no_videos_at_all_is_a_wrong_call(videos: Path, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="expected at least 1 video, got 0"):
        run(str(videos), plan(), tmp_path / "s.png", count=0)


def test_the_facts_are_told_in_plain_words() -> None:
    row = VideoFacts(
        "a.mov",
        codec="h264",
        width=568,
        height=320,
        fps=29.97003,
        variable_rate=True,
        rotation=90,
        duration_s=12.5,
        frames=1,
        keyframes_s=[0.0, 1.0, 2.0, 6.5],
        cut_off=True,
        decoder="pyav-1",
    )
    assert facts_of(row).split("  ·  ") == [
        "h264",
        "568 × 320",
        "29.97 frames a second, uneven",
        "12.50 s",
        "1 frame",
        "turned by 90°",
        "a key frame every 1.00 s (at most 4.50 s)",
        "cut off",
        "decoded by pyav-1",
    ]


# --- detection recipes


def detection_plan(tiny: dict[str, Path], *overrides: str) -> Detection:
    return load(Detection, tiny["detection"], overrides)


def test_the_people_of_a_detection_recipe_are_drawn(
    playground: Path, tiny: dict[str, Path], tmp_path: Path
) -> None:
    result = run_detection(
        str(playground / "videos"),
        detection_plan(tiny),
        playground / "train.csv",
        tmp_path / "sheet.png",
        labels=playground / "action_list.pbtxt",
        count=2,
    )
    names = {Path(view.video).name for view in result.views}
    assert len(names) == 2
    assert all(name.startswith("train_") for name in names)  # the others have no annotation there
    assert [view.view for view in result.views] == [0, 1, 0, 1]
    for view in result.views:
        # 4 frames, 4 steps of 1/30 s apart, the third of them the key frame at a whole second.
        assert view.start_s + 2 * 4 / 30 == pytest.approx(round(view.start_s + 2 * 4 / 30))
        assert view.end_s - view.start_s == pytest.approx(3 * 4 / 30)
    with Image.open(io.BytesIO(result.path.read_bytes())) as image:
        yellow = np.abs(np.asarray(image).astype(int) - [0xF0, 0xE4, 0x42]).max(axis=2) <= 6
    assert yellow.sum() > 300


def test_annotations_of_other_videos_are_refused(
    videos: Path, playground: Path, tiny: dict[str, Path], tmp_path: Path
) -> None:
    with pytest.raises(AnnotationError, match="ids are file names"):
        run_detection(
            str(videos), detection_plan(tiny), playground / "train.csv", tmp_path / "s.png"
        )
    assert not list(tmp_path.iterdir())


def test_from_the_command_line_both_kinds_of_recipes(
    cli: Cli, playground: Path, tiny: dict[str, Path], tmp_path: Path
) -> None:
    out = tmp_path / "s.png"
    source = (playground / "videos", "--out", out, "--count", 1)
    done = cli("sample", *source, "--recipe", tiny["pretrain"])
    assert done.exit_code == 0, done.output
    assert f"{out}: 2 views of 1 videos" in done.stdout
    annotated = ("--annotations", playground / "train.csv")
    done = cli("sample", *source, "--recipe", tiny["detection"], *annotated)
    assert done.exit_code == 0, done.output
    told = cli("sample", *source, "--recipe", "slowfast_r50_ava")
    assert told.exit_code == 2
    assert "slowfast_r50_ava: a detection recipe; give --annotations with it" in told.stderr
    told = cli("sample", *source, "--recipe", tiny["pretrain"], "--labels", "x.pbtxt")
    assert told.exit_code == 2
    assert "--labels names the actions of --annotations; give both" in told.stderr


# --- what a method's task adds


def test_the_patches_of_a_task_are_seen_and_its_boxes_follow_them(
    videos: Path, tmp_path: Path
) -> None:
    changes = ["augment.crop_px=32", "method.game.patches=5"]
    recipe = load(Pretrain, find(Pretrain, "ctp_small"), changes)
    sample = a_sample(videos, tmp_path, recipe)
    sample = replace(sample, views=sample.views[:1], times_s=sample.times_s[:1])
    batch = prepared(sample, recipe)
    fed = pretrain._on_device(recipe, a_trainer(recipe))([sample], 0)
    assert torch.equal(batch.views[0], fed.views[0])
    boxes = boxes_of(batch, 0)
    assert boxes is not None
    assert [frame.shape for frame in boxes] == [(5, 4)] * 8
    assert np.allclose(boxes[5], fed.targets["boxes"][0, :, 5])


def test_only_boxes_that_stand_are_drawn_and_on_their_own_view() -> None:
    boxes = torch.rand(1, 2, 3, 4)
    valid = torch.tensor([[[True, False, True], [False, True, False]]])
    views = (torch.zeros(1, 3, 5, 8, 8),) * 2
    batch = Batch(views, targets={"boxes": boxes, "boxes_valid": valid})
    for view, standing in enumerate(([0, 2], [1])):
        found = boxes_of(batch, view)
        assert found is not None
        assert len(found) == 5
        assert np.allclose(found[4], boxes[0, view, standing])
    assert boxes_of(Batch(views), 0) is None


@pytest.mark.parametrize("recipe", ["ctp_small", "const_cl_small"])
def test_the_boxes_of_a_task_are_drawn(recipe: str, videos: Path, tmp_path: Path) -> None:
    plan = load(Pretrain, find(Pretrain, recipe), ["augment.crop_px=64"])
    result = run(str(videos), plan, tmp_path / "s.png", count=3)
    with Image.open(io.BytesIO(result.path.read_bytes())) as image:
        yellow = np.abs(np.asarray(image).astype(int) - [0xF0, 0xE4, 0x42]).max(axis=2) <= 6
    assert yellow.sum() > 1000


def test_people_are_drawn_from_their_file(cli: Cli, playground: Path, tmp_path: Path) -> None:
    out = tmp_path / "s.png"
    words = ("sample", playground / "videos", "--out", out, "--recipe", "const_cl_small")
    told = cli(*words, "--set", "method.boxes=table")
    assert told.exit_code == 2
    assert "const_cl takes people from a file: give it with --boxes" in told.stderr
    boxes = ("--boxes", playground / "train_person_detections.csv")
    told = cli(*words, *boxes)
    assert told.exit_code == 2
    assert "--boxes: method const_cl of this recipe takes none" in told.stderr
    done = cli(*words, "--set", "method.boxes=table", *boxes, "--count", 2)
    assert done.exit_code == 0, done.output
    with Image.open(io.BytesIO(out.read_bytes())) as image:
        yellow = np.abs(np.asarray(image).astype(int) - [0xF0, 0xE4, 0x42]).max(axis=2) <= 6
    assert yellow.sum() > 1000
