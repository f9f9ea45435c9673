"""AVA from video: films, cuts and frames, read by time from training to the score."""

import json
import shutil
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
from numpy.typing import NDArray
from PIL import Image
from typer.testing import Result

from vidssl.features import Bank
from vidssl.train.folder import read_events
from vidssl.video.index import write_index
from vidssl.video.probe import VideoFacts
from vidssl.video.write import write_video

Cli = Callable[..., Result]
Refused = Callable[..., str]

SECONDS = (902, 1000, 1500, 1798)


def pictures(first: int, stop: int) -> Iterator[NDArray[np.uint8]]:
    """Give a picture a second: noise that only this second has."""
    for second in range(first, stop):
        cells = np.random.default_rng(second).integers(0, 256, (6, 6, 1), np.uint8)
        yield np.broadcast_to(np.kron(cells, np.ones((8, 8, 1), np.uint8)), (48, 48, 3)).copy()


@pytest.fixture(scope="module")
def ava(tmp_path_factory: pytest.TempPathFactory, playground: Path) -> Path:
    """A film and its cut, without loss, and annotations of both by AVA's clock."""
    folder = tmp_path_factory.mktemp("ava")
    for kind, first, stop in (("film", 0, 1800), ("cut", 900, 1801)):
        (folder / kind).mkdir()
        write_video(folder / kind / "movie.mp4", pictures(first, stop), 1, crf=0, gop=60)
    shutil.copy(playground / "action_list.pbtxt", folder)
    box = "0.1,0.1,0.6,0.9"
    true = [f"movie,{second:04d},{box},{1 + second % 2},7\n" for second in SECONDS]
    seen = [f"movie,{second:04d},{box},,0.9\n" for second in SECONDS]
    (folder / "train.csv").write_text("".join(true))
    (folder / "boxes.csv").write_text("".join(seen))
    return folder


@pytest.fixture(scope="module")
def trained(
    cli: Cli, ava: Path, tiny: dict[str, Path], tmp_path_factory: pytest.TempPathFactory
) -> Path:
    """A detector that was trained on the cut."""
    out = tmp_path_factory.mktemp("trained") / "run"
    result = cli(*finetune(ava, tiny), "--videos", ava / "cut", "--out", out)
    assert result.exit_code == 0, result.output
    assert "time origin 900 s in 1 video (15-minute cuts)" in result.stdout
    return out


def finetune(ava: Path, tiny: dict[str, Path]) -> list[object]:
    return [
        *("finetune", tiny["detection"], "--encoder", "random"),
        *("--annotations", ava / "train.csv", "--labels", ava / "action_list.pbtxt"),
    ]


def extract(ava: Path, tiny: dict[str, Path], trained: Path) -> list[object]:
    return [
        *("extract-features", tiny["extract"], "--encoder", trained),
        *("--boxes", ava / "boxes.csv"),
    ]


def evaluate(ava: Path, trained: Path) -> list[object]:
    return [
        *("eval-ava", "--checkpoint", trained, "--boxes", ava / "boxes.csv"),
        *("--annotations", ava / "train.csv", "--labels", ava / "action_list.pbtxt"),
    ]


CUT = [{"origin_s": 900.0, "videos": 1, "evidence": "15-minute cuts"}]
FILM = [{"origin_s": 0.0, "videos": 1, "evidence": "whole films"}]


def test_training_tells_the_origin_in_its_result_and_events(
    cli: Cli, ava: Path, tiny: dict[str, Path], trained: Path, tmp_path: Path
) -> None:
    (event,) = [e for e in read_events(trained) if e["event"] == "time origins"]
    assert event["found"] == "time origin 900 s in 1 video (15-minute cuts)"
    for kind, origins in (("cut", CUT), ("film", FILM)):
        out = tmp_path / kind
        result = cli(*finetune(ava, tiny), "--videos", ava / kind, "--out", out, "--json", "-")
        told = json.loads(result.stdout)
        assert told["time_origins"] == origins
        assert (told["keyframes"], told["lost_keyframes"]) == (4, 0)
    logs = [(tmp_path / kind / "log.jsonl").read_text().splitlines() for kind in ("cut", "film")]
    losses = [[json.loads(line)["loss"] for line in log] for log in logs]
    assert losses[0] == losses[1]  # the same pictures


def test_a_stated_origin_is_part_of_what_a_run_is_known_by(
    cli: Cli, ava: Path, tiny: dict[str, Path], trained: Path, tmp_path: Path
) -> None:
    # A found one is not: a run that was begun without the option goes on.
    assert '"time_origin"' not in (trained / "run.json").read_text()
    shutil.copytree(trained, tmp_path / "run")
    command = (*finetune(ava, tiny), "--videos", ava / "cut", "--out", tmp_path / "run")
    assert cli(*command).exit_code == 0
    result = cli(*command, "--time-origin", 898)
    assert result.exit_code == 2
    assert 'data.time_origin: null there, "898" asked' in result.stderr


