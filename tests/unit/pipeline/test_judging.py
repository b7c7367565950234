"""What is served was accepted, scores say where they come from, and what is not served need not be servable."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from bench.base.errors import CellFailure, FailureKind, UsageError
from bench.base.progress import Progress
from bench.base.validity import Reason
from bench.engines.base import engine_of
from bench.pipeline import cell, quality, serve
from bench.pipeline.cell import Cell
from bench.pipeline.context import Context, Stages, Workshop
from bench.pipeline.quality import Judge
from bench.pipeline.schemas import register_all
from bench.plan.config import RunConfig
from bench.plan.plan import CellSpec, plan
from bench.quality.accept import ACCEPTED, CORRUPT
from bench.store.artefacts import ArtefactStore
from bench.store.run import ChildKind, RunStore
from quantize.artefact import Artefact
from tests.unit.quality.scorers import FormulaScorer

register_all()

MANIFEST = {"label": "Q8_0", "format": "gguf", "files": [{"path": "model.gguf"}], "calibration": None}


def spec_of(*overrides: str) -> CellSpec:
    (spec,) = plan(overrides).cells
    return spec


def config_of(*overrides: str) -> RunConfig:
    config = spec_of(*overrides).config
    assert config is not None
    return config


def made(cache: Path, key: str = "v") -> Artefact:
    directory = cache / "artefacts" / key
    directory.mkdir(parents=True)
    return Artefact(key=key, directory=directory, manifest=MANIFEST)


# Serving


@pytest.fixture
def scorer(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> FormulaScorer:
    """Scores every model, also the baseline, which is there."""
    formula = FormulaScorer()
    monkeypatch.setattr(Judge, "_scorer", formula)
    monkeypatch.setattr(Judge, "_baseline", made(tmp_path, "b"))
    return formula


def require_accepted(tmp_path: Path, variant: Artefact) -> None:
    serve.require_accepted(config_of("scheme=gguf_q8_0"), variant, Workshop(cache=tmp_path), Progress())


def test_a_variant_is_accepted_before_it_is_served_and_once(tmp_path: Path, scorer: FormulaScorer) -> None:
    variant = made(tmp_path)
    require_accepted(tmp_path, variant)
    verdict = ArtefactStore(tmp_path / "artefacts").last_acceptance("v")
    assert verdict is not None
    assert verdict["verdict"] == ACCEPTED
    assert len(scorer.scored) == 1
    require_accepted(tmp_path, variant)
    assert len(scorer.scored) == 1


def test_a_verdict_of_any_check_is_enough(tmp_path: Path, scorer: FormulaScorer) -> None:
    variant = made(tmp_path)
    ArtefactStore(tmp_path / "artefacts").record_acceptance("v", "another check", {"verdict": ACCEPTED})
    require_accepted(tmp_path, variant)
    assert scorer.scored == []


def test_a_corrupt_candidate_is_not_served_as_it_is_not_run(tmp_path: Path, scorer: FormulaScorer) -> None:
    variant = made(tmp_path)
    ArtefactStore(tmp_path / "artefacts").record_acceptance("v", "another check", {"verdict": CORRUPT, "reason": "?"})
    scorer.broken = True
    for _ in range(2):
        with pytest.raises(CellFailure, match=r"Q8_0 is not accepted: .*not finite") as caught:
            require_accepted(tmp_path, variant)
        assert caught.value.kind is FailureKind.CORRUPT
    assert len(scorer.scored) == 1, "judged by the check of now, and remembered"


def test_serving_begins_with_the_acceptance(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> None:
        raise CellFailure(FailureKind.CORRUPT, "Q8_0 is not accepted: noise")

    monkeypatch.setattr(serve, "quantize", lambda *_, **__: made(tmp_path))
    monkeypatch.setattr(serve, "require_accepted", refuse)
    monkeypatch.setattr(serve, "launched", lambda *_, **__: pytest.fail("it was served"))
    with (
        pytest.raises(CellFailure, match="noise"),
        serve.serving(config_of("scheme=gguf_q8_0"), port=None, api_key="k", progress=Progress()),
    ):
        pass


def test_what_the_engine_cannot_load_is_refused_before_any_work(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(serve, "quantize", lambda *_, **__: pytest.fail("it was made"))
    with (
        pytest.raises(UsageError, match="serve it with vLLM"),
        serve.serving(config_of("scheme=gptqmodel_gptq"), port=None, api_key="k", progress=Progress()),
    ):
        pass
    with pytest.raises(UsageError, match="scheme=awq_w4a16"):
        serve.print_command(config_of("scheme=autoawq"), port=None)


# Scoring


@pytest.mark.parametrize(
    ("overrides", "reasons"),
    [
        (("scheme=gptqmodel_gptq",), (Reason.SCORING_BUILD_DIFFERS,)),
        (("scheme=autoawq",), (Reason.SCORING_BUILD_DIFFERS,)),
        (("scheme=autoawq", "engine.toolchain=gptqmodel"), ()),
        (("scheme=gptq_w4a16",), ()),
        (("scheme=gguf_q8_0",), ()),
        (("scheme=gguf_q8_0", "engine=xllamacpp"), (Reason.SCORING_BUILD_DIFFERS,)),
        (("scheme=gguf_q8_0", "engine=llama_cpp_python"), ()),
    ],
)
def test_figures_say_whether_the_build_that_serves_scored(
    overrides: tuple[str, ...], reasons: tuple[Reason, ...], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    told: dict[str, Any] = {}
    monkeypatch.setattr(quality, "evaluate", lambda _, **options: told.update(options))
    monkeypatch.setattr(Judge, "_scorer", None)
    monkeypatch.setattr(Judge, "_baseline", made(tmp_path, "b"))
    config = config_of(*overrides)
    judge = Judge(config, made(tmp_path), engine_of(config.engine), Workshop(cache=tmp_path), Progress())
    store = RunStore(tmp_path / "run").cell("c")
    judge.evaluate("perplexity", config.task("perplexity"), store.child(ChildKind.TASK, "perplexity", "key"))
    assert told["reasons"] == reasons


# What is not served


class Reached(Exception):
    """The cell was not unsupported: its variant would be made."""


def quantized(tmp_path: Path, stages: Stages, *overrides: str) -> None:
    context = Context(cache=tmp_path / "cache", run=RunStore(tmp_path / "run"), progress=Progress(), stages=stages)
    Cell(spec_of(*overrides), context).quantize()


@pytest.mark.parametrize("scheme", ["gptqmodel_gptq", "gptqmodel_awq", "autoawq", "auto_gptq"])
def test_what_is_not_served_need_not_be_servable(scheme: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def reached(*_: object, **__: object) -> None:
        raise Reached

    monkeypatch.setattr(cell, "quantize", reached)
    with pytest.raises(cell.Unsupported, match="serve it with vLLM"):
        quantized(tmp_path, Stages(), f"scheme={scheme}")
    with pytest.raises(Reached):
        quantized(tmp_path, Stages(load=False), f"scheme={scheme}")
    with pytest.raises(Reached):
        quantized(tmp_path, Stages(), f"scheme={scheme}", "~scenarios.c1", "~scenarios.c4")
    with pytest.raises(cell.Unsupported, match="not gguf"):
        quantized(tmp_path, Stages(load=False), "scheme=gguf_q8_0", "engine=transformers")
