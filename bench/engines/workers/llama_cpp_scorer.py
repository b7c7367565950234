"""Worker of the llama_cpp toolchain: token ids of a text, per-token scores of windows under one or two models, and
the log-probabilities of single tokens after prompts.

Standard library, numpy and llama_cpp's low-level bindings only. Windows follow llama-perplexity's protocol
(`tools/perplexity/perplexity.cpp` of the same source): a fresh context for every window, the logits at positions
first … n-2 scored against the tokens after them. Softmax and divergence are computed in float64 over the whole
vocabulary, a few rows at a time, straight from llama.cpp's buffer: nothing larger than one batch is ever held.
"""

import ctypes
import importlib.util
import json
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import llama_cpp
import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    from bench.engines.workers.score_rows import (
        ROWS,
        Floats,
        Ids,
        Kept,
        common_length,
        likelihood,
        log_probabilities,
        score_rows,
    )
else:
    spec = importlib.util.spec_from_file_location("score_rows", Path(__file__).with_name("score_rows.py"))
    shared = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(shared)
    ROWS, Floats, Ids, Kept, likelihood = shared.ROWS, shared.Floats, shared.Ids, shared.Kept, shared.likelihood
    common_length, log_probabilities, score_rows = shared.common_length, shared.log_probabilities, shared.score_rows

#: Tokens decoded at once, which bounds the logits in memory; llama.cpp's own default for the physical batch.
BATCH = 512


class ScorerError(Exception):
    """A failure with a kind of its own for the reply."""

    def __init__(self, kind: str, message: str) -> None:
        super().__init__(message)
        self.kind = kind


def run(request: dict[str, Any], progress: Callable[..., None]) -> dict[str, Any]:
    """Answer one request; arrays go to the file it names."""
    llama_cpp.llama_backend_init()
    if request["task"] == "tokenize":
        return tokenize(request)
    return {"score": score, "continuations": continuations, "likelihoods": likelihoods}[request["task"]](
        request, progress
    )


def load_model(path: str, gpu_layers: int = 0, vocab_only: bool = False) -> Any:
    """Load a GGUF; raises ScorerError of kind `load_failed`."""
    params = llama_cpp.llama_model_default_params()
    params.n_gpu_layers = gpu_layers
    params.vocab_only = vocab_only
    model = llama_cpp.llama_model_load_from_file(path.encode(), params)
    if not model:
        raise ScorerError("load_failed", f"llama.cpp cannot load {path}")
    return model


def tokenize(request: dict[str, Any]) -> dict[str, Any]:
    """Ids as llama-perplexity makes them: one final newline dropped, special tokens of the text not parsed."""
    text = Path(request["text"]).read_bytes().removesuffix(b"\n")
    model = load_model(request["model"], vocab_only=True)
    vocab = llama_cpp.llama_model_get_vocab(model)
    capacity = len(text) + 8
    buffer = (llama_cpp.llama_token * capacity)()
    count = llama_cpp.llama_tokenize(vocab, text, len(text), buffer, capacity, True, False)
    if count < 0:
        raise ScorerError("tokenize_failed", f"the text gives {-count} tokens, more than it has bytes")
    ids = np.array(buffer[:count], dtype=np.int32)
    known, inverse = np.unique(ids, return_inverse=True)
    lengths = np.array([piece_bytes(vocab, int(token)) for token in known], dtype=np.int32)
    np.savez(request["arrays"], ids=ids, byte_lengths=lengths[inverse])
    adds_bos = llama_cpp.llama_vocab_get_add_bos(vocab)
    bos = llama_cpp.llama_vocab_bos(vocab)
    result = {
        "tokens": count,
        "vocabulary": llama_cpp.llama_vocab_n_tokens(vocab),
        "bos_id": bos if adds_bos else None,
        "known_bos_id": bos if bos >= 0 else None,
    }
    llama_cpp.llama_model_free(model)
    return result


def piece_bytes(vocab: Any, token: int) -> int:
    """Bytes of text a token stands for; special tokens stand for none."""
    buffer = ctypes.create_string_buffer(256)
    length: int = llama_cpp.llama_token_to_piece(vocab, token, buffer, len(buffer), 0, False)
    return abs(length)


