"""Real tiny videos, a small playground, and the command as a person runs it."""

import hashlib
import os
import shutil
import signal
import socket
import subprocess
import sys
from collections.abc import Callable
from importlib.metadata import entry_points
from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from typer.testing import CliRunner, Result

from vidssl.jobs.playground import run as render_playground
from vidssl.video.workers import preload
from vidssl.video.write import write_video

# What workers need is imported once for all tests.
preload(["vidssl.data.clips", "vidssl.data.keyframes", "vidssl.jobs.index"])

# Tiny networks on two shared cores run many times slower with a thread for each.
torch.set_num_threads(1)

ROOT = Path(__file__).parents[1]


def pytest_sessionstart(session: pytest.Session) -> None:
    """Have failures named when they happen: a run that is cut off shows no summary."""
    reporter = session.config.pluginmanager.get_plugin("terminalreporter")
    if reporter is not None:
        session.config.pluginmanager.register(_AtOnce(reporter))


class _AtOnce:
    def __init__(self, reporter: pytest.TerminalReporter) -> None:
        self.reporter = reporter

    @pytest.hookimpl(trylast=True)
    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        if report.failed:
            crash = getattr(report.longrepr, "reprcrash", None)
            why = crash.message.splitlines()[0] if crash and crash.message else report.when
            self.reporter.write(f"\n{report.nodeid}: {why}\n")


def pytest_runtest_setup(item: pytest.Item) -> None:
    """Skip what needs a GPU where there is none."""
    if item.get_closest_marker("gpu") and not torch.cuda.is_available():
        pytest.skip("no CUDA device")


BACKBONE = "{name: slowfast, width: 8, depths: [1, 1, 1, 1], frames: 4, stride: 4, alpha: 2}"
DETECTOR = f"""\
task: detection
backbone: {BACKBONE}
decode_short_side_px: 48
boxes: {{test_min_score: 0.5}}
augment: {{short_side_px: [48, 48], crop_px: null, test_short_side_px: 48}}
optim: {{lr: 0.01, batch: 2, steps: 2}}
loader: {{workers: 0}}
log_every: 1
"""
TINY_RECIPES = {
    "pretrain": f"""\
task: pretrain
backbone: {BACKBONE}
decode_short_side_px: 48
method: {{name: moco, queue: 8, hidden: 16, dim: 8, key_groups: 1}}
augment: {{crop_px: 32}}
optim: {{lr: 0.01, batch: 2, steps: 3}}
loader: {{workers: 0}}
log_every: 1
""",
    "detection": DETECTOR,
    "detection_bank": DETECTOR
    + "head:\n"
    + "  operator: {name: fbo_nl, width: 8, layers: 1, window: {before_s: 3, after_s: 3}}\n",
    "extract": f"""\
task: extract
backbone: {BACKBONE}
decode_short_side_px: 48
short_side_px: 48
min_score: 0.5
batch: 4
videos_per_shard: 1
loader: {{workers: 0}}
""",
}

Cli = Callable[..., Result]


if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    # Started in the background by a script; the commands that tests interrupt would inherit it.
    signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """The folder of larger real data, which a checkout need not have."""
    folder = Path(os.environ.get("VIDSSL_TEST_DATA", ROOT / ".." / "shared" / "data"))
    if not folder.is_dir():
        pytest.skip(f"no test data at {folder}; set VIDSSL_TEST_DATA to have this test run")
    return folder


