"""GPTQModel, AutoAWQ and AutoGPTQ for real, on a tiny Llama and on the packaged model: `make test-archived`.

What is written is loaded in GPTQModel's environment and goes through the real acceptance.
"""

from __future__ import annotations

import dataclasses
import functools
import json
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from bench.base.paths import cache_dir
from bench.base.progress import Progress, ProgressEvent
from bench.engines.scoring import ScorableModel, TokenScores, TokenWindows
from bench.engines.transformers_scoring import TransformersScorer
from bench.quality.accept import ACCEPTED, CORRUPT, accept
from bench.toolchains.toolchain import Toolchain
from bench.toolchains.worker import WorkerError, run_worker
from quantize.artefact import Artefact
from quantize.models import LocalConfig, ModelConfig
from quantize.run import ConfiguredToolchains, quantize
from quantize.samples import SampleSetConfig
from quantize.schemes.autoawq import AutoAwqConfig
from quantize.schemes.base import SchemeConfig
from quantize.schemes.gptqmodel import GptqModelConfig, NativeActOrder, NativeMethod
from quantize.schemes.hf import WORKERS
from quantize.schemes.unquantized import UnquantizedConfig
from tests.integration.quantize.awq_unpacked import unpack
from tests.integration.quantize.real_llama_cpp import packaged_model, scorable
from tests.integration.quantize.record_corrupt_awq import RECORDED
from tests.support import CHECKOUT, quantbench

pytestmark = pytest.mark.archived

WORKER = Path(__file__).with_name("tiny_checkpoint.py")
SET = SampleSetConfig(samples=8, length=64)
SMALL_SET = SampleSetConfig(samples=4, length=128)
#: Seven linear layers in each of two blocks of the tiny Llama.
LAYERS, WEIGHTS = 14, 2 * (2 * 256 * 256 + 2 * 128 * 256 + 3 * 256 * 512)
IGNORED = "re:.*v_proj$"


@dataclasses.dataclass(frozen=True, kw_only=True)
class Bench:
    """A model with artefacts of its own, and the environment that loads them."""

    model: ModelConfig
    cache: Path
    tools: Toolchain

    def make(self, scheme: SchemeConfig, progress: Progress | None = None) -> Artefact:
        return quantize(self.model, scheme, cache=self.cache, progress=progress or Progress())

    @functools.cached_property
    def baseline(self) -> Artefact:
        return self.make(UnquantizedConfig())

    def accept(self, made: Artefact) -> dict[str, Any]:
        """The real acceptance, with the bound that schemes of 4 bits ship with."""
        with tempfile.TemporaryDirectory() as work:
            found = accept(
                variant=scorable(made),
                baseline=scorable(self.baseline),
                scorer=TransformersScorer(self.tools),
                max_divergence=1.0,
                work_dir=Path(work),
                progress=Progress(),
            )
        print(
            made.label, {name: found[name] for name in ("verdict", "perplexity", "base_perplexity", "mean_divergence")}
        )
        print({name: made.manifest[name] for name in ("cpu_s", "wall_s", "peak_rss_bytes", "size_bytes")})
        return found


def gptqmodel() -> Toolchain:
    return ConfiguredToolchains().ensure("gptqmodel", Progress())


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Bench:
    root = tmp_path_factory.mktemp("archived")
    tools = ConfiguredToolchains().ensure("llmcompressor", Progress())
    text = str(CHECKOUT / "bench" / "quality" / "texts" / "default.txt")
    request = {"task": "make", "folder": str(root / "tiny"), "text": text, "dtype": "bfloat16", "steps": 40}
    run_worker(tools, WORKER, request, work_dir=root, log=root / "log", progress=Progress(), timeout_s=600)
    return Bench(model=LocalConfig(path=str(root / "tiny")), cache=root / "cache", tools=gptqmodel())


