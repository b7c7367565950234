"""The README's picture of a report: the first screens of `report.html` in headless Chromium.

    .venv/bin/python scripts/picture_report.py reports/quickstart/report.html docs/images/report.png

Needs Debian's chromium (`scripts/install_chromium.sh`).
"""

from __future__ import annotations

import subprocess
import sys
import tempfile
from pathlib import Path

WIDTH, HEIGHT = 1280, 1800
FLAGS = (
    *("--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--hide-scrollbars"),
    *("--disable-background-networking", "--disable-component-update", "--disable-sync"),
)


def main() -> None:
    """Take the picture."""
    page, picture = (Path(word).resolve() for word in sys.argv[1:3])
    picture.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as profile:
        subprocess.run(
            [
                *("chromium", *FLAGS, f"--user-data-dir={profile}", f"--window-size={WIDTH},{HEIGHT}"),
                *(f"--screenshot={picture}", page.as_uri()),
            ],
            check=True,
            stderr=subprocess.DEVNULL,
            timeout=120,
        )
    print(f"{picture}: {picture.stat().st_size // 1000} kB")


if __name__ == "__main__":
    main()
