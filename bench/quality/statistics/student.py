"""Student's t for whole degrees of freedom: its finite series, and quantiles from it."""

from __future__ import annotations

import functools
import math
from statistics import NormalDist

#: Above these, Fisher's expansion of the quantile is exact to 1e-8.
_EXPANDED = 200


def t_cdf(value: float, degrees: int) -> float:
    """P(T ≤ value); Abramowitz and Stegun 26.7.3 and 26.7.4. Raises ValueError below one degree of freedom."""
    if degrees < 1:
        raise ValueError(f"Student's t has at least one degree of freedom, not {degrees}")
    if math.isinf(value):
        return 1.0 if value > 0 else 0.0
    angle = math.atan(value / math.sqrt(degrees))
    cosine, sine = math.cos(angle), math.sin(angle)
    odd = degrees % 2
    term, total = (cosine if odd else 1.0), 0.0
    for k in range(2 + odd, degrees + 1, 2):
        total += term
        term *= cosine * cosine * (k - 1) / k
    central = 2 / math.pi * (angle + sine * total) if odd else sine * total
    return 0.5 + 0.5 * central


@functools.cache
def t_quantile(degrees: int, level: float = 0.975) -> float:
    """The `level` quantile: by bisection, and for many degrees by Fisher's expansion around the normal one's."""
    if level < 0.5:
        return -t_quantile(degrees, 1 - level)
    z = NormalDist().inv_cdf(level)
    if degrees > _EXPANDED:
        terms = (
            (z**3 + z) / 4,
            (5 * z**5 + 16 * z**3 + 3 * z) / 96,
            (3 * z**7 + 19 * z**5 + 17 * z**3 - 15 * z) / 384,
        )
        return z + math.fsum(term / float(degrees) ** power for power, term in enumerate(terms, start=1))
    low, high = 0.0, 1.0
    while t_cdf(high, degrees) < level:
        high *= 2
    while high - low > 1e-12 * high:
        middle = (low + high) / 2
        low, high = (middle, high) if t_cdf(middle, degrees) < level else (low, middle)
    return high
