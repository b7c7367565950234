"""What we say to vLLM and SGLang, and expect of their logs, held against their own code."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from bench.base.compose import compose, options
from bench.base.progress import Progress
from bench.engines.base import EngineConfig, Launch, ServedModel, SpeculativeConfig, engine_of
from bench.engines.flags import COMMON_SETTINGS
from bench.engines.sglang import SglangConfig
from bench.engines.vllm import VllmConfig
from bench.pipeline.schemas import register_all
from bench.plan.config import RunConfig
from bench.toolchains.toolchain import Toolchain
from bench.toolchains.worker import run_worker
from quantize.run import ConfiguredToolchains

pytestmark = pytest.mark.toolchains

MODEL = ServedModel(format="hf", path=Path("/models/a b"), name="org/smol-BF16 text=a:b@0")
LAUNCH = Launch(host="127.0.0.1", port=8123, api_key="secret-key")
NGRAM = SpeculativeConfig(method="ngram", tokens=3)
DRAFT = SpeculativeConfig(method="eagle", model="org/draft", tokens=5)

VLLM_ALL = VllmConfig(
    toolchain="vllm_cuda",
    max_model_len=4096,
    max_sequences=7,
    tensor_parallel_size=2,
    pipeline_parallel_size=3,
    max_batched_tokens=5000,
    memory_fraction=0.85,
    attention_backend="FLASH_ATTN",
    prefix_caching=True,
    chunked_prefill=False,
    cuda_graphs=True,
    dtype="bfloat16",
    kv_cache_dtype="fp8_e4m3",
    block_size=32,
    speculative=NGRAM,
    quantization="compressed-tensors",
    cuda_graph_sizes=[1, 2, 8],
    kv_offload_gib=4.5,
    trust_remote_code=True,
    seed=11,
    extra_args=["--max-logprobs", "5"],
)
SGLANG_ALL = SglangConfig(
    max_model_len=4096,
    max_sequences=7,
    tensor_parallel_size=2,
    pipeline_parallel_size=3,
    max_batched_tokens=5000,
    memory_fraction=0.85,
    attention_backend="flashinfer",
    prefix_caching=True,
    chunked_prefill=True,
    cuda_graphs=True,
    dtype="bfloat16",
    kv_cache_dtype="fp8",
    block_size=32,
    speculative=DRAFT,
    quantization="compressed-tensors",
    chunked_prefill_size=2048,
    cuda_graph_sizes=[1, 2, 8],
    host_cache_gib=6,
    deterministic=True,
    trust_remote_code=True,
    seed=11,
    extra_args=["--max-queued-requests", "9"],
)
#: Switches the other way round, and what is left to the engine.
VLLM_OTHERS = (
    VllmConfig(),
    VllmConfig(chunked_prefill=True, cuda_graphs=False, dtype="float32", speculative=DRAFT, toolchain="vllm_cuda"),
    VllmConfig(prefix_caching=None, attention_backend="CPU_ATTN"),
)
SGLANG_OTHERS = (
    SglangConfig(),
    SglangConfig(chunked_prefill=False, cuda_graphs=False, speculative=NGRAM),
    *(SglangConfig(kv_cache_dtype=name) for name in ("auto", "bf16", "fp8_e5m2", "mxfp8", "nvfp4", "fp4_mx_block16")),
)


def presets(engine: str) -> dict[str, EngineConfig]:
    register_all()
    names = [name for name in options("engine") if name.split("_")[0] == engine]
    return {name: compose("run", [f"engine={name}", "scheme=bf16"], RunConfig).engine for name in names}


def words(config: EngineConfig, model: ServedModel = MODEL) -> list[str]:
    return [str(word) for word in engine_of(config).command(config, model, LAUNCH, None).argv]


def known(values: Mapping[str, Any]) -> dict[str, Any]:
    """Those that are not left to the engine."""
    return {name: value for name, value in values.items() if value is not None}


def meant_by_vllm(config: EngineConfig) -> dict[str, Any]:
    """The parsed namespace, as far as we set it; dictionaries are those of vLLM's own configs."""
    assert isinstance(config, VllmConfig)
    speculative = config.speculation
    return {
        "model_tag": "/models/a b",
        "served_model_name": [MODEL.name],
        "host": "127.0.0.1",
        "port": 8123,
        "api_key": None,
        "max_model_len": config.max_model_len,
        "max_num_seqs": config.max_sequences,
        "seed": config.seed,
        "generation_config": "vllm",
        "enable_log_requests": False,
        "disable_uvicorn_access_log": True,
        "trust_remote_code": config.trust_remote_code,
        "enable_prefix_caching": config.prefix_caching,
        "enforce_eager": config.cuda_graphs is False,
        "cudagraph_capture_sizes": config.cuda_graph_sizes or None,
        **known(
            {
                "tensor_parallel_size": config.tensor_parallel_size,
                "pipeline_parallel_size": config.pipeline_parallel_size,
                "max_num_batched_tokens": config.max_batched_tokens,
                "gpu_memory_utilization": config.memory_fraction,
                "enable_chunked_prefill": config.chunked_prefill,
                "dtype": config.dtype,
                "kv_cache_dtype": config.kv_cache_dtype,
                "block_size": config.block_size,
                "quantization": config.quantization,
                "kv_offloading_size": config.kv_offload_gib,
                "speculative_config": speculative
                and known(
                    {
                        "method": speculative.method,
                        "num_speculative_tokens": speculative.tokens,
                        "model": speculative.model,
                    }
                ),
            }
        ),
    }


