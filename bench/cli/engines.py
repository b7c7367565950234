"""`quantbench engines`: which engine serves which format, what one engine can do, and whether that holds."""

from __future__ import annotations

import argparse
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from bench.base.errors import UsageError, nearest
from bench.cli.show import Display

if TYPE_CHECKING:
    from bench.engines.base import Engine
    from bench.engines.support_matrix import Entry
    from bench.pipeline.verify import Seen
    from bench.toolchains.config import Accelerator

_VERIFY = "verify"
_CHANGE = "bench/engines/support_matrix.py says otherwise"


def engines(arguments: argparse.Namespace) -> int:
    """`quantbench engines [KIND]` and `quantbench engines verify NAME [KEY=VALUE …]`."""
    from bench.cli.commands import prepare

    words = list(arguments.arguments)
    display = prepare(arguments)
    if words[:1] == [_VERIFY]:
        if arguments.accelerator is not None:
            raise UsageError("engines verify: an engine computes where its settings say, drop --accelerator")
        return _verify(words[1:], arguments.argv, display)
    if len(words) > 1:
        raise UsageError(f"engines: unexpected {words[1]!r}; quantbench engines KIND shows one engine")
    accelerator = _accelerator(arguments.accelerator)
    if words:
        _show_engine(_engine(words[0]), accelerator, display)
    else:
        _show_matrix(accelerator, display)
    return 0


def _accelerator(asked: str | None) -> Accelerator:
    """What was asked for, else this machine's."""
    from bench.engines.gpu import has_gpu
    from bench.toolchains.config import Accelerator

    if asked is not None:
        return Accelerator(asked)
    return Accelerator.cuda if has_gpu() else Accelerator.cpu


def _kinds() -> list[str]:
    """Every engine, those of the table in its order first."""
    from bench.base.schema import registered
    from bench.engines.support_matrix import kinds

    known = kinds()
    return [*known, *sorted(set(registered("engine")) - set(known))]


def _engine(kind: str) -> Engine:
    from bench.base.schema import registered
    from bench.engines.base import engine_of

    found = registered("engine").get(kind)
    if found is None:
        raise UsageError(f"engine '{kind}' is unknown; {nearest(kind, _kinds())}")
    return engine_of(found())


def entries(kind: str, accelerator: Accelerator) -> Mapping[str, Entry]:
    """Format → the table's answer; of engines that are not in it their own."""
    from bench.engines.formats import FORMATS
    from bench.engines.support_matrix import Entry, entry

    found: dict[str, Entry] = {}
    for known in FORMATS:
        told = entry(kind, accelerator, known)
        if told is None:
            engine = _engine(kind)
            own = engine.serves(engine.config_class(), known.written_as, known.load_method, known.packing)
            told = Entry(answer=own.answer, reason=own.reason)
        found[known.name] = told
    return found


def _record(kind: str, accelerator: Accelerator, name: str, told: Entry) -> dict[str, Any]:
    return {
        "engine": kind,
        "accelerator": str(accelerator),
        "format": name,
        "answer": str(told.answer),
        "reason": told.reason or None,
        "evidence": str(told.evidence),
        "where": told.where or None,
    }


def _show_matrix(accelerator: Accelerator, display: Display) -> None:
    """Formats down, engines across, and below why where it is more than the wrong kind of file."""
    from bench.engines.formats import FORMATS

    told = {kind: entries(kind, accelerator) for kind in _kinds()}
    rows = [(known.name, *(str(told[kind][known.name].answer) for kind in told)) for known in FORMATS]
    records = [
        _record(kind, accelerator, name, found) for kind, of_kind in told.items() for name, found in of_kind.items()
    ]
    display.table("support", (f"on {accelerator}", *told), rows, records=records)
    for kind, of_kind in told.items():
        for reason, names in _by_reason(of_kind).items():
            display.note(f"{kind}: {', '.join(names)}: {reason}")


def _by_reason(told: Mapping[str, Entry]) -> dict[str, list[str]]:
    """Reason → formats; that an engine reads another kind of file is plain from the table."""
    from bench.engines.support_matrix import Evidence

    found: dict[str, list[str]] = {}
    for name, one in told.items():
        if one.reason and (one.where or one.evidence is Evidence.NONE):
            found.setdefault(one.reason, []).append(name)
    return {reason: ["all formats"] if len(names) == len(told) else names for reason, names in found.items()}


def _show_engine(engine: Engine, accelerator: Accelerator, display: Display) -> None:
    from bench.engines.formats import FORMATS

    told = entries(engine.kind, accelerator)
    rows = [
        (
            known.name,
            known.words,
            str(one.answer),
            one.reason or "-",
            f"{one.evidence}: {one.where}" if one.where else "-",
        )
        for known in FORMATS
        for one in [told[known.name]]
    ]
    records = [_record(engine.kind, accelerator, name, one) for name, one in told.items()]
    display.table("support", (f"on {accelerator}", "what it is", "answer", "reason", "evidence"), rows, records=records)
    display.note("")
    display.table("launch", ("launch", "how"), launch_modes(engine))
    display.note("")
    display.table("setting", ("setting", f"{engine.kind} is told"), settings(engine))
    display.note("")
    display.table("logprobs", ("log-probabilities of", "a running server gives them"), logprobs(engine))
    presets = _presets(engine.kind)
    if presets:
        display.note("")
        display.table("preset", ("preset", "toolchain", "state"), presets)


