"""The report card: what it holds is shown, told to programs, and nothing of it is run."""

import io
import json
import re
from collections.abc import Callable
from dataclasses import replace
from html import unescape
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from vidssl.errors import CheckpointError
from vidssl.report import card_charts, card_file, card_page, run_charts
from vidssl.report.card import (
    Card,
    CardMap,
    CardVideo,
    LearningCurve,
    Motion,
    Projection,
    Rival,
    Score,
    Strip,
    comparable,
    differences,
)
from vidssl.report.card_strips import LADDER, rung_for, strip, within

MakeCard = Callable[..., Card]
HOSTILE = "</script><script>alert('x')</script>\"<img src=x onerror=y>&amp;\n<b>日本"


def body(html: str) -> str:
    """The page's text, without its tags and scripts."""
    text = html.partition("<body>")[2]
    text = re.sub(r"<script.*?</script>", " ", text, flags=re.S)
    return re.sub(r"\s+", " ", unescape(re.sub(r"<[^>]+>", " ", text)))


def told(html: str) -> dict[str, object]:
    """The data that the page's script reads."""
    found = re.search(r'id="page-data">(.*?)</script>', html, re.S)
    assert found
    value: dict[str, object] = json.loads(found[1])
    return value


# --- the page


def test_each_score_stands_with_its_interval_counts_chance_and_print(make_card: MakeCard) -> None:
    text = body(card_page.render(make_card(20)))
    assert "kNN accuracy 70.2 %" in text
    assert "95 % interval 65.2 % to 75.2 %" in text
    assert "chance 12.5 %" in text
    assert "198 of 200 videos, 2 failed , which count as wrong" in text
    assert "protocol knn-01234567" in text
    assert "What kNN accuracy means, in one line." in text


def test_scores_under_another_protocol_are_said_to_be_so_and_not_compared(
    make_card: MakeCard,
) -> None:
    card = make_card(20)
    rows = card_page.compared(card)
    ahead = {row.rival: row.ahead for row in rows}
    assert ahead["earlier run"] == pytest.approx(0.702 - 0.61)
    assert ahead["other protocol"] is None
    text = body(card_page.render(card))
    assert "Not comparable. The protocols differ in views: 3x1, 1x1;" in text
    (chart,) = card_charts.comparisons(card)
    assert chart.data[0]["y"] == ["moco-slow", "earlier run", "random network"]
    assert chart.data[0]["x"] == pytest.approx([70.2, 61.0, 31.0])


def test_scores_without_a_print_are_never_compared() -> None:
    bare = Score("knn", "kNN", "", 0.5)
    assert not comparable(bare, bare)
    assert comparable(replace(bare, fingerprint="a"), replace(bare, fingerprint="a"))
    one = replace(bare, protocol={"views": "3x1", "k": "20"})
    assert differences(one, replace(one, protocol={"views": "1x1"})) == [
        "views: 3x1, 1x1",
        "k: 20, not said",
    ]


def test_markup_in_the_data_is_text_everywhere(make_card: MakeCard) -> None:
    card = make_card(12, classes=(HOSTILE, "b", "c"), prefix=HOSTILE)
    bad = Score("knn", HOSTILE, HOSTILE, 0.5, fingerprint=HOSTILE, protocol={HOSTILE: HOSTILE})
    card = replace(
        card,
        name=HOSTILE,
        lead=HOSTILE,
        facts=[(HOSTILE, HOSTILE)],
        scores=[bad],
        costs=[(HOSTILE, HOSTILE)],
        rivals=[Rival(HOSTILE, [replace(bad, value=0.4)], HOSTILE)],
        failures=[(HOSTILE, HOSTILE)],
        notes=[HOSTILE],
        commands=[HOSTILE],
        curves=[LearningCurve(HOSTILE, [1, 2], [0.5, 0.25], HOSTILE)],
        motion=Motion([replace(bad, title=HOSTILE)], np.array([0.1, 0.2, 0.3]), HOSTILE),
    )
    html = card_page.render(card)
    assert html.count("<script") == html.count("</script>") == 4
    rest = html[: html.index('id="plotly"')]
    assert "<img" not in rest
    assert "<b>" not in rest.replace("<b style", "")
    classes = told(html)["classes"]
    assert isinstance(classes, list)
    assert classes[0] == HOSTILE  # the page's own script sets texts, never markup
    for chart in [
        *card_charts.comparisons(card),
        *run_charts.curves(card.curves),
        card_charts.confusion(np.ones((3, 3), np.int64), card.classes),
    ]:
        assert chart
        assert "<script" not in json.dumps(chart.data)


