"""CVAT's XML for video: what of it arrives, and what is refused with its line."""

from collections.abc import Callable
from pathlib import Path

import pytest

from vidssl.ava.formats import Facts, Hints
from vidssl.ava.formats.cvat import read
from vidssl.ava.tracks import at_key_frames
from vidssl.errors import AnnotationError

Write = Callable[..., Path]

HEAD = """<?xml version="1.0" encoding="utf-8"?>
<annotations>
  <version>1.1</version>
  <meta>
    <task>
      <id>7</id><name>Morning</name><size>30</size><mode>interpolation</mode>
      <labels>
        <label><name>person</name><type>any</type>
          <attributes>
            <attribute><name>action</name><mutable>True</mutable><input_type>select</input_type>
              <default_value>__undefined__</default_value>
              <values>__undefined__
walk
wave</values></attribute>
            <attribute><name>talks</name><mutable>True</mutable><input_type>checkbox</input_type>
              <default_value>false</default_value><values>false</values></attribute>
          </attributes></label>
      </labels>
      <original_size><width>200</width><height>100</height></original_size>
      <source>clips/morning.v2.mp4</source>
    </task>
    <dumped>2024-05-01 10:00:00.000000+00:00</dumped>
  </meta>
"""
END = "</annotations>\n"


def box(frame: object, sides: str, *, action: str = "walk", more: str = "", **said: str) -> str:
    x1, y1, x2, y2 = sides.split()
    extra = "".join(f' {key}="{value}"' for key, value in said.items())
    return (
        f'<box frame="{frame}" keyframe="1" outside="{said.pop("outside", 0)}" occluded="0" '
        f'xtl="{x1}" ytl="{y1}" xbr="{x2}" ybr="{y2}" z_order="0"{extra}>'
        f'<attribute name="action">{action}</attribute>{more}</box>'
    )


def track(number: int, *boxes: str, label: str = "person") -> str:
    return f'<track id="{number}" label="{label}" source="manual">{"".join(boxes)}</track>\n'


@pytest.fixture
def cvat(tmp_path: Path) -> Write:
    def write(*elements: str, head: str = HEAD, end: str = END) -> Path:
        path = tmp_path / "annotations.xml"
        path.write_text(head + "".join(elements) + end)
        return path

    return write


TEN = Hints(stated=Facts(fps=10.0))


def test_boxes_move_in_straight_lines_and_actions_last_until_they_change(cvat: Write) -> None:
    path = cvat(
        track(
            3,
            box(5, "20 10 60 50"),
            box(15, "40 20 80 60", action="wave"),
            '<box frame="20" keyframe="1" outside="1" occluded="0" xtl="40" ytl="20" xbr="80" '
            'ybr="60"><attribute name="action">wave</attribute></box>',
        )
    )
    found = read(path, TEN)
    assert found.actions == ["walk", "wave"]
    rows = at_key_frames(found.tracks, 0.5).rows
    # 0.5 s is frame 5; at 1 s, frame 10, half of the way to (40, 20) is done; at 2 s it is gone.
    assert rows == [
        ("morning.v2", 0.5, (0.1, 0.1, 0.3, 0.5), 3, ("walk",)),
        ("morning.v2", 1.0, (0.15, 0.15, 0.35, 0.55), 3, ("walk",)),
        ("morning.v2", 1.5, (0.2, 0.2, 0.4, 0.6), 3, ("wave",)),
    ]


def test_a_track_ends_with_its_last_box_and_comes_back_after_an_outside_one(cvat: Write) -> None:
    gone = box(10, "0 0 20 20").replace('outside="0"', 'outside="1"')
    path = cvat(track(0, box(0, "0 0 20 20"), gone, box(20, "0 0 20 20")))
    times = [row[1] for row in at_key_frames(read(path, TEN).tracks, 0.5).rows]
    assert times == [0.0, 0.5, 2.0]


def test_a_ticked_box_is_an_action_where_it_is_asked_for(cvat: Write) -> None:
    ticked = '<attribute name="talks">true</attribute>'
    path = cvat(
        track(0, box(0, "0 0 20 20", more=ticked)),
        track(
            1, box(0, "50 0 70 20", action="__undefined__", more=ticked.replace("true", "false"))
        ),
    )
    hints = Hints(("action", "talks"), Facts(fps=10.0))
    found = read(path, hints)
    assert found.actions == ["walk", "wave", "talks"]
    assert [row[4] for row in at_key_frames(found.tracks, 1.0).rows] == [("walk", "talks"), ()]


def test_labels_are_the_actions_where_there_are_several_and_no_attribute(cvat: Write) -> None:
    head = HEAD[: HEAD.index("<attributes>")] + HEAD[HEAD.index("</attributes>") + 13 :]
    head = head.replace("</label>", "</label><label><name>run</name></label>")
    plain = '<box frame="0" outside="0" occluded="1" xtl="0" ytl="0" xbr="20" ybr="20"/>'
    found = read(cvat(track(0, plain, label="run"), head=head), TEN)
    assert found.actions == ["person", "run"]
    assert at_key_frames(found.tracks, 1.0).rows[0][4] == ("run",)


