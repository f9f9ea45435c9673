"""Hostile archives, folders and lists: nothing is written, nothing hangs, each trouble is named."""

import io
import os
import resource
import socket
import tarfile
import time
from pathlib import Path
from typing import Literal

import numpy as np
import pytest

from vidssl import sources
from vidssl.errors import SourceError
from vidssl.sources import _tar

Members = list[tuple[tarfile.TarInfo, bytes]]


def member(
    name: str, data: bytes = b"", kind: bytes = tarfile.REGTYPE, **more: object
) -> tuple[tarfile.TarInfo, bytes]:
    info = tarfile.TarInfo(name)
    info.type, info.size = kind, len(data)
    for key, value in more.items():
        setattr(info, key, value)
    return info, data


def raw(
    *members: tuple[tarfile.TarInfo, bytes], form: Literal[0, 1, 2] = tarfile.GNU_FORMAT
) -> bytes:
    """Put headers and data together as they are, whether they fit or not."""
    parts = []
    for info, data in members:
        parts += [info.tobuf(form), data, bytes(-len(data) % 512)]
    return b"".join(parts) + bytes(1024)


GOOD = member("good.mp4", b"video")


def unusable(path: Path) -> list[str]:
    listing = sources.read(f"shards:{path}")
    assert [one.rpartition("@")[0] for one in listing.videos] == [f"{path}!good.mp4"]
    return [told.removeprefix(f"{path}: ") for told in listing.ledger.unusable]


@pytest.mark.parametrize(
    ("bad", "told"),
    [
        (member("../../up.mp4", b"x"), "1 unsafe names left out"),
        (member("a/../../up.mp4", b"x"), "1 unsafe names left out"),
        (member("/etc/cron.d/x.mp4", b"x"), "1 unsafe names left out"),
        (
            member("l.mp4", kind=tarfile.SYMTYPE, linkname="/etc/passwd"),
            "1 symbolic links left out",
        ),
        (member("h.mp4", kind=tarfile.LNKTYPE, linkname="/etc/passwd"), "1 hard links left out"),
        (member("c.mp4", kind=tarfile.CHRTYPE, devmajor=1), "1 devices left out"),
        (member("b.mp4", kind=tarfile.BLKTYPE, devmajor=8), "1 devices left out"),
        (member("p.mp4", kind=tarfile.FIFOTYPE), "1 pipes left out"),
        (member("s.mp4", b"x" * 600, kind=tarfile.GNUTYPE_SPARSE), "1 sparse files left out"),
        (member("u.mp4", b"x" * 600, kind=b"Z"), "1 members of an unknown kind left out"),
    ],
)
def test_unsafe_members_are_left_out_and_counted(
    bad: tuple[tarfile.TarInfo, bytes], told: str, tmp_path: Path
) -> None:
    path = tmp_path / "t.tar"
    path.write_bytes(raw(bad, GOOD))
    assert unusable(path) == [told]
    assert os.listdir(tmp_path) == ["t.tar"]


def test_unsafe_names_in_extended_headers_are_seen(tmp_path: Path) -> None:
    path = tmp_path / "t.tar"
    forms: tuple[Literal[0, 1, 2], ...] = (tarfile.PAX_FORMAT, tarfile.GNU_FORMAT)
    for form in forms:
        path.write_bytes(raw(member("../" * 60 + "é.mp4", b"x"), GOOD, form=form))
        assert unusable(path) == ["1 unsafe names left out"]
    info, _ = member("s.mp4", b"x")
    info.pax_headers = {"GNU.sparse.major": "1", "GNU.sparse.name": "s.mp4"}
    path.write_bytes(raw((info, b"x"), GOOD, form=tarfile.PAX_FORMAT))
    assert unusable(path) == ["1 sparse files left out"]


