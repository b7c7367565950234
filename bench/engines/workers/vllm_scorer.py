"""Worker of the vLLM toolchain: token ids of a text, scores of windows, log-probabilities of tokens after prompts.

The engine runs in this process as its server would run it: same build, kernels and number types, without compiling the
model. Scores come from the logits that it makes its own prompt log-probabilities of, in the type it makes them in;
softmax and divergence are computed from them in float64 over the whole vocabulary. Two engines do not fit beside each
other on a GPU, so a baseline's logits are written to a file first (`spool`), and read back window by window.
"""

import importlib.util
import json
import os
import re
import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
import vllm
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
    from bench.engines.workers.score_rows import ROWS, Ids, Kept, score_rows
else:

    def beside(name: str) -> Any:
        """A module of this folder, which is on no path."""
        spec = importlib.util.spec_from_file_location(name, Path(__file__).with_name(f"{name}.py"))
        module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
        return module

    shared, tokens = beside("score_rows"), beside("hf_tokens")
    ROWS, Ids, Kept, score_rows = shared.ROWS, shared.Ids, shared.Kept, shared.score_rows
    ScorerError, bos_of, load_tokenizer = tokens.ScorerError, tokens.bos_of, tokens.load_tokenizer
    single_tokens, tokenize, tokenized_group = tokens.single_tokens, tokens.tokenize, tokens.tokenized_group
    remaining, tokenized_choices = tokens.remaining, tokens.tokenized_choices

#: In messages of vLLM and torch about memory, and about a checkpoint that is not what it should be. Others (a backend,
#: a driver, a kernel that does not exist) say nothing against the checkpoint.
OUT_OF_MEMORY = re.compile(
    r"out of memory|No available memory for the cache blocks|larger than the available KV cache"
    r"|Free memory on device|Available memory on node|can't allocate memory",
    re.IGNORECASE,
)
BROKEN = re.compile(
    r"safetensor|model weights|size mismatch|loaded.?weight|no module or parameter|KeyError|checkpoint|not initialized",
    re.IGNORECASE,
)
#: Of an entry of `FlatLogprobs`, whose columns are Python lists: measured.
ENTRY_BYTES = 130
#: Settings by which the engine itself loses something.
LOSSY = ("quantization", "kv_cache_dtype")
#: Prompts given to the engine at once, between which what was found is kept.
AT_ONCE = 64
#: Left free on the disk that a baseline's logits go to.
SPARE_BYTES = 1 << 30

Progress = Callable[..., None]


def run(request: dict[str, Any], progress: Progress) -> dict[str, Any]:
    """Answer one request; arrays go to the file it names."""
    task = request["task"]
    if task == "tokenize":
        return tokenize(request)
    sys.path[:0] = request["path"]  # where plugins of vLLM are found
    tasks = {"spool": spool, "score": score, "continuations": continuations, "likelihoods": likelihoods}
    return tasks[task](request, progress)


