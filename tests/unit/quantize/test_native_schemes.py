"""Schemes that write GPTQ's and AWQ's own formats: labels, recipes, keys, what is refused, what workers are told."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import pytest

from bench.base.errors import UsageError
from bench.base.progress import Progress
from bench.engines.transformers import Transformers
from bench.pipeline.schemas import register_all
from bench.plan.plan import plan
from bench.toolchains.toolchain import Toolchain
from quantize.layers import linear_layers
from quantize.models import LocalConfig
from quantize.run import artefact_key, quantize
from quantize.samples import SampleSetConfig
from quantize.schemes.auto_gptq import AutoGptqActOrder, AutoGptqConfig
from quantize.schemes.autoawq import AutoAwqConfig
from quantize.schemes.base import Job
from quantize.schemes.gptqmodel import GptqModelConfig, NativeActOrder, NativeMethod
from quantize.schemes.hf import HfSchemeConfig
from quantize.source import Source, SourceFormat
from tests.unit.quantize.test_layers import LLAMA, block, checkpoint

register_all()

SET = SampleSetConfig(samples=8, length=64)
GPTQ, AWQ = GptqModelConfig(), GptqModelConfig(method=NativeMethod.awq)
VALUES = "re:.*v_proj$"


@pytest.mark.parametrize(
    ("scheme", "label"),
    [
        (GPTQ, "GPTQModel GPTQ W4A16"),
        (GptqModelConfig(bits=8, act_order=NativeActOrder.group), "GPTQModel GPTQ W8A16 act_order=group"),
        (GptqModelConfig(damping=0.1, symmetric=False), "GPTQModel GPTQ W4A16 damping=0.1 symmetric=false"),
        (AWQ, "GPTQModel AWQ W4A16"),
        (dataclasses.replace(AWQ, clip=True, group_size=64), "GPTQModel AWQ W4A16 g64 clip=true"),
        (AutoAwqConfig(), "AutoAWQ W4A16"),
        (AutoAwqConfig(patched=False, calibration=SET), "AutoAWQ W4A16 patched=false samples=8 length=64"),
        (AutoGptqConfig(), "AutoGPTQ W4A16"),
        (AutoGptqConfig(bits=3, act_order=AutoGptqActOrder.static), "AutoGPTQ W3A16 act_order=static"),
    ],
)
def test_labels(scheme: HfSchemeConfig, label: str) -> None:
    assert scheme.label == label


def test_packing_and_where_it_is_scored() -> None:
    """Engines decide by the packing; of the toolchains only GPTQModel's loads these formats."""
    packings = [scheme.packing for scheme in (GPTQ, AWQ, AutoAwqConfig(), AutoGptqConfig())]
    assert packings == ["gptq", "awq", "awq", "gptq"]
    assert {Transformers.packing_toolchains[packing] for packing in packings} == {"gptqmodel"}
    assert (AutoAwqConfig().toolchain, AutoGptqConfig().toolchain) == ("autoawq", "autoawq")


@pytest.mark.parametrize("name", ["gptqmodel_gptq", "gptqmodel_awq", "autoawq", "auto_gptq"])
def test_shipped_values_are_the_defaults_of_the_method(name: str) -> None:
    (cell,) = plan([f"scheme={name}", "engine=transformers"]).cells
    assert cell.config is not None
    expected = {"gptqmodel_gptq": GPTQ, "gptqmodel_awq": AWQ, "autoawq": AutoAwqConfig(), "auto_gptq": AutoGptqConfig()}
    assert cell.config.scheme == expected[name]


def recipe(scheme: HfSchemeConfig, folder: Path, **shapes: tuple[int, ...]) -> dict[str, Any]:
    layers = linear_layers(checkpoint(folder, {**LLAMA, **shapes}), scheme.ignore)
    found = scheme.recipe(layers, scheme.settle(layers))
    json.dumps(found)
    return found


BASE = {"bits": 4, "group_size": 128}


@pytest.mark.parametrize(
    ("scheme", "expected"),
    [
        (
            GPTQ,
            {
                **BASE,
                "method": "gptq",
                "sym": True,
                "damp_percent": 0.05,
                "desc_act": False,
                "act_group_aware": True,
            },
        ),
        (
            GptqModelConfig(act_order=NativeActOrder.group, symmetric=False, bits=8, group_size=-1),
            {
                "method": "gptq",
                "bits": 8,
                "group_size": -1,
                "sym": False,
                "damp_percent": 0.05,
                "desc_act": True,
                "act_group_aware": False,
            },
        ),
        (AWQ, {**BASE, "method": "awq", "sym": False, "clip": False}),
        (
            AutoAwqConfig(clip=False),
            {
                "w_bit": 4,
                "q_group_size": 128,
                "zero_point": True,
                "version": "GEMM",
                "modules_to_not_convert": None,
                "duo_scaling": True,
                "apply_clip": False,
                "patched": True,
            },
        ),
        (
            AutoGptqConfig(act_order=AutoGptqActOrder.static),
            {**BASE, "damp_percent": 0.01, "desc_act": True, "static_groups": True, "sym": True},
        ),
        (
            AutoGptqConfig(),
            {**BASE, "damp_percent": 0.01, "desc_act": False, "static_groups": False, "sym": True},
        ),
    ],
    ids=lambda value: value.label if isinstance(value, HfSchemeConfig) else "",
)
def test_recipes(scheme: HfSchemeConfig, expected: dict[str, Any], tmp_path: Path) -> None:
    assert recipe(scheme, tmp_path / "m") == expected


