"""The README's pictures of a report, in headless Chromium: first screens, single charts, and a telephone in the dark.

    .venv/bin/python scripts/picture_report.py reports/quickstart/report.html docs/images

Needs Debian's chromium (`scripts/install_chromium.sh`).
"""

from __future__ import annotations

import io
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from PIL import Image

if TYPE_CHECKING:
    from playwright.sync_api import Page

CHROMIUM = "/usr/bin/chromium"
COLOURS = 256
DESKTOP, PHONE = (1280, 1000), (390, 844)


def main() -> None:
    """Take the pictures."""
    from playwright.sync_api import sync_playwright

    page, folder = (Path(word).resolve() for word in sys.argv[1:3])
    folder.mkdir(parents=True, exist_ok=True)
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox", "--disable-gpu"])
        for name, size, dark, part in (
            ("report", DESKTOP, False, None),
            ("report-runs", DESKTOP, False, "figure-runs-a-run-over-time"),
            ("report-dark", DESKTOP, True, "latency"),
            ("report-phone", PHONE, True, None),
        ):
            width, height = size
            tab = browser.new_page(
                viewport={"width": width, "height": height}, color_scheme="dark" if dark else "light"
            )
            tab.goto(page.as_uri())
            tab.wait_for_selector("html[data-ready]")
            if part is not None:
                tab.evaluate("id => document.getElementById(id).scrollIntoView()", part)
            _settle(tab)
            _save(tab.screenshot(), folder / f"{name}.png")
            tab.close()
        browser.close()


def _settle(tab: Page) -> None:
    """Until every chart in sight is drawn."""
    tab.wait_for_timeout(1500)
    tab.wait_for_function(
        """[...document.querySelectorAll('.plot')].every(plot => {
          const box = plot.getBoundingClientRect();
          return box.top > innerHeight || box.bottom < 0 || plot.dataset.drawn;
        })"""
    )


def _save(picture: bytes, path: Path) -> None:
    """With few colours, so that the picture is small."""
    image = Image.open(io.BytesIO(picture)).convert("RGB")
    image.quantize(COLOURS, method=Image.Quantize.MAXCOVERAGE, dither=Image.Dither.NONE).save(path, optimize=True)
    print(f"{path}: {path.stat().st_size // 1000} kB")


if __name__ == "__main__":
    main()