class Model:
    """A loaded model with a context of one window or prompt."""

    def __init__(self, path: str, context: int, threads: int, gpu_layers: int) -> None:
        self.path = path
        self.model = load_model(path, gpu_layers)
        self.vocabulary: int = llama_cpp.llama_vocab_n_tokens(llama_cpp.llama_model_get_vocab(self.model))
        self.batch_size = min(BATCH, context)
        params = llama_cpp.llama_context_default_params()
        params.n_ctx = context
        params.n_batch = params.n_ubatch = self.batch_size
        params.n_threads = params.n_threads_batch = threads
        self.context = llama_cpp.llama_init_from_model(self.model, params)
        if not self.context:
            raise ScorerError("load_failed", f"llama.cpp cannot make a context of {context} tokens for {path}")
        self.batch = llama_cpp.llama_batch_init(params.n_batch, 0, 1)

    def clear(self) -> None:
        """Forget the window before."""
        llama_cpp.llama_memory_clear(llama_cpp.llama_get_memory(self.context), True)

    def forget_from(self, position: int) -> bool:
        """Keep only what was decoded before `position`; False for models whose memory cannot be cut."""
        cut: bool = llama_cpp.llama_memory_seq_rm(llama_cpp.llama_get_memory(self.context), 0, position, -1)
        return cut

    def decode(self, tokens: Ids, position: int, wanted: Sequence[bool]) -> NDArray[np.float32]:
        """Decode `tokens` from `position` on; returns a view of the logits of those `wanted`, valid until the next."""
        batch = self.batch
        batch.n_tokens = len(tokens)
        for index, token in enumerate(tokens):
            batch.token[index] = int(token)
            batch.pos[index] = position + index
            batch.n_seq_id[index] = 1
            batch.seq_id[index][0] = 0
            batch.logits[index] = int(wanted[index])
        code = llama_cpp.llama_decode(self.context, batch)
        if code != 0:
            raise ScorerError("decode_failed", f"llama_decode of {self.path} gave {code}")
        rows = int(sum(wanted))
        if rows == 0:
            return np.empty((0, self.vocabulary), dtype=np.float32)
        return np.ctypeslib.as_array(llama_cpp.llama_get_logits(self.context), shape=(rows, self.vocabulary))


def score(request: dict[str, Any], progress: Callable[..., None]) -> dict[str, Any]:
    """Score every window under the variant and, when given, against the baseline."""
    windows = np.load(request["windows"], allow_pickle=False)
    first, context = request["first"], windows.shape[1]
    make = (context, request["threads"], request["gpu_layers"])
    variant = Model(request["variant"], *make)
    baseline = None if request["baseline"] is None else Model(request["baseline"], *make)
    models = [variant] if baseline is None else [variant, baseline]
    for model in models:
        check_vocabulary(model, variant, windows)
    kept = Kept(request["kept"])
    for index, window in enumerate(windows[kept.done :], start=kept.done):
        columns = {"nll": np.full(context - 1 - first, np.nan)}
        if baseline is not None:
            columns |= {name: np.full(context - 1 - first, np.nan) for name in ("base_nll", "divergence")}
            columns["top1_match"] = np.zeros(context - 1 - first, dtype=bool)
        score_window(models, window, first, columns)
        kept.add(**columns)
        progress(index + 1, len(windows), "windows")
    scores = kept.columns()
    np.savez(request["arrays"], allow_pickle=False, **scores)
    non_finite = int(np.isnan(scores["nll"]).sum())
    return {"non_finite": non_finite, "llama_cpp_python": llama_cpp.__version__, "system": system_info()}


def check_vocabulary(model: Model, variant: Model, windows: Ids) -> None:
    """Both models must know every token by the same number."""
    if model.vocabulary != variant.vocabulary:
        message = (
            f"vocabularies differ: {variant.vocabulary} tokens in {variant.path}, {model.vocabulary} in {model.path}"
        )
        raise ScorerError("vocabulary_mismatch", message)
    if windows.min() < 0 or windows.max() >= model.vocabulary:
        raise ScorerError("vocabulary_mismatch", f"the windows hold token ids that {model.path} does not have")


def score_window(models: Sequence[Model], window: Ids, first: int, columns: dict[str, NDArray[Any]]) -> None:
    """Fill one window's row of every column; NaN where logits are not finite."""
    for model in models:
        model.clear()
    last = len(window) - 2
    for start in range(0, len(window), BATCH):
        tokens = window[start : start + BATCH]
        wanted = [first <= start + index <= last for index in range(len(tokens))]
        logits = [model.decode(tokens, start, wanted) for model in models]
        done = max(start, first)
        for row in range(0, len(logits[0]), ROWS):
            block = [rows[row : row + ROWS].astype(np.float64) for rows in logits]
            begin = done + row
            targets = window[begin + 1 : begin + 1 + len(block[0])]
            scores, _ = score_rows(targets, *block)
            for name, values in scores.items():
                columns[name][begin - first : begin - first + len(values)] = values


