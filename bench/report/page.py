"""The HTML page: everything a reader sees, rendered once, with nothing to fetch."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from bench._version import __version__
from bench.analysis import formatting as fmt
from bench.analysis.candidates import Analysis
from bench.analysis.recommend import Answer
from bench.analysis.results import Results
from bench.report import cost_tables, records, server_table, tables
from bench.report.assets import embedded_json, scripts_for
from bench.report.clean import clean, short, tail
from bench.report.flips import flips
from bench.report.plot_load import load_curves
from bench.report.plot_raw import raw_plots
from bench.report.plot_variants import quality_forest, tradeoff
from bench.report.plots import Cast, Plot, as_json, cast_of
from bench.report.redact import shown_command
from bench.report.remedies import remedy
from bench.report.render import Picture
from bench.report.unmeasured import not_measured

TEMPLATES = Path(__file__).parent / "templates"
CONTENTS = (
    ("answer", "Answer"),
    ("comparison", "Comparison"),
    ("cost", "Cost and capacity"),
    ("latency", "Latency"),
    ("quality", "Quality"),
    ("runs", "Inside a run"),
    ("validity", "Validity"),
    ("failures", "Failures"),
    ("variants", "Variants"),
    ("provenance", "Provenance"),
    ("methods", "Methods"),
)
STILL = {
    "plot-tradeoff": "quality-against-cost",
    "plot-load": "latency-against-load",
    "plot-quality": "quality-with-intervals",
}
"""Interactive charts and the still pictures that stand for them on paper and without scripts."""


def render_page(analysis: Analysis, answer: Answer, pictures: Sequence[Picture]) -> str:
    """The whole report as one HTML document; every text in it is escaped and inert."""
    from jinja2 import Environment, FileSystemLoader, StrictUndefined
    from markupsafe import Markup

    environment = Environment(
        loader=FileSystemLoader(TEMPLATES),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        finalize=lambda value: clean(value) if isinstance(value, str) and not isinstance(value, Markup) else value,
    )
    environment.filters |= {"short": short, "tail": tail, "remedy": remedy}
    price = analysis.config.price
    cast = cast_of(analysis, answer.choice)
    plots, left_out = page_plots(cast)
    scripts = scripts_for(charts=bool(plots))
    charts = _charts(plots, pictures)
    sections = {chart["section"] for chart in charts}
    return environment.get_template("report.html.j2").render(
        title=title_of(analysis.results),
        summary=summary_line(analysis),
        version=__version__,
        contents=[entry for entry in CONTENTS if entry[0] != "runs" or "runs" in sections],
        scripts=scripts,
        # Our own scripts and escaped data: see bench.report.assets.
        script_texts=[Markup(text) for text in scripts.texts],  # noqa: S704
        plots=Markup(embedded_json(as_json(plots))) if plots else "",  # noqa: S704
        charts=charts,
        raw_left_out=left_out,
        flips=flips(cast),
        unmeasured=not_measured(analysis, answer.choice),
        answer=answer,
        key_figures=tables.key_figures(analysis, answer.choice) if answer.choice is not None else [],
        reference=analysis.reference,
        loads=analysis.loads,
        price=price,
        price_text=f"{fmt.listed_price(price.currency, price.hourly)} per hour",
        margins={name: fmt.percent(getattr(analysis.config.margins, name)) for name in ("throughput", "perplexity")},
        limit=fmt.percent(analysis.config.max_perplexity_increase),
        comparison=tables.comparison(analysis, answer.choice),
        **_money(analysis, answer),
        standings=cost_tables.standings(analysis.frontiers),
        not_comparable=analysis.not_comparable,
        watermark=analysis.watermark,
        latency=tables.latency(analysis, answer.choice),
        server_latency=server_table.server_latency(analysis, answer.choice),
        server_states=server_table.server_states(analysis, answer.choice),
        quality=tables.quality(analysis, answer.choice),
        multiple_choice=tables.multiple_choice(analysis, answer.choice),
        task_notes=tables.task_notes(analysis),
        scored_by=tables.scored_by(analysis.candidates),
        doubts=records.doubts(analysis),
        own_errors=tables.own_errors(analysis, answer.choice),
        faults=records.faults(analysis),
        unsupported=records.unsupported(analysis),
        artefacts=records.artefacts(analysis),
        models=records.models(analysis),
        machines=records.machines(analysis),
        runs=run_facts(analysis.results),
        toolchains=records.toolchains(analysis),
        cell_records=records.cell_records(analysis),
    )


def _money(analysis: Analysis, answer: Answer) -> dict[str, Any]:
    """What the part on cost and capacity shows."""
    matrix = cost_tables.cost_matrix(analysis, answer.choice)
    traffic = analysis.config.traffic
    asked = f"{traffic.peak_rate_per_s:g} requests/s" if traffic.peak_rate_per_s else ""
    if traffic.users:
        asked = f"{traffic.users} users, each {traffic.think_time_s:g} s between answer and question"
    rules, own_rule = cost_tables.rules(analysis)
    note, figures = cost_tables.published_tables()
    return {
        "cost": matrix,
        "has_energy": any(not row.numbers[6].missing for row in matrix),
        "correct_tasks": list(dict.fromkeys(task for row in matrix for task, _ in row.correct)),
        "cost_by_load": cost_tables.costs_by_load(analysis, answer.choice),
        "split_rule": analysis.config.split.rule.value.replace("_", " "),
        "capacity": cost_tables.capacity(analysis, answer.choice),
        "slo": cost_tables.slo_words(analysis),
        "traffic": f"{asked}, {fmt.percent(traffic.headroom)} kept free" if asked else "",
        "rules": rules,
        "rule_for_users": own_rule,
        "break_evens": cost_tables.break_evens(analysis),
        "api": analysis.config.api,
        "published_note": note,
        "published": figures,
    }


def page_plots(cast: Cast) -> tuple[list[Plot], str]:
    """Every interactive chart there is data for, and which raw recordings are left out."""
    raw, left_out = raw_plots(cast)
    plots = [tradeoff(cast), cost_tables.demand_plot(cast), load_curves(cast), quality_forest(cast), *raw]
    return [plot for plot in plots if plot is not None], left_out


def _charts(plots: Sequence[Plot], pictures: Sequence[Picture]) -> list[dict[str, Any]]:
    """Charts in page order: interactive ones with their still picture, and pictures that have none."""
    from markupsafe import Markup

    still = {picture.name: picture for picture in pictures}
    charts = []
    for plot in plots:
        picture = still.pop(STILL.get(plot.id, ""), None)
        charts.append(_chart(plot.section, plot.title, picture) | {"live": plot.id, "note": plot.note})
    charts += [_chart(picture.section, picture.title, picture) for picture in still.values()]
    for chart in charts:
        # Drawn by us and escaped where it was drawn.
        chart["still"] = Markup(chart["still"])  # noqa: S704
    return charts


def _chart(section: str, title: str, picture: Picture | None) -> dict[str, Any]:
    return {
        "section": section,
        "title": title,
        "anchor": f"figure-{picture.name}"
        if picture is not None
        else f"figure-{section}-{title.lower().replace(' ', '-')}",
        "live": "",
        "note": "",
        "still": picture.inline if picture is not None else "",
        "description": picture.description if picture is not None else "",
        "tables": picture.tables if picture is not None else (),
    }


def title_of(results: Results) -> str:
    """The runs' names."""
    return fmt.listing([run.name for run in results.runs])


