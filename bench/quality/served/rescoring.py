"""Rescoring: a generated token's log-probability while decoding, against the same token's in a prompt.

Prompt scoring runs prefill kernels only; an engine whose decoding kernels, KV cache type or speculative decoding lose
something shows it here: the same build, the same weights, the same tokens, and still another probability.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bench.base.errors import UsageError
from bench.engines.served_logprobs import Asked
from bench.quality.config import ScoreFrom
from bench.quality.generation.job import GradingJob
from bench.quality.generation.session import Session
from bench.quality.intervals import window_interval
from bench.quality.job import Outcome, value_metric
from bench.quality.served.asking import Asking
from bench.quality.served.config import ServedRescoringConfig
from bench.quality.served.text import cut_text
from bench.quality.texts import text_digest


@dataclass(frozen=True, kw_only=True)
class Rescored:
    """Log-probabilities of the same generated tokens, shape (windows, tokens), nat."""

    decoded: NDArray[np.float64]
    prefilled: NDArray[np.float64]
    token_ids: NDArray[np.int32]


def generate(config: ServedRescoringConfig, session: Session) -> Rescored:
    """Continue each window greedily, and ask for the whole as a prompt. Raises UsageError where the engine cannot."""
    asking = Asking(session, concurrency=config.max_concurrency)
    route, model = asking.route, asking.endpoint.model
    if not (route.prompt and route.token_ids):
        raise UsageError(
            f"{asking.endpoint.engine.kind} gives no log-probabilities of prompts: nothing to rescore with"
        )
    windows, _ = cut_text(
        asking, config, context=config.context, windows=config.windows, score_from=ScoreFrom.second_half
    )
    prompts = [[int(token) for token in row] for row in windows.ids]
    begun = [Asked(model=model, prompt=prompt, top=1, generate=config.tokens) for prompt in prompts]
    found = asking.all_asked(begun, lambda answer: [list(pair) for pair in route.generated(answer)], unit="texts")
    ids = [[int(token) for token, _ in own] for own in found]
    short = [len(own) for own in ids if len(own) != config.tokens]
    if short:
        raise UsageError(f"the server ended after {min(short)} of task.tokens={config.tokens}: ask for fewer")
    whole = [Asked(model=model, prompt=[*prompt, *own]) for prompt, own in zip(prompts, ids, strict=True)]
    again = asking.all_asked(whole, lambda answer: route.prompt_logprobs(answer)[-config.tokens :], unit="texts again")
    return Rescored(
        decoded=np.array([[logprob for _, logprob in own] for own in found], dtype=np.float64),
        prefilled=np.array(again, dtype=np.float64),
        token_ids=np.array(ids, dtype=np.int32),
    )


def grade(config: ServedRescoringConfig, own: Rescored, job: GradingJob) -> Outcome:
    """How far the two are apart: mean, 99th percentile, maximum of |decoded − prefilled|, nat, and the signed mean."""
    gap = own.decoded - own.prefilled
    apart = np.abs(gap)
    found = [reason.value for reason in job.reasons]
    metrics = {
        "mean_decode_gap": value_metric("nat/token", float(apart.mean()), _positive(apart), found, n=gap.size),
        "p99_decode_gap": value_metric("nat/token", float(np.percentile(apart, 99)), None, found, n=gap.size),
        "max_decode_gap": value_metric("nat/token", float(apart.max()), None, found, n=gap.size),
        "signed_decode_gap": value_metric("nat/token", float(gap.mean()), window_interval(gap), found, n=gap.size),
    }
    items: dict[str, NDArray[Any]] = {
        "window": np.repeat(np.arange(len(gap), dtype=np.int32), gap.shape[1]),
        "token_id": own.token_ids.reshape(-1),
        "decoded": own.decoded.reshape(-1),
        "prefilled": own.prefilled.reshape(-1),
    }
    protocol = {
        "text": {"name": config.text, "digest": text_digest(config.text_path())},
        "context": config.context,
        "windows": len(gap),
        "tokens": config.tokens,
    }
    return Outcome(metrics=metrics, items=items, details={"protocol": protocol}, errors={})


def _positive(values: NDArray[np.float64]) -> tuple[float, float] | None:
    interval = window_interval(values)
    return None if interval is None else (max(0.0, interval[0]), interval[1])
