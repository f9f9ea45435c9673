"""Files of rows: two writers of one name do not get in each other's way."""

from pathlib import Path

from vidssl.ava.rows import written_aside


def test_two_that_write_one_file_at_once_both_succeed(tmp_path: Path) -> None:
    path = tmp_path / "rows.csv"
    with written_aside(path) as one, written_aside(path) as other:  # numbers of processes may agree
        one.write("first")
        other.write("second")
    assert path.read_text() == "first"  # which ended last
    assert list(tmp_path.iterdir()) == [path]