#: Scheme → label, layers that are quantized, bound on the divergence.
SCHEMES: list[tuple[SchemeConfig, str, int, float]] = [
    (GptqModelConfig(calibration=SET), "GPTQModel GPTQ W4A16 g128 samples=8 length=64", LAYERS, 0.5),
    (
        GptqModelConfig(bits=8, group_size=32, act_order=NativeActOrder.group, calibration=SET),
        "GPTQModel GPTQ W8A16 g32 act_order=group samples=8 length=64",
        LAYERS,
        0.05,
    ),
    (
        GptqModelConfig(ignore=[IGNORED], calibration=SET),
        f"GPTQModel GPTQ W4A16 g128 ignore={IGNORED} samples=8 length=64",
        LAYERS - 2,
        0.5,
    ),
    (
        GptqModelConfig(method=NativeMethod.awq, calibration=SET),
        "GPTQModel AWQ W4A16 g128 samples=8 length=64",
        LAYERS,
        0.5,
    ),
    (
        GptqModelConfig(method=NativeMethod.awq, ignore=[IGNORED], calibration=SET),
        f"GPTQModel AWQ W4A16 g128 ignore={IGNORED} samples=8 length=64",
        LAYERS - 2,
        0.5,
    ),
    (AutoAwqConfig(calibration=SET), "AutoAWQ W4A16 g128 samples=8 length=64", LAYERS, 0.5),
    (
        AutoAwqConfig(clip=False, ignore=[IGNORED], calibration=SET),
        f"AutoAWQ W4A16 g128 clip=false ignore={IGNORED} samples=8 length=64",
        LAYERS - 2,
        0.5,
    ),
]


@pytest.mark.parametrize(("scheme", "label", "layers", "bound"), SCHEMES, ids=[entry[1] for entry in SCHEMES])
def test_a_scheme_writes_what_it_says(scheme: SchemeConfig, label: str, layers: int, bound: float, tiny: Bench) -> None:
    events: list[ProgressEvent] = []
    made = tiny.make(scheme, Progress(events.append))
    manifest = made.manifest
    assert sorted(part for part in label.split()) == sorted(part for part in manifest["label"].split())
    assert manifest["quantized_layers"] == layers
    assert "lm_head" in manifest["skipped_layers"]
    assert manifest["warnings"] == []
    assert manifest["parameters"] == WEIGHTS + 2 * 1000 * 256 + 5 * 256, "packed weights are counted as weights"
    config = json.loads((made.directory / "config.json").read_text(encoding="utf-8"))
    assert manifest["packing"] == config["quantization_config"]["quant_method"] == scheme.packing
    written = "".join(file.read_text(encoding="utf-8") for file in made.directory.glob("*.json"))
    assert str(tiny.cache.parent) not in written, "no path of this machine"
    assert not list(made.directory.glob("tokenizer.json")), "the tokenizer is the checkpoint's own"
    assert [event.done for event in events if event.message == "calibrating"] == [1, 2]
    found = tiny.accept(made)
    assert found["verdict"] == ACCEPTED
    assert 1e-7 < found["mean_divergence"] < bound, "quantized, and not broken"


def test_autoawqs_configuration_says_what_the_checkpoints_says(tiny: Bench) -> None:
    """transformers 5 and engines read the words of transformers 4; the rotary base must have come through."""
    made = tiny.make(AutoAwqConfig(calibration=SET))
    config = json.loads((made.directory / "config.json").read_text(encoding="utf-8"))
    assert config["rope_theta"] == 50_000.0
    assert config["torch_dtype"] == "float16"
    assert config["quantization_config"]["version"] == "gemm"
    generation = json.loads((made.directory / "generation_config.json").read_text(encoding="utf-8"))
    assert "do_sample" not in generation
    assert made.manifest["calibration"]["tokens"] == 8 * 64
    assert made.manifest["calibration"]["dropped"] == 0


@pytest.fixture(scope="module")
def uneven(tmp_path_factory: pytest.TempPathFactory) -> Bench:
    """A small Llama with large and small channels: where all are alike, what AutoAWQ breaks does not show."""
    cache = tmp_path_factory.mktemp("uneven") / "cache"
    return Bench(model=LocalConfig(path=str(RECORDED / "baseline")), cache=cache, tools=gptqmodel())


