"""``vidssl extract-features`` from the user's side: the bank, and everything that does not fit."""

import json
import random
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from importlib.metadata import entry_points
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
from torchvision.ops import roi_align
from typer.testing import Result

from vidssl.augment import geometry
from vidssl.augment.views import normalise
from vidssl.jobs import extract_features
from vidssl.jobs._detector import load_encoder
from vidssl.progress import silent
from vidssl.recipe import Extract, load
from vidssl.video.reader import open_reader
from vidssl.video.sampling import centred_times

(ENTRY,) = entry_points(group="console_scripts", name="vidssl")
PACKAGE = ENTRY.module.partition(".")[0]
Cli = Callable[..., Result]
Refused = Callable[..., str]


@pytest.fixture
def arguments(
    tiny: dict[str, Path], detector: Path, index: Path, playground: Path
) -> Callable[..., list[object]]:
    """What makes the session's bank, with some arguments changed."""

    def make(**changed: object) -> list[object]:
        boxes = [playground / f"{split}_person_detections.csv" for split in ("train", "val")]
        return [
            *("extract-features", tiny["extract"], "--encoder", changed.get("encoder", detector)),
            *("--videos", changed.get("videos", index), "--boxes", changed.get("boxes", boxes[0])),
            *("--boxes", boxes[1], "--out", changed.get("out", "bank")),
        ]

    return make


Arguments = Callable[..., list[object]]


def test_a_bank_holds_what_scripts_rely_on(bank: Path, detector: Path, playground: Path) -> None:
    manifest = json.loads((bank / "bank.json").read_text())
    card = json.loads((detector / "encoder.json").read_text())
    assert manifest["complete"] is True
    assert (manifest["dtype"], manifest["dim"]) == ("float16", card["features"])
    assert manifest["encoder_hash"] == card["hash"]
    assert manifest["identity"].keys() >= {"recipe", "boxes", "videos", "decoder"}
    names = [f"shard-{i:05d}.{suffix}" for i in range(4) for suffix in ("json", "npy", "parquet")]
    assert sorted(path.name for path in bank.iterdir()) == ["bank.json", *sorted(names)]

    wanted = 0
    for split in ("train", "val"):
        lines = (playground / f"{split}_person_detections.csv").read_text().splitlines()
        wanted += sum(float(line.rsplit(",", 1)[1]) >= 0.5 for line in lines)
    rows = 0
    for shard in range(4):
        features = np.load(bank / f"shard-{shard:05d}.npy")
        table = pq.read_table(bank / f"shard-{shard:05d}.parquet")
        assert set(table.column_names) >= {"video", "second", "x1", "y2", "score", "row"}
        assert features.shape == (len(table), manifest["dim"])
        assert np.isfinite(features).all()
        rows += len(table)
    assert rows == wanted


def test_json_alone_goes_to_stdout_and_progress_to_stderr(
    cli: Cli, arguments: Arguments, bank: Path, tmp_path: Path
) -> None:
    result = cli(*arguments(out=tmp_path / "bank"), "--json", "-")
    told = json.loads(result.stdout)
    assert told["videos"] == 4
    assert told["rows"] > told["keyframes"] > 40  # 4 videos of 14 s, nearly every second
    assert told["failed_keyframes"] == 0
    assert told["unusable_videos"] == {}
    assert "extracting features:" in result.stderr
    for path in bank.iterdir():  # and what is made again has the same bytes
        assert (tmp_path / "bank" / path.name).read_bytes() == path.read_bytes()


def test_a_finished_bank_asked_again_stays_as_it_is(
    cli: Cli, arguments: Arguments, bank: Path, tmp_path: Path
) -> None:
    copy = Path(shutil.copytree(bank, tmp_path / "bank"))
    result = cli(*arguments(out=copy))
    assert result.exit_code == 0
    assert "extracting" not in result.stderr
    assert "0 failed" in result.stdout


