"""Worker of a toolchain with transformers: token ids of a text, per-token scores of windows under one or two
checkpoints, and the log-probabilities of single tokens after prompts.

The protocol is that of the llama.cpp scorer: every window stands alone, the logits at positions first … n-2 are scored
against the tokens after them, softmax and divergence are computed in float64 over the whole vocabulary. No code of a
checkpoint runs, weights come from safetensors only, and a checkpoint that did not load whole is not scored.
"""

import importlib.util
import json
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
import transformers
from numpy.typing import NDArray

if TYPE_CHECKING:
    from bench.engines.workers.hf_tokens import (
        ScorerError,
        bos_of,
        load_tokenizer,
        remaining,
        single_tokens,
        tokenize,
        tokenized_choices,
        tokenized_group,
    )
    from bench.engines.workers.score_rows import ROWS, Ids, Kept, likelihood, log_probabilities, score_rows
else:

    def beside(name: str) -> Any:
        """A module of this folder, which is on no path."""
        spec = importlib.util.spec_from_file_location(name, Path(__file__).with_name(f"{name}.py"))
        module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
        return module

    shared, tokens = beside("score_rows"), beside("hf_tokens")
    ROWS, Ids, Kept, likelihood = shared.ROWS, shared.Ids, shared.Kept, shared.likelihood
    log_probabilities, score_rows = shared.log_probabilities, shared.score_rows
    ScorerError, bos_of, load_tokenizer = tokens.ScorerError, tokens.bos_of, tokens.load_tokenizer
    single_tokens, tokenize, tokenized_group = tokens.single_tokens, tokens.tokenize, tokens.tokenized_group
    remaining, tokenized_choices = tokens.remaining, tokens.tokenized_choices

#: Methods whose kernel GPTQModel would choose, and compile for minutes → its plain one, in torch.
KERNELS = {"gptq": "gptq_torch", "awq": "torch_awq"}
#: Ways to quantize while loading → what the library's own server gives bitsandbytes for them.
LOAD_METHODS: dict[str, dict[str, Any]] = {
    "bitsandbytes_nf4": {"load_in_4bit": True, "bnb_4bit_quant_type": "nf4", "bnb_4bit_use_double_quant": True},
    "bitsandbytes_int8": {"load_in_8bit": True},
}
#: Keys of a checkpoint and of the model that found no partner.
UNLOADED = ("missing_keys", "unexpected_keys", "mismatched_keys", "error_msgs")


def run(request: dict[str, Any], progress: Callable[..., None]) -> dict[str, Any]:
    """Answer one request; arrays go to the file it names."""
    transformers.utils.logging.disable_progress_bar()
    if request["task"] == "tokenize":
        return tokenize(request)
    torch.set_num_threads(request["threads"])
    with torch.inference_mode():
        tasks = {"score": score, "continuations": continuations, "likelihoods": likelihoods}
        return tasks[request["task"]](request, progress)


# Models


def widen(model: Any) -> None:
    """Have a compressed-tensors checkpoint compute in 32 bits throughout.

    transformers keeps the stored type of what it renames, such as Mixtral's routers, and unpacks experts to bfloat16; a
    32-bit activation cannot be multiplied with those.
    """
    if getattr(model, "quantization_method", None) == "compressed-tensors":
        for parameter in model.parameters():
            if parameter.dtype in (torch.bfloat16, torch.float16):
                parameter.data = parameter.data.to(torch.float32)


class Model:
    """A loaded checkpoint. `dtype`: `float32`, or `as_stored`; `load_method`: how it is quantized now, or empty."""

    def __init__(self, path: str, dtype: str, load_method: str) -> None:
        self.path = path
        self.device = "cuda" if torch.cuda.is_available() else "cpu"
        wanted: Any = torch.float32 if dtype == "float32" else "auto"
        name = "dtype" if int(transformers.__version__.split(".")[0]) >= 5 else "torch_dtype"
        try:
            self.model, info = transformers.AutoModelForCausalLM.from_pretrained(
                path,
                local_files_only=True,
                trust_remote_code=False,
                use_safetensors=True,
                output_loading_info=True,
                **{name: wanted},
                **(quantized_now(load_method) if load_method else plain_kernel(path)),
            )
        except Exception as error:  # whatever keeps a checkpoint from loading is the checkpoint's failure
            raise ScorerError("load_failed", f"transformers cannot load it: {type(error).__name__}: {error}") from error
        for problem in UNLOADED:
            if info.get(problem):
                first = sorted(map(str, info[problem]))[:3]
                raise ScorerError("load_failed", f"it does not load whole: {problem} {first}")
        if wanted is torch.float32:
            widen(self.model)
        self.model.eval()
        if not getattr(self.model, "quantization_method", None):
            self.model.to(self.device)
        self.vocabulary = int(self.model.config.get_text_config().vocab_size)
        self.trained = getattr(self.model.config.get_text_config(), "max_position_embeddings", None)

    def logits(self, ids: Ids, first: int) -> NDArray[np.float32]:
        """Logits at positions `first` … n-2 of one sequence, shape (n-1-first, vocabulary)."""
        wanted = len(ids) - first
        return self._array(self.model(self._tensor(ids), use_cache=False, logits_to_keep=wanted).logits[0, :-1])

    def after(self, ids: Ids, past: Any, *, remember: bool, rows: int = 1) -> tuple[NDArray[np.float32], Any]:
        """Logits after each of the last `rows` of `ids`, shape (rows, vocabulary), which follow what is remembered in
        `past`; and, with `remember`, what is remembered then."""
        found = self.model(self._tensor(ids), past_key_values=past, use_cache=remember, logits_to_keep=rows)
        last = self._array(found.logits[0, -rows:])
        return last, getattr(found, "past_key_values", None) if remember else None

    def _tensor(self, ids: Ids) -> Any:
        return torch.from_numpy(ids.astype(np.int64))[None].to(self.model.device)

    def _array(self, logits: Any) -> NDArray[np.float32]:
        # Some models pad their output to a rounder size than their vocabulary.
        array: NDArray[np.float32] = logits[..., : self.vocabulary].to(torch.float32).cpu().numpy()
        return array


