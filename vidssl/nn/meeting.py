"""How the processes of one training find one another, and what is said if they do not.

They meet at a store, ``MASTER_ADDR:MASTER_PORT``: rank 0 serves it, or the launcher that started
them. What can be known at once is told at once, before PyTorch waits for it; nobody waits longer
than the time that a meeting may take.
"""

import contextlib
import errno
import os
import socket
import threading
import time
from dataclasses import dataclass
from datetime import timedelta

from torch.distributed import PrefixStore, Store, TCPStore  # type: ignore[attr-defined]

from vidssl.errors import LaunchError

MEETING_S = 60.0
MEETING_VARIABLE = "VIDSSL_MEETING_TIMEOUT_S"
"""Seconds that the processes may take to meet, where they start further apart than that."""
OWN_ADDRESS_S = 5.0
RETRY_S = 0.5


@dataclass(frozen=True)
class Place:
    """Where this process meets the others; ``served`` if a launcher serves the store there."""

    rank: int
    count: int
    host: str
    port: int
    served: bool

    @classmethod
    def of_this_process(cls) -> "Place":
        """Return what the launcher wrote into the environment.

        Raises:
            LaunchError: if something is missing, or is no number.
        """
        names = ("RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT")
        absent = [name for name in names if not os.environ.get(name)]
        if absent:
            raise LaunchError(
                f"WORLD_SIZE={os.environ.get('WORLD_SIZE')}: this is one of several processes, "
                f"but {' and '.join(absent)} is not set; start them with --gpus N or torchrun, "
                "which set them, or unset WORLD_SIZE for a process alone"
            )
        served = os.environ.get("TORCHELASTIC_USE_AGENT_STORE") == str(True)
        rank, count, port = (_number(name) for name in ("RANK", "WORLD_SIZE", "MASTER_PORT"))
        if not 0 <= rank < count:
            raise LaunchError(f"RANK={rank}: expected 0 to {count - 1}, as WORLD_SIZE is {count}")
        if not 0 < port < 2**16:
            raise LaunchError(f"MASTER_PORT={port}: expected 1 to 65535")
        return cls(rank, count, os.environ["MASTER_ADDR"], port, served)

    @property
    def serves(self) -> bool:
        """Whether it is this process at which the others meet."""
        return self.rank == 0 and not self.served

    def failed(self, why: str, check: str) -> LaunchError:
        """Return the error for a meeting that did not come about."""
        return LaunchError(
            f"rank {self.rank} of {self.count} cannot meet the others at {self.host}:{self.port} "
            f"(MASTER_ADDR:MASTER_PORT): {why}\n  {check}"
        )


def meeting_limit() -> timedelta:
    """Return how long the processes may take to meet.

    Raises:
        LaunchError: if the environment names no such time.
    """
    return timedelta(seconds=seconds_of(MEETING_VARIABLE, MEETING_S))


def seconds_of(variable: str, otherwise: float) -> float:
    """Return the seconds in a variable of the environment, or ``otherwise`` where it is not set.

    Raises:
        LaunchError: if it holds no such time.
    """
    given = os.environ.get(variable, str(otherwise))
    try:
        seconds = float(given)
    except ValueError:
        seconds = 0.0
    if not 0 < seconds < 1e6:
        raise LaunchError(f"{variable}={given}: expected seconds, more than 0")
    return seconds


def meet(place: Place, limit: timedelta) -> Store:
    """Return a store of these processes, once all of them are there.

    Raises:
        LaunchError: if that takes longer than ``limit``, and at once if it cannot be.
    """
    until = time.monotonic() + limit.total_seconds()
    _require_resolvable(place)
    if place.serves:
        _require_servable(place)
    else:
        _require_answer(place, until)
    store = _open(place, limit, until)
    # A launcher's store outlives an attempt, and a process may meet the others more than once.
    attempt = os.environ.get("TORCHELASTIC_RESTART_COUNT", "0")
    store = PrefixStore(f"vidssl/{attempt}", store)
    store = PrefixStore(str(store.add(f"meetings of {place.rank}", 1)), store)
    _wait_for_all(place, store, limit, until)
    return store


def _number(name: str) -> int:
    given = os.environ[name]
    if not given.isdecimal():
        raise LaunchError(f"{name}={given}: expected a whole number")
    return int(given)


