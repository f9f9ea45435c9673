"""What the checks of a data set see, and that they look at each row once."""

from pathlib import Path

import numpy as np

from vidssl.ava.labels import LabelMap
from vidssl.ava.soundness import (
    ANNOTATIONS,
    PREDICTIONS,
    Findings,
    by_video,
    check_annotations,
    check_coverage,
    read_table,
)

LABELS = LabelMap({1: "walk"})


def test_rows_are_grouped_by_video_in_order_of_appearance() -> None:
    groups = by_video(np.array(["b", "a", "b", "c", "a", "b"]))
    assert [(name, rows.tolist()) for name, rows in groups.items()] == [
        ("b", [0, 2, 5]),
        ("a", [1, 4]),
        ("c", [3]),
    ]
    assert by_video(np.array([], np.str_)) == {}


def test_key_frames_on_top_of_one_another_are_told_by_video(tmp_path: Path) -> None:
    path = tmp_path / "a.csv"
    rows = [("b", 5.01), *((video, t) for t in (3, 4, 5) for video in "ab"), ("a", 3.02)]
    path.write_text("".join(f"{v},{t},0.1,0.1,0.5,0.9,1,1\n" for v, t in rows))
    findings = Findings()
    table = read_table(path, ANNOTATIONS, LABELS, findings)
    assert table is not None
    check_annotations(table, LABELS, findings)
    assert findings.problems == []
    (warning,) = findings.warnings
    assert warning.what.endswith("1 s apart elsewhere: b at 5 and 5.01 s, a at 3 and 3.02 s")


def test_many_sound_videos_are_found_sound(tmp_path: Path) -> None:
    path = tmp_path / "a.csv"
    path.write_text(
        "".join(
            f"a_film_with_a_rather_long_name_{n:06d},{t},0.1,0.1,0.5,0.9,1,1\n"
            for n in range(3_000)
            for t in (2, 3)
        )
    )
    findings = Findings()
    table = read_table(path, ANNOTATIONS, LABELS, findings)
    assert table is not None
    check_annotations(table, LABELS, findings)
    assert (findings.problems, findings.warnings) == ([], [])


def covered(tmp_path: Path, predicted: str) -> Findings:
    """Return what is found of predictions beside two annotated key frames, at 2 and 3 s."""
    (tmp_path / "a.csv").write_text("".join(f"v,{t},0.1,0.1,0.5,0.9,1,1\n" for t in (2, 3)))
    (tmp_path / "predicted.csv").write_text(predicted)
    findings = Findings()
    truth = read_table(tmp_path / "a.csv", ANNOTATIONS, LABELS, findings)
    people = read_table(tmp_path / "predicted.csv", PREDICTIONS, LABELS, findings)
    assert truth is not None
    assert people is not None
    check_coverage(truth, people, findings)
    return findings


def test_key_frames_without_anybody_are_not_taken_for_another_time_origin(tmp_path: Path) -> None:
    (problem,) = covered(tmp_path, "v,2\nv,3\nv,9,0.1,0.1,0.5,0.9,1,0.7\n").problems
    assert "no box is in an annotated key frame: those that are here" in problem.what
    (problem,) = covered(tmp_path, "v,902,0.1,0.1,0.5,0.9,1,0.7\n").problems
    assert "another time origin?" in problem.what


def test_annotated_key_frames_without_anybody_are_not_called_unannotated(tmp_path: Path) -> None:
    found = covered(tmp_path, "v,2\nv,3,0.1,0.1,0.5,0.9,1,0.7\n")
    (warning,) = found.warnings
    assert "1 of 2 annotated key frames have no box" in warning.what
