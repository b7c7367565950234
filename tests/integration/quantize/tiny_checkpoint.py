"""Worker of a toolchain with transformers: a tiny model with random weights, and what transformers says of it.

Weights are drawn wide, so that predictions are sharp and depend on attention: a near-uniform model would agree with
anything.
"""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import sentencepiece
import torch
import transformers
from transformers import LlamaConfig, LlamaForCausalLM

VOCABULARY = 1000


def run(request: dict[str, Any], progress: Callable[..., None]) -> dict[str, Any]:
    """Make a checkpoint, or score token ids under one."""
    return {"make": make, "score": score}[request["task"]](request)


def make(request: dict[str, Any]) -> dict[str, Any]:
    """Write the folder: 2 layers of 256, grouped-query attention, a SentencePiece vocabulary learnt from `text`.

    With `steps` the weights learn that many batches of the text instead of staying random. `experts` names the class of
    a mixture of experts (`Mixtral`) to be made instead of a Llama, with `settings` of its own configuration.
    """
    folder = Path(request["folder"])
    folder.mkdir(parents=True)
    sentencepiece.SentencePieceTrainer.train(
        input=request["text"],
        model_prefix=str(folder / "tokenizer"),
        vocab_size=VOCABULARY,
        model_type="bpe",
        byte_fallback=True,
        normalization_rule_name="identity",  # as Llama's own: newlines and double spaces stay
        remove_extra_whitespaces=False,
        num_threads=1,
        minloglevel=2,
    )
    (folder / "tokenizer.vocab").unlink()
    (folder / "tokenizer_config.json").write_text(json.dumps({"tokenizer_class": "LlamaTokenizer"}))
    torch.manual_seed(7)
    kind = request.get("experts", "Llama")
    settings = {
        "vocab_size": VOCABULARY,
        "hidden_size": 256,
        "intermediate_size": 512,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "max_position_embeddings": 512,
        "rope_theta": 50_000.0,
        "initializer_range": 0.1,
        "tie_word_embeddings": False,
        "bos_token_id": 1,
        "eos_token_id": 2,
    }
    config = getattr(transformers, f"{kind}Config")(**settings | request.get("settings", {}))
    model = getattr(transformers, f"{kind}ForCausalLM")(config)
    processor = sentencepiece.SentencePieceProcessor(model_file=str(folder / "tokenizer.model"))
    whole = Path(request["text"]).read_text(encoding="utf-8")
    train(model, torch.tensor(processor.encode(whole)), request.get("steps", 0))
    model.to(getattr(torch, request["dtype"])).save_pretrained(folder, safe_serialization=True)
    text = whole[:2000]
    return {"text": text, "ids": processor.encode(text)}


def train(model: Any, ids: torch.Tensor, steps: int) -> None:
    """Some steps of AdamW over windows of 128 tokens, 8 at a time."""
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3)
    for _ in range(steps):
        starts = torch.randint(0, len(ids) - 128, (8,)).tolist()
        batch = torch.stack([ids[start : start + 128] for start in starts])
        loss = model(batch, labels=batch).loss
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()


def score(request: dict[str, Any]) -> dict[str, Any]:
    """Negative log-likelihood in nat of every token after the first; weights as stored, arithmetic in float32.

    `rope_theta` replaces the checkpoint's own when it is given.
    """
    config = LlamaConfig.from_pretrained(request["folder"])
    config.rope_theta = request.get("rope_theta") or config.rope_theta
    model = LlamaForCausalLM.from_pretrained(request["folder"], config=config, dtype=torch.float32)
    ids = torch.tensor([request["ids"]])
    with torch.inference_mode():
        logits = model(ids).logits[0].to(torch.float64)
    chosen = torch.log_softmax(logits[:-1], dim=-1).gather(1, ids[0, 1:, None])
    return {"nll": np.asarray(-chosen[:, 0]).tolist()}