def test_ignored_layers_are_told_in_each_librarys_words(tmp_path: Path) -> None:
    others = ["mlp.down_proj", "mlp.gate_proj", "mlp.up_proj", *(f"self_attn.{name}_proj" for name in "koq")]
    for index, method in enumerate(NativeMethod):
        found = recipe(GptqModelConfig(method=method, ignore=[VALUES]), tmp_path / str(index))
        assert found["dynamic"] == {"-:.*v_proj$": {}}
        assert found["inside"] == others
    named = [f"model.layers.{number}.self_attn.v_proj" for number in (0, 1)]
    found = recipe(GptqModelConfig(ignore=named), tmp_path / "named")
    assert list(found["dynamic"]) == [rf"-:^model\.layers\.{number}\.self_attn\.v_proj$" for number in (0, 1)]
    assert recipe(AutoAwqConfig(ignore=[VALUES]), tmp_path / "awq")["modules_to_not_convert"] == ["self_attn.v_proj"]


@pytest.mark.parametrize(
    ("kind", "settings", "expected"),
    [
        (GptqModelConfig, {"bits": 5}, "bits=5 must be one of 2, 3, 4, 8 for gptq"),
        (GptqModelConfig, {"bits": 8, "method": NativeMethod.awq}, "bits=8 must be one of 4 for awq"),
        (GptqModelConfig, {"damping": 1.0}, "damping=1.0 must be above 0 and below 1"),
        (GptqModelConfig, {"clip": True}, "scheme.clip is of method awq; drop it for gptq"),
        (GptqModelConfig, {"method": NativeMethod.awq, "symmetric": False}, "scheme.symmetric is of method gptq"),
        (GptqModelConfig, {"method": NativeMethod.awq, "damping": 0.2}, "scheme.damping is of method gptq"),
        (AutoAwqConfig, {"group_size": -1}, "group_size=-1 must be 0"),
        (AutoGptqConfig, {"bits": 5}, "bits=5 must be one of 2, 3, 4, 8"),
        (AutoGptqConfig, {"damping": 0.0}, "damping=0.0 must be above 0"),
        (AutoGptqConfig, {"ignore": [VALUES]}, "AutoGPTQ cannot leave layers out"),
    ],
)
def test_settings_that_make_no_sense_are_refused(kind: Any, settings: dict[str, Any], expected: str) -> None:
    with pytest.raises(ValueError, match=expected):
        kind(**settings)


@pytest.mark.parametrize(
    ("scheme", "changes"),
    [
        (
            GPTQ,
            [
                *({"bits": 8}, {"group_size": 64}, {"symmetric": False}, {"act_order": NativeActOrder.none}),
                *({"damping": 0.1}, {"method": NativeMethod.awq}, {"ignore": ["a"]}, {"calibration": SET}),
            ],
        ),
        (AWQ, [{"clip": True}]),
        (AutoAwqConfig(), [{"patched": False}, {"clip": False}, {"duo_scaling": False}, {"group_size": 64}]),
        (
            AutoGptqConfig(),
            [{"bits": 8}, {"act_order": AutoGptqActOrder.group}, {"symmetric": False}, {"damping": 0.1}],
        ),
    ],
    ids=lambda value: value.label if isinstance(value, HfSchemeConfig) else "",
)
def test_keys_change_with_what_is_written_and_with_nothing_else(
    scheme: HfSchemeConfig, changes: list[dict[str, Any]]
) -> None:
    def key(**change: Any) -> str:
        return artefact_key(dataclasses.replace(scheme, **change), "sha256:0", "lock")

    assert len({key(), *(key(**change) for change in changes)}) == 1 + len(changes)
    how: dict[str, Any] = {"max_divergence": 0.01, "toolchain": "elsewhere", "threads": 7}
    assert {key(**{name: value}) for name, value in how.items()} == {key()}


# Refusals before any work


class Unmade:
    """Toolchains that must not be asked for."""

    def lock(self, name: str) -> str:
        return f"lock of {name}"

    def ensure(self, name: str, progress: Progress) -> Toolchain:
        raise AssertionError(f"{name} was asked for")


