"""Worker of the llmcompressor toolchain: a quantized Hugging Face checkpoint in the compressed-tensors format.

The request's recipe names modifiers and their arguments as llm-compressor takes them; everything else is the library's
own `oneshot`. Weights come from safetensors, no code of the checkpoint runs, and no hub is asked.
"""

import importlib.util
import json
import re
import sys
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import compressed_tensors
import llmcompressor
import torch
import transformers
from compressed_tensors.utils import match_name
from llmcompressor.modeling.moe.conversion_mappings import patch_moe_mappings
from llmcompressor.modifiers.gptq import GPTQModifier
from llmcompressor.modifiers.quantization import QuantizationModifier
from llmcompressor.modifiers.transform.awq import AWQModifier
from llmcompressor.modifiers.transform.smoothquant import SmoothQuantModifier
from llmcompressor.pipelines.cache import IntermediatesCache
from llmcompressor.pipelines.sequential import pipeline as sequential
from llmcompressor.utils.dev import load_context
from torch.utils.data import DataLoader
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer
from transformers.core_model_loading import WeightRenaming

Progress = Callable[..., None]

#: The versions the patches below were read against.
PATCHED = "0.14.0.1"
PATCHED_TRANSFORMERS = "5.17.0"
MODIFIERS = {
    modifier.__name__: modifier for modifier in (AWQModifier, GPTQModifier, QuantizationModifier, SmoothQuantModifier)
}
#: Modifiers that take the list of modules that stay as they are.
QUANTIZING = ("GPTQModifier", "QuantizationModifier")
#: Model types whose experts are stored as w1, w2, w3, which llm-compressor's own tables leave out.
NUMBERED_EXPERTS = ("lfm2_moe", "minimax", "minimax_m2", "mixtral", "phimoe")
NUMBERED_NAMES = {"w1": "gate_proj", "w2": "down_proj", "w3": "up_proj"}
#: What transformers would make of them instead: one tensor of all experts.
FUSED_EXPERTS = ("gate_up_proj", "down_proj")


class QuantizerError(Exception):
    """A failure with a kind of its own for the reply."""

    def __init__(self, kind: str, message: str) -> None:
        super().__init__(message)
        self.kind = kind


def run(request: dict[str, Any], progress: Progress) -> dict[str, Any]:
    """Quantize the checkpoint in folder `source` into the new folder `out`."""
    torch.set_num_threads(request["threads"])
    transformers.utils.logging.disable_progress_bar()
    recipe, source = request["recipe"], request["source"]
    steps = [modifier(entry, request["ignore"]) for entry in recipe["modifiers"]]
    passes = sum(bool(step.requires_calibration_data) for step in steps)
    warnings = [*leave_memory_unpinned(), *progress_layer_by_layer(progress, passes)]
    widen_products()
    with without_image_aliases(warnings), numbered_experts(source):
        model = load(source, request["devices"], request["offload"])
    refuse_unfitting(linear_modules(model), request["asked_ignore"])
    batches, used = calibration(request["calibration"], source)
    llmcompressor.oneshot(
        model=model,
        tokenizer=AutoTokenizer.from_pretrained(source, local_files_only=True) if batches else None,
        recipe=steps,
        dataset=batches,
        sequential_offload_device=request["activations_on"],
    )
    linear = linear_modules(model)
    quantized = [name for name, module in linear.items() if getattr(module, "quantization_scheme", None) is not None]
    refuse_wrong_layers(quantized, request["ignore"])
    with compressing(progress, len(quantized)):
        model.save_pretrained(request["out"], save_compressed=True)
    skipped = sorted(set(linear) - set(quantized))
    ignore_by_both_names(Path(request["out"]) / "config.json", skipped)
    return {
        "quantized_layers": len(quantized),
        "skipped_layers": skipped,
        "calibration": used,
        "warnings": warnings,
        "peak_gpu_bytes": peak_gpu_bytes(),
        "versions": {
            "llmcompressor": llmcompressor.__version__,
            "compressed-tensors": compressed_tensors.__version__,
            "transformers": transformers.__version__,
            "torch": torch.__version__,
        },
    }


def load(source: str, devices: str, offload: str) -> Any:
    """The model as llm-compressor wants it: experts as separate layers, weights where `devices` says.

    `cpu`: in memory, each layer goes to the GPU while it is worked on; `disk`: what does not fit into memory stays in
    `offload`; `gpus`: spread over all GPUs. Without a GPU all work is done on the CPU.
    """
    placed = {"cpu": None, "disk": "auto_offload", "gpus": "auto"}[devices]
    offloaded = {"device_map": placed, "offload_folder": offload} if placed else {}
    with load_context():
        return AutoModelForCausalLM.from_pretrained(
            source, dtype="auto", use_safetensors=True, trust_remote_code=False, local_files_only=True, **offloaded
        )


