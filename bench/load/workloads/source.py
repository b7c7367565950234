"""Which source draws a workload's sessions."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import TYPE_CHECKING

from bench.base.errors import UsageError
from bench.load.config import SyntheticConfig, WorkloadConfig
from bench.load.preflight import open_client, token_counter
from bench.load.prompts import vocabulary
from bench.load.target import Target
from bench.load.workloads.config import JsonlConfig, ShareGptConfig
from bench.load.workloads.draft import Source
from bench.load.workloads.fit import Estimate, Fitter
from bench.load.workloads.jsonl import JsonlSource
from bench.load.workloads.sharegpt import ShareGptSource
from bench.load.workloads.synthetic import SyntheticSource

if TYPE_CHECKING:
    import httpx


@contextlib.contextmanager
def open_source(target: Target, workload: WorkloadConfig, number: int, *, name: str, repeat: int) -> Iterator[Source]:
    """What draws at most `number` requests of `workload`, with the endpoint's tokenizer where there is one.

    Raises UsageError, here and while drawing, for a workload or a file that cannot be used.
    """
    with (
        open_client(target) as client,
        contextlib.closing(_make(client, target, workload, number, name=name, repeat=repeat)) as source,
    ):
        yield source


def _make(
    client: httpx.Client, target: Target, workload: WorkloadConfig, number: int, *, name: str, repeat: int
) -> Source:
    if isinstance(workload, SyntheticConfig):
        counter = token_counter(client, target, workload.api) if workload.tokenize else None
        fitter = None if counter is None else Fitter(counter, vocabulary())
        return SyntheticSource(workload, number, name=name, repeat=repeat, fitter=fitter)
    if isinstance(workload, JsonlConfig):
        return JsonlSource(workload, name=name, repeat=repeat)
    if isinstance(workload, ShareGptConfig):
        estimate = Estimate(token_counter(client, target, workload.api))
        return ShareGptSource(workload, name=name, repeat=repeat, estimate=estimate)
    raise UsageError(f"workload kind '{workload.kind}' is not one that the load generator can ask")
