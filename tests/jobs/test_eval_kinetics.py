"""``vidssl eval-kinetics``: what is right scores 100 %, what is wrong or lost counts as wrong."""

import csv
import json
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from sklearn.metrics import average_precision_score
from typer.testing import Result

from vidssl.augment.recognition import RecognitionConfig, side_crops
from vidssl.augment.views import normalise
from vidssl.backbones import slow, slowfast
from vidssl.errors import Interrupted, SourceError
from vidssl.jobs import eval_kinetics as job
from vidssl.jobs import index as index_job
from vidssl.jobs._classifier import load_classifier, save_classifier
from vidssl.jobs._tested import expected_of, source_of
from vidssl.recognition import scores as files
from vidssl.recognition.classifier import Classifier
from vidssl.video.reader import open_reader
from vidssl.video.sampling import clip_times
from vidssl.video.write import write_video

Cli = Callable[..., Result]
Refused = Callable[..., str]
NAMES = ["dark", "grey", "light"]
LEVELS = {"dark": 40, "grey": 128, "light": 216}
BACKBONE = slow.Config(width=8, depths=(1, 1, 1, 1), frames=4, stride=2)
SMALL = ("--short-side", 64, "--crop", 64, "--workers", 1)


def write_level(path: Path, level: int, frames: int = 9) -> Path:
    """Write a video of one brightness, with a stripe that moves."""
    pictures = np.full((frames, 64, 96, 3), level, np.uint8)
    for number, picture in enumerate(pictures):
        picture[:, 10 * number : 10 * number + 4] += 20
    write_video(path, pictures, 10)
    return path


def save(folder: Path, labels: Sequence[str] | None, facts: dict[str, object]) -> Path:
    """Save a classifier that tells the three levels apart, by the usual order of their names."""
    torch.manual_seed(0)
    network = Classifier(BACKBONE.build(), num_classes=3).eval()
    levels = torch.tensor([[LEVELS[name] + d] for name in NAMES for d in (0.0, 5.0)]) / 255
    clips = normalise(levels.view(6, 1, 1, 1, 1).expand(6, 3, 4, 64, 64).clone())
    with torch.no_grad():
        features = network.encoder(clips)
        wanted = torch.eye(3).repeat_interleave(2, dim=0) * 8
        ones = torch.cat([features, torch.ones(6, 1)], dim=1)
        solved = torch.linalg.lstsq(ones, wanted, driver="gelsd").solution
        network.classifier.weight.copy_(solved[:-1].T)
        network.classifier.bias.copy_(solved[-1])
    save_classifier(folder, network, BACKBONE, labels=labels, facts=facts)
    return folder


@pytest.fixture(scope="module")
def videos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Nine videos in folders of their class."""
    folder = tmp_path_factory.mktemp("videos")
    for name, level in LEVELS.items():
        (folder / name).mkdir()
        for number in range(3):
            write_level(folder / name / f"{name}{number}.mp4", level + 2 * number)
    return folder


@pytest.fixture(scope="module")
def network(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A classifier that knows the three levels, trained on crops of 32 as its card has it."""
    return save(tmp_path_factory.mktemp("network"), NAMES, {"geometry": {"crop_px": 32}})


@pytest.fixture
def evaluate(cli: Cli, network: Path, tmp_path: Path) -> Callable[..., dict[str, object]]:
    """Score the classifier, with views of 64 pixels, and return the JSON."""

    def run(videos: object, *options: object, out: str = "out") -> dict[str, object]:
        result = cli(
            *("eval-kinetics", "--checkpoint", network, "--videos", videos, *SMALL),
            *("--views", "2x3", "--out", tmp_path / out, "--json", "-", *options),
        )
        assert result.exit_code == 0, result.output
        return dict(json.loads(result.stdout))

    return run


def write_list(path: Path, rows: Sequence[tuple[object, str]]) -> Path:
    with path.open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["path", "label"])
        writer.writerows(rows)
    return path


def all_of(videos: Path) -> list[tuple[object, str]]:
    return [(path, path.parent.name) for path in sorted(videos.rglob("*.mp4"))]


# --- what scores how much


def test_a_network_that_knows_the_classes_scores_100_and_wrong_labels_score_chance(
    evaluate: Callable[..., dict[str, object]], videos: Path, tmp_path: Path
) -> None:
    told = evaluate(videos)
    assert (told["top1"], told["class_accuracy"]) == (1.0, 1.0)
    assert (told["expected"], told["evaluated"], told["failed"]) == (9, 9, 0)
    assert "top5" not in told  # of three classes it would always be right
    # Of each class one video has each label: a third is right, whatever is seen.
    shuffled = [(path, NAMES[n % 3]) for n, (path, _) in enumerate(all_of(videos))]
    told = evaluate(write_list(tmp_path / "list.csv", shuffled), "--top", "1,2", out="other")
    assert told["top1"] == pytest.approx(1 / 3)
    assert told["class_accuracy"] == pytest.approx(1 / 3)
    assert told["top2"] == pytest.approx(2 / 3, abs=0.12)


