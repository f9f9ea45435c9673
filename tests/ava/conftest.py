"""Data shared by the tests of AVA files: tables from text, and the larger published files."""

import os
from collections.abc import Callable
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]

Write = Callable[..., Path]


@pytest.fixture
def shared_data() -> Path:
    """The folder of the larger test files; the test is skipped where it is absent."""
    folder = Path(os.environ.get("VIDSSL_TEST_DATA", ROOT.parent / "shared" / "data"))
    if not (folder / "ava_eval").is_dir():
        pytest.skip(f"no ava_eval in {folder}; set VIDSSL_TEST_DATA to a folder that has it")
    return folder


@pytest.fixture
def write(tmp_path: Path) -> Write:
    """Write lines (or bytes) to a named file and give its path."""

    def write_file(name: str, *lines: str, data: bytes | None = None) -> Path:
        path = tmp_path / name
        text = "".join(f"{line}\n" for line in lines)
        path.write_bytes(text.encode() if data is None else data)
        return path

    return write_file
