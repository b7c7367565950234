"""Perplexity and a lower bound of the divergence from what servers tell of a text's tokens.

At every place both models tell their likeliest tokens and, where they can, the text's own. The vocabulary is split into
the tokens that both told and one lump of all others; KL between the two split distributions is never above that of the
whole ones (data processing inequality), so it is a lower bound and named so.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bench.base.errors import UsageError
from bench.base.validity import Reason
from bench.engines.scoring import Tokens, TokenWindows
from bench.engines.served_logprobs import Asked
from bench.quality.config import ScoreFrom
from bench.quality.generation.job import GradingJob
from bench.quality.generation.session import Session
from bench.quality.intervals import exp, exp_interval, share_interval, token_standard_error, window_interval
from bench.quality.job import Outcome, value_metric
from bench.quality.served.asking import Asking
from bench.quality.served.config import ServedDivergenceConfig
from bench.quality.statistics.verdict import compare_means
from bench.quality.texts import text_digest
from bench.quality.windowed import window_means
from bench.quality.windows import build_windows

#: More bytes than a token has, for cutting the text before it is sent.
_TOKEN_BYTES = 16
Tops = Mapping[int, float]


@dataclass(frozen=True, kw_only=True)
class Told:
    """What a server tells of the windows: `tops` is, for each window and scored place, {token id: log-probability}."""

    windows: TokenWindows
    tops: Sequence[Sequence[Tops]]
    asked_by: str
    used: str

    @property
    def nll(self) -> NDArray[np.float64]:
        """Of the text's own tokens, shape (windows, scored), nat; NaN where the server did not tell."""
        targets = self.windows.targets
        return np.array(
            [
                [-tops.get(int(token), math.nan) for tops, token in zip(own, row, strict=True)]
                for own, row in zip(self.tops, targets, strict=True)
            ]
        )


def generate(config: ServedDivergenceConfig, session: Session) -> Told:
    """Tokenize the text on the server, cut it, and ask for every scored place."""
    asking = Asking(session, concurrency=config.max_concurrency)
    windows, used = cut_text(
        asking, config, context=config.context, windows=config.windows, score_from=config.score_from
    )
    route, model = asking.route, asking.endpoint.model
    rows = [[int(token) for token in ids] for ids in windows.ids]
    if route.prompt and route.token_ids and config.top <= route.most:
        asked = [Asked(model=model, prompt=row, prompt_top=config.top) for row in rows]

        def read(answer: Any) -> list[list[list[float]]]:
            return [_packed(tops) for tops in route.prompt_tops(answer)[windows.first :]]

        found = asking.all_asked(asked, read, unit="windows")
        how = f"prompt log-probabilities, the {config.top} likeliest"
    elif route.token_ids and config.top <= route.most:
        # No log-probabilities of prompts: the next token after every beginning, which the server's cache makes cheap.
        chains = [
            [
                (
                    route.path,
                    route.body(Asked(model=model, prompt=row[: place + 1], top=config.top, reuse=True)),
                    lambda answer: _packed({int(key): value for key, value in route.next_logprobs(answer).items()}),
                )
                for place in range(windows.first, len(row) - 1)
            ]
            for row in rows
        ]
        found = asking.chains(chains, unit="windows")
        how = f"the {config.top} likeliest next tokens after every place"
    else:
        kind = asking.endpoint.engine.kind
        raise UsageError(f"{kind} tells at most {route.most} likeliest tokens; lower task.top, or use another engine")
    tops = [[_unpacked(place) for place in window] for window in found]
    return Told(windows=windows, tops=tops, asked_by=how, used=used)


def cut_text(
    asking: Asking, config: Any, *, context: int, windows: int, score_from: ScoreFrom
) -> tuple[TokenWindows, str]:
    """The windows of a text in the server's own vocabulary, and the part of the text that was tokenized."""
    text = config.text_path().read_bytes().removesuffix(b"\n")
    if windows:
        text = text[: (windows + 1) * context * _TOKEN_BYTES]
    decoded = text.decode(errors="ignore")
    plain, whole = (asking.tokenize([decoded], special=special)[0] for special in (False, True))
    bos = whole[0] if len(whole) == len(plain) + 1 and whole[1:] == plain else None
    ids = np.array(plain if bos is None else whole, dtype=np.int32)
    tokens = Tokens(ids=ids, byte_lengths=np.zeros_like(ids), bos_id=bos, vocabulary=0)
    return build_windows(tokens, context=context, windows=windows, score_from=score_from), decoded


