"""A report card of random numbers, and a real browser to look at it with."""

import base64
import json
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from vidssl.report.card import (
    Card,
    CardMap,
    CardVideo,
    LearningCurve,
    Motion,
    Neighbours,
    Projection,
    Rival,
    Score,
)
from vidssl.report.card_strips import LADDER, Rung, strip

CLASSES = (
    *("archery", "bench press", "cliff diving", "drumming"),
    *("fencing", "golf swing", "horse riding", "juggling balls"),
)
LAUNCH = (
    "import os, sys; os.dup2(int(sys.argv[1]), 3); os.dup2(int(sys.argv[2]), 4); "
    "os.execvp(sys.argv[3], sys.argv[3:])"
)


class Browser:
    """A headless Chromium, spoken to over two pipes in the protocol of its developer tools."""

    def __init__(self, chromium: str, profile: Path) -> None:
        self.reads, theirs_out = os.pipe()
        theirs_in, self.writes = os.pipe()
        self.process = subprocess.Popen(
            [
                *(sys.executable, "-c", LAUNCH, str(theirs_in), str(theirs_out), chromium),
                *("--headless=new", "--no-sandbox", "--disable-gpu", "--remote-debugging-pipe"),
                *("--no-first-run", "--disable-background-networking", "--disable-dev-shm-usage"),
                *("--disable-component-update", "--host-resolver-rules=MAP * ~NOTFOUND"),
                *(f"--user-data-dir={profile}", "about:blank"),
            ],
            pass_fds=(theirs_in, theirs_out),
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        os.close(theirs_in)
        os.close(theirs_out)
        self.events: list[dict[str, Any]] = []
        self.rest, self.number, self.session = b"", 0, ""
        target = self.call("Target.createTarget", url="about:blank")["targetId"]
        attached = self.call("Target.attachToTarget", targetId=target, flatten=True)
        self.session = attached["sessionId"]
        for domain in ("Page", "Runtime", "Network", "Log"):
            self.call(f"{domain}.enable")

    def call(self, method: str, **params: Any) -> dict[str, Any]:
        """Return what a command of the protocol gives; events that come before are kept."""
        self.number += 1
        order: dict[str, Any] = {"id": self.number, "method": method, "params": params}
        if self.session:
            order["sessionId"] = self.session
        os.write(self.writes, json.dumps(order).encode() + b"\0")
        while True:
            told = self._next()
            if told.get("id") == self.number:
                assert "error" not in told, f"{method}: {told['error']}"
                result: dict[str, Any] = told["result"]
                return result
            self.events.append(told)

    def open(self, address: str) -> None:
        """Open a page and wait until it has loaded."""
        self.call("Page.navigate", url="about:blank")
        self._until("Page.loadEventFired")
        self.events.clear()
        self.call("Page.navigate", url=address)
        self._until("Page.loadEventFired")

    def window(self, width: int, height: int, *, dark: bool = False, phone: bool = False) -> None:
        """Give the page's window its size in CSS pixels, and what its system prefers."""
        scale = 2 if phone else 1
        self.call(
            "Emulation.setDeviceMetricsOverride",
            **{"width": width, "height": height, "deviceScaleFactor": scale, "mobile": phone},
        )
        self.call("Emulation.setTouchEmulationEnabled", enabled=phone)
        scheme = {"name": "prefers-color-scheme", "value": "dark" if dark else "light"}
        self.call("Emulation.setEmulatedMedia", features=[scheme])

    def ask(self, script: str) -> Any:
        """Return the value of an expression in the page; promises are waited for."""
        told = self.call(
            "Runtime.evaluate", expression=script, returnByValue=True, awaitPromise=True
        )
        assert "exceptionDetails" not in told, told["exceptionDetails"]
        return told["result"].get("value")

    def until(self, script: str) -> Any:
        """Return the expression's value once it is true; the test's own deadline ends the wait."""
        return self.ask(
            "new Promise((done) => { const look = () => { const found = (" + script + "); "
            "if (found) done(found instanceof Node || found); else setTimeout(look, 20); };"
            "look(); })"
        )

    def mouse(self, x: float, y: float, kind: str = "mouseMoved") -> None:
        """Move the mouse, or press and let go with ``kind`` click."""
        for each in ("mousePressed", "mouseReleased") if kind == "click" else (kind,):
            button = {"button": "left", "clickCount": 1} if kind == "click" else {}
            self.call("Input.dispatchMouseEvent", type=each, x=x, y=y, **button)

    def picture(self, path: Path, *, full: bool = True) -> None:
        """Write a PNG of the window, or of the whole page."""
        told = self.call("Page.captureScreenshot", format="png", captureBeyondViewport=full)
        path.write_bytes(base64.b64decode(told["data"]))

    def complaints(self) -> list[str]:
        """Return what went wrong in the page since it was opened: errors, warnings, requests."""
        self.ask("1")  # what came before this answer has been read
        bad = []
        for event in self.events:
            method, params = event.get("method"), event.get("params", {})
            if method == "Runtime.exceptionThrown":
                bad.append(json.dumps(params["exceptionDetails"]))
            elif method == "Runtime.consoleAPICalled" and params["type"] in {"error", "warning"}:
                bad.append(json.dumps(params["args"]))
            elif method == "Log.entryAdded" and params["entry"]["level"] in {"error", "warning"}:
                bad.append(params["entry"]["text"])
            elif method == "Network.requestWillBeSent":
                address = params["request"]["url"]
                own = params.get("type") == "Document" and address.startswith("file:///")
                if not own and not address.startswith("data:"):
                    bad.append(f"request: {address[:200]}")
        return bad

    def close(self) -> None:
        """End the browser."""
        os.close(self.writes)
        os.close(self.reads)
        self.process.terminate()
        self.process.wait(timeout=30)

    def _until(self, method: str) -> None:
        while not any(event.get("method") == method for event in self.events):
            self.events.append(self._next())
        self.events = [event for event in self.events if event.get("method") != method]

    def _next(self) -> dict[str, Any]:
        while b"\0" not in self.rest:
            part = os.read(self.reads, 1 << 20)
            assert part, "the browser has gone"
            self.rest += part
        message, _, self.rest = self.rest.partition(b"\0")
        told: dict[str, Any] = json.loads(message)
        return told


@pytest.fixture(scope="session")
def browser() -> Iterator[Browser]:
    """One browser for all tests of pages."""
    chromium = shutil.which("chromium") or shutil.which("google-chrome")
    if chromium is None:
        pytest.skip("no Chromium to open pages in")
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as profile:
        found = Browser(chromium, Path(profile))
        yield found
        found.close()


def moving(seed: int, frames: int = 8) -> list[NDArray[np.uint8]]:
    """Frames of 72 x 128 in which a bright square goes from left to right."""
    rng = np.random.default_rng(seed)
    background = np.clip(rng.normal(90, 12, (72, 128, 3)) + rng.integers(-60, 60, 3), 0, 255)
    pictures = []
    for number in range(frames):
        frame = background.copy()
        left = 20 + number * 10
        frame[20:50, left : left + 20] = rng.integers(120, 255, 3)
        pictures.append(frame.astype(np.uint8))
    return pictures


def score(key: str, title: str, value: float, **changes: Any) -> Score:
    """A score of 200 videos."""
    given: dict[str, Any] = {
        "low": max(0.0, value - 0.05),
        "high": min(1.0, value + 0.05),
        "expected": 200,
        "evaluated": 198,
        "failed": 2,
        "fingerprint": f"{key}-0123456789abcdef",
        "protocol": {"views": "3x1", "videos": "200 of 202", "short side": "48 px"},
        "chance": 0.125,
    }
    return Score(key, title, f"What {title} means, in one line.", value, **given | changes)


@pytest.fixture(scope="session")
def make_card() -> Callable[..., Card]:
    """Return a card of ``count`` videos of eight classes whose features make eight heaps."""

    def make(
        count: int = 200,
        *,
        seed: int = 0,
        classes: tuple[str, ...] = CLASSES,
        prefix: str = "v_",
        rung: Rung = LADDER[3],
    ) -> Card:
        rng = np.random.default_rng(seed)
        kinds = len(classes)
        label = rng.integers(0, kinds, count)
        taken = np.where(rng.random(count) < 0.7, label, rng.integers(0, kinds, count))
        around = rng.normal(size=(kinds, 2)) * 4
        plane = around[label] + rng.normal(size=(count, 2))
        confusion = np.zeros((kinds, kinds), np.int64)
        np.add.at(confusion, (label, taken), 1)
        few = [strip(moving(n), rung) for n in range(min(count, 24))]
        near = []
        for video in range(count):
            distance = ((plane - plane[video]) ** 2).sum(1)
            nearest = [int(n) for n in np.argsort(distance)[1:6]]
            near.append(Neighbours(video, [(n, 1 - distance[n] / 50) for n in nearest]))
        steps = list(range(0, 300, 3))
        loss = [float(3 * np.exp(-s / 100) + rng.normal() * 0.05) for s in steps]
        knn = score("knn", "kNN accuracy", 0.702)
        others = [
            Rival("earlier run", [score("knn", "kNN accuracy", 0.61)], "card.json of 1 May"),
            Rival("random network", [score("knn", "kNN accuracy", 0.31)], "fresh weights"),
            Rival(
                "other protocol",
                [score("knn", "kNN accuracy", 0.9, fingerprint="x", protocol={"views": "1x1"})],
            ),
        ]
        return Card(
            name="moco-slow",
            lead="moco on slow, pretrained for 300 steps.",
            facts=[("encoder", "runs/moco-slow"), ("videos", f"{count} of {count}")],
            classes=classes,
            scores=[
                knn,
                score("linear", "Linear probe", 0.744),
                score("retrieval@1", "Retrieval, R@1", 0.66),
                score("motion", "Share that needs time", 0.21, chance=None),
            ],
            videos=[
                CardVideo(f"{prefix}{n:04d}.mp4", int(label[n]), int(taken[n]), 0.5, 0.25)
                for n in range(count)
            ],
            strips={n: few[n % len(few)] for n in range(count)},
            map=CardMap(
                range(count),
                [
                    Projection("PCA", plane @ np.array([[1.0, 0.4], [0.2, 1.0]]), "41 % of it"),
                    Projection("t-SNE", plane * 10),
                ],
            ),
            neighbours=near,
            confusion=confusion,
            mistakes=[int(n) for n in np.flatnonzero(label != taken)[:12]],
            motion=Motion(
                [
                    score("normal", "normal", 0.70),
                    score("shuffled", "shuffled", 0.52),
                    score("reversed", "reversed", 0.66),
                    score("static", "static", 0.55),
                ],
                rng.random(kinds),
            ),
            curves=[
                LearningCurve("loss", steps, loss, "What training minimises."),
                LearningCurve("lr", steps, [0.1 * (1 - s / 300) for s in steps]),
            ],
            costs=[("parameters", "31.6 M"), ("multiply-adds a clip", "41.7 G")],
            rivals=others,
            failures=[("broken.mp4", "cannot be decoded"), ("short.mp4", "too short")],
            commands=["vidssl report-card runs/moco-slow --on videos"],
        )

    return make
