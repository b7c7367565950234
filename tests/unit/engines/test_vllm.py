"""vLLM as an engine: its command line, what it serves where, its memory, and what its log tells."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import pytest

from bench.base.compose import compose, options
from bench.base.errors import FailureKind, UsageError
from bench.engines.base import Command, EngineMemory, Launch, ServedModel, SpeculativeConfig, SupportAnswer, engine_of
from bench.engines.container import ContainerConfig
from bench.engines.flags import COMMON_SETTINGS
from bench.engines.launch import died, read_counters
from bench.engines.readiness import newest_phase
from bench.engines.vllm import Vllm, VllmConfig
from bench.engines.vllm_reference import reference_environment
from bench.pipeline.schemas import register_all
from bench.plan.config import RunConfig
from bench.plan.fit import cache_bytes
from bench.toolchains.toolchain import Toolchain
from quantize.shape import CacheShape

MODEL = ServedModel(format="hf", path=Path("/models/a b"), name="smol-BF16")
LAUNCH = Launch(host="127.0.0.1", port=8123, api_key="secret-key")
GPU = "vllm_cuda"


@pytest.fixture(autouse=True)
def _a_processor_with_every_kernel(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("bench.engines.vllm.lacks_kernel", lambda: False)


def command(config: VllmConfig, model: ServedModel = MODEL) -> Command:
    return engine_of(config).command(config, model, LAUNCH, None)


def test_the_command_line_on_a_cpu() -> None:
    made = command(VllmConfig(max_model_len=1024, max_sequences=8, cuda_graphs=False, cpu_kv_cache_gib=2))
    assert list(made.argv) == [
        *("vllm", "serve", "/models/a b", "--served-model-name", "smol-BF16"),
        *("--host", "127.0.0.1", "--port", "8123", "--max-model-len", "1024", "--max-num-seqs", "8"),
        *("--seed", "0", "--generation-config", "vllm", "--no-enable-log-requests", "--disable-uvicorn-access-log"),
        *("--no-enable-prefix-caching", "--enforce-eager"),
    ]
    assert made.env == {"VLLM_CPU_KVCACHE_SPACE": "2"}
    assert made.secret_env == {"VLLM_API_KEY": "secret-key"}


def test_threads_that_are_chosen_are_not_bound_to_cores() -> None:
    assert command(VllmConfig(threads=2)).env == {
        "VLLM_CPU_KVCACHE_SPACE": "1",
        "OMP_NUM_THREADS": "2",
        "VLLM_CPU_OMP_THREADS_BIND": "nobind",
    }
    assert command(VllmConfig(threads=2, toolchain=GPU)).env == {"OMP_NUM_THREADS": "2"}


def test_a_processor_without_the_kernel_for_4_bit_weights_gets_ours(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("bench.engines.vllm.lacks_kernel", lambda: True)
    made = command(VllmConfig())
    assert reference_environment().items() <= made.env.items()
    for config in (VllmConfig(toolchain=GPU), VllmConfig(container=ContainerConfig(image="vllm"))):
        assert "PYTHONPATH" not in command(config).env


def test_quality_is_scored_by_the_library_that_serves() -> None:
    config = VllmConfig(dtype="float32")
    toolchain = Toolchain(name="vllm", lock_hash="0123456789abcdef", prefix=Path("/t/v"), python=Path("/t/python"))
    scorer = engine_of(config).scorer(config, toolchain)
    assert scorer.scored_by.engine == "vllm"
    assert scorer.arithmetic["options"]["dtype"] == "float32"
    assert engine_of(config).scoring_toolchain(config) == "vllm"
    assert engine_of(config).scoring_reasons(config, "vllm") == ()


def test_the_command_line_on_gpus() -> None:
    config = VllmConfig(
        toolchain=GPU,
        tensor_parallel_size=4,
        memory_fraction=0.9,
        prefix_caching=True,
        speculative=SpeculativeConfig(method="eagle", model="org/draft", tokens=3),
        cuda_graph_sizes=[1, 2, 4],
        kv_offload_gib=8,
        trust_remote_code=True,
        env={"NCCL_DEBUG": "WARN"},
        extra_args=["--max-logprobs", "5"],
    )
    made = command(config)
    argv = list(made.argv)
    tail = argv[argv.index("--tensor-parallel-size") :]
    speculative = tail.pop(tail.index("--speculative-config") + 1)
    assert json.loads(speculative) == {"method": "eagle", "model": "org/draft", "num_speculative_tokens": 3}
    assert tail == [
        *("--tensor-parallel-size", "4", "--gpu-memory-utilization", "0.9", "--enable-prefix-caching"),
        *("--speculative-config", "--cudagraph-capture-sizes", "1", "2", "4", "--kv-offloading-size", "8"),
        *("--trust-remote-code", "--max-logprobs", "5"),
    ]
    assert made.env == {"NCCL_DEBUG": "WARN"}
    assert "secret-key" not in " ".join(argv)


def test_prompts_are_cached_by_vllms_own_default_only_where_that_is_asked_for() -> None:
    argv = list(command(VllmConfig(prefix_caching=None)).argv)
    assert not [word for word in argv if "prefix-caching" in word]


def test_quantizing_on_loading_is_said_in_vllms_words() -> None:
    load = dataclasses.replace(MODEL, load_method="fp8")
    assert list(command(VllmConfig(), load).argv)[-2:] == ["--quantization", "fp8_per_channel"]
    with pytest.raises(UsageError, match=r"engine\.quantization=awq: the scheme asks for fp8"):
        command(VllmConfig(quantization="awq"), load)
    refused = engine_of(VllmConfig()).serves(VllmConfig(), "hf", "bitsandbytes_nf4")
    assert refused.answer is SupportAnswer.NO
    assert "but by fp8" in refused.reason


@pytest.mark.parametrize(
    ("config", "packing", "answer", "reason"),
    [
        (VllmConfig(), "none", SupportAnswer.YES, ""),
        (VllmConfig(), "compressed-tensors", SupportAnswer.YES, ""),
        (VllmConfig(), "gptq", SupportAnswer.YES, ""),
        (VllmConfig(attention_backend="CPU_ATTN", cuda_graphs=False), "awq", SupportAnswer.UNVERIFIED, "was not run"),
        (VllmConfig(), "bitsandbytes", SupportAnswer.NO, "serve it with engine=transformers"),
        (VllmConfig(memory_fraction=0.5), "none", SupportAnswer.NO, "use engine.cpu_kv_cache_gib instead"),
        (VllmConfig(kv_offload_gib=1), "none", SupportAnswer.NO, "raise engine.cpu_kv_cache_gib instead"),
        (VllmConfig(cuda_graphs=True), "none", SupportAnswer.NO, "there are none on a CPU"),
        (VllmConfig(cuda_graph_sizes=[1]), "none", SupportAnswer.NO, "there are none on a CPU"),
        (VllmConfig(attention_backend="FLASH_ATTN"), "none", SupportAnswer.NO, "knows only CPU_ATTN"),
        (VllmConfig(swap_space_gib=4), "none", SupportAnswer.NO, "with vllm use engine.kv_offload_gib instead"),
        (VllmConfig(toolchain=GPU, memory_fraction=0.5), "none", SupportAnswer.UNVERIFIED, "never run here"),
        (VllmConfig(toolchain=GPU, swap_space_gib=4), "none", SupportAnswer.NO, "engine.kv_offload_gib instead"),
    ],
)
def test_what_it_serves(config: VllmConfig, packing: str, answer: SupportAnswer, reason: str) -> None:
    found = engine_of(config).serves(config, "hf", packing=packing)
    assert found.answer is answer
    assert reason in found.reason


def test_gguf_files_are_left_to_llama_cpp() -> None:
    for config in (VllmConfig(), VllmConfig(toolchain=GPU)):
        found = engine_of(config).serves(config, "gguf", packing="gguf")
        assert (found.answer, "choose engine=llama_cpp" in found.reason) == (SupportAnswer.NO, True)


def test_a_toolchain_for_gpus_needs_one(monkeypatch: pytest.MonkeyPatch) -> None:
    for there in (True, False):
        monkeypatch.setattr("bench.engines.gpu.has_gpu", lambda there=there: there)
        engine_of(VllmConfig()).check_machine(VllmConfig())
        if there:
            engine_of(VllmConfig()).check_machine(VllmConfig(toolchain=GPU))
            continue
        for config in (VllmConfig(toolchain=GPU), VllmConfig(container=ContainerConfig(image="i", gpus="all"))):
            with pytest.raises(UsageError, match=r"there is no NVIDIA driver here: set engine\.toolchain=vllm"):
                engine_of(config).check_machine(config)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"cpu_kv_cache_gib": 0}, r"engine\.cpu_kv_cache_gib=0 must be at least 1"),
        ({"cuda_graph_sizes": [1, 0]}, r"engine\.cuda_graph_sizes=\[1, 0\] must be"),
        ({"cuda_graph_sizes": [1], "cuda_graphs": False}, r"no CUDA graphs with engine\.cuda_graphs=false"),
        ({"kv_offload_gib": 0.0}, r"engine\.kv_offload_gib=0\.0 must be positive"),
    ],
)
def test_settings_that_cannot_be_meant(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        VllmConfig(**settings)


def checkpoint(folder: Path, quantization: dict[str, Any] | None) -> ServedModel:
    folder.mkdir()
    (folder / "config.json").write_text(json.dumps({"quantization_config": quantization} if quantization else {}))
    return dataclasses.replace(MODEL, path=folder)


def of_group(weights: dict[str, Any], inputs: dict[str, Any] | None) -> dict[str, Any]:
    return {"config_groups": {"group_0": {"weights": weights, "input_activations": inputs}}}


BLOCKS = {"config_groups": {"group_0": {"weights": {"num_bits": 8, "strategy": "block"}}}, "format": "float-quantized"}
CHANNELS = {
    "config_groups": {"group_0": {"weights": {"num_bits": 8, "strategy": "channel"}, "input_activations": None}}
}


@pytest.mark.parametrize(
    ("quantization", "amx", "message"),
    [
        (None, False, ""),
        (CHANNELS, False, ""),
        (BLOCKS, True, ""),
        (BLOCKS, False, "computes FP8 in blocks only on CPUs with AMX"),
        ({"quant_method": "fp8", "weight_block_size": [128, 128]}, False, "choose scheme=fp8_dynamic"),
        ({"format": "nvfp4-pack-quantized", "config_groups": {}}, True, "no kernel for NVFP4 on CPUs"),
        (of_group({"num_bits": 8, "type": "float", "strategy": "tensor"}, {"dynamic": False}), False, "with AVX-512"),
        (of_group({"num_bits": 8, "type": "int", "strategy": "group"}, None), False, "is for 4 bits only"),
        (of_group({"num_bits": 4, "type": "int", "strategy": "group"}, None), False, ""),
    ],
)
def test_formats_without_a_kernel_on_cpus_are_refused_before_a_start(
    quantization: dict[str, Any] | None, amx: bool, message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("bench.engines.support_matrix.processor_flags", lambda: {"amx_tile"} if amx else set())
    model = checkpoint(tmp_path / "m", quantization)
    assert command(VllmConfig(toolchain=GPU), model).argv
    if not message:
        assert command(VllmConfig(), model).argv
        return
    with pytest.raises(UsageError, match=message):
        command(VllmConfig(), model)


def test_memory_on_a_cpu_is_what_was_set_aside() -> None:
    footprint = engine_of(VllmConfig()).footprint(VllmConfig(cpu_kv_cache_gib=3, max_sequences=100))
    assert footprint.gpu_layers == 0
    assert footprint.needs_gpu == ""
    shape = CacheShape(layers=30, keys=192, values=192)
    assert cache_bytes(shape, footprint) == 3 << 30


def test_memory_on_gpus_is_what_sequences_need_of_their_share() -> None:
    config = VllmConfig(toolchain=GPU, tensor_parallel_size=2, pipeline_parallel_size=2, kv_cache_dtype="fp8")
    footprint = engine_of(config).footprint(config)
    assert (footprint.gpus, footprint.gpu_fraction, footprint.gpu_layers) == (4, 0.92, None)
    assert footprint.needs_gpu == "engine.toolchain=vllm_cuda"
    assert footprint.set_aside_bytes is None
    shape = CacheShape(layers=30, keys=192, values=192)
    assert cache_bytes(shape, footprint) == 30 * 2048 * 4 * (192 + 192)


@pytest.mark.parametrize(
    ("settings", "width"),
    [
        ({}, 2.0),
        ({"dtype": "float32"}, 4.0),
        ({"dtype": "float32", "kv_cache_dtype": "bfloat16"}, 2.0),
        ({"kv_cache_dtype": "fp8_e5m2"}, 1.0),
        ({"kv_cache_dtype": "int8_per_token_head"}, 1.0),
        ({"kv_cache_dtype": "nvfp4"}, 0.5),
        ({"kv_cache_dtype": "turboquant_4bit_nc"}, 0.5),
    ],
)
def test_bytes_of_a_cached_value(settings: dict[str, Any], width: float) -> None:
    footprint = engine_of(VllmConfig()).footprint(VllmConfig(**settings))
    assert (footprint.key_bytes, footprint.value_bytes) == (width, width)


WORKER = "(Worker pid=396) ERROR 11-25 18:17:30 [multiproc_executor.py:1063] "
#: What 200 lines of tracebacks of three processes end with, whatever the cause.
END = "RuntimeError: Engine core initialization failed. See root cause above. Failed core proc(s): {}"


@pytest.mark.parametrize(
    ("cause", "kind", "advice"),
    [
        (
            (
                "ValueError: Available memory on node 0 (19.2/22.46 GiB) on kv cache allocation is less than requested "
                "memory for kv (200.0 GiB). Decrease --kv-cache-memory-bytes"
            ),
            FailureKind.OUT_OF_MEMORY,
            "lower engine.cpu_kv_cache_gib",
        ),
        (
            (
                "ValueError: To serve at least one request with the model's max seq len (8192), (1.5 GiB KV cache is "
                "needed, which is larger than the available KV cache memory (1.0 GiB)."
            ),
            FailureKind.OUT_OF_MEMORY,
            "raise engine.cpu_kv_cache_gib",
        ),
        (
            "ValueError: No available memory for the cache blocks. Try increasing `gpu_memory_utilization`",
            FailureKind.OUT_OF_MEMORY,
            "engine.memory_fraction",
        ),
        (
            (
                "ValueError: Free memory on device cuda:0 (3.1/79.1 GiB) on startup is less than desired GPU memory "
                "utilization (0.9, 71.2 GiB)."
            ),
            FailureKind.OUT_OF_MEMORY,
            "others use the memory",
        ),
        (
            "torch.OutOfMemoryError: CUDA out of memory. Tried to allocate 2.00 GiB.",
            FailureKind.OUT_OF_MEMORY,
            "choose a smaller scheme",
        ),
        (
            "ValueError: Model architectures ['FooForCausalLM'] are not supported for now. Supported architectures: x",
            FailureKind.UNSUPPORTED_ARCHITECTURE,
            "use a newer toolchain",
        ),
        (
            (
                "RuntimeError: _C::static_scaled_fp8_quant() expected at most 0 argument(s) but received 4 "
                "argument(s). Declaration: _C::static_scaled_fp8_quant() -> ()"
            ),
            FailureKind.MISSING_KERNEL,
            "choose another scheme",
        ),
        (
            "ValueError: Failed to find a kernel that can implement the NVFP4 linear layer. Reasons:",
            FailureKind.MISSING_KERNEL,
            "choose another scheme",
        ),
        (
            "AttributeError: '_OpNamespace' '_C' object has no attribute 'cpu_gemm_wna16'",
            FailureKind.MISSING_KERNEL,
            "choose another scheme",
        ),
        (
            "RuntimeError: The NVIDIA driver on your system is too old (found version 11040).",
            FailureKind.DRIVER,
            "quantbench doctor",
        ),
        ("RuntimeError: Failed to infer device type, please set the env", FailureKind.DRIVER, "quantbench doctor"),
        ("OSError: [Errno 98] Address already in use", FailureKind.PORT_TAKEN, "the port"),
        (
            "AssertionError: Not enough allowed NUMA nodes to bind threads of 2 local CPUWorkers.",
            FailureKind.USAGE,
            "lower engine.tensor_parallel_size",
        ),
        (
            "torch._inductor.exc.InvalidCxxCompiler: No working C++ compiler found in torch._inductor.config.cpp.cxx",
            FailureKind.TOOLCHAIN,
            "engine.cuda_graphs=false",
        ),
        ("safetensors_rust.SafetensorError: Error while deserializing header", FailureKind.CORRUPT, "quantize again"),
        ("ValueError: something new", FailureKind.CRASHED, ""),
    ],
)
def test_the_log_tells_why_it_died_however_much_was_said_after_it(cause: str, kind: FailureKind, advice: str) -> None:
    traceback = "\n".join(f'  File "module.py", line {number}' for number in range(200))
    failure = died(Vllm(), f"{traceback}\n{WORKER}{cause}\n{traceback}\n{END}", "vllm ended")
    assert failure.kind is kind
    assert advice in str(failure)
    *before, last, after = failure.log_tail.splitlines()
    assert len(before) < 40
    if kind is FailureKind.CRASHED:
        assert after == END
    else:
        assert last == WORKER + cause


CPU_LOG = """\
(Worker pid=3) INFO 11-25 18:10:59 [cpu_model_runner.py:68] Starting to load model /m...
Loading safetensors checkpoint shards:  50% Completed | 1/2 [00:00<00:00,  2.11it/s]
(Worker pid=3) INFO 11-25 18:11:01 [cpu_worker.py:260] Explicitly set (1.0/22.46) GiB for KV cache on node 0.
(EngineCore pid=3) INFO 11-25 18:11:01 [kv_cache_utils.py:2327] CPU KV cache size: 46,592 tokens, Maximum concurrency
INFO:     Application startup complete.
"""
GPU_LOG = """\
(Worker_TP0 pid=3) INFO 11-25 [gpu_model_runner.py:5150] Model loading took 3.25 GiB memory and 2.1 seconds
(Worker_TP1 pid=4) INFO 11-25 [gpu_model_runner.py:5150] Model loading took 3.25 GiB memory and 2.1 seconds
(Worker_TP0 pid=3) INFO 11-25 [gpu_worker.py:760] Available KV cache memory: 10.5 GiB
(Worker_TP1 pid=4) INFO 11-25 [gpu_worker.py:760] Available KV cache memory: 10.5 GiB
"""


def test_the_log_tells_memory_over_all_workers() -> None:
    assert Vllm().memory_of(CPU_LOG) == EngineMemory(weights_bytes=None, kv_cache_bytes=1 << 30)
    assert Vllm().memory_of(GPU_LOG) == EngineMemory(weights_bytes=13 << 29, kv_cache_bytes=21 << 30)
    assert Vllm().memory_of("") == EngineMemory()


def test_the_log_tells_how_far_the_start_is() -> None:
    lines = CPU_LOG.splitlines()
    told = [newest_phase("\n".join(lines[: end + 1]), Vllm.start_phases) for end in range(len(lines))]
    assert told == [
        "loading weights",
        "loading weights, 50 %",
        "loading weights, 50 %",
        "KV cache is allocated",
        "answering",
    ]


def test_its_counters_are_read_over_all_engines_of_a_server() -> None:
    text = (
        "# HELP vllm:prompt_tokens_total Number of prefill tokens processed.\n"
        "# TYPE vllm:prompt_tokens_total counter\n"
        'vllm:prompt_tokens_total{engine="0",model_name="m"} 6.0\n'
        'vllm:prompt_tokens_total{engine="1",model_name="m"} 4.0\n'
        "# TYPE vllm:prompt_tokens_created gauge\n"
        'vllm:prompt_tokens_created{engine="0",model_name="m"} 1.79e+09\n'
        "# TYPE vllm:generation_tokens_total counter\n"
        'vllm:generation_tokens_total{engine="0",model_name="m"} 49.0\n'
    )
    counters = read_counters(Vllm(), text)
    assert (counters.prompt_tokens, counters.generation_tokens) == (10, 49)


PROFILES = options("environment")


@pytest.mark.parametrize("profile", PROFILES)
def test_environment_profiles_reach_the_command(profile: str) -> None:
    register_all()
    overrides = ["scheme=bf16", "engine=vllm_tp4", f"+environment@engine.env={profile}"]
    config = compose("run", overrides, RunConfig).engine
    assert config.env
    assert all(isinstance(value, str) for value in config.env.values())
    assert engine_of(config).command(config, MODEL, LAUNCH, None).env == config.env


def test_environment_profiles_are_composed() -> None:
    register_all()
    overrides = ["scheme=bf16", "engine=vllm_tp4", "+environment@engine.env=[two_gpus,nccl_pcie]"]
    env = compose("run", overrides, RunConfig).engine.env
    assert env["CUDA_VISIBLE_DEVICES"] == "0,1"
    assert env["NCCL_IB_DISABLE"] == "1"


@pytest.mark.parametrize("name", [name for name in options("engine") if name.startswith("vllm")])
def test_presets_are_served_by_their_own_toolchains(name: str) -> None:
    register_all()
    config = compose("run", ["scheme=bf16", f"engine={name}"], RunConfig).engine
    assert isinstance(config, VllmConfig)
    found = engine_of(config).serves(config, "hf", packing="none")
    on_cpu = name in ("vllm", "vllm_cpu")
    assert found.answer is (SupportAnswer.YES if on_cpu else SupportAnswer.UNVERIFIED)
    assert bool(engine_of(config).footprint(config).needs_gpu) is not on_cpu


def test_speculative_decoding_can_be_chosen_and_changed_from_the_command_line() -> None:
    register_all()
    overrides = ["scheme=bf16", "engine=vllm_speculative", "engine.speculative.tokens=7"]
    assert compose("run", overrides, RunConfig).engine.speculative == SpeculativeConfig(method="ngram", tokens=7)


def test_every_common_setting_is_known_to_vllm() -> None:
    assert set(Vllm.flags) | set(Vllm.own_settings) == set(COMMON_SETTINGS)
