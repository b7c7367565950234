"""What tokens and requests cost on a machine that is paid by the hour and kept at a measured load.

    currency per million blended tokens = price per hour * 10^6 / (3600 * (input + output tokens per second))
    currency per million output tokens  = price per hour * 10^6 / (3600 * output tokens per second)
    currency per request                = price per hour / (3600 * requests per second)

Input and output tokens are joint products of the same hour. Blended tokens count both alike and split nothing; the
figure of output tokens charges the whole hour to them. A weighted split counts an output token w times:
per input token = price per second / (input per second + w * output per second), per output token w times that.
Intervals follow from the throughput's, ends exchanged; validity is the throughput's.
"""

from __future__ import annotations

import dataclasses

from bench.analysis.config import ReportConfig, SplitRule
from bench.analysis.estimate import Estimate, inverse_scaled
from bench.analysis.prices import MachinePrice
from bench.analysis.readings import Reading, absent, read
from bench.analysis.results import Cell

SECONDS_PER_HOUR = 3600.0
COST_PER_MTOK = "cost_per_million_output_tokens"
COST_PER_BLENDED_MTOK = "cost_per_million_blended_tokens"
COST_PER_REQUEST = "cost_per_request"


def cost_per_mtok(cell: Cell, load: str, price: MachinePrice) -> Reading:
    """Currency units per million output tokens at scenario `load`."""
    throughput = read(cell, "scenarios", load, "output_throughput")
    return _priced(throughput, COST_PER_MTOK, f"{price.price.currency}/Mtok", price.hourly * 1e6 / SECONDS_PER_HOUR)


def cost_per_blended_mtok(cell: Cell, load: str, price: MachinePrice) -> Reading:
    """Currency units per million tokens, input and output alike, at scenario `load`."""
    unit = f"{price.price.currency}/Mtok"
    return _priced(total_throughput(cell, load), COST_PER_BLENDED_MTOK, unit, price.hourly * 1e6 / SECONDS_PER_HOUR)


def cost_per_request(cell: Cell, load: str, price: MachinePrice) -> Reading:
    """Currency units per request at scenario `load`."""
    throughput = read(cell, "scenarios", load, "request_throughput")
    return _priced(throughput, COST_PER_REQUEST, f"{price.price.currency}/request", price.hourly / SECONDS_PER_HOUR)


def total_throughput(cell: Cell, load: str) -> Reading:
    """Input and output tokens per second together: as recorded, else from the mean tokens of a request.

    Without a recorded figure it is the request throughput times what a request has, which its interval then is too.
    """
    recorded = read(cell, "scenarios", load, "total_throughput")
    if recorded.estimate is not None:
        return recorded
    requests, tokens = read(cell, "scenarios", load, "request_throughput"), mix_of(cell, load)
    if requests.estimate is None or tokens is None:
        return recorded
    estimate = requests.estimate.scaled(tokens.total)
    return dataclasses.replace(requests, tag="total_throughput", unit="tokens/s", estimate=estimate)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Mix:
    """Mean tokens of a request; a cost holds at its mix only. `measured`: counted by the endpoint, else as asked."""

    input_tokens: float
    output_tokens: float
    measured: bool = True

    @property
    def total(self) -> float:
        """Tokens of a request, input and output alike."""
        return self.input_tokens + self.output_tokens

    @property
    def name(self) -> str:
        """«32 in, 64 out»."""
        return f"{self.input_tokens:.4g} in, {self.output_tokens:.4g} out"


def mix_of(cell: Cell, load: str) -> Mix | None:
    """The mean tokens of a request at `load`: from the endpoint's counts, else from what the workload asked for."""
    from bench.analysis.loads import workload_of
    from bench.analysis.results import mapping, number

    child = cell.scenarios.get(load)
    if child is None:
        return None
    counted = mapping(mapping(child.summary.get("tokens")).get("main"))
    requests = number(mapping(child.summary.get("requests")).get("ok"))
    tokens = [number(counted.get(name)) for name in ("prompt_tokens", "output_tokens")]
    if requests and tokens[0] is not None and tokens[1] is not None:
        return Mix(input_tokens=tokens[0] / requests, output_tokens=tokens[1] / requests)
    asked = workload_of(cell, load)
    wanted = [number(asked.get(name)) for name in ("input_tokens", "output_tokens")]
    if wanted[0] is not None and wanted[1] is not None and wanted[0] + wanted[1] > 0:
        return Mix(input_tokens=wanted[0], output_tokens=wanted[1], measured=False)
    return None


def split_costs(cell: Cell, load: str, price: MachinePrice, config: ReportConfig) -> tuple[Reading, Reading]:
    """Currency units per million input and per million output tokens, by the configured rule.

    With `blended` both are the blended figure, with `output_only` the input costs nothing.
    """
    rule, unit = config.split.rule, f"{price.price.currency}/Mtok"
    names = ("cost_per_million_input_tokens_split", "cost_per_million_output_tokens_split")
    if rule is SplitRule.blended:
        blended = cost_per_blended_mtok(cell, load, price)
        return dataclasses.replace(blended, tag=names[0]), dataclasses.replace(blended, tag=names[1])
    if rule is SplitRule.output_only:
        output = cost_per_mtok(cell, load, price)
        nothing = None if output.estimate is None else Estimate(value=0.0)
        return dataclasses.replace(output, tag=names[0], estimate=nothing), dataclasses.replace(output, tag=names[1])
    tokens, request = mix_of(cell, load), cost_per_request(cell, load, price)
    if tokens is None or request.estimate is None:
        missing = request.missing or "the tokens of a request are not known"
        return absent(cell, load, names[0], missing, unit=unit), absent(cell, load, names[1], missing, unit=unit)
    weight = config.split.output_weight
    per_input = request.estimate.scaled(1e6 / (tokens.input_tokens + weight * tokens.output_tokens))
    return (
        dataclasses.replace(request, tag=names[0], unit=unit, estimate=per_input),
        dataclasses.replace(request, tag=names[1], unit=unit, estimate=per_input.scaled(weight)),
    )


def _priced(throughput: Reading, tag: str, unit: str, numerator: float) -> Reading:
    estimate = inverse_scaled(throughput.estimate, numerator) if throughput.estimate else None
    missing = throughput.missing
    if estimate is None and missing is None:
        missing = "no throughput"
    return dataclasses.replace(throughput, tag=tag, unit=unit, estimate=estimate, missing=missing)
