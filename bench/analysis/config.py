"""What a report may be told: prices, the baseline, the load that is priced, and what counts as a difference."""

from __future__ import annotations

import datetime
from dataclasses import dataclass, field

from omegaconf import MISSING

from bench.base.schema import schema


@schema("price", "price")
@dataclass(frozen=True, kw_only=True)
class PriceConfig:
    """What one hour of the measured machine costs, from where and when; `assumed` prices are labelled as such."""

    name: str = MISSING
    currency: str = "USD"
    per_hour: float = MISSING
    date: str = MISSING
    source: str = MISSING
    note: str = ""
    assumed: bool = False

    def __post_init__(self) -> None:
        if not 0 < self.per_hour < 1e6:
            raise ValueError(f"price.per_hour={self.per_hour}: a price is above 0 and below a million an hour")
        if not (len(self.currency) == 3 and self.currency.isascii() and self.currency.isupper()):
            raise ValueError(f"price.currency={self.currency!r}: write three capital letters, such as USD")
        try:
            datetime.date.fromisoformat(self.date)
        except ValueError:
            raise ValueError(f"price.date={self.date!r}: write the day the price was seen as YYYY-MM-DD") from None
        if not self.source.strip():
            raise ValueError("price.source is empty: say where the price comes from")


@dataclass(frozen=True, kw_only=True)
class MarginConfig:
    """Relative differences too small to matter: an interval inside plus or minus the margin is called equivalent."""

    throughput: float = 0.03
    perplexity: float = 0.01

    def __post_init__(self) -> None:
        for name, value in (("throughput", self.throughput), ("perplexity", self.perplexity)):
            if not 0 <= value < 1:
                raise ValueError(f"margins.{name}={value}: write a fraction from 0 to below 1, such as 0.03")


@schema(None, "report")
@dataclass(frozen=True, kw_only=True)
class ReportConfig:
    """Everything a report takes beside recorded cells.

    `baseline` names the variant others are compared with (null: the unquantized one); `load` names the scenario at
    which variants are priced and ranked (null: the fastest that enough cells ran); `max_perplexity_increase` is
    the largest relative loss a recommended variant may have.
    """

    price: PriceConfig = MISSING
    baseline: str | None = None
    load: str | None = None
    margins: MarginConfig = field(default_factory=MarginConfig)
    max_perplexity_increase: float = 0.03

    def __post_init__(self) -> None:
        if not 0 <= self.max_perplexity_increase < 10:
            raise ValueError(
                f"max_perplexity_increase={self.max_perplexity_increase}: write a fraction, such as 0.03 for 3 %"
            )