def test_videos_that_fail_count_as_wrong_and_too_many_of_them_end_with_3(
    cli: Cli, network: Path, videos: Path, tmp_path: Path
) -> None:
    (tmp_path / "broken.mp4").write_bytes(b"no video")
    rows = [*all_of(videos), (tmp_path / "broken.mp4", "dark"), (tmp_path / "none.mp4", "light")]
    command = [
        *("eval-kinetics", "--checkpoint", network, *SMALL, "--views", "1x1"),
        *("--videos", write_list(tmp_path / "list.csv", rows), "--out", tmp_path / "out"),
    ]
    result = cli(*command, "--json", tmp_path / "score.json")
    assert result.exit_code == 3
    assert "2 of 11 videos failed, more than 1.00%" in result.stderr
    assert "videos: 11 expected, 9 evaluated, 2 failed (counted as wrong)" in result.stdout
    told = json.loads((tmp_path / "score.json").read_text())
    assert told["top1"] == pytest.approx(9 / 11)
    assert told["over_evaluated"]["top"]["1"] == 1.0
    # 3 of 4, 3 of 3, 3 of 4.
    assert told["class_accuracy"] == pytest.approx((3 / 4 + 1 + 3 / 4) / 3)
    assert set(told["failures"]) == {"broken", "none"}
    assert told["failures"]["none"] == "no such video"
    assert cli(*command, "--max-failed", 0.2).exit_code == 0


def test_the_scores_of_views_are_those_of_a_loop(
    evaluate: Callable[..., dict[str, object]], network: Path, videos: Path, tmp_path: Path
) -> None:
    told = evaluate(videos)
    assert told["protocol"]["pooling"] == "windows of 1 cells"  # type: ignore[index]
    saved = files.read(tmp_path / "out" / "scores.parquet")
    classifier = load_classifier(network).classifier.eval()
    config = RecognitionConfig(test_short_side_px=64, test_crop_px=64)
    for name, path in ((f.stem, f) for f in sorted(videos.rglob("*1.mp4"))):
        rows = []
        latest_s = 0.9 - 3 * 2 / 30 - 0.001  # of 9 frames at 10 a second
        for start_s in (0.0, latest_s / 2):
            with open_reader(str(path)) as reader:
                clip = reader.frames_at(clip_times(start_s, 4, 2), 64)
            for view in side_crops(torch.from_numpy(clip.frames), config):
                with torch.inference_mode():
                    map_ = classifier.encoder.maps(view[None])[0].mean(dim=1)
                    cells = [classifier.classifier(map_[:, y, x]) for y in (0, 1) for x in (0, 1)]
                rows.append(torch.stack([cell.softmax(dim=0) for cell in cells]).mean(dim=0))
        expected = torch.stack(rows).mean(dim=0).numpy()
        found = saved.scores[saved.ids.index(name)]
        assert found == pytest.approx(expected, abs=1e-5)


def test_two_processes_score_an_odd_number_of_videos_to_the_last_bit_as_one(
    in_two_processes: Callable[..., list[str]], network: Path, videos: Path, tmp_path: Path
) -> None:
    script = """
import sys
from pathlib import Path
import torch
torch.set_num_threads(1)
from vidssl.jobs.eval_kinetics import Overrides, Request, run
if __name__ == "__main__":
    network, videos, out, index = sys.argv[1:]
    how = Overrides(views="2x3", short_side_px=64, crop_px=64)
    result = run(Request(Path(network), videos, how, Path(out), Path(index), workers=0))
    print(result.evaluated, result.over_expected.top["1"])
"""
    index = tmp_path / "index.parquet"
    index_job.run(str(videos), index, workers=1)
    said = in_two_processes(script, network, videos, tmp_path / "two", index)
    assert [text.split() for text in said] == [["9", "1.0"]] * 2
    how = job.Overrides(views="2x3", short_side_px=64, crop_px=64)
    job.run(job.Request(network, str(videos), how, tmp_path / "one", workers=0))
    one, two = (files.read(tmp_path / n / "scores.parquet") for n in ("one", "two"))
    assert one.ids == two.ids
    assert one.scores.tobytes() == two.scores.tobytes()
    assert one.about == two.about
    assert sorted(path.name for path in (tmp_path / "two").iterdir()) == ["scores.parquet"]


