"""Worker: the ways to quantize that vLLM lists, and the kernels it has for them on CPUs. Runs inside `vllm`."""

from typing import Any


def run(request: dict[str, Any], progress: Any) -> dict[str, Any]:
    """Names only."""
    from vllm.model_executor.kernels import linear
    from vllm.model_executor.kernels.linear.mixed_precision import cpu
    from vllm.model_executor.layers.quantization import QUANTIZATION_METHODS
    from vllm.platforms import PlatformEnum

    tables = {"nvfp4": linear._POSSIBLE_NVFP4_KERNELS, "fp8_block": linear._POSSIBLE_FP8_BLOCK_KERNELS}
    return {
        "methods": list(QUANTIZATION_METHODS),
        "on_cpu": {
            name: [kernel.__name__ for kernel in table.get(PlatformEnum.CPU, [])] for name, table in tables.items()
        },
        "packed_on_cpu": [str(kind) for kind in cpu._CPUWNA16_SUPPORTED_QUANT_TYPES],
    }
