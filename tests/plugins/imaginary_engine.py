"""An engine from outside the package: this module, its YAML and its test are all that adding one takes."""

from __future__ import annotations

import sys
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from bench.base.schema import schema
from bench.engines.base import Command, Engine, EngineConfig, Launch, ServedModel, Support, SupportAnswer, engine

if TYPE_CHECKING:
    from bench.toolchains.toolchain import Toolchain

SERVER = Path(__file__).with_name("imaginary_server.py")


@schema("engine", "imaginary")
@dataclass(frozen=True, kw_only=True)
class ImaginaryConfig(EngineConfig):
    """`behaviour` is what its server does: serve, or one of the faults."""

    kind: str = "imaginary"
    toolchain: str = "llama_cpp"
    behaviour: str = "serve"


@engine("imaginary")
class Imaginary(Engine):
    """A server of the standard library that answers with one token."""

    config_class = ImaginaryConfig
    metrics_path = "/metrics"
    prompt_counter = "imaginary:prompt_tokens"
    generation_counter = "imaginary:generation_tokens"

    def support(self, config: EngineConfig, model_format: str) -> Support:
        return Support(answer=SupportAnswer.YES)

    def command(self, config: EngineConfig, model: ServedModel, launch: Launch, toolchain: Toolchain | None) -> Command:
        assert isinstance(config, ImaginaryConfig)
        argv = [sys.executable, "-I", str(SERVER), launch.host, str(launch.port), config.behaviour]
        return Command(argv=argv, secret_env={"IMAGINARY_KEY": launch.api_key})