# --- files that are there already


def test_what_was_stopped_goes_on_and_ends_as_if_it_had_not(
    network: Path, videos: Path, tmp_path: Path
) -> None:
    how = job.Overrides(views="1x1", short_side_px=64, crop_px=64)
    request = job.Request(network, str(videos), how, tmp_path / "out", workers=0)

    def stop(what: str, done: int, total: int) -> None:
        if what == "scoring videos" and done == 4:
            raise KeyboardInterrupt

    with pytest.raises(Interrupted, match="5 of 9 videos are to do"):
        job.run(request, progress=stop)
    seen: list[int] = []
    stopped = job.run(request, progress=lambda what, done, _: seen.append(done))
    assert [done for done in seen if done > 4][-5:] == [5, 6, 7, 8, 9]
    assert 1 not in seen[seen.index(5) :]
    whole = job.run(job.Request(network, str(videos), how, tmp_path / "whole", workers=0))
    one, two = (files.read(tmp_path / name / "scores.parquet") for name in ("out", "whole"))
    assert one.scores.tobytes() == two.scores.tobytes()
    assert stopped.over_expected == whole.over_expected
    again: list[str] = []
    job.run(request, progress=lambda what, done, total: again.append(what))
    assert again == []  # nothing was looked at anew


def test_scores_of_another_protocol_are_not_overwritten(
    evaluate: Callable[..., dict[str, object]],
    cli: Cli,
    network: Path,
    videos: Path,
    tmp_path: Path,
) -> None:
    evaluate(videos)
    before = (tmp_path / "out" / "scores.parquet").read_bytes()
    result = cli(
        *("eval-kinetics", "--checkpoint", network, "--videos", videos, *SMALL),
        *("--views", "1x3", "--out", tmp_path / "out"),
    )
    assert result.exit_code == 2
    assert "views: 2x3 there, 1x3 here" in result.stderr
    assert "--out" in result.stderr
    assert (tmp_path / "out" / "scores.parquet").read_bytes() == before


def test_saved_scores_are_scored_again_alone_together_and_with_other_labels(
    evaluate: Callable[..., dict[str, object]], cli: Cli, videos: Path, tmp_path: Path
) -> None:
    told = evaluate(videos, "--csv", tmp_path / "classes.csv", "--confusion")
    assert told["confusion"] == [[0, 0, 3], [1, 1, 3], [2, 2, 3]]
    rows = (tmp_path / "classes.csv").read_text().splitlines()
    assert rows[:2] == ["id,name,videos,evaluated,top1", "0,dark,3,3,1.0"]
    saved = tmp_path / "out" / "scores.parquet"
    again = json.loads(cli("eval-kinetics", "--scores", saved, "--json", "-").stdout)
    assert {**again, "confusion": None} == {**told, "confusion": None, "notes": again["notes"]}
    both = json.loads(
        cli(
            *("eval-kinetics", "--scores", saved, "--scores", saved, "--weights", "2,1"),
            *("--json", "-"),
        ).stdout
    )
    assert both["top1"] == 1.0
    assert both["protocol"]["ensemble"] == "weighted mean of 2"
    assert [part["weight"] for part in both["parts"]] == pytest.approx([2 / 3, 1 / 3])
    # One label is another, and one video more is expected than has scores.
    rows_of = all_of(videos)
    rows_of[0] = (rows_of[0][0], "light")
    rows_of.append((tmp_path / "more.mp4", "grey"))
    listed = write_list(tmp_path / "list.csv", rows_of)
    result = cli(
        *("eval-kinetics", "--scores", saved, "--videos", listed),
        *("--json", "-", "--max-failed", 0.5),
    )
    told = json.loads(result.stdout)
    assert told["top1"] == pytest.approx(8 / 10)
    assert told["failures"] == {"more": "not among the scores of scores.parquet"}


def test_scores_are_compared_only_if_they_were_made_alike(
    evaluate: Callable[..., dict[str, object]], cli: Cli, videos: Path, tmp_path: Path
) -> None:
    (tmp_path / "a.json").write_text(json.dumps(evaluate(videos)))
    saved = tmp_path / "out" / "scores.parquet"
    alike = cli("eval-kinetics", "--scores", saved, "--compare", tmp_path / "a.json")
    assert "top1: 100.00, in a.json 100.00\n" in alike.stdout
    assert "both were scored alike" in alike.stdout
    evaluate(videos, "--pooled", out="pooled")
    other = tmp_path / "pooled" / "scores.parquet"
    differ = cli("eval-kinetics", "--scores", other, "--compare", tmp_path / "a.json")
    assert "NOT COMPARABLE" in differ.stdout
    assert "pooling: windows of 1 cells and all cells" in differ.stdout


