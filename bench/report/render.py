"""Figures as bytes: standalone SVG, PNG and PDF files, and an SVG that can live in a page beside others."""

from __future__ import annotations

import html
import io
import re
from collections.abc import Callable
from dataclasses import dataclass

from bench.analysis.candidates import Analysis, Candidate
from bench.report.chart_latency import latency_chart
from bench.report.chart_loss import loss_chart
from bench.report.chart_quality import quality_chart
from bench.report.clean import clean
from bench.report.figures import PRINT, ROLES, Chart, Subject, style

_HEAD = re.compile(r"^.*?(?=<svg)", re.DOTALL)
_METADATA = re.compile(r"<metadata>.*?</metadata>", re.DOTALL)
_STYLE = re.compile(r"<style[^>]*>.*?</style>", re.DOTALL)
_ROOT = re.compile(r"<svg\b[^>]*>")
_VIEW_BOX = re.compile(r'viewBox="([^"]*)"')
_ID = re.compile(r'\bid="([^"]+)"')
_REFERENCE = re.compile(r'(xlink:href="#|url\(#)([^")]+)')
PNG_DPI = 160

VARIABLES = {
    ROLES.ink: "var(--ink)",
    ROLES.muted: "var(--muted)",
    ROLES.rule: "var(--rule)",
    ROLES.paper: "var(--paper)",
    **{colour: f"var(--s{index})" for index, colour in enumerate(ROLES.series, start=1)},
}


@dataclass(frozen=True, kw_only=True)
class Picture:
    """A chart in its three forms: `inline` is markup for the page, the others are files."""

    name: str
    title: str
    description: str
    section: str
    tables: tuple[str, ...]
    inline: str
    svg: bytes
    png: bytes
    pdf: bytes


def pictures(analysis: Analysis, choice: Candidate | None) -> list[Picture]:
    """Every figure there is data for."""
    drawn = [_picture(draw, analysis, choice) for draw in (quality_chart, latency_chart, loss_chart)]
    return [picture for picture in drawn if picture is not None]


def _picture(draw: Callable[[Subject], Chart | None], analysis: Analysis, choice: Candidate | None) -> Picture | None:
    import matplotlib as mpl

    with mpl.rc_context(style(ROLES)):
        themed = draw(Subject(analysis=analysis, choice=choice, palette=ROLES))
        if themed is None:
            return None
        inline = inlined(themed, _save_svg(themed))
    with mpl.rc_context(style(PRINT)):
        printed = draw(Subject(analysis=analysis, choice=choice, palette=PRINT))
        assert printed is not None
        svg, png, pdf = _save_svg(printed), _save_png(printed), _save_pdf(printed)
    return Picture(
        name=themed.name,
        title=themed.title,
        description=themed.description,
        section=themed.section,
        tables=themed.tables,
        inline=inline,
        svg=svg.encode(),
        png=png,
        pdf=pdf,
    )


def _save_svg(chart: Chart) -> str:
    """The same chart always gives the same text."""
    import matplotlib as mpl

    buffer = io.StringIO()
    nothing = dict.fromkeys(("Date", "Creator", "Type", "Format"))
    with mpl.rc_context({"svg.hashsalt": f"quantbench-{chart.name}"}):
        chart.figure.savefig(buffer, format="svg", metadata=nothing)
    return buffer.getvalue()


def _save_png(chart: Chart) -> bytes:
    buffer = io.BytesIO()
    chart.figure.savefig(buffer, format="png", dpi=PNG_DPI, metadata={"Software": None})
    return buffer.getvalue()


def _save_pdf(chart: Chart) -> bytes:
    buffer = io.BytesIO()
    chart.figure.savefig(buffer, format="pdf", metadata={"CreationDate": None, "Creator": None, "Producer": None})
    return buffer.getvalue()


def inlined(chart: Chart, svg: str) -> str:
    """The drawing as an element of a page: theme colours, ids no other chart has, a name, hover texts."""
    text = _HEAD.sub("", svg, count=1)
    text = _STYLE.sub("", _METADATA.sub("", text))
    for role, variable in VARIABLES.items():
        text = text.replace(role, variable)
    text = _ID.sub(lambda match: f'id="{chart.name}-{match[1]}"', text)
    text = _REFERENCE.sub(lambda match: f"{match[1]}{chart.name}-{match[2]}", text)
    for gid, told in chart.tooltips.items():
        anchor = f'<g id="{chart.name}-{gid}">'
        text = text.replace(anchor, f"{anchor}<title>{_escaped(told)}</title>", 1)
    box = _VIEW_BOX.search(text)
    head = (
        f'<svg class="chart" viewBox="{box[1] if box else "0 0 660 250"}" role="img"'
        f' aria-labelledby="{chart.name}-t {chart.name}-d"'
        ' xmlns="http://www.w3.org/2000/svg" xmlns:xlink="http://www.w3.org/1999/xlink">'
        f'<title id="{chart.name}-t">{_escaped(chart.title)}</title>'
        f'<desc id="{chart.name}-d">{_escaped(chart.description)} The tables have the same numbers.</desc>'
    )
    return _ROOT.sub(lambda _: head, text, count=1)


def _escaped(value: str) -> str:
    return html.escape(clean(value), quote=True)