class Model:
    """A checkpoint in vLLM. `options` are those of `vllm.LLM`; `context` is the longest sequence, in tokens."""

    def __init__(self, path: str, load_method: str, options: dict[str, Any], context: int) -> None:
        asked = {**options, "max_model_len": context, "max_num_batched_tokens": max(context, 2048)}
        if load_method:
            asked["quantization"] = load_method
        try:
            self.engine = vllm.LLM(
                model=path,
                max_num_seqs=16,
                enforce_eager=True,
                enable_chunked_prefill=False,
                trust_remote_code=False,
                max_logprobs=-1,
                generation_config="vllm",
                disable_log_stats=True,
                **asked,
            )
        except Exception as error:  # whatever keeps a checkpoint from loading
            said = f"{type(error).__name__}: {error}"
            memory, broken = OUT_OF_MEMORY.search(said), BROKEN.search(said)
            kind = "out_of_memory" if memory else "load_failed" if broken else "error"
            raise ScorerError(kind, f"vLLM cannot load it: {said}") from error
        self.vocabulary = int(self.engine.model_config.get_vocab_size())
        self._seen: list[Any] | None = None
        self._parts = int(options.get("tensor_parallel_size") or 1) * int(options.get("pipeline_parallel_size") or 1)
        if self._parts == 1:
            self.engine.apply_model(self._watch)

    def _watch(self, model: Any) -> None:
        """Keep the logits the engine computes, while they are asked for."""
        compute = model.compute_logits

        def computed(*arguments: Any, **options: Any) -> Any:
            logits = compute(*arguments, **options)
            if self._seen is not None and logits is not None:
                self._seen.append(logits.detach())
            return logits

        model.compute_logits = computed

    def logits(self, ids: Ids, first: int) -> NDArray[np.float32]:
        """Logits at positions `first` … n-2 of one sequence, shape (n-1-first, vocabulary)."""
        if self._parts > 1:
            return self._log_probabilities(ids)[first:]
        self._seen = []
        self._generate([ids.tolist()], prompt_logprobs=0)
        # First comes the row of the generated token; some runners compute one for the prompt's last token as well.
        found = torch.cat(self._seen[1:])[: len(ids) - 1, : self.vocabulary]
        self._seen = None
        if found.shape[0] != len(ids) - 1:
            raise ScorerError("error", f"vLLM computed {found.shape[0]} rows of logits for {len(ids)} tokens")
        array: NDArray[np.float32] = found[first:].to(torch.float32).cpu().numpy()
        return array

    def _log_probabilities(self, ids: Ids) -> NDArray[np.float32]:
        """The same up to a constant a row, as the API gives them, where other processes compute."""
        needed = ENTRY_BYTES * len(ids) * (self.vocabulary + 1)
        free = os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
        if needed > free:
            message = f"log-probabilities of {len(ids)} tokens take {needed >> 30} GiB, and {free >> 30} GiB are free"
            raise ScorerError("error", f"{message}: lower the task's context, or score with one GPU")
        (answer,) = self._generate([ids.tolist()], prompt_logprobs=-1, flat_logprobs=True)
        flat = answer.prompt_logprobs
        rows = np.full((len(ids) - 1, self.vocabulary), np.nan, dtype=np.float32)
        for row, start, end in zip(rows, flat.start_indices[1:], flat.end_indices[1:], strict=True):
            row[np.array(flat.token_ids[start:end])] = flat.logprobs[start:end]
        return rows

    def after(self, prompts: list[Ids], wanted: tuple[int, ...]) -> tuple[NDArray[np.float64], int]:
        """Log-probabilities of the tokens `wanted` after each prompt, and how many tokens were computed for that."""
        answers = self._generate([prompt.tolist() for prompt in prompts], logprob_token_ids=list(wanted))
        rows = [[answer.outputs[0].logprobs[0][token].logprob for token in wanted] for answer in answers]
        cached = sum(answer.num_cached_tokens or 0 for answer in answers)
        return np.array(rows, dtype=np.float64), sum(map(len, prompts)) - cached

    def likelihoods(self, pairs: list[tuple[Ids, Ids]]) -> list[tuple[float, bool]]:
        """Log-probability of each continuation after its prompt, and whether all its tokens are the likeliest."""
        whole = [np.concatenate(pair).tolist() for pair in pairs]
        found = []
        for answer, (_, ids) in zip(self._generate(whole, prompt_logprobs=0), pairs, strict=True):
            own = [entry[int(token)] for entry, token in zip(answer.prompt_logprobs[-len(ids) :], ids, strict=True)]
            found.append((sum(entry.logprob for entry in own), all(entry.rank == 1 for entry in own)))
        return found

    def _generate(self, prompts: list[list[int]], **asked: Any) -> list[Any]:
        parameters = vllm.SamplingParams(temperature=0.0, max_tokens=1, detokenize=False, **asked)
        found: list[Any] = self.engine.generate(
            [{"prompt_token_ids": ids} for ids in prompts], parameters, use_tqdm=False
        )
        return found


