"""MBPP: short programs from a sentence and three assertions, in its own format and with lm-eval's prompt."""

from __future__ import annotations

from typing import Any

from bench.base.errors import UsageError
from bench.quality import code_tasks
from bench.quality.code_tasks import Problem, code_of
from bench.quality.generation.ask import Request, prompted
from bench.quality.generation.config import MbppConfig
from bench.quality.generation.data import chosen, read_jsonl
from bench.quality.generation.job import Asked, GradingJob
from bench.quality.generation.session import Session
from bench.quality.job import Outcome
from bench.quality.sandbox import Program

_FIELDS = ("task_id", "text", "code", "test_list")
_STOP = ("[DONE]",)
#: The examples are the problems from this number on, as in lm-eval.
_FIRST_SHOT = 2


def asked(row: dict[str, Any]) -> str:
    """A problem as it is put to the model."""
    tests = "\n".join(row["test_list"][:3])
    return (
        f"You are an expert Python programmer, and here is your task: {row['text']} "
        f"Your code should pass these tests:\n\n{tests}\n[BEGIN]\n"
    )


def program_of(row: dict[str, Any], answer: str) -> Program:
    """The answer's program up to `[DONE]`, and all of the problem's assertions."""
    code = code_of(answer.partition("[DONE]")[0].removeprefix("[BEGIN]"))
    before = row.get("test_setup_code") or ""
    return Program(setup=code, tests="\n".join([before, *row["test_list"]]))


def problems(config: MbppConfig) -> list[Problem]:
    """The chosen problems; raises UsageError."""
    rows = read_jsonl(config.data_path(), where="task.data", fields=_FIELDS)
    by_number = {int(row["task_id"]): row for row in rows}
    shots = [by_number.get(number) for number in range(_FIRST_SHOT, _FIRST_SHOT + config.shots)]
    if None in shots:
        missing = _FIRST_SHOT + shots.index(None)
        raise UsageError(f"task.data={config.data}: example {missing} is missing; give all of MBPP, or task.shots=0")
    before = "".join(f"{asked(shot)}{shot['code']}\n[DONE]\n\n" for shot in shots if shot is not None)
    wanted = [row for number, row in by_number.items() if config.first <= number <= config.last]
    if not wanted:
        raise UsageError(f"task.data={config.data}: no problem from {config.first} to {config.last} (task_id)")
    return [_problem(row, before, config) for row in chosen(wanted, limit=config.limit, seed=config.seed)]


def _problem(row: dict[str, Any], before: str, config: MbppConfig) -> Problem:
    def request(sample: int) -> Request:
        return prompted(config.api, before + asked(row), config.sampling(*_STOP, sample=sample))

    return Problem(name=str(row["task_id"]), request=request, program=lambda answer: program_of(row, answer))


def generate(config: MbppConfig, session: Session) -> Asked:
    """Ask for every program."""
    return code_tasks.generate(problems(config), config, session)


def grade(config: MbppConfig, own: Asked, base: Asked | None, job: GradingJob) -> Outcome:
    """Run every program's assertions."""
    return code_tasks.grade(problems(config), config, own, base, job, prompt=f"MBPP over {config.api.value}")
