"""A bank that is not whole is refused when opened, or found out when verified."""

import json
import pickle
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from vidssl.errors import BankError
from vidssl.features import Bank, BankIdentity, BankRows, BankWriter, Window
from vidssl.features.bank import MAPS_KEPT


def window(bank: Bank, video: str, second: float) -> Window:
    return bank.window(video, second, before_s=5, after_s=5, per_step=4, pick="top", seed=0)


def edit_manifest(bank: Bank, **changes: object) -> None:
    path = bank.folder / "bank.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))


def test_a_bank_says_what_it_is(bank: Bank, identity: BankIdentity) -> None:
    assert bank.dim == 6
    assert bank.identity == identity
    assert bank.encoder_hash == "f00d"
    assert len(bank) == 720
    assert bank.videos == (
        "beach", "attic", "zoo", "a video without boxes", "cellar", "another without",
    )  # fmt: skip
    assert bank.verify() == []


def test_a_video_without_boxes_is_known_and_a_strange_one_is_not(bank: Bank) -> None:
    assert bank.has("a video without boxes")
    assert not bank.has("strange")
    for video in ("a video without boxes", "strange"):
        empty = window(bank, video, 910)
        assert empty.features.shape == (40, 6)
        assert not empty.features.any()
        assert not empty.offset_s.any()
        assert not empty.mask.any()


def test_another_process_gets_the_same_bank(bank: Bank) -> None:
    window(bank, "zoo", 910)  # what is mapped stays behind
    copy = pickle.loads(pickle.dumps(bank))
    assert len(pickle.dumps(bank)) < 500
    for video in bank.videos:
        one, two = window(bank, video, 913.5), window(copy, video, 913.5)
        assert np.array_equal(one.features, two.features)
        assert np.array_equal(one.offset_s, two.offset_s)


def test_more_shards_than_maps_may_be_open_at_once(tmp_path: Path, identity: BankIdentity) -> None:
    shards = MAPS_KEPT + 3
    plan = [[f"v{shard}"] for shard in range(shards)]
    writer = BankWriter(tmp_path / "many", dim=1, identity=identity, plan=plan)
    for shard, (video,) in enumerate(plan):
        one = np.full((1, 1), float(shard + 1))
        writer.write_shard(shard, BankRows([video], one[0], np.zeros((1, 4)), one[0], one))
    bank = writer.close()
    for _ in range(2):
        seen = [window(bank, f"v{shard}", shard + 1).features.max() for shard in range(shards)]
        assert seen == list(range(1, shards + 1))
    assert len(bank._maps) == MAPS_KEPT


def test_another_encoders_bank_is_refused(bank: Bank) -> None:
    bank.require("f00d")
    with pytest.raises(BankError) as error:
        bank.require("beef")
    assert str(error.value) == (
        f"{bank.folder}: this bank was made by encoder f00d; the head was trained with a bank of"
        " encoder beef; extract it again with `vidssl extract-features RECIPE --encoder PATH"
        " --videos SOURCE --out BANK`, PATH being that encoder"
    )


@pytest.mark.parametrize("suffix", ["npy", "parquet"])
@pytest.mark.parametrize("keep", ["nothing", "a few bytes", "half", "all but a byte", "and more"])
def test_a_file_of_another_length_is_refused(bank: Bank, suffix: str, keep: str) -> None:
    path = bank.folder / f"shard-00001.{suffix}"
    content = path.read_bytes()
    cut = {
        "nothing": b"",
        "a few bytes": content[:9],
        "half": content[: len(content) // 2],
        "all but a byte": content[:-1],
        "and more": content + b"more",
    }
    path.write_bytes(cut[keep])
    with pytest.raises(BankError, match=rf"shard-00001\.{suffix}: "):
        Bank.open(bank.folder)
    assert bank.verify() == [
        f"shard-00001.{suffix}: its bytes do not match the checksum taken when written"
    ]


@pytest.mark.parametrize("suffix", ["npy", "parquet"])
def test_an_absent_file_is_refused(bank: Bank, suffix: str) -> None:
    (bank.folder / f"shard-00000.{suffix}").unlink()
    with pytest.raises(BankError, match=rf"shard-00000\.{suffix}: cannot be read"):
        Bank.open(bank.folder)
    assert bank.verify() == [f"shard-00000.{suffix}: missing"]


@pytest.mark.parametrize("suffix", ["npy", "parquet"])
def test_any_flipped_bit_is_found(bank: Bank, suffix: str) -> None:
    path = bank.folder / f"shard-00001.{suffix}"
    content = path.read_bytes()
    message = f"shard-00001.{suffix}: its bytes do not match the checksum taken when written"
    for place in np.random.default_rng(0).integers(0, len(content), 40):
        broken = bytearray(content)
        broken[place] ^= 1 << int(place % 8)
        path.write_bytes(bytes(broken))
        assert bank.verify() == [message]
        if suffix == "parquet":  # these are read whole anyway
            with pytest.raises(BankError, match=message):
                Bank.open(bank.folder)
    path.write_bytes(content)
    assert bank.verify() == []


def test_features_of_another_shape_or_type_are_refused(bank: Bank) -> None:
    path = bank.folder / "shard-00001.npy"
    features = np.load(path)
    for changed in (features[:-1], features[:, :-1], features.astype(np.float32)):
        np.save(path, changed)
        with pytest.raises(BankError, match=r"expected float16 \(180, 6\), found float"):
            Bank.open(bank.folder)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"format_version": 2}, "expected format_version 1, found 2"),
        ({"kind": "cat"}, "expected kind box or clip or grid, found 'cat'"),
        ({"dtype": "float32"}, "expected dtype 'float16', found 'float32'"),
        ({"shards": None}, "not a feature bank's manifest"),
        ({"shards": [{"name": "shard-00000"}]}, "not a feature bank's manifest"),
        ({"identity": 3}, "not a feature bank's manifest"),
        ({"dim": 1e999}, "not a feature bank's manifest"),
        ({"dim": 7}, r"expected float16 \(360, 7\), found float16 \(360, 6\)"),
    ],
)
def test_a_manifest_that_does_not_fit_is_refused(
    bank: Bank, changes: dict[str, object], message: str
) -> None:
    edit_manifest(bank, **changes)
    with pytest.raises(BankError, match=message):
        Bank.open(bank.folder)


@pytest.mark.parametrize(
    ("text", "message"),
    [('{"complete": tr', "not valid JSON"), ("[]", "expected a JSON object, found list")],
)
def test_a_manifest_that_is_no_object_is_refused(bank: Bank, text: str, message: str) -> None:
    (bank.folder / "bank.json").write_text(text)
    with pytest.raises(BankError, match=message):
        Bank.open(bank.folder)


def test_a_folder_without_a_bank_is_refused(tmp_path: Path) -> None:
    for folder in (tmp_path, tmp_path / "absent"):
        with pytest.raises(BankError, match=r"not a feature bank \(it holds no bank.json\)"):
            Bank.open(folder)


def test_a_bank_of_no_videos_is_a_bank(tmp_path: Path, identity: BankIdentity) -> None:
    bank = BankWriter(tmp_path / "none", dim=6, identity=identity, plan=[]).close()
    assert len(bank) == 0
    assert bank.videos == ()
    assert not window(bank, "zoo", 900).mask.any()


def test_reading_a_bank_needs_no_torch() -> None:
    code = "import sys, vidssl.features; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
