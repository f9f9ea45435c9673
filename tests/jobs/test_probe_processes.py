"""Probing by several processes, and failures that are tried again."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from dataclasses import replace
from importlib.metadata import entry_points
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from vidssl.errors import BankError, OutputError
from vidssl.features import Bank, BankIdentity, BankRows, BankWriter
from vidssl.features.manifest import BANK_JSON, Manifest
from vidssl.jobs import _probe_features
from vidssl.jobs._probe_result import ProbeResult, plain
from vidssl.jobs.probe import Request, run
from vidssl.recipe import backbone_from
from vidssl.train.weights import save_weights
from vidssl.video.write import write_video

(ENTRY,) = entry_points(group="console_scripts", name="vidssl")
PACKAGE = ENTRY.module.rpartition(".")[0]
ENVIRONMENT = {**os.environ, "CUDA_VISIBLE_DEVICES": "", "OMP_NUM_THREADS": "1"}
BACKBONE = {"name": "slow", "width": 8, "depths": [1, 1, 1, 1], "frames": 4, "stride": 3}
VIDEOS = 19  # in three shards: of 8, 8 and 3


def write_painted(path: Path, level: int) -> None:
    """Write a second of one grey, 32 x 32."""
    path.parent.mkdir(parents=True, exist_ok=True)
    noise = np.random.default_rng(level).integers(0, 20, (32, 32, 3))
    frame = (noise + level).astype(np.uint8)
    write_video(path, (frame for _ in range(10)), 10)


@pytest.fixture(scope="module")
def videos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Class folders of an odd number of videos."""
    folder = tmp_path_factory.mktemp("videos") / "videos"
    for number in range(VIDEOS):
        name = ("dark", "light")[number % 2]
        write_painted(folder / name / f"{name}{number:02}.mp4", 20 + 180 * (number % 2) + number)
    return folder


@pytest.fixture(scope="module")
def encoder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("encoder") / "run"
    backbone = backbone_from({"backbone": BACKBONE}, "here")
    torch.manual_seed(0)
    network = backbone.build()
    card = {"backbone": backbone.model_dump(mode="json"), "features": network.features}
    save_weights(folder, "encoder", network, card)
    return folder


def command(encoder: Path, videos: Path, cache: Path, *more: object) -> list[str]:
    words = [
        *("probe", "--encoder", encoder, "--train", videos, "--cache", cache, "--views", "2x1"),
        *("--crop", 32, "--short-side", 32, "--workers", 0, "--k", 3),
        *("--probes", "knn,retrieval", *more),
    ]
    return [sys.executable, "-m", PACKAGE, *map(str, words)]


def request(encoder: Path, videos: Path, cache: Path) -> Request:
    """What the command asks for."""
    return Request(
        *(encoder, str(videos), None, ("knn", "retrieval")),
        k=3,
        views="2x1",
        cache=cache,
        crop_px=32,
        short_side_px=32,
        workers=0,
        device="cpu",
    )


def banks(cache: Path) -> dict[str, bytes]:
    """Return every file of the banks below a cache, by its name there."""
    return {
        str(path.relative_to(cache)): path.read_bytes()
        for path in cache.glob("*/**/*")
        if path.is_file()
    }


def told(found: dict[str, Any]) -> dict[str, Any]:
    """Return a result, as it stands in JSON, without what names its place and time."""
    found = json.loads(json.dumps(found))
    del found["seconds"], found["train"]["features"]
    return found


@pytest.fixture(scope="module")
def alone(
    encoder: Path, videos: Path, tmp_path_factory: pytest.TempPathFactory
) -> tuple[Path, ProbeResult]:
    """The cache and the result of one process."""
    cache = tmp_path_factory.mktemp("alone")
    return cache, run(request(encoder, videos, cache))


def test_two_processes_share_the_videos_and_find_what_one_finds_to_the_last_bit(
    encoder: Path, videos: Path, alone: tuple[Path, ProbeResult], tmp_path: Path
) -> None:
    words = command(encoder, videos, tmp_path / "2", "--gpus", 2, "--json", tmp_path / "2.json")
    both = subprocess.run(words, env=ENVIRONMENT, capture_output=True, text=True)
    assert both.returncode == 0, both.stderr
    assert both.stdout.count(f"{VIDEOS} videos expected, {VIDEOS} evaluated") == 1
    assert both.stderr.count(f"looking at videos: {VIDEOS}/{VIDEOS}") == 1  # all, and told once
    assert told(json.loads((tmp_path / "2.json").read_text())) == told(plain(alone[1]))
    assert banks(tmp_path / "2") == banks(alone[0])
    assert sum(name.endswith(".npy") for name in banks(tmp_path / "2")) == 3


