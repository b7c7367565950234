"""The figures by themselves: which panels, which points and intervals, what is left out and what is said of it."""

from __future__ import annotations

from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import matplotlib as mpl
import pytest
from hypothesis import given
from hypothesis import strategies as st

from bench.analysis.candidates import analyse
from bench.analysis.config import PriceConfig, ReportConfig
from bench.analysis.load import load_results
from bench.analysis.recommend import recommend
from bench.report.build import build_report
from bench.report.chart_latency import latency_chart
from bench.report.chart_loss import loss_chart
from bench.report.chart_quality import quality_chart
from bench.report.figures import PRINT, Chart, Subject, style
from bench.report.label_places import Box, along, free_place
from tests.unit.report.fake_runs import VARIANTS, FakeRun, edit_summary, quickstart
from tests.unit.report.page_reader import Page
from tests.unit.report.test_report_hostile import HOSTILE
from tests.unit.report.test_report_multiple_choice import NOTE, add_task

CONFIG = ReportConfig(
    price=PriceConfig(name="a machine", per_hour=0.1, date="2026-11-01", source="an invoice"), load="c4"
)


def subject_of(directory: Path, config: ReportConfig = CONFIG) -> Subject:
    """A run, analysed, to be drawn in the files' colours."""
    analysis = analyse(load_results([directory]), config)
    return Subject(analysis=analysis, choice=recommend(analysis).choice, palette=PRINT)


def drawn(draw: Any, subject: Subject) -> Chart:
    with mpl.rc_context(style(PRINT)):
        chart = draw(subject)
    assert isinstance(chart, Chart)
    return chart


def panels(chart: Chart) -> list[Any]:
    """The figure's axes; untyped, because matplotlib's types say nothing of what a line holds."""
    return list(chart.figure.axes)


def titles(chart: Chart) -> list[str]:
    return [axes.get_title("left") for axes in panels(chart)]


def intervals(axes: Any) -> list[tuple[float, float]]:
    """The ends of every horizontal error bar of a panel, from the first row down."""
    return [tuple(segment[:, 0]) for bars in axes.containers for segment in bars.lines[2][0].get_segments()]


@pytest.fixture
def measured(tmp_path: Path) -> Path:
    """Four variants at two closed loops and one Poisson load, with perplexity, divergence and multiple choice."""
    run = FakeRun(tmp_path / "run")
    for number, variant in enumerate(VARIANTS):
        cell = run.cell(variant)
        add_task(cell, 31 - 2 * number, 1, number)
        run.open_loop(cell, 0.8)
    return run.directory


def test_losses_stand_with_their_intervals_a_row_a_variant(measured: Path) -> None:
    chart = drawn(loss_chart, subject_of(measured))
    assert titles(chart) == ["Perplexity change", "Mean divergence", "Accuracy in mmlu"]
    change, divergence, accuracy = panels(chart)
    rows = [label.get_text() for label in change.get_yticklabels()]
    assert rows == ["F16 (baseline)", "Q4_0", "Q4_K_M", "Q8_0"], "the baseline, then cheapest first"
    assert intervals(change)[1] == pytest.approx((18.76 - 3.1, 18.76 + 3.1))
    assert intervals(accuracy)[0] == pytest.approx((31 / 60 - 0.1, 31 / 60 + 0.1))
    told = set(chart.tooltips.values())
    assert "Q8_0: perplexity change +0.26 % (+0.05 to +0.47 %)" in told
    assert "Q8_0: mean divergence 0.00380 (0.00342 to 0.00418)" in told
    assert "Q4_0: accuracy in mmlu 0.417 (0.317 to 0.517)" in told
    assert divergence.get_xscale() == "log"
    assert not [text for text in told if text.startswith("F16: mean divergence")], "0 has no place on such an axis"
    assert [text.get_text() for text in divergence.texts] == ["0"]
    for words in ("The dashed line is the limit, 3.0 %.", "the accuracy of guessing, 0.25", NOTE[1:]):
        assert words in chart.description


