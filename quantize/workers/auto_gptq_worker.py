"""Worker of the autoawq toolchain: a checkpoint in GPTQ's own format, by AutoGPTQ, which wants an NVIDIA GPU.

The checkpoint it reads is a copy for transformers 4. Weights come from safetensors, no code of the checkpoint runs, no
hub is asked.
"""

import importlib.util
import shutil
import sys
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import transformers

with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # of its optional kernels, which are of no use here
    import auto_gptq
    from auto_gptq import AutoGPTQForCausalLM, BaseQuantizeConfig
from transformers import AutoTokenizer

Progress = Callable[..., None]


class QuantizerError(Exception):
    """A failure with a kind of its own for the reply."""

    def __init__(self, kind: str, message: str) -> None:
        super().__init__(message)
        self.kind = kind


def run(request: dict[str, Any], progress: Progress) -> dict[str, Any]:
    """Quantize the checkpoint in folder `source` into the new folder `out`."""
    if not torch.cuda.is_available():
        raise QuantizerError("usage", "scheme=auto_gptq: AutoGPTQ quantizes on an NVIDIA GPU only; use gptqmodel_gptq")
    torch.set_num_threads(request["threads"])
    transformers.utils.logging.disable_progress_bar()
    source, out = request["source"], request["out"]
    tokenizer = AutoTokenizer.from_pretrained(source, local_files_only=True, trust_remote_code=False)
    samples, used = calibration(request["calibration"], tokenizer)
    # Under its own name for the file no loader but AutoGPTQ's would find it.
    config = BaseQuantizeConfig(**request["recipe"], model_file_base_name="model")
    model = AutoGPTQForCausalLM.from_pretrained(
        source,
        config,
        torch_dtype=torch.float16,
        trust_remote_code=False,
        use_safetensors=True,
        local_files_only=True,
    )
    every = {name for name, module in model.model.named_modules() if isinstance(module, torch.nn.Linear)}
    progress(0, None, "blocks", "calibrating")
    model.quantize(samples, batch_size=1, use_triton=False, cache_examples_on_gpu=False)
    left = {name for name, module in model.model.named_modules() if isinstance(module, torch.nn.Linear)}
    wrong = sorted(set(request["skip"]) - left)
    if every == left or wrong:
        raise QuantizerError("error", f"{wrong[0]} was quantized and should stay" if wrong else "nothing was quantized")
    model.save_quantized(out, use_safetensors=True)
    generation = Path(source) / "generation_config.json"
    if generation.is_file():
        shutil.copyfile(generation, Path(out) / generation.name)
    return {
        "quantized_layers": len(every - left),
        "skipped_layers": sorted(left),
        "calibration": used,
        "peak_gpu_bytes": sum(torch.cuda.max_memory_allocated(index) for index in range(torch.cuda.device_count())),
        "versions": {
            "auto-gptq": auto_gptq.__version__,
            "transformers": transformers.__version__,
            "torch": torch.__version__,
        },
    }


def calibration(asked: dict[str, Any], tokenizer: Any) -> tuple[list[dict[str, Any]], dict[str, Any]]:
    """Samples as AutoGPTQ takes them, and what was used."""
    try:
        windows, used = sibling(asked["loader"]).token_windows(tokenizer, asked)
    except ValueError as error:
        raise QuantizerError("usage", f"scheme.calibration: {error}") from None
    tensors = [torch.tensor([ids]) for ids in windows]
    return [{"input_ids": ids, "attention_mask": torch.ones_like(ids)} for ids in tensors], used


def sibling(path: str) -> Any:
    """The shared module that turns a calibration file into token ids."""
    spec = importlib.util.spec_from_file_location("quantbench_calibration_tokens", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module