def test_a_process_that_is_killed_costs_its_shard_and_nothing_else(
    encoder: Path, videos: Path, alone: tuple[Path, ProbeResult], tmp_path: Path
) -> None:
    cache = tmp_path / "cache"
    both = subprocess.Popen(
        command(encoder, videos, cache, "--gpus", 2),
        env=ENVIRONMENT,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    give_up = time.monotonic() + 120
    while both.poll() is None and not [*cache.glob("*/failed-*.json")]:
        assert time.monotonic() < give_up
        time.sleep(0.005)
    if second := _rank(both.pid, 1):
        os.kill(second, signal.SIGKILL)
    both.communicate()
    done = len([*cache.glob("*/failed-*.json")])
    assert done >= 1
    result = run(request(encoder, videos, cache))
    assert result.train.decoded <= VIDEOS - 3  # one shard at least was kept
    assert result.scores == alone[1].scores
    assert banks(cache) == banks(alone[0])


def _rank(launcher: int, number: int) -> int | None:
    for entry in Path("/proc").glob("[0-9]*"):
        try:
            words = (entry / "environ").read_bytes().decode().split("\0")
            parent = int((entry / "stat").read_text().rsplit(")", 1)[1].split()[1])
        except (OSError, UnicodeDecodeError):  # it has ended meanwhile
            continue
        if parent == launcher and f"RANK={number}" in words:
            return int(entry.name)
    return None


# --- failures


def fail(cache: Path, names: tuple[str, ...]) -> Path:
    """Have a cache as it were, had some videos not been read in time; return its folder."""
    (folder,) = (path for path in cache.iterdir() if path.is_dir())
    for shard, path in enumerate(sorted(folder.glob("failed-*.json"))):
        for bank in folder.iterdir():
            if not bank.is_dir():
                continue
            manifest = Manifest.read(bank)
            lost = {one for one in manifest.plan[shard] if Path(one).stem in names}
            if lost:
                writer = BankWriter(
                    bank,
                    dim=manifest.dim,
                    identity=manifest.identity,
                    plan=manifest.plan,
                    kind=manifest.kind,
                )
                rows = writer.rows(shard)
                nothing = BankRows.joined([], manifest.dim)
                writer.write_shard(shard, _probe_features._beside(rows, lost, nothing))
                writer.close()
                path.write_text(json.dumps({one: f"{one}: no answer in 60 s" for one in lost}))
    return folder


def test_rows_of_a_shard_can_be_written_again_with_more(tmp_path: Path) -> None:
    def rows(*names: str) -> BankRows:
        count = len(names)
        features = np.random.default_rng(count).normal(size=(count, 3)).astype(np.float32)
        boxes = np.tile([0.0, 0.0, 1.0, 1.0], (count, 1))
        return BankRows(names, np.arange(count) / 3, boxes, np.ones(count), features)

    plan, folder = [["a", "b"], ["c"]], tmp_path / "bank"
    writer = BankWriter(folder, dim=3, identity=BankIdentity("hash"), plan=plan, kind="clip")
    writer.write_shard(0, rows("b", "b"))
    content = {path.name: path.read_bytes() for path in folder.glob("shard-00000.*")}
    assert writer.videos_in(0) == {"b"}
    writer.write_shard(0, writer.rows(0))
    assert content == {path.name: path.read_bytes() for path in folder.glob("shard-00000.*")}
    writer.write_shard(0, BankRows.joined([writer.rows(0), rows("a")], 3))
    assert [*writer.rows(0).videos] == ["a", "b", "b"]
    with pytest.raises(BankError, match="shard-00001 is missing or damaged"):
        writer.rows(1)


def test_failures_are_remembered_told_of_and_read_again_if_that_is_asked_for(
    encoder: Path, videos: Path, alone: tuple[Path, ProbeResult], tmp_path: Path
) -> None:
    asked = request(encoder, videos, Path(shutil.copytree(alone[0], tmp_path / "cache")))
    whole, kept = alone[1], banks(alone[0])
    folder = fail(tmp_path / "cache", ("dark00", "dark18"))
    remembered = run(asked)
    assert (remembered.train.failed, remembered.train.decoded) == (2, 0)
    (note,) = (note for note in remembered.notes if "--retry" in note)
    assert "2 of 2 failures are remembered from an earlier run" in note
    again = run(replace(asked, retry=True))
    assert (again.train.failed, again.train.decoded) == (0, 2)
    assert not any("--retry" in note for note in again.notes)
    assert again.train.features == folder
    assert np.allclose(again.test_features, whole.test_features, atol=2e-3)
    assert banks(tmp_path / "cache").keys() == kept.keys()
    untouched = f"{folder.name}/normal/shard-00002.npy"
    assert banks(tmp_path / "cache")[untouched] == kept[untouched]


def test_a_video_that_fails_once_more_stays_a_failure_and_costs_no_other(
    encoder: Path, videos: Path, tmp_path: Path
) -> None:
    source = Path(shutil.copytree(videos, tmp_path / "videos"))
    asked = request(encoder, source, tmp_path / "cache")
    run(asked)
    fail(tmp_path / "cache", ("dark00", "dark02"))
    broken = source / "dark" / "dark00.mp4"
    size, changed = broken.stat().st_size, broken.stat().st_mtime_ns
    broken.write_bytes(b"\0" * size)
    os.utime(broken, ns=(changed, changed))  # so that the index still believes in it
    result = run(replace(asked, retry=True))
    assert (result.train.failed, result.train.decoded) == (1, 2)
    (failed,) = result.train.failures
    assert "dark00" in failed
    assert "no answer" not in result.train.failures[failed]


@pytest.mark.parametrize("bytes_left", [100, 0])
def test_another_try_makes_a_damaged_shard_again(
    encoder: Path, videos: Path, alone: tuple[Path, ProbeResult], tmp_path: Path, bytes_left: int
) -> None:
    cache = Path(shutil.copytree(alone[0], tmp_path / "cache"))
    asked = request(encoder, videos, cache)
    (table,) = cache.glob("*/normal/shard-00002.parquet")
    content = table.read_bytes()[:bytes_left]
    table.unlink()
    if content:
        table.write_bytes(content)
    with pytest.raises(BankError, match="shard-00002"):
        run(asked)
    again = run(replace(asked, retry=True))
    assert (again.train.failed, again.train.decoded) == (0, VIDEOS % 8)
    assert banks(cache) == banks(alone[0])


def test_what_the_index_set_aside_is_looked_at_again_and_the_rest_is_kept(
    encoder: Path, videos: Path, tmp_path: Path
) -> None:
    source = Path(shutil.copytree(videos, tmp_path / "videos"))
    late = source / "light" / "light01.mp4"
    content, times = late.read_bytes(), (late.stat().st_mtime_ns,) * 2
    late.write_bytes(b"\0" * len(content))
    os.utime(late, ns=times)
    asked = request(encoder, source, tmp_path / "cache")
    first = run(asked)
    assert first.train.failed == 1
    assert not any("--retry" in note for note in first.notes)  # it was tried just now
    late.write_bytes(content)
    os.utime(late, ns=times)
    assert any("--retry" in note for note in run(asked).notes)
    again = run(replace(asked, retry=True))
    assert (again.train.failed, again.train.decoded) == (0, 1)
    last = run(asked)
    assert (last.train.failed, last.train.decoded) == (0, 0)
    assert last.scores == again.scores


def test_banks_of_an_earlier_division_go_on_with_it(
    encoder: Path, videos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = request(encoder, videos, tmp_path / "cache")
    monkeypatch.setattr(_probe_features, "FEWEST_A_SHARD", 256)
    before = run(asked)
    monkeypatch.undo()
    after = run(replace(asked, time="static"))
    plans = [
        Manifest.read(path.parent).plan for path in before.train.features.glob(f"*/{BANK_JSON}")
    ]
    assert [len(plan) for plan in plans] == [1, 1]
    assert after.train.features == before.train.features
    assert len(Bank.open(after.train.features / "static")) == 2 * VIDEOS


def test_a_probe_that_is_called_by_itself_refuses_to_be_one_of_several(
    encoder: Path, videos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(OutputError, match="start it without torchrun"):
        run(request(encoder, videos, tmp_path / "cache"))