def test_autoawq_as_published_is_caught(uneven: Bench) -> None:
    """Exit code 0, a folder that loads, and noise in it: only the acceptance tells."""
    made = uneven.make(AutoAwqConfig(patched=False, calibration=SET))
    (warning,) = made.manifest["warnings"]
    assert "corrupt" in warning
    found = uneven.accept(made)
    assert found["verdict"] == CORRUPT
    assert found["reason"].startswith(("its mean divergence", "its perplexity"))
    assert found["non_finite"] == 0


@pytest.mark.parametrize(
    "scheme", [AutoAwqConfig(calibration=SET), AutoAwqConfig(duo_scaling=False, patched=False, calibration=SET)]
)
def test_autoawq_repaired_or_without_what_breaks_is_accepted(scheme: SchemeConfig, uneven: Bench) -> None:
    """Scales by activations alone begin at 1: as published they do no harm, which is how the fault was understood."""
    found = uneven.accept(uneven.make(scheme))
    assert found["verdict"] == ACCEPTED


def test_the_helper_that_unpacks_awq_gives_the_same_model(tiny: Bench, tmp_path: Path) -> None:
    """test_recorded_corrupt.py relies on it."""
    made = tiny.make(AutoAwqConfig(calibration=SET))
    plain = ScorableModel(format="hf", path=unpack(made.directory, tmp_path / "plain"), key="plain", label="plain")
    windows = TokenWindows(ids=np.random.default_rng(1).integers(3, 1000, (1, 64), dtype=np.int32), first=0)
    scores: list[TokenScores] = []
    for index, model in enumerate((plain, scorable(made))):
        work = tmp_path / str(index)
        scorer = TransformersScorer(tiny.tools)
        scores.append(scorer.score(windows, variant=model, baseline=None, work_dir=work, progress=Progress()))
    assert np.abs(scores[0].nll - scores[1].nll).max() < 0.05


@pytest.fixture(scope="module")
def smollm2(tmp_path_factory: pytest.TempPathFactory) -> Bench:
    return Bench(model=packaged_model(), cache=cache_dir(), tools=gptqmodel())


def test_the_packaged_model_by_gptqmodel(smollm2: Bench) -> None:
    made = smollm2.make(GptqModelConfig(calibration=SMALL_SET))
    assert made.manifest["group_size"] == 64
    assert made.manifest["quantized_layers"] == 210
    assert made.manifest["parameters"] == 134_515_008
    assert made.manifest["peak_rss_bytes"] < 4e9
    found = smollm2.accept(made)
    assert found["verdict"] == ACCEPTED
    assert found["mean_divergence"] < 0.6


@pytest.mark.parametrize("patched", [True, False])
def test_the_packaged_model_by_autoawq(patched: bool, smollm2: Bench) -> None:
    made = smollm2.make(AutoAwqConfig(patched=patched, clip=False, threads=1, calibration=SMALL_SET))
    assert made.manifest["quantized_layers"] == 210
    found = smollm2.accept(made)
    assert found["verdict"] == (ACCEPTED if patched else CORRUPT)


def test_autogptq_is_refused_with_exit_code_2(tmp_path: Path) -> None:
    done = quantbench("quantize", "model=smollm2", "scheme=auto_gptq", "engine=transformers", cwd=tmp_path)
    assert done.returncode == 2
    assert "AutoGPTQ quantizes on an NVIDIA GPU only" in done.stderr
    assert "scheme=gptqmodel_gptq" in done.stderr


def test_autogptqs_worker_refuses_too(tmp_path: Path) -> None:
    tools = ConfiguredToolchains().ensure("autoawq", Progress())
    worker = WORKERS / "auto_gptq_worker.py"
    with pytest.raises(WorkerError, match="on an NVIDIA GPU only") as caught:
        run_worker(tools, worker, {}, work_dir=tmp_path, log=tmp_path / "log", progress=Progress())
    assert caught.value.kind == "usage"
