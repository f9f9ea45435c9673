"""A million videos: what opening, reading and updating their index costs in memory and time.

The rows are made with Arrow; there are no files behind them.
"""

import json
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from vidssl.video.index import GROUP_ROWS, SCHEMA, ClipIndex, write_tables

ROWS = 1_000_000
SET_ASIDE = ROWS // 50
OPEN_MIB, READ_MIB = 4, 32
UPDATE_MIB = 600
OPEN_S = 1.0

pytestmark = pytest.mark.slow

READER = """
import json, re, sys, time
from pathlib import Path
import numpy as np
from vidssl.video.index import ClipIndex

def private_mib():
    rollup = Path("/proc/self/smaps_rollup").read_text()
    return sum(map(int, re.findall(r"Private_(?:Clean|Dirty): +(\\d+)", rollup))) / 1024

import pyarrow.parquet  # what is loaded once is not what an index costs
ClipIndex(Path(sys.argv[2]))
before = private_mib()
start = time.perf_counter()
index = ClipIndex(Path(sys.argv[1]))
opened_s = time.perf_counter() - start
opened_mib = private_mib() - before
rng = np.random.default_rng(int(sys.argv[3]))
start = time.perf_counter()
for number in rng.integers(0, len(index), 20_000):
    location, duration_s = index.video(int(number))
    row = int(location[-14:-4])
    assert row == index.positions[number] and duration_s == 1 + row % 100, (location, duration_s)
read_s = time.perf_counter() - start
for number in rng.integers(0, len(index), 200_000):  # as many as a long epoch of one worker
    index.video(int(number))
total_s = float(index.duration_s[index.positions].sum())
print(json.dumps({"ready": len(index)}), flush=True)
sys.stdin.readline()  # until all have read: what several map is nobody's own
read_mib = private_mib() - before
print(json.dumps({"opened_s": opened_s, "opened_mib": opened_mib, "read_s": read_s,
                  "read_mib": read_mib, "fingerprint": index.fingerprint()}), flush=True)
sys.stdin.readline()
"""


def parts() -> Iterator[pa.Table]:
    """Rows of a web-sized set: every fiftieth set aside, ten key frames a video."""
    for first in range(0, ROWS, GROUP_ROWS):
        rows = np.arange(first, min(first + GROUP_ROWS, ROWS))
        aside = rows % 50 == 7
        keyframes = np.tile(np.arange(10.0), len(rows))
        columns = {
            "path": [
                f"/data/videos/part-{row // 1000:05}/some_video_{row:010}.mp4" for row in rows
            ],
            "status": np.where(aside, "unreadable", "ok"),
            "error": np.where(aside, "cannot be opened as a video (Invalid data found)", ""),
            "bytes": rows + 1000,
            "mtime": rows / 7,
            "codec": pa.repeat("h264", len(rows)),
            "width": np.full(len(rows), 320, np.int32),
            "height": np.full(len(rows), 240, np.int32),
            "fps": np.full(len(rows), 25.0),
            "variable_rate": np.zeros(len(rows), bool),
            "rotation": np.zeros(len(rows), np.int32),
            "duration_s": 1.0 + rows % 100,
            "frames": 25 * (1 + rows % 100),
            "keyframes_s": pa.ListArray.from_arrays(np.arange(len(rows) + 1) * 10, keyframes),
            "has_audio": np.ones(len(rows), bool),
            "decoder": pa.repeat("pyav-18.1.0", len(rows)),
            "cut_off": np.zeros(len(rows), bool),
        }
        yield pa.table(columns).cast(SCHEMA)


UPDATER = """
import resource, sys, time
from pathlib import Path
import numpy as np, pyarrow as pa
from vidssl.jobs.index import _latest, _labelled, summary, write_quarantine
from vidssl.video.index import Rows, write_tables

out, target = map(Path, sys.argv[1:])
base = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
rows = Rows([out])
known = rows.columns(["path", "bytes", "mtime", "status"])
paths = known["path"].cast(pa.large_string()).combine_chunks()
numbers = _latest(paths, known["path"])
assert (numbers == np.arange(len(rows))).all()
del known, paths
write_tables(target, (_labelled(part, "use") for part in rows.take(numbers)))
assert summary(target).counts == {"ok": 980000, "unreadable": 20000}
write_quarantine(target, target.with_suffix(".csv"))
print((resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - base) / 1024)
"""


def _said(reader: "subprocess.Popen[str]") -> dict[str, Any]:
    assert reader.stdout is not None
    said: dict[str, Any] = json.loads(reader.stdout.readline())
    return said


def _go_on(reader: "subprocess.Popen[str]") -> None:
    assert reader.stdin is not None
    reader.stdin.write("\n")
    reader.stdin.flush()


@pytest.fixture(scope="module")
def million(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("scale") / "million.parquet"
    write_tables(path, parts())
    return path


@pytest.fixture(scope="module")
def few(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("scale") / "few.parquet"
    write_tables(path, [next(parts()).slice(0, 10)])
    return path


def test_readers_map_a_million_rows_and_own_none_of_them(million: Path, few: Path) -> None:
    readers = [
        subprocess.Popen(
            [sys.executable, "-c", READER, str(million), str(few), str(seed)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        for seed in range(3)
    ]
    for reader in readers:
        assert _said(reader) == {"ready": ROWS - SET_ASIDE}
    for reader in readers:
        _go_on(reader)
    found = [_said(reader) for reader in readers]
    for reader in readers:
        reader.communicate("\n")
    assert [reader.returncode for reader in readers] == [0, 0, 0]
    print(found)  # noqa: T201  # the measurement, with pytest -s
    assert max(one["opened_mib"] for one in found) < OPEN_MIB
    assert max(one["read_mib"] for one in found) < READ_MIB
    assert max(one["opened_s"] for one in found) < OPEN_S
    assert len({one["fingerprint"] for one in found}) == 1


def test_opening_takes_no_longer_than_for_a_few_rows(million: Path, few: Path) -> None:
    def seconds(path: Path) -> float:
        start = time.perf_counter()
        ClipIndex(path).fingerprint()
        return time.perf_counter() - start

    seconds(million)
    assert min(seconds(million) for _ in range(5)) < 0.05 + 3 * min(seconds(few) for _ in range(5))


def test_an_update_holds_columns_and_no_object_a_row(million: Path, tmp_path: Path) -> None:
    target = tmp_path / "again.parquet"
    done = subprocess.run(
        [sys.executable, "-c", UPDATER, str(million), str(target)],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert float(done.stdout) < UPDATE_MIB  # paths three times: given, known, looked up
    assert target.read_bytes() == million.read_bytes()
    assert target.with_suffix(".csv").read_text().count("\n") == SET_ASIDE + 1
