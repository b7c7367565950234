"""Every YAML that ships composes."""

from __future__ import annotations

from pathlib import Path

import pytest

from bench.analysis.config import ReportConfig
from bench.base.compose import compose, conf_dir
from bench.load.config import LoadRunConfig
from bench.pipeline.schemas import register_all
from bench.plan.fit import FitConfig
from bench.plan.plan import plan
from bench.toolchains.config import load_toolchain_config

register_all()
SHIPPED = sorted(path.relative_to(conf_dir()) for path in conf_dir().rglob("*.yaml"))
#: A value where a YAML leaves one open on purpose.
OPEN = {
    "model/local": ["model.path=model.gguf"],
    "model/hub": ["model.repo=org/name"],
    "scenario/trace": ["scenario.path=trace.csv"],
    "workload/jsonl": ["workload.path=prompts.jsonl"],
    "workload/sharegpt": ["workload.path=sharegpt.json"],
}
LOAD = ["endpoint.url=http://127.0.0.1:1", "endpoint.model=m", "out=out"]
ROOTS = {"run", "plan", "load", "report", "fit", "search", "calibrate"}


@pytest.mark.parametrize("path", SHIPPED, ids=str)
def test_every_shipped_yaml_composes(path: Path) -> None:
    group, name = path.parent.as_posix(), path.stem
    if group == ".":
        assert name in ROOTS, f"{path} is a root config without a test"
        return
    if group == "experiment":
        assert all(spec.error is None for spec in plan([f"experiment={name}"]).cells)
    elif group == "toolchain":
        assert load_toolchain_config(name).name == name
    elif group in ("endpoint", "scenario", "workload"):
        compose("load", [f"{group}={name}", *LOAD, *OPEN.get(f"{group}/{name}", [])], LoadRunConfig)
    elif group == "price":
        assert compose("report", [f"price={name}"], ReportConfig).price.source
    elif group == "api_price":
        api = compose("report", [f"+api_price@api={name}"], ReportConfig).api
        assert api is not None
        assert api.source
    elif group == "hardware":
        hardware = compose("fit", [f"hardware={name}"], FitConfig).hardware
        assert hardware.detected or (hardware.source and hardware.as_of)
    elif name == "own_baseline":
        assert plan([f"scheme@baseline={name}"]).cells[0].config
    elif group == "task":
        assert plan([f"+task@tasks.extra={name}"]).cells[0].config
    elif group == "environment":
        assert plan([f"+environment@engine.env={name}"]).cells[0].config
    else:
        overrides = [f"{group}={name}", *OPEN.get(f"{group}/{name}", [])]
        assert plan(overrides).cells[0].config, f"group {group} is composed by nothing here"


def test_the_roots_compose_as_they_ship() -> None:
    assert plan([]).cells[0].config is not None
    assert compose("load", LOAD, LoadRunConfig).out == "out"
    assert compose("report", [], ReportConfig).price.name
    assert compose("fit", [], FitConfig).hardware.detected


@pytest.mark.parametrize("engine", ["tgi", "tgi_awq", "tgi_fp8", "tgi_gptq", "tensorrt_llm", "vllm_gpu", "sglang"])
@pytest.mark.parametrize(
    "place", ["engine.base_url=http://127.0.0.1:1", "engine.container.image=name:tag", "engine.executable=own"]
)
def test_every_engine_with_a_program_can_be_elsewhere(engine: str, place: str) -> None:
    config = plan([f"engine={engine}", place]).cells[0].config
    assert config is not None
    assert not config.engine.uses_toolchain
