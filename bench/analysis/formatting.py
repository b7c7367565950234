"""Numbers as people read them: significant digits, units, signs. A real minus sign; no digits nobody measured."""

from __future__ import annotations

import math
from collections.abc import Callable

from bench.analysis.estimate import Estimate

MINUS = "−"
TIMES = "×"
SUPERSCRIPT = str.maketrans("-0123456789", "⁻⁰¹²³⁴⁵⁶⁷⁸⁹")
CURRENCY = {"USD": "$", "EUR": "€", "GBP": "£"}
Formatter = Callable[[float], str]


def significant(value: float, digits: int = 3) -> str:
    """`value` with `digits` significant digits, thousands separated; very small or large ones as powers of ten."""
    if value == 0:
        return "0"
    size = abs(value)
    if size < 1e-4 or size >= 1e12:
        mantissa, _, exponent = f"{size:.{digits - 1}e}".partition("e")
        text = f"{mantissa}{TIMES}10{str(int(exponent)).translate(SUPERSCRIPT)}"
    else:
        # Rounding first keeps 9.996 from being shown as 10.00.
        rounded = float(f"{size:.{digits - 1}e}")
        text = f"{size:,.{max(0, digits - 1 - math.floor(math.log10(rounded)))}f}"
    return f"{MINUS}{text}" if value < 0 else text


def perplexity(value: float) -> str:
    """Perplexities differ in the fourth digit."""
    return significant(value, 4)


def count(value: float) -> str:
    """A number of things."""
    return f"{value:,.0f}"


def megabytes(value_bytes: float) -> str:
    """Bytes as decimal megabytes, without the unit."""
    return significant(value_bytes / 1e6)


def money(currency: str) -> Formatter:
    """A formatter for amounts of `currency`."""
    symbol = CURRENCY.get(currency, f"{currency} ")

    def text(value: float) -> str:
        if 1e-8 <= abs(value) < 1e-4:
            return f"{symbol}{value:.{2 - math.floor(math.log10(abs(value)))}f}"
        return f"{symbol}{significant(value)}"

    return text


def listed_price(currency: str, value: float) -> str:
    """A price as price lists write it: at least two decimals, at most six."""
    whole, _, decimals = f"{value:,.6f}".partition(".")
    return f"{CURRENCY.get(currency, f'{currency} ')}{whole}.{decimals.rstrip('0').ljust(2, '0')}"


def percent(fraction: float) -> str:
    """A fraction as per cent, two significant digits."""
    return f"{significant(fraction * 100, 2)} %"


def change(fraction: float) -> str:
    """A relative change with its sign; a change below a hundredth of a per cent is called 0.00 %."""
    scaled = fraction * 100
    if abs(scaled) < 0.005:
        return "±0.00 %"
    text = f"{abs(scaled):.2f}" if abs(scaled) < 1 else significant(abs(scaled), 2 if abs(scaled) < 10 else 3)
    return f"{'+' if scaled > 0 else MINUS}{text} %"


def interval(estimate: Estimate, formatter: Formatter = significant) -> str:
    """The 95 % interval as «a to b», or nothing when there is none."""
    if estimate.lo is None or estimate.hi is None:
        return ""
    below, above = formatter(estimate.lo), formatter(estimate.hi)
    return f"{below.removesuffix(' %')} to {above}"


def plus_minus(estimate: Estimate) -> str:
    """Half the 95 % interval's width as «± x», or nothing."""
    if estimate.lo is None or estimate.hi is None:
        return ""
    return f"± {significant((estimate.hi - estimate.lo) / 2, 2)}"


def listing(items: list[str], limit: int = 4) -> str:
    """Names in a sentence: «a, b and c», cut after `limit`."""
    if len(items) > limit:
        return f"{', '.join(items[:limit])} and {len(items) - limit} more"
    return " and ".join([", ".join(items[:-1]), items[-1]]) if len(items) > 1 else "".join(items)
