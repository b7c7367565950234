"""Worker of the llmcompressor toolchain: the small Llama below tests/data/corrupt_awq, trained on a text.

Small, so that it can be kept beside the tests; trained, so that noise in the place of its weights shows.
"""

import io
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import sentencepiece
import torch
from transformers import LlamaConfig, LlamaForCausalLM

VOCABULARY, WINDOW, BATCH = 600, 128, 8


def run(request: dict[str, Any], progress: Callable[..., None]) -> dict[str, Any]:
    """Make the folder: 2 layers of 128, grouped-query attention, tied embeddings, a vocabulary learnt from `text`."""
    torch.manual_seed(7)
    torch.set_num_threads(1)  # of so small a model two threads only wait for each other
    folder = Path(request["folder"])
    folder.mkdir(parents=True)
    learnt = io.BytesIO()  # files would be named in the vocabulary
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(Path(request["text"]).read_text(encoding="utf-8").splitlines()),
        model_writer=learnt,
        vocab_size=VOCABULARY,
        model_type="bpe",
        byte_fallback=True,
        normalization_rule_name="identity",
        remove_extra_whitespaces=False,
        num_threads=1,
        minloglevel=2,
    )
    (folder / "tokenizer.model").write_bytes(learnt.getvalue())
    (folder / "tokenizer_config.json").write_text(json.dumps({"tokenizer_class": "LlamaTokenizer"}) + "\n")
    model = LlamaForCausalLM(
        LlamaConfig(
            vocab_size=VOCABULARY,
            hidden_size=128,
            intermediate_size=192,
            num_hidden_layers=2,
            num_attention_heads=4,
            num_key_value_heads=2,
            max_position_embeddings=512,
            rope_theta=50_000.0,
            initializer_range=0.1,
            tie_word_embeddings=True,
            bos_token_id=1,
            eos_token_id=2,
        )
    )
    processor = sentencepiece.SentencePieceProcessor(model_file=str(folder / "tokenizer.model"))
    ids = torch.tensor(processor.encode(Path(request["text"]).read_text(encoding="utf-8")))
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3)
    loss = torch.tensor(float("nan"))
    for step in range(request["steps"]):
        starts = torch.randint(0, len(ids) - WINDOW, (BATCH,)).tolist()
        batch = torch.stack([ids[start : start + WINDOW] for start in starts])
        loss = model(batch, labels=batch).loss
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        progress(step + 1, request["steps"], "steps")
    with torch.no_grad():
        spread(model, request["spread"])
    model.to(torch.bfloat16).save_pretrained(folder, safe_serialization=True)
    return {"loss": float(loss), "tokens": len(ids)}


def spread(model: LlamaForCausalLM, amount: float) -> None:
    """Make some channels large and others small without changing what the model computes, as in models of real size.

    A norm's weight is multiplied by what the matrices after it are divided by, and so with up_proj and down_proj;
    the factors are log-normal with the standard deviation `amount`. Trained this little a model has channels alike, and
    what AutoAWQ breaks are scales that are then all about 1.
    """
    for block in model.model.layers:
        attention, mlp = block.self_attn, block.mlp
        for norm, after in (
            (block.input_layernorm, (attention.q_proj, attention.k_proj, attention.v_proj)),
            (block.post_attention_layernorm, (mlp.gate_proj, mlp.up_proj)),
        ):
            factors = torch.exp(amount * torch.randn(norm.weight.shape))
            norm.weight.mul_(factors)
            for linear in after:
                linear.weight.div_(factors)
        factors = torch.exp(amount * torch.randn(mlp.up_proj.weight.shape[0]))
        mlp.up_proj.weight.mul_(factors[:, None])
        mlp.down_proj.weight.div_(factors)
