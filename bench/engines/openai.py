"""Any server that speaks the OpenAI routes, attached by its URL: nothing is started, and no metrics are known."""

from __future__ import annotations

from dataclasses import dataclass

from bench.base.errors import UsageError
from bench.base.schema import schema
from bench.engines.base import (
    SERVED_ELSEWHERE,
    Command,
    Engine,
    EngineConfig,
    Launch,
    ServedModel,
    Support,
    SupportAnswer,
    engine,
)
from bench.engines.served_logprobs import OpenAiCompletions
from bench.toolchains.toolchain import Toolchain

_NO_SERVER = (
    "engine=openai starts nothing: give engine.base_url=http://HOST:PORT/v1, or choose an engine that is started"
)


@schema("engine", "openai")
@dataclass(frozen=True, kw_only=True)
class OpenAiConfig(EngineConfig):
    """A server of unknown make at `base_url`. Of the engine's settings only those of attaching count."""

    kind: str = "openai"


@engine("openai")
class OpenAi(Engine):
    """An attached server; of one whose make is known choose that engine with `engine.base_url`, which reads metrics."""

    config_class = OpenAiConfig
    logprobs = OpenAiCompletions()
    has_program = False

    def serves(self, config: EngineConfig, model_format: str, load_method: str = "", packing: str = "") -> Support:
        """What the user says it serves; Hugging Face variants need an engine that scores them."""
        if not config.base_url:
            return Support(answer=SupportAnswer.NO, reason=_NO_SERVER)
        if model_format in (SERVED_ELSEWHERE, "gguf"):
            return Support(answer=SupportAnswer.YES)
        reason = (
            f"engine=openai has nothing to accept and score {model_format} with: use scheme=as_served, or the engine "
            "that runs there, such as engine=vllm, with engine.base_url"
        )
        return Support(answer=SupportAnswer.NO, reason=reason)

    def command(self, config: EngineConfig, model: ServedModel, launch: Launch, toolchain: Toolchain | None) -> Command:
        """Raises UsageError: nothing is started."""
        raise UsageError(_NO_SERVER)
