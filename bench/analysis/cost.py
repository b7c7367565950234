"""What tokens and requests cost on an hourly-priced machine that is kept at the measured load.

    $ per million output tokens = price per hour * 10^6 / (3600 * output tokens per second)
    $ per request               = price per hour / (3600 * requests per second)

Input and output tokens are joint products: the whole hour is charged to the output. Intervals follow from the
throughput's, ends exchanged; validity is the throughput's.
"""

from __future__ import annotations

import dataclasses

from bench.analysis.config import PriceConfig
from bench.analysis.estimate import inverse_scaled
from bench.analysis.readings import Reading, read
from bench.analysis.results import Cell

SECONDS_PER_HOUR = 3600.0
COST_PER_MTOK = "cost_per_million_output_tokens"
COST_PER_REQUEST = "cost_per_request"


def cost_per_mtok(cell: Cell, load: str, price: PriceConfig) -> Reading:
    """Currency units per million output tokens at scenario `load`."""
    throughput = read(cell, "scenarios", load, "output_throughput")
    return _priced(throughput, COST_PER_MTOK, f"{price.currency}/Mtok", price.per_hour * 1e6 / SECONDS_PER_HOUR)


def cost_per_request(cell: Cell, load: str, price: PriceConfig) -> Reading:
    """Currency units per request at scenario `load`."""
    throughput = read(cell, "scenarios", load, "request_throughput")
    return _priced(throughput, COST_PER_REQUEST, f"{price.currency}/request", price.per_hour / SECONDS_PER_HOUR)


def _priced(throughput: Reading, tag: str, unit: str, numerator: float) -> Reading:
    estimate = inverse_scaled(throughput.estimate, numerator) if throughput.estimate else None
    missing = throughput.missing
    if estimate is None and missing is None:
        missing = "no throughput"
    return dataclasses.replace(throughput, tag=tag, unit=unit, estimate=estimate, missing=missing)
