"""Worker of two toolchains: log-probabilities over the whole vocabulary, from vLLM or from transformers.

Both get the same token ids and write an array of shape (windows, context - 1, vocabulary), float32: row i of a window
is what the model says of the token after position i.
"""

import sys
from collections.abc import Callable
from typing import Any

import numpy as np
import torch


def run(request: dict[str, Any], progress: Callable[..., None]) -> dict[str, Any]:
    """Score `windows` under `model` in `engine`; the array goes to the file `arrays`."""
    windows = np.load(request["windows"], allow_pickle=False)
    sys.path[:0] = request["path"]  # a worker's Python does not read PYTHONPATH
    if request["engine"] == "vllm":
        found = of_vllm(request["model"], windows)
    else:
        found = of_transformers(request["model"], windows, request["perturbation"])
    np.save(request["arrays"], found, allow_pickle=False)
    return {"shape": list(found.shape)}


def of_vllm(path: str, windows: Any) -> Any:
    """As served: the engine's own kernels, activations of 16 bits between them."""
    from vllm import LLM, SamplingParams

    context = windows.shape[1]
    engine = LLM(
        model=path,
        dtype="bfloat16",
        max_model_len=context + 1,
        max_num_seqs=1,
        max_logprobs=-1,
        enforce_eager=True,
        enable_prefix_caching=False,
        seed=0,
    )
    asked = SamplingParams(temperature=0.0, max_tokens=1, prompt_logprobs=-1, flat_logprobs=True, detokenize=False)
    rows = []
    for window in windows.tolist():
        (answer,) = engine.generate({"prompt_token_ids": window}, asked, use_tqdm=False)
        flat = answer.prompt_logprobs
        for start, end in list(zip(flat.start_indices, flat.end_indices, strict=True))[1:]:
            # The prompt's own token comes first, then all tokens by rank, itself again.
            row = np.full(engine.model_config.get_vocab_size(), np.nan, dtype=np.float32)
            row[np.array(flat.token_ids[start:end])] = flat.logprobs[start:end]
            assert np.isfinite(row).all(), "a token has no log-probability"
            rows.append(row)
    return np.stack(rows).reshape(len(windows), context - 1, -1)


def of_transformers(path: str, windows: Any, perturbation: float) -> Any:
    """The weights as packed, activations in 32 bits; embeddings are changed by that share of each, at random."""
    import transformers

    model = transformers.AutoModelForCausalLM.from_pretrained(path, dtype=torch.float32, local_files_only=True).eval()
    torch.manual_seed(0)
    with torch.inference_mode():
        embeddings = model.get_input_embeddings().weight
        embeddings.mul_(1 + perturbation * torch.randn_like(embeddings))
        logits = torch.stack([model(torch.tensor([window])).logits[0, :-1] for window in windows.tolist()])
    return torch.log_softmax(logits.double(), dim=-1).float().numpy()
