"""Locations: files, addresses of real servers on this machine, members of tars, and what fails."""

import errno
import io
import json
import os
import re
import socket
import subprocess
import sys
import tarfile
import threading
import time
import traceback
import urllib.request
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.error import URLError
from urllib.parse import unquote, urlsplit

import fsspec
import numpy as np
import pyarrow.parquet as pq
import pytest
from typer.testing import Result

from vidssl import sources
from vidssl.errors import SourceError, VideoError
from vidssl.video import storage
from vidssl.video.decoders.pyav import Reader
from vidssl.video.index import account_of
from vidssl.video.probe import probe
from vidssl.video.storage import (
    Location,
    Member,
    member_of,
    opened,
    shown,
    stat,
    told_apart,
    video_id,
)
from vidssl.video.write import write_video

CHANGED = "Wed, 21 Oct 2015 07:28:00 GMT"  # 1445412480 s


@dataclass
class Web:
    """A server of the files of a folder; ``troubles`` are met by the next requests, in turn."""

    root: Path
    port: int = 0
    ranges: bool = True
    troubles: list[int | str] = field(default_factory=list)
    headers: dict[str, str] = field(default_factory=lambda: {"Last-Modified": CHANGED})
    requests: list[tuple[str, str]] = field(default_factory=list)
    sent: int = 0

    def url(self, name: str) -> str:
        return f"http://127.0.0.1:{self.port}/{name}"


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    web: Web

    def do_HEAD(self) -> None:
        self.answer(body=False)

    def do_GET(self) -> None:
        self.answer(body=True)

    def answer(self, *, body: bool) -> None:
        self.web.requests.append((self.command, self.path))
        trouble = self.web.troubles.pop(0) if self.web.troubles else 200
        path = self.web.root / unquote(urlsplit(self.path).path).lstrip("/")
        if trouble == "reset":
            self.close_connection = True
            self.connection.shutdown(socket.SHUT_RDWR)
            return
        if trouble != 200 or not path.is_file():
            self.send_response(int(trouble) if trouble != 200 else 404)
            self.send_header("Content-Length", "0")
            self.end_headers()
            return
        data = self.part(path.read_bytes())
        self.send_header("Content-Length", str(len(data)))
        for name, value in self.web.headers.items():
            self.send_header(name, value)
        self.end_headers()
        if body:
            self.web.sent += len(data)
            try:
                self.wfile.write(data)
            except OSError:
                self.close_connection = True

    def part(self, data: bytes) -> bytes:
        span = re.fullmatch(r"bytes=(\d+)-(\d*)", self.headers.get("Range", ""))
        if not (span and self.web.ranges):
            self.send_response(200)
            return data
        first, last = int(span[1]), min(int(span[2] or len(data)), len(data) - 1)
        self.send_response(206)
        self.send_header("Content-Range", f"bytes {first}-{last}/{len(data)}")
        return data[first : last + 1]

    def log_message(self, *_: object) -> None:
        pass


class Server(ThreadingHTTPServer):
    daemon_threads = True

    def handle_error(self, *_: object) -> None:
        """A connection that a client or a trouble has cut is no news."""


@pytest.fixture
def web(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Web]:
    """A web server with ranges; pauses before another try are short."""
    monkeypatch.setattr(storage, "BACKOFF_S", (0.01, 0.02, 0.03))
    web = Web(tmp_path / "web")
    web.root.mkdir()
    with Server(("127.0.0.1", 0), type("WebHandler", (Handler,), {"web": web})) as server:
        web.port = server.server_address[1]
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield web
        server.shutdown()
        thread.join()


