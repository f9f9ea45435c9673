"""Published lists: the real ones with their known counts, small ones of every form, mistakes."""

import csv
import json
import os
import re
from pathlib import Path

import numpy as np
import pytest

from vidssl import sources
from vidssl.errors import SourceError
from vidssl.sources import Listing


def touch(folder: Path, *names: str) -> Path:
    """Make empty files with a video's name; nothing is opened here."""
    for name in names:
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
    return folder


def names(listing: Listing) -> list[str]:
    return [Path(path).name for path in listing.videos]


def labels(listing: Listing) -> list[list[int]]:
    found: list[list[int]] = listing.entries["labels"].to_pylist()
    return found


HEADER = "label,youtube_id,time_start,time_end,split,is_cc\n"
A, B, C = "-3B32lodo2M", "_dbc_uKJQNs", "0wR5jVB-WPk"
THREE = f"{HEADER}running,{A},59,69,val,0\njumping,{B},40,50,val,0\nrunning,{C},417,427,train,1\n"


# --- Kinetics


def test_kinetics_400_val_is_19906_videos_of_400_classes(shared_data: Path, tmp_path: Path) -> None:
    listed = shared_data / "annotations" / "kinetics" / "kinetics-400_val.csv"
    with listed.open(newline="") as file:
        rows = list(csv.DictReader(file))
    for row in rows[::50]:  # one in fifty is there
        name = f"{row['youtube_id']}_{int(row['time_start']):06d}_{int(row['time_end']):06d}.mp4"
        touch(tmp_path, f"{row['label']}/{name}")
    listing = sources.read(f"kinetics:{tmp_path},list={listed}")
    assert len(listing.entries) == listing.ledger.expected == 19_906
    assert listing.ledger.present == len(listing.videos) == len(rows[::50]) == 399
    assert len(listing.ledger.missing) == 19_906 - 399
    assert len(listing.classes) == 400
    assert listing.classes[0] == "abseiling"
    told = listing.ledger.sentence()
    assert told == "399 of 19,906 videos are present (2.0%), 19,507 missing"
    # Each class with its rows and those of them that are there.
    assert sum(count for count, _ in listing.by_class().values()) == 19_906
    assert sum(here for _, here in listing.by_class().values()) == 399
    # The numbering of the whole set is that of the published label map.
    published = (listed.parent / "label_map_k400.txt").read_text().split("\n")
    assert [listing.classes[n] for n in range(400)] == [line for line in published if line]


def test_tiny_kinetics_finds_every_video(shared_data: Path, tmp_path: Path) -> None:
    listed = shared_data / "annotations" / "kinetics" / "tiny_val.csv"
    with listed.open(newline="") as file:
        ids = [row["youtube_id"] for row in csv.DictReader(file)]
    touch(tmp_path, *(f"{name}.webm" for name in ids))
    listing = sources.read(f"kinetics:{tmp_path},list={listed},split=val")
    assert names(listing) == [f"{name}.webm" for name in ids]
    assert listing.ledger.sentence() == "400 of 400 videos are present (100.0%)"
    assert listing.entries["video"].to_pylist() == list(range(400))


def test_kinetics_names_with_seconds_are_found_before_plain_ones(tmp_path: Path) -> None:
    (tmp_path / "val.csv").write_text(THREE)
    touch(tmp_path, f"{A}_000059_000069.mp4", f"{A}.mp4", f"jumping/{B}_40_50.mkv", "other.mp4")
    listing = sources.read(f"kinetics:{tmp_path}")
    assert names(listing) == [f"{A}_000059_000069.mp4", f"{B}_40_50.mkv"]
    assert listing.ledger.missing == (f"{C}_000417_000427",)
    assert sorted(map(os.path.basename, listing.ledger.extra)) == [f"{A}.mp4", "other.mp4"]
    assert listing.entries["video"].to_pylist() == [0, 1, None]
    assert listing.classes == {0: "jumping", 1: "running"}
    assert labels(listing) == [[1], [0], [1]]
    assert listing.entries["start_s"].null_count == 3  # the files are the cut ones
    assert listing.by_class() == {0: (1, 1), 1: (2, 1)}


