"""Worker of the autoawq toolchain: a checkpoint in AutoAWQ's GEMM format.

AutoAWQ is archived; what of it breaks here is put right below, guarded by the version it was read in. The checkpoint it
reads is a copy for transformers 4. Weights come from safetensors, no code of the checkpoint runs, no hub is asked.
"""

import importlib.metadata
import importlib.util
import json
import shutil
import sys
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import transformers

with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # it announces on import that it is archived
    from awq import AutoAWQForCausalLM
    from awq.modules.linear import WQLinear_GEMM
    from awq.quantize import quantizer
from transformers import AutoTokenizer

Progress = Callable[..., None]

#: The version the patch below was read against.
PATCHED = "0.2.9"
#: What AutoAWQ calls the settings of the format; the rest of the recipe are arguments of `quantize`.
FORMAT = ("w_bit", "q_group_size", "zero_point", "version", "modules_to_not_convert")


class QuantizerError(Exception):
    """A failure with a kind of its own for the reply."""

    def __init__(self, kind: str, message: str) -> None:
        super().__init__(message)
        self.kind = kind


def run(request: dict[str, Any], progress: Progress) -> dict[str, Any]:
    """Quantize the checkpoint in folder `source` into the new folder `out`."""
    torch.set_num_threads(request["threads"])
    transformers.utils.logging.disable_progress_bar()
    recipe, source, on_gpu = request["recipe"], request["source"], torch.cuda.is_available()
    if not on_gpu and recipe["patched"]:
        keep_weights_apart()
    progress_block_by_block(progress)
    tokenizer = AutoTokenizer.from_pretrained(source, local_files_only=True, trust_remote_code=False)
    rows, used = calibration(request["calibration"], tokenizer)
    # Half precision is many times slower on a CPU.
    model = AutoAWQForCausalLM.from_pretrained(
        source,
        torch_dtype=torch.float16 if on_gpu else torch.float32,
        trust_remote_code=False,
        safetensors=True,
        device_map="cuda" if on_gpu else None,
        low_cpu_mem_usage=True,
    )
    model.quantize(
        tokenizer,
        quant_config={name: recipe[name] for name in FORMAT},
        calib_data=rows,
        max_calib_samples=len(rows),
        max_calib_seq_len=len(rows[0]),
        duo_scaling=recipe["duo_scaling"],
        apply_clip=recipe["apply_clip"],
    )
    linear = {
        name: module
        for name, module in model.model.named_modules()
        if isinstance(module, torch.nn.Linear | WQLinear_GEMM)
    }
    quantized = [name for name, module in linear.items() if isinstance(module, WQLinear_GEMM)]
    refuse_wrong_layers(quantized, request["skip"])
    in_half_precision(model.model)
    model.save_quantized(request["out"], safetensors=True)
    keep_configuration(Path(source), Path(request["out"]))
    return {
        "quantized_layers": len(quantized),
        "skipped_layers": sorted(set(linear) - set(quantized)),
        "calibration": used,
        "peak_gpu_bytes": peak_gpu_bytes(),
        "versions": {
            "autoawq": importlib.metadata.version("autoawq"),
            "transformers": transformers.__version__,
            "torch": torch.__version__,
        },
    }


