"""Checkpoints through damage, full disks and foreign content."""

import os
import pickle
import re
import resource
import shutil
import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import torch

from vidssl.errors import CheckpointError, OutputError
from vidssl.train import checkpoint
from vidssl.train.checkpoint import checkpoints, load_latest, save, verify


def state(step: int) -> dict[str, Any]:
    return {"step": step, "module": {"w": torch.full((100,), float(step))}, "optimizer": {}}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Checkpoints of steps 10 and 20."""
    for step in (10, 20):
        save(tmp_path / "checkpoints", step, state(step))
    return tmp_path / "checkpoints"


@contextmanager
def files_limited_to(size: int) -> Iterator[None]:
    """Let writing fail past a size, as on a full disk."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
        signal.signal(signal.SIGXFSZ, handler)


def test_the_newest_comes_back_whole(folder: Path) -> None:
    found, passed_over = load_latest(folder)
    assert found is not None
    assert passed_over == []
    assert found["step"] == 20
    assert torch.equal(found["module"]["w"], torch.full((100,), 20.0))
    assert (folder / "latest").read_text() == "step-000000020\n"
    assert [verify(path) for path in checkpoints(folder)] == [None, None]


def test_a_folder_without_checkpoints_has_none(tmp_path: Path) -> None:
    assert load_latest(tmp_path / "absent") == (None, [])
    (tmp_path / "step-000000001").mkdir()  # no manifest: it was never finished
    assert load_latest(tmp_path) == (None, [])


def truncate(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-10])


def empty(path: Path) -> None:
    path.write_bytes(b"")


