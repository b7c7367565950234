"""Which price a machine has: of the price book's entries the one that is for its hardware, else the report's own."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass

from bench.analysis.config import PriceConfig, ReportConfig
from bench.analysis.results import Cell, text

_WORD = re.compile(r"[a-z0-9]+")


@dataclass(frozen=True, kw_only=True)
class MachinePrice:
    """What an hour of a cell's machine costs.

    `own`: an entry of the price book is for this very hardware; else the report's one price is applied to it.
    `factor` is the machine's GPUs over those that the listed hour buys.
    """

    price: PriceConfig
    own: bool
    factor: float = 1.0

    @property
    def hourly(self) -> float:
        """Currency units an hour, used or not."""
        return self.price.hourly * self.factor

    @property
    def note(self) -> str:
        """What was done to the listed price; empty where nothing was."""
        if self.factor == 1 or not self.price.gpus:
            return ""
        return f"{self.factor * self.price.gpus:g} GPUs at the price of {self.price.gpus}, in proportion"


def price_of(cell: Cell, config: ReportConfig) -> MachinePrice:
    """The price of the machine that `cell` was measured on; of several entries that are for it the most exact."""
    fitting = [price for price in config.prices.values() if is_for(price, cell)]
    best = max(fitting, key=lambda price: len(words(price.hardware)), default=None)
    price = best or config.price
    count = len(cell.gpus)
    factor = count / price.gpus if price.gpus and count else 1.0
    return MachinePrice(price=price, own=best is not None, factor=factor)


def is_for(price: PriceConfig, cell: Cell) -> bool:
    """Whether the machine's GPU, or its processor where it has none, has every word of the price's hardware."""
    return bool(price.hardware) and words(price.hardware) <= words(hardware_name(cell))


def hardware_name(cell: Cell) -> str:
    """The machine in a few words: its GPUs, else its processor and cores; empty where nothing is recorded."""
    names = [str(gpu.get("name", "unnamed GPU")) if isinstance(gpu, Mapping) else str(gpu) for gpu in cell.gpus]
    if names:
        kinds = list(dict.fromkeys(names))
        return " + ".join(f"{names.count(kind)} × {kind}" if names.count(kind) > 1 else kind for kind in kinds)
    processor = text(cell.machine.get("cpu"))
    cores = text(cell.machine.get("cores"))
    if processor is None:
        return ""
    return f"{processor}, {cores} cores" if cores is not None else processor


def words(name: str) -> set[str]:
    """A name's words in lower case, so that «A10» is not found in «A10G»."""
    return set(_WORD.findall(name.lower()))
