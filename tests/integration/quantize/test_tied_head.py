"""An output head that shares its weights with the embedding is in no header: it must stay as it is all the same."""

from __future__ import annotations

import pytest

from bench.base.paths import cache_dir
from bench.base.progress import Progress
from quantize.checkpoint import read_tensors
from quantize.run import quantize
from quantize.schemes.bitsandbytes import BitsandbytesConfig
from tests.integration.quantize.real_llama_cpp import packaged_model

pytestmark = pytest.mark.toolchains


def test_a_tied_head_is_left_alone_also_where_other_layers_are_ignored() -> None:
    """SmolLM2 ties its head; three of seven layers of each of 30 blocks are ignored."""
    scheme = BitsandbytesConfig(ignore=["re:.*mlp\\..*"])
    made = quantize(packaged_model(), scheme, cache=cache_dir(), progress=Progress())
    manifest = made.manifest
    assert manifest["quantized_layers"] == 30 * 4
    assert "lm_head" in manifest["skipped_layers"]
    assert len(manifest["skipped_layers"]) == 30 * 3 + 1
    assert manifest["parameters"] == 134_515_008
    embeddings = [
        tensor for tensor in read_tensors(made.directory) if "embed" in tensor.name or "lm_head" in tensor.name
    ]
    assert {tensor.type for tensor in embeddings} == {"BF16"}
