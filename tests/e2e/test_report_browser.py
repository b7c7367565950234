"""The report in a real browser, from disk: it fetches nothing, reports no error, and shows the tidy table's numbers, in
its tables, under the pointer and behind its charts; it can be used with a keyboard and a screen reader.
"""

from __future__ import annotations

import csv
import io
import os
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from bench.analysis.config import PriceConfig, ReportConfig
from bench.report.build import build_report
from tests.e2e.conftest import Quickstart
from tests.support import require
from tests.unit.report.fake_runs import FakeRun, add_recordings, edit_summary, failed
from tests.unit.report.page_reader import Number, parse_number, shown_value

if TYPE_CHECKING:
    from playwright.sync_api import Browser, BrowserContext, ConsoleMessage, Locator, Page

pytestmark = pytest.mark.browser

CHROMIUM = Path("/usr/bin/chromium")
FLAGS = ["--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking"]
CONFIG = ReportConfig(price=PriceConfig(name="a machine", per_hour=0.1, date="2026-11-01", source="an invoice"))
HOSTILE = "</script><script>document.title='owned'</script><img src=http://example.invalid/x onerror=alert(1)>\u202e"
WIDE, PHONE = 1280, 390

READ_NUMBERS = """
[...document.querySelectorAll('.v[data-metric]')].map(node => ({
  cell: node.closest('[data-cell]').dataset.cell, source: node.dataset.source, metric: node.dataset.metric,
  statistic: node.dataset.statistic, text: node.textContent}))
"""
POINTS = """
async id => {
  const chart = Charts.charts.get(id);
  const figure = chart.figures[0];
  const view = [...chart.views][0];
  const box = view.canvas_view.el.getBoundingClientRect();
  return figure.renderers.filter(r => r.glyph.type === 'Scatter').map(r => {
    const data = r.data_source.data;
    const {x_scale, y_scale} = view.frame;
    return {who: data.who[0], x: box.x + x_scale.compute(data.x[0]), y: box.y + y_scale.compute(data.y[0])};
  });
}
"""
#: Sections that are laid out late move what is below them: scrolled to until it has drawn itself.
SCROLLED_TO_AND_DRAWN = """
id => {
  const host = document.getElementById(id);
  if (host.querySelector('.plot[data-drawn]')) return true;
  host.scrollIntoView({block: 'center'});
  return false;
}
"""
TOOLTIPS = """
() => {
  const found = [];
  const walk = root => { for (const node of root.querySelectorAll('*')) {
    if (node.shadowRoot) walk(node.shadowRoot);
    if (/tooltip/i.test(`${node.localName} ${node.className}`)) found.push(node.textContent);
  } };
  walk(document);
  return found.filter(text => text.trim());
}
"""


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    """Headless Chromium, as the distribution packages it."""
    require(CHROMIUM.exists(), "Chromium: run scripts/install_chromium.sh")
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        launched = playwright.chromium.launch(executable_path=str(CHROMIUM), args=FLAGS)
        yield launched
        launched.close()


Open = Callable[..., "Page"]