def _require_resolvable(place: Place) -> None:
    try:
        socket.getaddrinfo(place.host, place.port, type=socket.SOCK_STREAM)
    except OSError as error:
        raise place.failed(
            f"the name {place.host!r} is not known here ({error.strerror})",
            "expected a name or address of the machine on which rank 0 runs",
        ) from error


def _require_servable(place: Place) -> None:
    """Refuse a port that is taken, and an address that does not lead back here."""
    family = socket.AF_INET6 if socket.has_dualstack_ipv6() else socket.AF_INET
    with socket.socket(family) as server:
        server.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if family == socket.AF_INET6:
            server.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0)
        try:
            server.bind(("", place.port))
        except OSError as error:
            taken = error.errno == errno.EADDRINUSE
            raise place.failed(
                f"port {place.port} of this machine "
                + ("is taken by another program" if taken else f"is refused ({error.strerror})"),
                "expected a free one; set another MASTER_PORT, the same for all processes",
            ) from error
        if _is_local(place):
            return
        server.listen()
        try:
            socket.create_connection((place.host, place.port), OWN_ADDRESS_S).close()
        except OSError as error:
            raise place.failed(
                f"{place.host} does not lead to this machine, on which rank 0 runs ({error})",
                f"expected a name or address of this machine ({socket.gethostname()}); "
                "set MASTER_ADDR, the same for all processes",
            ) from error


def _is_local(place: Place) -> bool:
    for family, _, _, _, address in socket.getaddrinfo(place.host, 0, type=socket.SOCK_STREAM):
        with socket.socket(family) as probe, contextlib.suppress(OSError):
            probe.bind(address)
            return True
    return False


def _require_answer(place: Place, until: float) -> None:
    """Wait until something listens there."""
    while True:
        left = until - time.monotonic()
        try:
            socket.create_connection((place.host, place.port), max(0.1, left)).close()
            return
        except OSError as error:
            if time.monotonic() + RETRY_S > until:
                raise place.failed(
                    f"nothing answers there ({error.strerror or error})",
                    "expected rank 0, or the launcher, to listen; see that it was started and has "
                    "not ended, that MASTER_ADDR and MASTER_PORT are the same for all processes, "
                    "and that no firewall is between",
                ) from error
        time.sleep(RETRY_S)


def _open(place: Place, limit: timedelta, until: float) -> Store:
    """Open the store; aside, for PyTorch may wait for ever if it is another program's port."""
    opened: list[Store] = []
    errors: list[RuntimeError] = []

    def attempt() -> None:
        try:
            opened.append(
                TCPStore(
                    *(place.host, place.port),
                    is_master=place.serves,
                    timeout=limit,
                    wait_for_workers=False,
                    multi_tenant=place.serves,
                )
            )
        except RuntimeError as error:
            errors.append(error)

    thread = threading.Thread(target=attempt, daemon=True)
    thread.start()
    thread.join(max(RETRY_S, until - time.monotonic()))
    if opened:
        return opened[0]
    told = str(errors[0]).partition("\n")[0] if errors else "it does not speak as a store does"
    raise place.failed(
        f"what answers there is not rank 0 of this training ({told})",
        "see that no other program has that port, and set another MASTER_PORT for all processes",
    )


def _wait_for_all(place: Place, store: Store, limit: timedelta, until: float) -> None:
    store.set(f"here/{place.rank}", socket.gethostname())
    everybody = [f"here/{rank}" for rank in range(place.count)]
    try:
        store.wait(everybody, timedelta(seconds=max(1.0, until - time.monotonic())))
    except RuntimeError as error:  # the time is over, or the store has gone
        raise place.failed(
            f"{_absent(store, place)} within {limit.total_seconds():g} s",
            "see that each was started, with the same WORLD_SIZE, MASTER_ADDR and MASTER_PORT, and "
            f"what it says; {MEETING_VARIABLE} allows for more seconds",
        ) from error


def _absent(store: Store, place: Place) -> str:
    try:
        missing = [rank for rank in range(place.count) if not store.check([f"here/{rank}"])]
    except RuntimeError:
        return "the store has gone, with rank 0 or the launcher,"
    some = ", ".join(map(str, missing[:8])) + (" and others" if len(missing) > 8 else "")
    return f"rank {some} did not come" if missing else "not all came"