# --- classes


def test_classes_go_by_their_names_in_any_order(cli: Cli, videos: Path, tmp_path: Path) -> None:
    # The network calls its columns dark, grey, light; the list numbers light 0 and dark 1.
    folder = save(tmp_path / "net", NAMES, {})
    names = tmp_path / "classes.txt"
    names.write_text("light\ndark\ngrey\n")
    numbers = {"light": 0, "dark": 1, "grey": 2}
    lines = [f"{Path(str(p)).relative_to(videos)} {numbers[name]}" for p, name in all_of(videos)]
    (tmp_path / "val_list.txt").write_text("\n".join(lines))
    source = f"kinetics:{videos},list={tmp_path / 'val_list.txt'},classes={names}"
    result = cli(
        *("eval-kinetics", "--checkpoint", folder, "--videos", source, *SMALL),
        *("--views", "1x1", "--json", "-"),
    )
    assert json.loads(result.stdout)["top1"] == 1.0


def test_other_classes_than_the_networks_are_refused(
    refused: Refused, network: Path, videos: Path, tmp_path: Path
) -> None:
    rows = [(path, name.replace("grey", "gray")) for path, name in all_of(videos)]
    path = write_list(tmp_path / "list.csv", rows)
    said = refused("eval-kinetics", "--checkpoint", network, "--videos", path)
    assert "'gray' is none of the network's 3 classes; did you mean 'grey'?" in said
    numbered = write_list(tmp_path / "numbers.csv", [(p, "3") for p, _ in rows])
    said = refused("eval-kinetics", "--checkpoint", network, "--videos", numbered)
    assert "has 3 classes, 0 to 2 (dark to light); listing has others" in said
    assert "label 3, of 9 videos" in said
    rows = [(p, str(number)) for number, (p, _) in enumerate(all_of(videos))]
    said = refused(
        *("eval-kinetics", "--checkpoint", network),
        *("--videos", write_list(tmp_path / "more.csv", rows)),
    )
    told = [line.strip() for line in said.splitlines() if ", of 1 videos" in line]
    assert told == [f"label {number}, of 1 videos" for number in range(3, 9)]


def test_numbers_of_a_network_without_names_need_as_many_classes(
    cli: Cli, refused: Refused, videos: Path, tmp_path: Path
) -> None:
    folder = save(tmp_path / "net", None, {})
    rows = [row for row in all_of(videos) if row[1] != "light"]
    path = write_list(tmp_path / "list.csv", rows)
    said = refused("eval-kinetics", "--checkpoint", folder, "--videos", path)
    assert "has 3 classes without names, listing 2 with names" in said
    numbered = [(path, str(NAMES.index(name))) for path, name in rows]
    result = cli(
        *("eval-kinetics", "--checkpoint", folder, *SMALL, "--views", "1x1", "--json", "-"),
        *("--videos", write_list(tmp_path / "numbers.csv", numbered)),
    )
    told = json.loads(result.stdout)
    assert told["top1"] == 1.0
    assert "1 of 3 classes have no video in the list" in told["notes"]


def test_numbers_for_a_network_with_names_are_places_in_its_classes_and_that_is_told(
    evaluate: Callable[..., dict[str, object]], videos: Path, tmp_path: Path
) -> None:
    rows = [(path, str(NAMES.index(name))) for path, name in all_of(videos) if name != "grey"]
    told = evaluate(write_list(tmp_path / "numbers.csv", rows), "--top", "1")
    assert told["top1"] == 1.0
    assert [one["name"] for one in told["classes"]] == NAMES  # type: ignore[attr-defined]
    notes = told["notes"]
    assert isinstance(notes, list)
    assert (
        "labels are numbers, taken as places in the network's classes: "
        "0 is dark, 1 is grey, 2 is light"
    ) in notes
    assert "1 of 3 classes have no video in the list: grey" in notes
    # the same of saved scores
    saved = tmp_path / "out" / "scores.parquet"
    again = job.rescore([saved], videos=str(tmp_path / "numbers.csv"))
    assert again.over_expected.top["1"] == 1.0
    assert {*notes} <= {*again.notes}


