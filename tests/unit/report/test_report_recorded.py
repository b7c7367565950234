"""What charts draw of raw recordings is what was recorded, however few points are drawn."""

from __future__ import annotations

import itertools
import json
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from bench.analysis.candidates import analyse
from bench.analysis.config import PriceConfig, ReportConfig
from bench.analysis.load import load_results
from bench.analysis.results import Measurement
from bench.report.flips import flips
from bench.report.plot_inside import panels_over_time
from bench.report.plot_raw import raw_plots
from bench.report.plots import cast_of
from bench.report.recorded import binned, chosen_rows, curve_of, distributions, in_flight, read_recording
from tests.unit.report.fake_runs import FakeRun, add_recordings

CONFIG = ReportConfig(price=PriceConfig(name="a machine", per_hour=0.1, date="2026-11-01", source="an invoice"))
values = st.lists(st.floats(0, 1e6, allow_subnormal=False), min_size=1, max_size=400)


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    made = FakeRun(tmp_path_factory.mktemp("recorded") / "run")
    for count, variant in enumerate(("F16", "Q8_0")):
        add_recordings(made.cell(variant), flipped=2 * count)
    return made.directory


def load_of(run: Path, name: str) -> Measurement:
    return load_results([run]).cells[1].scenarios[name]


@given(values, st.integers(8, 100))
def test_every_point_of_a_distribution_is_exact(found: list[float], points: int) -> None:
    curve = curve_of(np.array([*found, np.nan]), points)
    assert curve is not None
    assert curve.n == len(found)
    assert len(curve.at) <= max(points + 1, 12)
    known = np.array(found)
    for at, share in zip(curve.at, curve.share, strict=True):
        assert at in known
        assert share == (known <= at).mean()
    assert curve.at[0] == known.min()
    assert curve.at[-1] == known.max()


@given(st.lists(st.tuples(st.integers(0, 50), st.integers(1, 20)), min_size=1, max_size=30))
def test_the_largest_number_in_flight(spans: list[tuple[int, int]]) -> None:
    starts = np.array([start for start, _ in spans], dtype=float)
    stops = np.array([start + length for start, length in spans], dtype=float)
    edges = np.arange(0.0, 80.0, 10.0)
    found = in_flight(starts, stops, edges)
    for index, (begin, end) in enumerate(itertools.pairwise(edges)):
        moments = [begin, *(s for s in starts if begin <= s < end)]
        # At a moment, what began there counts and what ended there does not; at an edge what ran before it does too.
        running = [((starts <= m) & (stops > m)).sum() for m in moments]
        before = ((starts < begin) & (stops >= begin)).sum()
        assert found[index] == max(*running, before)


def test_bins_add_up() -> None:
    edges = np.array([0.0, 1.0, 2.0, 3.0])
    times, found = np.array([0.1, 0.9, 2.0, 2.5, 9.0]), np.array([1.0, 3.0, 5.0, np.nan, 7.0])
    assert binned(times, found, edges, "sum").tolist() == [4, 0, 5]
    assert binned(times, found, edges, "max").tolist()[0::2] == [3, 5]
    assert np.isnan(binned(times, found, edges, "mean")[1])


def test_a_recording_is_read_as_it_was_written(run: Path) -> None:
    load = load_of(run, "c4")
    recording = read_recording(load)
    assert recording is not None
    assert recording.measured.sum() == 23, "the failed request is in no distribution"
    curves = distributions(recording, 100)
    summary = json.loads((load.directory / "summary.json").read_text())["metrics"] if load.directory else {}
    assert np.median(curves["ttft"].at) == pytest.approx(summary["ttft"]["p50"], rel=0.02)
    assert curves["inter_chunk_gap"].n == 23 * 63
    timed = panels_over_time(recording, load)
    assert timed is not None
    assert [panel.y.label for panel in timed[0]] == [
        *("Output tokens/s", "Requests, largest", "KV cache, %", "Power, W", "Cores busy")
    ]
    tokens = timed[0][0].series[0]
    width = (tokens.x[1] or 0) - (tokens.x[0] or 0)
    assert sum(value or 0 for value in tokens.y) * width == pytest.approx(24 * 64, rel=1e-3)
    rows = chosen_rows(recording, 5, 4)
    took = recording.of("done_ns") - recording.of("scheduled_ns")
    slow = [took[row] for row, why in rows if why == "slow"]
    assert slow == sorted(took, reverse=True)[:5]


def test_damaged_recordings_leave_charts_out(tmp_path: Path) -> None:
    made = FakeRun(tmp_path / "run")
    cell = made.cell("F16")
    for path in cell.glob("scenarios/*/requests.parquet"):
        path.write_bytes(b"PAR1 nothing")
    analysis = analyse(load_results([made.directory]), CONFIG)
    assert raw_plots(cast_of(analysis, None)) == ([], "")


def test_changed_answers_are_counted_and_shown(run: Path) -> None:
    found = flips(cast_of(analyse(load_results([run]), CONFIG), None))
    assert [(table.label, table.found, table.asked, len(table.shown)) for table in found] == [("Q8_0", 2, 40, 2)]
    flip = found[0].shown[0]
    assert flip.direction == "right to wrong"
    assert ("picked", "B") in flip.told
    assert flip.margin == "1.000 → 1.000"