def test_a_damaged_shard_is_made_again(
    cli: Cli, arguments: Arguments, bank: Path, tmp_path: Path
) -> None:
    copy = Path(shutil.copytree(bank, tmp_path / "bank"))
    content = (copy / "shard-00002.npy").read_bytes()
    (copy / "shard-00002.npy").write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
    (copy / "shard-00001.parquet").write_bytes(b"PAR1")
    before = {path.name: path.stat().st_mtime_ns for path in copy.glob("shard-*")}
    assert cli(*arguments(out=copy)).exit_code == 0
    for path in bank.iterdir():
        assert (copy / path.name).read_bytes() == path.read_bytes()
    made_again = {name for name, at in before.items() if (copy / name).stat().st_mtime_ns != at}
    assert {name[:11] for name in made_again} == {"shard-00001", "shard-00002"}


def test_a_broken_video_is_set_aside_and_its_key_frames_counted(
    cli: Cli, arguments: Arguments, playground_copy: Path, tmp_path: Path
) -> None:
    (playground_copy / "videos" / "train_001.mp4").write_text("not a video")
    command = arguments(videos=playground_copy / "videos", out=tmp_path / "bank")
    result = cli(*command)
    assert result.exit_code == 3  # a bank that lacks more than a hundredth
    assert "key frames failed, more than 1.00%" in result.stderr
    assert json.loads((tmp_path / "bank" / "bank.json").read_text())["complete"]
    assert cli(*command, "--max-failed", "0.5").exit_code == 0
    assert "from 3 videos" in result.stdout
    assert "set aside: train_001: " in result.stdout
    failed = int(result.stdout.split(" key frames, ")[1].split(" failed")[0])
    assert failed >= 10


def test_a_video_that_goes_bad_after_the_index_is_named_and_counted(
    cli: Cli, arguments: Arguments, playground_copy: Path, tmp_path: Path
) -> None:
    cli("index", playground_copy / "videos", "--out", tmp_path / "i.parquet")
    (playground_copy / "videos" / "train_001.mp4").write_text("damaged since")
    result = cli(*arguments(videos=tmp_path / "i.parquet", out=tmp_path / "bank"), "--json", "-")
    assert result.exit_code == 3
    told = json.loads(result.stdout)
    assert told["expected_keyframes"] == told["keyframes"] > 40
    assert told["failed_keyframes"] >= 10
    assert told["unusable_videos"].keys() == {"train_001"}


def test_another_try_reads_what_failed_and_leaves_the_rest(
    cli: Cli, arguments: Arguments, bank: Path, playground_copy: Path, tmp_path: Path
) -> None:
    video, whole = playground_copy / "videos" / "train_001.mp4", tmp_path / "bank"
    cli("index", playground_copy / "videos", "--out", tmp_path / "i.parquet")
    command = arguments(videos=tmp_path / "i.parquet", out=whole)
    good = video.read_bytes()
    video.write_text("damaged since")
    assert cli(*command).exit_code == 3
    before = {path.name: path.stat().st_mtime_ns for path in whole.glob("*.npy")}
    assert cli(*command, "--retry").exit_code == 3  # it still is
    video.write_bytes(good)
    result = cli(*command, "--retry")
    assert result.exit_code == 0, result.output
    for path in bank.iterdir():  # as if it had been whole from the beginning
        assert (whole / path.name).read_bytes() == path.read_bytes()
    made_again = {name for name, at in before.items() if (whole / name).stat().st_mtime_ns != at}
    assert made_again == {"shard-00001.npy"}


def test_another_try_adds_videos_and_refuses_to_lose_one(
    cli: Cli, arguments: Arguments, bank: Path, playground_copy: Path, tmp_path: Path
) -> None:
    videos, whole = playground_copy / "videos", tmp_path / "bank"
    (videos / "train_001.mp4").rename(tmp_path / "aside.mp4")
    command = arguments(videos=videos, out=whole)
    assert cli(*command).exit_code == 3
    (tmp_path / "aside.mp4").rename(videos / "train_001.mp4")
    assert cli(*command, "--retry").exit_code == 0
    assert cli(*command).exit_code == 0  # its shards are in another order than its videos
    about = json.loads((whole / "bank.json").read_text())
    order = [video for shard in about["shards"] for video in shard["videos"]]
    assert order == ["train_000", "train_002", "val_000", "train_001"]
    for here, there in ((3, 1), (1, 2), (2, 3)):
        for suffix in ("npy", "parquet"):
            one, two = whole / f"shard-{here:05d}.{suffix}", bank / f"shard-{there:05d}.{suffix}"
            assert one.read_bytes() == two.read_bytes()
    (videos / "train_002.mp4").unlink()
    result = cli(*command, "--retry")
    assert result.exit_code == 2
    assert "holds videos that cannot be used now; mend them" in result.stderr
    assert "train_002: no such video" in result.stderr
    assert json.loads((whole / "bank.json").read_text()) == about


