"""The real llmcompressor toolchain for tests, and the packaged model as a checkpoint, in the user's own cache."""

from __future__ import annotations

import functools

from bench.base.paths import cache_dir
from bench.base.progress import Progress
from bench.toolchains.toolchain import Toolchain
from quantize.artefact import Artefact
from quantize.run import ConfiguredToolchains, quantize
from quantize.schemes.unquantized import UnquantizedConfig
from tests.integration.quantize.real_llama_cpp import packaged_model


@functools.cache
def transformers_toolchain() -> Toolchain:
    return ConfiguredToolchains().ensure("llmcompressor", Progress())


@functools.cache
def packaged_checkpoint() -> Artefact:
    """The packaged model in BF16."""
    return quantize(packaged_model(), UnquantizedConfig(), cache=cache_dir(), progress=Progress())