def loaded(request: dict[str, Any], side: str, context: int) -> Model:
    """The model of one side of a request, for sequences of `context` tokens and the one generated after them.

    A baseline is as it is: not quantized by the engine, and with a KV cache in its own type.
    """
    options = {**request["options"], "enable_prefix_caching": False}
    if side == "baseline":
        options = {name: value for name, value in options.items() if name not in LOSSY}
    try:
        return Model(request[side], request[f"{side}_load_method"], options, context + 1)
    except ScorerError as error:
        if side == "baseline" and error.kind == "load_failed":
            raise ScorerError("error", f"the baseline: {error}") from error  # which says nothing of the variant
        raise


def read_windows(request: dict[str, Any], model: Model | None = None) -> Any:
    """Token ids, shape (windows, context); with a model, all must be in its vocabulary."""
    windows = np.load(request["windows"], allow_pickle=False)
    if model is not None and (windows.min() < 0 or windows.max() >= model.vocabulary):
        raise ScorerError("vocabulary_mismatch", "the windows hold token ids that the model does not have")
    return windows


def spool(request: dict[str, Any], progress: Progress) -> dict[str, Any]:
    """Write the baseline's logits, float32 of shape (windows, scored, vocabulary)."""
    model = loaded(request, "baseline", read_windows(request).shape[1])
    windows, first = read_windows(request, model), request["first"]
    shape = (windows.shape[0], windows.shape[1] - 1 - first, model.vocabulary)
    needed = 4 * int(np.prod(shape, dtype=np.int64))
    free = shutil.disk_usage(Path(request["logits"]).parent).free
    if needed + SPARE_BYTES > free:
        message = f"the baseline's logits take {needed >> 20} MiB, and {free >> 20} MiB are free: score fewer windows"
        raise ScorerError("disk_full", message)
    rows = np.lib.format.open_memmap(request["logits"], mode="w+", dtype=np.float32, shape=shape)
    done = Kept(request["kept"]).done
    for index, window in enumerate(windows[done:], start=done):
        rows[index] = model.logits(window, first)
        progress(index + 1, len(windows), "windows", "baseline")
    rows.flush()
    return {"vocabulary": model.vocabulary}


def score(request: dict[str, Any], progress: Progress) -> dict[str, Any]:
    """Score every window under the variant and, when given, against the spooled baseline."""
    model = loaded(request, "variant", read_windows(request).shape[1])
    windows, first = read_windows(request, model), request["first"]
    shape = (windows.shape[0], windows.shape[1] - 1 - first)
    baseline = None
    if request["spooled"] is not None:
        baseline = np.load(request["spooled"], mmap_mode="r", allow_pickle=False)
        if baseline.shape[2] != model.vocabulary:
            sizes = f"{model.vocabulary} tokens in the variant, {baseline.shape[2]} in the baseline"
            raise ScorerError("vocabulary_mismatch", f"vocabularies differ: {sizes}")
    kept = Kept(request["kept"])
    for index, window in enumerate(windows[kept.done :], start=kept.done):
        columns: dict[str, NDArray[Any]] = {"nll": np.full(shape[1], np.nan)}
        if baseline is not None:
            columns |= {"base_nll": np.full(shape[1], np.nan), "divergence": np.full(shape[1], np.nan)}
            columns["top1_match"] = np.zeros(shape[1], dtype=bool)
        sides = [model.logits(window, first), *([] if baseline is None else [baseline[index]])]
        for start in range(0, shape[1], ROWS):
            block = [rows[start : start + ROWS].astype(np.float64) for rows in sides]
            scores, _ = score_rows(window[first + 1 :][start : start + ROWS], *block)
            for name, values in scores.items():
                columns[name][start : start + len(values)] = values
        kept.add(**columns)
        progress(index + 1, len(windows), "windows")
    found = kept.columns()
    np.savez(request["arrays"], allow_pickle=False, **found)
    return {"non_finite": int(np.isnan(found["nll"]).sum()), "vllm": vllm.__version__}