@pytest.fixture
def open_report(browser: Browser) -> Iterator[Open]:
    """Opens a report from disk in a fresh context; at the end nothing was fetched and nothing complained of."""
    contexts: list[BrowserContext] = []
    complaints: list[str] = []
    requests: list[str] = []

    def heard(message: ConsoleMessage) -> None:
        if message.type in {"error", "warning"}:
            complaints.append(message.text)

    def opened(path: Path, *, width: int = WIDE, scheme: str = "light", scripts: bool = True) -> Page:
        context = browser.new_context(
            viewport={"width": width, "height": 900},
            color_scheme="dark" if scheme == "dark" else "light",
            java_script_enabled=scripts,
            accept_downloads=True,
        )
        contexts.append(context)
        page = context.new_page()
        page.on("console", heard)
        page.on("pageerror", lambda error: complaints.append(str(error)))
        page.on("request", lambda request: requests.append(request.url))
        page.goto(path.as_uri())
        if scripts:
            page.wait_for_selector("html[data-ready]")
            painted(page)
        return page

    yield opened
    for context in contexts:
        context.close()
    assert complaints == []
    assert [url for url in requests if not url.startswith(("file:", "data:", "blob:"))] == []


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A report with valid, invalid, missing, raw and hostile parts."""
    root = tmp_path_factory.mktemp("report")
    run = FakeRun(root / "run")
    for count, variant in enumerate(("F16", "Q8_0", "Q4_0")):
        add_recordings(run.cell(variant), said=HOSTILE, flipped=count)

    def spoil(summary: dict[str, dict[str, dict[str, object]]]) -> None:
        for metric in summary["metrics"].values():
            metric["validity"] = ["under_delivered", HOSTILE]

    edit_summary(run.cell("Q4_K_M"), "c4", spoil)
    unknown = dict.fromkeys(("bits", "size", "itl_ms", "ratio", "half", "divergence"), 1.0)
    lost = {"variant": {}, "label": f"{HOSTILE} · llama_cpp", **failed(log_tail=HOSTILE * 20)}
    run.cell("Q6_K", figures=unknown, scenarios=(), tasks=False, **lost)
    return build_report([run.directory], root / "out", CONFIG).parent


@pytest.fixture(scope="module")
def report(folder: Path) -> Path:
    return folder / "report.html"


def tidy_rows(folder: Path) -> dict[tuple[str, str, str], dict[str, str]]:
    """The tidy table's rows by cell key, source and metric."""
    table = csv.DictReader(io.StringIO((folder / "summary.csv").read_text(encoding="utf-8")))
    return {(row["cell_key"], row["source"], row["metric"]): row for row in table}


def value_of(folder: Path, variant: str, source: str, metric: str, statistic: str = "value") -> float:
    """One number of the tidy table."""
    (found,) = [
        float(row[statistic])
        for (_, at, name), row in tidy_rows(folder).items()
        if row["variant"] == variant and at == source and name == metric
    ]
    return found


def assert_numbers_equal_the_csv(page: Page, folder: Path) -> int:
    """Every number on the open page is a number of the tidy table, to the last digit shown; returns how many."""
    known = tidy_rows(folder)
    numbers = [Number(**entry) for entry in page.evaluate(READ_NUMBERS)]
    for number in numbers:
        value = float(known[number.cell, number.source, number.metric][number.statistic])
        shown, half_unit = parse_number(number.text)
        assert shown == pytest.approx(shown_value(number, value), abs=half_unit * 1.0001), number
    return len(numbers)


def painted(page: Page) -> None:
    """After two frames of the browser: what the page asked for until now is laid out and painted."""
    page.evaluate("() => new Promise(done => requestAnimationFrame(() => requestAnimationFrame(done)))")


def drawn(page: Page, chart: str) -> Locator:
    """A chart that has been scrolled to and drawn."""
    host = page.locator(f"#{chart}")
    page.wait_for_function(SCROLLED_TO_AND_DRAWN, arg=chart)
    page.wait_for_function("id => [...Charts.charts.get(id).views].length > 0", arg=chart)
    painted(page)
    return host


def table_of(host: Locator) -> tuple[list[str], list[list[str]]]:
    """Heads and rows of the table behind a chart, opened."""
    details = host.locator("details.numbers")
    if details.get_attribute("open") is None:
        details.locator("summary").click()
    details.locator("tbody tr").first.wait_for()
    heads = [text.strip("↕↑↓ ") for text in details.locator("thead th").all_inner_texts()]
    rows = [row.locator("th, td").all_inner_texts() for row in details.locator("tbody tr").all()]
    return heads, rows


def test_it_opens_from_disk_without_network_or_errors(open_report: Open, report: Path) -> None:
    page = open_report(report)
    assert page.title().startswith("quickstart: Deploy Q8_0")
    assert page.locator("img, iframe, object").count() == 0
    for chart in ("plot-tradeoff", "plot-demand", "plot-load", "plot-distribution", "plot-time", "plot-requests"):
        drawn(page, chart)


