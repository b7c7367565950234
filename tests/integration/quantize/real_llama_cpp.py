"""The real llama.cpp toolchain for tests, and the packaged model under it, in the user's own cache."""

from __future__ import annotations

import functools
import os
from dataclasses import dataclass

from omegaconf import MISSING

from bench.base.compose import compose
from bench.base.paths import cache_dir
from bench.base.progress import Progress
from bench.base.schema import schema
from bench.engines.scoring import ScorableModel
from bench.toolchains.toolchain import Toolchain
from quantize.artefact import Artefact
from quantize.models import ModelConfig
from quantize.run import ConfiguredToolchains, quantize
from quantize.schemes.gguf import GgufConfig, GgufType

#: Another configured toolchain, such as `llama_cpp_existing`, may take the part of the one that is built here.
TOOLCHAIN = os.environ.get("QUANTBENCH_TEST_LLAMA_CPP", "llama_cpp")


@schema(None, "tested_model")
@dataclass(frozen=True, kw_only=True)
class ModelRoot:
    """Root config of one model."""

    model: ModelConfig = MISSING


@functools.cache
def packaged_model() -> ModelConfig:
    return compose("base_tested_model", ["+model=smollm2"], ModelRoot).model


@functools.cache
def toolchain() -> Toolchain:
    return ConfiguredToolchains().ensure(TOOLCHAIN, Progress())


@functools.cache
def artefact(kind: GgufType) -> Artefact:
    scheme = GgufConfig(type=kind, toolchain=TOOLCHAIN)
    return quantize(packaged_model(), scheme, cache=cache_dir(), progress=Progress())


def scorable(made: Artefact) -> ScorableModel:
    return ScorableModel(format=made.format, path=made.model_path, key=made.key, label=made.label)