@pytest.mark.parametrize(
    ("scheme", "shapes", "expected"),
    [
        (
            GptqModelConfig(group_size=128),
            block(1, inner=576),
            r"model\.layers\.1\.mlp\.down_proj has 576 inputs .* use scheme\.group_size=64 ",
        ),
        (GPTQ, block(1, keys=40), r"scheme=gptqmodel: .*k_proj has 40 outputs, which is no multiple of 32"),
        (AutoAwqConfig(), block(1, keys=36), r"scheme=autoawq: .*k_proj has 36 outputs, which is no multiple of 8"),
        (AutoAwqConfig(), block(1, keys=40), r"clipping .* has 40 outputs.* use scheme\.clip=false"),
        (
            GptqModelConfig(ignore=["model.layers.0.mlp.up_proj"]),
            {},
            r"model\.layers\.0\.mlp\.up_proj cannot stay while mlp\.up_proj of other blocks is quantized",
        ),
        (
            AutoAwqConfig(ignore=["model.layers.0.mlp.up_proj"]),
            {},
            r"model\.layers\.1\.mlp\.up_proj cannot be quantized beside them",
        ),
    ],
)
def test_what_does_not_fit_is_refused_before_any_toolchain_is_made(
    scheme: HfSchemeConfig, shapes: dict[str, tuple[int, ...]], expected: str, tmp_path: Path
) -> None:
    folder = checkpoint(tmp_path / "m", {**LLAMA, **shapes})
    with pytest.raises(UsageError, match=expected):
        quantize(LocalConfig(path=str(folder)), scheme, cache=tmp_path / "c", progress=Progress(), toolchains=Unmade())


def test_autogptq_is_refused_without_a_gpu_before_any_toolchain_is_made(tmp_path: Path) -> None:
    folder = checkpoint(tmp_path / "m", LLAMA)
    with pytest.raises(UsageError) as caught:
        quantize(
            LocalConfig(path=str(folder)),
            AutoGptqConfig(),
            cache=tmp_path / "cache",
            progress=Progress(),
            toolchains=Unmade(),
        )
    assert str(caught.value) == (
        "scheme=auto_gptq: AutoGPTQ quantizes on an NVIDIA GPU only, and toolchain autoawq is for CPUs; use "
        "scheme=gptqmodel_gptq, which writes the same format, or scheme=gptq_w4a16"
    )


def test_autogptq_is_not_refused_over_a_toolchain_for_gpus(monkeypatch: pytest.MonkeyPatch) -> None:
    from bench.toolchains import config

    read = config.load_toolchain_config
    monkeypatch.setattr(
        config, "load_toolchain_config", lambda name: read(name, overrides=["toolchain.accelerator=cuda"])
    )
    AutoGptqConfig().check_machine()


def test_what_can_be_made_of_a_source_is_not_asked_of_this_machine(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """`quantbench fit` checks for other machines."""
    monkeypatch.setattr("bench.toolchains.config.load_toolchain_config", lambda _: pytest.fail("was asked"))
    folder = checkpoint(tmp_path / "m", LLAMA)
    AutoGptqConfig().check(Source(path=folder, format=SourceFormat.hf, digest="sha256:0", name="m"))


# What workers are told


def test_the_view_that_autoawq_reads_is_for_transformers_4(tmp_path: Path) -> None:
    for index, scheme in enumerate((AutoAwqConfig(), AutoGptqConfig())):
        view = checkpoint(tmp_path / str(index), LLAMA, dtype="bfloat16", rope_parameters={"rope_theta": 5e4})
        scheme.prepare(view)
        config = json.loads((view / "config.json").read_text(encoding="utf-8"))
        assert config == {"model_type": "llama", "torch_dtype": "bfloat16", "rope_theta": 5e4}


@pytest.mark.parametrize(("cores", "workers"), [(1, "2"), (2, "2"), (4, "2"), (8, "4"), (64, "12")])
def test_gptqmodel_gets_two_workers_at_least_and_compiles_nothing(
    cores: int, workers: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("os.sched_getaffinity", lambda _: set(range(cores)))
    source = Source(path=tmp_path, format=SourceFormat.hf, digest="sha256:0", name="m")
    job = Job(
        source=source,
        environment=None,
        work=tmp_path,
        log=tmp_path / "log",
        progress=Progress(),
        make=lambda _: pytest.fail("nothing is made"),
    )
    assert GPTQ.environment(job) == {
        "OMP_NUM_THREADS": str(cores),
        "MKL_NUM_THREADS": str(cores),
        "GOMP_SPINCOUNT": "20000",
        "GPTQMODEL_CPU_WORKERS": workers,
        "GPTQMODEL_DISABLE_PACK_EXT": "1",
    }


def test_what_takes_long_or_breaks_is_in_the_manifest(tmp_path: Path) -> None:
    layers = linear_layers(checkpoint(tmp_path / "m", LLAMA))
    assert [scheme.notes(layers, {}) for scheme in (GPTQ, AWQ, AutoAwqConfig(), AutoGptqConfig())] == [[], [], [], []]
    (slow,) = dataclasses.replace(AWQ, clip=True).notes(layers, {})
    assert "very slow on a CPU" in slow
    (broken,) = AutoAwqConfig(patched=False).notes(layers, {})
    assert "corrupt" in broken
