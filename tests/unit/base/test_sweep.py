"""What is composed once and completed by hand is what Hydra composes whole."""

from __future__ import annotations

from typing import Any

import pytest

from bench.base.compose import compose
from bench.base.errors import UsageError
from bench.base.sweep import SharedComposes
from bench.pipeline.schemas import register_all
from bench.plan.config import RunConfig

register_all()

CELL = (
    *("scheme=gguf_q8_0", "+workload@workloads.default=synthetic", "+scenario@scenarios.c1=closed"),
    *("scenarios.c1.requests=8", "+scenario@scenarios.c4=closed", "scenarios.c4.concurrency=4"),
)


@pytest.fixture
def composes(monkeypatch: pytest.MonkeyPatch) -> list[list[str]]:
    """The override lists that Hydra was asked for."""
    seen: list[list[str]] = []
    original = SharedComposes.compose

    def watched(self: SharedComposes, hydra_compose: Any, *rest: Any) -> Any:
        def asked(overrides: list[str]) -> Any:
            seen.append(overrides)
            return hydra_compose(overrides)

        return original(self, asked, *rest)

    monkeypatch.setattr(SharedComposes, "compose", watched)
    return seen


@pytest.mark.parametrize(
    "changes",
    [
        ("repeat=3",),
        ("engine.threads=2", "engine.extra_args=[--mlock,a b]", "out=null"),
        ("scenarios.c1.requests=3", "scenarios.c1.requests=5"),
        ("~scenarios.c4", "repeat=1"),
        ("scenarios.c4.requests=9", "~scenarios.c4"),
        ("+workloads.default.extra.a=1", "workloads.default.extra.a=2"),
        ("workloads.default.extra={}", "+workloads.default.extra.b=[1]"),
        ("++workloads.default.extra.c.d=1", "workloads.default.extra.c={d: 2}"),
        ("scheme@baseline=gguf_q8_0", "scheme=gguf_q4_0", "scheme.type=Q4_1"),
        ("engine=llama_cpp", "engine.max_model_len=512", "model.name=x"),
    ],
    ids=" ".join,
)
def test_it_equals_what_hydra_composes(changes: tuple[str, ...]) -> None:
    shared = SharedComposes()
    first = compose("run", CELL, RunConfig, shared=shared)
    assert compose("run", [*CELL, *changes], RunConfig, shared=shared) == compose("run", [*CELL, *changes], RunConfig)
    assert compose("run", CELL, RunConfig, shared=shared) == first, "what is shared was not changed"


def test_cells_that_differ_in_values_are_composed_once(composes: list[list[str]]) -> None:
    shared = SharedComposes()
    for repeat in range(5):
        config = compose("run", [*CELL, f"repeat={repeat}", "engine.threads=1"], RunConfig, shared=shared)
        assert (config.repeat, config.engine.threads) == (repeat, 1)
    assert len(composes) == 1
    compose("run", [*CELL, "scheme=gguf_q4_0"], RunConfig, shared=shared)
    assert len(composes) == 2


@pytest.mark.parametrize(
    "wrong", ["scheme.tpye=Q8_0", "engine.threads=two", "scenarios.c9.requests=1", "repeat=-1", "scheme=gguf_q9_0"]
)
def test_what_is_wrong_is_said_in_the_same_words(wrong: str) -> None:
    shared = SharedComposes()
    compose("run", CELL, RunConfig, shared=shared)
    with pytest.raises(UsageError) as by_hand:
        compose("run", [*CELL, wrong], RunConfig, shared=shared)
    with pytest.raises(UsageError) as by_hydra:
        compose("run", [*CELL, wrong], RunConfig)
    assert str(by_hand.value) == str(by_hydra.value)


@pytest.mark.parametrize("shared", [None, SharedComposes()])
@pytest.mark.parametrize("override", ["base.name=x", "+base.name=x"])
def test_a_part_of_what_was_not_chosen_says_how_to_choose_it(shared: SharedComposes | None, override: str) -> None:
    with pytest.raises(UsageError, match=r"^base is not set: choose it first with model@base=NAME$"):
        compose("run", [*CELL, override], RunConfig, shared=shared)
    config = compose("run", [*CELL, "model@base=smollm2", "base.name=x"], RunConfig, shared=shared)
    assert config.base is not None
    assert config.base.name == "x"