def test_the_page_fetches_nothing_and_allows_nothing(make_card: MakeCard) -> None:
    html = card_page.render(make_card(12))
    own = html[: html.index('<script type="text/plain" id="plotly">')]
    assert not re.search(r"https?:|@import|<link|<iframe|url\((?!data:)", own)
    assert {a[:7] for a in re.findall(r'(?:src|href)="([^"]*)', own)} >= {"#video="}
    assert all(a.startswith("#") for a in re.findall(r'(?:src|href)="([^"]*)', own))
    policy = re.search(r'Content-Security-Policy" content="([^"]*)"', html)
    assert policy
    kinds = dict(part.strip().split(" ", 1) for part in policy[1].split(";"))
    assert kinds["default-src"] == "'none'"
    assert kinds["img-src"] == "data:"
    assert re.fullmatch(r"'sha256-\S+' 'sha256-\S+'", kinds["script-src"])


def test_equal_cards_make_equal_pages(make_card: MakeCard) -> None:
    assert card_page.render(make_card(12)) == card_page.render(make_card(12))


def test_a_card_of_next_to_nothing_is_a_page(tmp_path: Path) -> None:
    card = Card("encoder", "", [], [], [Score("knn", "kNN", "", None)])
    card_page.write(tmp_path / "index.html", card)
    text = body((tmp_path / "index.html").read_text(encoding="utf-8"))
    assert "kNN – no interval" in text
    assert "Map of the features" not in text
    assert json.loads(card_file.as_json(card))["scores"][0]["value"] is None


def test_names_that_are_not_utf8_are_shown_escaped(make_card: MakeCard) -> None:
    name = b"clip-\xff".decode("utf-8", "surrogateescape")
    html = card_page.render(make_card(12, prefix=name))
    assert r"clip-\udcff0001.mp4" in html
    assert html.encode("utf-8")
    card_file.as_json(make_card(12, prefix=name)).encode("utf-8")


def test_a_page_of_many_videos_keeps_to_its_size(make_card: MakeCard) -> None:
    card = make_card(40)
    rng = np.random.default_rng(0)
    count = 5000
    noise = {n: Strip(rng.bytes(3000), 4) for n in range(count)}  # 15 MB, as no clip would be
    card = replace(
        card,
        videos=[CardVideo(f"v_{n}.mp4", n % 8) for n in range(count)],
        strips=noise,
        map=CardMap(range(count), [Projection("PCA", rng.normal(size=(count, 2)))]),
        mistakes=[4999],
    )
    html = card_page.render(card)
    assert 14_000_000 < len(html.encode()) < card_page.PAGE_BYTES
    lines = html.partition('id="card-strips">')[2].partition("</script>")[0].split("\n")
    assert len(lines) == count
    assert lines[0].startswith("4 ")
    assert lines[4999].startswith("4 ")  # a mistake comes before those that only the map shows
    assert lines[4998] == ""


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"mistakes": [12]}, "expected videos 0 to 11, got 12"),
        ({"confusion": np.zeros((3, 3), np.int64)}, r"confusion: expected \(8, 8\), got \(3, 3\)"),
        ({"classes": ["one"]}, "expected a class below 1"),
    ],
)
def test_a_card_that_does_not_fit_together_is_refused(
    make_card: MakeCard, change: dict[str, object], message: str
) -> None:
    card = make_card(12)
    with pytest.raises(ValueError, match=message):
        replace(card, **change)  # type: ignore[arg-type]


def test_points_of_another_number_than_videos_are_refused() -> None:
    with pytest.raises(ValueError, match=r"PCA: expected points \(3, 2\), got \(2, 2\)"):
        CardMap([0, 1, 2], [Projection("PCA", np.zeros((2, 2)))])


# --- charts


def test_the_confusion_matrix_shows_shares_of_each_class() -> None:
    counts = np.array([[3, 1], [0, 4]])
    chart = card_charts.confusion(counts, ["sit", "stand"])
    assert chart
    assert chart.data[0]["z"] == [[75.0, 25.0], [0.0, 100.0]]
    assert chart.data[0]["customdata"] == counts.tolist()
    assert card_charts.confused_pairs(counts, ["sit", "stand"]) == [("sit", "stand", 1, 0.25)]


def test_of_many_classes_those_with_the_most_mistakes_are_shown() -> None:
    counts = np.eye(100, dtype=np.int64) * 10
    counts[7, 93] = 5
    chart = card_charts.confusion(counts, [f"class {k}" for k in range(100)])
    assert chart
    assert len(chart.data[0]["x"]) == card_charts.MOST_CLASSES
    assert {"class 7", "class 93"} <= set(chart.data[0]["x"])
    assert "The 40 of 100 classes with the most mistakes." in chart.note


def test_classes_that_nobody_has_are_left_out_and_equal_names_told_apart() -> None:
    counts = np.array([[2, 0, 0], [0, 0, 0], [1, 0, 1]])
    chart = card_charts.confusion(counts, ["same", "absent", "same"])
    assert chart
    assert chart.data[0]["y"] == ["same", "same (2)"]
    assert card_charts.confusion(np.zeros((2, 2), np.int64), ["a", "b"]) is None


