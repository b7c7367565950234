"""Charts of whole variants: what is lost against what is gained, and every quality figure with its interval."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from bench.analysis.axes import memory_reading
from bench.analysis.candidates import Candidate
from bench.analysis.estimate import Estimate
from bench.analysis.quality import quality_metric, tasks_by_tag
from bench.analysis.readings import Reading, read
from bench.report.plots import Axis, Cast, Choice, Draw, Panel, Plot, Series, View
from bench.report.tables import ACCURACY, multiple_choice_tasks

Quantity = Callable[[Candidate], Estimate | None]
FOREST_ROW, FOREST_TOP = 30, 70
FOREST_ROWS = 40


@dataclass(frozen=True, kw_only=True)
class Measure:
    """Something every variant has one of; `better` is its better side, `axis` the analysis' name for it."""

    name: str
    label: str
    better: str
    of: Quantity
    axis: str = "-"
    bound: float | None = None


def tradeoff(cast: Cast) -> Plot | None:
    """Loss against cost, speed, latency, size or memory, with intervals on both axes; None without a point."""
    losses = [measure for measure in _losses(cast) if _has(cast, measure)]
    gains = [measure for measure in _gains(cast) if _has(cast, measure)]
    views = [
        view
        for i, gain in enumerate(gains)
        for j, loss in enumerate(losses)
        if (view := _tradeoff_view(cast, (i, j), gain, loss)) is not None
    ]
    if not views:
        return None
    return Plot(
        id="plot-tradeoff",
        section="answer",
        title="What is lost for what is gained",
        note="Bars are 95 % intervals. Only valid numbers of cells that may be compared are drawn; the dashed line is"
        " the limit of what a recommended variant may lose, the dotted one joins the variants that no other beats on"
        " both axes.",
        views=views,
        choices=(
            Choice(name="Across", options=[measure.name for measure in gains]),
            Choice(name="Up", options=[measure.name for measure in losses]),
        ),
    )


def _has(cast: Cast, measure: Measure) -> bool:
    return any(measure.of(candidate) is not None for candidate in cast.compared)


def usable(reading: Reading, factor: float = 1.0) -> Estimate | None:
    """A valid reading's estimate in the unit of the chart; None where it may not be drawn."""
    return reading.estimate.scaled(factor) if reading.usable and reading.estimate is not None else None


def plain(value: float | None, factor: float = 1.0) -> Estimate | None:
    """A figure without an interval."""
    return None if value is None else Estimate(value=value * factor)


def _gains(cast: Cast) -> list[Measure]:
    reference, price = cast.analysis.reference, cast.analysis.config.price
    name = reference.name if reference is not None else ""
    at = f" at {name}" if reference is not None else ""

    def load(tag: str, statistic: str | None = None) -> Quantity:
        return lambda candidate: usable(read(candidate.cell, "scenarios", name, tag, statistic))

    return [
        Measure(
            name="cost",
            label=f"Cost{at}, {price.currency} per million output tokens",
            better="left",
            of=lambda c: usable(c.cost),
            axis="cost",
        ),
        Measure(
            name="throughput",
            label=f"Output tokens/s{at}",
            better="right",
            of=lambda c: usable(c.throughput),
            axis="throughput",
        ),
        Measure(name="TTFT, median", label=f"Median TTFT{at}, ms", better="left", of=load("ttft")),
        Measure(name="TTFT, p99", label=f"TTFT p99{at}, ms", better="left", of=load("ttft", "p99")),
        Measure(name="ITL, median", label=f"Median ITL{at}, ms", better="left", of=load("itl")),
        Measure(name="size", label="Size of the files, MB", better="left", of=lambda c: plain(c.cell.size_bytes, 1e-6)),
        Measure(
            name="bits per weight",
            label="Effective bits per weight",
            better="left",
            of=lambda c: plain(c.cell.bits_per_weight),
        ),
        Measure(
            name="memory",
            label="Memory while serving, MB",
            better="left",
            of=lambda c: usable(memory_reading(c), 1e-6),
            axis="memory",
        ),
    ]


def _losses(cast: Cast) -> list[Measure]:
    limit = 100 * cast.analysis.config.max_perplexity_increase
    measures = [
        Measure(
            name="perplexity change",
            label="Perplexity change, %",
            better="down",
            of=lambda c: usable(c.loss.perplexity_change, 100),
            bound=limit,
        ),
        Measure(
            name="divergence", label="Mean divergence, nat/token", better="down", of=lambda c: usable(c.loss.divergence)
        ),
    ]
    return [*measures, *_accuracies(cast)]


def _accuracies(cast: Cast) -> list[Measure]:
    def of(task: str) -> Quantity:
        return lambda candidate: usable(read(candidate.cell, "tasks", task, ACCURACY), 100)

    names = multiple_choice_tasks(cast.analysis)
    return [Measure(name=f"accuracy in {t}", label=f"Accuracy in {t}, %", better="up", of=of(t)) for t in names]