def summary_line(analysis: Analysis) -> str:
    """How many cells, how they stand, and when they were measured."""
    counts: dict[str, int] = {}
    for cell in analysis.results.cells:
        counts[cell.status] = counts.get(cell.status, 0) + 1
    told = ", ".join(f"{count} {short(status, 30)}" for status, count in counts.items()) or "no cells"
    finished = [run.finished for run in analysis.results.runs if run.finished is not None]
    dates = f"; finished {short(max(finished), 40)}" if finished else ""
    open_runs = [f"{run.name} {run.status}" for run in analysis.results.runs if run.status != "complete"]
    unfinished = f"; run {short(fmt.listing(open_runs))}" if open_runs else ""
    engines = dict.fromkeys(cell.engine_kind for cell in analysis.results.cells if cell.engine_kind is not None)
    served = f"; served by {short(fmt.listing(list(engines)))}" if engines else ""
    return f"{told}{served}{dates}{unfinished}"


def run_facts(results: Results) -> list[list[tuple[str, str]]]:
    """What each run was: name, state, times, version, command."""

    return [
        [
            (name, value)
            for name, value in (
                ("name", run.name),
                ("status", run.status),
                ("started", run.started),
                ("finished", run.finished),
                ("quantbench", run.version),
                ("command", shown_command(run.command)),
                ("overrides", " ".join(run.overrides)),
            )
            if value
        ]
        for run in results.runs
    ]