def flip_a_bit(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


@pytest.mark.parametrize(
    ("damage", "file", "reason"),
    [
        (truncate, "state.pt", r"state\.pt has \d+ bytes, \d+ were written"),
        (empty, "state.pt", r"state\.pt has 0 bytes, \d+ were written"),
        (flip_a_bit, "state.pt", r"the content of state\.pt has changed since it was written"),
        (Path.unlink, "state.pt", r"unreadable \(.*No such file"),
        (truncate, "manifest.json", r"unreadable \("),
        (empty, "manifest.json", r"unreadable \("),
    ],
)
def test_a_damaged_newest_gives_way_to_the_one_before(
    damage: Callable[[Path], None], file: str, reason: str, folder: Path
) -> None:
    damage(folder / "step-000000020" / file)
    found, (why,) = load_latest(folder)
    assert found is not None
    assert found["step"] == 10
    assert why.startswith(f"{folder / 'step-000000020'}: ")
    assert verify(folder / "step-000000020") == why.split(": ", 1)[1]
    assert re.search(reason, why), why


@pytest.mark.parametrize("manifest", ["[]", "{}", '{"files": []}', '{"files": {}}', "7"])
def test_a_manifest_that_says_nothing_vouches_for_nothing(manifest: str, folder: Path) -> None:
    (folder / "step-000000020" / "manifest.json").write_text(manifest)
    found, (why,) = load_latest(folder)
    assert found is not None
    assert found["step"] == 10
    assert "unreadable" in why


def test_damage_to_all_is_an_error_that_names_each(folder: Path) -> None:
    for path in checkpoints(folder):
        flip_a_bit(path / "state.pt")
    with pytest.raises(CheckpointError) as caught:
        load_latest(folder)
    message = str(caught.value)
    assert message.startswith("no checkpoint is whole: ")
    assert "step-000000010: the content" in message
    assert "step-000000020: the content" in message


class Payload:
    """A pickle that makes a file when it is loaded by a loader that trusts it."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Callable[..., Any], tuple[str]]:
        return (os.mkdir, (str(self.path),))


def test_a_checkpoint_cannot_run_code(folder: Path, tmp_path: Path) -> None:
    mark = tmp_path / "the payload ran"
    assert pickle.loads(pickle.dumps(Payload(mark))) is None  # it does, where it is trusted
    assert mark.is_dir()
    mark.rmdir()
    save(folder, 30, {**state(30), "extra": Payload(mark)})
    assert verify(folder / "step-000000030") is None  # its own manifest vouches for it
    found, (why,) = load_latest(folder)
    assert found is not None
    assert found["step"] == 20
    assert "step-000000030: not the state of a training" in why
    assert not mark.exists()


def test_the_last_two_are_kept(folder: Path) -> None:
    for step in (30, 40):
        save(folder, step, state(step))
    assert [path.name for path in checkpoints(folder)] == ["step-000000030", "step-000000040"]
    assert sorted(p.name for p in folder.iterdir()) == [
        "latest",
        "step-000000030",
        "step-000000040",
    ]


def test_what_a_killed_save_left_is_cleared_and_never_read(folder: Path) -> None:
    left = folder / ".step-000000030.12345.part"
    left.mkdir()
    (left / "state.pt").write_bytes(b"half")
    found, passed_over = load_latest(folder)
    assert found is not None
    assert (found["step"], passed_over) == (20, [])
    save(folder, 30, state(30))
    assert not left.exists()


def test_a_checkpoint_takes_the_place_of_a_damaged_one_of_its_step(folder: Path) -> None:
    flip_a_bit(folder / "step-000000020" / "state.pt")
    save(folder, 20, state(20))
    found, passed_over = load_latest(folder)
    assert found is not None
    assert (found["step"], passed_over) == (20, [])


def test_a_full_disk_is_told_of_and_the_old_checkpoints_stay(folder: Path) -> None:
    large = {**state(30), "module": {"w": torch.zeros(100_000)}}
    with files_limited_to(50_000), pytest.raises(OutputError) as caught:
        save(folder, 30, large)
    assert str(caught.value) == f"{folder / 'step-000000030'}: cannot be written: File too large"
    assert sorted(p.name for p in folder.iterdir()) == [
        "latest",
        "step-000000010",
        "step-000000020",
    ]
    found, passed_over = load_latest(folder)
    assert found is not None
    assert (found["step"], passed_over) == (20, [])


def test_a_folder_that_cannot_be_made_is_told_of(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(OutputError, match=r"step-000000001: cannot be written: "):
        save(tmp_path / "file" / "checkpoints", 1, state(1))


def test_what_is_saved_after_going_back_behind_damage_is_never_dropped_for_it(
    folder: Path,
) -> None:
    # What a kill between renaming and dropping leaves: three, of which the newest are damaged.
    save(folder, 30, state(30))
    shutil.copytree(folder / "step-000000020", folder / "step-000000010")
    (folder / "step-000000010" / "state.pt").unlink()
    for step in (20, 30):
        (folder / f"step-{step:09d}" / "state.pt").write_bytes(b"damaged")
    save(folder, 12, state(12))
    found, passed_over = load_latest(folder)
    assert found is not None
    assert (found["step"], passed_over) == (12, [])
    assert [path.name for path in checkpoints(folder)] == ["step-000000010", "step-000000012"]


def test_a_person_who_wants_to_stop_at_once_does_not_wait_for_the_disk(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # A disk that takes its time cannot be had for a test.
    slow = threading.Event()
    monkeypatch.setattr(checkpoint, "save", lambda *_: slow.wait(30))
    begun = time.monotonic()
    saver = checkpoint.Saver(tmp_path)
    saver.save(1, state(1))
    saver.__exit__(KeyboardInterrupt, KeyboardInterrupt(), None)
    assert time.monotonic() - begun < 10
    slow.set()
    assert not saver.fails()


def test_a_saver_waits_for_the_last_and_tells_of_a_refusal(tmp_path: Path) -> None:
    with checkpoint.Saver(tmp_path / "checkpoints") as saver:
        saver.save(1, state(1))
    assert [path.name for path in checkpoints(tmp_path / "checkpoints")] == ["step-000000001"]
    with checkpoint.Saver(tmp_path / "no" / "such" / "folder") as saver:
        saver.save(1, state(1))
        assert saver.fails()
        with pytest.raises(OutputError, match="cannot be written"):
            saver.close()
