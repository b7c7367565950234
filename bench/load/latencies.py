"""The formulas of latencies: for each value the request it belongs to, so that intervals respect what was shared."""

from __future__ import annotations

import numpy as np

from bench.base.clock import NS_PER_MS, NS_PER_S
from bench.load.columns import MISSING
from bench.load.sample import Sample, Spread
from bench.load.table import Ints


def _between(later: Ints, earlier: Ints) -> Spread:
    return (later - earlier) / NS_PER_MS, np.arange(len(later))


def ttft(sample: Sample) -> Spread:
    """The first token-bearing event has non-empty content, reasoning, refusal or tool call."""
    rows = sample.answered()
    return _between(sample.table.first_token_ns[rows], sample.table.sent_ns[rows])


def ttft_from_schedule(sample: Sample) -> Spread:
    """With the waiting in the client and for the connection, which other clients leave out."""
    rows = sample.answered()
    return _between(sample.table.first_token_ns[rows], sample.table.scheduled_ns[rows])


def ttfo(sample: Sample) -> Spread:
    """Of models that reason first: until the first event that is not reasoning."""
    rows = sample.ordered(sample.table.first_answer_ns != MISSING)
    return _between(sample.table.first_answer_ns[rows], sample.table.sent_ns[rows])


def reasons(sample: Sample) -> bool:
    """Whether any measured answer began with reasoning."""
    table = sample.table
    began = sample.window.measured & (table.first_token_ns != MISSING)
    return bool((began & (table.first_answer_ns != table.first_token_ns)).any())


def ttst(sample: Sample) -> Spread:
    """From the first to the second token-bearing event, which tells what the first decoding step costs."""
    gaps, _, owner = sample.gaps(sample.table.events >= 2)
    first = np.flatnonzero(np.diff(owner, prepend=MISSING))
    return gaps[first] / NS_PER_MS, owner[first]


def e2e_latency(sample: Sample) -> Spread:
    """Until the last token, not until the end of the HTTP answer."""
    rows = sample.answered()
    return _between(sample.table.last_token_ns[rows], sample.table.sent_ns[rows])


def e2e_from_schedule(sample: Sample) -> Spread:
    """As e2e_latency, free of coordinated omission."""
    rows = sample.answered()
    return _between(sample.table.last_token_ns[rows], sample.table.scheduled_ns[rows])


def tpot(sample: Sample) -> Spread:
    """Time per output token after the first, one value a request."""
    rows, span = _decoding(sample)
    return span / (sample.table.output_tokens[rows] - 1) / NS_PER_MS, np.arange(len(rows))


def tokens_per_s_user(sample: Sample) -> Spread:
    """What one user sees: 1 / tpot in tokens per second. Slow users are at the low end: read tpot's p99 for them."""
    rows, span = _decoding(sample)
    moved = span > 0
    rows, span = rows[moved], span[moved]
    return (sample.table.output_tokens[rows] - 1) * NS_PER_S / span, np.arange(len(rows))


def _decoding(sample: Sample) -> tuple[Ints, Ints]:
    """(rows, ns from the first to the last token) of requests with two tokens or more."""
    table = sample.table
    rows = sample.ordered((table.first_token_ns != MISSING) & (table.output_tokens >= 2))
    return rows, table.last_token_ns[rows] - table.first_token_ns[rows]


def inter_chunk_gap(sample: Sample) -> Spread:
    """Between consecutive token-bearing events of a request, however many tokens they carry."""
    gaps, _, owner = sample.gaps(sample.table.events >= 2)
    return gaps / NS_PER_MS, owner


def itl(sample: Sample) -> Spread:
    """Each gap shared among the tokens of the event that ended it, once a token.

    Only of requests where the tokens of every event are known: said by the stream, or one each because there were as
    many events as tokens.
    """
    gaps, tokens, owner = sample.gaps(sample.single_tokens_known)
    repeats = np.maximum(tokens, 1)
    return np.repeat(gaps / repeats, repeats) / NS_PER_MS, np.repeat(owner, repeats)
