"""What a report may be told: prices, the baseline, the load that is priced, and what counts as a difference."""

from __future__ import annotations

import datetime
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any

from omegaconf import MISSING

from bench.base.schema import expect, schema
from bench.load.slo import SloConfig

HOURS_PER_YEAR = 8766.0


class Billing(StrEnum):
    """How an hour is paid for."""

    on_demand = "on_demand"
    reserved = "reserved"
    spot = "spot"
    owned = "owned"


@schema("price", "price")
@dataclass(frozen=True, kw_only=True)
class PriceConfig:
    """What one hour of the measured machine costs, from where and when; `assumed` prices are labelled as such.

    `hardware` are words of a processor's or GPU's name that the price is for: given under `prices`, it prices the
    machines that have them all. `gpus` is how many GPUs the hour buys; a machine with more costs in proportion.
    """

    name: str = MISSING
    currency: str = "USD"
    per_hour: float = MISSING
    date: str = MISSING
    source: str = MISSING
    note: str = ""
    assumed: bool = False
    billing: Billing = Billing.on_demand
    hardware: str = ""
    gpus: int | None = None

    def __post_init__(self) -> None:
        if not 0 < self.hourly < 1e6:
            raise ValueError(f"price.per_hour={self.hourly}: a price is above 0 and below a million an hour")
        _check_currency("price.currency", self.currency)
        _check_date("price.date", self.date)
        if not self.source.strip():
            raise ValueError("price.source is empty: say where the price comes from")
        if self.gpus is not None and self.gpus < 1:
            raise ValueError(f"price.gpus={self.gpus} must be 1 or more, or null where it does not count")

    @property
    def hourly(self) -> float:
        """What an hour costs, used or not."""
        return self.per_hour


@schema("price", "owned")
@dataclass(frozen=True, kw_only=True)
class OwnedPriceConfig(PriceConfig):
    """A machine of one's own: an hour of it costs

        (purchase - resale) / (years * 8766) + power_w / 1000 * pue * electricity_per_kwh + per_hour

    The purchase is spread over every hour of its life, used or not. `power_w` is what the machine draws at work, `pue`
    the facility's power usage effectiveness, `per_hour` whatever else an hour costs (rack, network, people).
    """

    per_hour: float = 0.0
    billing: Billing = Billing.owned
    purchase: float = MISSING
    resale: float = 0.0
    years: float = MISSING
    power_w: float = MISSING
    pue: float = 1.0
    electricity_per_kwh: float = MISSING

    def __post_init__(self) -> None:
        for name in ("per_hour", "purchase", "resale", "power_w", "electricity_per_kwh"):
            if not getattr(self, name) >= 0:
                raise ValueError(f"price.{name}={getattr(self, name)} must be 0 or more")
        if not self.years > 0:
            raise ValueError(f"price.years={self.years}: over how many years the purchase is spread, above 0")
        if not self.pue >= 1:
            raise ValueError(f"price.pue={self.pue}: power usage effectiveness is 1 or more")
        if self.resale > self.purchase:
            raise ValueError(f"price.resale={self.resale} is above price.purchase={self.purchase}")
        super().__post_init__()

    @property
    def hourly(self) -> float:
        """What an hour costs, used or not."""
        amortised = (self.purchase - self.resale) / (self.years * HOURS_PER_YEAR)
        return amortised + self.power_w / 1000 * self.pue * self.electricity_per_kwh + self.per_hour


@schema("api_price", "api_price")
@dataclass(frozen=True, kw_only=True)
class ApiPriceConfig:
    """What somebody else's endpoint charges per million tokens, to find where one's own machine breaks even."""

    name: str = MISSING
    currency: str = "USD"
    input_per_mtok: float = MISSING
    output_per_mtok: float = MISSING
    date: str = MISSING
    source: str = MISSING
    note: str = ""

    def __post_init__(self) -> None:
        for name in ("input_per_mtok", "output_per_mtok"):
            if not 0 <= getattr(self, name) < 1e6:
                raise ValueError(f"api.{name}={getattr(self, name)} must be from 0 to below a million")
        if self.input_per_mtok + self.output_per_mtok == 0:
            raise ValueError(
                "api.input_per_mtok and api.output_per_mtok are both 0: then there is nothing to break even"
            )
        _check_currency("api.currency", self.currency)
        _check_date("api.date", self.date)

    def per_request(self, input_tokens: float, output_tokens: float) -> float:
        """What one request of so many tokens costs."""
        return (input_tokens * self.input_per_mtok + output_tokens * self.output_per_mtok) / 1e6


class SplitRule(StrEnum):
    """How an hour is shared out between input and output tokens, which it makes together.

    `blended`: not at all, every token counts alike; `output_only`: the output bears it whole; `weighted`: an output
    token bears `output_weight` times what an input token does.
    """

    blended = "blended"
    output_only = "output_only"
    weighted = "weighted"


@dataclass(frozen=True, kw_only=True)
class SplitConfig:
    """The rule by which costs of input and of output tokens are told apart; `output_weight` is of `weighted`."""

    rule: SplitRule = SplitRule.blended
    output_weight: float = 4.0

    def __post_init__(self) -> None:
        if not 0 < self.output_weight < 1e4:
            raise ValueError(f"split.output_weight={self.output_weight} must be above 0 and below 10000")


