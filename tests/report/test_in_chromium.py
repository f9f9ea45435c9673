"""Pages in a real browser: they load without a word, draw their plots, and answer to people."""

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from vidssl.report import Page, Plots, Section, card_page, run_charts, write
from vidssl.report.card import Card
from vidssl.report.card_strips import LADDER

Browser = Any
MakeCard = Callable[..., Card]
CHARTS = 6  # one comparison, confusion, two of motion, two curves
PLAYS = "(e) => getComputedStyle(e).animationPlayState === 'running'"


@pytest.fixture(scope="module")
def page(make_card: MakeCard, tmp_path_factory: pytest.TempPathFactory) -> str:
    path = tmp_path_factory.mktemp("card") / "index.html"
    card_page.write(path, make_card(120, rung=LADDER[2]))
    return path.as_uri()


@pytest.fixture
def opened(browser: Browser, page: str) -> Browser:
    """The browser with the card in a wide window on a light system."""
    browser.window(1280, 900)
    browser.open(page)
    return browser


def into_view(browser: Browser, selector: str) -> tuple[float, float]:
    """Scroll to an element and return where its middle is then."""
    place = browser.ask(
        f"(() => {{ const e = document.querySelector({json.dumps(selector)}); "
        "e.scrollIntoView({ block: 'center', behavior: 'instant' }); "
        "const r = e.getBoundingClientRect(); return [r.x + r.width / 2, r.y + r.height / 2]; })()"
    )
    return place[0], place[1]


def draw_all(browser: Browser) -> None:
    """Scroll through the page, so that all of it is drawn."""
    count = browser.ask("document.querySelectorAll('.chart').length")
    for number in range(count):
        browser.ask(f"document.querySelectorAll('.chart')[{number}].scrollIntoView(), 1")
        browser.until(f"document.querySelectorAll('.chart')[{number}].querySelector('.main-svg')")


def test_it_loads_without_complaints_or_requests_and_draws_every_plot(opened: Browser) -> None:
    draw_all(opened)
    assert opened.ask("document.querySelectorAll('[data-chart] .plot-container').length") == CHARTS
    # every video is a point, and the chosen one has a ring besides
    assert opened.ask("document.querySelectorAll('#plane .point').length") == 120 + 1
    assert opened.ask("document.querySelectorAll('#confusion .hm image').length") == 1
    assert opened.ask("document.querySelectorAll('#motion .barlayer .point').length") == 4 + 8
    assert opened.ask("performance.getEntriesByType('resource').length") == 0
    assert opened.complaints() == []


def test_the_browser_would_tell_of_a_request_and_of_an_error(
    browser: Browser, tmp_path: Path
) -> None:
    page = tmp_path / "bad.html"
    page.write_text("<img src='http://nowhere.test/x.png'><script>throw Error('oh')</script>")
    browser.window(400, 400)
    browser.open(page.as_uri())
    told = " ".join(browser.complaints())
    assert "nowhere.test" in told
    assert "oh" in told


def test_a_point_of_the_map_shows_its_clip(opened: Browser) -> None:
    into_view(opened, "#plane")
    opened.until("document.querySelectorAll('#plane .point').length > 100")
    # the outermost point, which no other one covers
    x, y = opened.ask(
        "(() => { const all = [...document.querySelectorAll('#plane .trace .point')]"
        ".map((p) => p.getBoundingClientRect())"
        ".map((r) => [r.x + r.width / 2, r.y + r.height / 2]);"
        "return all.reduce((a, b) => (a[0] < b[0] ? a : b)); })()"
    )
    opened.mouse(x - 60, y - 60)
    opened.mouse(x, y)
    opened.until("!document.getElementById('tip').hidden")
    tip = opened.ask(
        "(() => { const t = document.getElementById('tip'), s = t.querySelector('.strip');"
        "return { image: s.style.backgroundImage, name: t.querySelector('.name').textContent,"
        f"said: t.querySelector('.said').textContent, plays: ({PLAYS})(s) }}; }})()"
    )
    assert tip["image"].startswith('url("data:image/webp;base64,')
    assert re.fullmatch(r"v_\d{4}\.mp4", tip["name"])
    assert "right" in tip["said"] or "taken for" in tip["said"]
    assert tip["plays"]
    opened.mouse(x, y, "click")
    opened.until("location.hash.startsWith('#video=')")
    opened.until(
        "document.querySelector('#chosen h3').textContent === "
        "document.querySelector('#tip .name').textContent"
    )
    assert opened.ask("document.querySelectorAll('#chosen .tile').length") == 5
    assert opened.complaints() == []


