"""A checkpoint's configuration in the words of transformers 4, for quantizers that were left behind there.

transformers 5 renamed what its own files say: `rope_parameters` was `rope_theta` and `rope_scaling`, `dtype` was
`torch_dtype`, the tokenizer class `TokenizersBackend` was `PreTrainedTokenizerFast`. transformers 4 passes over names
that it does not know, so that a model would quietly run with the rotary base of its class. transformers 5 and engines
read the old names too.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from bench.base.errors import UsageError
from bench.base.files import write_json

_OLD_TOKENIZERS = {"TokenizersBackend": "PreTrainedTokenizerFast"}
#: Names inside `rope_parameters` that stood beside `rope_theta` before.
_BESIDE = ("rope_theta", "partial_rotary_factor")


def make_readable(view: Path) -> None:
    """Rewrite config.json and tokenizer_config.json of a view of a checkpoint; links are replaced, not followed.

    Raises UsageError for a configuration that transformers 4 has no words for.
    """
    changes: Mapping[str, Callable[[dict[str, Any]], dict[str, Any]]] = {
        "config.json": old_config,
        "tokenizer_config.json": old_tokenizer_config,
    }
    for name, change in changes.items():
        file = view / name
        if not file.is_file():
            continue
        found = json.loads(file.read_text(encoding="utf-8"))
        changed = change(found)
        if changed != found:
            write_json(file, changed)


def old_config(config: Mapping[str, Any], name: str = "config.json") -> dict[str, Any]:
    """config.json with the old names, those of its parts (`text_config`, …) included; what has them already stays."""
    old: dict[str, Any] = {}
    for key, value in config.items():
        if key == "rope_parameters":
            old |= {own: part for own, part in _rope(value, name).items() if own not in config}
        elif key == "dtype" and (value is None or isinstance(value, str)):
            old.setdefault("torch_dtype", config.get("torch_dtype", value))
        else:
            old[key] = old_config(value, name) if key.endswith("_config") and isinstance(value, dict) else value
    return old


def _rope(parameters: Any, name: str) -> dict[str, Any]:
    """`rope_theta`, `rope_scaling` and the like of `rope_parameters`."""
    if not parameters:
        return {}
    if not isinstance(parameters, dict) or any(isinstance(value, dict) for value in parameters.values()):
        raise UsageError(
            f"{name}: its layers have rotary positions of different kinds (rope_parameters), which transformers 4 of "
            "this quantizer cannot be told; use scheme=gptqmodel_awq, gptqmodel_gptq, awq_w4a16 or gptq_w4a16"
        )
    beside = {key: parameters[key] for key in _BESIDE if key in parameters}
    scaling = {key: value for key, value in parameters.items() if key not in beside}
    kind = scaling.get("rope_type", scaling.get("type", "default"))
    return {**beside, **({"rope_scaling": scaling} if kind != "default" else {})}


def old_tokenizer_config(config: Mapping[str, Any]) -> dict[str, Any]:
    """tokenizer_config.json with the old class, and the old key of special tokens that have no role of their own."""
    old = dict(config)
    known = old.get("tokenizer_class")
    if known in _OLD_TOKENIZERS:
        old["tokenizer_class"] = _OLD_TOKENIZERS[known]
    if isinstance(old.get("extra_special_tokens"), list):
        old["additional_special_tokens"] = old.pop("extra_special_tokens")
    return old