def test_uncut_kinetics_has_the_times_of_its_entries(tmp_path: Path) -> None:
    (tmp_path / "k700.csv").write_text(THREE)
    touch(tmp_path, f"{A}.mp4")
    listing = sources.read(f"kinetics:{tmp_path}/k700.csv,cut=no,split=val")
    assert listing.entries["start_s"].to_pylist() == [59, 40]
    assert listing.entries["end_s"].to_pylist() == [69, 50]
    assert listing.entries["split"].to_pylist() == ["val", "val"]


def test_line_ends_and_a_byte_order_mark_change_nothing(tmp_path: Path) -> None:
    touch(tmp_path, f"{A}.mp4", f"{B}.mp4")
    found = []
    for text in (THREE, "\ufeff" + THREE.replace("\n", "\r\n")):
        (tmp_path / "val.csv").write_bytes(text.encode())
        found.append(sources.read(f"kinetics:{tmp_path}"))
    assert found[0] == found[1]


def test_the_rows_of_a_large_list_are_columns(tmp_path: Path) -> None:
    rows = "".join(
        f"v{n % 50},{902 + n % 800:04d},0.1,0.1,0.5,0.9,{n % 80},1\n" for n in range(60_000)
    )
    (tmp_path / "ava_train_v2.2.csv").write_text(rows)
    touch(tmp_path, *(f"v{n}.mp4" for n in range(50)))
    entries = sources.read(f"ava:{tmp_path}").entries
    assert len(entries) == 60_000
    assert entries.nbytes < 50 * len(entries)  # a million rows: 50 MB


def test_a_split_and_a_label_map_may_be_named(tmp_path: Path) -> None:
    (tmp_path / "train.csv").write_text(THREE)
    (tmp_path / "val.csv").write_text(THREE)
    (tmp_path / "map.txt").write_text("swimming\r\nrunning\r\njumping\r\n")
    touch(tmp_path, f"{A}.mp4", f"{B}.mp4", f"{C}.mp4")
    listing = sources.read(f"kinetics:{tmp_path},split=train,classes=map.txt")
    assert names(listing) == [f"{C}.mp4"]
    assert labels(listing) == [[1]]
    assert listing.ledger.extra == ()  # the list names the other two as well
    with pytest.raises(SourceError, match=r"holds several lists \(train\.csv, val\.csv\); say wh"):
        sources.read(f"kinetics:{tmp_path}")
    with pytest.raises(SourceError, match=r"no row of the split 'trian', found train, val; did"):
        sources.read(f"kinetics:{tmp_path},list=val.csv,split=trian")
    (tmp_path / "paths.txt").write_text(f"{A}.mp4 1\n")
    with pytest.raises(
        SourceError, match=r"kinetics: split=val, but the list is .*paths\.txt; name"
    ):
        sources.read(f"kinetics:{tmp_path},list=paths.txt,split=val")
    (tmp_path / "map.txt").write_text("swimming\nruning\njumping\n")
    with pytest.raises(SourceError, match=r"val\.csv:2: no class 'running' among 3; did you mean"):
        sources.read(f"kinetics:{tmp_path},list=val.csv,classes=map.txt")


@pytest.mark.parametrize("between", [" ", ",", "\t"])
def test_lists_of_path_and_label_are_understood(between: str, tmp_path: Path) -> None:
    touch(tmp_path, f"air drumming/{A}_000059_000069.mp4", f"{B}.mp4", f"jumping/{C}.webm")
    lines = [
        f"air drumming/{A}_000059_000069.mp4{between}3",
        f"{tmp_path}/{B}.mp4{between}0",
        f"jumping/{C}.mp4{between}1",
        f"gone.mp4{between}2",
    ]
    (tmp_path / "val.csv").write_text("\ufeff" + "\r\n".join(lines) + "\r\n", encoding="utf-8")
    listing = sources.read(f"kinetics:{tmp_path}")
    assert names(listing) == [f"{A}_000059_000069.mp4", f"{B}.mp4", f"{C}.webm"]
    assert labels(listing) == [[3], [0], [1], [2]]
    assert listing.ledger.missing == ("gone",)