def quantized_now(load_method: str) -> dict[str, Any]:
    """Arguments for quantizing while loading."""
    return {"quantization_config": transformers.BitsAndBytesConfig(**LOAD_METHODS[load_method])}


def plain_kernel(path: str) -> dict[str, Any]:
    """Arguments for loading a checkpoint in GPTQ's or AWQ's own format: of its settings only the kernel is replaced."""
    packed = json.loads((Path(path) / "config.json").read_text(encoding="utf-8")).get("quantization_config") or {}
    kernel = KERNELS.get(str(packed.get("quant_method")))
    if kernel is None:
        return {}
    torch.compiler.set_stance("force_eager")  # the plain one would be compiled too
    made = transformers.AwqConfig if packed["quant_method"] == "awq" else transformers.GPTQConfig
    return {"quantization_config": made(bits=packed.get("bits", 4), backend=kernel)}


def score(request: dict[str, Any], progress: Callable[..., None]) -> dict[str, Any]:
    """Score every window under the variant and, when given, against the baseline."""
    windows = np.load(request["windows"], allow_pickle=False)
    first, context = request["first"], windows.shape[1]
    asked = [(request[side], request[f"{side}_load_method"]) for side in ("variant", "baseline")]
    models = [Model(path, request["dtype"], method) for path, method in asked if path is not None]
    for model in models:
        check_vocabulary(model, models[0], windows)
    kept = Kept(request["kept"])
    for index, window in enumerate(windows[kept.done :], start=kept.done):
        columns = {"nll": np.full(context - 1 - first, np.nan)}
        if len(models) > 1:
            columns |= {name: np.full(context - 1 - first, np.nan) for name in ("base_nll", "divergence")}
            columns["top1_match"] = np.zeros(context - 1 - first, dtype=bool)
        score_window(models, window, first, columns)
        kept.add(**columns)
        progress(index + 1, len(windows), "windows")
    scores = kept.columns()
    np.savez(request["arrays"], allow_pickle=False, **scores)
    non_finite = int(np.isnan(scores["nll"]).sum())
    return {"non_finite": non_finite, "transformers": transformers.__version__, "device": models[0].device}


def check_vocabulary(model: Model, variant: Model, windows: Ids) -> None:
    """Both models must know every token by the same number."""
    if model.vocabulary != variant.vocabulary:
        message = f"vocabularies differ: {variant.vocabulary} tokens in the variant, {model.vocabulary} in the baseline"
        raise ScorerError("vocabulary_mismatch", message)
    if windows.min() < 0 or windows.max() >= model.vocabulary:
        raise ScorerError("vocabulary_mismatch", "the windows hold token ids that the model does not have")


def score_window(models: Sequence[Model], window: Ids, first: int, columns: dict[str, NDArray[Any]]) -> None:
    """Fill one window's row of every column; NaN where logits are not finite."""
    logits = [model.logits(window, first) for model in models]
    targets = window[first + 1 :]
    for start in range(0, len(targets), ROWS):
        block = [rows[start : start + ROWS].astype(np.float64) for rows in logits]
        scores, _ = score_rows(targets[start : start + ROWS], *block)
        for name, values in scores.items():
            columns[name][start : start + len(values)] = values


