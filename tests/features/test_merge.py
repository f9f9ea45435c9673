"""Parts of one bank put together: the same bytes in any order, and whatever does not fit."""

import json
import shutil
from collections.abc import Callable, Sequence
from itertools import permutations
from pathlib import Path

import pytest

from vidssl.errors import BankError, OutputError
from vidssl.features import Bank, BankIdentity, BankRows, BankWriter
from vidssl.features.merge import merge

Open = Callable[[Path], BankWriter]
Rows = Callable[[int], BankRows]
Make = Callable[[str, Sequence[int]], Path]


@pytest.fixture
def part(tmp_path: Path, writer_in: Open, shard_rows: Rows) -> Make:
    """Make a part with some of the shards."""

    def make(name: str, shards: Sequence[int]) -> Path:
        writer = writer_in(tmp_path / name)
        for shard in shards:
            writer.write_shard(shard, shard_rows(shard))
        return tmp_path / name

    return make


def bytes_of(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def test_parts_of_three_machines_give_the_same_bytes_in_any_order(
    bank: Bank, part: Make, tmp_path: Path
) -> None:
    parts = [part("one", [0, 3]), part("two", [1]), part("three", [2])]
    for number, order in enumerate(permutations(parts)):
        merged = merge(order, tmp_path / f"merged-{number}")
        assert len(merged) == len(bank)
        assert bytes_of(merged.folder) == bytes_of(bank.folder)


def test_a_shard_in_two_parts_is_taken_once(bank: Bank, part: Make, tmp_path: Path) -> None:
    merged = merge([part("one", [0, 1, 2]), part("two", [1, 2, 3])], tmp_path / "merged")
    assert bytes_of(merged.folder) == bytes_of(bank.folder)


def test_a_gap_is_refused_by_name_and_nothing_is_written(part: Make, tmp_path: Path) -> None:
    with pytest.raises(BankError, match="do not make a whole bank") as caught:
        merge([part("one", [0]), part("two", [2])], tmp_path / "merged")
    assert "shard-00001: in none of the parts" in str(caught.value)
    assert "shard-00003: in none of the parts" in str(caught.value)
    assert not (tmp_path / "merged").exists()


def test_a_damaged_shard_is_taken_from_another_part_or_told(
    bank: Bank, part: Make, tmp_path: Path
) -> None:
    one, two = part("one", [0, 1, 2, 3]), part("two", [1])
    content = bytearray((one / "shard-00001.npy").read_bytes())
    content[-1] ^= 1
    (one / "shard-00001.npy").write_bytes(content)
    assert bytes_of(merge([one, two], tmp_path / "merged").folder) == bytes_of(bank.folder)
    with pytest.raises(BankError, match=r"one/shard-00001.npy: its bytes do not match"):
        merge([one], tmp_path / "alone")


def test_parts_that_contradict_each_other_are_refused(
    part: Make, writer_in: Open, shard_rows: Rows, tmp_path: Path
) -> None:
    other = writer_in(tmp_path / "other")
    rows = shard_rows(1)
    rows.features[0, 0] += 1
    other.write_shard(1, rows)
    with pytest.raises(BankError, match=r"contradict.*\n.*shard-00001: .*other and .*one hold"):
        merge([part("one", [0, 1, 2, 3]), tmp_path / "other"], tmp_path / "merged")


def test_a_part_of_another_bank_is_refused_with_what_differs(bank: Bank, tmp_path: Path) -> None:
    identity = BankIdentity("beef", bank.identity.details)
    BankWriter(tmp_path / "other", dim=6, identity=identity, plan=[list(bank.videos)])
    with pytest.raises(BankError, match="encoder_hash: found 'beef', expected 'f00d'"):
        merge([bank.folder, tmp_path / "other"], tmp_path / "merged")


def test_a_stopped_merge_is_finished_by_the_same_call(
    bank: Bank, part: Make, tmp_path: Path
) -> None:
    parts = [part("one", [0, 3]), part("two", [1, 2])]
    half = merge(parts, tmp_path / "merged").folder
    content = json.loads((half / "bank.json").read_text())
    content["complete"] = False
    (half / "bank.json").write_text(json.dumps(content))
    (half / "shard-00002.json").unlink()  # the last to be written of a shard
    assert bytes_of(merge(parts, half).folder) == bytes_of(bank.folder)


def test_a_folder_with_other_files_is_refused(bank: Bank, tmp_path: Path) -> None:
    shutil.copytree(bank.folder, tmp_path / "merged")
    (tmp_path / "merged" / "thesis.txt").write_text("mine")
    with pytest.raises(OutputError, match=r"thesis\.txt"):
        merge([bank.folder], tmp_path / "merged")


def test_failed_key_frames_are_kept(
    bank: Bank, writer_in: Open, shard_rows: Rows, tmp_path: Path
) -> None:
    assert bank.failed_keyframes == 0
    writer = writer_in(tmp_path / "one")
    for shard in writer.missing():
        writer.write_shard(shard, shard_rows(shard), failed_keyframes=shard)
    writer.close()
    merged = merge([tmp_path / "one"], tmp_path / "merged")
    assert merged.failed_keyframes == 0 + 1 + 2 + 3
    # A record of before they were counted has none.
    content = json.loads((bank.folder / "bank.json").read_text())
    for shard in content["shards"]:
        del shard["failed_keyframes"]
    (bank.folder / "bank.json").write_text(json.dumps(content))
    assert Bank.open(bank.folder).failed_keyframes == 0
