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
from bench.report import records, server_table, tables
from bench.report.clean import clean, short, tail
from bench.report.redact import redact_command
from bench.report.render import Picture

TEMPLATES = Path(__file__).parent / "templates"
CONTENTS = (
    ("answer", "Answer"),
    ("comparison", "Comparison"),
    ("cost", "Cost"),
    ("latency", "Latency"),
    ("quality", "Quality"),
    ("validity", "Validity"),
    ("failures", "Failures"),
    ("variants", "Variants"),
    ("provenance", "Provenance"),
    ("methods", "Methods"),
)


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
    environment.filters |= {"short": short, "tail": tail}
    price = analysis.config.price
    return environment.get_template("report.html.j2").render(
        title=title_of(analysis.results),
        summary=summary_line(analysis),
        version=__version__,
        contents=CONTENTS,
        answer=answer,
        key_figures=tables.key_figures(analysis, answer.choice) if answer.choice is not None else [],
        reference=analysis.reference,
        loads=analysis.loads,
        price=price,
        price_text=f"{fmt.listed_price(price.currency, price.per_hour)} per hour",
        margins={name: fmt.percent(getattr(analysis.config.margins, name)) for name in ("throughput", "perplexity")},
        limit=fmt.percent(analysis.config.max_perplexity_increase),
        # Drawn by us and escaped where it was drawn.
        pictures=[_picture(picture, Markup(picture.inline)) for picture in pictures],  # noqa: S704
        comparison=tables.comparison(analysis, answer.choice),
        cost=tables.cost_matrix(analysis, answer.choice),
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


def _picture(picture: Picture, inline: Any) -> dict[str, Any]:
    return {
        "title": picture.title,
        "description": picture.description,
        "section": picture.section,
        "tables": picture.tables,
        "inline": inline,
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
    import shlex

    return [
        [
            (name, value)
            for name, value in (
                ("name", run.name),
                ("status", run.status),
                ("started", run.started),
                ("finished", run.finished),
                ("quantbench", run.version),
                ("command", shlex.join(redact_command(run.command))),
                ("overrides", " ".join(run.overrides)),
            )
            if value
        ]
        for run in results.runs
    ]