def test_a_part_of_a_bank_is_not_tried_again(refused: Refused, arguments: Arguments) -> None:
    told = refused(*arguments(), "--part", "1/2", "--retry")
    assert "--retry: is for a whole bank; leave --part 1/2" in told


def test_a_video_of_which_no_clip_can_be_told_counts_as_a_video(
    cli: Cli, tiny: dict[str, Path], detector: Path, playground_copy: Path, tmp_path: Path
) -> None:
    (playground_copy / "videos" / "train_001.mp4").write_text("not a video")
    command = (
        *("extract-features", tiny["extract"], "--encoder", detector, "--set", "features=clip"),
        *("--videos", playground_copy / "videos", "--out", tmp_path / "bank"),
    )
    result = cli(*command)
    assert result.exit_code == 3
    assert "1 of 4 videos failed, more than 1.00%" in result.stderr
    assert cli(*command, "--max-failed", "0.25").exit_code == 0


# --- what is refused


def test_an_encoder_of_another_shape_is_refused_with_every_difference(
    refused: Refused, arguments: Arguments
) -> None:
    told = refused(*arguments(), "--set", "backbone.width=16")
    assert "does not fit the recipe:" in told
    assert "backbone.width: 8 in the encoder, 16 in the recipe" in told


def test_rows_seen_otherwise_than_the_encoder_sees_are_refused(
    refused: Refused, arguments: Arguments
) -> None:
    told = refused(*arguments(out="other"), "--set", "backbone.sees=changes")
    assert "the weights were trained on frames; backbone.sees: changes; expected the same" in told


def test_an_encoder_that_is_missing_or_damaged_is_refused(
    refused: Refused, arguments: Arguments, pretrained: Path, tmp_path: Path
) -> None:
    copy = Path(shutil.copytree(pretrained, tmp_path / "ssl"))
    assert "sls: no such file; did you mean 'ssl'?" in refused(*arguments(encoder="sls"))
    weights = copy / "encoder.safetensors"
    weights.write_bytes(weights.read_bytes()[:-4])
    assert "is not what encoder.json describes" in refused(*arguments(encoder="ssl"))


def test_missing_videos_and_boxes_are_answered_with_the_nearest(
    refused: Refused, arguments: Arguments, playground: Path
) -> None:
    told = refused(*arguments(videos=playground / "vidoes"))
    assert "vidoes: no such file or folder; did you mean 'videos'?" in told
    told = refused(*arguments(boxes=playground / "train_person_detection.csv"))
    assert "no such file; did you mean 'train_person_detections.csv'?" in told


def test_boxes_with_mistakes_are_refused_with_all_of_them(
    refused: Refused, arguments: Arguments, tmp_path: Path
) -> None:
    (tmp_path / "b.csv").write_text("v,0001,0.1,0.1,0.5,0.5,,2\nv,0001,0.1,0.1,5,0.5,,0.9\n")
    told = refused(*arguments(boxes="b.csv"))
    assert "b.csv has 2 problems:" in told
    assert "b.csv:1: score outside [0, 1]" in told
    assert "b.csv:2: box outside [0, 1]" in told


def test_a_score_that_no_box_has_is_refused(refused: Refused, arguments: Arguments) -> None:
    told = refused(*arguments(), "--set", "min_score=1.0")
    assert "no box has a score of at least 1.0" in told


def test_boxes_of_other_videos_are_refused(
    refused: Refused, arguments: Arguments, playground_copy: Path
) -> None:
    for path in (playground_copy / "videos").iterdir():
        path.rename(path.with_stem(f"clip_{path.stem}"))
    told = refused(*arguments(videos=playground_copy / "videos"))
    assert "none of the 4 annotated videos (train_000, train_001, train_002, ...)" in told