@pytest.mark.parametrize(
    ("lines", "files", "expected"),
    [
        # The file that is named, and not another of that name.
        ("val/a/1.mov 0", "train/a/1.mp4 val/a/1.mov", {"val/a/1": "val/a/1.mov"}),
        ("val/a/1.mov 0\nval/a/2.mov 0", "train/a/1.mp4 val/a/2.mp4", {"val/a/2": "val/a/2.mp4"}),
        ("a/1.mp4 0\nb/1.mp4 1", "b/1.mp4", {"b/1": "b/1.mp4"}),
        ("a/1.mp4 0\na/1.mov 1", "a/1.mp4", {"a/1.mp4": "a/1.mp4"}),
        # Another suffix; a list that begins above the folder, or below.
        ("a/1.mp4 0\nb/1.mp4 1", "a/1.mov b/1.mov", {"a/1": "a/1.mov", "b/1": "b/1.mov"}),
        ("/far/val/a/1.mp4 0\n/far/val/b/1.mp4 1", "a/1.mp4", {"/far/val/a/1": "a/1.mp4"}),
        ("a/1.mp4 0\nb/1.mp4 1", "x/a/1.mp4 x/b/1.mp4", {"a/1": "x/a/1.mp4", "b/1": "x/b/1.mp4"}),
        ("x/a/1.mp4 0\ny/a/1.mp4 1\na/2.mp4 0", "a/1.mp4 a/2.mp4", {"a/2": "a/2.mp4"}),
        # Names alone, where all are without folders.
        ("a/1.mp4 0\nb/2.mp4 1", "1.webm 2.mp4", {"a/1": "1.webm", "b/2": "2.mp4"}),
        ("1.mp4 0\n2.mp4 1", "a/1.mp4 b/2.mp4", {"1": "a/1.mp4", "2": "b/2.mp4"}),
    ],
)
def test_a_listed_path_takes_no_other_file(
    lines: str, files: str, expected: dict[str, str], tmp_path: Path
) -> None:
    data = touch(tmp_path / "data", *files.split())
    (data / "list.txt").write_text(lines)
    listing = sources.read(f"kinetics:{data},list=list.txt,outside=allow")
    rows = listing.entries.to_pylist()
    found = {row["id"]: row["video"] for row in rows if row["video"] is not None}
    assert {key: listing.videos[n] for key, n in found.items()} == {
        key: str(data / name) for key, name in expected.items()
    }
    assert len(listing.ledger.missing) == len(rows) - len(expected)


def test_clips_that_share_a_name_are_not_found_by_it(tmp_path: Path) -> None:
    (tmp_path / "clap_test_split1.txt").write_text("a.avi 1\n")
    (tmp_path / "sword_test_split1.txt").write_text("a.avi 1\n")
    (tmp_path / "trainlist01.txt").write_text("clap/a.avi 1\nsword/a.avi 2\n")
    (tmp_path / "testlist01.txt").write_text("clap/b.avi\n")
    touch(tmp_path, "a.avi", "b.avi")
    for source in ("hmdb51", "ucf101"):
        with pytest.raises(SourceError, match=r"none of its . videos is in"):
            sources.read(f"{source}:{tmp_path}")
    touch(tmp_path, "sword/a.mp4", "other/b.mp4")
    assert sources.read(f"hmdb51:{tmp_path}").videos == [str(tmp_path / "sword" / "a.mp4")]
    assert sources.read(f"ucf101:{tmp_path}").videos == [str(tmp_path / "sword" / "a.mp4")]


def test_paths_out_of_the_folder_are_refused_unless_allowed(tmp_path: Path) -> None:
    data = touch(tmp_path / "data", "in.mp4")
    touch(tmp_path, "out.mp4")
    (data / "val.csv").write_text(f"in.mp4 0\n../out.mp4 1\n{tmp_path}/out.mp4 1\n/etc/x.mp4 0\n")
    with pytest.raises(SourceError) as caught:
        sources.read(f"kinetics:{data}")
    told = str(caught.value)
    assert "val.csv: 3 mistakes" in told
    assert f"val.csv:2: ../out.mp4: climbs out of {data}; allow it with outside=allow" in told
    assert f"val.csv:4: /etc/x.mp4: a path outside of {data}" in told
    listing = sources.read(f"kinetics:{data},outside=allow")
    assert listing.videos == [str(data / "in.mp4"), str(tmp_path / "out.mp4")]