def test_names_that_a_terminal_would_obey_are_shown_as_escapes(tmp_path: Path) -> None:
    path = tmp_path / "t.tar"
    path.write_bytes(raw(member("a\nb/\x1b[2Jn\nforged.mp4", b"x"), member("b\udcff.mp4", b"y")))
    listing = sources.read(f"shards:{path}")
    assert all(one.isprintable() for one in listing.videos)
    assert [one.rpartition("@")[0].rpartition("!")[2] for one in listing.videos] == [
        "a%0Ab/%1B[2Jn%0Aforged.mp4",
        "b%FF.mp4",
    ]
    assert all(one.isprintable() for one in listing.entries["id"].to_pylist())


@pytest.mark.parametrize(
    ("bad", "told"),
    [
        (raw(member("big.mp4", b"x", size=10**9)), "cut or damaged: big.mp4 would end after the"),
        (raw(member("huge.mp4", b"x", size=2**62)), "cut or damaged: huge.mp4 would end after the"),
        (raw(member("x", b"", kind=tarfile.XHDTYPE, size=2**40)), "cut or damaged: x would end"),
        (
            raw(member("x", b"9" * (2 << 20), tarfile.XHDTYPE)),
            "an extended header of 2097152 bytes",
        ),
        (
            raw(member("x", b"9" * (1 << 17), tarfile.GNUTYPE_LONGNAME)),
            "an extended header of 131072",
        ),
        (b"\xff" * 2048, "damaged: no header at byte 1024"),
        (raw(member("c.mp4", b"x" * 5000))[:2000], "cut or damaged: c.mp4 would end after"),
        (raw(member("c.mp4", b"x"))[:300], "cut: it ends without its closing blocks"),
        (b"", "cut: it ends without its closing blocks"),
    ],
    ids=["1GB", "2^62", "pax 1TB", "pax 2MB", "name 128kB", "noise", "cut data", "cut head", "cut"],
)
def test_a_damaged_tar_gives_what_came_before(bad: bytes, told: str, tmp_path: Path) -> None:
    path = tmp_path / "t.tar"
    path.write_bytes(raw(GOOD)[:1024] + bad)
    (found,) = unusable(path)
    assert told in found


def test_a_negative_size_does_not_step_back(tmp_path: Path) -> None:
    block = bytearray(raw(member("n.mp4", b""))[:512])
    block[124:136] = b"\xff" * 12  # -1 in base 256
    block[148:156] = b" " * 8
    block[148:156] = b"%06o\0 " % sum(block)
    (tmp_path / "t.tar").write_bytes(raw(GOOD)[:1024] + bytes(block) + bytes(1024))
    (told,) = unusable(tmp_path / "t.tar")
    assert "cut or damaged: n.mp4" in told
    info = tarfile.TarInfo("m.mp4")
    info.pax_headers = {"size": "-5120"}
    (tmp_path / "t.tar").write_bytes(raw(GOOD)[:1024] + raw((info, b""), form=tarfile.PAX_FORMAT))
    (told,) = unusable(tmp_path / "t.tar")
    assert "cut or damaged: m.mp4" in told


def test_a_hundred_thousand_tiny_records_take_no_time(tmp_path: Path) -> None:
    records = b"6 a=b\n" * 150_000
    extended = raw(member("x", records, tarfile.XHDTYPE))[:-1024]
    (tmp_path / "t.tar").write_bytes(extended + raw(GOOD))
    started = time.monotonic()
    assert unusable(tmp_path / "t.tar") == []
    assert time.monotonic() - started < 5


def test_large_data_are_stepped_over(tmp_path: Path) -> None:
    # A tar of 64 GiB that takes no room: its middle is a hole.
    path = tmp_path / "t.tar"
    size = 64 << 30
    with path.open("wb") as file:
        file.write(_header("hole.mp4", size))
        file.seek(512 + size)
        file.write(raw(GOOD))
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    started = time.monotonic()
    assert len(sources.scan(f"shards:{path}")) == 2
    assert time.monotonic() - started < 5
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 200 << 10  # KiB