def test_a_bank_is_the_same_from_film_and_cut_and_keeps_the_annotations_times(
    cli: Cli, ava: Path, tiny: dict[str, Path], trained: Path, tmp_path: Path
) -> None:
    rows = {}
    for kind, origins in (("cut", CUT), ("film", FILM)):
        out = tmp_path / kind
        videos = ("--videos", ava / kind)
        result = cli(*extract(ava, tiny, trained), *videos, "--out", out, "--json", "-")
        told = json.loads(result.stdout)
        assert told["time_origins"] == origins
        assert (told["rows"], told["failed_keyframes"]) == (4, 0)
        table = pq.read_table(out / "shard-00000.parquet")
        features = np.load(out / "shard-00000.npy")
        rows[kind] = (table["second"].to_pylist(), features)
        window = Bank.open(out).window(
            "movie", 1500.0, before_s=1, after_s=1, per_step=1, pick="top", seed=0
        )
        assert window.mask.any()
    assert rows["cut"][0] == rows["film"][0] == list(SECONDS)
    assert np.array_equal(rows["cut"][1], rows["film"][1])
    assert len(np.unique(rows["cut"][1], axis=0)) == 4


def test_a_score_is_the_same_from_film_and_cut(cli: Cli, ava: Path, trained: Path) -> None:
    predictions = []
    for kind, origins in (("cut", CUT), ("film", FILM)):
        result = cli(*evaluate(ava, trained), "--videos", ava / kind, "--json", "-")
        told = json.loads(result.stdout)
        assert told["time_origins"] == origins
        assert (told["expected"], told["evaluated"], told["failed"]) == (4, 4, 0)
        score = json.loads((trained / "eval-train" / "score.json").read_text())
        assert score["time_origins"] == origins
        predictions.append(Path(told["predictions"]).read_text())
    assert predictions[0] == predictions[1]
    assert "movie,1798," in predictions[0]
    shown = cli(*evaluate(ava, trained), "--videos", ava / "cut").stdout
    assert "time origin 900 s in 1 video (15-minute cuts)" in shown
    shown = cli(*evaluate(ava, trained), "--videos", ava / "film").stdout
    assert "time origin 0 s in 1 video (whole films)" in shown


def test_a_cut_from_elsewhere_is_refused_until_its_origin_is_stated(
    refused: Refused, cli: Cli, ava: Path, tiny: dict[str, Path], trained: Path, tmp_path: Path
) -> None:
    (tmp_path / "late").mkdir()
    write_video(tmp_path / "late" / "movie.mp4", pictures(890, 1810), 1, crf=0)
    for command in (
        [*finetune(ava, tiny), "--out", "run"],
        [*finetune(ava, tiny), "--out", "run", "--dry-run"],
        [*extract(ava, tiny, trained), "--out", "bank"],
        evaluate(ava, trained),
    ):
        told = refused(*command, "--videos", "late")
        assert "movie is 920.00 s long; of its 4 key frames from 902 to 1798 s it holds " in told
        assert "1 counted from 0, 4 from 900" in told
        told = refused(*command, "--videos", "late", "--time-origin", "x")
        assert "--time-origin: expected auto, a number of seconds, or a csv file" in told
    (tmp_path / "origins.csv").write_text("movie,890\n")
    banks: list[NDArray[np.float16]] = []
    for more in (("--time-origin", 890), ("--time-origin", tmp_path / "origins.csv")):
        out = tmp_path / f"bank{len(banks)}"
        videos = ("--videos", tmp_path / "late", "--out", out)
        result = cli(*extract(ava, tiny, trained), *videos, *more, "--json", "-")
        assert json.loads(result.stdout)["time_origins"] == [
            {"origin_s": 890.0, "videos": 1, "evidence": "as stated"}
        ]
        banks.append(np.load(out / "shard-00000.npy"))
    cli(*extract(ava, tiny, trained), "--videos", ava / "film", "--out", tmp_path / "film")
    assert np.array_equal(banks[0], np.load(tmp_path / "film" / "shard-00000.npy"))
    assert np.array_equal(banks[0], banks[1])