def test_class_folders_alone_are_a_kinetics_folder(tmp_path: Path) -> None:
    touch(tmp_path, "running/a.mp4", "jumping/b.mp4", "running/c.mp4")
    listing = sources.read(f"kinetics:{tmp_path}")
    assert names(listing) == ["b.mp4", "a.mp4", "c.mp4"]
    assert listing.classes == {0: "jumping", 1: "running"}
    assert labels(listing) == [[0], [1], [1]]
    assert listing.entries["video"].to_pylist() == [0, 1, 2]


def test_every_mistake_of_a_list_is_told_with_its_line(tmp_path: Path) -> None:
    touch(tmp_path, f"{A}.mp4")
    rows = [f"running,{A},{n},x,val,0" for n in range(9)]
    (tmp_path / "val.csv").write_text(f"{HEADER}running,{B},1,2,val,0\n" + "\n".join(rows) + "\n")
    with pytest.raises(SourceError) as caught:
        sources.read(f"kinetics:{tmp_path}")
    told = str(caught.value).splitlines()
    assert told[0] == f"{tmp_path}/val.csv: 9 mistakes:"
    assert (
        "val.csv:3: expected whole seconds, time_start before time_end, found '0', 'x'" in told[1]
    )
    assert told[-1] == "  ... and 1 more"
    assert len(told) == 1 + 8 + 1
    (tmp_path / "val.csv").write_text(f"label,youtube_id,time_strat,time_end\nrunning,{A},1,2\n")
    with pytest.raises(
        SourceError,
        match=r"val\.csv:1: expected columns named label, youtube_id, time_start, time_end, "
        r"found \[.*\]; did you mean 'time_strat'",
    ):
        sources.read(f"kinetics:{tmp_path}")


def test_duplicates_are_counted_and_taken_once(tmp_path: Path) -> None:
    (tmp_path / "val.csv").write_text(THREE + f"running,{A},59,69,val,0\n")
    touch(tmp_path, f"train/{A}.mp4", f"val/{A}.mp4", f"{B}.mp4", f"{C}.mp4")
    ledger = sources.read(f"kinetics:{tmp_path}").ledger
    assert (ledger.expected, ledger.present) == (3, 3)
    assert ledger.duplicates == (f"{A}_000059_000069",)
    assert ledger.extra == ()


def test_a_list_of_which_nothing_is_there_is_refused(tmp_path: Path) -> None:
    (tmp_path / "val.csv").write_text(THREE)
    touch(tmp_path, "other.mp4")
    with pytest.raises(SourceError, match=r"none of its 3 videos is in .*\n  no file for -3B32lod"):
        sources.read(f"kinetics:{tmp_path}")


# --- the ledger


def test_the_ledger_is_a_dict_for_json(tmp_path: Path) -> None:
    (tmp_path / "val.csv").write_text(THREE)
    touch(tmp_path, f"{A}.mp4", f"{B}.mp4", "more\x1b.mp4")
    ledger = sources.read(f"kinetics:{tmp_path}").ledger
    assert ledger.undecodable is None
    found = json.loads(json.dumps(ledger.as_json()))
    assert found["missing"] == {"count": 1, "names": [f"{C}_000417_000427"]}
    assert found["extra"] == {"count": 1, "names": [f"{tmp_path}/more\\x1b.mp4"]}
    assert found["undecodable"] is None
    assert len(found["fingerprint"]) == 16
    told = ledger.indexed([f"{tmp_path}/{A}.mp4"])
    assert told.as_json()["undecodable"] == {"count": 1, "names": [f"{tmp_path}/{A}.mp4"]}
    assert told.sentence() == (
        "2 of 3 videos are present (66.7%), 1 missing, 1 not decodable, 1 not in the list"
    )