def continuations(request: dict[str, Any], progress: Progress) -> dict[str, Any]:
    """Log-probabilities of single tokens after every prompt of every group; a group's common tokens are kept."""
    groups = json.loads(Path(request["prompts"]).read_text(encoding="utf-8"))
    texts: list[str] = request["continuations"]
    tokenizer = load_tokenizer(request["model"])
    bos = bos_of(tokenizer)
    tokenized = [tokenized_group(tokenizer, bos, group["prefix"], group["endings"])[0] for group in groups]
    found = {single_tokens(tokenizer, bos, group["prefix"] + group["endings"][0], texts) for group in groups}
    if len(found) != 1:
        raise ScorerError("not_one_token", f"{texts} are not the same tokens after every prompt")
    (wanted,) = found
    longest = max(len(prompt) for prompts in tokenized for prompt in prompts)
    model = sized(request, longest)
    total = sum(map(len, tokenized))
    kept = Kept(request["kept"])
    asked = 0
    for prompts in tokenized:
        left, asked = prompts[max(0, kept.done - asked) :], asked + len(prompts)
        for start in range(0, len(left), AT_ONCE):
            logprobs, computed = model.after(left[start : start + AT_ONCE], wanted)
            for place, row in enumerate(logprobs):
                kept.add(logprobs=row, decoded=0 if place else computed)
            progress(len(kept), total, "questions")
    columns = kept.columns()
    logprobs = columns["logprobs"].reshape(total, len(wanted))
    logprobs[~np.isfinite(logprobs).all(axis=1)] = np.nan
    np.savez(request["arrays"], allow_pickle=False, logprobs=logprobs)
    return {
        "token_ids": list(wanted),
        "non_finite": int(np.isnan(logprobs).any(axis=1).sum()),
        "prompt_tokens": sum(len(prompt) for prompts in tokenized for prompt in prompts),
        "decoded_tokens": int(columns["decoded"].sum()),
    }


def sized(request: dict[str, Any], longest: int) -> Model:
    """The model for prompts of up to `longest` tokens; one beyond the trained context is an error."""
    config = json.loads((Path(request["model"]) / "config.json").read_text(encoding="utf-8"))
    trained = (config.get("text_config") or config).get("max_position_embeddings")
    if trained is not None and longest + 1 > trained:
        raise ScorerError("prompt_too_long", f"a prompt has {longest} tokens, the model was trained for {trained}")
    options = {**request["options"], "enable_prefix_caching": True}
    return Model(request["model"], request["load_method"], options, longest + 1)


def likelihoods(request: dict[str, Any], progress: Progress) -> dict[str, Any]:
    """Log-likelihoods of whole continuations, each prompt's own, in the order of the prompts.

    Prompt log-probabilities leave vLLM's prefix cache aside: every prompt is computed whole, once a continuation.
    """
    groups = json.loads(Path(request["prompts"]).read_text(encoding="utf-8"))
    tokenizer = load_tokenizer(request["model"])
    tokenized = [tokenized_choices(tokenizer, bos_of(tokenizer), group)[0] for group in groups]
    flat = [choice for found in tokenized for choice in found]
    pairs = [(prompt, ids) for prompt, own in flat for ids in own]
    model = sized(request, max(len(prompt) + len(ids) for prompt, ids in pairs))
    kept = Kept(request["kept"])
    left = [(prompt, ids) for prompt, own in remaining(flat, kept.done) for ids in own]
    for start in range(0, len(left), AT_ONCE):
        batch = left[start : start + AT_ONCE]
        for (_, ids), (logprob, greedy) in zip(batch, model.likelihoods(batch), strict=True):
            kept.add(logprobs=logprob if np.isfinite(logprob) else np.nan, greedy=greedy, tokens=len(ids))
        progress(len(kept), len(pairs), "choices")
    columns = kept.columns()
    np.savez(request["arrays"], allow_pickle=False, **columns)
    return {
        "non_finite": int(np.isnan(columns["logprobs"]).sum()),
        "prompt_tokens": sum(len(prompt) for prompt, _ in flat),
        "decoded_tokens": sum(len(prompt) + len(ids) for prompt, ids in pairs),
    }