@pytest.fixture(scope="module")
def s3_port() -> Iterator[int]:
    """A server of S3 in a process of its own."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = int(free.getsockname()[1])
    command = [sys.executable, "-c", "import sys; from moto.server import main; main(sys.argv[1:])"]
    server = subprocess.Popen(
        [*command, "-H", "127.0.0.1", "-p", str(port)],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        env={**os.environ, "AWS_ACCESS_KEY_ID": "test", "AWS_SECRET_ACCESS_KEY": "test"},
    )
    try:
        for _ in range(600):
            try:
                urllib.request.urlopen(f"http://127.0.0.1:{port}/moto-api", timeout=5).close()
                break
            except (URLError, ConnectionError):
                assert server.poll() is None, "the server of S3 has ended"
                time.sleep(0.05)
        yield port
    finally:
        server.terminate()
        server.wait(20)


class Bucket:
    """A bucket called ``videos``."""

    def __init__(self, port: int) -> None:
        self._url = f"http://127.0.0.1:{port}/videos"
        self.put("", b"")

    def put(self, key: str, data: bytes) -> Location:
        url = f"{self._url}/{key}" if key else self._url
        kind = {"Content-Type": "application/octet-stream"}
        with urllib.request.urlopen(urllib.request.Request(url, data, kind, method="PUT")):
            return f"s3://videos/{key}"


@pytest.fixture
def s3(s3_port: int, monkeypatch: pytest.MonkeyPatch) -> Bucket:
    monkeypatch.setattr(storage, "BACKOFF_S", (0.01,))
    for name, value in {
        "AWS_ENDPOINT_URL": f"http://127.0.0.1:{s3_port}",
        "AWS_ACCESS_KEY_ID": "test",
        "AWS_SECRET_ACCESS_KEY": "test",
        "AWS_DEFAULT_REGION": "us-east-1",
        "AWS_EC2_METADATA_DISABLED": "true",
    }.items():
        monkeypatch.setenv(name, value)
    fsspec.get_filesystem_class("s3").clear_instance_cache()
    return Bucket(s3_port)


@pytest.fixture(scope="module")
def heavy(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A video of 8 s whose noise takes some megabytes."""
    path = tmp_path_factory.mktemp("heavy") / "heavy.mp4"
    noise = np.random.default_rng(0).integers(0, 256, (80, 160, 192, 3), np.uint8)
    write_video(path, iter(noise), 10, gop=10, crf=4)
    assert path.stat().st_size > 10 * storage.BLOCK_BYTES
    return path


@pytest.fixture(scope="module")
def truth(heavy: Path) -> np.ndarray:
    with Reader(str(heavy)) as reader:
        return reader.frames_at(TIMES).frames


TIMES = np.array([5.05, 5.55])


def archive(path: Path, files: dict[str, bytes]) -> dict[str, Location]:
    """Write a tar, and return the location of each member."""
    with tarfile.open(path, "w") as tar:
        for name, data in files.items():
            info = tarfile.TarInfo(name)
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))
    with tarfile.open(path) as tar:
        return {
            one.name: Member(str(path), one.name, one.offset_data, one.size).location()
            for one in tar.getmembers()
        }


# --- what a location is


@pytest.mark.parametrize(
    "name",
    ["a.mp4", "x/y!z@1+2.mp4", "50 %.mp4", "é.mp4", "line\nbreak\x1b.mp4", "b\udcff.mp4", "!"],
)
@pytest.mark.parametrize("tar", ["/data/t.tar", "/odd!x@1+2/t.tar", "s3://b/t.tar", "t"])
def test_a_member_survives_being_written_as_text(tar: str, name: str) -> None:
    member = Member(tar, name, 1536, 20)
    text = member.location()
    assert member_of(text) == member
    assert text.isprintable()
    assert text.endswith("@1536+20")


def test_a_file_that_looks_like_a_member_is_a_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "a!b@1+2").write_bytes(b"four")
    assert member_of("a!b@1+2") is None
    assert stat("a!b@1+2").bytes == 4
    assert member_of("a!c@1+2") == Member("a", "c", 1, 2)


@pytest.mark.parametrize(
    ("location", "name"),
    [
        ("/a/b.c.mp4", "b.c"),
        ("s3://bucket/folder/clip.mp4", "clip"),
        ("https://user:pw@host/f/one%20two.mp4?sig=a/b.c", "one two"),
        ("/data/t.tar!train/000.mp4@512+20", "000"),
        ("https://host/t.tar?sig=1!k.mp4@512+20", "k"),
    ],
)
def test_the_id_of_a_video_is_its_name_wherever_it_lies(location: str, name: str) -> None:
    assert video_id(location) == name


