"""Where an open loop becomes steady, and whether it does: from the number of requests in flight at each sending.

The number in flight is what a queue is about: below capacity it wavers around a level, above it grows without end. Both
answers are those of simulation output analysis; what they get right and wrong of simulated queues is in the tests.
"""

from __future__ import annotations

import math

import numpy as np

from bench.load.columns import MISSING
from bench.load.table import Floats, Ints, Mask, Table

BATCH = 5
FEWEST = 20
"""Of fewer requests nothing is said."""
GROWTH_SHARE = 0.03


def in_flight(sent_ns: Ints, done_ns: Ints) -> Ints:
    """How many requests were in flight just after each sending, itself included; `sent_ns` ascending."""
    return np.arange(1, len(sent_ns) + 1) - np.searchsorted(np.sort(done_ns), sent_ns, side="right")


def mser(values: Floats) -> tuple[int, bool]:
    """(how many first values to leave out, whether the rest is steady) by MSER-5.

    White, "An Effective Truncation Heuristic for Bias Reduction in Simulation Output", Simulation 69(6), 1997; batches
    of five after Spratt 1998: of the means Z of b batches of 5, leave out the first d that make
    Σ_{i>d} (Z_i − mean)² / (b − d)² smallest. Where that is half of them, the series does not settle.
    """
    means = values[: len(values) // BATCH * BATCH].reshape(-1, BATCH).mean(axis=1)
    if len(means) < 2:
        return 0, True
    left = len(means) - np.arange(len(means))
    sums = np.cumsum(means[::-1])[::-1]
    squares = np.cumsum((means**2)[::-1])[::-1]
    half = len(means) // 2
    marginal = ((squares / left - (sums / left) ** 2) / left)[: half + 1]
    cut = int(np.argmin(marginal))
    return cut * BATCH, cut < half


def growth(sent_ns: Ints, flying: Ints) -> float:
    """By how many requests the number in flight grew over the sendings, by a straight line fitted through it."""
    centred = (sent_ns - sent_ns.mean()) / 1e9
    scatter = float((centred**2).sum())
    if not scatter:
        return 0.0
    slope = float((centred * flying).sum()) / scatter
    return slope * float(centred[-1] - centred[0])


def is_growing(sent_ns: Ints, flying: Ints) -> bool:
    """Whether the number in flight grew more than a steady queue wavers.

    The growth of a straight line is more than 3 % of the requests, and more than what chance does to a queue at
    capacity: 2 √n, or √n where MSER-5 finds no steady part either. Near capacity more requests tell more: of 1,000 at
    110 % of it three quarters are recognised, of 3,000 nearly all; at 90 % fewer than one in twenty is called growing.
    """
    n = len(sent_ns)
    if n < FEWEST:
        return False
    grown = growth(sent_ns, flying)
    if grown <= GROWTH_SHARE * n:
        return False
    _, settles = mser(flying.astype(np.float64))
    return grown > (2 if settles else 1) * math.sqrt(n)


def backlog_growing(table: Table, rows: Mask) -> bool:
    """Whether an open loop at one rate piles up requests; `rows` are those that were sent, warm-up apart.

    What ramps up before the first requests can have ended is no backlog: it is left out.
    """
    rows = rows & (table.sent_ns != MISSING)
    if rows.sum() < FEWEST:
        return False
    order = np.argsort(table.sent_ns[rows], kind="stable")
    sent_ns, done_ns = table.sent_ns[rows][order], table.done_ns[rows][order]
    life_ns = float(np.median(done_ns - sent_ns))
    first_ns, last_ns = int(sent_ns[0]), int(sent_ns[-1])
    begin = int(np.searchsorted(sent_ns, first_ns + min(life_ns, (last_ns - first_ns) / 2)))
    return is_growing(sent_ns[begin:], in_flight(sent_ns, done_ns)[begin:])