def test_the_folder_of_another_bank_is_refused_with_what_differs(
    refused: Refused, arguments: Arguments, bank: Path, pretrained: Path, tmp_path: Path
) -> None:
    shutil.copytree(bank, tmp_path / "bank")
    told = refused(*arguments(encoder=pretrained))
    assert "bank holds another bank (remove it, or write to another folder):" in told
    assert "encoder_hash: found" in told
    told = refused(*arguments(), "--set", "roi_resolution=5")
    assert "identity.recipe.roi_resolution: found 7, expected 5" in told
    changes = ("backbone.stride=2", "layers=[slow.res5, fast.res5]", "decoder=decord")
    told = refused(*arguments(), *(word for change in changes for word in ("--set", change)))
    assert "identity.recipe.backbone.stride: found 4, expected 2" in told
    assert "identity.recipe.layers: found [], expected ['slow.res5', 'fast.res5']" in told
    assert "identity.decoder: found 'pyav-" in told
    assert "expected 'decord-" in told


def test_a_folder_with_other_files_and_a_file_are_refused(
    refused: Refused, arguments: Arguments, tmp_path: Path
) -> None:
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "thesis.tex").write_text("mine")
    told = refused(*arguments(out="other"))
    assert "other holds files that are not this bank's:" in told
    assert "thesis.tex" in told
    assert "is a file" in refused(*arguments(out="other/thesis.tex"))


def test_the_folder_of_a_run_is_no_place_for_a_bank(
    refused: Refused, arguments: Arguments, detector: Path, tmp_path: Path
) -> None:
    shutil.copytree(detector, tmp_path / "run")
    assert "run holds files that are not this bank's" in refused(*arguments(out="run"))


# --- clips, grids, layers


@pytest.fixture
def of_clips(
    cli: Cli, tiny: dict[str, Path], detector: Path, index: Path, tmp_path: Path
) -> Callable[..., Path]:
    """Extract without boxes, with changes of the recipe."""

    def make(name: str, *changes: str, origin: object = "auto") -> Path:
        out = tmp_path / name
        result = cli(
            *("extract-features", tiny["extract"], "--encoder", detector, "--videos", index),
            *("--out", out, "--time-origin", origin),
            *(word for change in changes for word in ("--set", change)),
        )
        assert result.exit_code == 0, result.output
        return out

    return make


def rows_of(bank: Path) -> tuple[list[dict[str, object]], np.ndarray]:
    tables = [pq.read_table(path) for path in sorted(bank.glob("*.parquet"))]
    features = [np.load(path) for path in sorted(bank.glob("*.npy"))]
    return [row for table in tables for row in table.to_pylist()], np.concatenate(features)


def test_clips_come_at_their_rate_and_a_grid_s_mean_is_the_clip(
    of_clips: Callable[..., Path],
) -> None:
    clips, features = rows_of(of_clips("clips", "features=clip", "rate=2"))
    assert [row["second"] for row in clips[:4]] == [0, 0.5, 1, 1.5]
    assert len(clips) == 4 * (14 * 2 + 1)  # 4 videos of 14 s, both ends
    assert {(row["x1"], row["y1"], row["x2"], row["y2"]) for row in clips} == {(0, 0, 1, 1)}
    cells, by_cell = rows_of(of_clips("grid", "features=grid", "rate=2", "grid=1"))
    assert np.array_equal(by_cell, features)
    cells, by_cell = rows_of(of_clips("cells", "features=grid", "rate=2", "grid=2"))
    assert len(cells) == 4 * len(clips)
    # The map of 48 x 64 pixels parts equally into 2 x 2: the mean of four cells is the clip's.
    means = by_cell.astype(np.float32).reshape(len(clips), 4, -1).mean(axis=1)
    np.testing.assert_allclose(means, features.astype(np.float32), rtol=0.02, atol=2e-3)


def test_clips_count_from_a_stated_origin(of_clips: Callable[..., Path]) -> None:
    here, features = rows_of(of_clips("here", "features=clip"))
    there, same = rows_of(of_clips("there", "features=clip", origin=900))
    assert [row["second"] for row in there] == [900 + float(str(row["second"])) for row in here]
    assert np.array_equal(features, same)