@pytest.mark.parametrize(
    ("location", "text"),
    [
        ("https://me:s3cret@host/a.mp4", "https://...@host/a.mp4"),
        ("https://host/a.mp4?X-Amz-Signature=s3cret&b=1", "https://host/a.mp4?..."),
        ("https://host/t.tar?token=s3c!ret!a.mp4@1+2", "https://host/t.tar?...!a.mp4@1+2"),
        ("https://host/a.mp4#access_token=s3cret", "https://host/a.mp4#..."),
        ("https://host/a.mp4#sig=s3cret/b", "https://host/a.mp4#..."),
        ("https://host/a.mp4;token=s3cret/b.mp4", "https://host/a.mp4;..."),
        ("https://host/a.mp4?to=me@s3cret", "https://host/a.mp4?..."),
        ("https://me:s3/cr@et@host/a.mp4", "https://...@host/a.mp4"),
        ("https://s3/cret@host/a.mp4", "https://...@host/a.mp4"),
        ("https://me:s3c?ret@host/a.mp4", "https://...?..."),
        ("https://me:s3@s3c?ret@host/a.mp4", "https://...?..."),
        ("HTTPS://me:s3c#ret@host/a.mp4", "HTTPS://...#..."),
        ("s3://key:s3c/ret@b/a.mp4", "s3://...@b/a.mp4"),
        ("s3://b/a.mp4#token=s3cret", "s3://b/a.mp4#..."),
        ("s3://b/a.mp4;token=s3cret", "s3://b/a.mp4;..."),
        ("s3://b/run@2/a;b.mp4", "s3://b/run@2/a;b.mp4"),
        ("kinetics:s3://b/d,list=https://s3cret@host/l.csv", "kinetics:s3://...@host/l.csv"),
        ("kinetics:/d,list=https://host/l.csv#s3cret", "kinetics:/d,list=https://host/l.csv#..."),
        ("s3://b/#20_Rhythm.mp4", "s3://b/#20_Rhythm.mp4"),
        ("/a/who?.mp4", "/a/who?.mp4"),
        ("/a/\x1b[31mred\n2026 forged\r.mp4", r"/a/\x1b[31mred\n2026 forged\r.mp4"),
        ("/a/\u202egnp.mp4", r"/a/\u202egnp.mp4"),
        ("/a/\udcff\x00.mp4", r"/a/\xff\x00.mp4"),
        ("/a/é 日本.mp4", "/a/é 日本.mp4"),
    ],
)
def test_messages_show_neither_secrets_nor_control_characters(location: str, text: str) -> None:
    assert shown(location) == text
    assert "s3c" not in shown(location)


def test_what_looks_alike_without_its_secret_is_numbered() -> None:
    addresses = [f"https://host/get?id={name}" for name in ("s3cret", "t0ken")]
    assert [*told_apart([*addresses, addresses[0], "a.mp4"]).items()] == [
        (addresses[0], "https://host/get?..."),
        (addresses[1], "https://host/get?... (2)"),
        ("a.mp4", "a.mp4"),
    ]


def test_the_name_of_a_video_holds_no_parameters() -> None:
    for secret in ("?token=s3.cret", "#sig=s3/cret", ";token=s3.cret/x"):
        assert video_id(f"https://host/a%20b.mp4{secret}") == "a b"
    assert video_id("https://host/a;b.mp4") == "a;b"


