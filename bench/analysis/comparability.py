"""What must be the same before two cells are compared, and what is not: said, instead of compared.

A different model, tokenizer or template spoils everything; different sampling, scenario or workload spoils speed and
cost at that load; different task settings or data spoil that task. Nothing that is not recorded is taken to differ.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

from bench.analysis.loads import NOT_ASKED, workload_of
from bench.analysis.results import Cell, Measurement, mapping, text


class Facet(StrEnum):
    """What is looked at."""

    MODEL = "model revision"
    TOKENIZER = "tokenizer"
    TEMPLATE = "chat template"
    SAMPLING = "sampling"
    SCENARIO = "scenario"
    TASK = "task data"


EVERYTHING = frozenset({Facet.MODEL, Facet.TOKENIZER, Facet.TEMPLATE})
_SAMPLING = ("temperature", "seed", "ignore_eos", "extra", "output_tokens")
_TEMPLATE = ("api", "chat_template", "system_prompt", "system")
_TASK_ASKED = frozenset({"margin", "out", "timeout_s", "concurrency", "cache"})
"""Settings of a task that do not change what is scored."""
_LONGEST = 60


@dataclass(frozen=True, kw_only=True)
class Difference:
    """`facet` of `cell` is `own`, of what it would be compared with `other`; `source` names the load or task."""

    cell: str
    against: str
    facet: Facet
    source: str
    own: str
    other: str

    @property
    def said(self) -> str:
        """In a sentence without its end."""
        where = f" of {self.source}" if self.source else ""
        return f"{self.cell} and {self.against} differ in the {self.facet}{where}: {self.own}, {self.other}"


def differences(cell: Cell, other: Cell) -> list[Difference]:
    """Every recorded facet in which two cells differ."""
    return [
        Difference(
            cell=cell.label, against=other.label, facet=facet, source=source, own=_short(own), other=_short(theirs)
        )
        for facet, source, own, theirs in (*_of_model(cell, other), *_of_loads(cell, other), *_of_tasks(cell, other))
        if own is not None and theirs is not None and own != theirs
    ]


Found = Iterator[tuple[Facet, str, Any, Any]]


def _of_model(cell: Cell, other: Cell) -> Found:
    for facet, names in (
        (Facet.MODEL, ("digest",)),
        (Facet.TOKENIZER, ("tokenizer", "tokenizer_digest")),
        (Facet.TEMPLATE, ("chat_template", "chat_template_digest")),
    ):
        for name in names:
            yield facet, "", text(cell.model.get(name)), text(other.model.get(name))


def _of_loads(cell: Cell, other: Cell) -> Found:
    for name in cell.scenarios:
        if name not in other.scenarios:
            continue
        own, theirs = workload_of(cell, name), workload_of(other, name)
        for facet, keys in ((Facet.SAMPLING, _SAMPLING), (Facet.TEMPLATE, _TEMPLATE)):
            yield facet, name, _part(own, keys), _part(theirs, keys)
        apart = {*_SAMPLING, *_TEMPLATE}
        yield Facet.SCENARIO, name, _asked(cell, name, own, apart), _asked(other, name, theirs, apart)


def _part(workload: Mapping[str, Any], keys: Sequence[str]) -> str | None:
    return _written({key: workload[key] for key in keys if key in workload}) if workload else None


def _asked(cell: Cell, name: str, workload: Mapping[str, Any], apart: set[str]) -> str | None:
    scenario = {key: value for key, value in cell.scenarios[name].config.items() if key not in NOT_ASKED}
    rest = {key: value for key, value in workload.items() if key not in apart}
    return _written({**scenario, "workload": rest}) if scenario else None


def _of_tasks(cell: Cell, other: Cell) -> Found:
    for name, task in cell.tasks.items():
        theirs = other.tasks.get(name)
        if theirs is not None:
            yield Facet.TASK, name, _task_asked(task), _task_asked(theirs)
            yield Facet.TASK, name, data_digest(task), data_digest(theirs)
            yield Facet.TOKENIZER, name, tokens_of(task), tokens_of(theirs)


def _task_asked(task: Measurement) -> str | None:
    asked = {key: value for key, value in task.config.items() if key not in _TASK_ASKED}
    return _written(asked) if asked else None


def data_digest(task: Measurement) -> str | None:
    """The digest of the text or questions a task was scored on."""
    protocol = mapping(task.summary.get("protocol"))
    for name in ("text", "data"):
        digest = text(mapping(protocol.get(name)).get("digest"))
        if digest is not None:
            return digest
    return text(protocol.get("digest"))


def tokens_of(task: Measurement) -> str | None:
    """How a tokenizer cut the task's text: two that differ in this differ, two that do not may be one."""
    protocol = mapping(task.summary.get("protocol"))
    count, vocabulary = text(mapping(protocol.get("text")).get("tokens")), text(protocol.get("vocabulary"))
    return None if count is None or vocabulary is None else f"{count} tokens of {vocabulary}"


def _written(value: Any) -> str:
    return json.dumps(value, sort_keys=True, default=str)


def _short(value: object) -> str:
    """A value for people, cut; of two long ones the sentence still says in what they differ."""
    told = str(value)
    return told if len(told) <= _LONGEST else f"{told[:_LONGEST]}…"


def spoils(found: Sequence[Difference], *, source: str) -> str | None:
    """Why what is read of load or task `source` must not be compared; None where nothing speaks against it."""
    against = [each for each in found if (each.facet in EVERYTHING and not each.source) or each.source == source]
    return against[0].said if against else None