@pytest.fixture(scope="session")
def playground(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Four videos of 14 s, three to train on and one to validate; not to be written to."""
    folder = tmp_path_factory.mktemp("playground") / "pg"
    render_playground(folder, videos=4, seconds=14)
    return folder


@pytest.fixture
def playground_copy(playground: Path, tmp_path: Path) -> Path:
    """A playground whose files may be damaged."""
    return Path(shutil.copytree(playground, tmp_path / "pg"))


@pytest.fixture(scope="session")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Recipes of a few steps by name."""
    folder = tmp_path_factory.mktemp("recipes")
    paths = {name: folder / f"{name}.yaml" for name in TINY_RECIPES}
    for name, path in paths.items():
        path.write_text(TINY_RECIPES[name])
    return paths


@pytest.fixture(scope="session")
def cli() -> Cli:
    """The installed command, run in this process: exit code, stdout and stderr apart."""
    (entry,) = entry_points(group="console_scripts", name="vidssl")
    app = entry.load()

    def invoke(*arguments: object) -> Result:
        result = CliRunner().invoke(app, [str(argument) for argument in arguments])
        if result.exception is not None and not isinstance(result.exception, SystemExit):
            raise result.exception
        return result

    return invoke


@pytest.fixture
def refused(cli: Cli, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., str]:
    """Run a command that must be refused, having written nothing; its message is returned."""
    monkeypatch.chdir(tmp_path)

    def invoke(*arguments: object) -> str:
        before = snapshot(tmp_path)
        result = cli(*arguments)
        assert result.exit_code == 2, result.output
        assert result.stdout == ""
        assert snapshot(tmp_path) == before
        return result.stderr

    return invoke


def snapshot(folder: Path) -> dict[str, str]:
    """Return every file's checksum, and every folder, by its path."""
    return {
        str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest()
        if path.is_file()
        else "folder"
        for path in sorted(folder.rglob("*"))
    }


# --- one run of each command, which many tests look at; not to be written to


@pytest.fixture(scope="session")
def index(cli: Cli, playground: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The playground's index."""
    path = tmp_path_factory.mktemp("index") / "index.parquet"
    result = cli("index", playground / "videos", "--out", path)
    assert result.exit_code == 0, result.output
    return path


@pytest.fixture(scope="session")
def pretrained(
    cli: Cli, index: Path, tiny: dict[str, Path], tmp_path_factory: pytest.TempPathFactory
) -> Path:
    """A finished pretraining."""
    out = tmp_path_factory.mktemp("pretrained") / "run"
    result = cli("pretrain", tiny["pretrain"], "--videos", index, "--out", out)
    assert result.exit_code == 0, result.output
    return out


@pytest.fixture(scope="session")
def training_data(playground: Path, index: Path) -> list[object]:
    """What finetune is told of the playground."""
    return [
        *("--videos", index, "--annotations", playground / "train.csv"),
        *("--labels", playground / "action_list.pbtxt"),
    ]


@pytest.fixture(scope="session")
def detector(
    cli: Cli,
    training_data: list[object],
    pretrained: Path,
    tiny: dict[str, Path],
    tmp_path_factory: pytest.TempPathFactory,
) -> Path:
    """A finished detector without a bank."""
    out = tmp_path_factory.mktemp("detector") / "run"
    result = cli(
        "finetune", tiny["detection"], "--encoder", pretrained, *training_data, "--out", out
    )
    assert result.exit_code == 0, result.output
    return out


@pytest.fixture(scope="session")
def bank(
    cli: Cli,
    playground: Path,
    index: Path,
    detector: Path,
    tiny: dict[str, Path],
    tmp_path_factory: pytest.TempPathFactory,
) -> Path:
    """The bank of the detector's encoder."""
    out = tmp_path_factory.mktemp("bank") / "bank"
    boxes = [playground / f"{split}_person_detections.csv" for split in ("train", "val")]
    result = cli(
        *("extract-features", tiny["extract"], "--encoder", detector, "--videos", index),
        *("--boxes", boxes[0], "--boxes", boxes[1], "--out", out),
    )
    assert result.exit_code == 0, result.output
    return out


@pytest.fixture(scope="session")
def bank_detector(
    cli: Cli,
    training_data: list[object],
    detector: Path,
    bank: Path,
    tiny: dict[str, Path],
    tmp_path_factory: pytest.TempPathFactory,
) -> Path:
    """A finished detector that reads the bank."""
    out = tmp_path_factory.mktemp("bank_detector") / "run"
    result = cli(
        *("finetune", tiny["detection_bank"], "--encoder", detector, *training_data),
        *("--bank", bank, "--out", out),
    )
    assert result.exit_code == 0, result.output
    return out


@pytest.fixture
def in_two_processes(tmp_path: Path) -> Callable[..., list[str]]:
    """Run a script as two processes, or ``count``, and return what each printed, by rank."""

    def run(script: str, *arguments: object, count: int = 2) -> list[str]:
        (tmp_path / "ranks.py").write_text(script)
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port = free.getsockname()[1]
        group = {"WORLD_SIZE": str(count), "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
        command = [sys.executable, str(tmp_path / "ranks.py"), *map(str, arguments)]
        processes = [
            subprocess.Popen(
                command,
                env={**os.environ, **group, "RANK": str(rank), "OMP_NUM_THREADS": "1"},
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                text=True,
            )
            for rank in range(count)
        ]
        said = [process.communicate(timeout=120) for process in processes]
        assert not any(process.returncode for process in processes), [err for _, err in said]
        return [out for out, _ in said]

    return run


@pytest.fixture(scope="session")
def write_numbered() -> Callable[..., Path]:
    """Write an H.264 video of 64 x 96 whose frames carry their number, and return its path."""

    def write(path: Path, frames: int, *, fps: int = 10, gop: int = 30, first: int = 0) -> Path:
        numbers = range(first, first + frames)
        write_video(path, (_numbered_frame(n) for n in numbers), fps, gop=gop, crf=18)
        return path

    return write


@pytest.fixture(scope="session")
def read_numbers() -> Callable[[NDArray[np.uint8]], list[int]]:
    """Return the numbers that the frames ``(T, H, W, 3)`` of a numbered video carry."""

    def read(frames: NDArray[np.uint8]) -> list[int]:
        _, height, width, _ = frames.shape
        row = frames[:, height // 8, :, 1]  # the middle of the cells, an eighth of the way down
        bits = row[:, (np.arange(8) * 2 + 1) * width // 16] > 128
        return [int(n) for n in bits @ (1 << np.arange(8))]

    return read


def _numbered_frame(number: int) -> NDArray[np.uint8]:
    """Eight cells along the upper quarter, bright where the number has a bit; still below."""
    frame = np.full((64, 96, 3), 90, np.uint8)
    frame[16:, :, 0] = np.arange(96, dtype=np.uint8) * 2  # so that the picture has a left and right
    bits = (number >> np.arange(8)) & 1
    frame[:16] = np.repeat(bits * 235, 12)[None, :, None]
    return frame