def test_the_numbers_on_the_page_equal_the_csv(open_report: Open, report: Path, folder: Path) -> None:
    assert assert_numbers_equal_the_csv(open_report(report), folder) > 150


def hover(page: Page, number: int, who: str) -> None:
    """Move the pointer to a point until it tells of itself; a point moves when what is above it is laid out."""
    from playwright.sync_api import TimeoutError as NotYet

    for last in (*[False] * 19, True):
        point = page.evaluate(POINTS, "plot-tradeoff")[number]
        page.mouse.move(point["x"] - 30, point["y"] - 30)
        page.mouse.move(point["x"], point["y"])
        try:
            page.wait_for_function(f"who => ({TOOLTIPS})().some(text => text.includes(who))", arg=who, timeout=1000)
        except NotYet:
            if last:
                raise
        else:
            return


def test_a_point_under_the_pointer_tells_its_exact_numbers(open_report: Open, report: Path, folder: Path) -> None:
    page = open_report(report)
    drawn(page, "plot-tradeoff")
    points = page.evaluate(POINTS, "plot-tradeoff")
    assert {point["who"] for point in points} == {"F16", "Q8_0", "Q4_0"}
    for number, point in enumerate(points):
        hover(page, number, point["who"])
        told = " ".join(page.evaluate(TOOLTIPS)).replace("−", "-")
        cost = value_of(folder, point["who"], "c4", "cost_per_million_output_tokens")
        assert f"{float(f'{cost:.6g}'):g}" in told, told
        if point["who"] != "F16":
            change = 100 * value_of(folder, point["who"], "divergence", "perplexity_change")
            assert f"{float(f'{change:.6g}'):.6g}" in told, told


def test_the_table_behind_a_chart_equals_the_csv(open_report: Open, report: Path, folder: Path) -> None:
    page = open_report(report)
    heads, rows = table_of(drawn(page, "plot-load"))
    assert heads[:3] == ["Series", "Concurrent streams asked", "TTFT, ms"]
    seen = 0
    for series, streams, shown, *_ in rows:
        variant, _, statistic = series.partition(", ")
        expected = value_of(folder, variant, f"c{streams}", "ttft", statistic)
        assert float(shown.replace(",", "")) == pytest.approx(expected, rel=1e-5)
        seen += 1
    assert seen == 2 * (2 * 3 + 1), "p50 and p99, two loads of three cells and the valid one of the fourth"


def test_distributions_agree_with_the_summaries(open_report: Open, report: Path, folder: Path) -> None:
    page = open_report(report)
    host = drawn(page, "plot-distribution")
    assert "Every value is drawn." in host.inner_text()
    _, rows = table_of(host)
    values = [(float(row[1].replace(",", "")), float(row[2])) for row in rows if row[0].startswith("Q8_0, ")]
    assert len(values) == 23, "24 requests of which one failed"
    median = value_of(folder, "Q8_0", "c4", "ttft", "p50")
    assert [share for at, share in values if at <= median][-1] == pytest.approx(50, abs=5)
    assert values[-1][1] == 100


def test_a_chart_can_be_used_with_the_keyboard(open_report: Open, report: Path) -> None:
    page = open_report(report)
    host = drawn(page, "plot-load")
    state = "([...Charts.charts.get('plot-load').figures[0].renderers].map(r => r.data_source.data.who[0]).join())"
    assert "Q4_0" in page.evaluate(state)
    host.locator(".legend li", has_text="Q4_0").locator("input").focus()
    page.keyboard.press("Space")
    page.wait_for_function(f"!{state}.includes('Q4_0')")
    log_y = host.get_by_role("button", name="Log y")
    assert log_y.get_attribute("aria-pressed") == "false"
    log_y.focus()
    page.keyboard.press("Enter")
    page.wait_for_function("Charts.charts.get('plot-load').figures[0].y_scale.type === 'LogScale'")
    assert page.evaluate("document.activeElement.textContent") == "Log y"
    host.get_by_label("Show").focus()
    page.keyboard.press("ArrowDown")
    page.wait_for_function("Charts.charts.get('plot-load').figures[0].left[0].axis_label === 'ITL, ms'")


