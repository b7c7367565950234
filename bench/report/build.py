"""From run directories to a folder with report.html, summary.md, summary.csv and figures/."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from bench.analysis.candidates import analyse
from bench.analysis.config import ReportConfig
from bench.analysis.load import load_results
from bench.analysis.recommend import recommend
from bench.base.errors import UsageError
from bench.base.files import write_atomic
from bench.base.progress import Progress
from bench.report import chart_latency, chart_loss, chart_quality

if TYPE_CHECKING:
    import pandas as pd

HTML = "report.html"
MARKDOWN = "summary.md"
CSV = "summary.csv"
FIGURES = "figures"
FIGURE_NAMES = (chart_quality.NAME, chart_latency.NAME, chart_loss.NAME)
TEXT_COLUMNS = (
    "run",
    "cell_key",
    "cell",
    "variant",
    "engine",
    "model",
    "hardware",
    "status",
    "source",
    "metric",
    "unit",
    "validity",
)


def build_report(run_dirs: Sequence[Path], out: Path, config: ReportConfig, progress: Progress | None = None) -> Path:
    """Write the report of recorded runs into the folder `out`; returns the path of `report.html`, written last.

    Raises UsageError when a directory is not a run, the named baseline or load was not recorded, or `out` is a file.
    """
    from bench.analysis.table import tidy
    from bench.report.markdown import render_markdown
    from bench.report.outputs import write_outputs
    from bench.report.page import render_page
    from bench.report.render import pictures
    from bench.report.tracking import check, track

    report = progress or Progress()
    if out.exists() and not out.is_dir():
        raise UsageError(f"out={out} is a file; name a folder for the report")
    check(config.tracking)
    results = load_results(run_dirs)
    report.say(f"analysing {len(results.cells)} cells")
    analysis = analyse(results, config)
    answer = recommend(analysis)
    drawn = pictures(analysis, answer.choice)
    _remove_old_figures(out / FIGURES)
    for picture in drawn:
        write_atomic(out / FIGURES / f"{picture.name}.svg", picture.svg)
        write_atomic(out / FIGURES / f"{picture.name}.png", picture.png)
        write_atomic(out / FIGURES / f"{picture.name}.pdf", picture.pdf)
    frame = tidy(analysis)
    write_atomic(out / CSV, as_csv(frame))
    write_outputs(out, analysis, answer, frame)
    write_atomic(out / MARKDOWN, render_markdown(analysis, answer).encode())
    path = out / HTML
    write_atomic(path, render_page(analysis, answer, drawn).encode())
    report.say(f"wrote {path}")
    for told in track(analysis, answer, out):
        report.say(told)
    return path


def _remove_old_figures(folder: Path) -> None:
    """An earlier report's figure must not stay beside a report that has none of that name."""
    for name in FIGURE_NAMES:
        for suffix in ("svg", "png", "pdf"):
            (folder / f"{name}.{suffix}").unlink(missing_ok=True)


def as_csv(frame: pd.DataFrame) -> bytes:
    """The tidy table as CSV (UTF-8, full precision). Texts are one cleaned line, and none starts a formula."""
    from bench.report.clean import one_line

    def inert(value: object) -> object:
        if not isinstance(value, str):
            return value
        line = one_line(value)
        return f"'{line}" if line.startswith(("=", "+", "-", "@")) else line

    shown = frame.copy()
    for column in TEXT_COLUMNS:
        shown[column] = shown[column].map(inert)
    text: str = shown.to_csv(index=False, lineterminator="\n")
    return text.encode()
