"""What HumanEval and MBPP have in common: programs out of answers, their verdicts, and pass@k."""

from __future__ import annotations

import math
import re
import tempfile
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from bench.base.progress import Progress
from bench.quality.generation.ask import Request
from bench.quality.generation.config import CodeConfig, TaskSkipped
from bench.quality.generation.job import Asked, GradingJob, column, failures, token_metrics, validity
from bench.quality.generation.paired import Figures
from bench.quality.generation.session import Session
from bench.quality.job import Outcome
from bench.quality.sandbox import Program, Verdict, containment, run_programs

_FENCE = re.compile(r"```(?:[Pp]ython3?|py)?[ \t]*\n(.*?)(?:\n```|\Z)", re.DOTALL)
_OFF = (
    "it runs programs that the model wrote, and is off unless you ask for that: set execute=true of the task "
    "(each program then runs in a sandbox without network, files or other processes)"
)


def check(config: CodeConfig) -> None:
    """Raise TaskSkipped without `execute`, UsageError where programs cannot be contained."""
    if not config.execute:
        raise TaskSkipped(_OFF)
    with tempfile.TemporaryDirectory(prefix="quantbench-sandbox-") as folder:
        containment(work_dir=Path(folder), progress=Progress())


def pass_at_k(samples: int, passed: int, k: int) -> float:
    """The unbiased estimate 1 - C(n-c, k) / C(n, k) that one of k programs passes, of n of which c did (Chen 2021)."""
    return 1.0 - math.comb(samples - passed, k) / math.comb(samples, k)


def code_of(text: str) -> str:
    """The program in an answer: its first fenced block, or all of it where there is none."""
    found = _FENCE.search(text)
    return found.group(1) if found else text


@dataclass(frozen=True, kw_only=True)
class Problem:
    """One problem: how it is asked for the `sample`-th time, and the program that an answer makes."""

    name: str
    request: Callable[[int], Request]
    program: Callable[[str], Program]


def generate(problems: Sequence[Problem], config: CodeConfig, session: Session) -> Asked:
    """Ask for `config.samples` programs a problem, all samples of one after each other."""
    requests = [problem.request(sample) for problem in problems for sample in range(config.samples)]
    return Asked(requests=requests, answers=session.answers(requests, config.limits(session), unit="programs"))


def grade(
    problems: Sequence[Problem], config: CodeConfig, own: Asked, base: Asked | None, job: GradingJob, *, prompt: str
) -> Outcome:
    """Run every program, and say how often one passes."""
    found = validity(job, own, base)
    figures = Figures(margin=config.margin, same=job.same_model, found=found)
    mine = _run(problems, config, own, job, "own")
    theirs = None if base is None else (mine if job.same_model else _run(problems, config, base, job, "base"))
    if config.samples == 1:
        figures.share("pass_at_1", _passes(mine), None if theirs is None else _passes(theirs))
    else:
        for k in config.k:
            figures.mean(
                f"pass_at_{k}",
                "ratio",
                _estimates(mine, config.samples, k),
                None if theirs is None else _estimates(theirs, config.samples, k),
                margin=config.margin,
                items="problems",
            )
    items: dict[str, Any] = {
        "problem": column([problem.name for problem in problems for _ in range(config.samples)]),
        "sample": np.tile(np.arange(config.samples, dtype=np.int32), len(problems)),
        **own.columns(),
        **_columns("", mine),
    }
    if base is not None and theirs is not None:
        items |= base.columns("base_") | _columns("base_", theirs)
    return Outcome(
        metrics=figures.metrics | token_metrics(own, found),
        items=items,
        details={
            "protocol": {
                "prompt": prompt,
                "problems": len(problems),
                "samples": config.samples,
                "time_s": config.time_s,
                "memory_mib": config.memory_mib,
                "containment": containment(work_dir=job.work_dir, progress=job.progress),
            },
            "verdicts": dict(Counter(verdict.verdict for verdict in mine if verdict is not None)),
            "comparisons": figures.comparisons,
        },
        errors=failures(own),
    )


def _run(
    problems: Sequence[Problem], config: CodeConfig, asked: Asked, job: GradingJob, name: str
) -> list[Verdict | None]:
    """The verdict on each answer; None where there is no answer."""
    owners = [problem for problem in problems for _ in range(config.samples)]
    programs = {
        place: problem.program(text)
        for place, (problem, text) in enumerate(zip(owners, asked.texts, strict=True))
        if text is not None
    }
    verdicts = run_programs(
        list(programs.values()),
        time_s=config.time_s,
        memory_mib=config.memory_mib,
        processes=config.processes,
        work_dir=job.work_dir / name,
        progress=job.progress,
    )
    by_place = dict(zip(programs, verdicts, strict=True))
    return [by_place.get(place) for place in range(len(owners))]


def _passes(verdicts: Sequence[Verdict | None]) -> list[bool | None]:
    return [None if verdict is None else verdict.passed for verdict in verdicts]


def _estimates(verdicts: Sequence[Verdict | None], samples: int, k: int) -> list[float | None]:
    """pass@k of each problem; None where a sample is missing."""
    passes = _passes(verdicts)
    found: list[float | None] = []
    for start in range(0, len(passes), samples):
        own = passes[start : start + samples]
        known = [passed for passed in own if passed is not None]
        found.append(pass_at_k(samples, sum(known), k) if len(known) == samples else None)
    return found


def _columns(before: str, verdicts: Sequence[Verdict | None]) -> dict[str, Any]:
    return {
        f"{before}verdict": column([None if each is None else each.verdict for each in verdicts]),
        f"{before}detail": column([None if each is None else each.detail for each in verdicts]),
        f"{before}wall_s": column([None if each is None else each.wall_s for each in verdicts]),
        f"{before}correct": column(_passes(verdicts)),
    }
