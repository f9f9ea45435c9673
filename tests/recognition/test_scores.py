"""Saved scores: written and read, joined, and pairs of verbs and nouns."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest

from vidssl.errors import AnnotationError
from vidssl.recognition import pairs
from vidssl.recognition import scores as files
from vidssl.recognition.scores import About, Scores

ABOUT = About(3, ("a", "b", "c"), False, {"views": "10x3", "classifier": "one"})


def some(**changes: object) -> Scores:
    values = np.array([[0.5, 0.3, 0.2], [0, 0, 0], [0.1, 0.1, 0.8]], np.float32)
    usual = Scores(("v1", "v2", "v3"), ((0,), (1,), (2,)), values, ("", "no such video", ""), ABOUT)
    return replace(usual, **changes)  # type: ignore[arg-type]


def test_what_was_written_is_read(tmp_path: Path) -> None:
    files.write(some(), tmp_path / "scores.parquet")
    again = files.read(tmp_path / "scores.parquet")
    assert (again.ids, again.labels, again.reasons) == (some().ids, some().labels, some().reasons)
    assert np.array_equal(again.scores, some().scores)
    assert again.about == ABOUT
    table = pq.read_table(tmp_path / "scores.parquet")
    assert table["status"].to_pylist() == ["ok", "failed", "ok"]
    assert table["scores"].to_pylist()[1] is None


def test_a_row_that_is_no_number_has_failed() -> None:
    values = np.array([[0.5, 0.5], [np.nan, 0.5], [np.inf, 0]], np.float32)
    assert files.finite(values, ["", "", "x"]) == ("", "a score is not a finite number", "x")


def test_another_file_is_refused(tmp_path: Path) -> None:
    (tmp_path / "text.parquet").write_text("no table")
    pq.write_table(pq.read_table(written(some(), tmp_path)).select(["id"]), tmp_path / "id.parquet")
    bare = pq.read_table(written(some(), tmp_path)).replace_schema_metadata({})
    pq.write_table(bare, tmp_path / "bare.parquet")
    for name in ("text", "id", "bare"):
        with pytest.raises(AnnotationError, match="expected scores that eval-kinetics wrote"):
            files.read(tmp_path / f"{name}.parquet")
    with pytest.raises(AnnotationError, match="no such file"):
        files.read(tmp_path / "none.parquet")


def written(scores: Scores, folder: Path) -> Path:
    files.write(scores, folder / "whole.parquet")
    return folder / "whole.parquet"


def test_a_label_outside_of_the_scores_is_refused(tmp_path: Path) -> None:
    path = written(some(labels=((0,), (1,), (3,))), tmp_path)
    with pytest.raises(AnnotationError, match="row 2"):
        files.read(path)


def test_an_ensemble_is_the_weighted_mean_whatever_the_order() -> None:
    one = some(reasons=("", "", ""))
    order = [2, 0, 1]
    other = Scores(
        tuple(one.ids[n] for n in order),
        tuple(one.labels[n] for n in order),
        np.array([[0, 0, 1], [0, 1, 0], [1, 0, 0]], np.float32),
        ("", "", ""),
        replace(ABOUT, protocol={"views": "1x1", "classifier": "two"}),
    )
    found = files.joined([one, other], ["one", "other"], [3, 1])
    # v1: 3/4 * (0.5 0.3 0.2) + 1/4 * (0 1 0)
    assert found.scores[0].tolist() == pytest.approx([0.375, 0.475, 0.15])
    assert found.scores[1].tolist() == pytest.approx([0.25, 0, 0])
    assert found.about.protocol == {"ensemble": "weighted mean of 2"}
    assert [part["views"] for part in found.about.parts] == ["10x3", "1x1"]
    assert [part["weight"] for part in found.about.parts] == [0.75, 0.25]


def test_a_video_that_failed_in_one_part_has_failed() -> None:
    found = files.joined([some(reasons=("", "", "")), some()], ["one", "two"], [1, 1])
    assert found.reasons == ("", "no such video", "")
    assert not found.scores[1].any()


def test_parts_of_other_videos_classes_or_labels_are_refused() -> None:
    with pytest.raises(AnnotationError, match=r"v4: not in two"):
        files.joined([some(ids=("v1", "v2", "v4")), some()], ["one", "two"], [1, 1])
    about = replace(ABOUT, classes=("a", "b", "d"))
    with pytest.raises(AnnotationError, match="'d' there, 'c' here"):
        files.joined([some(), some(about=about)], ["one", "two"], [1, 1])
    with pytest.raises(AnnotationError, match=r"v1: \[1\] there, \[0\] here"):
        files.joined([some(), some(labels=((1,), (1,), (2,)))], ["one", "two"], [1, 1])
    for weights in ([1.0], [0.0, 0.0], [1.0, -1.0], [1.0, float("nan")], [1.0, float("inf")]):
        with pytest.raises(AnnotationError, match="--weights: expected 2 numbers"):
            files.joined([some(), some()], ["one", "two"], weights)


# --- a verb and a noun


def test_the_prior_is_the_share_of_each_noun_among_those_of_a_verb(tmp_path: Path) -> None:
    path = tmp_path / "train.csv"
    path.write_text("narration_id,verb_class,noun_class\na,0,1\nb,0,1\nc,0,2\nd,1,0\n")
    found = pairs.prior_of(path, 3, 3)
    assert found.tolist() == [[0, pytest.approx(2 / 3), pytest.approx(1 / 3)], [1, 0, 0], [0] * 3]


def test_actions_are_ranked_among_all_pairs_and_the_prior_weighs_them() -> None:
    verb = np.array([[0.6, 0.4]], np.float32)
    noun = np.array([[0.3, 0.7]], np.float32)
    # 0.18 0.42 | 0.12 0.28: the pair (0, 0) is third. A prior without (0, 1) and (1, 1) makes it
    # the first: 0.18 * 1 against 0.12 * 1.
    pair = np.array([[0, 0]])
    assert pairs.action_hits(verb, noun, pair, None, (1, 2, 3)).tolist() == [[0, 0, 1]]
    prior = np.array([[1.0, 0.0], [1.0, 0.0]])
    assert pairs.action_hits(verb, noun, pair, prior, (1, 2)).tolist() == [[1, 1]]


def test_a_training_list_with_mistakes_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "train.csv"
    path.write_text("verb_class,noun_class\n0,1\n5,0\nx,0\n")
    with pytest.raises(AnnotationError, match=r"(?s)2 mistakes.*train.csv:3: expected numbers"):
        pairs.prior_of(path, 3, 3)
    path.write_text("verb,noun\n0,1\n")
    with pytest.raises(AnnotationError, match="verb_class and noun_class, found verb, noun"):
        pairs.prior_of(path, 3, 3)