@dataclass(frozen=True, kw_only=True)
class TrafficConfig:
    """What is to be served: a peak rate, or users who each wait `think_time_s` after an answer before asking again.

    `headroom` is the share of a replica's capacity that is kept free. `lifetime_mtok`: how many million tokens (input
    and output) a variant will serve before it is replaced, over which making it is spread.
    """

    peak_rate_per_s: float | None = None
    users: int | None = None
    think_time_s: float = 10.0
    headroom: float = 0.2
    lifetime_mtok: float | None = None

    def __post_init__(self) -> None:
        if self.peak_rate_per_s is not None and self.users is not None:
            raise ValueError("traffic.peak_rate_per_s and traffic.users say the same thing: give one of them")
        if self.peak_rate_per_s is not None and not self.peak_rate_per_s > 0:
            raise ValueError(f"traffic.peak_rate_per_s={self.peak_rate_per_s} must be above 0")
        if self.users is not None and self.users < 1:
            raise ValueError(f"traffic.users={self.users} must be 1 or more")
        if not 0 <= self.think_time_s < 1e6:
            raise ValueError(f"traffic.think_time_s={self.think_time_s} must be 0 or more seconds")
        if not 0 <= self.headroom < 1:
            raise ValueError(f"traffic.headroom={self.headroom}: write a fraction from 0 to below 1, such as 0.2")
        if self.lifetime_mtok is not None and not self.lifetime_mtok > 0:
            raise ValueError(f"traffic.lifetime_mtok={self.lifetime_mtok} must be above 0")


class Priority(StrEnum):
    """What is best among the variants that hold every constraint."""

    cost = "cost"
    quality = "quality"
    latency = "latency"
    throughput = "throughput"
    memory = "memory"


@dataclass(frozen=True, kw_only=True)
class ConstraintConfig:
    """What a recommended variant must hold, beside the largest loss and the SLO.

    `memory_gib`: GiB that serving it may take (VRAM, or main memory of a CPU). `gpu`: words of the name of the GPU or
    processor it was measured on. `min_accuracy`: the quality floor in every multiple choice and generation task.
    """

    memory_gib: float | None = None
    gpu: str = ""
    min_accuracy: float | None = None

    def __post_init__(self) -> None:
        if self.memory_gib is not None and not self.memory_gib > 0:
            raise ValueError(f"constraints.memory_gib={self.memory_gib} must be above 0")
        if self.min_accuracy is not None and not 0 <= self.min_accuracy <= 1:
            raise ValueError(f"constraints.min_accuracy={self.min_accuracy}: write a fraction from 0 to 1")


@dataclass(frozen=True, kw_only=True)
class TrackingConfig:
    """Where a report is logged beside its folder; needs `mlflow` or `wandb` installed."""

    mlflow: bool = False
    mlflow_uri: str | None = None
    wandb: bool = False
    project: str = "quantbench"


def _check_currency(where: str, currency: str) -> None:
    if not (len(currency) == 3 and currency.isascii() and currency.isupper()):
        raise ValueError(f"{where}={currency!r}: write three capital letters, such as USD")


def _check_date(where: str, date: str) -> None:
    try:
        datetime.date.fromisoformat(date)
    except ValueError:
        raise ValueError(f"{where}={date!r}: write the day the price was seen as YYYY-MM-DD") from None


@dataclass(frozen=True, kw_only=True)
class MarginConfig:
    """Differences too small to matter: an interval inside plus or minus the margin is called equivalent.

    Of speeds (`throughput`) and perplexity relative ones, of `accuracy` a difference of shares, of a judge's `rating`
    from 1 to 10 one of points.
    """

    throughput: float = 0.03
    perplexity: float = 0.01
    accuracy: float = 0.01
    rating: float = 0.1

    def __post_init__(self) -> None:
        for name in ("throughput", "perplexity", "accuracy", "rating"):
            value = getattr(self, name)
            if not 0 <= value < 1:
                raise ValueError(f"margins.{name}={value}: write a fraction from 0 to below 1, such as 0.03")


@schema(None, "report")
@dataclass(frozen=True, kw_only=True)
class ReportConfig:
    """Everything a report takes beside recorded cells.

    `price` is that of every machine which none of `prices` (by name, each with its `hardware`) is for; `api` is what
    an endpoint of somebody else's charges. `baseline` names the variant others are compared with (null: the
    unquantized one); `load` names the scenario at which variants are priced and ranked (null: the fastest that enough
    cells ran); `max_perplexity_increase` is the largest relative loss a recommended variant may have.
    """

    price: PriceConfig = MISSING
    prices: dict[str, Any] = field(default_factory=dict)
    api: ApiPriceConfig | None = None
    split: SplitConfig = field(default_factory=SplitConfig)
    baseline: str | None = None
    load: str | None = None
    margins: MarginConfig = field(default_factory=MarginConfig)
    max_perplexity_increase: float = 0.03
    slo: SloConfig = field(default_factory=SloConfig)
    traffic: TrafficConfig = field(default_factory=TrafficConfig)
    constraints: ConstraintConfig = field(default_factory=ConstraintConfig)
    priority: Priority = Priority.cost
    tracking: TrackingConfig = field(default_factory=TrackingConfig)

    def __post_init__(self) -> None:
        if not 0 <= self.max_perplexity_increase < 10:
            raise ValueError(
                f"max_perplexity_increase={self.max_perplexity_increase}: write a fraction, such as 0.03 for 3 %"
            )
        for name, entry in self.prices.items():
            price = expect(entry, PriceConfig, f"prices.{name}")
            if not price.hardware.strip():
                raise ValueError(f"prices.{name}.hardware is empty: write words of the GPU's or processor's name")
        currencies = {price.currency for price in (self.price, *self.prices.values())}
        if self.api is not None:
            currencies.add(self.api.currency)
        if len(currencies) > 1:
            raise ValueError(f"prices are in {', '.join(sorted(currencies))}: give all in one currency")