def _header(name: str, size: int) -> bytes:
    info = tarfile.TarInfo(name)
    info.size = size
    return info.tobuf(tarfile.GNU_FORMAT)


@pytest.mark.parametrize(
    ("name", "mode", "tool"),
    [("t.tar.gz", "w:gz", "gunzip"), ("t.tgz", "w:gz", "gunzip"), ("t.tar.xz", "w:xz", "unxz")],
)
def test_compressed_tars_are_refused_with_the_way_out(
    name: str, mode: str, tool: str, tmp_path: Path
) -> None:
    with tarfile.open(tmp_path / name, mode) as tar:  # type: ignore[call-overload]
        tar.addfile(GOOD[0], io.BytesIO(GOOD[1]))
    for source in (tmp_path / name, tmp_path):
        with pytest.raises(SourceError, match=rf"compressed; unpack it first \({tool} {name}\)"):
            sources.scan(f"shards:{source}")
    with pytest.raises(SourceError, match=r"an archive; name it as shards:"):
        sources.scan(str(tmp_path / name))
    (tmp_path / name).rename(tmp_path / "t.tar")  # and under a false name
    with pytest.raises(SourceError, match=rf"compressed; unpack it first \({tool} t\.tar\)"):
        sources.scan(f"shards:{tmp_path}/t.tar")


def test_a_bomb_stays_packed(tmp_path: Path) -> None:
    with tarfile.open(tmp_path / "b.tar.gz", "w:gz") as tar:
        info = tarfile.TarInfo("zeros.mp4")
        info.size = 1 << 24
        tar.addfile(info, io.BytesIO(bytes(info.size)))
    (tmp_path / "b.tar.gz").rename(tmp_path / "b.tar")
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with pytest.raises(SourceError, match="compressed"):
        sources.scan(f"shards:{tmp_path}")
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 8 << 10


def test_noise_is_no_tar(tmp_path: Path) -> None:
    (tmp_path / "a.tar").write_bytes(np.random.default_rng(0).bytes(5000))
    (tmp_path / "b.tar").touch()
    with pytest.raises(SourceError) as caught:
        sources.scan(f"shards:{tmp_path}")
    assert "a.tar: no tar" in str(caught.value)
    assert "b.tar: empty" in str(caught.value)


def test_damage_anywhere_in_a_header_neither_hangs_nor_escapes() -> None:
    whole = raw(member("a.mp4", b"x" * 700), member("n" * 150 + ".mp4", b"y"), GOOD)
    rng = np.random.default_rng(0)
    for _ in range(400):
        hurt = bytearray(whole)
        for at in rng.integers(0, len(whole), 3):
            hurt[at] = rng.integers(0, 256)
        account = _tar.Account()
        for one in _tar.files_of(io.BytesIO(bytes(hurt)), account):
            assert 0 <= one.offset <= one.offset + one.size <= len(whole)
        account.told()


# --- folders


@pytest.mark.timeout(30)
def test_a_folder_of_traps_gives_its_videos(tmp_path: Path) -> None:
    folder = tmp_path / "v"
    (folder / "sub.mp4").mkdir(parents=True)
    (folder / "sub.mp4" / "in.mp4").touch()
    (folder / "real.mp4").touch()
    (folder / "link.mp4").symlink_to("real.mp4")
    (folder / "self.mp4").symlink_to("self.mp4")
    (folder / "gone.mp4").symlink_to("nowhere")
    (folder / "up").symlink_to("..")
    (folder / "sub.mp4" / "round").symlink_to(folder)
    os.mkfifo(folder / "pipe.mp4")
    (tmp_path / "beside.mp4").touch()  # to which only the link up would lead
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "elsewhere" / "other.mp4").touch()
    (folder / "a link").symlink_to(tmp_path / "elsewhere")
    os.close(os.open(os.fsencode(folder) + b"/caf\xe9.mp4", os.O_CREAT))
    with socket.socket(socket.AF_UNIX) as door:
        door.bind(os.path.relpath(folder / "door.mp4"))
        listing = sources.read(str(folder))
    assert [os.path.relpath(one, folder) for one in listing.videos] == [
        "a link/other.mp4",
        "link.mp4",
        "real.mp4",
        "sub.mp4/in.mp4",
    ]
    assert sorted(told.removeprefix(f"{folder}/") for told in listing.ledger.unusable) == [
        r"caf\xe9.mp4: the name is not UTF-8",
        "door.mp4: not a file",
        "gone.mp4: a link to no file",
        "pipe.mp4: not a file",
        "self.mp4: Too many levels of symbolic links",
    ]


