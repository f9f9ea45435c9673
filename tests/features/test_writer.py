"""A bank is the same to the byte however it came about, and never mixed with another's files."""

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest

from vidssl.errors import BankError, OutputError
from vidssl.features import Bank, BankIdentity, BankRows, BankWriter

Open = Callable[[Path], BankWriter]
Rows = Callable[[int], BankRows]

PLAN = [["beach", "attic"], ["zoo", "a video without boxes"], ["cellar"], ["another without"]]
RENAMES = 14  # bank.json, then npy, parquet and record of each of 4 shards, then bank.json again
KILLED = """
import os, signal, sys
from pathlib import Path
sys.path.insert(0, sys.argv[1])
from conftest import DIM, PLAN, rows_of
from vidssl.features import BankIdentity, BankWriter

left, rename = int(sys.argv[3]), Path.replace

def replace(self, target):
    global left
    left -= 1
    if left == 0:
        os.kill(os.getpid(), signal.SIGKILL)
    return rename(self, target)

Path.replace = replace
details = {"recipe": {"frames": 32, "stride": 2}, "decoder": "pyav 14"}
writer = BankWriter(Path(sys.argv[2]), dim=DIM, identity=BankIdentity("f00d", details), plan=PLAN)
for shard in writer.missing():
    writer.write_shard(shard, rows_of(shard))
writer.close()
"""


def contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def write_all(writer: BankWriter, rows: Rows) -> None:
    for shard in writer.missing():
        writer.write_shard(shard, rows(shard))


def test_what_is_written_is_read_back(bank: Bank, shard_rows: Rows) -> None:
    given = shard_rows(1)
    table = pq.read_table(bank.folder / "shard-00001.parquet")
    features = np.load(bank.folder / "shard-00001.npy")
    assert table.column_names == ["video", "second", "x1", "y1", "x2", "y2", "score", "row"]
    assert features.dtype == np.float16

    def as_set(seconds: object, scores: object, boxes: object, rows: object) -> set[bytes]:
        parts = [
            np.asarray(part, np.float16).reshape(len(given), -1)
            for part in (seconds, scores, boxes, rows)
        ]
        return {row.tobytes() for row in np.concatenate(parts, axis=1)}

    boxes = np.stack([table[name].to_numpy() for name in ("x1", "y1", "x2", "y2")], axis=1)
    written = as_set(table["second"], table["score"], boxes, features[table["row"].to_numpy()])
    assert written == as_set(given.seconds, given.scores, given.boxes, given.features)
    assert set(table["video"].to_pylist()) == {"zoo"}
    assert len(bank) == sum(len(shard_rows(shard)) for shard in range(4)) == 4 * 180


def test_the_order_of_shards_and_rows_leaves_no_trace(
    bank: Bank, tmp_path: Path, writer_in: Open, shard_rows: Rows
) -> None:
    writer = writer_in(tmp_path / "again")
    for shard in (3, 1, 0, 2):
        rows = shard_rows(shard)
        order = np.random.default_rng(7).permutation(len(rows))
        writer.write_shard(
            shard,
            BankRows(
                [rows.videos[index] for index in order],
                rows.seconds[order],
                rows.boxes[order],
                rows.scores[order],
                rows.features[order],
            ),
        )
    assert contents(writer.close().folder) == contents(bank.folder)


def test_rows_stand_by_video_then_time_then_falling_score_then_box(
    tmp_path: Path, identity: BankIdentity
) -> None:
    rng = np.random.default_rng(0)
    count = 60
    rows = BankRows(
        videos=[("b", "a")[index] for index in rng.integers(0, 2, count)],
        seconds=rng.integers(0, 2, count).astype(np.float64),
        boxes=rng.integers(0, 2, (count, 4)).astype(np.float64),
        scores=rng.integers(0, 2, count).astype(np.float64),
        features=rng.normal(size=(count, 1)),
    )
    writer = BankWriter(tmp_path / "bank", dim=1, identity=identity, plan=[["b", "a"]])
    writer.write_shard(0, rows)
    table = pq.read_table(tmp_path / "bank" / "shard-00000.parquet").to_pylist()
    keys = [
        ("ba".index(row["video"]), row["second"], -row["score"],
         row["x1"], row["y1"], row["x2"], row["y2"])
        for row in table
    ]  # fmt: skip
    assert keys == sorted(keys)
    assert [row["row"] for row in table] == list(range(count))