def grade(config: ServedDivergenceConfig, own: Told, base: Told | None, job: GradingJob) -> Outcome:
    """Perplexity, and against the baseline the lower bound, the ratio of perplexities and agreement on top tokens."""
    nll = own.nll
    found = [reason.value for reason in job.reasons]
    untold = int(np.isnan(nll).sum())
    told = [*found, *([Reason.TOKENS_NOT_TOLD.value] if untold else [])]
    mean = float(nll.mean())
    metrics = {
        "perplexity": value_metric("1", exp(mean), exp_interval(window_interval(nll)), told),
        "mean_nll": value_metric(
            "nat/token", mean, window_interval(nll), told, standard_error=token_standard_error(nll)
        ),
    }
    items: dict[str, NDArray[Any]] = {
        "window": np.repeat(np.arange(len(nll), dtype=np.int32), nll.shape[1]),
        "token_id": own.windows.targets.reshape(-1),
        "nll": nll.reshape(-1),
    }
    details: dict[str, Any] = {
        "protocol": {
            "text": {"name": config.text, "digest": text_digest(config.text_path())},
            "context": config.context,
            "windows": len(nll),
            "score_from": config.score_from.value,
            "scored_tokens": int(nll.size),
            "top": config.top,
            "asked_by": own.asked_by,
            "lower_bound": True,
            "tokens_not_told": untold,
        },
        "windows": window_means(nll=nll),
    }
    if config.compare:
        compared, columns, comparisons = _compared(config, own, base, told)
        metrics |= compared
        items |= columns
        details["comparisons"] = comparisons
    return Outcome(
        metrics=metrics,
        items=items,
        details=details,
        errors={"tokens_not_told": untold} if untold else {},
        texts=[own.used],
    )


_UNITS = {
    "mean_divergence_lower_bound": "nat/token",
    "median_divergence_lower_bound": "nat/token",
    "p99_divergence_lower_bound": "nat/token",
    "max_divergence_lower_bound": "nat/token",
    "top1_agreement": "ratio",
    "base_perplexity": "1",
    "perplexity_ratio": "ratio",
}


def _compared(
    config: ServedDivergenceConfig, own: Told, base: Told | None, found: Sequence[str]
) -> tuple[dict[str, dict[str, Any]], dict[str, NDArray[Any]], dict[str, Any]]:
    """Metrics, columns of items, and verdicts against the baseline; null with the reason where there are none."""
    if base is None or not np.array_equal(own.windows.ids, base.windows.ids):
        why = Reason.NO_BASELINE if base is None else Reason.TOKENIZERS_DIFFER
        missing = [*found, why.value]
        return {tag: value_metric(unit, None, None, missing) for tag, unit in _UNITS.items()}, {}, {}
    places = [list(zip(*rows, strict=True)) for rows in zip(own.tops, base.tops, strict=True)]
    bound = np.array([[lower_bound(base_tops, tops) for tops, base_tops in row] for row in places])
    agreed = np.array([[_first(tops) == _first(base_tops) for tops, base_tops in row] for row in places])
    nll, base_nll = own.nll, base.nll
    difference = nll - base_nll
    sure = [*(reason for reason in found if reason != Reason.TOKENS_NOT_TOLD.value)]
    interval = window_interval(bound)
    values: dict[str, tuple[float, tuple[float, float] | None]] = {
        "mean_divergence_lower_bound": (
            float(bound.mean()),
            None if interval is None else (max(0.0, interval[0]), interval[1]),
        ),
        "median_divergence_lower_bound": (float(np.median(bound)), None),
        "p99_divergence_lower_bound": (float(np.percentile(bound, 99)), None),
        "max_divergence_lower_bound": (float(bound.max()), None),
        "top1_agreement": (float(agreed.mean()), share_interval(int(agreed.sum()), agreed.size)),
        "base_perplexity": (exp(float(base_nll.mean())), exp_interval(window_interval(base_nll))),
        "perplexity_ratio": (exp(float(difference.mean())), exp_interval(window_interval(difference))),
    }
    untold = Reason.TOKENS_NOT_TOLD.value
    metrics = {
        tag: value_metric(_UNITS[tag], value, between, [*sure, untold] if not np.isfinite(value) else sure)
        for tag, (value, between) in values.items()
    }
    columns: dict[str, NDArray[Any]] = {
        "base_nll": base_nll.reshape(-1),
        "divergence_lower_bound": bound.reshape(-1),
        "top1_match": agreed.reshape(-1),
    }
    verdict = compare_means(difference.mean(axis=1), margin=config.margin) if np.isfinite(difference).all() else None
    return metrics, columns, {} if verdict is None else {"mean_nll": verdict.as_dict()}


def lower_bound(base: Tops, variant: Tops) -> float:
    """KL(base ‖ variant), nat, of the tokens that both tell and the lump of all others; never negative.

    Where rounding leaves the variant's lump with nothing, it gets the smallest positive number.
    """
    both = [token for token in base if token in variant]
    log_base = np.array([base[token] for token in both])
    log_variant = np.array([variant[token] for token in both])
    p_base, p_variant = np.exp(log_base), np.exp(log_variant)
    rest, rest_variant = max(0.0, 1.0 - float(p_base.sum())), max(1e-12, 1.0 - float(p_variant.sum()))
    total = float((p_base * (log_base - log_variant)).sum())
    if rest > 1e-12:
        total += rest * (math.log(rest) - math.log(rest_variant))
    return max(0.0, total)


def _first(tops: Tops) -> int:
    return max(tops, key=lambda token: (tops[token], -token))


def _packed(tops: Tops) -> list[list[float]]:
    """As JSON keeps it."""
    return [[token, logprob] for token, logprob in tops.items() if math.isfinite(logprob)]


def _unpacked(pairs: Sequence[Sequence[float]]) -> Tops:
    return {int(token): logprob for token, logprob in pairs}
