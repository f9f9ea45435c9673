"""A bank as one file, read back by the libraries that others read it with."""

from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest

from vidssl.errors import BankError
from vidssl.features import Bank, BankIdentity, BankWriter
from vidssl.features.export import export


def test_parquet_holds_every_row_with_its_feature(bank: Bank, tmp_path: Path) -> None:
    export(bank, tmp_path / "bank.parquet")
    table = pq.read_table(tmp_path / "bank.parquet")
    names = ["video", "second", "x1", "y1", "x2", "y2", "score", "feature"]
    assert table.column_names == names
    assert len(table) == len(bank) == 720
    features = np.array(table["feature"].to_pylist(), np.float16)
    expected = np.concatenate([np.load(path) for path in sorted(bank.folder.glob("*.npy"))])
    assert np.array_equal(features, expected)
    parts = [pq.read_table(path) for path in sorted(bank.folder.glob("*.parquet"))]
    for name in names[:-1]:
        assert table[name].to_pylist() == [v for part in parts for v in part[name].to_pylist()]


def test_npz_holds_the_same_and_no_objects(bank: Bank, tmp_path: Path) -> None:
    export(bank, tmp_path / "bank.npz")
    export(bank, tmp_path / "bank.parquet")
    table = pq.read_table(tmp_path / "bank.parquet")
    with np.load(tmp_path / "bank.npz", allow_pickle=False) as arrays:
        assert sorted(arrays) == ["box", "feature", "score", "second", "video"]
        assert arrays["feature"].dtype == np.float16
        assert arrays["video"].tolist() == table["video"].to_pylist()
        assert arrays["second"].tolist() == table["second"].to_pylist()
        assert arrays["box"][:, 2].tolist() == table["x2"].to_pylist()
        assert arrays["feature"].tolist() == table["feature"].to_pylist()


@pytest.mark.parametrize("suffix", ["parquet", "npz"])
def test_an_empty_bank_gives_an_empty_file(tmp_path: Path, suffix: str) -> None:
    empty = BankWriter(tmp_path / "bank", dim=3, identity=BankIdentity("f00d"), plan=[]).close()
    export(empty, tmp_path / f"bank.{suffix}")
    if suffix == "npz":
        with np.load(tmp_path / "bank.npz") as arrays:
            assert arrays["feature"].shape == (0, 3)
    else:
        assert len(pq.read_table(tmp_path / "bank.parquet")) == 0


def test_another_ending_is_refused_with_the_nearest(bank: Bank, tmp_path: Path) -> None:
    with pytest.raises(BankError, match=r"ends in .parquet or .npz; did you mean '.parquet'"):
        export(bank, tmp_path / "bank.parqet")
    assert not list(tmp_path.glob("bank.*"))


def test_a_file_in_the_bank_s_own_folder_is_refused(bank: Bank) -> None:
    with pytest.raises(BankError, match="is in the bank's own folder"):
        export(bank, bank.folder / "all.npz")
    assert Bank.open(bank.folder).verify() == []
