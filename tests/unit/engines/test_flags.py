"""Settings in common terms: what becomes words of a command line, and what is refused."""

from __future__ import annotations

from enum import StrEnum
from typing import Any

import pytest

from bench.base.schema import registered
from bench.engines.base import EngineConfig, SpeculativeConfig, SupportAnswer, discover, engine_of
from bench.engines.flags import COMMON_SETTINGS, Flag, common_argv, refusal, setting
from bench.engines.llama_cpp import LlamaCppConfig


class Level(StrEnum):
    high = "high"


@pytest.mark.parametrize(
    ("flag", "value", "argv"),
    [
        (Flag(name="--size"), 4, ["--size", "4"]),
        (Flag(name="--share"), 0.85, ["--share", "0.85"]),
        (Flag(name="--level"), Level.high, ["--level", "high"]),
        (Flag(name="--type", words={"fp8": "fp8_e4m3"}), "fp8", ["--type", "fp8_e4m3"]),
        (Flag(on=("--cache",), off=("--no-cache",)), True, ["--cache"]),
        (Flag(on=("--cache",), off=("--no-cache",)), False, ["--no-cache"]),
        (Flag(on=(), off=("--chunk", "-1")), True, []),
        (Flag(on=(), off=("--chunk", "-1")), False, ["--chunk", "-1"]),
    ],
)
def test_a_flag_says_its_value(flag: Flag, value: Any, argv: list[str]) -> None:
    assert flag.argv(value) == argv


def test_what_an_engine_cannot_be_told_is_an_error() -> None:
    with pytest.raises(ValueError, match="cannot be switched off"):
        Flag(on=("--cache",)).argv(False)
    with pytest.raises(ValueError, match="knows only fp8, int8"):
        Flag(name="--type", words={"fp8": "a", "int8": "b"}).argv("int4")


def test_only_what_is_set_is_said_in_one_order() -> None:
    flags = {"block_size": Flag(name="--block"), "dtype": Flag(name="--dtype"), "cuda_graphs": Flag(off=("--eager",))}
    assert common_argv(EngineConfig(), flags) == []
    config = EngineConfig(block_size=16, dtype="float16", cuda_graphs=False, max_batched_tokens=512)
    assert common_argv(config, flags) == ["--eager", "--dtype", "float16", "--block", "16"]


@pytest.mark.parametrize(
    ("settings", "reason"),
    [
        ({}, ""),
        ({"dtype": "float16"}, ""),
        ({"block_size": 16}, ""),
        ({"cuda_graphs": True}, "engine.cuda_graphs=True: toy cannot be switched on"),
        ({"dtype": "float64"}, "engine.dtype=float64: toy knows only float16"),
        ({"memory_fraction": 0.5}, "engine.memory_fraction=0.5: with toy use engine.share instead"),
        (
            {"swap_space_gib": 4.0},
            "engine.swap_space_gib=4.0: toy has no such setting; leave it null, or choose another engine",
        ),
        (
            {"speculative": SpeculativeConfig(method="eagle")},
            (
                "engine.speculative.method=eagle: toy has no such setting; say engine.speculative.method='', "
                "or choose another engine"
            ),
        ),
    ],
)
def test_what_cannot_be_carried_out_is_refused(settings: dict[str, Any], reason: str) -> None:
    flags = {"dtype": Flag(name="--dtype", words={"float16": "half"}), "cuda_graphs": Flag(off=("--eager",))}
    own = {"block_size": "", "memory_fraction": "engine.share"}
    assert refusal("toy", EngineConfig(**settings), flags, own) == reason


def test_every_common_setting_is_left_to_the_engine_until_it_is_set() -> None:
    assert all(setting(EngineConfig(), name) is None for name in COMMON_SETTINGS)


def test_no_engines_table_names_a_setting_that_does_not_exist_or_names_it_twice() -> None:
    discover()
    kinds = {"vllm", "sglang", "llama_cpp", "transformers"}
    assert kinds <= set(registered("engine"))
    for kind in kinds:
        engine = engine_of(EngineConfig(kind=kind))
        assert set(engine.flags) | set(engine.own_settings) <= set(COMMON_SETTINGS), kind
        assert not set(engine.flags) & set(engine.own_settings), kind


@pytest.mark.parametrize(("name", "value"), [("swap_space_gib", 4.0), ("quantization", "fp8")])
def test_an_engine_refuses_what_it_has_no_word_for(name: str, value: Any) -> None:
    config = LlamaCppConfig(**{name: value})
    answer = engine_of(config).serves(config, "gguf")
    assert answer.answer is SupportAnswer.NO
    assert answer.reason.startswith(f"engine.{name}={value}")


@pytest.mark.parametrize(
    ("speculative", "message"),
    [
        (SpeculativeConfig(tokens=9), "engine.speculative has settings and no method"),
        (SpeculativeConfig(model="draft"), "engine.speculative has settings and no method"),
        (SpeculativeConfig(method="ngram", tokens=0), "engine.speculative.tokens=0 must be at least 1"),
    ],
)
def test_speculation_that_cannot_be_is_refused(speculative: SpeculativeConfig, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        EngineConfig(speculative=speculative)
