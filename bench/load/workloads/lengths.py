"""Drawing lengths from a LengthConfig."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np

from bench.base.errors import UsageError
from bench.load.config import LengthConfig, LengthKind

_BLOCK = 256


class Lengths:
    """Lengths around `mean`, from a generator. Raises UsageError for an empirical file that cannot be used."""

    def __init__(self, config: LengthConfig, mean: int, generator: np.random.Generator, *, where: str) -> None:
        self._config = config
        self._mean = mean
        self._generator = generator
        self._values = np.array(_empirical(config, where), dtype=np.int64)
        self._drawn: list[int] = []

    def draw(self) -> int:
        """The next length, at least 1."""
        if self._config.distribution is LengthKind.fixed:
            return self._mean
        if not self._drawn:
            self._drawn = self._more()
        return self._drawn.pop()

    def _more(self) -> list[int]:
        config, generator = self._config, self._generator
        if config.distribution is LengthKind.empirical:
            return [int(value) for value in generator.choice(self._values, _BLOCK)]
        if config.distribution is LengthKind.uniform:
            return [int(value) for value in generator.integers(config.minimum, config.maximum, _BLOCK, endpoint=True)]
        if config.distribution is LengthKind.normal:
            drawn = generator.normal(self._mean, config.deviation, _BLOCK)
        else:
            # Of a log-normal with mean m and deviation s: sigma^2 = ln(1 + (s / m)^2), mu = ln m - sigma^2 / 2.
            variance = math.log1p((config.deviation / self._mean) ** 2)
            drawn = generator.lognormal(math.log(self._mean) - variance / 2, math.sqrt(variance), _BLOCK)
        return [int(value) for value in np.clip(np.rint(drawn), config.minimum, config.maximum)]


def _empirical(config: LengthConfig, where: str) -> list[int]:
    if config.distribution is not LengthKind.empirical or config.path is None:
        return config.values
    path = Path(config.path).expanduser()
    try:
        lines = path.read_text(encoding="utf-8").split("\n")
    except (OSError, UnicodeDecodeError) as error:
        raise UsageError(f"{where}.path: {path} cannot be read ({error})") from error
    values = []
    for number, line in enumerate(lines, start=1):
        if not line.strip():
            continue
        if not line.strip().isdecimal() or int(line) < 1:
            raise UsageError(f"{where}.path: {path}, line {number}: {line[:40]!r} is not a whole number of at least 1")
        values.append(int(line))
    if not values:
        raise UsageError(f"{where}.path: {path} holds no lengths")
    return values
