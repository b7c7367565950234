"""Worker of the llmcompressor toolchain: our tokenizer of a GGUF's vocabulary, by several pre-tokenizers."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable
from pathlib import Path
from typing import Any


def run(request: dict[str, Any], progress: Callable[..., None]) -> dict[str, Any]:
    """Ids of `texts` by the tokenizer of the vocabulary in `source` under each of `names`."""
    ours = module(request["worker"])
    metadata = ours.Metadata(Path(request["source"]))
    return {"ids": {name: tokenized(ours, Renamed(metadata, name), request["texts"]) for name in request["names"]}}


def module(path: str) -> Any:
    """quantize/workers/hf_checkpoint.py, which this toolchain runs."""
    spec = importlib.util.spec_from_file_location("hf_checkpoint", path)
    assert spec is not None
    assert spec.loader is not None
    loaded = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(loaded)
    return loaded


class Renamed:
    """A GGUF's metadata under another pre-tokenizer (empty: its own), silent on whether a BOS is added."""

    def __init__(self, metadata: Any, name: str) -> None:
        self._metadata = metadata
        self._changed = {"tokenizer.ggml.pre": name, "tokenizer.ggml.add_bos_token": None} if name else {}
        self.architecture: str = metadata.architecture

    def get(self, key: str, default: Any = None) -> Any:
        if key in self._changed:
            return default if self._changed[key] is None else self._changed[key]
        return self._metadata.get(key, default)

    def of_model(self, key: str, default: Any = None) -> Any:
        return self._metadata.of_model(key, default)

    def token_id(self, name: str) -> int | None:
        found: int | None = self._metadata.token_id(name)
        return found


def tokenized(ours: Any, metadata: Renamed, texts: list[str]) -> dict[str, list[Any]]:
    """Ids of every text as a text (special tokens in it are letters) and as a prompt (they are tokens)."""
    tokenizer, _ = ours.tokenizer_of(metadata)
    return {
        "text": [tokenizer(text, split_special_tokens=True)["input_ids"] for text in texts],
        "prompt": [tokenizer(text)["input_ids"] for text in texts],
        "decoded": [tokenizer.decode(tokenizer(text, add_special_tokens=False)["input_ids"]) for text in texts],
    }
