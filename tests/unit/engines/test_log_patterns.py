"""What engines log when they cannot go on, as their sources have it or as it was seen, and what is made of it."""

from __future__ import annotations

import pytest

from bench.base.errors import FailureKind
from bench.engines.base import Engine
from bench.engines.launch import died
from bench.engines.llama_cpp import LlamaCpp
from bench.engines.tensorrt_llm import TensorRtLlm
from bench.engines.tgi import Tgi
from bench.engines.transformers import Transformers


class AnyEngine(Engine):
    kind = "any"


SEEN = [
    (LlamaCpp, "alloc_tensor_range: failed to allocate CPU buffer of size 2073602949120", FailureKind.OUT_OF_MEMORY),
    (LlamaCpp, "llama_init_from_model: unable to allocate CUDA0 buffer", FailureKind.OUT_OF_MEMORY),
    (
        LlamaCpp,
        "llama_model_load: error loading model: unknown model architecture: 'foo'",
        FailureKind.UNSUPPORTED_ARCHITECTURE,
    ),
    (
        LlamaCpp,
        "llama_model_load: error loading model: error loading model vocabulary: unknown pre-tokenizer type: 'foo'",
        FailureKind.UNSUPPORTED_ARCHITECTURE,
    ),
    (LlamaCpp, "srv         start: couldn't bind HTTP server socket, hostname: 127.0.0.1", FailureKind.PORT_TAKEN),
    (LlamaCpp, "ggml_cuda_init: failed to initialize CUDA: no CUDA-capable device is detected", FailureKind.DRIVER),
    (LlamaCpp, "CUDA error: no kernel image is available for execution on the device", FailureKind.MISSING_KERNEL),
    (
        LlamaCpp,
        "llama_model_load: error loading model: tensor 'x' data is not within the file bounds, model is corrupted",
        FailureKind.CORRUPT,
    ),
    (
        LlamaCpp,
        "failed to open GGUF file '/m.gguf' (No such file or directory)\nllama_model_load: error loading model: it",
        FailureKind.CRASHED,
    ),
    (LlamaCpp, "segmentation fault", FailureKind.CRASHED),
    (
        Transformers,
        "ValueError: The checkpoint has model type `foo` but Transformers does not recognize this architecture.",
        FailureKind.UNSUPPORTED_ARCHITECTURE,
    ),
    (
        Transformers,
        "ImportError: Loading an AWQ quantized model requires gptqmodel. Please install it",
        FailureKind.MISSING_KERNEL,
    ),
    (Transformers, "RuntimeError: No GPU found. A GPU is needed for quantization.", FailureKind.MISSING_KERNEL),
    (
        Transformers,
        "RuntimeError: [enforce fail at alloc_cpu.cpp:127] DefaultCPUAllocator: can't allocate memory: you tried",
        FailureKind.OUT_OF_MEMORY,
    ),
    (
        Tgi,
        "RuntimeError: Not enough memory to handle 4096 prefill tokens. You need to decrease",
        FailureKind.OUT_OF_MEMORY,
    ),
    (Tgi, "ValueError: Unsupported model type foo", FailureKind.UNSUPPORTED_ARCHITECTURE),
    (
        TensorRtLlm,
        "ValueError: Unknown architecture for AutoModelForCausalLM: Foo",
        FailureKind.UNSUPPORTED_ARCHITECTURE,
    ),
    (AnyEngine, "torch.OutOfMemoryError: CUDA out of memory. Tried to allocate 2.00 GiB", FailureKind.OUT_OF_MEMORY),
    (AnyEngine, "RuntimeError: The NVIDIA driver on your system is too old (found version 11040)", FailureKind.DRIVER),
    (AnyEngine, "CUDA driver version is insufficient for CUDA runtime version", FailureKind.DRIVER),
    (AnyEngine, "docker: Error response from daemon: could not select device driver", FailureKind.DRIVER),
    (
        AnyEngine,
        "ERROR: [Errno 98] error while attempting to bind on address ('127.0.0.1', 1): address already in use",
        FailureKind.PORT_TAKEN,
    ),
    (
        AnyEngine,
        "docker: Error response from daemon: Bind for 127.0.0.1:8000 failed: port is already allocated.",
        FailureKind.PORT_TAKEN,
    ),
    (AnyEngine, "AssertionError: Torch not compiled with CUDA enabled", FailureKind.MISSING_KERNEL),
    (AnyEngine, "INFO: everything is fine", FailureKind.CRASHED),
]


@pytest.mark.parametrize(("engine", "log", "kind"), SEEN)
def test_the_end_of_a_log_tells_the_kind_and_what_to_do(engine: type[Engine], log: str, kind: FailureKind) -> None:
    failure = died(engine(), log, "it ended")
    assert failure.kind is kind
    assert failure.log_tail == log
    assert str(failure).startswith("it ended")
    assert kind is FailureKind.CRASHED or "; " in str(failure)