def continuations(request: dict[str, Any], progress: Callable[..., None]) -> dict[str, Any]:
    """Log-probabilities of single tokens after every prompt of every group."""
    groups = json.loads(Path(request["prompts"]).read_text(encoding="utf-8"))
    texts: list[str] = request["continuations"]
    tokenizer = load_tokenizer(request["model"])
    bos = bos_of(tokenizer)
    tokenized = [tokenized_group(tokenizer, bos, group["prefix"], group["endings"]) for group in groups]
    found = {single_tokens(tokenizer, bos, group["prefix"] + group["endings"][0], texts) for group in groups}
    if len(found) != 1:
        raise ScorerError("not_one_token", f"{texts} are not the same tokens after every prompt")
    (wanted,) = found
    model = Model(request["model"], request["dtype"], request["load_method"])
    longest = max(len(prompt) for prompts, _ in tokenized for prompt in prompts)
    check_length(model, longest)
    total = sum(len(prompts) for prompts, _ in tokenized)
    kept = Kept(request["kept"])
    asked = 0
    for prompts, shared_length in tokenized:
        left, asked = prompts[max(0, kept.done - asked) :], asked + len(prompts)
        for last_logits, computed in after_prompts(model, left, shared_length):
            kept.add(logprobs=log_probabilities(last_logits.astype(np.float64), wanted), decoded=computed)
            progress(len(kept), total, "questions")
    columns = kept.columns()
    logprobs = columns["logprobs"].reshape(total, len(wanted))
    np.savez(request["arrays"], allow_pickle=False, logprobs=logprobs)
    return {
        "token_ids": list(wanted),
        "non_finite": int(np.isnan(logprobs).any(axis=1).sum()),
        "prompt_tokens": sum(len(prompt) for prompts, _ in tokenized for prompt in prompts),
        "decoded_tokens": int(columns["decoded"].sum()),
    }


def check_length(model: Model, longest: int) -> None:
    """A prompt beyond the trained context would be scored by a model that never saw such positions."""
    if model.trained is not None and longest > model.trained:
        message = f"a prompt has {longest} tokens, the model was trained for {model.trained}"
        raise ScorerError("prompt_too_long", message)


def likelihoods(request: dict[str, Any], progress: Callable[..., None]) -> dict[str, Any]:
    """Log-likelihoods of whole continuations, each prompt's own, in the order of the prompts.

    A prompt is computed once a continuation, with what its group shares kept.
    """
    groups = json.loads(Path(request["prompts"]).read_text(encoding="utf-8"))
    tokenizer = load_tokenizer(request["model"])
    tokenized = [tokenized_choices(tokenizer, bos_of(tokenizer), group) for group in groups]
    model = Model(request["model"], request["dtype"], request["load_method"])
    check_length(model, max(len(prompt) + len(ids) for found, _ in tokenized for prompt, own in found for ids in own))
    total = sum(len(own) for found, _ in tokenized for _, own in found)
    kept = Kept(request["kept"])
    asked = 0
    for found, shared_length in tokenized:
        left = remaining(found, kept.done - asked)
        asked += sum(len(own) for _, own in found)
        pairs = [(prompt, ids) for prompt, own in left for ids in own]
        sequences = [np.concatenate([prompt, ids[:-1]]) for prompt, ids in pairs]
        scored = after_prompts(model, sequences, shared_length, [len(ids) for _, ids in pairs])
        for (_, ids), (rows, computed) in zip(pairs, scored, strict=True):
            logprob, greedy = likelihood(rows.astype(np.float64), ids)
            kept.add(logprobs=logprob, greedy=greedy, tokens=len(ids), decoded=computed)
            progress(len(kept), total, "choices")
    columns = kept.columns()
    np.savez(
        request["arrays"], allow_pickle=False, **{name: columns[name] for name in ("logprobs", "greedy", "tokens")}
    )
    return {
        "non_finite": int(np.isnan(columns["logprobs"]).sum()),
        "prompt_tokens": sum(len(prompt) for found, _ in tokenized for prompt, _ in found),
        "decoded_tokens": int(columns["decoded"].sum()),
    }


def after_prompts(
    model: Model, prompts: Sequence[Ids], shared_length: int, rows: Sequence[int] = ()
) -> Iterator[tuple[NDArray[np.float32], int]]:
    """For each prompt the logits after its last token, or those after its last `rows`, and the tokens computed for it.

    The first is computed whole, and what all share is kept of it. A model that cannot forget the rest, such as one
    whose attention has a window or one with a recurrent state, computes every prompt whole.
    """
    past, kept = None, 0
    remember = shared_length > 0 and len(prompts) > 1
    for index, prompt in enumerate(prompts):
        logits, past = model.after(prompt[kept:], past, remember=remember, rows=rows[index] if rows else 1)
        yield logits if rows else logits[0], len(prompt) - kept
        remember = remember and forget_last(past, len(prompt) - shared_length)
        past, kept = (past, shared_length) if remember else (None, 0)


def forget_last(past: Any, tokens: int) -> bool:
    """Remove the last `tokens` from what a model remembers; False where that is not possible."""
    try:
        past.crop(-tokens)
    except (AttributeError, NotImplementedError, RuntimeError, ValueError):
        return False
    return True