def meant_by_sglang(config: EngineConfig) -> dict[str, Any]:
    """The parsed namespace, as far as we set it."""
    assert isinstance(config, SglangConfig)
    off = "disabled" if config.cuda_graphs is False else None
    cache = "fp8_e4m3" if config.kv_cache_dtype == "fp8" else config.kv_cache_dtype
    meant = {
        "model_path": "/models/a b",
        "served_model_name": MODEL.name,
        "host": "127.0.0.1",
        "port": 8123,
        "api_key": None,
        "context_length": config.max_model_len,
        "max_running_requests": config.max_sequences,
        "random_seed": config.seed,
        "sampling_defaults": "openai",
        "enable_metrics": True,
        "log_requests": False,
        "log_level_http": "warning",
        "trust_remote_code": config.trust_remote_code,
        "disable_radix_cache": config.prefix_caching is False,
        "cuda_graph_backend_decode": off,
        "cuda_graph_backend_prefill": off,
        "cuda_graph_bs_decode": config.cuda_graph_sizes or None,
        "chunked_prefill_size": -1 if config.chunked_prefill is False else config.chunked_prefill_size,
        "enable_hierarchical_cache": config.host_cache_gib is not None,
        "hicache_size": config.host_cache_gib or 0,
        "enable_deterministic_inference": config.deterministic,
        **known(
            {
                "tp_size": config.tensor_parallel_size,
                "pp_size": config.pipeline_parallel_size,
                "max_prefill_tokens": config.max_batched_tokens,
                "mem_fraction_static": config.memory_fraction,
                "attention_backend": config.attention_backend,
                "dtype": config.dtype,
                "kv_cache_dtype": cache,
                "page_size": config.block_size,
                "quantization": config.quantization,
            }
        ),
    }
    guesses = config.speculation
    if guesses is None:
        return {**meant, "speculative_algorithm": None}
    chain = guesses.method.lower() != "ngram"
    return {
        **meant,
        "speculative_algorithm": guesses.method.upper(),
        "speculative_draft_model_path": guesses.model,
        "speculative_num_steps": guesses.tokens if chain else None,
        "speculative_num_draft_tokens": guesses.tokens + chain,
    }


@pytest.fixture(scope="module")
def vllm() -> Toolchain:
    return ConfiguredToolchains().ensure("vllm", Progress())


@pytest.fixture(scope="module")
def sglang_modules() -> Path:
    python = ConfiguredToolchains().ensure("sglang_parser", Progress()).python
    return next((python.parents[1] / "lib").glob("python3*/site-packages"))


def parsed(toolchain: Toolchain, worker: str, folder: Path, request: Mapping[str, Any]) -> list[dict[str, Any]]:
    path = Path(__file__).with_name(f"{worker}.py")
    answer = run_worker(toolchain, path, request, work_dir=folder, log=folder / "log", progress=Progress())
    found: list[dict[str, Any]] = answer["parsed"]
    return found


def differences(found: Mapping[str, Any], meant: Mapping[str, Any]) -> dict[str, tuple[Any, Any]]:
    """Name → (what was meant, what the parser understood)."""
    return {name: (value, found[name]) for name, value in meant.items() if found[name] != value}


def test_the_full_configs_leave_no_setting_out() -> None:
    for config in (VLLM_ALL, SGLANG_ALL):
        engine = engine_of(config)
        spoken = {name for name in COMMON_SETTINGS if name in engine.flags or engine.own_settings.get(name) == ""}
        assert {name for name in COMMON_SETTINGS if getattr(config, name) is not None} == spoken
        shared = {field.name for field in dataclasses.fields(EngineConfig)}
        own = {field.name for field in dataclasses.fields(config)} - shared - {"cpu_kv_cache_gib"}
        unchanged = {name for name in own if getattr(config, name) == getattr(type(config)(), name)}
        assert not unchanged