def test_classes_that_are_called_by_numbers_are_not_taken_for_places(
    cli: Cli, refused: Refused, videos: Path, tmp_path: Path
) -> None:
    # As from class folders 1, 10 and 2: the first column is called 1, the last 2.
    folder = save(tmp_path / "net", ["1", "10", "2"], {})
    called = {"dark": "1", "grey": "10", "light": "2"}
    rows = [(path, called[name]) for path, name in all_of(videos)]
    command = ("eval-kinetics", "--checkpoint", folder, *SMALL, "--views", "1x1", "--json", "-")
    result = cli(*command, "--videos", write_list(tmp_path / "numbers.csv", rows))
    told = json.loads(result.stdout)
    assert told["top1"] == 1.0
    assert "classes are called by numbers" in told["notes"][0]
    places = [(path, str(NAMES.index(name))) for path, name in all_of(videos)]
    said = refused(*command, "--videos", write_list(tmp_path / "places.csv", places))
    assert "'0' is none of the network's 3 classes" in said


def test_videos_without_labels_or_a_classifier_are_refused(
    refused: Refused, network: Path, videos: Path, tmp_path: Path
) -> None:
    said = refused("eval-kinetics", "--checkpoint", network, "--videos", videos / "dark")
    assert "the videos have no labels; expected a csv with columns path and label" in said
    said = refused("eval-kinetics", "--checkpoint", tmp_path / "net", "--videos", videos)
    assert "net: no such file" in said
    assert "give either --checkpoint" in refused("eval-kinetics", "--videos", videos)
    both = ("eval-kinetics", "--checkpoint", network, "--scores", videos)
    assert "found --checkpoint, --scores" in refused(*both)
    assert "--verb and --noun go together" in refused("eval-kinetics", "--verb", tmp_path / "v")
    said = refused("eval-kinetics", "--scores", tmp_path / "s", "--prior", tmp_path / "p")
    assert "--prior: of no use with --scores" in said
    saved = ("eval-kinetics", "--scores", tmp_path / "s")
    assert "--top: expected numbers from 1 as 1,5" in refused(*saved, "--top", "0,1")
    assert "--weights: expected numbers as 1,0.5" in refused(*saved, "--weights", "a")
    said = refused("eval-kinetics", "--checkpoint", network, "--videos", videos, "--views", "10")
    assert "--views: expected CLIPSxCROPS" in said


def test_clips_that_the_network_cannot_take_are_refused(
    refused: Refused, videos: Path, tmp_path: Path
) -> None:
    torch.manual_seed(0)
    backbone = slowfast.Config(width=8, depths=(1, 1, 1, 1), frames=4, alpha=2)
    network = Classifier(backbone.build(), num_classes=3)
    facts = {"test": {"crop_px": 64, "indexing": "linspaced"}}
    save_classifier(tmp_path / "odd", network, backbone, labels=NAMES, facts=facts)
    save_classifier(tmp_path / "net", network, backbone, labels=NAMES, facts={})
    said = refused("eval-kinetics", "--checkpoint", tmp_path / "odd", "--videos", videos)
    assert "the classifier's card has a test.indexing that is none" in said
    command = ("eval-kinetics", "--checkpoint", tmp_path / "net", "--videos", videos)
    assert "frames 5 is not a multiple of alpha 2" in refused(*command, "--frames", 5)
    said = refused(*command, "--crop", 300, "--short-side", 256)
    assert "--crop 300 is longer than the short side, 256" in said


def test_a_list_of_which_nothing_can_be_read_leaves_nothing_behind(
    refused: Refused, network: Path, videos: Path, tmp_path: Path
) -> None:
    (tmp_path / "broken.mp4").write_bytes(b"no video")
    path = write_list(tmp_path / "list.csv", [(tmp_path / "broken.mp4", "dark")])
    out = ("--out", tmp_path / "out")
    said = refused("eval-kinetics", "--checkpoint", network, "--videos", path, *out)
    assert "none of the 1 videos can be decoded" in said
    index_job.run(str(videos / "dark"), tmp_path / "index.parquet", workers=1)
    grey = write_list(tmp_path / "grey.csv", [row for row in all_of(videos) if row[1] == "grey"])
    command = ("eval-kinetics", "--checkpoint", network, "--videos", grey, *out)
    said = refused(*command, "--index", tmp_path / "index.parquet")
    assert "none of the 3 videos can be scored" in said
    assert "grey0: not in the index" in said


def test_imported_weights_get_the_clips_that_they_were_trained_on(tmp_path: Path) -> None:
    geometry = {"frames": 4, "stride": 2, "crop_px": 224, "mean": [0.5, 0.45, 0.4], "std": None}
    facts = {"geometry": geometry, "published": {"sha256": "0"}}
    trained = load_classifier(save(tmp_path, None, facts))
    protocol, notes = job.protocol_of(trained, job.Overrides(), has_many=False)
    # 224 pixels were 7 cells of 32; frames lie as PySlowFast picks them.
    assert (protocol.window, protocol.crop_px, protocol.indexing) == (7, 256, "linspace")
    assert (protocol.clips, protocol.crops) == (10, 3)
    assert "mean 0.500 0.450 0.400 there" in notes[0]
    trained = load_classifier(save(tmp_path / "bare", None, {}))
    protocol, notes = job.protocol_of(trained, job.Overrides(), has_many=True)
    assert (protocol.window, protocol.indexing, protocol.activation) == (None, "stride", "sigmoid")
    assert "the crop of the training is not known" in notes[0]