def test_no_secret_of_an_address_is_written_but_in_the_tables_that_need_it(
    cli: Callable[..., Result], web: Web, tiny: dict[str, Path], tmp_path: Path
) -> None:
    for number in range(2):
        frames = np.random.default_rng(number).integers(0, 256, (40, 48, 64, 3), np.uint8)
        write_video(web.root / f"v{number}.mp4", iter(frames), 10)
    (web.root / "bad.mp4").write_bytes(b"no video")
    names = [web.url(f"{name}.mp4?token=s3cret") for name in ("v0", "v1", "bad", "gone")]
    (web.root / "list.txt").write_text("\n".join(names))
    source, folder = web.url("list.txt#sig=s3cret"), tmp_path / "out"
    said = ""
    for arguments in (
        ("index", source, "--out", folder / "i.parquet", "--json", folder / "i.json"),
        ("transcode", source, "--out", folder / "copies", "--json", folder / "t.json"),
        ("transcode", source, "--out", folder / "no", "--estimate", "--json", folder / "e.json"),
        (
            *("sample", source, "--recipe", tiny["pretrain"], "--count", "5"),
            *("--out", folder / "s.png", "--json", folder / "s.json"),
        ),
        ("pretrain", tiny["pretrain"], "--videos", source, "--out", folder / "run"),
        ("report", folder / "run"),
    ):
        result = cli(*arguments)
        assert result.exit_code == 0, result.output
        said += result.output
    assert "s3cret" not in said
    assert len(json.loads((folder / "s.json").read_text())["set_aside"]) == 2
    files = [path for path in folder.rglob("*") if path.is_file()]
    assert not [path for path in files if "s3cret" in path.name]
    telling = {str(p.relative_to(folder)) for p in files if b"s3cret" in p.read_bytes()}
    assert telling <= {"i.parquet", "run/index.parquet", "copies/transcode.parquet"}
    (web.root / "list.txt").write_text(names[3])
    for command in ("index", "transcode"):
        result = cli(command, source, "--out", folder / f"{command}.parquet")
        assert result.exit_code == 2
        assert "none of the 1 videos can be" in result.stderr
        assert "s3cret" not in result.output


def test_a_video_that_a_store_lacks_is_missing_in_the_account(
    cli: Callable[..., Result], web: Web, tmp_path: Path
) -> None:
    frames = np.zeros((5, 48, 64, 3), np.uint8)
    write_video(web.root / "a.mp4", iter(frames), 10)
    (web.root / "list.txt").write_text("a.mp4\ngone.mp4")
    assert cli("index", web.url("list.txt"), "--out", tmp_path / "i.parquet").exit_code == 0
    account = account_of(tmp_path / "i.parquet")
    assert account is not None
    assert account["missing"] == {"count": 1, "names": ["gone.mp4"]}
    assert account["told"] == "1 of 2 videos are present (50.0%), 1 missing"


# --- files


def test_a_local_file_is_given_to_the_decoder_by_its_path(heavy: Path) -> None:
    assert opened(str(heavy)) == str(heavy)
    assert stat(str(heavy)).mtime == heavy.stat().st_mtime