def calibration(asked: dict[str, Any], tokenizer: Any) -> tuple[list[list[int]], dict[str, Any]]:
    """Rows of token ids, all of one length, and what was used.

    AutoAWQ drops samples longer than its limit without a word, then puts the rest in one line and cuts it into rows of
    that limit. So it is given such rows: what is left at the end, less than a token a row, is counted as `dropped`.
    """
    try:
        windows, used = sibling(asked["loader"]).token_windows(tokenizer, asked)
    except ValueError as error:
        raise QuantizerError("usage", f"scheme.calibration: {error}") from None
    line = [token for window in windows for token in window]
    count = -(-len(line) // max(map(len, windows)))
    length = len(line) // count
    rows = [line[index * length : (index + 1) * length] for index in range(count)]
    return rows, {**used, "rows": count, "dropped": len(line) - count * length}


def sibling(path: str) -> Any:
    """The shared module that turns a calibration file into token ids."""
    spec = importlib.util.spec_from_file_location("quantbench_calibration_tokens", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


def refuse_wrong_layers(quantized: list[str], skip: list[str]) -> None:
    """Raise QuantizerError where nothing was quantized, or something that should stay as it is."""
    if not quantized:
        raise QuantizerError("error", "no layer was quantized")
    wrong = sorted(set(quantized) & set(skip))
    if wrong:
        raise QuantizerError("error", f"{len(wrong)} layers were quantized that should stay, first {wrong[0]}")


def in_half_precision(model: Any) -> None:
    """What is not quantized, as AutoAWQ's own kernels want it; raises QuantizerError where numbers do not fit."""
    for name, tensor in model.state_dict().items():
        if tensor.is_floating_point() and not torch.isfinite(tensor.to(torch.float16)).all():
            raise QuantizerError("error", f"{name} holds numbers beyond the range of 16-bit floats")
    model.to(torch.float16)
    model.config.torch_dtype = torch.float16


def keep_configuration(source: Path, out: Path) -> None:
    """The checkpoint's own configuration with how it was quantized; AutoAWQ changes use_cache and do_sample in it."""
    saved = json.loads((out / "config.json").read_text(encoding="utf-8"))
    config = json.loads((source / "config.json").read_text(encoding="utf-8"))
    config |= {"torch_dtype": "float16", "quantization_config": saved["quantization_config"]}
    (out / "config.json").write_text(json.dumps(config, indent=2, sort_keys=True) + "\n", encoding="utf-8")
    generation = source / "generation_config.json"
    (out / generation.name).unlink(missing_ok=True)
    if generation.is_file():
        shutil.copyfile(generation, out / generation.name)


def peak_gpu_bytes() -> int | None:
    """Most memory torch held on all GPUs together; None without one."""
    if not torch.cuda.is_available():
        return None
    return sum(int(torch.cuda.max_memory_allocated(index)) for index in range(torch.cuda.device_count()))


# Patches


def keep_weights_apart() -> None:
    """Give the search for scales a copy of the weights, so that it can put them back.

    `AwqQuantizer._compute_best_scale` keeps `{k: v.cpu() for …state_dict()}`, tries scales on the module in place, and
    loads what it kept after each. On a CPU `.cpu()` gives the same tensor, not a copy, so that what is put back holds
    the scales of the first try, which nothing undoes: the more they differ from 1, the less is left of the model.
    Scales by activations alone (`duo_scaling: false`) begin at 1 and do no harm. Raises QuantizerError for a version
    where this was not read.
    """
    found = importlib.metadata.version("autoawq")
    if found != PATCHED:
        raise QuantizerError(
            "toolchain",
            f"AutoAWQ {PATCHED} corrupts models on a CPU and is repaired here, {found} was not looked at: use "
            f"{PATCHED}, a GPU, or scheme=awq_w4a16",
        )
    search = quantizer.AwqQuantizer._compute_best_scale

    def searched(self: Any, *arguments: Any, **options: Any) -> Any:
        module = options["module2inspect"] if "module2inspect" in options else arguments[3]
        live = module.state_dict
        module.state_dict = lambda: {name: value.detach().clone() for name, value in live().items()}
        try:
            return search(self, *arguments, **options)
        finally:
            del module.state_dict

    quantizer.AwqQuantizer._compute_best_scale = searched


def progress_block_by_block(progress: Progress) -> None:
    """Report every block that is done; the library shows a bar on a terminal only."""

    def counted(blocks: Any, **_: Any) -> Any:
        for index, block in enumerate(blocks):
            yield block
            progress(index + 1, len(blocks), "blocks", "calibrating")

    quantizer.tqdm = counted