def test_zoom_and_reset(open_report: Open, report: Path) -> None:
    page = open_report(report)
    host = drawn(page, "plot-tradeoff")
    span = "(r => r.end - r.start)(Charts.charts.get('plot-tradeoff').figures[0].x_range)"
    whole = page.evaluate(span)
    box = host.locator(".plot").bounding_box()
    assert box is not None
    page.mouse.move(box["x"] + 200, box["y"] + 60)
    page.mouse.down()
    page.mouse.move(box["x"] + 300, box["y"] + 120, steps=4)
    page.mouse.up()
    page.wait_for_function(f"{span} < {whole} / 2")
    host.get_by_role("button", name="Reset zoom").click()
    page.wait_for_function(f"Math.abs({span} - {whole}) < 1e-9")


def test_tables_sort_filter_and_download(open_report: Open, report: Path, folder: Path) -> None:
    page = open_report(report)
    section = page.locator("#comparison-table")
    tools = page.locator("#comparison .tools").first
    head = section.locator("thead th", has_text="Size").locator("button")
    head.focus()
    page.keyboard.press("Enter")
    names = [text.split("\n")[0] for text in section.locator("tbody th").all_inner_texts()]
    assert names[:4] == ["Q4_0", "Q4_K_M", "Q8_0", "F16"]
    page.keyboard.press("Enter")
    names = [text.split("\n")[0] for text in section.locator("tbody th").all_inner_texts()]
    assert names[:4] == ["F16", "Q8_0", "Q4_K_M", "Q4_0"]
    assert len(names) == 5, "what has no size stays last"
    tools.get_by_role("searchbox").fill("q4_")
    assert section.locator("tbody tr:visible").count() == 2
    with page.expect_download() as download:
        tools.get_by_role("button", name="Download CSV").click()
    rows = list(csv.DictReader(io.StringIO(Path(download.value.path()).read_text(encoding="utf-8"))))
    assert [row["Variant"] for row in rows] == ["Q4_K_M", "Q4_0"]
    size = next(name for name in rows[0] if name.startswith("Size"))
    assert float(rows[1][size]) == value_of(folder, "Q4_0", "files", "size_bytes")


def test_requests_and_changed_answers_can_be_looked_into(open_report: Open, report: Path) -> None:
    page = open_report(report)
    _, rows = table_of(drawn(page, "plot-requests"))
    told = [" ".join(row) for row in rows]
    assert any("32 tokens in, 64 out, ok" in line for line in told)
    assert any("error, http" in line and "</script>" in line for line in told), "shown, not run"
    flips = page.locator("details", has=page.locator("summary", has_text="of 40 changed")).first
    assert "right to wrong" in flips.inner_text()


@pytest.mark.parametrize(("width", "scheme"), [(WIDE, "light"), (WIDE, "dark"), (PHONE, "light")])
def test_axe_finds_nothing(open_report: Open, report: Path, width: int, scheme: str) -> None:
    from axe_playwright_python.sync_playwright import Axe

    page = open_report(report, width=width, scheme=scheme)
    for chart in ("plot-tradeoff", "plot-load", "plot-time"):
        table_of(drawn(page, chart))
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    results = Axe().run(page, options={"resultTypes": ["violations"]})
    found = [
        (violation["id"], node["html"][:120], node["failureSummary"])
        for violation in results.response["violations"]
        for node in violation["nodes"][:3]
    ]
    assert found == []


@pytest.mark.parametrize("width", [360, 820, 1600])
def test_the_page_never_scrolls_sideways(open_report: Open, report: Path, width: int) -> None:
    page = open_report(report, width=width)
    assert page.evaluate("document.documentElement.scrollWidth") <= width


def test_the_answer_is_on_the_first_screen_and_the_keyboard_reaches_it(open_report: Open, report: Path) -> None:
    page = open_report(report)
    for part in (".figures", ".notes h3"):
        box = page.locator(part).first.bounding_box()
        assert box is not None
        assert box["y"] + box["height"] < 900
    page.keyboard.press("Tab")
    assert page.evaluate("document.activeElement.textContent") == "Skip to the answer"