def test_what_an_index_found_absent_is_missing(tmp_path: Path) -> None:
    (tmp_path / "val.csv").write_text(THREE)
    touch(tmp_path, f"{A}.mp4", f"{B}.mp4")
    (tmp_path / "list.csv").write_text(f"path\n{A}.mp4\ngone.mp4\n{B}.mp4\n")
    absent = [f"{tmp_path}/{B}.mp4", f"{tmp_path}/gone.mp4"]
    for source, names, left in (
        (f"kinetics:{tmp_path}", (f"{C}_000417_000427", f"{B}_000040_000050"), (3, 1)),
        (f"{tmp_path}/list.csv", ("gone.mp4", f"{B}.mp4"), (3, 1)),
        (str(tmp_path), (f"{tmp_path}/{B}.mp4",), (2, 1)),
    ):
        before = sources.read(source).ledger
        ledger = before.indexed(
            [], [one for one in absent if "gone" not in one or "list" in source]
        )
        assert (ledger.expected, ledger.present) == left
        assert ledger.missing == names
        assert before.indexed([]) == before.indexed([], [])
        (tmp_path / f"{B}.mp4").unlink()
        assert ledger.fingerprint == sources.read(source).ledger.fingerprint
        touch(tmp_path, f"{B}.mp4")


def test_the_fingerprint_is_of_what_is_present(tmp_path: Path) -> None:
    one, two = tmp_path / "one", tmp_path / "two"
    touch(one, f"{A}.mp4", f"x/{B}.mp4")
    touch(two, f"{B}.webm", f"{A}_000059_000069.mkv", "other.mp4")
    prints = []
    for folder in (one, two):
        (folder / "val.csv").write_text(THREE)
        prints.append(sources.read(f"kinetics:{folder}").ledger.fingerprint)
    assert prints[0] == prints[1]
    touch(two, f"{C}.mp4")
    assert sources.read(f"kinetics:{two}").ledger.fingerprint != prints[0]


# --- UCF101 and HMDB51


def test_ucf101_split_1_has_the_published_counts(shared_data: Path, tmp_path: Path) -> None:
    lists = shared_data / "annotations" / "ucf101"
    first = "ApplyEyeMakeup/v_ApplyEyeMakeup_g"
    touch(tmp_path, f"{first}08_c01.avi", f"{first}01_c01.mp4", "YoYo/v_YoYo_g25_c05.avi")
    whole = sources.read(f"ucf101:{tmp_path},lists={lists}")
    # 9,537 to train on and 3,783 to test on.
    assert (whole.ledger.expected, whole.ledger.present) == (13_320, 3)
    assert len(whole.classes) == 101
    assert whole.classes[0] == "ApplyEyeMakeup"
    assert whole.classes[100] == "YoYo"
    for part, count, here in (("train", 9_537, 2), ("test", 3_783, 1)):
        listing = sources.read(f"ucf101:{tmp_path},split=1,part={part},lists={lists}")
        assert (listing.ledger.expected, listing.ledger.present) == (count, here)
        assert listing.ledger.extra == ()  # the other part's are in the lists too
        assert set(listing.entries["split"].to_pylist()) == {part}
    # The number behind a name in trainlist01.txt is that of the class, from 1.
    numbers = [
        int(line.split()[1]) for line in (lists / "trainlist01.txt").read_text().splitlines()
    ]
    train = sources.read(f"ucf101:{tmp_path},part=train,lists={lists}")
    assert [label for (label,) in labels(train)] == [number - 1 for number in numbers]


def test_a_ucf101_folder_with_its_lists_needs_no_options(tmp_path: Path) -> None:
    touch(tmp_path, "Biking/v_Biking_g01_c01.avi", "Archery/v_Archery_g01_c01.mp4")
    lists = tmp_path / "ucfTrainTestlist"
    lists.mkdir()
    (lists / "trainlist01.txt").write_bytes(b"Biking/v_Biking_g01_c01.avi 2\r\n")
    (lists / "testlist01.txt").write_bytes(b"Archery/v_Archery_g01_c01.avi\r\n")
    listing = sources.read(f"ucf101:{tmp_path}")
    assert names(listing) == ["v_Biking_g01_c01.avi", "v_Archery_g01_c01.mp4"]
    assert listing.entries["split"].to_pylist() == ["train", "test"]
    assert listing.classes == {0: "Archery", 1: "Biking"}  # there is no classInd.txt
    with pytest.raises(SourceError, match=r"no trainlist03\.txt \(looked in .*; say where with li"):
        sources.read(f"ucf101:{tmp_path},split=3")
    (lists / "testlist01.txt").write_text("../../etc/v_x.avi\nnothing\n")
    with pytest.raises(SourceError, match=r"2 mistakes:\n.*:1: ../../etc/v_x.avi: climbs out of"):
        sources.read(f"ucf101:{tmp_path}")


