"""Small numbered videos and an index of them."""

from collections.abc import Callable, Sequence
from pathlib import Path

import pytest

from vidssl.video.index import ClipIndex, write_index
from vidssl.video.probe import VideoFacts, probe

Index = Callable[[Sequence[Path]], ClipIndex]


@pytest.fixture(scope="session")
def videos(
    tmp_path_factory: pytest.TempPathFactory, write_numbered: Callable[..., Path]
) -> list[Path]:
    """Five videos of 3 to 5 s, 10 frames a second; frame n of video v carries 50 v + n."""
    folder = tmp_path_factory.mktemp("videos")
    lengths = [30, 35, 40, 45, 50]
    return [
        write_numbered(folder / f"video{v}.mp4", frames, fps=10, first=50 * v)
        for v, frames in enumerate(lengths)
    ]


@pytest.fixture(scope="session")
def facts(videos: list[Path]) -> list[VideoFacts]:
    return [probe(str(path)) for path in videos]


@pytest.fixture
def index(tmp_path: Path, facts: list[VideoFacts]) -> ClipIndex:
    write_index(tmp_path / "index.parquet", facts)
    return ClipIndex(tmp_path / "index.parquet")


@pytest.fixture
def broken_index(tmp_path: Path, facts: list[VideoFacts]) -> Callable[[set[int]], ClipIndex]:
    """An index in which some videos were damaged after it was made."""

    def make(broken: set[int]) -> ClipIndex:
        rows = []
        for number, row in enumerate(facts):
            path = tmp_path / Path(row.path).name
            if number in broken:
                path.write_bytes(b"garbage" * 100)
            else:
                path.write_bytes(Path(row.path).read_bytes())
            rows.append(VideoFacts(**{**vars(row), "path": str(path)}))
        write_index(tmp_path / "broken.parquet", rows)
        return ClipIndex(tmp_path / "broken.parquet")

    return make