def _tradeoff_view(cast: Cast, at: tuple[int, int], gain: Measure, loss: Measure) -> View | None:
    series = []
    drawn: list[tuple[float, float]] = []
    standing = {
        point.cell: point.why
        for front in cast.analysis.frontiers
        if front.x.name.startswith(gain.axis) and front.y.name == loss.name
        for point in front.points
    }
    for candidate in cast.compared:
        x, y = gain.of(candidate), loss.of(candidate)
        if x is None or y is None:
            continue
        drawn.append((x.value, y.value))
        series.append(
            Series(
                name=candidate.cell.label,
                colour=cast.look(candidate).colour,
                draw=Draw.POINTS,
                x=[x.value],
                y=[y.value],
                x_lo=[x.lo],
                x_hi=[x.hi],
                lo=[y.lo],
                hi=[y.hi],
                told=[_told(candidate, standing)],
                labelled=True,
            )
        )
    if not drawn:
        return None
    lines = (
        [_rule("limit", [min(x for x, _ in drawn), max(x for x, _ in drawn)], [loss.bound] * 2)] if loss.bound else []
    )
    front = frontier(drawn, left=gain.better == "left", down=loss.better == "down")
    if len(front) > 1:
        lines.append(_rule("not beaten by another", [x for x, _ in front], [y for _, y in front], faint=True))
    better = f"Better is {'to the left' if gain.better == 'left' else 'to the right'} and {loss.better}."
    missing = len(cast.compared) - len(drawn)
    rest = f" {missing} compared cell{'s lack' if missing > 1 else ' lacks'} one of the two figures." if missing else ""
    return View(
        at=at,
        x=Axis(label=gain.label),
        panels=[
            Panel(y=Axis(label=loss.label, may_be_log=loss.name == "divergence"), series=[*lines, *series], height=300)
        ],
        note=better + rest,
    )


def _rule(name: str, x: Sequence[float | None], y: Sequence[float | None], *, faint: bool = False) -> Series:
    return Series(name=name, draw=Draw.RULE, x=x, y=y, faint=faint)


def _told(candidate: Candidate, standing: Mapping[str, str]) -> str:
    """Why it is not on the frontier, where the analysis has that for these axes."""
    words = "baseline" if candidate.is_baseline else ""
    return "; ".join(part for part in (words, standing.get(candidate.cell.id, "")) if part)


def frontier(points: Sequence[tuple[float, float]], *, left: bool, down: bool) -> list[tuple[float, float]]:
    """The points that no other beats on both axes, by value, from the best x to the worst."""
    best: float | None = None
    front = []
    for x, y in sorted(points, key=lambda p: (p[0] if left else -p[0], p[1] if down else -p[1])):
        if best is None or (y < best if down else y > best):
            front.append((x, y))
            best = y
    return front


def quality_forest(cast: Cast) -> Plot | None:
    """A row a variant and its interval, for every quality figure; None without any."""
    tasks = tasks_by_tag(cast.analysis.results.cells)

    def metric(tag: str) -> Quantity:
        return lambda candidate: usable(quality_metric(candidate.cell, tasks, tag))

    measures = [
        *_losses(cast)[:2],
        Measure(name="perplexity", label="Perplexity", better="left", of=lambda c: usable(c.loss.perplexity)),
        Measure(
            name="same top token",
            label="Share of tokens with the baseline's most likely one",
            better="right",
            of=metric("top1_agreement"),
        ),
        *_accuracies(cast),
    ]
    measures = [measure for measure in measures if _has(cast, measure)]
    views = [_forest_view(cast, index, measure) for index, measure in enumerate(measures)]
    if not views:
        return None
    return Plot(
        id="plot-quality",
        section="quality",
        title="Quality with intervals",
        note="A row a variant; bars are 95 % intervals.",
        views=views,
        choices=(Choice(name="Figure", options=[measure.name for measure in measures]),),
    )


def _forest_view(cast: Cast, index: int, measure: Measure) -> View:
    having = [(c, e) for c in cast.compared if (e := measure.of(c)) is not None]
    shown = having[:FOREST_ROWS]
    count = len(shown)
    series = [
        Series(
            name=candidate.cell.label,
            colour=cast.look(candidate).colour,
            draw=Draw.POINTS,
            x=[estimate.value],
            y=[count - 1 - row],
            x_lo=[estimate.lo],
            x_hi=[estimate.hi],
        )
        for row, (candidate, estimate) in enumerate(shown)
    ]
    lines = [_rule("limit", [measure.bound] * 2, [-0.5, count - 0.5])] if measure.bound else []
    ticks = {float(count - 1 - row): candidate.cell.label for row, (candidate, _) in enumerate(shown)}
    rest = f" The first {count} of {len(having)} cells." if len(having) > count else ""
    return View(
        at=(index,),
        x=Axis(label=measure.label, may_be_log=measure.name == "divergence"),
        panels=[
            Panel(
                y=Axis(label="", may_be_log=False, ticks=ticks),
                series=[*lines, *series],
                height=FOREST_TOP + FOREST_ROW * max(2, count),
            )
        ],
        note=rest.strip(),
    )