@pytest.mark.parametrize("rename", range(1, RENAMES + 1))
def test_killed_before_any_rename_and_continued_equals_never_stopped(
    bank: Bank, tmp_path: Path, writer_in: Open, shard_rows: Rows, rename: int
) -> None:
    folder = tmp_path / "killed"
    command = [sys.executable, "-c", KILLED, str(Path(__file__).parent), str(folder), str(rename)]
    assert subprocess.run(command, check=False).returncode == -9
    if rename > 1:
        with pytest.raises(BankError, match=r"not complete .* run the same extraction again"):
            Bank.open(folder)

    writer = writer_in(folder)
    finished = (rename - 2) // 3 if rename > 1 else 0
    assert writer.missing() == list(range(min(finished, 4), 4))
    write_all(writer, shard_rows)
    assert contents(writer.close().folder) == contents(bank.folder)


def test_half_a_file_left_by_a_killed_process_is_removed(
    bank: Bank, tmp_path: Path, writer_in: Open, shard_rows: Rows
) -> None:
    writer = writer_in(tmp_path / "again")
    leftover = writer.folder / ".shard-00002.npy.4711.part"
    other = writer.folder / ".shard-00001.npy.4712.part"  # another process may be at it
    for path in (leftover, other):
        path.write_bytes(b"\x93NUMPY half a")
    writer.write_shard(2, shard_rows(2))
    assert not leftover.exists()
    assert other.exists()
    write_all(writer, shard_rows)
    assert contents(writer.close().folder) == contents(bank.folder)


def test_two_writers_share_the_shards(
    bank: Bank, tmp_path: Path, writer_in: Open, shard_rows: Rows
) -> None:
    one, two = writer_in(tmp_path / "shared"), writer_in(tmp_path / "shared")
    for shard in range(4):
        (one, two)[shard % 2].write_shard(shard, shard_rows(shard))
    assert contents(two.close().folder) == contents(bank.folder)


def test_a_damaged_shard_is_missing_until_it_is_written_again(
    bank: Bank, writer_in: Open, shard_rows: Rows
) -> None:
    before = contents(bank.folder)
    path = bank.folder / "shard-00002.npy"
    path.write_bytes(path.read_bytes()[:-1] + b"\x00")
    writer = writer_in(bank.folder)
    assert writer.missing() == [2]
    with pytest.raises(BankError, match="not finished; missing or damaged:\n  shard-00002"):
        writer.close()

    writer.write_shard(2, shard_rows(2))
    with pytest.raises(BankError, match="not complete"):  # until closed, checksums are not agreed
        Bank.open(bank.folder)
    writer.close()
    assert contents(bank.folder) == before


def test_a_finished_bank_can_be_opened_for_writing_and_closed_without_effect(
    bank: Bank, writer_in: Open
) -> None:
    before = contents(bank.folder)
    writer = writer_in(bank.folder)
    assert writer.missing() == []
    writer.close()
    assert contents(bank.folder) == before


def test_another_bank_is_refused_with_what_differs(bank: Bank) -> None:
    other = BankIdentity("beef", {"recipe": {"frames": 32, "stride": 4}, "decoder": "pyav 14"})
    with pytest.raises(BankError) as error:
        BankWriter(bank.folder, dim=6, identity=other, plan=[["beach"]])
    assert str(error.value) == (
        f"{bank.folder} holds another bank (remove it, or write to another folder):\n"
        "  encoder_hash: found 'f00d', expected 'beef'\n"
        "  identity.recipe.stride: found 2, expected 4"
    )


@pytest.mark.parametrize(
    ("plan", "message"),
    [
        ([["beach", "attic"]], "4 only found, such as 'a video without boxes'"),
        ([*PLAN, ["x"]], "1 only expected, such as 'x'"),
        (
            [[video for videos in PLAN for video in videos]],
            "the same, but divided otherwise into shards",
        ),
    ],
)
def test_another_plan_is_refused_with_what_differs(
    bank: Bank, plan: list[list[str]], message: str
) -> None:
    with pytest.raises(BankError, match=f"videos: {message}"):
        BankWriter(bank.folder, dim=6, identity=bank.identity, plan=plan)