# --- published sets


def test_of_a_set_with_splits_the_test_part_of_the_named_split_is_scored(
    cli: Cli, network: Path, tmp_path: Path
) -> None:
    root, lists = tmp_path / "hmdb", tmp_path / "hmdb" / "splits"
    lists.mkdir(parents=True)
    for name in NAMES:
        (root / name).mkdir()
        for number in (1, 2):
            write_level(root / name / f"{name}{number}.mp4", LEVELS[name])
        for split, parts in ((1, (1, 2)), (2, (2, 1)), (3, (2, 2))):
            text = "".join(f"{name}{n}.avi {part}\n" for n, part in zip((1, 2), parts, strict=True))
            (lists / f"{name}_test_split{split}.txt").write_text(text)
    ids = {
        split: [item.id for item in expected_of(f"hmdb51:{root},split={split},part=test").items]
        for split in (1, 2, 3)
    }
    assert [ids[1][0], ids[2][0], len(ids[3])] == ["dark/dark2", "dark/dark1", 6]
    result = cli(
        *("eval-kinetics", "--checkpoint", network, "--videos", f"hmdb51:{root},split=2", *SMALL),
        *("--views", "1x1", "--json", "-", "--out", tmp_path / "out"),
    )
    told = json.loads(result.stdout)
    assert (told["expected"], told["top1"]) == (3, 1.0)


def test_a_list_of_several_parts_is_not_scored_as_one(
    refused: Refused, network: Path, videos: Path, tmp_path: Path
) -> None:
    lines = ["label,youtube_id,time_start,time_end,split"]
    lines += [
        f"{name},{Path(str(path)).stem},0,1,{part}"
        for (path, name), part in zip(all_of(videos), ["train", "val", "test"] * 3, strict=True)
    ]
    (tmp_path / "k.csv").write_text("\n".join(lines))
    source = f"kinetics:{videos},list={tmp_path / 'k.csv'}"
    said = refused("eval-kinetics", "--checkpoint", network, "--videos", source)
    assert "several parts (test, train, val)" in said
    assert len(expected_of(f"{source},split=val").items) == 3


def test_charades_is_scored_by_the_precision_of_the_greatest_view(
    cli: Cli, videos: Path, tmp_path: Path
) -> None:
    root = tmp_path / "charades"
    root.mkdir()
    torch.manual_seed(1)
    network = Classifier(BACKBONE.build(), num_classes=4)
    torch.nn.init.normal_(network.classifier.weight, std=2.0)
    save_classifier(tmp_path / "net", network, BACKBONE, labels=None, facts={})
    actions = ["c000 0 1;c001 0.2 0.5", "c000 0 1", "", "c003 0 1;c000 0 1;c003 1 2"]
    lines = ["id,actions"]
    for number, action in enumerate(actions):
        write_level(root / f"V{number}.mp4", 40 + 50 * number)
        lines.append(f"V{number},{action}")
    lines.append("GONE,c001 0 1")
    (root / "Charades_v1_test.csv").write_text("\n".join(lines))
    result = cli(
        *("eval-kinetics", "--checkpoint", tmp_path / "net", "--videos", f"charades:{root}"),
        *(*SMALL, "--views", "2x3", "--json", "-", "--max-failed", 0.5),
    )
    told = json.loads(result.stdout)
    assert (told["expected"], told["evaluated"]) == (5, 4)
    assert told["protocol"]["activation"] == "sigmoid"
    assert told["protocol"]["over_views"] == "max"
    (path,) = (tmp_path / "net").rglob("scores.parquet")
    saved = files.read(path)
    truth = np.array([[1, 1, 0, 0], [1, 0, 0, 0], [0, 0, 0, 0], [1, 0, 0, 1]])
    ap = [average_precision_score(truth[:, k], saved.scores[:4, k]) for k in (0, 1, 3)]
    assert told["over_evaluated"]["mean_ap"] == pytest.approx(np.mean(ap))
    # The video that is gone has class 1, of which then only half can be found.
    assert told["mean_ap"] == pytest.approx(np.mean([ap[0], ap[1] / 2, ap[2]]))
    assert told["classes"][2]["ap"] is None
    assert told["intervals"]["mean_ap"]["videos"] == 5


