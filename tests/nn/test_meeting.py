"""Processes that meet, and what is said, and when, if they do not."""

import socket
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from pathlib import Path

import pytest
from torch.distributed import TCPStore  # type: ignore[attr-defined]

from vidssl.errors import LaunchError
from vidssl.nn.meeting import MEETING_VARIABLE, Place, meet, meeting_limit

LONG = timedelta(seconds=60)
SHORT = timedelta(seconds=2)


@pytest.fixture
def port() -> int:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return int(free.getsockname()[1])


@pytest.fixture
def taken() -> Iterator[int]:
    """A port of another program, which says nothing."""
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        yield other.getsockname()[1]


def refused(place: Place, limit: timedelta) -> tuple[str, float]:
    """Return the message and the seconds that it took."""
    start = time.monotonic()
    with pytest.raises(LaunchError) as error:
        meet(place, limit)
    return str(error.value), time.monotonic() - start


@pytest.mark.parametrize("served", [False, True])
def test_processes_meet_at_the_first_or_at_their_launcher(port: int, served: bool) -> None:
    launcher = [TCPStore("127.0.0.1", port, is_master=True, wait_for_workers=False)] * served
    places = [Place(rank, 3, "127.0.0.1", port, served) for rank in range(3)]
    with ThreadPoolExecutor(3) as ranks:
        stores = list(ranks.map(lambda place: meet(place, LONG), places))
    stores[0].set("word", "first")
    assert stores[2].get("word") == b"first"
    del stores, launcher


def test_processes_may_meet_again_at_their_launcher(port: int) -> None:
    launcher = TCPStore("127.0.0.1", port, is_master=True, wait_for_workers=False)
    places = [Place(rank, 2, "127.0.0.1", port, served=True) for rank in range(2)]
    with ThreadPoolExecutor(2) as ranks:
        before = list(ranks.map(lambda place: meet(place, LONG), places))
        before[0].set("word", "first")
        after = list(ranks.map(lambda place: meet(place, LONG), places))
    assert before[1].check(["word"])
    assert not after[1].check(["word"])  # a place of its own for each meeting
    del launcher


def test_a_rank_that_does_not_come_is_named(port: int) -> None:
    places = [Place(rank, 4, "127.0.0.1", port, served=False) for rank in (0, 2)]
    with ThreadPoolExecutor(2) as ranks:
        told = list(ranks.map(lambda place: refused(place, SHORT), places))
    for rank, (message, seconds) in zip((0, 2), told, strict=True):
        # The first to give up takes the store with it, if it is the one that serves it.
        assert f"rank {rank} of 4 cannot meet the others at 127.0.0.1:{port}" in message
        assert seconds < 10
    assert "rank 1, 3 did not come within 2 s" in told[0][0]
    assert MEETING_VARIABLE in told[0][0]


def test_an_unknown_host_is_told_at_once(port: int) -> None:
    for rank in range(2):
        message, seconds = refused(Place(rank, 2, "no-such-host.invalid", port, False), LONG)
        assert "the name 'no-such-host.invalid' is not known here" in message
        assert f"no-such-host.invalid:{port} (MASTER_ADDR:MASTER_PORT)" in message
        assert seconds < 20


def test_a_port_that_is_taken_is_told_at_once(taken: int) -> None:
    message, seconds = refused(Place(0, 2, "127.0.0.1", taken, served=False), LONG)
    assert f"port {taken} of this machine is taken by another program" in message
    assert "set another MASTER_PORT" in message
    assert seconds < 5


def test_another_program_at_that_port_holds_nobody_up_for_ever(taken: int) -> None:
    message, seconds = refused(Place(1, 2, "127.0.0.1", taken, served=False), SHORT)
    assert "what answers there is not rank 0 of this training" in message
    assert seconds < 10


@pytest.mark.parametrize(("rank", "served"), [(1, False), (0, True)])
def test_where_nothing_listens_that_is_told(port: int, rank: int, served: bool) -> None:
    message, seconds = refused(Place(rank, 2, "127.0.0.1", port, served), SHORT)
    assert "nothing answers there (Connection refused)" in message
    assert "MASTER_ADDR and MASTER_PORT are the same for all" in message
    assert seconds < 10


def test_the_first_says_that_the_address_is_not_its_own(port: int) -> None:
    # 192.0.2.1 is set aside for documentation: nobody has it.
    message, seconds = refused(Place(0, 2, "192.0.2.1", port, served=False), LONG)
    assert "192.0.2.1 does not lead to this machine, on which rank 0 runs" in message
    assert seconds < 20


WHOLE = {"RANK": "1", "WORLD_SIZE": "2", "MASTER_ADDR": "here", "MASTER_PORT": "29500"}


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("RANK", "", "WORLD_SIZE=2: this is one of several processes, but RANK is not set"),
        ("RANK", "2", "RANK=2: expected 0 to 1, as WORLD_SIZE is 2"),
        ("MASTER_PORT", "http", "MASTER_PORT=http: expected a whole number"),
        ("MASTER_PORT", "70000", "MASTER_PORT=70000: expected 1 to 65535"),
        ("MASTER_ADDR", "", "MASTER_ADDR is not set; start them with --gpus N or torchrun"),
    ],
)
def test_a_wrong_environment_is_named(
    monkeypatch: pytest.MonkeyPatch, name: str, value: str, message: str
) -> None:
    for known, right in WHOLE.items():
        monkeypatch.setenv(known, right)
    assert Place.of_this_process() == Place(1, 2, "here", 29500, served=False)
    monkeypatch.setenv(name, value)
    with pytest.raises(LaunchError) as error:
        Place.of_this_process()
    assert message in str(error.value)


@pytest.mark.parametrize("given", ["soon", "0", "-1", "nan", "inf"])
def test_a_wrong_time_to_meet_is_named(monkeypatch: pytest.MonkeyPatch, given: str) -> None:
    monkeypatch.setenv(MEETING_VARIABLE, given)
    with pytest.raises(LaunchError, match=f"{MEETING_VARIABLE}={given}: expected seconds"):
        meeting_limit()


def test_processes_do_not_wait_longer_than_the_environment_says(
    in_two_processes: Callable[..., list[str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(MEETING_VARIABLE, "2")
    said = in_two_processes("""
import os, time
from vidssl.errors import LaunchError
from vidssl.nn.distributed import joined, on_any
import torch
with joined():  # then they wait for one another as long as it takes
    time.sleep(3 * int(os.environ["RANK"]))
    print(on_any(os.environ["RANK"] == "1", torch.device("cpu")))
os.environ["WORLD_SIZE"] = "3"  # one who never comes
try:
    with joined():
        print("joined")
except LaunchError as error:
    said = str(error)  # on a busy machine rank 1 may be late as well
    print("2 did not come" in said or "the store has gone" in said or said)
""")
    assert [out.split() for out in said] == [["True", "True"]] * 2


def test_those_who_are_together_wait_for_each_other_at_the_next_block(
    in_two_processes: Callable[..., list[str]], tmp_path: Path
) -> None:
    said = in_two_processes(f"""
import os, time
from pathlib import Path
from vidssl.nn.distributed import joined
looked = Path({str(tmp_path / "looked")!r})
with joined():
    if os.environ["RANK"] == "1":
        time.sleep(1)
        looked.touch()
    with joined():
        print(looked.exists())
""")
    assert [out.split() for out in said] == [["True"]] * 2