def test_files_of_others_are_refused_and_left_alone(tmp_path: Path, writer_in: Open) -> None:
    (tmp_path / "notes.txt").write_text("mine")
    (tmp_path / "shard-00000.npy").write_text("nobody says whose")
    with pytest.raises(OutputError) as error:
        writer_in(tmp_path)
    assert str(error.value) == (
        f"{tmp_path} holds files that are not this bank's:\n  notes.txt\n  shard-00000.npy"
    )
    assert sorted(path.name for path in tmp_path.iterdir()) == ["notes.txt", "shard-00000.npy"]


def test_a_shard_past_the_plan_is_a_stranger(bank: Bank, writer_in: Open) -> None:
    (bank.folder / "shard-00004.npy").write_bytes(b"")
    with pytest.raises(OutputError, match=r"shard-00004\.npy"):
        writer_in(bank.folder)


def test_a_file_in_place_of_the_folder_is_refused(tmp_path: Path, writer_in: Open) -> None:
    (tmp_path / "bank").write_text("a file")
    with pytest.raises(OutputError, match="expected a folder for the bank, found a file"):
        writer_in(tmp_path / "bank")


@pytest.mark.parametrize(
    ("part", "value", "message"),
    [
        ("features", 70000.0, "the feature is not finite in the bank's number format"),
        ("features", np.nan, "the feature is not finite"),
        ("boxes", np.inf, "the box is not finite"),
        ("scores", np.nan, "the score is not finite"),
        ("seconds", np.nan, "the time is not finite"),
    ],
)
def test_numbers_that_would_be_spoilt_are_refused_by_name(
    tmp_path: Path, writer_in: Open, shard_rows: Rows, part: str, value: float, message: str
) -> None:
    rows, writer = shard_rows(1), writer_in(tmp_path / "bank")
    getattr(rows, part)[3] = value
    with pytest.raises(BankError, match=f"video 'zoo', second .*: {message}.*1 rows of 180"):
        writer.write_shard(1, rows)
    assert writer.missing() == [0, 1, 2, 3]


def test_rows_of_another_shard_or_size_are_refused(
    tmp_path: Path, writer_in: Open, shard_rows: Rows
) -> None:
    writer = writer_in(tmp_path / "bank")
    with pytest.raises(ValueError, match="rows of 'zoo', which the plan does not put into this"):
        writer.write_shard(0, shard_rows(1))
    with pytest.raises(ValueError, match="expected features of 6 numbers, got 5"):
        writer.write_shard(0, BankRows.joined([], 5))


def test_rows_must_have_matching_lengths() -> None:
    with pytest.raises(ValueError, match=r"for 2 videos, expected shapes \(2,\)"):
        BankRows(["a", "b"], np.zeros(2), np.zeros((2, 4)), np.zeros(3), np.zeros((2, 6)))


def test_joined_rows_are_those_of_the_parts_in_order(shard_rows: Rows) -> None:
    parts = [shard_rows(0), BankRows.joined([], 6), shard_rows(2)]
    joined = BankRows.joined(parts, 6)
    assert list(joined.videos) == [*parts[0].videos, *parts[2].videos]
    assert np.array_equal(joined.features[360:], parts[2].features)


@pytest.mark.parametrize(
    ("plan", "message"),
    [([["a", "b"], ["c", "a"]], "'a' stands in the plan twice"), ([["\udc80"]], "surrogates")],
)
def test_a_plan_that_cannot_be_kept_is_refused(
    tmp_path: Path, identity: BankIdentity, plan: list[list[str]], message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        BankWriter(tmp_path, dim=6, identity=identity, plan=plan)


def test_an_identity_compares_as_it_is_written() -> None:
    assert BankIdentity("a", {"size": (1, 2)}) == BankIdentity("a", {"size": [1, 2]})
    with pytest.raises(ValueError, match="must be plain JSON"):
        BankIdentity("a", {"path": Path("x")})


def test_the_manifest_says_what_scripts_rely_on(bank: Bank) -> None:
    content = json.loads((bank.folder / "bank.json").read_text())
    shard = content.pop("shards")[1]
    assert content == {
        "format_version": 1,
        "kind": "box",
        "dim": 6,
        "dtype": "float16",
        "encoder_hash": "f00d",
        "identity": {"recipe": {"frames": 32, "stride": 2}, "decoder": "pyav 14"},
        "complete": True,
    }
    assert {"name": "shard-00001", "rows": 180}.items() <= shard.items()
    assert shard["videos"] == ["zoo", "a video without boxes"]
    assert len(shard["npy_sha256"]) == len(shard["parquet_sha256"]) == 64
