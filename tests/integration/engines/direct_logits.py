"""Worker of the llmcompressor toolchain: plain logits, and a tiny model whose attention has a window."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from transformers import AutoModelForCausalLM, MistralConfig, MistralForCausalLM


def run(request: dict[str, Any], progress: Callable[..., None]) -> dict[str, Any]:
    """Logits of `windows` (lists of ids) under each of `folders` into `arrays`; or make the model in `make`."""
    if request.get("make"):
        return make(request["make"], request["window"])
    found = {}
    for name, folder in request["folders"].items():
        model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
        with torch.inference_mode():
            rows = [model(torch.tensor([ids])).logits[0].to(torch.float64).numpy() for ids in request["windows"]]
        found[name] = np.stack(rows)
    np.savez(request["arrays"], allow_pickle=False, **found)
    return {}


def make(folder: str, window: int) -> dict[str, Any]:
    """Random weights, drawn wide."""
    torch.manual_seed(3)
    config = MistralConfig(
        vocab_size=1000,
        hidden_size=64,
        intermediate_size=128,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=512,
        sliding_window=window,
        initializer_range=0.2,
        bos_token_id=1,
        eos_token_id=2,
    )
    MistralForCausalLM(config).save_pretrained(folder)
    return {}