def test_a_clip_plays_while_it_is_pointed_at_and_moves(opened: Browser) -> None:
    tile = "#neighbours .near .tile .strip"
    x, y = into_view(opened, tile)
    opened.mouse(1, 1)
    strip = f"document.querySelector({json.dumps(tile)})"
    opened.until(f"{strip}.style.backgroundImage.startsWith('url(\"data:image/webp')")
    assert not opened.ask(f"({PLAYS})({strip})")
    still = opened.ask(f"getComputedStyle({strip}).backgroundPositionX")
    opened.mouse(x, y)
    opened.until(f"({PLAYS})({strip})")
    opened.until(f"getComputedStyle({strip}).backgroundPositionX !== {json.dumps(still)}")
    # the picture is decoded, and as wide as its frames together
    size = opened.ask(
        "new Promise((done) => { const i = new Image();"
        "i.onload = () => done([i.width, i.height]);"
        f"i.src = {strip}.style.backgroundImage.slice(5, -2); }})"
    )
    assert size == [LADDER[2].width_px * LADDER[2].frames, LADDER[2].height_px]


def test_an_address_with_a_video_opens_it(browser: Browser, page: str) -> None:
    browser.window(1280, 900)
    browser.open(f"{page}#video=17")
    browser.until("document.querySelector('#chosen h3')?.textContent === 'v_0017.mp4'")
    browser.ask("location.hash = '#video=999999', 1")  # there is none: nothing happens
    browser.ask("location.hash = '#video=18', 1")
    browser.until("document.querySelector('#chosen h3').textContent === 'v_0018.mp4'")
    assert browser.complaints() == []


def test_the_map_can_be_changed(opened: Browser) -> None:
    into_view(opened, "#plane")
    opened.until("document.querySelectorAll('#plane .point').length > 100")
    before = opened.ask("document.querySelector('#plane .point').getAttribute('transform')")
    opened.ask("document.querySelector('input[name=projection][value=\"0\"]').click(), 1")
    opened.until(
        "document.querySelector('#plane .point').getAttribute('transform') !== "
        + json.dumps(before)
    )
    assert opened.ask("document.getElementById('projection-note').textContent") == "41 % of it"
    opened.ask("document.querySelector('input[name=colours][value=right]').click(), 1")
    opened.until("document.querySelectorAll('#plane .legendtext').length === 2")
    names = opened.ask(
        "[...document.querySelectorAll('#plane .legendtext')].map((e) => e.textContent)"
    )
    assert names == ["right", "wrong"]
    opened.ask(
        "(() => { const s = document.getElementById('class'); s.value = '3';"
        "s.dispatchEvent(new Event('change')); })()"
    )
    opened.until("document.querySelector('#plane .legendtext').textContent === 'other classes'")
    assert opened.complaints() == []


@pytest.mark.parametrize("dark", [False, True])
def test_the_switch_changes_the_colours_of_page_and_plots(
    browser: Browser, page: str, dark: bool
) -> None:
    browser.window(1280, 900, dark=dark)
    browser.open(page)
    into_view(browser, "#motion .chart")
    browser.until("document.querySelector('#motion .barlayer')")
    paper = "getComputedStyle(document.body).backgroundColor"
    bar = "document.querySelector('#motion .barlayer path').style.fill"
    colours = {False: ("rgb(252, 252, 250)", "rgb(0, 114, 178)")}
    colours[True] = ("rgb(20, 23, 27)", "rgb(91, 176, 232)")
    assert (browser.ask(paper), browser.ask(bar)) == colours[dark]
    into_view(browser, "h1")
    browser.ask("document.getElementById('other').click(), 1")
    browser.until(f"{bar} === {json.dumps(colours[not dark][1])}")
    assert browser.ask(paper) == colours[not dark][0]


def test_on_a_phone_nothing_sticks_out_and_columns_stand_below_each_other(
    browser: Browser, page: str
) -> None:
    browser.window(390, 844, phone=True)
    browser.open(page)
    draw_all(browser)
    assert browser.ask("[innerWidth, document.documentElement.scrollWidth]") == [390, 390]
    columns = "getComputedStyle(document.querySelector('{}')).gridTemplateColumns.split(' ').length"
    for grid in (".scores", ".atlas", ".plots"):
        assert browser.ask(columns.format(grid)) == 1, grid
    wide = browser.ask(
        "[...document.querySelectorAll('.main-svg')].map((e) => e.getBoundingClientRect())"
        ".filter((r) => r.right > 390).length"
    )
    assert wide == 0
    assert browser.complaints() == []


