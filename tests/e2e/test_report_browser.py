"""The report in a real browser, from disk: it fetches nothing, reports no error, and shows the tidy table's numbers."""

from __future__ import annotations

import csv
import io
import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from bench.analysis.config import PriceConfig, ReportConfig
from bench.report.build import build_report
from tests.e2e.conftest import Quickstart
from tests.support import require
from tests.unit.report.fake_runs import FakeRun, edit_summary, failed
from tests.unit.report.page_reader import Number, parse_number, shown_value

if TYPE_CHECKING:
    from selenium.webdriver import Chrome

pytestmark = pytest.mark.browser

CHROMIUM, DRIVER = Path("/usr/bin/chromium"), Path("/usr/bin/chromedriver")
FLAGS = (
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--window-size=1280,900",
)
CONFIG = ReportConfig(price=PriceConfig(name="a machine", per_hour=0.1, date="2026-11-01", source="an invoice"))
HOSTILE = "</script><script>document.title='owned'</script><img src=http://example.invalid/x onerror=alert(1)>\u202e"

READ_NUMBERS = """
return [...document.querySelectorAll('.v[data-metric]')].map(node => ({
  cell: node.closest('[data-cell]').dataset.cell, source: node.dataset.source, metric: node.dataset.metric,
  statistic: node.dataset.statistic, text: node.innerText}));
"""
LOW_CONTRAST = """
const parse = text => text.match(/[\\d.]+/g).map(Number);
const light = ([r, g, b]) => [r, g, b].map(v => v / 255).map(v => v <= .03928 ? v / 12.92 : ((v + .055) / 1.055) ** 2.4)
  .reduce((sum, v, i) => sum + v * [.2126, .7152, .0722][i], 0);
const behind = node => { for (; node; node = node.parentElement) {
  const colour = parse(getComputedStyle(node).backgroundColor); if (colour.length < 4 || colour[3] > 0) return colour; }
  return [255, 255, 255]; };
return [...document.querySelectorAll('main *, header *, nav *, footer *')]
  .filter(node => !node.closest('svg') && [...node.childNodes].some(n => n.nodeType === 3 && n.data.trim()))
  .map(node => { const [a, b] = [light(parse(getComputedStyle(node).color)), light(behind(node))];
    return [(Math.max(a, b) + .05) / (Math.min(a, b) + .05), node.outerHTML.slice(0, 120)]; })
  .filter(([ratio]) => ratio < 4.5);
"""


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Chrome]:
    """Headless Chromium with a fresh profile, its console and its network recorded."""
    require(CHROMIUM.exists() and DRIVER.exists(), "Chromium: run scripts/install_chromium.sh")
    from selenium import webdriver
    from selenium.webdriver.chrome.service import Service

    options = webdriver.ChromeOptions()
    options.binary_location = str(CHROMIUM)
    for flag in (*FLAGS, f"--user-data-dir={tmp_path_factory.mktemp('profile')}"):
        options.add_argument(flag)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL", "performance": "ALL"})
    driver = webdriver.Chrome(options=options, service=Service(str(DRIVER)))
    driver.set_page_load_timeout(60)
    yield driver
    driver.quit()


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A report with valid, invalid, missing and hostile parts."""
    root = tmp_path_factory.mktemp("report")
    run = FakeRun(root / "run")
    for variant in ("F16", "Q8_0", "Q4_0"):
        run.cell(variant)

    def spoil(summary: dict[str, dict[str, dict[str, object]]]) -> None:
        for metric in summary["metrics"].values():
            metric["validity"] = ["under_delivered", HOSTILE]

    edit_summary(run.cell("Q4_K_M"), "c4", spoil)
    run.cell("Q6_K", figures=dict.fromkeys(("bits", "size", "itl_ms", "ratio", "half", "divergence"), 1.0),
             scenarios=(), tasks=False, label=f"{HOSTILE} · llama_cpp", **failed(log_tail=HOSTILE * 20))  # fmt: skip
    return build_report([run.directory], root / "out", CONFIG).parent


def log_of(browser: Any, kind: str) -> list[dict[str, Any]]:
    """What the browser logged since the last call."""
    entries: list[dict[str, Any]] = browser.get_log(kind)
    return entries


def opened(browser: Chrome, folder: Path, scheme: str = "light") -> list[dict[str, Any]]:
    """Open the report from disk; returns the network requests it made."""
    for kind in ("browser", "performance"):
        log_of(browser, kind)
    browser.execute_cdp_cmd(
        "Emulation.setEmulatedMedia", {"features": [{"name": "prefers-color-scheme", "value": scheme}]}
    )
    browser.get((folder / "report.html").as_uri())
    messages = [json.loads(entry["message"])["message"] for entry in log_of(browser, "performance")]
    return [m["params"]["request"] for m in messages if m["method"] == "Network.requestWillBeSent"]


def assert_alone(browser: Chrome, folder: Path) -> None:
    """The report opens from disk, fetches nothing and has nothing to complain of."""
    urls = [request["url"] for request in opened(browser, folder)]
    # The browser's own first page may still be loading its parts.
    assert [url for url in urls if not url.startswith(("data:", "chrome://"))] == [(folder / "report.html").as_uri()]
    assert log_of(browser, "browser") == []


def assert_numbers_equal_the_csv(browser: Chrome, folder: Path) -> int:
    """Every number on the open page is a number of the tidy table, to the last digit shown; returns how many."""
    table = csv.DictReader(io.StringIO((folder / "summary.csv").read_text(encoding="utf-8")))
    known = {(row["cell_key"], row["source"], row["metric"]): row for row in table}
    numbers = [Number(**entry) for entry in browser.execute_script(READ_NUMBERS)]
    for number in numbers:
        value = float(known[number.cell, number.source, number.metric][number.statistic])
        shown, half_unit = parse_number(number.text)
        assert shown == pytest.approx(shown_value(number, value), abs=half_unit * 1.0001), number
    return len(numbers)


def test_it_opens_from_disk_without_network_or_errors(browser: Chrome, folder: Path) -> None:
    assert_alone(browser, folder)
    assert browser.title.startswith("quickstart: Deploy Q8_0")
    assert browser.execute_script("return document.querySelectorAll('script, img, iframe').length") == 0


def test_the_numbers_on_the_page_equal_the_csv(browser: Chrome, folder: Path) -> None:
    opened(browser, folder)
    assert assert_numbers_equal_the_csv(browser, folder) > 150


@pytest.fixture
def real_report(request: pytest.FixtureRequest) -> Path:
    """The quickstart's report, or the folder of another that QUANTBENCH_TEST_REPORT names."""
    named = os.environ.get("QUANTBENCH_TEST_REPORT")
    if named:
        return Path(named).resolve()
    quickstart: Quickstart = request.getfixturevalue("quickstart")
    return quickstart.workspace.folder / "reports" / "quickstart"