def test_hmdb51_takes_what_its_lists_mark(tmp_path: Path) -> None:
    lists = tmp_path / "splits"
    lists.mkdir()
    odd = "#20_Rhythm_clap_u_nm_np1_fr_goo_0"
    (lists / "clap_test_split1.txt").write_text(f"{odd}.avi 1 \na.avi 2 \nunused.avi 0 \n")
    (lists / "sword_test_split1.txt").write_text("a.avi 1 \nb.avi 2 \n")
    touch(tmp_path, f"clap/{odd}.avi", "clap/a.avi", "clap/unused.avi", "sword/b.avi")
    listing = sources.read(f"hmdb51:{tmp_path}")
    assert names(listing) == [f"{odd}.avi", "a.avi", "b.avi"]
    assert listing.ledger.missing == ("sword/a",)  # for which clap/a is not taken
    assert listing.ledger.extra == ()
    assert listing.entries["split"].to_pylist() == ["train", "test", "train", "test"]
    assert labels(listing) == [[0], [0], [1], [1]]
    test = sources.read(f"hmdb51:{tmp_path},split=1,part=test")
    assert names(test) == ["a.avi", "b.avi"]
    (lists / "clap_test_split1.txt").write_text("a.avi 3\n")
    with pytest.raises(SourceError, match=r"clap_test_split1\.txt:1: expected VIDEO\.avi and 0, 1"):
        sources.read(f"hmdb51:{tmp_path}")


# --- segments: Charades, EPIC-KITCHENS


@pytest.mark.parametrize(
    ("name", "videos", "first"),
    [
        ("Charades_v1_train_500.csv", 499, ("46GP8", [92], 11.9, 21.2)),
        ("Charades_v1_test_200.csv", 199, ("YSKX3", [77], 12.1, 18.0)),
    ],
)
def test_charades_lists_have_their_videos_and_actions(
    name: str, videos: int, first: tuple[object, ...], shared_data: Path, tmp_path: Path
) -> None:
    listed = shared_data / "annotations" / "charades" / name
    touch(tmp_path, "46GP8.mp4", "YSKX3.mp4")
    listing = sources.read(f"charades:{tmp_path},list={listed}")
    assert (listing.ledger.expected, listing.ledger.present) == (videos, 1)
    row = listing.entries.slice(0, 1).to_pylist()[0]
    assert (row["id"], row["labels"], row["start_s"], row["end_s"]) == first
    # Counted without a parser of csv: an action is c, three digits and two times.
    actions = len(re.findall(r"\bc\d{3} [\d.]+ [\d.]+", listed.read_text()))
    assert len(listing.entries) == actions > 1000
    assert 0 <= min(listing.by_class()) <= max(listing.by_class()) <= 156


def test_charades_videos_without_actions_are_expected(tmp_path: Path) -> None:
    header = "id,script,actions,length\n"
    (tmp_path / "Charades_v1_train.csv").write_text(
        f'{header}AAAAA,"a, b",c001 0.5 2.0;c010 1 3,9\nBBBBB,none,,5\n'
    )
    (tmp_path / "Charades_v1_classes.txt").write_text("c001 Closing a door\nc010 Sitting down\n")
    touch(tmp_path, "AAAAA.mp4", "BBBBB.mp4")
    listing = sources.read(f"charades:{tmp_path}")
    assert names(listing) == ["AAAAA.mp4", "BBBBB.mp4"]
    assert listing.entries["video"].to_pylist() == [0, 0]
    assert listing.classes == {1: "Closing a door", 10: "Sitting down"}
    (tmp_path / "Charades_v1_train.csv").write_text(f"{header}AAAAA,x,c001 0.5,9\n")
    with pytest.raises(SourceError, match=r"train\.csv:2: expected c000 START END, found 'c001 0"):
        sources.read(f"charades:{tmp_path}")