def test_names_with_markup_are_shown_as_they_are(
    browser: Browser, make_card: MakeCard, tmp_path: Path
) -> None:
    hostile = "</script><img src=x onerror=alert(1)><a href='http://evil.test'>a</a>"
    card = make_card(40, classes=(hostile, "<b>b</b>"), prefix=hostile)
    card_page.write(tmp_path / "index.html", card)
    browser.window(1280, 900)
    browser.open((tmp_path / "index.html").as_uri() + "#video=1")
    draw_all(browser)
    name = browser.until("document.querySelector('#chosen h3')?.textContent")
    assert name == f"{hostile}0001.mp4"
    ticks = browser.ask(
        "[...document.querySelectorAll('#confusion .ytick text')].map((e) => e.textContent)"
    )
    assert "<b>b</b>" in ticks
    assert browser.ask("document.querySelectorAll('img, svg a[href], svg b').length") == 0
    assert browser.complaints() == []


# --- the report of a run

POINTS = 400
SPIKE = 123
ON_CURVE = "document.querySelector('#part1 .hoverlayer')"


@pytest.fixture(scope="module")
def report(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A page of three curves, with an alarm and a stop, and bars of two evaluations."""
    hostile = "<b>n</b></script><img src=x onerror=alert(1)>@blue"
    log = [
        {"step": step, "loss": 90.0 if step == SPIKE else 3 - step / 200, "lr": 0.1, hostile: step}
        for step in range(POINTS)
    ]
    marks = [
        run_charts.Mark("alarm", 100, "alarm: <b>collapse</b> %{x}"),
        run_charts.Mark("resumed", 300, "@blue goes on after step 300"),
    ]
    series = [run_charts.curve_of(log, name) for name in run_charts.scalars(log)]
    classes = {1: "<b>sit</b>", 2: "@blue", 3: "stand"}
    scores: dict[str, dict[int, float | None]] = {
        "eval-a": {1: 0.5, 2: 0.25},
        "@soft": {1: 0.75, 2: 0.1, 3: None},
    }
    bars = run_charts.average_precision("Average precision", classes, scores)
    path = tmp_path_factory.mktemp("report") / "report.html"
    curves, drawn = Plots(run_charts.curves(series, marks)), Plots([bars], small=False)
    write(path, Page("run", [Section("Curves", [curves]), Section("Scores", [drawn])]))
    return path.as_uri()


def over(browser: Browser, share: float) -> tuple[float, float]:
    """Return where the first curve's plot is that far from its left to its right edge."""
    into_view(browser, "#part1 .chart")
    browser.until("document.querySelector('#part1 .chart .nsewdrag')")
    left, right, y = browser.ask(
        "(() => { const r = document.querySelector('#part1 .nsewdrag').getBoundingClientRect();"
        "return [r.left, r.right, r.top + r.height / 2]; })()"
    )
    return left + share * (right - left), y


def test_a_curve_tells_its_step_and_value_and_grows_where_it_is_dragged_over(
    browser: Browser, report: str
) -> None:
    browser.window(1280, 900)
    browser.open(report)
    x, y = over(browser, 0.5)
    browser.mouse(x - 30, y)
    browser.until(f"{ON_CURVE}.textContent")
    browser.mouse(x, y)
    lines = f"[...{ON_CURVE}.querySelectorAll('text')].map((e) => e.textContent)"
    near = f"Math.abs(parseInt(({lines}[0] ?? '').slice('step '.length)) - {POINTS / 2}) < 25"
    browser.until(near)
    said = browser.ask(lines)
    step = int(said[0].removeprefix("step "))
    value = f"{3 - step / 200:.5g}"  # of a straight line, whose mean is itself
    assert [line.strip() for line in said[1:]] == [value, f"mean of 21: {value}"]
    shown = "document.querySelector('#part1 .chart')._fullLayout.xaxis.range"
    before = browser.ask(shown)
    (low, y), (high, _) = over(browser, 0.5), over(browser, 0.75)
    for kind, place in (("mousePressed", low), ("mouseMoved", high), ("mouseReleased", high)):
        button = {"button": "left", "buttons": 1, "clickCount": 1}
        browser.call("Input.dispatchMouseEvent", type=kind, x=place, y=y, **button)
    browser.until(f"{shown}[0] > {(before[0] + before[1]) / 2 - 5}")
    zoomed = browser.ask(shown)
    assert zoomed[1] - zoomed[0] == pytest.approx((before[1] - before[0]) / 4, rel=0.05)
    browser.ask("document.getElementById('other').click(), 1")  # other colours, the same part
    browser.until(
        "document.querySelector('#part1 .lines path').style.stroke === 'rgb(91, 176, 232)'"
    )
    assert browser.ask(shown) == zoomed
    assert browser.complaints() == []


def test_a_report_draws_curves_marks_and_bars_without_complaints_or_requests(
    browser: Browser, report: str
) -> None:
    browser.window(1280, 900)
    browser.open(report)
    draw_all(browser)
    # the values and their mean on each of three curves, and the heads of two marks
    assert browser.ask("document.querySelectorAll('#part1 .scatter .lines path').length") == 3 * 2
    assert browser.ask("document.querySelectorAll('#part1 .scatter .point').length") == 3 * 2
    assert browser.ask("document.querySelectorAll('#part1 .shapelayer path').length") == 3 * 2
    top = browser.ask("document.querySelector('#part1 .chart')._fullLayout.yaxis.range[1]")
    assert top > 90  # the one spike is there
    text = "[...document.querySelectorAll('#part2 {} text')].map((e) => e.textContent)"
    assert browser.ask(text.format(".ytick")) == ["stand", "@blue", "<b>sit</b>"]
    assert browser.ask(text.format(".bars")) == ["0.50", "0.25", "–", "0.75", "0.10", "–"]
    assert browser.ask(text.format(".legend")) == ["eval-a", "@soft"]
    assert browser.ask("document.querySelectorAll('img, svg b').length") == 0
    assert browser.ask("performance.getEntriesByType('resource').length") == 0
    assert browser.complaints() == []


def test_the_head_of_a_mark_tells_what_happened(browser: Browser, report: str) -> None:
    browser.window(1280, 900)
    browser.open(report)
    into_view(browser, "#part1 .chart")
    head = "document.querySelectorAll('#part1 .chart .point')[{}].getBoundingClientRect()"
    for number, words in ((0, "<b>collapse</b> %{x}"), (1, "@blue goes on after step 300")):
        browser.until("document.querySelectorAll('#part1 .chart .point').length > 1")
        rect = head.format(number)
        x, y = browser.ask(f"(() => {{ const r = {rect}; return [r.x + r.width / 2, r.y]; }})()")
        browser.mouse(x - 3, y + 20)
        browser.mouse(x, y + 20)
        browser.until(f"{ON_CURVE}.textContent.includes({json.dumps(words)})")
    assert browser.complaints() == []


def test_the_report_of_a_run_fits_a_phone_follows_the_switch_and_lets_a_finger_scroll(
    browser: Browser, report: str
) -> None:
    browser.window(390, 844, phone=True, dark=True)
    browser.open(report)
    draw_all(browser)
    line = "document.querySelector('#part1 .lines path').style.stroke"
    assert browser.ask(line) == "rgb(91, 176, 232)"
    browser.ask("document.getElementById('other').click(), 1")
    browser.until(f"{line} === 'rgb(0, 114, 178)'")
    assert browser.ask("[innerWidth, document.documentElement.scrollWidth]") == [390, 390]
    wide = browser.ask(
        "[...document.querySelectorAll('.main-svg')].map((e) => e.getBoundingClientRect())"
        ".filter((r) => r.right > 390).length"
    )
    assert wide == 0
    x, y = over(browser, 0.5)
    before = browser.ask("scrollY")
    for kind, moved in (("touchStart", 0), ("touchMove", 40), ("touchMove", 120)):
        at = [{"x": x, "y": y - moved}]
        browser.call("Input.dispatchTouchEvent", type=kind, touchPoints=at)
    browser.call("Input.dispatchTouchEvent", type="touchEnd", touchPoints=[])
    browser.until(f"scrollY > {before}")
    assert browser.ask("document.querySelector('#part1 .chart')._fullLayout.dragmode") is False
    assert browser.complaints() == []
