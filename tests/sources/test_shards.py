"""Shards: the same bytes in the same order as plain files, labels, and names of many tars."""

import io
import json
import tarfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest

from vidssl import sources
from vidssl.errors import SourceError
from vidssl.jobs.index import run as index_videos
from vidssl.video.decoders.pyav import Reader
from vidssl.video.storage import Location, opened, stat, video_id


def pack(path: Path, files: dict[str, bytes], form: int = tarfile.USTAR_FORMAT) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, "w", format=form) as tar:
        for name, data in files.items():
            info = tarfile.TarInfo(name)
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))
    return path


def content(location: Location) -> bytes:
    file = opened(location)
    if isinstance(file, str):
        return Path(file).read_bytes()
    with file:
        return file.read()


def labels(listing: sources.Listing) -> list[list[int]]:
    found: list[list[int]] = listing.entries["labels"].to_pylist()
    return found


def test_order_and_bytes_are_those_of_plain_files(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    files = {f"{n:03d}.mp4": rng.bytes(int(rng.integers(1, 3000))) for n in range(20)}
    for name, data in files.items():
        (tmp_path / "plain").mkdir(exist_ok=True)
        (tmp_path / "plain" / name).write_bytes(data)
    names = list(files)
    for shard in range(4):
        mine = {name: files[name] for name in names[5 * shard : 5 * shard + 5]}
        pack(tmp_path / "tars" / f"train-{shard:06d}.tar", mine)
    plain = sources.scan(str(tmp_path / "plain"))
    packed = sources.scan(f"shards:{tmp_path}/tars")
    assert [video_id(one) for one in packed] == [video_id(one) for one in plain]
    assert [content(one) for one in packed] == [content(one) for one in plain]
    assert [stat(one).bytes for one in packed] == [stat(one).bytes for one in plain]
    assert sources.scan(f"shards:{tmp_path}/tars") == packed
    for text in ("train-{000000..000003}.tar", "tr{a..b}in", "train-{3..000000}.tar"):
        if text.startswith("train-{0"):
            assert sources.scan(f"shards:{tmp_path}/tars/{text}") == packed
        else:
            with pytest.raises(SourceError, match=r"no such file|expected \{FIRST"):
                sources.scan(f"shards:{tmp_path}/tars/{text}")


@pytest.mark.parametrize(
    "form",
    [tarfile.USTAR_FORMAT, tarfile.GNU_FORMAT, tarfile.PAX_FORMAT],
    ids=["ustar", "gnu", "pax"],
)
def test_long_and_foreign_names_survive_in_every_form(form: int, tmp_path: Path) -> None:
    long = "/".join(["folder" * 6] * 6)
    files = {"é 日本/a!b.mp4": b"one", f"{long}/000.mp4": b"two", "x/y%20.MKV": b"three"}
    if form == tarfile.USTAR_FORMAT:
        files.pop(f"{long}/000.mp4")
    tar = pack(tmp_path / "t.tar", files, form)
    videos = sources.scan(f"shards:{tar}")
    assert [content(one) for one in videos] == list(files.values())
    assert [video_id(one) for one in videos] == [Path(name).stem for name in files]


def test_a_sample_is_what_shares_a_key(tmp_path: Path) -> None:
    files = {
        "a/000.mp4": b"v",
        "a/000.cls": b"3\n",
        "a/001.jpg": b"no video",
        "a/002.json": json.dumps({"label": 5, "text": "x"}).encode(),
        "a/002.rgb.mp4": b"v",
        "a/002.depth.mp4": b"v",
        "a/003.mp4": b"v",
        "README": b"no key",
        "b/000.webm": b"v",
        "b/000.txt": b"7",
        "a/000.mp4 ": b"other",
    }
    listing = sources.read(f"shards:{pack(tmp_path / 't.tar', files)}")
    assert listing.entries["id"].to_pylist() == ["a/000", "a/002", "a/003", "b/000"]
    assert labels(listing) == [[3], [5], [], [7]]
    assert listing.entries["video"].to_pylist() == [0, 1, 2, 3]
    assert listing.ledger.unusable == (f"{tmp_path}/t.tar: 1 samples' further videos left out",)
    assert labels(sources.read(f"shards:{tmp_path / 't.tar'},labels=no")) == [[]] * 4


def test_labels_that_are_names_are_numbered_as_sorted(tmp_path: Path) -> None:
    files = {"0.mp4": b"v", "0.txt": b"walk\nslowly", "1.mp4": b"v", "1.txt": b"run", "2.mp4": b"v"}
    listing = sources.read(f"shards:{pack(tmp_path / 't.tar', files)}")
    assert listing.classes == {0: "run", 1: "walk"}
    assert labels(listing) == [[1], [0], []]


def test_a_key_that_comes_again_is_told_of(tmp_path: Path) -> None:
    pack(tmp_path / "0.tar", {"a.mp4": b"1", "b.mp4": b"2"})
    pack(tmp_path / "1.tar", {"a.mp4": b"3", "c.mp4": b"4", "a.webm": b"5"})
    listing = sources.read(f"shards:{tmp_path}")
    assert [content(one) for one in listing.videos] == [b"1", b"2", b"3", b"4"]
    assert listing.ledger.duplicates == ("a",)


def test_a_shard_that_is_not_there_does_not_stop_the_others(tmp_path: Path) -> None:
    pack(tmp_path / "t-1.tar", {"a.mp4": b"1"})
    listing = sources.read(f"shards:{tmp_path}/t-{{0..2}}.tar")
    assert len(listing.videos) == 1
    assert listing.ledger.unusable == (
        f"{tmp_path}/t-0.tar: no such file",
        f"{tmp_path}/t-2.tar: no such file",
    )
    with pytest.raises(SourceError, match=r"no video in 2 tars:\n.*t-3\.tar: no such file"):
        sources.scan(f"shards:{tmp_path}/t-{{3..4}}.tar")


def test_a_tar_named_alone_tells_how_to_name_it(tmp_path: Path) -> None:
    tar = pack(tmp_path / "t.tar", {"a.mp4": b"1"})
    with pytest.raises(SourceError, match=rf"an archive; name it as shards:{tar}"):
        sources.scan(str(tar))
    with pytest.raises(
        SourceError, match=rf"no video file .*for archives name shards:{tmp_path}\)"
    ):
        sources.scan(str(tmp_path))


def test_a_member_may_be_a_source_or_stand_in_a_list(tmp_path: Path) -> None:
    (one, two) = sources.scan(f"shards:{pack(tmp_path / 't.tar', {'a.mp4': b'1', 'b.mp4': b'2'})}")
    assert sources.scan(one) == [one]
    (tmp_path / "list.txt").write_text(f"{two}\nt.tar!a.mp4@{one.rpartition('@')[2]}\n")
    assert sources.scan(str(tmp_path / "list.txt")) == [two, one]


def test_a_packed_video_decodes_like_the_plain_one(
    write_numbered: Callable[..., Path], tmp_path: Path
) -> None:
    path = write_numbered(tmp_path / "v.mp4", 30)
    data = path.read_bytes()
    (packed,) = sources.scan(f"shards:{pack(tmp_path / 't.tar', {'0.txt': b'x', '0.mp4': data})}")
    times = np.array([0.05, 1.25, 2.95])
    with Reader(packed) as one, Reader(str(path)) as other:
        assert np.array_equal(one.frames_at(times).frames, other.frames_at(times).frames)


def test_an_index_of_shards_is_that_of_the_files(playground: Path, tmp_path: Path) -> None:
    videos = sorted((playground / "videos").iterdir())
    for number in range(2):
        mine = {path.name: path.read_bytes() for path in videos[2 * number : 2 * number + 2]}
        pack(tmp_path / "tars" / f"{number}.tar", mine)
    tables = []
    for name, source in (
        ("plain", str(playground / "videos")),
        ("packed", f"shards:{tmp_path}/tars"),
    ):
        index_videos(source, tmp_path / f"{name}.parquet", workers=1)
        table = pq.read_table(tmp_path / f"{name}.parquet")
        assert [video_id(one) for one in table["path"].to_pylist()] == [p.stem for p in videos]
        tables.append(
            table.select(["status", "bytes", "fps", "frames", "duration_s", "keyframes_s"])
        )
    assert tables[0].to_pylist() == tables[1].to_pylist()