def test_epic_kitchens_validation_is_9668_segments(shared_data: Path, tmp_path: Path) -> None:
    lists = shared_data / "annotations" / "epic"
    touch(tmp_path, "P01/videos/P01_11.MP4")
    listing = sources.read(f"epic:{tmp_path},list={lists / 'EPIC_100_validation.csv'}")
    assert len(listing.entries) == 9_668
    assert listing.ledger.present == 1
    assert listing.classes[0] == "take"
    assert len(listing.classes) == 97
    row = listing.entries.slice(2, 1).to_pylist()[0]
    # 00:00:49.15 to 00:00:50.95, verb 0, noun 49.
    assert (row["start_s"], row["end_s"]) == (pytest.approx(49.15), pytest.approx(50.95))
    assert (row["narration_id"], row["verb"], row["noun"]) == ("P01_11_10", 0, 49)
    assert row["labels"] == [0]
    by_noun = sources.read(f"epic:{tmp_path},list={lists}/EPIC_100_validation.csv,label=noun")
    assert labels(by_noun)[2] == [49]
    assert len(by_noun.classes) == 300
    here = listing.entries["video"].is_valid().to_pylist()
    assert sum(here) == listing.entries["id"].to_pylist().count("P01_11") > 0


def test_epic_kitchens_times_are_hours_minutes_and_seconds(tmp_path: Path) -> None:
    path = tmp_path / "EPIC_100_test_timestamps.csv"
    path.write_text("video_id,start_timestamp,stop_timestamp\nP01_1,01:02:03.50,01:02:04\n")
    touch(tmp_path, "P01_1.mp4")
    listing = sources.read(f"epic:{tmp_path}")
    assert listing.entries["start_s"].to_pylist() == [3600 + 120 + 3.5]
    assert labels(listing) == [[]]  # the test list has none
    path.write_text("video_id,start_timestamp,stop_timestamp\nP01_1,soon,1:2:3:4\n")
    with pytest.raises(SourceError) as caught:
        sources.read(f"epic:{tmp_path}")
    assert "csv:2: expected start_timestamp as HH:MM:SS.ss, found 'soon'" in str(caught.value)
    assert "csv:2: expected stop_timestamp" in str(caught.value)
    path.write_text("video_id,start_timestamp,stop_timestamp\n,0:01,0:02\nP01_1,0:02,0:01\n")
    with pytest.raises(SourceError) as caught:
        sources.read(f"epic:{tmp_path}")
    assert "csv:2: no video_id in this row" in str(caught.value)
    assert "csv:3: stop_timestamp 1 s is before start_timestamp 2" in str(caught.value)
    path.write_text("video_id,start_timestamp,stop_timestamp\nP01_1,00:61:00,00:99:75\n")
    with pytest.raises(SourceError, match="csv:2: expected start_timestamp as HH:MM:SS"):
        sources.read(f"epic:{tmp_path}")


# --- AVA, AVA-Kinetics, Something-Something


def test_ava_rows_are_actions_at_an_instant(tmp_path: Path) -> None:
    rows = "v1,0902,0.1,0.1,0.5,0.9,12,1\nv1,0902,0.1,0.1,0.5,0.9,80,1\nv2,0903\ngone,0904\n"
    (tmp_path / "ava_val_v2.2.csv").write_text(rows)
    (tmp_path / "ava_train_v2.2.csv").write_text("v3,0902,0.1,0.1,0.5,0.9,12,1\n")
    (tmp_path / "ava_val_excluded_timestamps_v2.2.csv").write_text("v1,0902\n")
    touch(tmp_path, "videos/v1.mkv", "videos/v2.webm", "videos/v3.mp4")
    listing = sources.read(f"ava:{tmp_path},split=val")
    assert names(listing) == ["v1.mkv", "v2.webm"]
    assert labels(listing) == [[12], [80], [], []]
    assert listing.entries["start_s"].to_pylist() == [902, 902, 903, 904]
    assert listing.ledger.missing == ("gone",)
    (tmp_path / "ava_val_v2.2.csv").write_text("v1,0902,0.1\nv1,now\nv1,1,0,0,1,1,walk,1\n")
    with pytest.raises(SourceError) as caught:
        sources.read(f"ava:{tmp_path},split=val")
    assert [line.rpartition("csv:")[2] for line in str(caught.value).splitlines()[1:]] == [
        "1: expected 2, 7 or 8 columns, found 3",
        "2: expected a time in seconds, found 'now'",
        "3: expected an action's number, found 'walk'",
    ]


