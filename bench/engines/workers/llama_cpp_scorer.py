"""Worker of the llama_cpp toolchain: token ids of a text, and per-token scores of windows under one or two models.

Standard library, numpy and llama_cpp's low-level bindings only. The protocol is llama-perplexity's
(`tools/perplexity/perplexity.cpp` of the same source): a fresh context for every window, the logits at positions
first … n-2 scored against the tokens after them. Softmax and divergence are computed in float64 over the whole
vocabulary, a few rows at a time, straight from llama.cpp's buffer: nothing larger than one batch is ever held.
"""

import ctypes
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import llama_cpp
import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
Ids = NDArray[np.int32]

#: Tokens decoded at once, which bounds the logits in memory; llama.cpp's own default for the physical batch.
BATCH = 512
#: Rows of logits turned into float64 at once.
ROWS = 16


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
    return score(request, progress)


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
    result = {
        "tokens": count,
        "vocabulary": llama_cpp.llama_vocab_n_tokens(vocab),
        "bos_id": llama_cpp.llama_vocab_bos(vocab) if adds_bos else None,
    }
    llama_cpp.llama_model_free(model)
    return result


def piece_bytes(vocab: Any, token: int) -> int:
    """Bytes of text a token stands for; special tokens stand for none."""
    buffer = ctypes.create_string_buffer(256)
    length: int = llama_cpp.llama_token_to_piece(vocab, token, buffer, len(buffer), 0, False)
    return abs(length)


class Model:
    """A loaded model with a context of one window."""

    def __init__(self, path: str, context: int, threads: int, gpu_layers: int) -> None:
        self.path = path
        self.model = load_model(path, gpu_layers)
        self.vocabulary: int = llama_cpp.llama_vocab_n_tokens(llama_cpp.llama_model_get_vocab(self.model))
        params = llama_cpp.llama_context_default_params()
        params.n_ctx = context
        params.n_batch = params.n_ubatch = min(BATCH, context)
        params.n_threads = params.n_threads_batch = threads
        self.context = llama_cpp.llama_init_from_model(self.model, params)
        if not self.context:
            raise ScorerError("load_failed", f"llama.cpp cannot make a context of {context} tokens for {path}")
        self.batch = llama_cpp.llama_batch_init(params.n_batch, 0, 1)

    def clear(self) -> None:
        """Forget the window before."""
        llama_cpp.llama_memory_clear(llama_cpp.llama_get_memory(self.context), True)

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
    shape = (windows.shape[0], context - 1 - first)
    columns: dict[str, NDArray[Any]] = {"nll": np.full(shape, np.nan)}
    if baseline is not None:
        columns |= {"base_nll": np.full(shape, np.nan), "divergence": np.full(shape, np.nan)}
        columns["top1_match"] = np.zeros(shape, dtype=bool)
    non_finite = 0
    for index, window in enumerate(windows):
        non_finite += score_window(models, window, first, {name: rows[index] for name, rows in columns.items()})
        progress(index + 1, len(windows), "windows")
    np.savez(request["arrays"], allow_pickle=False, **columns)
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


def score_window(models: Sequence[Model], window: Ids, first: int, columns: dict[str, NDArray[Any]]) -> int:
    """Fill one window's row of every column; returns how many positions had logits that are not finite."""
    for model in models:
        model.clear()
    last = len(window) - 2
    non_finite = 0
    for start in range(0, len(window), BATCH):
        tokens = window[start : start + BATCH]
        wanted = [first <= start + index <= last for index in range(len(tokens))]
        logits = [model.decode(tokens, start, wanted) for model in models]
        done = max(start, first)
        for row in range(0, len(logits[0]), ROWS):
            block = [rows[row : row + ROWS].astype(np.float64) for rows in logits]
            begin = done + row
            targets = window[begin + 1 : begin + 1 + len(block[0])]
            scores, broken = score_rows(targets, *block)
            non_finite += broken
            for name, values in scores.items():
                columns[name][begin - first : begin - first + len(values)] = values
    return non_finite


def log_softmax(logits: Floats) -> Floats:
    """Log-probabilities of float64 logits, row by row."""
    shifted = logits - logits.max(axis=1, keepdims=True)
    normalised: Floats = shifted - np.log(np.exp(shifted).sum(axis=1, keepdims=True))
    return normalised


def score_rows(targets: Ids, variant: Floats, baseline: Floats | None = None) -> tuple[dict[str, NDArray[Any]], int]:
    """Scores of rows of logits (rows, vocabulary), float64: {column: values}, and how many rows are not finite.

    nll = -log p(target); divergence = sum of p_base * (log p_base - log p) over the vocabulary, 0 where rounding
    makes it negative. Rows that are not finite are NaN (top1_match: False).
    """
    finite: NDArray[np.bool_] = np.asarray(np.isfinite(variant).all(axis=1))
    if baseline is not None:
        finite = np.asarray(finite & np.isfinite(baseline).all(axis=1))
    rows, kept = np.flatnonzero(finite), targets[finite]
    picked = np.arange(len(rows)), kept
    log_p = log_softmax(variant[rows])
    scores: dict[str, NDArray[Any]] = {"nll": spread(-log_p[picked], finite)}
    if baseline is not None:
        log_base = log_softmax(baseline[rows])
        divergence = (np.exp(log_base) * (log_base - log_p)).sum(axis=1)
        scores["base_nll"] = spread(-log_base[picked], finite)
        scores["divergence"] = spread(np.maximum(divergence, 0.0), finite)
        scores["top1_match"] = (variant.argmax(axis=1) == baseline.argmax(axis=1)) & finite
    return scores, int((~finite).sum())


def spread(values: Floats, finite: NDArray[np.bool_]) -> Floats:
    """Values of the finite rows in a row for all, NaN elsewhere."""
    column = np.full(len(finite), np.nan)
    column[finite] = values
    return column


def system_info() -> str:
    """What llama.cpp says about the instruction sets it uses."""
    info: str = llama_cpp.llama_print_system_info().decode(errors="replace").strip()
    return info