def continuations(request: dict[str, Any], progress: Callable[..., None]) -> dict[str, Any]:
    """Log-probabilities of single tokens after every prompt of every group."""
    groups = json.loads(Path(request["prompts"]).read_text(encoding="utf-8"))
    texts: list[str] = request["continuations"]
    vocab_model = load_model(request["model"], vocab_only=True)
    vocab = llama_cpp.llama_model_get_vocab(vocab_model)
    tokenized = [tokenized_group(vocab, group["prefix"], group["endings"]) for group in groups]
    found = {single_tokens(vocab, group["prefix"] + group["endings"][0], texts) for group in groups}
    llama_cpp.llama_model_free(vocab_model)
    if len(found) != 1:
        raise ScorerError("not_one_token", f"{texts} are not the same tokens after every prompt")
    (wanted,) = found
    longest = max(len(prompt) for prompts, _ in tokenized for prompt in prompts)
    model = Model(request["model"], longest, request["threads"], request["gpu_layers"])
    check_length(model, longest)
    total = sum(len(prompts) for prompts, _ in tokenized)
    kept = Kept(request["kept"])
    asked = 0
    for prompts, shared in tokenized:
        left, asked = prompts[max(0, kept.done - asked) :], asked + len(prompts)
        for done, (last_logits, computed) in enumerate(after_prompts(model, left, shared), start=asked - len(left) + 1):
            kept.add(logprobs=log_probabilities(last_logits, wanted), decoded=computed)
            progress(done, total, "questions")
    columns = kept.columns()
    logprobs = columns["logprobs"].reshape(total, len(wanted))
    np.savez(request["arrays"], allow_pickle=False, logprobs=logprobs)
    return {
        "token_ids": list(wanted),
        "non_finite": int(np.isnan(logprobs).any(axis=1).sum()),
        "prompt_tokens": sum(len(prompt) for prompts, _ in tokenized for prompt in prompts),
        "decoded_tokens": int(columns["decoded"].sum()),
    }


def likelihoods(request: dict[str, Any], progress: Callable[..., None]) -> dict[str, Any]:
    """Log-likelihoods of whole continuations, each prompt's own, in the order of the prompts."""
    groups = json.loads(Path(request["prompts"]).read_text(encoding="utf-8"))
    vocab_model = load_model(request["model"], vocab_only=True)
    vocab = llama_cpp.llama_model_get_vocab(vocab_model)
    tokenized = []
    for group in groups:
        prompts, shared = tokenized_group(vocab, group["prefix"], group["endings"])
        whole = zip(group["endings"], prompts, group["choices"], strict=True)
        choices = [
            [prompt_tokens(vocab, group["prefix"] + ending + text)[len(prompt) :] for text in texts]
            for ending, prompt, texts in whole
        ]
        tokenized.append((prompts, choices, shared))
    llama_cpp.llama_model_free(vocab_model)
    if any(len(ids) == 0 for _, choices, _ in tokenized for own in choices for ids in own):
        raise ScorerError("no_token", "a continuation adds no token to its prompt")
    longest = max(
        len(prompt) + max(map(len, own)) - 1
        for prompts, choices, _ in tokenized
        for prompt, own in zip(prompts, choices, strict=True)
    )
    model = Model(request["model"], longest, request["threads"], request["gpu_layers"])
    check_length(model, longest)
    total = sum(len(own) for _, choices, _ in tokenized for own in choices)
    kept = Kept(request["kept"])
    asked = 0
    for prompts, choices, shared in tokenized:
        left: list[tuple[Ids, list[Ids]]] = []
        for prompt, own in zip(prompts, choices, strict=True):
            asked += len(own)
            if asked > kept.done:
                left.append((prompt, own[max(0, kept.done - asked + len(own)) :]))
        if not left:
            continue
        after = after_prompts(model, [prompt for prompt, _ in left], shared)
        for (prompt, own), (last_logits, computed) in zip(left, after, strict=True):
            for place, ids in enumerate(own):
                found, greedy, decoded = following(model, prompt, last_logits, ids)
                kept.add(logprobs=found, greedy=greedy, tokens=len(ids), decoded=decoded + (0 if place else computed))
                progress(len(kept), total, "choices")
    columns = kept.columns()
    np.savez(
        request["arrays"], allow_pickle=False, **{name: columns[name] for name in ("logprobs", "greedy", "tokens")}
    )
    return {
        "non_finite": int(np.isnan(columns["logprobs"]).sum()),
        "prompt_tokens": sum(len(prompt) for prompts, *_ in tokenized for prompt in prompts),
        "decoded_tokens": int(columns["decoded"].sum()),
    }