def test_segments_of_a_video_are_scored_each_and_verbs_and_nouns_make_actions(
    cli: Cli, network: Path, tmp_path: Path
) -> None:
    root = tmp_path / "epic"
    root.mkdir()
    dark, light = (np.full((10, 64, 96, 3), level, np.uint8) for level in (40, 216))
    write_video(root / "P01_01.mp4", np.concatenate([dark, light]), 10)
    lines = ["narration_id,video_id,start_timestamp,stop_timestamp,verb_class,noun_class"]
    lines += ["a,P01_01,00:00:00.00,00:00:00.90,0,2", "b,P01_01,00:00:01.10,00:00:02.00,2,0"]
    lines += ["c,P01_01,00:00:07.00,00:00:08.00,1,1"]
    (root / "EPIC_validation.csv").write_text("\n".join(lines))
    told = {}
    for label in ("verb", "noun"):
        result = cli(
            *("eval-kinetics", "--checkpoint", network, *SMALL, "--views", "1x1", "--json", "-"),
            *("--videos", f"epic:{root},label={label}", "--out", tmp_path / label),
            *("--max-failed", 1),
        )
        told[label] = json.loads(result.stdout)
    assert told["verb"]["over_evaluated"]["top"]["1"] == 1.0
    assert told["noun"]["over_evaluated"]["top"]["1"] == 0.0
    assert told["verb"]["failures"] == {"c": "begins at 7 s, and the video ends at 2.00 s"}
    # Seen are dark (0) and light (2): of all pairs (0, 0) and (2, 2) are the best, and wrong. With
    # a training that has (0, 2) and (2, 0) alone these are, and since one network gives verbs and
    # nouns they score the same: p0 * p2. Each is the best with a chance of a half.
    train = tmp_path / "train.csv"
    train.write_text("verb_class,noun_class\n0,2\n2,0\n")
    scores = [f"--{label}={tmp_path / label / 'scores.parquet'}" for label in ("verb", "noun")]
    command = ("eval-kinetics", *scores, "--max-failed", 1, "--json", "-")
    plain, weighed = (json.loads(cli(*command, *p).stdout) for p in ((), ("--prior", train)))
    assert plain["over_evaluated"]["top"]["1"] == 0.0
    assert weighed["over_evaluated"]["top"]["1"] == 0.5
    assert weighed["over_evaluated"]["top"]["5"] == 1.0
    assert weighed["top1"] == pytest.approx(1 / 3)
    assert weighed["protocol"]["prior"].startswith("train.csv ")


def test_a_network_of_nouns_is_tested_on_nouns(videos: Path) -> None:
    assert source_of("epic:/e,split=validation", "noun") == "epic:/e,split=validation,label=noun"
    assert source_of("epic:/e,label=noun", "noun") == "epic:/e,label=noun"
    assert source_of(str(videos), "label") == str(videos)
    with pytest.raises(SourceError, match="the network was trained for label=noun"):
        source_of("epic:/e,label=verb", "noun")


def test_failed_videos_are_read_again_if_that_is_asked_for(
    evaluate: Callable[..., dict[str, object]], videos: Path, tmp_path: Path
) -> None:
    late = tmp_path / "late.mp4"
    source = write_list(tmp_path / "list.csv", [*all_of(videos), (late, "dark")])
    most = ("--max-failed", 1)
    assert evaluate(source, *most)["failures"] == {"late": "no such video"}
    write_level(late, LEVELS["dark"])
    assert evaluate(source, *most)["failed"] == 1
    told = evaluate(source, *most, "--retry")
    assert (told["failed"], told["evaluated"], told["top1"]) == (0, 10, 1.0)


def test_a_video_read_again_counts_whoever_failed_at_it_before(
    network: Path, videos: Path, tmp_path: Path
) -> None:
    late = tmp_path / "late.mp4"
    source = write_list(tmp_path / "list.csv", [(late, "dark"), *all_of(videos)])
    how = job.Overrides(views="1x1", short_side_px=64, crop_px=64)
    request = job.Request(network, str(source), how, tmp_path / "out", workers=0)

    def stop(what: str, done: int, total: int) -> None:
        if what == "scoring videos":
            raise KeyboardInterrupt

    with pytest.raises(Interrupted):
        job.run(request, progress=stop)
    parts = tmp_path / "out" / ".parts"
    (parts / "0000-000000.parquet").rename(parts / "0003-000000.parquet")  # of a fourth process
    write_level(late, LEVELS["dark"])
    result = job.run(replace(request, retry=True))
    assert (result.failed, result.over_expected.top["1"]) == (0, 1.0)


