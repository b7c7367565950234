"""Prices and report settings: the shipped ones compose, wrong ones are one clear line."""

from __future__ import annotations

import pytest

from bench.analysis.config import PriceConfig, ReportConfig
from bench.base.compose import compose, options
from bench.base.errors import UsageError


@pytest.mark.parametrize("name", options("price"))
def test_every_shipped_price_is_dated_and_sourced(name: str) -> None:
    price = compose("report", [f"price={name}"], ReportConfig).price
    assert isinstance(price, PriceConfig)
    assert price.per_hour > 0
    assert price.assumed == name.startswith("assumed")
    assert price.assumed or price.source.startswith("https://")


@pytest.mark.parametrize(
    ("override", "said"),
    [
        ("price.per_hour=0", "above 0"),
        ("price.per_hour=nan", "above 0"),
        ("price.date=yesterday", "YYYY-MM-DD"),
        ("price.currency=dollars", "three capital letters"),
        ("price.source=' '", "where the price comes from"),
        ("price=aws_g5_xlrge", "did you mean 'aws_g5_xlarge'"),
        ("margins.throughput=1.5", "margins.throughput"),
        ("max_perplexity_increase=-1", "max_perplexity_increase"),
        ("margins.thruput=0.1", "did you mean 'throughput'"),
    ],
)
def test_wrong_settings_are_one_clear_line(override: str, said: str) -> None:
    with pytest.raises(UsageError, match=said) as caught:
        compose("report", [override], ReportConfig)
    assert "\n" not in str(caught.value)