def test_an_axis_is_not_stretched_to_a_far_limit(tmp_path: Path) -> None:
    chart = drawn(loss_chart, subject_of(quickstart(tmp_path / "run", ("F16", "Q8_0"))))
    assert panels(chart)[0].get_xlim()[1] < 1
    assert "The limit, 3.0 %, is outside the axis." in chart.description
    assert "dashed" not in chart.description
    assert chart.tables == ("quality",)


def test_losses_that_may_not_be_believed_are_not_drawn(tmp_path: Path) -> None:
    run = FakeRun(tmp_path / "run")
    spoilt = [run.cell(variant) for variant in ("F16", "Q8_0", "Q4_0")][1]

    def spoil(tag: str) -> None:
        edit_summary(spoilt, "divergence", lambda summary: summary["metrics"][tag].update(validity=["under_delivered"]))

    spoil("perplexity_ratio")
    chart = drawn(loss_chart, subject_of(run.directory))
    assert [text.split(" ")[1:3] for text in chart.tooltips.values() if text.startswith("Q8_0")] == [
        ["mean", "divergence"]
    ]
    spoil("mean_divergence")
    chart = drawn(loss_chart, subject_of(run.directory))
    assert not [text for text in chart.tooltips.values() if text.startswith("Q8_0")]
    assert [label.get_text() for label in panels(chart)[0].get_yticklabels()] == ["F16 (baseline)", "Q4_0"]


@pytest.mark.parametrize(("variants", "tasks"), [(("F16", "Q8_0"), False), (("F16",), True)])
def test_without_a_loss_there_is_no_figure_of_it(tmp_path: Path, variants: tuple[str, ...], tasks: bool) -> None:
    run = FakeRun(tmp_path / "run")
    for variant in variants:
        run.cell(variant, tasks=tasks)
    assert loss_chart(subject_of(run.directory)) is None
    build_report([run.directory], tmp_path / "report", CONFIG)
    assert not list((tmp_path / "report/figures").glob("quality-with-intervals*"))


def test_of_many_variants_the_chosen_and_the_baseline_keep_their_rows(tmp_path: Path) -> None:
    run = FakeRun(tmp_path / "run")
    for number in range(19):
        figures = {**VARIANTS["Q8_0"], "ratio": 1.05 + number / 100}
        run.cell(f"Q{number}", figures=figures, scenarios=())
    run.cell("F16", scenarios=())
    analysis = analyse(load_results([run.directory]), ReportConfig(price=CONFIG.price))
    last = analysis.candidates[-2]
    chart = drawn(loss_chart, Subject(analysis=analysis, choice=last, palette=PRINT))
    rows = [label.get_text() for label in panels(chart)[0].get_yticklabels()]
    assert rows == ["F16 (baseline)", *(f"Q{number}" for number in range(14)), "Q18"]
    assert "4 further cells are in the table only." in chart.description


def test_quality_is_drawn_against_speed_cost_and_size(measured: Path) -> None:
    chart = drawn(quality_chart, subject_of(measured))
    assert titles(chart) == ["Loss against speed", "Loss against cost", "Loss against size"]
    corners = [
        [
            line.get_xdata()
            for line in axes.lines
            if len(line.get_xdata()) == len(VARIANTS) and line.get_linewidth() == 1
        ]
        for axes in panels(chart)
    ]
    speed, cost = corners[0][0], corners[1][0]
    assert [len(lines) for lines in corners] == [1, 1, 0], "the frontier in two of three"
    assert sorted(speed) == pytest.approx(sorted(0.1e6 / 3600 / cost))
    assert "further right for speed, further left for cost and size" in chart.description
    for axes in panels(chart):
        assert {text.get_text() for text in axes.texts} == set(VARIANTS)