def test_the_first_seconds_of_a_cut_from_elsewhere_are_refused_though_they_fit_from_0(
    refused: Refused, ava: Path, tiny: dict[str, Path], tmp_path: Path
) -> None:
    # Seconds 890 to 1809 of the film, key frames 902 to 910: an origin of 0 would train on the
    # pictures of seconds 1792 to 1800, and own data beside it make that no better.
    box = "0.1,0.1,0.6,0.9,1,7"
    (tmp_path / "early.csv").write_text(f"movie,0902,{box}\nmovie,0910,{box}\nmine,0001,{box}\n")
    (tmp_path / "late").mkdir()
    write_video(tmp_path / "late" / "movie.mp4", pictures(890, 1810), 1, crf=0)
    write_video(tmp_path / "late" / "mine.mp4", pictures(0, 10), 1, crf=0)
    given = ("--annotations", "early.csv", "--labels", ava / "action_list.pbtxt")
    train = ("finetune", tiny["detection"], "--encoder", "random", "--videos", "late", *given)
    draw = ("sample", "late", "--recipe", tiny["detection"], *given, "--out", "sheet.png")
    for command in ((*train, "--out", "run"), (*train, "--out", "run", "--dry-run"), draw):
        told = refused(*command)
        assert "movie is 920.00 s long; of its 2 key frames from 902 to 910 s it holds" in told
        assert "2 counted from 0, 2 from 900" in told
        assert "mine" not in told
    # A csv of origins that says nothing of any annotated video, or of one that nobody knows.
    for rows, message in (
        ("film,890\n", "the csv file names no annotated video:"),
        ("mine,0\nmovy,890\n", "videos that are neither annotated nor given:"),
    ):
        (tmp_path / "origins.csv").write_text(rows)
        for command in ((*train, "--out", "run"), (*train, "--out", "run", "--dry-run"), draw):
            told = refused(*command, "--time-origin", "origins.csv")
            assert message in told
    assert "movy; did you mean 'movie'?" in told


def test_a_sheet_is_drawn_by_the_origin_of_training(
    cli: Cli, refused: Refused, ava: Path, tiny: dict[str, Path], tmp_path: Path
) -> None:
    given = ("--annotations", ava / "train.csv", "--labels", ava / "action_list.pbtxt")
    draw = ("--recipe", tiny["detection"], *given, "--out", "s.png")
    for kind, origins in (("cut", CUT), ("film", FILM)):
        result = cli("sample", ava / kind, *draw[:-1], tmp_path / f"{kind}.png", "--json", "-")
        assert json.loads(result.stdout)["time_origins"] == origins
    shown = cli("sample", ava / "film", *draw[:-1], tmp_path / "film.png").stdout
    assert "time origin 0 s in 1 video (whole films)" in shown
    # Training would take a file that was cut off for what all others are; few do not say that.
    rows = [VideoFacts(f"/d/{n}.mp4", duration_s=901.0) for n in "ab"]
    rows[1] = replace(rows[1], duration_s=700.0, cut_off=True)
    write_index(tmp_path / "torn.parquet", rows)
    text = "".join(f"{n},0902,0.1,0.1,0.6,0.9,1,7\n" for n in "ab")
    (tmp_path / "two.csv").write_text(text)
    told = refused(
        *("sample", "torn.parquet", "--recipe", tiny["detection"], "--annotations", "two.csv"),
        *("--out", "s.png"),
    )
    assert "cut off, so that their key frames count as those of all other videos" in told


def test_extracted_frames_are_trained_on_as_they_lie(
    cli: Cli, ava: Path, tiny: dict[str, Path], tmp_path: Path
) -> None:
    # As mmaction2 has them, at 1 a second, which a file beside them says.
    folder = tmp_path / "rawframes" / "movie"
    folder.mkdir(parents=True)
    for number, picture in enumerate(pictures(900, 1801), start=1):
        Image.fromarray(picture).save(folder / f"img_{number:05d}.jpg")
    (folder.parent / "fps.txt").write_text("1")
    videos = ("--videos", f"frames:{folder.parent}")
    result = cli(*finetune(ava, tiny), *videos, "--out", tmp_path / "run", "--json", "-")
    assert json.loads(result.stdout)["time_origins"] == CUT
    dry = cli(*finetune(ava, tiny), *videos, "--out", tmp_path / "dry", "--dry-run")
    assert json.loads(dry.stdout)["samples"] == 4


# --- real pixels


def test_real_annotations_read_by_their_own_clock_and_by_a_stated_one(
    cli: Cli, shared_data: Path, tiny: dict[str, Path], tmp_path: Path
) -> None:
    duo = shared_data / "jhmdb_duo_dev"
    if not duo.is_dir():
        pytest.skip(f"no {duo}")
    (tmp_path / "videos").mkdir()
    rows = (duo / "val.csv").read_text().splitlines()
    for name in {row.split(",")[0] for row in rows}:
        shutil.copy(duo / "videos" / f"{name}.mp4", tmp_path / "videos")
    moved = []
    for row in rows:
        video, second, rest = row.split(",", 2)
        moved.append(f"{video},{int(second) + 1000:04d},{rest}\n")
    (tmp_path / "moved.csv").write_text("".join(moved))
    losses = []
    for path, origin in ((duo / "val.csv", "auto"), (tmp_path / "moved.csv", "1000")):
        result = cli(
            *("finetune", tiny["detection"], "--encoder", "random"),
            *("--videos", tmp_path / "videos", "--annotations", path),
            *("--labels", duo / "action_list.pbtxt", "--out", tmp_path / origin),
            *("--time-origin", origin, "--json", "-"),
        )
        told = json.loads(result.stdout)
        assert told["lost_keyframes"] == 0
        losses.append(told["loss"])
    assert losses[0] == losses[1]