def test_another_layer_and_pooling_give_other_features_and_another_identity(
    of_clips: Callable[..., Path],
) -> None:
    last = of_clips("last", "features=clip")
    middle = of_clips("middle", "features=clip", "layers=[slow.res4, fast.res4]", "pooling=max")
    about = json.loads((middle / "bank.json").read_text())
    assert about["kind"] == "clip"
    assert about["identity"]["recipe"]["layers"] == ["slow.res4", "fast.res4"]
    assert about["dim"] < json.loads((last / "bank.json").read_text())["dim"]


def test_boxes_are_asked_for_where_people_are_and_nowhere_else(
    refused: Refused, arguments: Arguments
) -> None:
    words = refused(*arguments(), "--set", "features=clip")
    assert "features (clip) are not of people: leave --boxes" in words
    without = [word for word in arguments()[:-6]]
    assert "are of people: give them with --boxes" in refused(*without, "--out", "bank")
    layer = refused(*arguments(), "--set", "layers=[slow.res7]")
    assert "no 'slow.res7'; did you mean 'slow.res" in layer


@pytest.mark.parametrize("features", ["box", "clip", "grid"])
def test_overlapping_clips_of_one_pass_equal_each_clip_read_alone(
    features: str, tiny: dict[str, Path], detector: Path, index: Path, playground: Path
) -> None:
    changes = (f"features={features}", "rate=2", "backbone.frames=8", "batch=5")
    plan = load(Extract, tiny["extract"], changes)
    trunk, _ = load_encoder(detector, plan.backbone)
    trunk.eval()
    boxes = [playground / "val_person_detections.csv"] if features == "box" else []
    people = extract_features.people_of(plan, boxes)
    placed = extract_features._placed(plan, people, str(index), index, "auto", silent)
    placed = replace(placed, moments=placed.moments[:12])
    # A clip of 8 frames at a stride of 4 lasts 1.1 s: key frames of a second or less share frames.
    rows, failed = extract_features._Extractor(plan, trunk).rows(placed, silent, 12)
    assert not failed

    grid = {"clip": 1, "grid": 2}.get(features, 0)
    alone: list[np.ndarray] = []
    for moment in placed.moments:
        times_s = centred_times(moment.timestamp, 8, 4)
        with open_reader(placed.paths[moment.video], "auto") as reader:  # one reader a clip
            frames = torch.from_numpy(reader.frames_at(times_s, 48).frames)
        assert frames.shape == (8, 48, 64, 3)
        size = geometry.short_side_size(48, 64, 48, trunk.spatial_stride)
        clip = normalise(geometry.apply(frames, geometry.whole(*size)))[None]
        with torch.no_grad():
            maps = trunk.maps(clip).mean(dim=2)
        if grid:
            rows_high, cells_wide = maps.shape[2] // grid, maps.shape[3] // grid
            cells = maps.reshape(1, -1, grid, rows_high, grid, cells_wide).mean(dim=(3, 5))
            alone += [cells[0, :, i, j].numpy() for i in range(grid) for j in range(grid)]
            continue
        pixels = torch.tensor(moment.boxes).float() * torch.tensor([*size[::-1], *size[::-1]])
        cells = roi_align(maps, [pixels], 7, 1 / trunk.spatial_stride, 0, aligned=True)
        alone += [*cells.amax(dim=(2, 3)).numpy()]
    np.testing.assert_allclose(rows.features, np.stack(alone), rtol=0, atol=1e-6)


# --- shared between processes and machines


def same_bytes(one: Path, two: Path) -> bool:
    names = sorted(path.name for path in one.iterdir())
    return names == sorted(path.name for path in two.iterdir()) and all(
        (one / name).read_bytes() == (two / name).read_bytes() for name in names
    )


def test_parts_merged_in_any_order_are_the_bank(
    cli: Cli, refused: Refused, arguments: Arguments, bank: Path, tmp_path: Path
) -> None:
    parts = []
    for number in (1, 2, 3):
        parts.append(tmp_path / f"part-{number}")
        result = cli(*arguments(out=parts[-1]), "--part", f"{number}/3", "--json", "-")
        told = json.loads(result.stdout)
        assert (told["complete"], told["shards"]) == (False, 4)
        assert told["finished"] == (2 if number == 1 else 1)
        about = cli("bank", "info", parts[-1])
        assert f"{told['finished']} of 4 shards so far" in about.stdout
    for number, order in enumerate((parts, parts[::-1])):
        out = tmp_path / f"merged-{number}"
        result = cli("bank", "merge", *order, "--out", out)
        assert result.exit_code == 0, result.output
        assert same_bytes(out, bank)
    words = refused("bank", "merge", *parts[:2], "--out", tmp_path / "gap")
    assert "shard-00002: in none of the parts" in words
    assert cli("bank", "verify", tmp_path / "merged-0").exit_code == 0