def test_a_rotated_box_becomes_the_upright_one_around_it(cvat: Write) -> None:
    path = cvat(track(0, box(0, "80 40 120 60", rotation="90")))
    # 40 x 20 about (100, 50), turned by 90 degrees: 20 x 40.
    sides = at_key_frames(read(path, TEN).tracks, 1.0).rows[0][2]
    assert sides == pytest.approx((0.45, 0.3, 0.55, 0.7))


def test_a_frame_rate_that_does_not_divide_is_met_by_the_nearest_picture(cvat: Write) -> None:
    frames = [box(n, "0 0 20 20") for n in range(28, 33)]
    path = cvat(track(0, *frames))
    rows = at_key_frames(read(path, Hints(stated=Facts(fps=29.97))).tracks, 1.0).rows
    assert [row[1] for row in rows] == [1.0]


def test_all_mistakes_are_told_with_element_and_line(cvat: Write) -> None:
    path = cvat(
        track(0, box("x", "0 0 20 20"), box(2, "0 0 nought 20"), box(3, "30 0 20 20")),
        track(1, box(4, "900 0 1000 20"), label="persn"),
        track(2, box(5, "0 0 20 20"), box(5, "0 0 20 20")),
    )
    with pytest.raises(AnnotationError) as error:
        read(path, TEN)
    told = str(error.value)
    assert "has 6 problems:" in told
    assert (
        "line 24, <box frame='x'>: wrong frame: expected a whole number from 0, found 'x'" in told
    )
    assert "line 24, <box frame='2'>: malformed number: expected xbr in pixels, found" in told
    assert "line 24, <box frame='3'>: empty box: expected a width and a height above 0" in told
    assert "line 25, <box frame='4'>: box outside of the picture: expected a box inside of" in told
    assert (
        "line 25, <track id='1'>: unknown label: expected a label of <meta>; did you mean" in told
    )
    assert "line 26, <track id='2'>: two boxes in one frame: expected frame 5 once" in told


def test_frame_rate_and_size_are_asked_for_where_nothing_has_them(cvat: Write) -> None:
    start, stop = HEAD.index("<original_size>"), HEAD.index("<source>")
    path = cvat(track(0, box(0, "0 0 20 20")), head=HEAD[:start] + HEAD[stop:])
    with pytest.raises(AnnotationError, match=r"(?s)expected --size or --videos.*expected --fps"):
        read(path, Hints())
    known = Hints(videos={"morning.v2": Facts(10.0, (100, 100))})
    assert at_key_frames(read(path, known).tracks, 1.0).rows[0][2] == (0.0, 0.0, 0.2, 0.2)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("", "not XML: no element found"),
        ("<annotations><meta>", "not XML: no element found"),
        ("<annotations><meta></annotations>", "not XML: mismatched tag"),
        ("<score/>", "expected <annotations>, found <score>"),
        ("<annotations></annotations>", "no <meta>"),
        (HEAD + '<image id="0"/>' + END, "choose 'CVAT for video 1.1' when exporting"),
        (HEAD + END, "no boxes: expected <track> elements"),
        ("<annotations><meta><project/></meta></annotations>", "export each task by itself"),
        ("PK\x03\x04", "an archive; unpack it"),
        ("<annotations><meta>" + "<a>" * 60, "too deeply nested: expected at most 50"),
    ],
)
def test_other_files_are_refused_in_words(tmp_path: Path, text: str, expected: str) -> None:
    path = tmp_path / "annotations.xml"
    path.write_text(text)
    with pytest.raises(AnnotationError) as error:
        read(path, TEN)
    assert expected in str(error.value)
    assert "annotations.xml" in str(error.value)


@pytest.mark.parametrize(
    "document",
    [
        '<!DOCTYPE a [<!ENTITY x SYSTEM "file:///etc/passwd">]>',
        '<!DOCTYPE a [<!ENTITY l "lol"><!ENTITY m "&l;&l;&l;&l;">]>',
        '<!DOCTYPE a SYSTEM "http://127.0.0.1:9/a.dtd">',
    ],
)
def test_entities_are_neither_expanded_nor_fetched(tmp_path: Path, document: str) -> None:
    path = tmp_path / "annotations.xml"
    path.write_text(
        f"{document}<annotations><meta><task><name>&x;</name></task></meta></annotations>"
    )
    with pytest.raises(AnnotationError, match=r"annotations.xml:1: has a document type: expected"):
        read(path, TEN)


def test_an_attribute_that_is_not_there_is_answered_with_the_nearest(cvat: Write) -> None:
    path = cvat(track(0, box(0, "0 0 20 20")))
    with pytest.raises(AnnotationError, match=r"no attribute 'actoin' .*did you mean 'action'\?"):
        read(path, Hints(("actoin",), Facts(fps=10.0)))


def test_a_file_that_would_fill_the_memory_is_not_read(tmp_path: Path) -> None:
    path = tmp_path / "annotations.xml"
    with path.open("wb") as file:
        file.truncate(2**31)  # takes no room on the disk
    with pytest.raises(AnnotationError, match="too large: expected at most 1,073,741,824 bytes"):
        read(path, Hints())
