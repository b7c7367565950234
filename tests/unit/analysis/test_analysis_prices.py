"""Which price a machine has, and what an hour of one's own costs."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from bench.analysis.config import ApiPriceConfig, Billing, OwnedPriceConfig, PriceConfig, ReportConfig
from bench.analysis.load import load_results
from bench.analysis.prices import hardware_name, price_of
from bench.analysis.results import Cell
from bench.base.compose import compose, options
from bench.base.errors import UsageError
from bench.pipeline.schemas import register_all
from tests.unit.report.fake_runs import MACHINE, FakeRun

GIVEN: dict[str, Any] = {"date": "2026-11-01", "source": "an invoice"}
DEFAULT = PriceConfig(name="default", per_hour=1.0, **GIVEN)


def on(tmp_path: Path, *gpus: str) -> Cell:
    run = FakeRun(tmp_path / "-".join(gpus or ("cpu",)))
    run.cell("F16", machine={**MACHINE, "gpus": [{"name": name} for name in gpus]})
    (cell,) = load_results([run.directory]).cells
    return cell


def listed(hardware: str, per_hour: float, gpus: int | None = 1) -> PriceConfig:
    return PriceConfig(name=hardware, per_hour=per_hour, hardware=hardware, gpus=gpus, **GIVEN)


def test_the_most_exact_entry_that_is_for_the_machine_counts(tmp_path: Path) -> None:
    book = {"h100": listed("H100", 4.0), "pcie": listed("h100 pcie", 2.0), "a10": listed("A10", 0.9)}
    config = ReportConfig(price=DEFAULT, prices=book)
    assert price_of(on(tmp_path, "NVIDIA H100 PCIe"), config).hourly == 2.0
    assert price_of(on(tmp_path, "NVIDIA H100 80GB HBM3"), config).hourly == 4.0
    stranger = price_of(on(tmp_path, "NVIDIA A10G"), config)  # not an A10
    assert (stranger.hourly, stranger.own) == (1.0, False)


def test_a_machine_with_more_gpus_than_the_hour_buys_costs_in_proportion(tmp_path: Path) -> None:
    four = on(tmp_path, *["NVIDIA H100 80GB HBM3"] * 4)
    assert hardware_name(four) == "4 × NVIDIA H100 80GB HBM3"
    one = price_of(four, ReportConfig(price=DEFAULT, prices={"x": listed("H100", 4.0)}))
    assert (one.hourly, one.note) == (16.0, "4 GPUs at the price of 1, in proportion")
    whole = price_of(four, ReportConfig(price=DEFAULT, prices={"x": listed("H100", 40.0, gpus=8)}))
    assert whole.hourly == 20.0
    assert price_of(four, ReportConfig(price=DEFAULT, prices={"x": listed("H100", 9.0, gpus=None)})).hourly == 9.0


def test_an_hour_of_ones_own_machine_by_hand() -> None:
    owned = OwnedPriceConfig(
        name="mine",
        purchase=35_066.0,
        resale=2.0,
        years=4,
        power_w=900,
        pue=1.5,
        electricity_per_kwh=0.2,
        per_hour=0.03,
        **GIVEN,
    )
    # 35,064 spread over 4 × 8,766 hours is 1; 0.9 kW × 1.5 × 0.2 is 0.27.
    assert owned.hourly == pytest.approx(1.0 + 0.27 + 0.03)
    assert owned.billing is Billing.owned


def test_every_shipped_price_is_dated_sourced_and_positive() -> None:
    register_all()
    billings = set()
    for name in options("price"):
        price = compose("report", [f"price={name}"], ReportConfig).price
        assert price.hourly > 0
        assert price.assumed or price.source.startswith("https://"), name
        billings.add(price.billing)
    assert billings == set(Billing)
    for name in options("api_price"):
        api = compose("report", [f"+api_price@api={name}"], ReportConfig).api
        assert api is not None
        assert api.source.startswith("https://")
        # A thousand tokens in and half of that out, at so much per million.
        assert api.per_request(1000, 500) == pytest.approx(api.input_per_mtok / 1e3 + api.output_per_mtok / 2e3)


def test_a_price_book_goes_by_name_and_is_checked() -> None:
    register_all()
    config = compose("report", ["+price@prices.big=lambda_h100_sxm"], ReportConfig)
    assert config.prices["big"].per_hour == 3.78
    with pytest.raises(UsageError, match=r"prices\.cpu\.hardware is empty"):
        compose("report", ["+price@prices.cpu=assumed_cpu"], ReportConfig)
    api = ApiPriceConfig(name="x", currency="EUR", input_per_mtok=1, output_per_mtok=1, **GIVEN)
    with pytest.raises(ValueError, match="EUR, USD: give all in one currency"):
        ReportConfig(price=DEFAULT, api=api)


@pytest.mark.parametrize(
    ("override", "told"),
    [
        ("price.years=0", "over how many years"),
        ("price.pue=0.9", "1 or more"),
        ("price.resale=99999", "above price.purchase"),
        ("traffic.headroom=1", "below 1"),
        ("slo.percentile=97", "50, 90, 95 or 99"),
        ("constraints.min_accuracy=70", "from 0 to 1"),
        ("split.output_weight=0", "above 0"),
        ("priority=beauty", "priority"),
    ],
)
def test_bad_settings_say_what_is_allowed(override: str, told: str) -> None:
    register_all()
    with pytest.raises(UsageError, match=told):
        compose("report", ["price=assumed_owned_h100", override], ReportConfig)
