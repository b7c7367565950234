"""llm-compressor's worker with stand-ins for its libraries: names that loading changes, and modules that are hidden."""

from __future__ import annotations

import importlib.util
import json
import sys
from contextlib import AbstractContextManager
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any
from unittest.mock import MagicMock

import pytest

from quantize.layers import matches
from quantize.schemes.hf import WORKERS

LIBRARIES = (
    *("compressed_tensors", "compressed_tensors.utils", "torch", "torch.utils", "torch.utils.data"),
    *("transformers", "transformers.core_model_loading", "llmcompressor", "llmcompressor.modeling"),
    *("llmcompressor.modeling.moe", "llmcompressor.modeling.moe.conversion_mappings", "llmcompressor.modifiers"),
    *("llmcompressor.modifiers.gptq", "llmcompressor.modifiers.quantization", "llmcompressor.modifiers.transform"),
    *("llmcompressor.modifiers.transform.awq", "llmcompressor.modifiers.transform.smoothquant"),
    *("llmcompressor.pipelines", "llmcompressor.pipelines.cache", "llmcompressor.pipelines.sequential"),
    *("llmcompressor.utils", "llmcompressor.utils.dev"),
)
ALIAS = "transformers.models.aria.image_processing_aria_fast"
NAMES = ["model.layers.0.self_attn.q_proj", "model.layers.0.mlp.experts.0.down_proj", "lm_head"]


@pytest.fixture
def worker(monkeypatch: pytest.MonkeyPatch) -> Any:
    """The module, loaded as the bootstrap does it."""
    for name in LIBRARIES:
        monkeypatch.setitem(sys.modules, name, MagicMock())
    for name, kind in (("gptq", "GPTQ"), ("quantization", "Quantization"), ("transform.awq", "AWQ")):
        sys.modules[f"llmcompressor.modifiers.{name}"].__dict__[f"{kind}Modifier"] = type(kind, (), {})
    smooth = sys.modules["llmcompressor.modifiers.transform.smoothquant"]
    smooth.__dict__["SmoothQuantModifier"] = type("SmoothQuant", (), {})
    sys.modules["compressed_tensors.utils"].__dict__["match_name"] = matches
    spec = importlib.util.spec_from_file_location("llmcompressor_worker", WORKERS / "llmcompressor_worker.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_an_entry_that_fits_stored_names_only_is_refused_with_the_modules_names(worker: Any) -> None:
    worker.refuse_unfitting(NAMES, ["lm_head", "re:.*experts\\.0\\..*", "model.layers.0.self_attn.q_proj"])
    stored = "model.layers.0.block_sparse_moe.experts.0.w2"
    with pytest.raises(worker.QuantizerError, match=f"'{stored}' fits no layer .* look like {NAMES[1]}; ") as caught:
        worker.refuse_unfitting(NAMES, ["lm_head", stored])
    assert caught.value.kind == "usage"
    assert "\n" not in str(caught.value)


def hiding(worker: Any, version: str, warnings: list[str]) -> AbstractContextManager[None]:
    worker.transformers = SimpleNamespace(__version__=version)
    hidden: AbstractContextManager[None] = worker.without_image_aliases(warnings)
    return hidden


def test_aliases_of_image_processors_are_hidden_while_a_model_loads(
    worker: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    alias, real = ModuleType(ALIAS), ModuleType("transformers.models.odd.image_processing_odd_fast")
    real.__file__ = "/somewhere/image_processing_odd_fast.py"
    for module in (alias, real):
        monkeypatch.setitem(sys.modules, module.__name__, module)
    warnings: list[str] = []
    with hiding(worker, worker.PATCHED_TRANSFORMERS, warnings):
        assert ALIAS not in sys.modules
        assert sys.modules[real.__name__] is real
    assert sys.modules[ALIAS] is alias
    assert warnings == []
    with hiding(worker, "6.0", warnings):
        assert sys.modules[ALIAS] is alias
    assert warnings == ["transformers 6.0: image processors were not hidden while loading (looked at 5.17.0)"]


def test_what_was_left_is_named_as_its_modules_too(worker: Any, tmp_path: Path) -> None:
    file = tmp_path / "config.json"
    config = {"model_type": "phimoe", "quantization_config": {"ignore": ["l.block_sparse_moe.router", "lm_head"]}}
    file.write_text(json.dumps(config))
    worker.ignore_by_both_names(file, ["l.mlp.router", "lm_head"])
    ignored = json.loads(file.read_text())["quantization_config"]["ignore"]
    assert ignored == ["l.block_sparse_moe.router", "lm_head", "l.mlp.router"]
    before = file.read_bytes()
    worker.ignore_by_both_names(file, ["lm_head"])
    assert file.read_bytes() == before
