"""What `bench_quantizers.py` compares with: a quantizer as its own documentation calls it, and nothing around it.

Runs in the toolchain llmcompressor: `python bare_quantizers.py SCHEME CHECKPOINT OUT TEXT THREADS`.
"""

import json
import sys
import time
from pathlib import Path
from typing import Any

SAMPLES = {"gptq_w4a16": (16, 512), "awq_w4a16": (8, 256)}


def windows(tokenizer: Any, text: str, samples: int, length: int) -> list[list[int]]:
    """Pieces of one text, spread evenly."""
    ids = tokenizer(Path(text).read_text(encoding="utf-8"))["input_ids"]
    last = len(ids) - length
    return [ids[start : start + length] for start in (round(n * last / (samples - 1)) for n in range(samples))]


def recipe(scheme: str) -> list[Any]:
    """The modifiers."""
    from llmcompressor.modifiers.gptq import GPTQModifier
    from llmcompressor.modifiers.quantization import QuantizationModifier
    from llmcompressor.modifiers.transform.awq import AWQModifier

    ignore = ["lm_head"]
    weights = {"num_bits": 4, "type": "int", "strategy": "group", "group_size": 64, "dynamic": False}
    if scheme == "gptq_w4a16":
        groups = {"group_0": {"targets": ["Linear"], "weights": {**weights, "symmetric": True}}}
        return [GPTQModifier(config_groups=groups, actorder="static", dampening_frac=0.01, ignore=ignore)]
    if scheme == "awq_w4a16":
        groups = {"group_0": {"targets": ["Linear"], "weights": {**weights, "symmetric": False}}}
        return [AWQModifier(duo_scaling=True), QuantizationModifier(config_groups=groups, ignore=ignore)]
    preset = {"fp8_dynamic": "FP8_DYNAMIC", "int8_rtn": "W8A8"}[scheme]
    return [QuantizationModifier(scheme=preset, targets=["Linear"], ignore=ignore)]


def main() -> None:
    """Quantize; prints what it took as JSON."""
    scheme, source, out, text, threads = sys.argv[1:]
    import llmcompressor
    import torch
    from llmcompressor.pipelines.cache import IntermediatesCache
    from torch.utils.data import DataLoader
    from transformers import AutoModelForCausalLM, AutoTokenizer

    torch.set_num_threads(int(threads))
    if not torch.accelerator.is_available():
        IntermediatesCache._pin_intermediate = classmethod(lambda _cls, _intermediate: None)
    model = AutoModelForCausalLM.from_pretrained(source, dtype="auto", local_files_only=True)
    tokenizer = AutoTokenizer.from_pretrained(source, local_files_only=True)
    batches = None
    if scheme in SAMPLES:
        pieces = windows(tokenizer, text, *SAMPLES[scheme])
        batches = DataLoader([{"input_ids": torch.tensor([ids])} for ids in pieces], batch_size=None)
    llmcompressor.oneshot(model=model, tokenizer=tokenizer, recipe=recipe(scheme), dataset=batches)
    model.save_pretrained(out, save_compressed=True)
    tokenizer.save_pretrained(out)
    print(json.dumps({"cpu_s": time.process_time()}))


if __name__ == "__main__":
    main()
