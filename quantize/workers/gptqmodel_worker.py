"""Worker of the gptqmodel toolchain: a checkpoint in GPTQ's or AWQ's own format.

The request's recipe holds GPTQModel's own names. Packing names the plain torch kernel, and nothing is compiled: the
library's own choice of a kernel compiles C++ for a quarter of an hour. Weights come from safetensors, no code of the
checkpoint runs, and no hub is asked.
"""

import importlib.util
import json
import os
import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import gptqmodel.version
import torch
import transformers
from gptqmodel import BACKEND, GPTQModel
from gptqmodel.looper import awq_processor
from gptqmodel.nn_modules.qlinear import BaseQuantLinear
from gptqmodel.quantization.config import AWQConfig, GPTQConfig
from transformers import AutoTokenizer

Progress = Callable[..., None]

CONFIGS = {"gptq": GPTQConfig, "awq": AWQConfig}
KERNELS = {"gptq": BACKEND.GPTQ_TORCH, "awq": BACKEND.AWQ_TORCH}


class QuantizerError(Exception):
    """A failure with a kind of its own for the reply."""

    def __init__(self, kind: str, message: str) -> None:
        super().__init__(message)
        self.kind = kind


def run(request: dict[str, Any], progress: Progress) -> dict[str, Any]:
    """Quantize the checkpoint in folder `source` into the new folder `out`."""
    os.chdir(Path(request["out"]).parent)  # it writes logs where it stands
    torch.set_num_threads(request["threads"])
    torch.compiler.set_stance("force_eager")
    transformers.utils.logging.disable_progress_bar()
    recipe, source, out = dict(request["recipe"]), request["source"], Path(request["out"])
    method, inside = recipe.pop("method"), recipe.pop("inside", None)
    search_clipping(recipe.pop("clip", False))
    config = CONFIGS[method](**recipe, offload_to_disk_path=request["offload"])
    model = GPTQModel.load(
        source,
        config,
        device="cuda" if torch.cuda.is_available() else "cpu",
        trust_remote_code=False,
    )
    samples, used = calibration(request["calibration"], source)
    blocks = model.model.config.get_text_config().num_hidden_layers
    model.layer_callback = block_by_block(progress, blocks)
    model.quantize(samples, batch_size=1, backend=KERNELS[method], calibration_data_min_length=2)
    linear = {
        name: module
        for name, module in model.model.named_modules()
        if isinstance(module, torch.nn.Linear | BaseQuantLinear)
    }
    quantized = [name for name, module in linear.items() if isinstance(module, BaseQuantLinear)]
    if not quantized:
        raise QuantizerError("error", "no layer was quantized")
    wrong = sorted(set(quantized) & set(request["skip"]))
    if wrong:
        raise QuantizerError("error", f"{len(wrong)} layers were quantized that should stay, first {wrong[0]}")
    model.save(str(out))
    words = {} if inside is None else what_stays(method, inside, sorted(set(linear) - set(quantized)))
    keep_configuration(Path(source), out, words)
    return {
        "quantized_layers": len(quantized),
        "skipped_layers": sorted(set(linear) - set(quantized)),
        "calibration": used,
        "peak_gpu_bytes": peak_gpu_bytes(),
        "versions": {
            "gptqmodel": gptqmodel.version.__version__,
            "transformers": transformers.__version__,
            "torch": torch.__version__,
        },
    }


def calibration(asked: dict[str, Any], source: str) -> tuple[list[dict[str, Any]], dict[str, Any]]:
    """Samples as GPTQModel takes them, and what was used."""
    tokenizer = AutoTokenizer.from_pretrained(source, local_files_only=True)
    try:
        windows, used = sibling(asked["loader"]).token_windows(tokenizer, asked)
    except ValueError as error:
        raise QuantizerError("usage", f"scheme.calibration: {error}") from None
    return [{"input_ids": [ids], "attention_mask": [[1] * len(ids)]} for ids in windows], used


def sibling(path: str) -> Any:
    """The shared module that turns a calibration file into token ids."""
    spec = importlib.util.spec_from_file_location("quantbench_calibration_tokens", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


def block_by_block(progress: Progress, blocks: int) -> Callable[..., None]:
    """What GPTQModel calls after every block, once before and once after it is packed."""

    def done(layer_idx: int, submodule_finalized: bool) -> None:
        if not submodule_finalized:
            progress(layer_idx + 1, blocks, "blocks", "calibrating")

    return done


def search_clipping(wanted: bool) -> None:
    """Whether AWQ also searches how far to clip weights; the library has an attribute for it and no setting."""
    make = awq_processor.AWQProcessor.__init__

    def made(self: Any, *arguments: Any, **options: Any) -> None:
        make(self, *arguments, **options)
        self.apply_clip = wanted

    awq_processor.AWQProcessor.__init__ = made


def what_stays(method: str, inside: list[str], skipped: list[str]) -> dict[str, Any]:
    """Which layers were left out, in words that transformers knows: `dynamic` is GPTQModel's own."""
    return {"modules_in_block_to_quantize": [inside]} if method == "gptq" else {"modules_to_not_convert": skipped}


def keep_configuration(source: Path, out: Path, words: dict[str, Any]) -> None:
    """The checkpoint's own configuration and tokenizer with how it was quantized, as GPTQModel says it, and `words`.

    GPTQModel sets a padding token, writes a tokenizer of its own, and names the folder for its temporary files.
    """
    saved = json.loads((out / "config.json").read_text(encoding="utf-8"))
    packed = saved["quantization_config"] | words
    packed.get("meta", {}).pop("offload_to_disk_path", None)
    config = json.loads((source / "config.json").read_text(encoding="utf-8"))
    name = "torch_dtype" if "torch_dtype" in config else "dtype"
    config |= {name: saved.get("dtype"), "quantization_config": packed}
    for file in out.iterdir():
        if not file.name.startswith(("model", "quant_log")):
            file.unlink()
    write_json(out / "config.json", config)
    write_json(out / "quantize_config.json", packed)
    generation = source / "generation_config.json"
    if generation.is_file():
        shutil.copyfile(generation, out / generation.name)


def write_json(path: Path, content: Any) -> None:
    """In the layout that transformers writes."""
    path.write_text(json.dumps(content, indent=2, sort_keys=True) + "\n", encoding="utf-8")


def peak_gpu_bytes() -> int | None:
    """Most memory torch held on all GPUs together; None without one."""
    if not torch.cuda.is_available():
        return None
    return sum(int(torch.cuda.max_memory_allocated(index)) for index in range(torch.cuda.device_count()))