def modifier(entry: dict[str, Any], ignore: list[str]) -> Any:
    """One step of the recipe; those that quantize are told what stays as it is."""
    arguments = {name: value for name, value in entry.items() if name != "modifier"}
    if entry["modifier"] in QUANTIZING:
        arguments["ignore"] = ignore
    return MODIFIERS[entry["modifier"]](**arguments)


def calibration(asked: dict[str, Any] | None, source: str) -> tuple[DataLoader | None, dict[str, Any] | None]:
    """Batches of one sequence, and what was used; None without a calibration set."""
    if asked is None:
        return None, None
    tokenizer = AutoTokenizer.from_pretrained(source, local_files_only=True)
    try:
        windows, used = sibling(asked["loader"]).token_windows(tokenizer, asked)
    except ValueError as error:
        raise QuantizerError("usage", f"scheme.calibration: {error}") from None
    return DataLoader([{"input_ids": torch.tensor([ids])} for ids in windows], batch_size=None), used


def sibling(path: str) -> Any:
    """The shared module that turns a calibration file into token ids."""
    spec = importlib.util.spec_from_file_location("quantbench_calibration_tokens", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


def is_linear(module: Any) -> bool:
    """Whether llm-compressor would take a module for a linear layer."""
    return isinstance(module, torch.nn.Linear)


def linear_modules(model: Any) -> dict[str, Any]:
    """The linear layers of a model by their names."""
    return {name: module for name, module in model.named_modules() if is_linear(module)}


def refuse_unfitting(names: Iterable[str], asked: list[str]) -> None:
    """Raise QuantizerError where an entry the user gave fits no module.

    It was held against the names of stored tensors before, and modules of some architectures have other ones.
    """
    known = list(names)
    for entry in asked:
        if not any(match_name(name, entry) for name in known):
            example = next((name for name in reversed(known) if re.search(r"experts?\.", name)), known[-1])
            raise QuantizerError(
                "usage",
                f"scheme.ignore: '{entry}' fits no layer of the loaded model, whose names look like {example}; give a "
                "regex (re:...) that fits the stored name and this one",
            )


def refuse_wrong_layers(quantized: list[str], ignore: list[str]) -> None:
    """Raise QuantizerError where nothing was quantized, or something that should stay as it is."""
    if not quantized:
        raise QuantizerError("error", "no layer was quantized")
    wrong = [name for name in quantized if any(match_name(name, entry) for entry in ignore)]
    if wrong:
        raise QuantizerError("error", f"{len(wrong)} layers were quantized against the ignore list, first {wrong[0]}")


def ignore_by_both_names(file: Path, skipped: list[str]) -> None:
    """Have config.json name what was left as its modules are named too.

    The library writes the names of stored tensors, transformers looks for those of modules: it would wait for the
    scales of Phi-MoE's routers.
    """
    config = json.loads(file.read_text(encoding="utf-8"))
    ignored = config["quantization_config"]["ignore"]
    missing = [name for name in skipped if name not in ignored]
    if missing:
        ignored += missing
        file.write_text(json.dumps(config, indent=2, sort_keys=True) + "\n", encoding="utf-8")


def peak_gpu_bytes() -> int | None:
    """Most memory torch held on all GPUs together; None without one."""
    if not torch.cuda.is_available():
        return None
    return sum(int(torch.cuda.max_memory_allocated(index)) for index in range(torch.cuda.device_count()))


# Patches


def leave_memory_unpinned() -> list[str]:
    """Without a GPU: cached activations are not pinned.

    `AWQModifier._apply_smoothing` pins what it cached for faster copies to a GPU, and `Tensor.pin_memory` raises where
    torch has no accelerator. Returns a warning where the library is of another version than was looked at.
    """
    if torch.accelerator.is_available():
        return []
    if llmcompressor.__version__ != PATCHED:
        return [
            f"llmcompressor {llmcompressor.__version__}: pinning of memory was not switched off (looked at {PATCHED})"
        ]

    def left_as_it_is(_cls: Any, _intermediate: Any) -> None:
        """In the place of pinning."""

    IntermediatesCache._pin_intermediate = classmethod(left_as_it_is)
    return []


def progress_layer_by_layer(progress: Progress, passes: int) -> list[str]:
    """Report every layer that a calibration pass has finished; the library shows bars on a terminal only.

    A recipe goes through the model `passes` times, once for every modifier that calibrates. Returns a warning where the
    library is of another version than was looked at: the work is the same, without progress.
    """
    if llmcompressor.__version__ != PATCHED:
        return [f"llmcompressor {llmcompressor.__version__}: no progress (looked at {PATCHED})"]
    trace, ended = sequential.trace_subgraphs, sequential.LifecycleCallbacks.sequential_epoch_end
    done, total = 0, 0

    def traced(*arguments: Any, **options: Any) -> Any:
        nonlocal total
        subgraphs = trace(*arguments, **options)
        total = passes * len(subgraphs)
        return subgraphs

    def layer_ended(_cls: Any, /, modules: Any, **options: Any) -> Any:
        nonlocal done
        state = ended(modules, **options)
        if done < total:
            done += 1
            progress(done, total, "layers", "calibrating")
        return state

    sequential.trace_subgraphs = traced
    sequential.LifecycleCallbacks.sequential_epoch_end = classmethod(layer_ended)
    return []


def widen_products() -> None:
    """On a processor without instructions for BF16, multiply in FP32 what is to be multiplied in BF16.

    torch has no fast kernel there: linear layers took 7 times as long as with all casts, attention 10 times.
    They add up in 32 bits and round once either way, so that one result in 10,000 differs, by the order of the sum.
    """
    if torch.accelerator.is_available() or torch.ops.mkldnn._is_mkldnn_bf16_supported():
        return
    torch.nn.functional.linear = widened(torch.nn.functional.linear)
    torch.matmul = widened(torch.matmul)


def widest(operand: Any) -> Any:
    """A BF16 tensor in FP32; anything else as it is."""
    return operand.float() if getattr(operand, "dtype", None) is torch.bfloat16 else operand


def widened(product: Callable[..., Any]) -> Callable[..., Any]:
    """A product of tensors whose BF16 operands are cast to FP32, and its result back."""

    def multiply(left: Any, right: Any, *others: Any, **named: Any) -> Any:
        if left.dtype is not torch.bfloat16 or right.dtype is not torch.bfloat16:
            return product(left, right, *others, **named)
        wide = [widest(operand) for operand in (left, right, *others)]
        return product(*wide, **{name: widest(operand) for name, operand in named.items()}).to(torch.bfloat16)

    return multiply


@contextmanager
def without_image_aliases(warnings: list[str]) -> Iterator[None]:
    """Hide transformers' aliases of image processors while a model is loaded.

    To put in experts as separate layers, `monkey_patching.apply_patches` calls `dir` on every module of transformers;
    an alias imports its target for that, and some targets import torchvision, which is not there and not needed.
    Where the library is of another version than was looked at, nothing is hidden and `warnings` says so.
    """
    if transformers.__version__ != PATCHED_TRANSFORMERS:
        said = f"image processors were not hidden while loading (looked at {PATCHED_TRANSFORMERS})"
        warnings.append(f"transformers {transformers.__version__}: {said}")
        yield
        return
    hidden = {name: module for name, module in sys.modules.items() if is_image_alias(name, module)}
    for name in hidden:
        del sys.modules[name]
    try:
        yield
    finally:
        sys.modules.update(hidden)


def is_image_alias(name: str, module: Any) -> bool:
    """Whether a module is one of the `image_processing_NAME_fast` that transformers makes up: they have no file."""
    return bool(re.fullmatch(r"transformers\.models\..+\.image_processing_\w+_fast", name)) and not vars(module).get(
        "__file__"
    )


@contextmanager
def numbered_experts(source: str) -> Iterator[None]:
    """Have experts stored as w1, w2, w3 loaded as separate layers, and saved by these names again.

    By itself llm-compressor takes them apart after loading and saves them by names that nothing loads.
    """
    kind = AutoConfig.from_pretrained(source, local_files_only=True, trust_remote_code=False).model_type
    if kind not in NUMBERED_EXPERTS:
        yield
        return
    renamed = [
        WeightRenaming(rf"\.experts\.(\d+)\.{stored}\.", rf".experts.\1.{module}.")
        for stored, module in NUMBERED_NAMES.items()
    ]
    fused = [f"{prefix}.experts.{name}" for prefix in ("", "feed_forward") for name in FUSED_EXPERTS]
    with patch_moe_mappings(kind, renamed, remove_targets=fused):
        yield


@contextmanager
def compressing(progress: Progress, layers: int) -> Iterator[None]:
    """Report every layer that is packed while the model is saved."""
    from compressed_tensors.compressors.model_compressors import model_compressor

    compress, done = model_compressor.compress_module, 0

    def compressed(*arguments: Any, **options: Any) -> Any:
        nonlocal done
        result = compress(*arguments, **options)
        done += 1
        progress(done, layers, "layers", "packing")
        return result

    model_compressor.compress_module = compressed
    try:
        yield
    finally:
        model_compressor.compress_module = compress