def test_loads_of_different_arrivals_are_not_joined(measured: Path) -> None:
    chart = drawn(latency_chart, subject_of(measured))
    axes = panels(chart)[0]
    assert [label.get_text() for label in axes.get_xticklabels()] == ["1", "4", "0.8"]
    medians = [line for line in axes.lines if line.get_linewidth() == 1.6]
    assert sorted(len(line.get_xdata()) for line in medians) == [1] * 4 + [2] * 4
    assert "Lines join loads of one arrival process only." in chart.description
    assert "Q8_0 at poisson-0.8: median 25.0 ms, p99 74.0 ms" in chart.tooltips.values()


def test_slow_loads_do_not_press_the_fast_ones_flat(tmp_path: Path) -> None:
    run = FakeRun(tmp_path / "run")
    run.open_loop(run.cell("F16"), 4.0, median_ms=9_000.0)
    chart = drawn(latency_chart, subject_of(run.directory))
    assert [axes.get_yscale() for axes in panels(chart)] == ["log", "log"]


@pytest.mark.parametrize("kind", HOSTILE)
def test_hostile_names_are_inert_in_every_figure(tmp_path: Path, kind: str) -> None:
    run = FakeRun(tmp_path / "run")
    for variant in ("F16", "Q4_0"):
        cell = run.cell(variant, label=f"{HOSTILE[kind]} {variant} · llama_cpp")
        add_task(cell, 30, 0, 0)
        edit_summary(cell, "mmlu", lambda summary: summary.update(notes=[HOSTILE[kind]]))
    report = build_report([run.directory], tmp_path / "report", CONFIG)
    page = Page(report.read_text(encoding="utf-8"))
    assert page.problems == []
    assert len([tag for tag, _ in page.tags if tag == "svg"]) == 3
    assert not {tag for tag, _ in page.tags} & {"img", "b", "iframe", "object", "foreignobject"}
    page.check_scripts()
    assert not [name for _, attrs in page.tags for name in attrs if name.startswith("on")]
    for path in (tmp_path / "report/figures").glob("*.svg"):
        names = {element.tag.rpartition("}")[2] for element in ElementTree.parse(path).iter()}
        assert names <= {"svg", "defs", "style", "g", "path", "use", "text", "tspan", "clipPath", "rect"}, path.name


def test_each_figure_stands_in_its_section(measured: Path, tmp_path: Path) -> None:
    text = build_report([measured], tmp_path / "report", CONFIG).read_text(encoding="utf-8")
    page = Page(text)
    sections = {part.split('"')[0]: part for part in text.split('<section id="')[1:]}
    places = {
        "answer": "quality-against-cost",
        "latency": "latency-against-load",
        "quality": "quality-with-intervals",
    }
    for section, figure in places.items():
        assert f'id="{figure}-t"' in sections[section]
        table = "comparison" if section == "answer" else section
        assert f'href="#{table}-table"' in sections[section]
        assert f"{table}-table" in page.ids
    assert 'and <a href="#multiple-choice-table">multiple choice table</a>' in sections["quality"]


positions = st.tuples(st.floats(0, 300), st.floats(0, 200))


@given(st.lists(st.tuples(positions, st.text("Q4_KM0", min_size=1, max_size=26)), max_size=14))
def test_placed_names_never_cover_each_other_or_a_mark(points: list[tuple[tuple[float, float], str]]) -> None:
    inside = Box(0, 0, 300, 200)
    marks = [Box.around(*position, 6.0) for position, _ in points]
    placed: list[Box] = []
    for position, text in points:
        found = free_place(position, text, inside, [*marks, *placed])
        if found is not None:
            assert found.box.within(inside)
            assert not [box for box in [*marks, *placed] if found.box.overlaps(box)]
            placed.append(found.box)


def test_a_name_keeps_off_a_line_where_it_can() -> None:
    inside = Box(0, 0, 300, 200)
    rising = along([(100, 100), (200, 150)])
    found = free_place((100, 100), "Q8_0", inside, [], rising)
    assert found is not None
    assert (found.horizontal, found.vertical) == ("left", "top")
    everywhere = [inside]
    assert free_place((100, 100), "Q8_0", inside, [], everywhere) is not None