def test_vllm_understands_what_is_meant(vllm: Toolchain, tmp_path: Path) -> None:
    configs = {"all": VLLM_ALL, **dict(zip("abc", VLLM_OTHERS, strict=True)), **presets("vllm")}
    assert len(configs) >= 10
    commands = [words(config)[1:] for config in configs.values()]
    load = dataclasses.replace(MODEL, load_method="fp8")
    commands.append(words(VllmConfig(), load)[1:])
    found = parsed(vllm, "parse_vllm_flags", tmp_path, {"commands": commands})
    wrong = {
        name: differences(values, meant_by_vllm(config))
        for (name, config), values in zip(configs.items(), found[:-1], strict=True)
    }
    assert not {name: value for name, value in wrong.items() if value}
    assert "FLASH_ATTN" in str(found[0]["attention_backend"])
    assert found[0]["max_logprobs"] == 5
    assert found[-1]["quantization"] == "fp8_per_channel"


def test_sglang_understands_what_is_meant(vllm: Toolchain, sglang_modules: Path, tmp_path: Path) -> None:
    configs = {"all": SGLANG_ALL, **dict(zip("abcdefgh", SGLANG_OTHERS, strict=True)), **presets("sglang")}
    assert len(configs) >= 12
    commands = [words(config)[3:] for config in configs.values()]
    load = dataclasses.replace(MODEL, load_method="fp8")
    commands.append(words(SglangConfig(), load)[3:])
    request = {"commands": commands, "beside": str(sglang_modules)}
    found = parsed(vllm, "parse_sglang_flags", tmp_path, request)
    wrong = {
        name: differences(values, meant_by_sglang(config))
        for (name, config), values in zip(configs.items(), found[:-1], strict=True)
    }
    assert not {name: value for name, value in wrong.items() if value}
    assert found[0]["max_queued_requests"] == 9
    assert found[-1]["quantization"] == "fp8"


@pytest.mark.parametrize(
    ("file", "text"),
    [
        ("v1/core/kv_cache_utils.py", "No available memory for the cache blocks"),
        ("v1/core/kv_cache_utils.py", "cache is needed, which is larger than the available KV cache"),
        ("v1/core/kv_cache_utils.py", "KV cache size"),
        ("v1/worker/cpu_worker.py", "Available memory on node "),
        ("v1/worker/cpu_worker.py", "Explicitly set ("),
        ("v1/worker/utils.py", "Free memory on device "),
        ("v1/worker/gpu_worker.py", "Available KV cache memory: %s GiB"),
        ("v1/worker/gpu_model_runner.py", "Model loading took %s GiB"),
        ("v1/worker/cpu_model_runner.py", "Starting to load model"),
        ("v1/worker/cpu_model_runner.py", "Warming up model for the compilation"),
        ("model_executor/models/registry.py", "are not supported for now. "),
        ("model_executor/models/registry.py", "is not supported anymore. "),
        ("model_executor/models/registry.py", "is not supported in-tree anymore. "),
        ("model_executor/kernels/linear/__init__.py", "Failed to find a kernel that can implement"),
        ("model_executor/model_loader/default_loader.py", "Cannot find any model weights"),
        ("model_executor/model_loader/default_loader.py", "Loading weights took"),
        ("config/device.py", "Failed to infer device type"),
        ("utils/ompmultiprocessing.py", "Not enough allowed NUMA nodes to bind threads"),
        ("_custom_ops.py", "cpu_gemm_wna16"),
    ],
)
def test_vllm_still_says_what_is_looked_for_in_its_log(vllm: Toolchain, file: str, text: str) -> None:
    (package,) = (vllm.python.parents[1] / "lib").glob("python3*/site-packages/vllm")
    assert text in (package / file).read_text(encoding="utf-8")


@pytest.mark.parametrize(
    ("file", "text"),
    [
        ("launch_server.py", "def run_server(server_args):"),
        ("srt/entrypoints/engine.py", "def _server_args_for_logging(server_args"),
        ("srt/server_args.py", "def prepare_server_args(argv: list[str]) -> ServerArgs:"),
        ("srt/model_executor/pool_configurator.py", "Not enough memory. Please try to increase --mem-fraction-static"),
        ("srt/models/registry.py", "are not supported for now. "),
        ("srt/model_loader/loader.py", "is not supported for the current GPU. "),
        ("srt/observability/metrics_collector.py", '"sglang:prompt_tokens_total"'),
        ("srt/observability/metrics_collector.py", '"sglang:generation_tokens_total"'),
    ],
)
def test_sglang_has_what_our_server_script_and_its_log_are_read_for(sglang_modules: Path, file: str, text: str) -> None:
    assert text in (sglang_modules / "sglang" / file).read_text(encoding="utf-8")
