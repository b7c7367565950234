"""Token ids as scoring workers over Hugging Face checkpoints make them. Workers load it by path."""

import importlib.util
import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import transformers

if TYPE_CHECKING:
    from bench.engines.workers.score_rows import Ids, common_length
else:
    spec = importlib.util.spec_from_file_location("score_rows", Path(__file__).with_name("score_rows.py"))
    shared = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(shared)
    Ids, common_length = shared.Ids, shared.common_length


class ScorerError(Exception):
    """A failure with a kind of its own for the reply."""

    def __init__(self, kind: str, message: str) -> None:
        super().__init__(message)
        self.kind = kind


def load_tokenizer(path: str) -> Any:
    """The checkpoint's own tokenizer; raises ScorerError of kind `load_failed`."""
    try:
        return transformers.AutoTokenizer.from_pretrained(path, local_files_only=True, trust_remote_code=False)
    except (OSError, ValueError, ImportError) as error:
        raise ScorerError("load_failed", f"transformers cannot load its tokenizer: {error}") from error


def bos_of(tokenizer: Any) -> int | None:
    """The BOS that it puts before a text; None when it puts none."""
    ids = tokenizer("a", add_special_tokens=True)["input_ids"]
    return int(ids[0]) if ids and ids[0] == tokenizer.bos_token_id else None


def tokenize(request: dict[str, Any]) -> dict[str, Any]:
    """Ids of a text: one final newline dropped, special tokens in it not parsed, BOS first where one is added."""
    data = Path(request["text"]).read_bytes().removesuffix(b"\n")
    tokenizer = load_tokenizer(request["model"])
    plain = tokenizer(data.decode(), add_special_tokens=False, split_special_tokens=True)["input_ids"]
    bos = bos_of(tokenizer)
    ids = np.array(([] if bos is None else [bos]) + list(plain), dtype=np.int32)
    known, inverse = np.unique(ids, return_inverse=True)
    byte_level = '"ByteLevel"' in decoder_of(tokenizer)
    lengths = np.array([piece_bytes(tokenizer, int(token), byte_level) for token in known], dtype=np.int32)
    np.savez(request["arrays"], ids=ids, byte_lengths=lengths[inverse])
    known_bos = tokenizer.bos_token_id
    return {"tokens": len(ids), "vocabulary": len(tokenizer), "bos_id": bos, "known_bos_id": known_bos}


def piece_bytes(tokenizer: Any, token: int, byte_level: bool) -> int:
    """Bytes of text a token stands for; special tokens stand for none.

    Byte-level vocabularies write each byte as one letter; others write a space as U+2581 and a single byte as <0xAB>.
    """
    if token in tokenizer.all_special_ids:
        return 0
    piece: str = tokenizer.convert_ids_to_tokens(token)
    if byte_level:
        return len(piece.encode()) if token in tokenizer.added_tokens_decoder else len(piece)
    if len(piece) == len("<0x00>") and piece.startswith("<0x"):
        return 1
    return len(piece.replace("▁", " ").encode())


def decoder_of(tokenizer: Any) -> str:
    """The decoder's description; to get it, the whole vocabulary is written out."""
    return json.dumps(json.loads(tokenizer.backend_tokenizer.to_str()).get("decoder"))


def prompt_tokens(tokenizer: Any, bos: int | None, text: str) -> Ids:
    """Ids of a prompt as completion endpoints make them: special tokens parsed, a BOS where one is added."""
    ids = tokenizer(text, add_special_tokens=False)["input_ids"]
    return np.array(([] if bos is None else [bos]) + list(ids), dtype=np.int32)


def tokenized_group(tokenizer: Any, bos: int | None, prefix: str, endings: Sequence[str]) -> tuple[list[Ids], int]:
    """The ids of every whole prompt, and how many first ones all share with the prefix; never a prompt's last."""
    prompts = [prompt_tokens(tokenizer, bos, prefix + ending) for ending in endings]
    if not prefix:
        return prompts, 0
    alone = prompt_tokens(tokenizer, bos, prefix)
    return prompts, min(min(common_length(alone, prompt), len(prompt) - 1) for prompt in prompts)


def tokenized_choices(
    tokenizer: Any, bos: int | None, group: dict[str, Any]
) -> tuple[list[tuple[Ids, list[Ids]]], int]:
    """Each prompt of a group with the ids that its continuations add to it, and how many first ones prompts share."""
    prompts, shared_length = tokenized_group(tokenizer, bos, group["prefix"], group["endings"])
    found = []
    for ending, prompt, texts in zip(group["endings"], prompts, group["choices"], strict=True):
        whole = [prompt_tokens(tokenizer, bos, group["prefix"] + ending + text) for text in texts]
        if any(len(ids) <= len(prompt) for ids in whole):
            raise ScorerError("no_token", "a continuation adds no token to its prompt")
        found.append((prompt, [ids[len(prompt) :] for ids in whole]))
    return found, shared_length


def remaining(choices: list[tuple[Ids, list[Ids]]], done: int) -> list[tuple[Ids, list[Ids]]]:
    """What is left of prompts with their continuations after the first `done` continuations."""
    left = []
    for prompt, own in choices:
        if done < len(own):
            left.append((prompt, own[max(0, done) :]))
        done -= len(own)
    return left


def single_tokens(tokenizer: Any, bos: int | None, prompt: str, texts: Sequence[str]) -> tuple[int, ...]:
    """The one token each of `texts` adds to `prompt`; raises ScorerError of kind `not_one_token`."""
    before = prompt_tokens(tokenizer, bos, prompt)
    found = []
    for text in texts:
        whole = prompt_tokens(tokenizer, bos, prompt + text)
        if len(whole) != len(before) + 1 or common_length(whole, before) != len(before):
            raise ScorerError("not_one_token", f"'{text}' is not one token after a prompt in this vocabulary")
        found.append(int(whole[-1]))
    if len(set(found)) != len(found):
        raise ScorerError("not_one_token", f"{list(texts)} are not different tokens in this vocabulary")
    return tuple(found)
