"""Worker of the llama_cpp toolchain: llama.cpp's own ids of texts in the vocabularies of GGUFs."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import llama_cpp


def run(request: dict[str, Any], progress: Callable[..., None]) -> dict[str, Any]:
    """Ids of every text as a text (special tokens in it are letters) and as a prompt (they are tokens), by file."""
    llama_cpp.llama_backend_init()
    return {"ids": {file: tokenized(file, request["texts"]) for file in request["files"]}}


def tokenized(file: str, texts: list[str]) -> dict[str, list[list[int]]]:
    """The ids in one vocabulary."""
    params = llama_cpp.llama_model_default_params()
    params.vocab_only = True
    model = llama_cpp.llama_model_load_from_file(file.encode(), params)
    assert model, f"llama.cpp cannot load {file}"
    vocab = llama_cpp.llama_model_get_vocab(model)
    found = {
        name: [ids(vocab, text.encode(), parse=parse) for text in texts]
        for name, parse in (("text", False), ("prompt", True))
    }
    llama_cpp.llama_model_free(model)
    return found


def ids(vocab: Any, text: bytes, *, parse: bool) -> list[int]:
    """One text, with the special tokens that the vocabulary adds."""
    capacity = len(text) + 8
    buffer = (llama_cpp.llama_token * capacity)()
    count = llama_cpp.llama_tokenize(vocab, text, len(text), buffer, capacity, True, parse)
    assert count >= 0, "a text has no more tokens than bytes"
    return list(buffer[:count])