@pytest.mark.parametrize("part", ["0/3", "4/3", "1", "one/two", "1/0", "-1/3"])
def test_a_part_that_is_none_is_refused(refused: Refused, arguments: Arguments, part: str) -> None:
    assert "--part: expected K/N, K from 1 to N" in refused(*arguments(), f"--part={part}")


def test_two_processes_write_the_same_bank(
    arguments: Arguments, bank: Path, tmp_path: Path
) -> None:
    command = [sys.executable, "-m", PACKAGE, *map(str, arguments(out=tmp_path / "bank"))]
    done = subprocess.run([*command, "--gpus", "2"], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "videos" in done.stdout
    assert same_bytes(tmp_path / "bank", bank)


def test_killed_at_random_moments_and_run_again_it_has_the_same_bytes(
    arguments: Arguments, bank: Path, tmp_path: Path
) -> None:
    out = tmp_path / "bank"
    command = [sys.executable, "-m", PACKAGE, *map(str, arguments(out=out))]
    rng = random.Random(0)
    kills = 0
    for _ in range(8):
        process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL)
        deadline = time.monotonic() + 120
        shards = len([*out.glob("shard-*.json")]) if out.exists() else 0
        while process.poll() is None and time.monotonic() < deadline:
            begun = out.exists() and len([*out.glob(".*"), *out.glob("shard-*")]) > 0
            if begun and len([*out.glob("shard-*.json")]) > shards:
                time.sleep(rng.random() * 0.3)
                break
            time.sleep(0.01)
        process.send_signal(signal.SIGKILL)
        process.communicate()
        kills += process.returncode == -signal.SIGKILL
        if kills == 2:
            break
        if process.returncode == 0:  # it was whole before the kill came: from the beginning
            shutil.rmtree(out)
            kills = 0
    assert kills >= 2
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert same_bytes(out, bank)


# --- looking at a bank


def test_a_bank_is_told_verified_and_exported(cli: Cli, bank: Path, tmp_path: Path) -> None:
    told = json.loads(cli("bank", "info", bank, "--json", "-").stdout)
    assert (told["kind"], told["complete"], told["videos"]) == ("box", True, 4)
    words = cli("bank", "info", bank).stdout
    assert "recipe.backbone.name: slowfast" in words
    assert "every byte is as it was written" in cli("bank", "verify", bank).stdout
    for name in ("bank.npz", "bank.parquet"):
        assert cli("bank", "export", bank, "--out", tmp_path / name).exit_code == 0
    assert len(pq.read_table(tmp_path / "bank.parquet")) == told["rows"]
    again = cli("bank", "export", bank, "--out", tmp_path / "bank.npz")
    assert again.exit_code == 2
    assert "bank.npz: is there already; choose another name for --out" in again.stderr


def test_a_damaged_bank_is_told_by_file(cli: Cli, bank: Path, tmp_path: Path) -> None:
    copy = Path(shutil.copytree(bank, tmp_path / "bank"))
    content = bytearray((copy / "shard-00002.npy").read_bytes())
    content[-1] ^= 1
    (copy / "shard-00002.npy").write_bytes(content)
    result = cli("bank", "verify", copy)
    assert result.exit_code == 2
    assert "shard-00002.npy: its bytes do not match" in result.stderr


def test_what_is_no_bank_is_refused(refused: Refused, playground: Path) -> None:
    for command in ("info", "verify"):
        assert "not a feature bank" in refused("bank", command, playground)


def test_another_bank_s_folder_gets_no_index_of_the_videos(
    refused: Refused, tiny: dict[str, Path], detector: Path, playground: Path, bank: Path
) -> None:
    told = refused(
        *("extract-features", tiny["extract"], "--encoder", detector, "--out", bank),
        *("--videos", playground / "videos", "--set", "features=clip"),
    )
    assert "holds another bank" in told
    assert not (bank / ".index.parquet").exists()