def following(model: Model, prompt: Ids, last_logits: Floats, ids: Ids) -> tuple[float, bool, int]:
    """Log-likelihood of `ids` after a prompt that was just decoded, whether they are the likeliest, tokens decoded."""
    rows, decoded = [last_logits[np.newaxis]], 0
    before = ids[:-1]
    if len(before):
        if not model.forget_from(len(prompt)):
            model.clear()
            decode_all(model, prompt, 0)
            decoded = len(prompt)
        for start in range(0, len(before), model.batch_size):
            batch = before[start : start + model.batch_size]
            rows.append(model.decode(batch, len(prompt) + start, [True] * len(batch)).astype(np.float64))
        decoded += len(before)
    found, greedy = likelihood(np.concatenate(rows), ids)
    return found, greedy, decoded


def check_length(model: Model, longest: int) -> None:
    """A prompt beyond the trained context would be scored by a model that never saw such positions."""
    trained: int = llama_cpp.llama_model_n_ctx_train(model.model)
    if longest > trained:
        raise ScorerError("prompt_too_long", f"a prompt has {longest} tokens, {model.path} was trained for {trained}")


def prompt_tokens(vocab: Any, text: str) -> Ids:
    """Ids as llama-server's completion endpoint makes them: special tokens parsed, BOS where the vocabulary adds it."""
    data = text.encode()
    capacity = len(data) + 8
    buffer = (llama_cpp.llama_token * capacity)()
    count = llama_cpp.llama_tokenize(vocab, data, len(data), buffer, capacity, True, True)
    if count <= 0:
        raise ScorerError("tokenize_failed", f"a prompt of {len(data)} bytes gives {-count} tokens")
    return np.array(buffer[:count], dtype=np.int32)


def tokenized_group(vocab: Any, prefix: str, endings: Sequence[str]) -> tuple[list[Ids], int]:
    """The ids of every whole prompt, and how many first ones all share with the prefix.

    Prompts are tokenized whole, because a token may span the seam; the last token of a prompt is never shared.
    """
    prompts = [prompt_tokens(vocab, prefix + ending) for ending in endings]
    if not prefix:
        return prompts, 0
    alone = prompt_tokens(vocab, prefix)
    return prompts, min(min(common_length(alone, prompt), len(prompt) - 1) for prompt in prompts)


def single_tokens(vocab: Any, prompt: str, texts: Sequence[str]) -> tuple[int, ...]:
    """The one token each of `texts` adds to `prompt`; raises ScorerError of kind `not_one_token`."""
    before = prompt_tokens(vocab, prompt)
    found = []
    for text in texts:
        whole = prompt_tokens(vocab, prompt + text)
        if len(whole) != len(before) + 1 or common_length(whole, before) != len(before):
            raise ScorerError("not_one_token", f"'{text}' is not one token after a prompt in this vocabulary")
        found.append(int(whole[-1]))
    if len(set(found)) != len(found):
        raise ScorerError("not_one_token", f"{list(texts)} are not different tokens in this vocabulary")
    return tuple(found)


def after_prompts(model: Model, prompts: Sequence[Ids], shared: int) -> Iterator[tuple[Floats, int]]:
    """For each prompt the logits after its last token, float64 (vocabulary,), and the tokens computed for it.

    The first `shared` tokens are decoded once and kept; a model whose memory cannot be cut decodes every prompt whole.
    """
    if not prompts:
        return
    model.clear()
    decode_all(model, prompts[0][:shared], 0)
    kept = shared
    for index, prompt in enumerate(prompts):
        if index and not model.forget_from(kept):
            model.clear()
            kept = 0
        logits = decode_all(model, prompt[kept:], kept)
        yield logits, len(prompt) - kept + (shared if index == 0 else 0)


def decode_all(model: Model, tokens: Ids, position: int) -> Floats:
    """Decode in batches; the logits after the last token as float64, empty without tokens."""
    logits: NDArray[np.float32] = np.empty((0, 0), dtype=np.float32)
    for start in range(0, len(tokens), model.batch_size):
        batch = tokens[start : start + model.batch_size]
        wanted = [start + index == len(tokens) - 1 for index in range(len(batch))]
        logits = model.decode(batch, position + start, wanted)
    return logits.reshape(-1).astype(np.float64)


def system_info() -> str:
    """What llama.cpp says about the instruction sets it uses."""
    info: str = llama_cpp.llama_print_system_info().decode(errors="replace").strip()
    return info
