"""What a report costs: time and memory to make it, its weight, and how soon its page can be used.

    .venv/bin/python scripts/bench_page.py --cells 50
    .venv/bin/python scripts/bench_page.py --cells 500 --requests 1000000

Cells are copies of one with its recordings, each with a load of `requests / cells` requests. The page is opened in
headless Chromium from disk; it can be used when its tables sort and the first chart is drawn. Needs the tests' folder.
"""

from __future__ import annotations

import argparse
import resource
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from tests.unit.report.fake_runs import FakeRun, events_table, requests_table

CHROMIUM = "/usr/bin/chromium"
TOKENS_SHOWN = 16
BUILD = """
import sys, time
from pathlib import Path
from bench.analysis.config import ReportConfig
from bench.base.compose import compose
from bench.report.build import build_report
import resource
began = time.perf_counter()
build_report([Path(sys.argv[1])], Path(sys.argv[2]), compose("report", ["price=assumed_cpu"], ReportConfig))
peak_mb = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e3
print(f"made in {time.perf_counter() - began:.1f} s, at most {peak_mb:.0f} MB")
"""


def main() -> None:
    """Make the run, the report of it, and open the page."""
    import pyarrow.parquet as pq

    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--cells", type=int, default=50)
    parser.add_argument("--requests", type=int, default=0, help="of all cells together; 0: 24 a load")
    parser.add_argument("--keep", type=Path, help="leave run and report here")
    asked = parser.parse_args()
    root = Path(tempfile.mkdtemp()) if asked.keep is None else asked.keep
    try:
        run = FakeRun(root / "run")
        run.cell("F16", scenarios=(1, 4, 16))
        template = run.cell("Q8_0", scenarios=(1, 4, 16))
        each = max(24, asked.requests // max(1, 3 * asked.cells))
        for name in ("c1", "c4", "c16"):
            (path,) = template.glob(f"scenarios/{name}-*/requests.parquet")
            table = requests_table(concurrency=int(name[1:]), itl_ms=12, requests=each, seed=1)
            pq.write_table(table, path)
            pq.write_table(events_table(table), path.with_name("events.parquet"))
        for number in range(asked.cells - 2):
            folder = run.directory / "cells" / f"{number:016d}"
            shutil.copytree(template, folder)
            text = (folder / "cell.json").read_text(encoding="utf-8")
            text = text.replace(template.name, folder.name).replace("Q8_0 · llama_cpp", f"Q8_0-{number} · llama_cpp")
            (folder / "cell.json").write_text(text, encoding="utf-8")
        print(f"{asked.cells} cells, {3 * each * (asked.cells - 1):,} requests")
        built = subprocess.run(
            [sys.executable, "-c", BUILD, str(run.directory), str(root / "out")],
            check=True, capture_output=True, text=True, cwd=Path(__file__).resolve().parents[1],
        )  # fmt: skip
        print(built.stdout.strip())
        page = root / "out" / "report.html"
        print(f"report.html: {page.stat().st_size / 1e6:.2f} MB; usable after {opened_s(page):.2f} s")
    finally:
        if asked.keep is None:
            shutil.rmtree(root)
    print(f"whole script: at most {resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e3:.0f} MB")


def opened_s(page: Path) -> float:
    """Seconds from asking for the page until its tables sort and its first chart is drawn; the best of three."""
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox", "--disable-gpu"])
        taken = []
        for _ in range(3):
            tab = browser.new_page(viewport={"width": 1280, "height": 900})
            began = time.perf_counter()
            tab.goto(page.as_uri())
            tab.wait_for_selector("html[data-ready]")
            tab.wait_for_selector(".plot[data-drawn]")
            taken.append(time.perf_counter() - began)
            tab.close()
        browser.close()
    return min(taken)


if __name__ == "__main__":
    main()