def test_classes_stand_by_how_much_they_need_time_and_unknown_ones_do_not() -> None:
    found = Motion([], np.array([0.1, np.nan, 0.9]))
    (chart,) = card_charts.motion(found, ["low", "none", "high"])
    assert chart.data[0]["y"] == ["high", "low"]
    assert chart.data[0]["x"] == pytest.approx([90.0, 10.0])


# --- strips


def ramp(count: int, height: int = 60, width: int = 120) -> list[np.ndarray]:
    """Frames of one grey each, brighter by 20 each time."""
    return [np.full((height, width, 3), 20 * n, np.uint8) for n in range(count)]


def test_a_strip_holds_frames_evenly_from_the_clip_side_by_side() -> None:
    rung = LADDER[4]  # 4 frames of 64 x 48
    made = strip(ramp(12), rung)
    picture = np.asarray(Image.open(io.BytesIO(made.image)).convert("RGB"))
    assert picture.shape == (48, 4 * 64, 3)
    assert made.frames == 4
    # 12 frames, the middles of four quarters: 1.5, 4.5, 7.5, 10.5, rounded down
    means = [picture[:, n * 64 : (n + 1) * 64].mean() for n in range(4)]
    assert means == pytest.approx([20, 80, 140, 200], abs=6)


def test_a_strip_of_few_frames_is_short_and_keeps_the_middle() -> None:
    frame = np.zeros((48, 192, 3), np.uint8)
    frame[:, 64:128] = 255  # the middle third of a wide picture, which is its middle 4 : 3
    made = strip([frame], LADDER[4])
    picture = np.asarray(Image.open(io.BytesIO(made.image)).convert("L"))
    assert made.frames == 1
    assert picture.shape == (48, 64)
    assert picture[:, 4:-4].min() > 200
    with pytest.raises(ValueError, match="needs at least one frame"):
        strip([], LADDER[0])


def test_the_rung_is_the_best_that_fits() -> None:
    examples = [ramp(8), ramp(8, 96, 128)]
    means = [sum(len(strip(e, r).image) for e in examples) / 2 for r in LADDER]
    assert rung_for(examples, 10, 10**9) == LADDER[0]
    room = int(means[3] * 1.15 * 100) + 1
    chosen = rung_for(examples, 100, room)
    assert chosen is not None
    assert means[LADDER.index(chosen)] * 1.15 * 100 <= room
    assert all(mean * 1.15 * 100 > room for mean in means[: LADDER.index(chosen)])
    assert rung_for(examples, 10**6, 10) is None
    assert rung_for([], 10, 10**9) is None


def test_what_must_be_there_comes_first_when_room_is_short() -> None:
    strips = {n: Strip(b"x" * 100, 1) for n in range(10)}
    assert sorted(within(strips, 350, [7])) == [0, 1, 7]


# --- card.json


def test_the_json_says_what_the_page_says(make_card: MakeCard) -> None:
    card = make_card(20)
    found = json.loads(card_file.as_json(card))
    assert found["scores"][0]["value"] == 0.702
    assert found["scores"][0]["fingerprint"] == "knn-0123456789abcdef"
    assert np.sum(found["confusion"]) == 20
    assert found["failures"][0] == {"video": "broken.mp4", "reason": "cannot be decoded"}
    assert len(found["map"]["t-SNE"]) == 20
    assert found["compared_with"][1]["name"] == "random network"


def test_a_card_comes_back_as_a_rival(make_card: MakeCard, tmp_path: Path) -> None:
    card = make_card(12)
    card_file.write(tmp_path / "card.json", card)
    for path in (tmp_path, tmp_path / "card.json"):
        rival = card_file.read_rival(path)
        assert rival.name == card.name
        assert list(rival.scores) == list(card.scores)
    assert card_file.is_card(tmp_path)
    assert not card_file.is_card(tmp_path / "nowhere")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{", "expected the card.json that `vidssl report-card` writes; Invalid JSON"),
        ("[]", "writes; Input should be"),
        ('{"kind": "other"}', "writes; kind: Input should be 'report card'"),
        (
            '{"kind": "report card", "format": 99, "name": "x", "scores": []}',
            "expected a card of format 1 or less, found 99",
        ),
        (
            '{"kind": "report card", "format": 1, "name": "x", '
            '"scores": [{"key": "knn", "title": "t", "value": 7}]}',
            "scores.0.value: Input should be less than or equal to 1",
        ),
    ],
)
def test_what_is_no_card_is_refused(tmp_path: Path, text: str, message: str) -> None:
    (tmp_path / "card.json").write_text(text)
    with pytest.raises(CheckpointError) as refused:
        card_file.read_rival(tmp_path)
    assert message in str(refused.value)


def test_an_absent_card_is_refused_with_what_is_near(make_card: MakeCard, tmp_path: Path) -> None:
    card_file.write(tmp_path / "card.json", make_card(12))
    with pytest.raises(CheckpointError, match=r"cart\.json: no such file; did you mean"):
        card_file.read_rival(tmp_path / "cart.json")
