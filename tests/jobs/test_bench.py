"""Two sides timed in turn: the arithmetic, and the real thing on few samples."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest
from typer.testing import Result

from vidssl.jobs.bench import compared, in_turn, render
from vidssl.video.probe import probe

Cli = Callable[..., Result]


@pytest.fixture(scope="module")
def videos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("bench") / "videos"
    render(folder, videos=2, seconds=4, size=(64, 96))
    return folder


def test_the_ratio_is_that_of_the_medians() -> None:
    # Medians 2, 4 and 1 s for 12 samples: 6, 3 and 12 samples/s.
    times_s = {"ours": [2.0, 1.0, 9.0], "other": [4.0, 4.0, 4.0], "limit": [1.0, 1.0, 5.0]}
    found = compared("name", times_s, "ours", "other", "limit", 12)
    assert (found.ours, found.other, found.limit) == (6.0, 3.0, 12.0)
    assert (found.ratio, found.share_of_limit) == (2.0, 0.5)
    assert found.times_s == times_s


def test_sides_take_turns() -> None:
    order: list[str] = []
    sides = {name: lambda name=name: order.append(name) for name in ("a", "b")}
    times_s = in_turn(sides, rounds=3)
    assert order == ["a", "b"] * 3
    assert {name: len(taken) for name, taken in times_s.items()} == {"a": 3, "b": 3}
    assert in_turn({"c": lambda: 7.0}, 2, clocked=True) == {"c": [7.0, 7.0]}


def test_rendered_videos_are_as_long_and_as_large_as_asked(videos: Path) -> None:
    facts = [probe(str(path)) for path in sorted(videos.iterdir())]
    assert [(f.frames, f.width, f.height, f.codec) for f in facts] == [(120, 96, 64, "h264")] * 2


@pytest.mark.parametrize(
    ("what", "names"),
    [
        ("decode", {"pyav against pyav, every frame"}),
        (
            "loader",
            {
                "loader against decoding alone",
                "without augmentation",
                "two workers against one",
                "decoding alone, two workers against one",
            },
        ),
    ],
)
def test_each_measurement_has_its_two_sides_the_ratio_and_the_raw_times(
    what: str, names: set[str], cli: Cli, videos: Path
) -> None:
    result = cli(*("bench", what, "--videos", videos, "--samples", 2, "--rounds", 2, "--json", "-"))
    assert result.exit_code == 0, result.output
    found = json.loads(result.stdout)
    assert (found["samples"], found["rounds"]) == (2, 2)
    assert names <= {one["name"] for one in found["measurements"]}
    for one in found["measurements"]:
        assert one["ratio"] == pytest.approx(one["ours"] / one["other"])
        assert one["share_of_limit"] == pytest.approx(one["ours"] / one["limit"])
        assert all(len(taken) == 2 and min(taken) > 0 for taken in one["times_s"].values())


def test_nothing_to_read_is_refused(refused: Callable[..., str]) -> None:
    assert "no such file" in refused("bench", "decode", "--videos", "nowhere.mp4")


def test_scoring_is_measured_and_both_sides_agree(cli: Cli) -> None:
    result = cli("bench", "eval", "--rows", 3000, "--rounds", 1, "--json", "-")
    told = json.loads(result.stdout)
    assert told["agree"] is True
    assert 0.3 < told["mean_ap"] < 1
    assert told["rows"] % 60 == 0
    (found,) = told["measurements"]
    assert found["unit"] == "rows/s"
    assert set(found["times_s"]) == {"vidssl", "plain", "reading"}
    assert "both have one score" in cli("bench", "eval", "--rows", 600, "--rounds", 1).stdout


def test_a_bank_s_windows_are_measured(cli: Cli, videos: Path, bank: Path) -> None:
    command = ("bench", "bank", "--videos", videos, "--seconds", 3, "--rounds", 1, "--bank", bank)
    told = json.loads(cli(*command, "--json", "-").stdout)
    assert told["clips"] == 3  # seconds 1 to 3 of the first video
    assert told["measurements"][0]["unit"] == "clips/s"
    assert told["serving"]["rows"] > 0
    assert "windows/s" in cli(*command).stdout
    assert cli("bench", "bank", "--bank", videos).exit_code == 2
