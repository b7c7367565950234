"""A configuration in the words of transformers 4: renamed, moved, and nothing lost."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from bench.base.errors import UsageError
from quantize.transformers4 import make_readable, old_config, old_tokenizer_config

DEFAULT = {"rope_theta": 50_000.0, "rope_type": "default"}
YARN = {"rope_theta": 1e6, "rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 4096}


@pytest.mark.parametrize(
    ("config", "old"),
    [
        ({"dtype": "bfloat16", "vocab_size": 7}, {"torch_dtype": "bfloat16", "vocab_size": 7}),
        ({"torch_dtype": "float16", "rope_theta": 1e4}, {"torch_dtype": "float16", "rope_theta": 1e4}),
        ({"torch_dtype": "float16", "dtype": "bfloat16"}, {"torch_dtype": "float16"}),
        ({"rope_parameters": DEFAULT}, {"rope_theta": 50_000.0}),
        ({"rope_parameters": None}, {}),
        (
            {"rope_parameters": YARN},
            {"rope_theta": 1e6, "rope_scaling": {name: YARN[name] for name in YARN if name != "rope_theta"}},
        ),
        (
            {"rope_parameters": {**DEFAULT, "partial_rotary_factor": 0.5}},
            {"rope_theta": 50_000.0, "partial_rotary_factor": 0.5},
        ),
        ({"rope_parameters": DEFAULT, "rope_theta": 7.0}, {"rope_theta": 7.0}),
        (
            {"text_config": {"dtype": "bfloat16", "rope_parameters": DEFAULT}},
            {"text_config": {"torch_dtype": "bfloat16", "rope_theta": 50_000.0}},
        ),
        ({"other": {"dtype": "x"}}, {"other": {"dtype": "x"}}),
    ],
)
def test_configurations(config: dict[str, Any], old: dict[str, Any]) -> None:
    assert old_config(config) == old
    assert old_config(old) == old, "what has the old names stays"


def test_rotary_positions_by_kind_of_layer_are_refused() -> None:
    nested = {"full_attention": DEFAULT, "sliding_attention": {**DEFAULT, "rope_theta": 1e4}}
    with pytest.raises(UsageError, match=r"^gemma: its layers have rotary positions of different kinds .*awq_w4a16"):
        old_config({"rope_parameters": nested}, "gemma")


@pytest.mark.parametrize(
    ("config", "old"),
    [
        ({"tokenizer_class": "TokenizersBackend"}, {"tokenizer_class": "PreTrainedTokenizerFast"}),
        (
            {"tokenizer_class": "LlamaTokenizer", "legacy": False},
            {"tokenizer_class": "LlamaTokenizer", "legacy": False},
        ),
        ({"extra_special_tokens": ["<a>"]}, {"additional_special_tokens": ["<a>"]}),
        ({"extra_special_tokens": {"image": "<i>"}}, {"extra_special_tokens": {"image": "<i>"}}),
    ],
)
def test_tokenizers(config: dict[str, Any], old: dict[str, Any]) -> None:
    assert old_tokenizer_config(config) == old


def test_links_of_a_view_are_replaced_and_the_checkpoint_is_not_touched(tmp_path: Path) -> None:
    checkpoint, view = tmp_path / "checkpoint", tmp_path / "view"
    checkpoint.mkdir()
    view.mkdir()
    contents = {
        "config.json": {"dtype": "bfloat16", "rope_parameters": DEFAULT},
        "tokenizer_config.json": {"tokenizer_class": "TokenizersBackend"},
        "generation_config.json": {"eos_token_id": 2},
    }
    for name, content in contents.items():
        (checkpoint / name).write_text(json.dumps(content), encoding="utf-8")
        (view / name).symlink_to(checkpoint / name)
    make_readable(view)
    assert json.loads((view / "config.json").read_text()) == {"torch_dtype": "bfloat16", "rope_theta": 50_000.0}
    assert json.loads((view / "tokenizer_config.json").read_text()) == {"tokenizer_class": "PreTrainedTokenizerFast"}
    assert [(view / name).is_symlink() for name in contents] == [False, False, True]
    assert {name: json.loads((checkpoint / name).read_text()) for name in contents} == contents


def test_a_checkpoint_without_a_tokenizer_configuration(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text('{"torch_dtype": "bfloat16"}', encoding="utf-8")
    make_readable(tmp_path)
    assert [file.name for file in tmp_path.iterdir()] == ["config.json"]
