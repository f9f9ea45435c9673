"""The page: what it is given is shown, nothing of it is run, and nothing is fetched."""

import base64
import hashlib
import json
import re
from html.parser import HTMLParser
from pathlib import Path

import pytest

from vidssl.errors import OutputError
from vidssl.report import (
    Block,
    Code,
    Commands,
    Facts,
    Figure,
    Page,
    Plots,
    Section,
    Table,
    Text,
    render,
    write,
)
from vidssl.report._scripts import bundle
from vidssl.report.charts import Chart
from vidssl.report.page import Cell

PNG = b"\x89PNG\r\n\x1a\nrest"
HOSTILE = "<script>alert('x')</script>\"><img src=x onerror=y>&amp;"


class Reader(HTMLParser):
    """The elements of a page with their attributes, and the text between them."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.texts: list[str] = []
        self.feed(html)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))

    def handle_data(self, data: str) -> None:
        self.texts.append(data)

    def of(self, tag: str) -> list[dict[str, str | None]]:
        return [attributes for name, attributes in self.elements if name == tag]


def read(*blocks: Block) -> Reader:
    return Reader(render(Page("title", [Section("part", blocks)])))


def test_each_block_shows_what_it_was_given() -> None:
    page = read(
        Text("one paragraph"),
        Facts([("steps", 1200)]),
        Table(["class", "ap"], [["chase", 0.25]]),
        Figure(PNG, "a picture", "its caption"),
        Plots([Chart("left", "words", []), Chart("right", "words", [], note="its note")]),
        Commands(["vidssl report run"]),
        Code("task: pretrain", "the recipe"),
        Code("plain"),
    )
    texts = [text.strip() for text in page.texts]
    for expected in (
        "one paragraph", "steps", "1200", "class", "ap", "chase", "0.25", "its caption",
        "left", "right", "its note",
        "vidssl report run", "task: pretrain", "the recipe", "plain",
    ):  # fmt: skip
        assert expected in texts
    assert [image["alt"] for image in page.of("img")] == ["a picture"]
    assert [div["data-chart"] for div in page.of("div") if "data-chart" in div] == ["0", "1"]


@pytest.mark.parametrize(
    "block",
    [
        Text(HOSTILE),
        Facts([(HOSTILE, HOSTILE)]),
        Table([HOSTILE], [[HOSTILE]]),
        Figure(PNG, HOSTILE, HOSTILE),
        Plots([Chart(HOSTILE, HOSTILE, [], note=HOSTILE)]),
        Commands([HOSTILE]),
        Code(HOSTILE, HOSTILE),
    ],
    ids=lambda block: type(block).__name__,
)
def test_markup_in_a_block_is_text(block: Block) -> None:
    page = read(block)
    assert len(page.of("script")) == (3 if isinstance(block, Plots) else 0)
    assert all("onerror" not in attributes for _, attributes in page.elements)
    assert HOSTILE in [text.strip() for text in page.texts]


def test_markup_in_titles_is_text() -> None:
    page = Reader(render(Page(HOSTILE, [Section(HOSTILE, [])] * 3, HOSTILE)))
    assert not page.of("script")
    # title, h1 and lead once; each of three sections in the list of contents and above itself
    assert [text.strip() for text in page.texts].count(HOSTILE) == 3 + 3 * 2


def test_the_page_fetches_nothing() -> None:
    html = render(Page("t", [Section("s", [Figure(PNG, "p"), Commands(["x"])])] * 3))
    page = Reader(html)
    addresses = [
        value
        for _, attributes in page.elements
        for name, value in attributes.items()
        if name in {"src", "href", "srcset", "action", "data", "poster"}
    ]
    assert addresses
    assert all(value and value.startswith(("data:", "#")) for value in addresses)
    assert not page.of("link")
    assert not re.search(r"https?:|@import|url\(", html)
    policy = next(m["content"] for m in page.of("meta") if "http-equiv" in m)
    assert policy == "default-src 'none'; img-src data:; style-src 'unsafe-inline'"


def test_a_page_with_plots_carries_plotly_once_and_lets_its_two_scripts_run_alone() -> None:
    plots = [Plots([Chart("a", "", [{"x": [HOSTILE]}])]), Plots([Chart("b", "", [])] * 2)]
    html = render(Page("t", [Section("s", plots)]))
    own = bundle()
    assert html.count(own) == 1
    scripts = re.findall(r"<script([^>]*)>(.*?)</script>", html, re.S)
    assert [kind for kind, _ in scripts] == [
        *(' type="application/json" id="page-data"', ' type="text/plain" id="plotly"', "")
    ]
    assert json.loads(scripts[0][1])["charts"][0]["data"] == [{"x": [HOSTILE]}]
    # The browser's own rule: the hash of a script's text, in base64.
    hashes = [
        base64.b64encode(hashlib.sha256(text.encode()).digest()).decode() for _, text in scripts[1:]
    ]
    (policy,) = re.findall(r'Content-Security-Policy" content="([^"]*)"', html)
    allowed = " ".join(f"'sha256-{one}'" for one in hashes)
    assert policy == (
        f"default-src 'none'; img-src data:; style-src 'unsafe-inline'; script-src {allowed}"
    )
    rest = html.replace(own, "")
    assert not re.search(r"https?:|@import|<link|url\(", rest)


def test_a_picture_is_inside_the_page_byte_for_byte() -> None:
    source = read(Figure(PNG, "p")).of("img")[0]["src"] or ""
    kind, _, data = source.partition(",")
    assert kind == "data:image/png;base64"
    assert base64.b64decode(data) == PNG


@pytest.mark.parametrize("svg", [b"<svg xmlns='x'/>", b"\n<?xml version='1.0'?><svg/>"])
def test_a_drawing_is_known_by_its_beginning(svg: bytes) -> None:
    assert Figure(svg, "").uri.startswith("data:image/svg+xml;base64,")


def test_bytes_that_are_no_picture_are_refused() -> None:
    with pytest.raises(
        ValueError, match="expected a PNG or SVG picture, got bytes that begin b'GIF"
    ):
        read(Figure(b"GIF89a", ""))


def test_columns_of_numbers_stand_right_and_absent_ones_are_dashes() -> None:
    rows: list[list[Cell]] = [["a", 0.123456, 7], ["b", float("nan"), None]]
    page = read(Table(["class", "ap", "count"], rows))
    cells = page.of("td")
    assert [cell.get("class") for cell in cells] == [None, "number", "number"] * 2
    html = render(Page("t", [Section("s", [Table(["class", "ap", "count"], rows)])]))
    shown = re.findall(r"<td[^>]*>(.*?)</td>", html)
    assert shown == ["a", "0.1235", "7", "b", "–", "–"]


def test_a_header_of_empty_names_is_not_shown() -> None:
    assert not read(Table(["", ""], [["key", "value"]])).of("th")
    assert len(read(Table(["key", ""], [["key", "value"]])).of("th")) == 2


def test_a_row_of_another_length_is_refused() -> None:
    with pytest.raises(ValueError, match="row 1: expected 2 cells, got 3"):
        Table(["a", "b"], [[1, 2], [1, 2, 3]])


def test_a_table_may_be_empty() -> None:
    page = read(Table(["a", "b"], []))
    assert len(page.of("th")) == 2
    assert not page.of("td")


def test_wide_things_scroll_by_themselves() -> None:
    page = read(Table(["a"], [["x"]]), Figure(PNG, "p"))
    classes = [attributes.get("class") for attributes in page.of("div")]
    assert classes == ["wide", "picture"]
    html = render(Page("t", []))
    for name in (r"\.wide", r"\.picture", "pre"):
        assert re.search(rf"^{name} {{[^}}]*overflow-x: auto", html, re.M), name


def test_the_page_fits_a_phone_and_knows_the_dark() -> None:
    html = render(Page("t", []))
    assert 'content="width=device-width, initial-scale=1"' in html
    assert "@media (prefers-color-scheme: dark)" in html


def test_the_written_file_is_the_page(tmp_path: Path) -> None:
    page = Page("Größe ✓", [Section("s", [Text("日本")])])
    write(tmp_path / "new" / "page.html", page)
    assert (tmp_path / "new" / "page.html").read_text(encoding="utf-8") == render(page)


def test_a_name_that_is_not_utf8_is_shown_escaped(tmp_path: Path) -> None:
    name = b"clip-\xff.mp4".decode("utf-8", "surrogateescape")
    write(tmp_path / "page.html", Page(name, []))
    assert r"clip-\udcff.mp4" in (tmp_path / "page.html").read_text(encoding="utf-8")


def test_a_page_that_cannot_be_written_says_where(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(OutputError, match=r"file/page\.html: cannot be written"):
        write(tmp_path / "file" / "page.html", Page("t", []))
