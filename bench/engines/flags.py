"""Settings in common terms, and how an engine's command line says them.

A setting that is None is left to the engine. Every engine names the settings it has a flag for; one that is set and has
none is refused, so that no measurement claims a setting that was never in force.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

#: Every setting that means the same on all engines, and starts as None.
COMMON_SETTINGS = (
    "tensor_parallel_size",
    "pipeline_parallel_size",
    "max_batched_tokens",
    "memory_fraction",
    "swap_space_gib",
    "attention_backend",
    "prefix_caching",
    "chunked_prefill",
    "cuda_graphs",
    "dtype",
    "kv_cache_dtype",
    "block_size",
    "speculative",
    "quantization",
)


@dataclass(frozen=True, kw_only=True)
class Flag:
    """How one setting becomes words of a command line.

    `name` takes the value; a switch has `on` and `off`, the words for true and false (empty: nothing to say, it is the
    engine's default; None: the engine cannot be told that). `words` translates values.
    """

    name: str = ""
    on: tuple[str, ...] | None = None
    off: tuple[str, ...] | None = None
    words: Mapping[str, str] = field(default_factory=dict)

    def argv(self, value: Any) -> list[str]:
        """The words for `value`; raises ValueError when the engine cannot be told that."""
        if isinstance(value, bool):
            said = self.on if value else self.off
            if said is None:
                raise ValueError(f"cannot be {'switched on' if value else 'switched off'}")
            return list(said)
        text = str(value.value if hasattr(value, "value") else value)
        if self.words and text not in self.words:
            raise ValueError(f"knows only {', '.join(self.words)}")
        return [self.name, self.words.get(text, text)]


def setting(config: Any, name: str) -> Any:
    """A common setting; None where it is left to the engine."""
    return config.speculation if name == "speculative" else getattr(config, name)


def common_argv(config: Any, flags: Mapping[str, Flag]) -> list[str]:
    """The words for every common setting of `config` that is set and has a flag."""
    argv: list[str] = []
    for name in COMMON_SETTINGS:
        value = setting(config, name)
        if value is not None and name in flags:
            argv += flags[name].argv(value)
    return argv


def refusal(kind: str, config: Any, flags: Mapping[str, Flag], own: Mapping[str, str]) -> str:
    """Why the settings cannot be carried out by engine `kind`; empty when they can.

    `own`: common settings without a flag here → what to use instead, or an empty word where the engine reads the
    setting itself.
    """
    for name in COMMON_SETTINGS:
        value = setting(config, name)
        if value is None:
            continue
        said, left = f"engine.{name}={value}", "leave it null"
        if name == "speculative":
            said, left = f"engine.speculative.method={value.method}", "say engine.speculative.method=''"
        if name in flags:
            try:
                flags[name].argv(value)
            except ValueError as error:
                return f"{said}: {kind} {error}"
        elif name not in own:
            return f"{said}: {kind} has no such setting; {left}, or choose another engine"
        elif own[name]:
            return f"{said}: with {kind} use {own[name]} instead"
    return ""


def without_threads(config: Any) -> str:
    """Why `engine.threads` cannot be carried out by an engine that has no such setting; empty where it is not set."""
    if config.threads is None:
        return ""
    return f"engine.threads={config.threads}: {config.kind} has no such setting; leave it null, or use engine.env"