@pytest.mark.llama_cpp
def test_the_report_of_a_real_quickstart(browser: Chrome, real_report: Path) -> None:
    assert_alone(browser, real_report)
    numbers = assert_numbers_equal_the_csv(browser, real_report)
    assert numbers > 150
    figures = {path.name for path in (real_report / "figures").iterdir()}
    drawn = {name.partition(".")[0] for name in figures}
    assert figures == {f"{name}.{suffix}" for name in drawn for suffix in ("svg", "png")}
    # Latency is drawn where enough requests were asked for valid medians, as a whole quickstart does.
    assert {"quality-against-cost", "quality-with-intervals"} <= drawn
    assert browser.execute_script("return document.querySelectorAll('svg.chart').length") == len(drawn)
    assert "plumbing only" in browser.find_element("id", "quality").text
    print(f"{numbers} numbers of {real_report.name}/report.html equal summary.csv")


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_every_text_has_contrast_in_both_themes(browser: Chrome, folder: Path, scheme: str) -> None:
    opened(browser, folder, scheme)
    dark = browser.execute_script("return matchMedia('(prefers-color-scheme: dark)').matches")
    assert dark is (scheme == "dark")
    assert browser.execute_script(LOW_CONTRAST) == []


@pytest.mark.parametrize("width", [360, 820, 1600])
def test_the_page_never_scrolls_sideways(browser: Chrome, folder: Path, width: int) -> None:
    metrics = {"width": width, "height": 900, "deviceScaleFactor": 1, "mobile": False}
    browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", metrics)
    try:
        opened(browser, folder)
        assert browser.execute_script("return document.documentElement.scrollWidth") <= width
    finally:
        browser.execute_cdp_cmd("Emulation.clearDeviceMetricsOverride", {})


def test_the_answer_is_on_the_first_screen_and_the_keyboard_reaches_it(browser: Chrome, folder: Path) -> None:
    from selenium.webdriver.common.keys import Keys

    opened(browser, folder)
    bottom = browser.execute_script("return document.querySelector('.figures').getBoundingClientRect().bottom")
    assert bottom < browser.execute_script("return innerHeight")
    body = browser.switch_to.active_element
    body.send_keys(Keys.TAB)
    assert browser.switch_to.active_element.text == "Skip to the answer"
    unreachable = "return [...document.querySelectorAll('.scroll')].filter(n => n.tabIndex !== 0).length"
    assert browser.execute_script(unreachable) == 0
