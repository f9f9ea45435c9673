"""Another try at a bank: which shards are kept, which are written again, and where new ones go."""

from collections.abc import Collection, Mapping, Sequence
from functools import partial
from pathlib import Path

import numpy as np
import pytest

from vidssl.errors import BankError
from vidssl.features import Bank, BankIdentity, BankRows, BankWriter
from vidssl.features.manifest import Manifest
from vidssl.jobs import _bank_again as again

Files = Mapping[str, str]


def made_of(files: Files, videos: Sequence[str]) -> str:
    return " ".join(f"{video}={files[video]}" for video in sorted(videos))


def rows_of(videos: Sequence[str], files: Files) -> BankRows:
    features = np.array([[float(files[video])] * 4 for video in videos], np.float32).reshape(-1, 4)
    boxes = np.tile([0.0, 0.0, 1.0, 1.0], (len(videos), 1))
    return BankRows(list(videos), np.arange(len(videos)) * 1.0, boxes, boxes[:, 2], features)


def opened(out: Path, files: Files, *, retry: bool, stride: int = 2) -> BankWriter:
    """Open the bank of some videos, a video a shard, as the extraction does."""
    names = sorted(files)
    details = {"recipe": {"stride": stride}, again.VIDEOS: made_of(files, names)}
    identity = BankIdentity("f00d", details)
    if retry:
        wanted = Manifest(4, identity, (tuple(names),))
        again.reopen(out, wanted, 1, partial(made_of, files), {"lost": "cannot be decoded"})
    return BankWriter(out, dim=4, identity=identity, plan=again.planned(out, names, 1))


def extract(
    out: Path, files: Files, *, failing: Collection[str] = (), retry: bool = False
) -> list[str]:
    """Write what the bank lacks; return the videos that were read for it."""
    writer = opened(out, files, retry=retry)
    shards = again.planned(out, sorted(files), 1)
    read: list[str] = []
    for shard in writer.missing():
        good = [video for video in shards[shard] if video not in failing]
        writer.write_shard(
            shard,
            rows_of(good, files),
            failed_keyframes=len(shards[shard]) - len(good),
            made_of=made_of(files, shards[shard]),
        )
        read += shards[shard]
    writer.close()
    return read


def test_shards_in_which_nothing_failed_are_kept(tmp_path: Path) -> None:
    out, files = tmp_path / "bank", {"a": "1", "c": "1"}
    assert extract(out, files, failing={"c"}) == ["a", "c"]
    assert extract(out, files) == []  # not of itself
    assert extract(out, files, failing={"c"}, retry=True) == ["c"]
    assert Bank.open(out).failed_keyframes == 1
    assert extract(out, files, retry=True) == ["c"]
    assert Bank.open(out).failed_keyframes == 0
    assert extract(out, files, retry=True) == []


def test_new_videos_come_behind_and_changed_files_are_read_again(tmp_path: Path) -> None:
    out = tmp_path / "bank"
    extract(out, {"a": "1", "c": "1"})
    before = Bank.open(out).content_hash
    assert extract(out, {"a": "1", "b": "1", "c": "1"}, retry=True) == ["b"]
    bank = Bank.open(out)
    assert bank.videos == ("a", "c", "b")
    assert bank.content_hash != before
    changed = {"a": "9", "b": "1", "c": "1"}
    assert extract(out, changed, retry=True) == ["a"]
    found = {
        video: Bank.open(out)
        .window(video, 0.0, before_s=0, after_s=1, per_step=1, pick="top", seed=0)
        .features[0, 0]
        for video in changed
    }
    assert found == {"a": 9, "b": 1, "c": 1}
    assert extract(out, changed) == []


def test_stopped_between_two_of_its_steps_it_still_finds_what_has_changed(tmp_path: Path) -> None:
    out = tmp_path / "bank"
    extract(out, {"a": "1", "b": "1"}, failing={"b"})
    manifest = (out / "bank.json").read_bytes()
    opened(out, {"a": "9", "b": "1"}, retry=True)
    (out / "bank.json").write_bytes(manifest)  # which is the last that it writes
    assert extract(out, {"a": "9", "b": "1"}, retry=True) == ["a", "b"]


def test_a_video_that_is_gone_is_refused_and_the_bank_left_as_it_is(tmp_path: Path) -> None:
    out = tmp_path / "bank"
    extract(out, {"a": "1", "lost": "1"}, failing={"lost"})
    before = {path: path.read_bytes() for path in out.iterdir()}
    with pytest.raises(BankError, match=r"cannot be used now(.|\n)*lost: cannot be decoded"):
        extract(out, {"a": "1"}, retry=True)
    assert {path: path.read_bytes() for path in out.iterdir()} == before


def test_a_bank_made_in_another_way_is_left_to_be_refused(tmp_path: Path) -> None:
    out, files = tmp_path / "bank", {"a": "1"}
    extract(out, files, failing={"a"})
    with pytest.raises(BankError, match=r"identity\.recipe\.stride: found 2, expected 4"):
        opened(out, files, retry=True, stride=4)
    assert Bank.open(out).failed_keyframes == 1


def test_records_of_before_files_were_hashed_are_written_again_if_any_file_changed(
    tmp_path: Path,
) -> None:
    out, files = tmp_path / "bank", {"a": "1", "b": "1"}
    writer = opened(out, files, retry=False)
    for shard, video in enumerate(files):
        writer.write_shard(shard, rows_of([video], files))
    writer.close()
    assert "made_of" not in (out / "bank.json").read_text()
    assert extract(out, files, retry=True) == []
    assert extract(out, {**files, "c": "1"}, retry=True) == ["a", "b", "c"]
