"""What a pretraining is watched on: classes that its source tells."""

from pathlib import Path

from vidssl.jobs._monitor import classes_of
from vidssl.sources import read


def test_only_videos_of_one_class_and_classes_with_enough_of_them_count(tmp_path: Path) -> None:
    rows = []
    for class_, videos in (("run", 4), ("sit", 3), ("jump", 5)):
        for number in range(videos):
            path = tmp_path / f"{class_}_{number}.mp4"
            path.touch()
            rows.append(f"{path},{class_}")
    rows.append(f"{tmp_path / 'jump_4.mp4'},run")  # of two classes
    listing = tmp_path / "list.csv"
    listing.write_text("path,label\n" + "\n".join(rows) + "\n")
    source = read(str(listing))
    found = classes_of(source, 16)
    assert {source.classes[label] for label in found.values()} == {"jump", "run"}
    assert sorted(Path(video).stem for video in found) == [
        *(f"jump_{number}" for number in range(4)),
        *(f"run_{number}" for number in range(4)),
    ]
    assert len(set(classes_of(source, 1).values())) == 1


def test_a_folder_tells_no_classes(tmp_path: Path) -> None:
    (tmp_path / "a.mp4").touch()
    assert classes_of(read(str(tmp_path)), 16) == {}
