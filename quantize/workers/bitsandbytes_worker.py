"""Worker of the llmcompressor toolchain: a checkpoint whose linear layers bitsandbytes packs while transformers loads.

Weights come from safetensors, no code of the checkpoint runs, and no hub is asked.
"""

from collections.abc import Callable
from typing import Any

import bitsandbytes
import torch
import transformers
from transformers import AutoModelForCausalLM, BitsAndBytesConfig
from transformers.integrations import bitsandbytes as integration

Progress = Callable[..., None]


def run(request: dict[str, Any], progress: Progress) -> dict[str, Any]:
    """Quantize the checkpoint in folder `source` into the new folder `out`."""
    torch.set_num_threads(request["threads"])
    transformers.utils.logging.disable_progress_bar()
    progress_layer_by_layer(progress, len(request["layers"]))
    model = AutoModelForCausalLM.from_pretrained(
        request["source"],
        dtype="auto",
        quantization_config=BitsAndBytesConfig(**request["recipe"]),
        device_map="auto" if torch.cuda.is_available() else "cpu",
        use_safetensors=True,
        trust_remote_code=False,
        local_files_only=True,
    )
    packed = (bitsandbytes.nn.Linear4bit, bitsandbytes.nn.Linear8bitLt)
    linear = {name: module for name, module in model.named_modules() if isinstance(module, torch.nn.Linear)}
    quantized = [name for name, module in linear.items() if isinstance(module, packed)]
    if not quantized:
        raise RuntimeError("no layer was quantized")
    model.save_pretrained(request["out"])
    return {
        "quantized_layers": len(quantized),
        "skipped_layers": sorted(set(linear) - set(quantized)),
        "peak_gpu_bytes": peak_gpu_bytes(),
        "versions": {
            "bitsandbytes": bitsandbytes.__version__,
            "transformers": transformers.__version__,
            "torch": torch.__version__,
        },
    }


def progress_layer_by_layer(progress: Progress, layers: int) -> None:
    """Report every layer that is packed; transformers shows a bar of all tensors on a terminal only.

    transformers packs in the `convert` of these operations while it loads. A version without them loads without
    progress.
    """
    done = 0

    def reporting(convert: Callable[..., Any]) -> Callable[..., Any]:
        def converted(*arguments: Any, **options: Any) -> Any:
            nonlocal done
            result = convert(*arguments, **options)
            done += 1
            progress(min(done, layers), layers, "layers", "packing")
            return result

        return converted

    for name in ("Bnb4bitQuantize", "Bnb8bitQuantize"):
        operation = getattr(integration, name, None)
        if operation is not None:
            operation.convert = reporting(operation.convert)


def peak_gpu_bytes() -> int | None:
    """Most memory torch held on all GPUs together; None without one."""
    if not torch.cuda.is_available():
        return None
    return sum(int(torch.cuda.max_memory_allocated(index)) for index in range(torch.cuda.device_count()))