def launch_modes(engine: Engine) -> list[tuple[str, str]]:
    """Where the engine may come from, and the setting that says so."""
    found, toolchain = [], engine.config_class().toolchain
    if toolchain:
        found.append(("toolchain", f"engine.toolchain={toolchain}"))
    if toolchain or engine.has_program:
        found.append(("executable", "engine.executable=PROGRAM"))
    if engine.has_program:
        found.append(("container", "engine.container.image=IMAGE"))
    return [*found, ("attach", "engine.base_url=http://HOST:PORT/v1")]


def logprobs(engine: Engine) -> list[tuple[str, str]]:
    """What a running server of the engine can be asked for, for scoring."""
    route = engine.logprobs
    prompts = "no" if route is None or not route.prompt else "yes" if route.token_ids else "yes, of text"
    chosen = "no" if route is None else "yes" if route.chosen else "those among the likeliest" if route.most else "no"
    most = "no" if route is None or not route.most else "any number" if route.most > 1000 else f"at most {route.most}"
    return [("a prompt's tokens", prompts), ("chosen next tokens", chosen), ("the likeliest next tokens", most)]


def settings(engine: Engine) -> list[tuple[str, str]]:
    """Common settings, and how the engine is told them."""
    from bench.engines.flags import COMMON_SETTINGS

    return [(name, setting_words(engine, name)) for name in COMMON_SETTINGS]


def setting_words(engine: Engine, name: str) -> str:
    """The flag of a common setting, what to use instead, or that it is refused."""
    flag = engine.flags.get(name)
    if flag is None:
        instead = engine.own_settings.get(name)
        if instead is None:
            return "refused"
        return f"use {instead}" if instead else "yes"
    if flag.name:
        return flag.name
    said = {"on": flag.on, "off": flag.off}
    parts = [f"{word}: {' '.join(words) or 'default'}" for word, words in said.items() if words is not None]
    return ", ".join(parts)


def _presets(kind: str) -> list[tuple[str, str, str]]:
    """Choices of conf/engine that are of this kind, with the state of their toolchains."""
    from bench.base.compose import compose, options
    from bench.plan.config import RunConfig
    from bench.toolchains.command import list_toolchains

    states = {row.name: row.state.value for row in list_toolchains(with_sizes=False)}
    names = [name for name in options("engine") if name.startswith(kind)]
    composed = {name: compose("run", [f"engine={name}"], RunConfig).engine for name in names}
    return [
        (name, config.toolchain or "-", states.get(config.toolchain, "-") if config.uses_toolchain else "not used")
        for name, config in composed.items()
        if config.kind == kind
    ]


SEEN_COLUMNS = (
    *("engine", "on", "format", "variant", "table says", "loads", "generates", "tokens counted", "metrics read"),
    "failure",
)


def _verify(words: Sequence[str], argv: Sequence[str], display: Display) -> int:
    from bench.pipeline.verify import verify

    if not words or "=" in words[0]:
        raise UsageError("engines verify: name a choice of conf/engine, such as llama_cpp")
    for word in words[1:]:
        if "=" not in word and not word.startswith("~"):
            raise UsageError(f"engines verify: '{word}' is not KEY=VALUE")
    found = verify(words[0], words[1:], progress=display.progress(), command=["quantbench", *argv])
    display.table(
        "seen", SEEN_COLUMNS, [_row(row) for row in found.rows], records=[seen_record(row) for row in found.rows]
    )
    for row in found.rows:
        if row.tried and not row.works:
            display.result(f"failed: {row.variant}: {row.message or row.faults}", variant=row.variant, kind=row.kind)
            display.log_tail(row.log_tail)
        elif not row.tried:
            display.result(f"not tried: {row.variant}: {row.message}", variant=row.variant, reason=row.message)
    for row in found.rows:
        if row.correction:
            display.result(f"{_CHANGE}: {row.correction}", correction=row.correction)
    display.result(
        f"{'holds' if found.holds else 'does not hold'}; recorded in {found.directory}",
        holds=found.holds,
        out=str(found.directory),
    )
    return 0 if found.holds else 1


def _row(row: Seen) -> tuple[str, ...]:
    known = (row.loads, row.generates, row.counted, row.metrics)
    answers = ("-" if value is None else "yes" if value else "no" for value in known)
    return (row.engine, row.accelerator, row.format, row.variant, str(row.told), *answers, row.kind or "-")


def seen_record(row: Seen) -> dict[str, Any]:
    """One row for machines; null is not seen, or not told by the engine."""
    return {
        "engine": row.engine,
        "accelerator": row.accelerator,
        "format": row.format,
        "variant": row.variant,
        "table": str(row.told),
        "tried": row.tried,
        "loads": row.loads,
        "generates": row.generates,
        "tokens_counted": row.counted,
        "metrics_read": row.metrics,
        "failure": row.kind or None,
        "message": row.message or None,
        "log_tail": row.log_tail or None,
    }