def test_what_is_no_file_is_missing(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.mp4")
    (tmp_path / "empty.mp4").touch()
    (tmp_path / "loop.mp4").symlink_to(tmp_path / "loop.mp4")
    for name, reason, told in (
        ("pipe.mp4", "missing", "pipe.mp4: not a file"),
        ("", "missing", "not a file"),
        ("gone\x1b.mp4", "missing", r"gone\\x1b.mp4: no such file"),
        ("a\0b.mp4", "missing", r"a\\x00b.mp4: no such file"),
        ("empty.mp4", "empty", r"empty.mp4: the file is empty \(0 bytes\)"),
        ("loop.mp4", "unreadable", "loop.mp4: cannot be read"),
    ):
        with pytest.raises(VideoError, match=told) as caught:
            opened(str(tmp_path / name))
        assert caught.value.reason == reason


@pytest.mark.parametrize("number", [errno.EIO, errno.ESTALE])
def test_a_network_disk_that_stumbles_is_asked_again(
    number: int, heavy: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pauses: list[float] = []
    true_stat, left = os.stat, [number, number]

    def stumbling(path: str, **more: Any) -> os.stat_result:
        if path == str(heavy) and left:
            raise OSError(left.pop(), "stumbled")
        return true_stat(path, **more)

    monkeypatch.setattr(time, "sleep", pauses.append)
    monkeypatch.setattr(os, "stat", stumbling)
    assert stat(str(heavy)).bytes == true_stat(heavy).st_size
    assert pauses == list(storage.BACKOFF_S[:2])
    left.extend([number] * 9)
    with pytest.raises(VideoError, match=r"cannot be reached \(.*, 4 tries\)"):
        stat(str(heavy))
    assert len(left) == 9 - 4


# --- addresses


def test_a_clip_is_read_over_http_by_parts(web: Web, heavy: Path, truth: np.ndarray) -> None:
    (web.root / "heavy video.mp4").write_bytes(heavy.read_bytes())
    with Reader(web.url("heavy video.mp4?token=a%2Fb")) as reader:
        assert np.array_equal(reader.frames_at(TIMES).frames, truth)
    size = heavy.stat().st_size
    assert 0 < web.sent < 0.6 * size
    assert {path for _, path in web.requests} == {"/heavy%20video.mp4?token=a%2Fb"}


def test_a_whole_video_takes_few_requests(web: Web, heavy: Path) -> None:
    (web.root / "heavy.mp4").write_bytes(heavy.read_bytes())
    facts = probe(web.url("heavy.mp4"))
    assert (facts.status, facts.frames) == ("ok", 80)
    assert (facts.bytes, facts.mtime) == (heavy.stat().st_size, 1445412480.0)
    assert web.sent < 1.6 * facts.bytes
    assert sum(command == "GET" for command, _ in web.requests) < 16


@pytest.mark.parametrize("trouble", [503, 500, 429, "reset"])
def test_what_passes_is_tried_again(
    trouble: int | str, web: Web, heavy: Path, truth: np.ndarray
) -> None:
    (web.root / "heavy.mp4").write_bytes(heavy.read_bytes())
    web.troubles = [trouble] * 2
    with Reader(web.url("heavy.mp4")) as reader:
        web.troubles = [trouble] * 2
        assert np.array_equal(reader.frames_at(TIMES).frames, truth)
    assert web.troubles == []


@pytest.mark.parametrize(
    ("trouble", "reason", "told", "requests"),
    [
        (404, "missing", r"no such file \(404\)", 2),
        (403, "unreadable", r"access denied \(403\)", 2),
        (401, "unreadable", r"access denied \(401\)", 2),
        (503, "unreadable", r"cannot be reached \(status 503, 4 tries\)", 8),
    ],
)
def test_what_stays_is_told_at_once(
    trouble: int, reason: str, told: str, requests: int, web: Web
) -> None:
    web.troubles = [trouble] * 20
    address = web.url("a.mp4?token=s3cret").replace("://", "://me:s3cret@")
    for look in (stat, opened):
        web.requests.clear()
        with pytest.raises(VideoError, match=told) as caught:
            look(address)
        assert caught.value.reason == reason
        # A try is a HEAD and, since some servers do not know that, a GET.
        assert len(web.requests) == requests
        assert "s3cret" not in "".join(traceback.format_exception(caught.value))


def test_a_server_that_goes_away_midway_ends_the_video_with_an_error(web: Web, heavy: Path) -> None:
    (web.root / "heavy.mp4").write_bytes(heavy.read_bytes())
    file = opened(web.url("heavy.mp4"))
    assert not isinstance(file, str)
    with file:
        assert file.read(4)[:3] == b"\0\0\0"
        web.troubles = [404]
        with pytest.raises(VideoError, match=r"no such file \(404\)"):
            file.read(heavy.stat().st_size)
        web.troubles = [503] * 9
        with pytest.raises(VideoError, match=r"cannot be reached \(status 503, 4 tries\)"):
            file.read(heavy.stat().st_size)


def test_a_reader_says_that_the_server_has_gone(web: Web, heavy: Path) -> None:
    (web.root / "heavy.mp4").write_bytes(heavy.read_bytes())
    with Reader(web.url("heavy.mp4")) as reader:
        web.troubles = [503] * 99
        with pytest.raises(VideoError, match=r"cannot be reached \(status 503, 4 tries\)"):
            reader.frames_at(TIMES)


def test_an_address_that_is_signed_for_reading_alone_is_read(
    web: Web, heavy: Path, truth: np.ndarray
) -> None:
    (web.root / "heavy.mp4").write_bytes(heavy.read_bytes())
    web.troubles = [403]  # to HEAD, which was not signed
    with Reader(web.url("heavy.mp4?X-Amz-Signature=a%2Bb")) as reader:
        assert np.array_equal(reader.frames_at(TIMES).frames, truth)


def test_a_server_without_ranges_is_refused(web: Web, heavy: Path) -> None:
    (web.root / "heavy.mp4").write_bytes(heavy.read_bytes())
    web.ranges = False
    file = opened(web.url("heavy.mp4"))
    assert not isinstance(file, str)
    with file:
        file.seek(2 << 20)
        with pytest.raises(VideoError, match="the server sends whole files only"):
            file.read(4)
    web.headers["Accept-Ranges"] = "none"
    with pytest.raises(VideoError, match="the server sends whole files only"):
        opened(web.url("heavy.mp4"))


def test_an_entity_tag_stands_for_the_time_of_change(web: Web) -> None:
    (web.root / "a.mp4").write_bytes(b"four")
    found = []
    for headers in ({"ETag": '"one"'}, {"ETag": '"one"'}, {"ETag": '"two"'}, {}):
        web.headers = headers
        found.append(stat(web.url("a.mp4")).mtime)
    assert found[0] == found[1] != found[2]
    assert found[3] == 0.0
    assert all(number == int(number) < 2**48 for number in found)


def test_an_open_address_reads_like_a_file(web: Web, heavy: Path) -> None:
    data = heavy.read_bytes()
    (web.root / "heavy.mp4").write_bytes(data)
    rng = np.random.default_rng(0)
    file = opened(web.url("heavy.mp4"))
    assert not isinstance(file, str)
    with file:
        for at, count in zip(
            rng.integers(0, len(data), 60), rng.integers(0, 1 << 19, 60), strict=True
        ):
            assert file.seek(int(at)) == at
            assert file.read(int(count)) == data[at : at + count]
        assert file.seek(-5, io.SEEK_END) == len(data) - 5
        assert file.read() == data[-5:]
        assert file.read(1) == b""


def test_s3_is_read_by_parts_too(s3: Bucket, heavy: Path, truth: np.ndarray) -> None:
    address = s3.put("train/heavy.mp4", heavy.read_bytes())
    with Reader(address) as reader:
        assert np.array_equal(reader.frames_at(TIMES).frames, truth)
    facts = probe(address)
    assert (facts.status, facts.frames, facts.bytes) == ("ok", 80, heavy.stat().st_size)
    assert abs(facts.mtime - time.time()) < 600
    with pytest.raises(VideoError, match=r"s3://videos/gone\.mp4: no such file") as caught:
        opened("s3://videos/gone.mp4")
    assert caught.value.reason == "missing"
    s3.put("empty.mp4", b"")
    with pytest.raises(VideoError, match="the file is empty"):
        opened("s3://videos/empty.mp4")


def test_a_store_that_is_not_there_is_given_up_in_bounded_time(
    s3: Bucket, monkeypatch: pytest.MonkeyPatch
) -> None:
    with socket.socket() as closed:  # bound, but listening to nobody
        closed.bind(("127.0.0.1", 0))
        monkeypatch.setenv("AWS_ENDPOINT_URL", f"http://127.0.0.1:{closed.getsockname()[1]}")
        fsspec.get_filesystem_class("s3").clear_instance_cache()
        started = time.monotonic()
        with pytest.raises(
            VideoError, match=r"cannot be reached \(EndpointConnectionError, 2 tries"
        ):
            stat("s3://videos/a.mp4")
    assert time.monotonic() - started < 20
    fsspec.get_filesystem_class("s3").clear_instance_cache()


def test_a_missing_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "aiohttp", None)
    with pytest.raises(
        VideoError, match=r"https:// needs the extra 'http': pip install 'vidssl\[ht"
    ):
        opened("https://127.0.0.1/a.mp4")
    monkeypatch.setitem(sys.modules, "gcsfs", None)
    with pytest.raises(SourceError, match=r"gs:// needs the extra 'gcs': pip install 'vidssl\[gcs"):
        sources.scan("gs://bucket/folder")


@pytest.mark.parametrize("location", ["ftp://h/a.mp4", "concat:a|b", "file:///etc/passwd", "x://y"])
def test_no_other_protocol_is_read(location: str) -> None:
    for look in (stat, opened):
        with pytest.raises(VideoError, match=r"is not read|no such file"):
            look(location)


# --- members of tars


def test_a_member_is_decoded_where_it_lies(heavy: Path, truth: np.ndarray, tmp_path: Path) -> None:
    data = heavy.read_bytes()
    where = archive(tmp_path / "t.tar", {"a.txt": b"label", "x/heavy.mp4": data, "b.txt": b"end"})
    location = where["x/heavy.mp4"]
    with Reader(location) as reader:
        assert np.array_equal(reader.frames_at(TIMES).frames, truth)
    assert stat(location) == storage.Stat(len(data), (tmp_path / "t.tar").stat().st_mtime)
    file = opened(location)
    assert not isinstance(file, str)
    with file:
        assert file.read() == data  # and not a byte of its neighbours
        assert file.seek(0, io.SEEK_END) == len(data)


def test_a_member_of_a_remote_tar_is_read_by_parts(
    web: Web, s3: Bucket, heavy: Path, truth: np.ndarray
) -> None:
    data = heavy.read_bytes()
    files = {"a.mp4": data, "b.mp4": data, "c.mp4": data}
    where = archive(web.root / "t.tar", files)
    inside = member_of(where["b.mp4"])
    assert inside is not None
    for tar in (web.url("t.tar?sig=1"), s3.put("t.tar", (web.root / "t.tar").read_bytes())):
        with Reader(Member(tar, "b.mp4", inside.offset, inside.size).location()) as reader:
            assert np.array_equal(reader.frames_at(TIMES).frames, truth)
    assert web.sent < 0.6 * len(data)


def test_a_tar_that_has_been_cut_is_told_of(tmp_path: Path) -> None:
    where = archive(tmp_path / "t.tar", {"a.mp4": b"x" * 4000})["a.mp4"]
    with (tmp_path / "t.tar").open("r+b") as file:
        file.truncate(2000)
    with pytest.raises(VideoError, match=r"a\.mp4@512\+4000: the tar has only 2000 bytes; was it"):
        opened(where)
    (tmp_path / "t.tar").unlink()
    with pytest.raises(VideoError, match=r"t\.tar: no such file"):
        opened(where)


def test_open_members_are_not_left_open(tmp_path: Path) -> None:
    where = archive(tmp_path / "t.tar", {"a.mp4": b"x" * 4000})["a.mp4"]
    before = len(os.listdir("/proc/self/fd"))
    for _ in range(50):
        file = opened(where)
        assert not isinstance(file, str)
        assert file.read(3) == b"xxx"
        del file  # as a decoder does that was given one
    assert len(os.listdir("/proc/self/fd")) <= before + 1


# --- sources in stores


def test_a_folder_and_a_list_of_a_store_are_sources(s3: Bucket) -> None:
    for key in ("k/b/2.mp4", "k/a/1.webm", "k/note.txt", "kept/3.mp4"):
        s3.put(key, b"x")
    assert sources.scan("s3://videos/k") == ["s3://videos/k/a/1.webm", "s3://videos/k/b/2.mp4"]
    assert sources.scan("s3://videos/k/") == sources.scan("s3://videos/k")
    assert sources.scan(s3.put("v1.0/4.mp4", b"x")) == sources.scan("s3://videos/v1.0")
    listed = s3.put("k/list.csv", b"path,label\r\nb/2.mp4,run\r\ns3://videos/kept/3.mp4,walk\r\n")
    listing = sources.read(listed)
    assert listing.videos == ["s3://videos/k/b/2.mp4", "s3://videos/kept/3.mp4"]
    assert listing.classes == {0: "run", 1: "walk"}
    with pytest.raises(SourceError, match=r"s3://videos/nothing: holds no video file"):
        sources.scan("s3://videos/nothing")
    with pytest.raises(SourceError, match=r"list\.csv: no such file"):
        sources.scan("s3://videos/no/list.csv")


def test_a_published_list_and_its_videos_may_lie_in_a_store(s3: Bucket) -> None:
    s3.put("kin/val.csv", b"label,youtube_id,time_start,time_end,split\nrun,-3B32lodo2M,1,11,val\n")
    s3.put("kin/run/-3B32lodo2M_000001_000011.mp4", b"x")
    listing = sources.read("kinetics:s3://videos/kin")
    assert listing.videos == ["s3://videos/kin/run/-3B32lodo2M_000001_000011.mp4"]
    assert listing.ledger.sentence() == "1 of 1 videos are present (100.0%)"


def test_the_web_has_lists_but_no_folders(web: Web) -> None:
    (web.root / "l.txt").write_text("sub/a b.mp4\n../up.mp4\n")
    with pytest.raises(SourceError, match=r"l\.txt\?\.\.\.:2: \.\./up\.mp4: climbs out of http://"):
        sources.scan(web.url("l.txt?token=s3cret"))
    (web.root / "l.txt").write_text("sub/a b.mp4\n/etc/passwd\n")
    with pytest.raises(SourceError, match=r"l\.txt\?\.\.\.:2: /etc/passwd: a path of this machine"):
        sources.scan(web.url("l.txt?token=s3cret"))
    (web.root / "l.txt").write_text("sub/a b.mp4\nftp://h/x.mp4\n")
    with pytest.raises(SourceError, match=r":2: ftp://h/x\.mp4: ftp:// is not read"):
        sources.scan(web.url("l.txt"))
    (web.root / "l.txt").write_text("sub/a b.mp4\n" + web.url("c.mp4"))
    assert sources.scan(web.url("l.txt?token=1")) == [web.url("sub/a b.mp4"), web.url("c.mp4")]
    assert sources.scan(web.url("c.mp4?token=1")) == [web.url("c.mp4?token=1")]
    with pytest.raises(SourceError, match="http has no folders to list; name a video or a list"):
        sources.scan(web.url("sub"))


def test_shards_may_lie_in_a_store(web: Web, s3: Bucket, tmp_path: Path) -> None:
    for number in range(2):
        name = f"t-{number}.tar"
        archive(
            web.root / name, {f"{number}.mp4": bytes([number]) * 600_000, f"{number}.cls": b"4"}
        )
        s3.put(f"sh/{name}", (web.root / name).read_bytes())
    sizes = sum(path.stat().st_size for path in web.root.iterdir())
    by_pattern = sources.read("shards:s3://videos/sh/t-{0..1}.tar")
    assert by_pattern.videos == sources.scan("shards:s3://videos/sh")
    assert by_pattern.entries["labels"].to_pylist() == [[4], [4]]
    assert [stat(one).bytes for one in by_pattern.videos] == [600_000] * 2
    of_web = sources.read(f"shards:{web.url('t-{0..2}.tar')}?token=s3cret")
    assert web.sent < sizes
    assert of_web.ledger.unusable == (f"{web.url('t-2.tar')}?...: no such file (404)",)
    file = opened(of_web.videos[1])
    assert not isinstance(file, str)
    with file:
        assert file.read() == b"\1" * 600_000


def test_an_index_is_made_of_a_store_by_worker_processes(
    s3: Bucket, heavy: Path, tmp_path: Path
) -> None:
    s3.put("idx/heavy.mp4", heavy.read_bytes())
    s3.put("idx/bad.mp4", b"no video")
    command = [str(Path(sys.executable).parent / "vidssl"), "index", "s3://videos/idx", "--out"]
    out = tmp_path / "index.parquet"
    done = subprocess.run([*command, str(out)], capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    rows = {video_id(row["path"]): row["status"] for row in pq.read_table(out).to_pylist()}
    assert rows == {"heavy": "ok", "bad": "unreadable"}