def test_options_of_a_test_are_refused_where_nothing_is_tested(
    refused: Refused, tmp_path: Path
) -> None:
    said = refused("eval-kinetics", "--scores", tmp_path / "s", "--views", "1x1", "--pooled")
    assert "--views, --pooled: of no use with --scores" in said
    pair = ("--verb", tmp_path / "v", "--noun", tmp_path / "n")
    assert "--confusion: of no use with --verb" in refused("eval-kinetics", *pair, "--confusion")


@pytest.mark.parametrize(
    "option",
    [
        *("--precision=fp32", "--precision=bf16", "--fully-convolutional", "--batch=10"),
        *("--workers=2", "--device=auto", "--gpus=1"),
    ],
)
def test_an_option_of_a_test_is_refused_though_it_be_given_its_usual_value(
    refused: Refused, tmp_path: Path, option: str
) -> None:
    said = refused("eval-kinetics", "--scores", tmp_path / "s", option)
    assert f"{option.split('=')[0]}: of no use with --scores; leave it out" in said


def test_actions_have_no_rows_of_classes_and_a_csv_of_them_is_refused(
    refused: Refused, tmp_path: Path
) -> None:
    pair = ("--verb", tmp_path / "v", "--noun", tmp_path / "n")
    said = refused("eval-kinetics", *pair, "--csv", tmp_path / "classes.csv")
    assert "--csv: of no use with --verb; leave it out" in said
    assert not (tmp_path / "classes.csv").exists()


def test_rows_that_share_a_name_are_told_apart_and_equal_ones_count_once(
    evaluate: Callable[..., dict[str, object]], videos: Path, tmp_path: Path
) -> None:
    other = tmp_path / "elsewhere" / "dark0.mp4"
    other.parent.mkdir()
    write_level(other, LEVELS["dark"])
    dark = videos / "dark" / "dark0.mp4"
    rows = [(dark, "dark"), (other, "dark"), (dark, "dark"), (videos / "grey/grey0.mp4", "grey")]
    rows += [(tmp_path / part / "gone.mp4", "dark") for part in ("a", "b")]
    told = evaluate(write_list(tmp_path / "list.csv", rows), "--max-failed", 1)
    saved = files.read(tmp_path / "out" / "scores.parquet")
    assert saved.ids == ("dark0 #1", "dark0 #2", "grey0", "gone #1", "gone #2")
    assert (told["expected"], told["failed"], told["top1"]) == (5, 2, 3 / 5)
    assert "1 rows are in the list twice; they count once" in told["notes"]  # type: ignore[operator]


def test_the_number_of_videos_stands_beside_that_of_the_published_list(
    shared_data: Path, tmp_path: Path
) -> None:
    published = shared_data / "annotations" / "kinetics" / "kinetics-400_val.csv"
    lines = published.read_text().splitlines()
    first = dict(zip(lines[0].split(","), next(csv.reader(lines[1:2])), strict=True))
    name = f"{first['youtube_id']}_{int(first['time_start']):06}_{int(first['time_end']):06}.mp4"
    write_level(tmp_path / name, 40)
    whole = expected_of(f"kinetics:{tmp_path},list={published}")
    assert len(whole.items) == 19_906
    assert sum(item.path is not None for item in whole.items) == 1
    assert whole.published == {
        "list": "the published validation list of Kinetics-400",
        "videos": 19_906,
    }
    assert whole.notes == []
    (tmp_path / "val.csv").write_text(
        "\n".join(line for n, line in enumerate(lines) if n % 200 != 7)
    )
    part = expected_of(f"kinetics:{tmp_path},list={tmp_path / 'val.csv'}")
    assert (
        "the list names 19,806 videos, the published validation list of Kinetics-400"
        in part.notes[0]
    )
    assert part.fingerprint() != whole.fingerprint()


def test_a_card_says_how_its_network_is_tested(cli: Cli, videos: Path, tmp_path: Path) -> None:
    test = {
        **{"frames": 6, "stride": 3, "segments": True, "short_side_px": 48, "crop_px": 32},
        **{"activation": "softmax", "decode_short_side_px": 56},
    }
    folder = save(tmp_path / "net", NAMES, {"test": test, "geometry": {"crop_px": 32}})
    told = json.loads(
        cli(
            *("eval-kinetics", "--checkpoint", folder, "--videos", videos, "--json", "-"),
            *("--workers", 1),
        ).stdout
    )
    protocol = told["protocol"]
    assert protocol["views"] == "1x1"
    assert protocol["clip"] == "6 frames, one from the middle of each of as many equal parts"
    sides = [protocol[key] for key in ("short_side_px", "crop_px", "decode_short_side_px")]
    assert sides == [48, 32, 56]
    assert protocol["pooling"] == "all cells"
    assert told["top1"] == 1.0