def test_a_name_that_is_no_text_is_told_wherever_it_comes_up(tmp_path: Path) -> None:
    name = os.fsdecode(os.fsencode(tmp_path) + b"/\xff.mp4")
    Path(name).touch()
    with pytest.raises(SourceError, match=r"\\xff\.mp4: the name is not UTF-8"):
        sources.scan(str(tmp_path))
    with pytest.raises(SourceError, match=r"\\xff\.mp4: the name is not UTF-8; rename the file"):
        sources.scan(name)
    with pytest.raises(SourceError, match=r"\\xfe\.mp4: no such file or folder; did you mean "):
        sources.scan(name.replace("\udcff", "\udcfe"))


# --- lists


def test_a_list_does_not_lead_out_of_its_folder_unawares(tmp_path: Path) -> None:
    folder = tmp_path / "data"
    folder.mkdir()
    for name in ("in.mp4", "../out.mp4"):
        (folder / name).touch()
    (folder / "l.txt").write_text("in.mp4\nsub/../in.mp4\n../out.mp4\na/../../out.mp4\n")
    with pytest.raises(SourceError) as caught:
        sources.scan(str(folder / "l.txt"))
    told = str(caught.value).splitlines()
    assert told[0] == f"{folder}/l.txt: 2 mistakes:"
    assert told[1].endswith(
        f"l.txt:3: ../out.mp4: climbs out of {folder}; allow it with outside=allow"
    )
    allowed = sources.scan(f"listing:{folder}/l.txt,outside=allow")
    assert Path(allowed[2]).resolve() == tmp_path / "out.mp4"
    # Absolute paths are as a person would write them, unless a root is declared.
    (folder / "l.txt").write_text(f"{folder}/in.mp4\n{tmp_path}/out.mp4\n")
    assert len(sources.scan(str(folder / "l.txt"))) == 2
    with pytest.raises(SourceError, match=rf"l\.txt:2: .*out\.mp4: a path outside of {folder};"):
        sources.scan(f"listing:{folder}/l.txt,root={folder}")


@pytest.mark.timeout(30)
def test_a_line_without_end_does_not_hang(tmp_path: Path) -> None:
    (tmp_path / "good.mp4").touch()
    (tmp_path / "val.csv").write_text("good.mp4 1\na" + ", " * 500_000 + "x\n")
    with pytest.raises(SourceError, match=r"val\.csv:2: expected PATH LABEL, found 'a, , ,"):
        sources.scan(f"kinetics:{tmp_path}")


@pytest.mark.timeout(30)
def test_a_list_of_traps_opens_none_of_them(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.mp4")
    (tmp_path / "dir.mp4").mkdir()
    (tmp_path / "good.mp4").touch()
    (tmp_path / "l.txt").write_text("pipe.mp4\ndir.mp4\ngood.mp4\na\0b.mp4\n\x1b[2J.mp4\n")
    listing = sources.read(str(tmp_path / "l.txt"))
    assert listing.ledger.missing == ("pipe.mp4", "dir.mp4", "a\0b.mp4", "\x1b[2J.mp4")
    assert listing.ledger.present == 1
    assert "\x1b" not in str(listing.ledger.as_json())
    os.mkfifo(tmp_path / "list.csv")
    with pytest.raises(SourceError, match=r"list\.csv: not a file"):
        sources.scan(str(tmp_path / "list.csv"))
