"""From experiments to cells: pure, each cell once, errors where they belong."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from bench.base.compose import compose
from bench.base.errors import UsageError
from bench.engines.llama_cpp import LlamaCppConfig
from bench.engines.transformers import TransformersConfig
from bench.pipeline.schemas import register_all
from bench.plan.config import RunConfig
from bench.plan.plan import Plan, plan


@pytest.fixture(autouse=True)
def _schemas() -> None:
    register_all()


@pytest.fixture
def config_dir(tmp_path: Path) -> Path:
    (tmp_path / "experiment").mkdir()
    return tmp_path


def write(config_dir: Path, name: str, body: str) -> None:
    text = f"defaults: [base_experiment, _self_]\nname: {name}\n{body}"
    (config_dir / "experiment" / f"{name}.yaml").write_text(text)


def labels(planned: Plan) -> list[str]:
    return [spec.label for spec in planned.cells]


def test_the_quickstart_is_four_variants_under_three_loads_and_three_tasks() -> None:
    planned = plan(["experiment=quickstart"])
    assert planned.name == "quickstart"
    assert labels(planned) == [f"{variant} · llama_cpp" for variant in ("F16", "Q8_0", "Q4_K_M", "Q4_0")]
    for spec in planned.cells:
        assert spec.config is not None
        assert list(spec.config.scenarios) == ["c1", "c4", "poisson"]
        assert [spec.config.scenario(name)[0].kind for name in spec.config.scenarios] == ["closed", "closed", "poisson"]
        assert list(spec.config.tasks) == ["divergence", "perplexity", "mmlu"]


def test_user_overrides_apply_to_every_cell_and_equal_cells_are_one() -> None:
    planned = plan(["experiment=quickstart", "scheme.type=Q4_0", "engine.threads=2"])
    assert labels(planned) == ["Q4_0 · llama_cpp"]
    config = planned.cells[0].config
    assert config is not None
    assert config.engine.threads == 2


def test_multirun_multiplies_what_the_user_lists() -> None:
    planned = plan(["scheme=gguf_f16,gguf_q8_0", "engine=llama_cpp,xllamacpp"], multirun=True)
    assert labels(planned) == ["F16 · llama_cpp", "F16 · xllamacpp", "Q8_0 · llama_cpp", "Q8_0 · xllamacpp"]


def test_a_list_without_multirun_is_explained() -> None:
    with pytest.raises(UsageError, match="lists several values; add -m"):
        plan(["scheme=gguf_f16,gguf_q8_0"])


def test_product_include_and_exclude(config_dir: Path) -> None:
    write(
        config_dir,
        "sweep",
        "base: [engine.threads=1]\n"
        "product:\n  - [scheme=gguf_f16, scheme=gguf_q8_0]\n  - [engine=llama_cpp, engine=xllamacpp]\n"
        "exclude: ['scheme=gguf_f16 engine=xllamacpp']\n"
        "include: ['scheme=gguf_q4_0 engine.threads=2']\n",
    )
    planned = plan(["experiment=sweep"], config_dir=config_dir)
    assert labels(planned) == ["F16 · llama_cpp", "Q8_0 · llama_cpp", "Q8_0 · xllamacpp", "Q4_0 · llama_cpp"]
    assert [spec.config and spec.config.engine.threads for spec in planned.cells] == [1, 1, 1, 2]


def test_a_product_cell_that_does_not_compose_is_unsupported_with_its_reason(config_dir: Path) -> None:
    write(config_dir, "partly", "product:\n  - [scheme=gguf_f16, scheme.type=Q99]\n")
    good, bad = plan(["experiment=partly"], config_dir=config_dir).cells
    assert good.error is None
    assert bad.config is None
    assert "'Q99' is not a known value" in str(bad.error)


@pytest.mark.parametrize(
    ("body", "message"),
    [
        ("base: [scheme=gguf_q99]", "scheme 'gguf_q99' is unknown"),
        ("include: [scheme=gguf_q99]", "scheme 'gguf_q99' is unknown"),
        ("product:\n  - [scheme=gguf_q98, scheme=gguf_q99]", "scheme 'gguf_q98' is unknown"),
        ("product:\n  - [scheme=gguf_f16]\nexclude: [scheme=gguf_f16]", "has no cells left"),
        ("base: ['+scenario@scenarios.a=closed']", "scenarios.a.workload='default' is not among the workloads"),
        (
            "base: ['+workload@workloads.default=synthetic +scenario@scenarios.a=trace scenarios.a.path=gone.csv']",
            "scenarios.a.path: there is no file gone.csv",
        ),
    ],
)
def test_what_was_written_explicitly_is_a_usage_error(config_dir: Path, body: str, message: str) -> None:
    write(config_dir, "wrong", body)
    with pytest.raises(UsageError, match=message):
        plan(["experiment=wrong"], config_dir=config_dir)


def test_planning_twice_gives_the_same_plan() -> None:
    assert plan(["experiment=quickstart"]) == plan(["experiment=quickstart"])


def test_files_are_told_apart_by_path() -> None:
    planned = plan(["model=local", "model.path=a.gguf,b.gguf"], multirun=True)
    assert [spec.config and spec.config.model.path for spec in planned.cells] == ["a.gguf", "b.gguf"]  # type: ignore[attr-defined]  # LocalConfig


def test_an_axis_inside_a_cell_is_refused_rather_than_overwritten() -> None:
    with pytest.raises(UsageError, match=r"planned twice, differing only in workloads\.default\.input_tokens=16"):
        plan(["workloads.default.input_tokens=8,16"], multirun=True)


def test_a_typing_error_in_a_users_list_is_a_usage_error() -> None:
    with pytest.raises(UsageError, match="scheme 'gguf_q8_O' is unknown"):
        plan(["scheme=gguf_q8_0,gguf_q8_O"], multirun=True)


def test_a_scenario_that_was_added_can_be_replaced() -> None:
    config = plan(["+scenario@scenarios.extra=closed", "scenario@scenarios.extra=poisson"]).cells[0].config
    assert config is not None
    assert config.scenarios["extra"].kind == "poisson"


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("workloads.default.temperature=nan", "workloads.default.temperature: nan is not a finite number"),
        ("scenarios.c1.total_s=inf", "scenarios.c1.total_s: inf is not a finite number"),
        ("engine.kind=xllamacpp", "engine.kind cannot be set: choose another with engine=NAME"),
    ],
)
def test_odd_values_are_named(override: str, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        plan([override])


def only(*overrides: str) -> RunConfig:
    (spec,) = plan(overrides).cells
    assert spec.config is not None
    return spec.config


def test_without_a_choice_the_engine_and_the_baseline_are_those_of_the_format() -> None:
    gguf, hf = only("scheme=gguf_q4_0"), only("scheme=gptq_w4a16", "engine.max_model_len=512")
    assert (gguf.engine.kind, gguf.baseline.label) == ("llama_cpp", "F16")
    assert (hf.engine.kind, hf.baseline.label, hf.engine.max_model_len) == ("transformers", "BF16", 512)
    assert only("scheme=gptq_w4a16", "engine=xllamacpp").engine.kind == "xllamacpp", "a choice stands"
    assert only("scheme=gguf_f16").scheme == only("scheme=gguf_f16").baseline
    assert only("scheme=gguf_q4_0", "scheme@baseline=gguf_q8_0").baseline.label == "Q8_0"


def test_settings_of_an_engine_that_is_not_named_are_those_of_the_formats_engine() -> None:
    found = only("scheme=fp8_dynamic", "engine.device=cpu")
    assert found.engine == TransformersConfig(device="cpu")
    llama = only("scheme=gguf_q8_0", "engine.gpu_layers=3", "+engine.threads=2")
    assert llama.engine == LlamaCppConfig(gpu_layers=3, threads=2)
    with pytest.raises(UsageError, match=r"'engine\.gpu_layers' is not a known key.*device"):
        only("scheme=fp8_dynamic", "engine.gpu_layers=3")
    with pytest.raises(UsageError, match=r"'engine\.device' is not a known key.*gpu_layers"):
        only("scheme=gguf_q8_0", "engine.device=cpu")
    with pytest.raises(UsageError, match=r"'engine\.device' is not a known key.*gpu_layers"):
        only("scheme=fp8_dynamic", "engine=llama_cpp", "engine.device=cpu")


@pytest.mark.parametrize(
    ("overrides", "count"),
    [
        (["scheme=gguf_q8_0"], 1),
        (["scheme=gguf_q8_0", "engine=llama_cpp", "engine.threads=1"], 1),
        (["scheme=gguf_q8_0", "engine.threads=1"], 2),
        (["scheme=fp8_dynamic"], 2),
        (["scheme=fp8_dynamic", "engine.device=cpu"], 2),
    ],
)
def test_a_cell_is_composed_twice_only_where_its_engine_depends_on_it(
    overrides: list[str], count: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    roots: list[str] = []

    def counted(root: str, *rest: Any, **options: Any) -> Any:
        roots.append(root)
        return compose(root, *rest, **options)

    monkeypatch.setattr("bench.plan.plan.compose", counted)
    plan(overrides)
    assert roots.count("run") == count


def test_a_packed_folder_is_its_own_baseline_until_a_base_model_is_named(tmp_path: Path) -> None:
    packed = ("scheme=prequantized", "model=local", f"model.path={tmp_path}")
    alone = only(*packed)
    assert alone.baseline == alone.scheme
    based = only(*packed, "model@base=hub", "base.repo=org/name")
    assert based.baseline.label == "BF16"
    assert based.base is not None
    assert based.base.kind == "hub"


def test_a_stand_in_for_a_baseline_makes_no_variant() -> None:
    with pytest.raises(UsageError, match="choose a scheme"):
        plan(["scheme=own_baseline"])
