"""Numbers as people read them."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bench.analysis import formatting as fmt
from bench.analysis.estimate import Estimate


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (0.0, "0"),
        (1234.5, "1,234"),
        (9.996, "10.0"),
        (0.0038, "0.00380"),
        (-2.5, "−2.50"),
        (0.0000123, "1.23×10⁻⁵"),
        (1e300, "1.00×10³⁰⁰"),
        (16.0, "16.0"),
    ],
)
def test_significant(value: float, text: str) -> None:
    assert fmt.significant(value) == text


@given(st.floats(1e-4, 1e11))
def test_significant_is_within_half_a_digit(value: float) -> None:
    shown = float(fmt.significant(value).replace(",", ""))
    assert shown == pytest.approx(value, rel=0.0051)


@pytest.mark.parametrize(
    ("fraction", "text"), [(0.0026, "+0.26 %"), (-0.0312, "−3.1 %"), (0.1876, "+18.8 %"), (0.00001, "±0.00 %")]
)
def test_change_carries_its_sign(fraction: float, text: str) -> None:
    assert fmt.change(fraction) == text


def test_money_small_amounts_are_not_powers_of_ten() -> None:
    assert fmt.money("USD")(0.00001482) == "$0.0000148"
    assert fmt.money("CHF")(1.5) == "CHF 1.50"
    assert fmt.listed_price("USD", 0.1) == "$0.10"
    assert fmt.listed_price("EUR", 1234.0816) == "€1,234.0816"


def test_interval_says_the_unit_once() -> None:
    assert fmt.interval(Estimate(value=0.01, lo=0.005, hi=0.02), fmt.change) == "+0.50 to +2.0 %"
    assert fmt.interval(Estimate(value=1.0)) == ""


def test_listing_is_cut() -> None:
    assert fmt.listing(["a", "b", "c"]) == "a, b and c"
    assert fmt.listing(list("abcdef")) == "a, b, c, d and 2 more"
    assert fmt.listing([]) == ""