def test_the_theme_can_be_switched(open_report: Open, report: Path) -> None:
    page = open_report(report)
    background = "getComputedStyle(document.body).backgroundColor"
    light = page.evaluate(background)
    page.get_by_role("button", name=re.compile("dark theme")).click()
    assert page.evaluate(background) != light
    drawn(page, "plot-tradeoff")
    page.wait_for_function(
        """() => Charts.charts.get('plot-tradeoff').figures[0].background_fill_color
            === getComputedStyle(document.documentElement).getPropertyValue('--paper').trim()"""
    )


def test_without_scripts_the_still_pictures_and_all_tables_stand(open_report: Open, report: Path) -> None:
    page = open_report(report, scripts=False)
    assert page.locator("svg.chart:visible").count() == 3
    assert page.locator("#comparison tbody tr:visible").count() == 5
    assert not page.locator("#theme").is_visible()


def test_on_paper_charts_are_still_pictures(open_report: Open, report: Path) -> None:
    page = open_report(report, scheme="dark")
    drawn(page, "plot-tradeoff")
    page.emulate_media(media="print")
    assert page.locator("svg.chart:visible").count() == 3
    assert not page.locator("#plot-tradeoff").is_visible()
    assert page.locator("button:visible:not(.sort)").count() == 0
    assert page.evaluate("getComputedStyle(document.body).backgroundColor") == "rgb(255, 255, 255)"


def test_runs_with_nothing_to_draw_open_too(open_report: Open, tmp_path: Path) -> None:
    broken = FakeRun(tmp_path / "failed")
    for variant in ("F16", "Q8_0"):
        broken.cell(variant, scenarios=(), tasks=False, variant={}, **failed(log_tail=HOSTILE))
    single = FakeRun(tmp_path / "one")
    single.cell("Q8_0")
    for run, words in ((broken, "every cell failed"), (single, "nothing to compare it with")):
        page = open_report(build_report([run.directory], tmp_path / run.directory.name / "out", CONFIG))
        page.locator("#answer").get_by_text(words).first.wait_for()


@pytest.fixture
def real_report(request: pytest.FixtureRequest) -> Path:
    """The quickstart's report, or the folder of another that QUANTBENCH_TEST_REPORT names."""
    named = os.environ.get("QUANTBENCH_TEST_REPORT")
    if named:
        return Path(named).resolve()
    quickstart: Quickstart = request.getfixturevalue("quickstart")
    return quickstart.workspace.folder / "reports" / "quickstart"


@pytest.mark.llama_cpp
def test_the_report_of_a_real_quickstart(open_report: Open, real_report: Path) -> None:
    page = open_report(real_report / "report.html")
    numbers = assert_numbers_equal_the_csv(page, real_report)
    assert numbers > 100
    figures = {path.name for path in (real_report / "figures").iterdir()}
    stems = {name.partition(".")[0] for name in figures}
    assert figures == {f"{name}.{suffix}" for name in stems for suffix in ("svg", "png", "pdf")}
    # Latency is drawn where enough requests were asked for valid medians, as a whole quickstart does.
    assert {"quality-against-cost", "quality-with-intervals"} <= stems
    assert page.locator("svg.chart").count() == len(stems)
    warned = page.locator("#quality").get_by_text("plumbing only").first
    warned.scroll_into_view_if_needed()  # what is out of sight is laid out, and has a text to read, later
    warned.wait_for(state="visible", timeout=10_000)
    for chart in ("plot-tradeoff", "plot-distribution", "plot-time", "plot-requests"):
        _, rows = table_of(drawn(page, chart))
        assert rows
    labels: Any = page.evaluate("Charts.charts.get('plot-time').figures.map(figure => figure.left[0].axis_label)")
    assert labels[0] in {"Output tokens/s", "Token-bearing events/s"}, "the latter where the stream tells no counts"
    assert "Requests, largest" in labels
    print(f"{numbers} numbers of {real_report.name}/report.html equal summary.csv")