def test_the_playground_is_an_ava_folder(playground: Path) -> None:
    listing = sources.read(f"ava:{playground},split=train")
    assert names(listing) == ["train_000.mp4", "train_001.mp4", "train_002.mp4"]
    assert max(listing.by_class()) <= 9


def test_the_playground_names_scenes_and_splits(playground: Path) -> None:
    listing = sources.read(f"playground:{playground}")
    assert len(listing.videos) == 4
    assert listing.entries["split"].to_pylist() == ["train"] * 3 + ["val"]
    assert set(np.concatenate(labels(listing))) <= listing.classes.keys()


def test_ava_kinetics_finds_kinetics_names(tmp_path: Path) -> None:
    (tmp_path / "kinetics_val_v1.0.csv").write_text(f"{A},64.5,0.1,0.1,0.5,0.9,12\n{B},45.0\n")
    touch(tmp_path, f"{A}_000059_000069.mp4", f"{B}.mp4")
    listing = sources.read(f"ava_kinetics:{tmp_path}")
    assert names(listing) == [f"{A}_000059_000069.mp4", f"{B}.mp4"]
    assert listing.entries["end_s"].to_pylist() == [64.5, 45.0]


def test_something_v2_numbers_templates_as_its_label_file(tmp_path: Path) -> None:
    rows = [
        {"id": "78687", "label": "holding cup", "template": "Holding [something]"},
        {"id": "42326", "label": "x", "template": "Turning [something] upside down"},
    ]
    (tmp_path / "something-something-v2-train.json").write_text(json.dumps(rows))
    touch(tmp_path, "20bn/78687.webm", "20bn/42326.webm")
    assert labels(sources.read(f"somethingv2:{tmp_path}")) == [[0], [1]]
    numbers = {"Holding something": "8", "Turning something upside down": "3"}
    (tmp_path / "something-something-v2-labels.json").write_text(json.dumps(numbers))
    listing = sources.read(f"somethingv2:{tmp_path}")
    assert labels(listing) == [[8], [3]]
    assert names(listing) == ["78687.webm", "42326.webm"]
    (tmp_path / "something-something-v2-train.json").write_text('[{"id": 5}]')
    with pytest.raises(SourceError, match=r"item 1: expected an object with id"):
        sources.read(f"somethingv2:{tmp_path}")


# --- the grammar


def test_options_are_a_closed_set(tmp_path: Path) -> None:
    touch(tmp_path, "a.mp4")
    with pytest.raises(SourceError) as caught:
        sources.read(f"kinetics:{tmp_path},spilt=val")
    told = str(caught.value)
    assert "kinetics: no option 'spilt'; did you mean 'split'?\nits options are:" in told
    assert "\n  list=the list file" in told
    with pytest.raises(SourceError, match="ucf101: expected split= one of 1, 2, 3, found '4'"):
        sources.read(f"ucf101:{tmp_path},split=4")
    with pytest.raises(SourceError, match="the option split is given twice"):
        sources.read(f"ucf101:{tmp_path},split=1,split=2")
    with pytest.raises(SourceError, match="kinetics: expected a path: kinetics:PATH"):
        sources.read("kinetics:")
    (tmp_path / "val.csv").touch()
    with pytest.raises(SourceError, match=r"list=.*vla\.csv: no such file or folder; did you mean"):
        sources.read(f"kinetics:{tmp_path},list=vla.csv")


def test_a_path_may_hold_commas_and_what_looks_like_an_option(tmp_path: Path) -> None:
    folder = touch(tmp_path / "a, b,split=val", f"{A}.mp4")
    assert names(sources.read(f"kinetics:{folder}")) == [f"{A}.mp4"]
    folder = touch(tmp_path / "one, two", f"{A}.mp4")
    (folder / "val, really.csv").write_text(THREE)
    listing = sources.read(f"kinetics:{folder},list=val, really.csv,split=val")
    assert listing.ledger.expected == 2


@pytest.mark.parametrize("source", ["file:/etc/passwd", "concat:a.mp4|b.mp4", "ftp://host/a.mp4"])
def test_other_protocols_are_no_sources(source: str) -> None:
    with pytest.raises(SourceError, match=r"no source '(file|concat)'|ftp:// is not read"):
        sources.read(source)
