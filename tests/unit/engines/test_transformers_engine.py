"""transformers as an engine: its command line, what it serves, and what of its server is put right."""

from __future__ import annotations

import asyncio
import dataclasses
import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from bench.base.errors import FailureKind, UsageError
from bench.base.validity import Reason
from bench.engines.base import Launch, ServedModel, SupportAnswer, engine_of
from bench.engines.launch import died
from bench.engines.scoring import ScoredOn
from bench.engines.transformers import TransformersConfig
from bench.engines.transformers_scoring import ScoringType, TransformersScorer
from bench.engines.workers import transformers_server
from bench.toolchains.toolchain import Toolchain

MODEL = ServedModel(format="hf", path=Path("/models/a b"), name="smol-BF16")
LAUNCH = Launch(host="127.0.0.1", port=8123, api_key="secret-key")
TOOLS = Toolchain(
    name="llmcompressor", lock_hash="0123456789abcdef", prefix=Path("/t/x-0123"), python=Path("/t/python")
)


def settings_of(config: TransformersConfig, model: ServedModel = MODEL) -> dict[str, Any]:
    settings: dict[str, Any] = json.loads(engine_of(config).command(config, model, LAUNCH, TOOLS).argv[-1])
    return settings


def test_the_command_line() -> None:
    config = TransformersConfig(max_model_len=250, max_sequences=3, threads=2)
    made = engine_of(config).command(config, MODEL, LAUNCH, TOOLS)
    python, flag, script, settings = made.argv
    assert (python, flag) == ("/t/python", "-I")
    assert Path(script).is_file()
    assert json.loads(settings) == {
        "model": "/models/a b",
        "name": "smol-BF16",
        "alias": "smol-BF16",
        "threads": 2,
        "options": {
            "host": "127.0.0.1",
            "port": 8123,
            "device": "auto",
            "dtype": "auto",
            "continuous_batching": True,
            "cb_block_size": 16,
            "cb_num_blocks": 47,  # 250 × 3 tokens, in blocks of 16
            "cb_max_batch_tokens": 256,
        },
    }
    assert made.env == {"OMP_NUM_THREADS": "2"}
    assert made.secret_env == {"TRANSFORMERS_API_KEY": "secret-key"}
    assert "secret-key" not in " ".join(map(str, made.argv))
    assert engine_of(config).command(config, MODEL, LAUNCH, None).argv[0] == "python"


def test_settings_are_left_to_the_server_where_they_were_not_chosen() -> None:
    assert settings_of(TransformersConfig())["threads"] is None
    config = TransformersConfig(continuous_batching=False, dtype="float32", device="cuda:0")
    assert engine_of(config).command(config, MODEL, LAUNCH, TOOLS).env == {}
    assert settings_of(config)["options"] == {
        "host": "127.0.0.1",
        "port": 8123,
        "device": "cuda:0",
        "dtype": "float32",
        "continuous_batching": False,
    }


def test_a_name_with_a_meaning_to_transformers_gets_a_plain_alias() -> None:
    """Folders, a revision, a file: `org/name@revision:file.gguf`."""
    name = "org/name-GPTQ text=data:train@0123 ignore=re:.*"
    settings = settings_of(TransformersConfig(), dataclasses.replace(MODEL, name=name))
    assert settings["name"] == name
    assert settings["alias"] == "org-name-GPTQ text=data-train-0123 ignore=re-.*"


def test_hugging_face_checkpoints_are_served_and_others_are_not() -> None:
    config = TransformersConfig()
    assert engine_of(config).support(config, "hf").answer is SupportAnswer.YES
    refused = engine_of(config).support(config, "gguf")
    assert refused.answer is SupportAnswer.NO
    assert "choose engine=llama_cpp" in refused.reason
    assert engine_of(config).scoring_toolchain(config) == "llmcompressor"
    assert engine_of(config).scoring_reasons(config, "llmcompressor") == ()
    assert engine_of(config).scoring_reasons(config, "gptqmodel") == (Reason.SCORING_BUILD_DIFFERS,)
    assert engine_of(config).metrics_path is None


@pytest.mark.parametrize("packing", ["gptq", "awq"])
@pytest.mark.parametrize("toolchain", ["llmcompressor", "gptqmodel", "mine"])
def test_checkpoints_that_need_gptqmodel_are_not_served(packing: str, toolchain: str) -> None:
    config = TransformersConfig(toolchain=toolchain)
    refused = engine_of(config).serves(config, "hf", packing=packing)
    assert refused.answer is SupportAnswer.NO
    assert refused.reason == (
        f"transformers serves native {packing} checkpoints only with GPTQModel beside its server, which no toolchain "
        f"here has: serve it with vLLM, or use scheme={packing}_w4a16"
    )


def test_other_packings_are_served_and_a_wrong_format_is_said_first() -> None:
    config = TransformersConfig()
    for packing in ("", "none", "compressed-tensors", "bitsandbytes"):
        assert engine_of(config).serves(config, "hf", packing=packing).answer is SupportAnswer.YES
    assert "not gguf" in engine_of(config).serves(config, "gguf", packing="gptq").reason


def test_a_device_that_is_named_needs_a_gpu() -> None:
    needs = [engine_of(config).footprint(config).needs_gpu for config in map(on_device, ("auto", "cpu", "cuda:0"))]
    assert needs == ["", "", "engine.device=cuda:0"]


def on_device(device: str) -> TransformersConfig:
    return TransformersConfig(device=device)


def test_settings_that_cannot_be_meant() -> None:
    with pytest.raises(ValueError, match=r"engine\.block_size=0 must be at least 1"):
        TransformersConfig(block_size=0)
    with pytest.raises(ValueError, match=r"engine\.max_batch_tokens=0 must be at least 1"):
        TransformersConfig(max_batch_tokens=0)
    with pytest.raises(UsageError, match=r"engine\.extra_args"):
        settings_of(TransformersConfig(extra_args=["--x"]))


@pytest.mark.parametrize(
    ("log", "kind"),
    [
        ("torch.OutOfMemoryError: CUDA out of memory. Tried to allocate 2 GiB", FailureKind.OUT_OF_MEMORY),
        ("RuntimeError: [enforce fail] DefaultCPUAllocator: can't allocate memory: you", FailureKind.OUT_OF_MEMORY),
        ("but Transformers does not recognize this architecture.", FailureKind.UNSUPPORTED_ARCHITECTURE),
        ("safetensors_rust.SafetensorError: Error while deserializing header", FailureKind.CORRUPT),
        ("Segmentation fault", FailureKind.CRASHED),
    ],
)
def test_the_log_tells_why_it_died(log: str, kind: FailureKind) -> None:
    failure = died(engine_of(TransformersConfig()), log, "it ended")
    assert failure.kind is kind
    assert failure.log_tail == log


def test_what_decides_the_scorers_last_bits_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("bench.engines.transformers_scoring.cpu_features_key", lambda: "features")
    scorer = TransformersScorer(TOOLS, threads=3, dtype=ScoringType.as_stored)
    assert scorer.arithmetic == {"threads": 3, "dtype": "as_stored", "environment": "x-0123", "cpu": "features"}
    assert scorer.scored_by.as_dict() == {
        "engine": "transformers",
        "build": "llmcompressor@0123456789ab",
        "path": ScoredOn.SAME_ARTEFACT_ELSEWHERE.value,
    }
    config = TransformersConfig()
    made = engine_of(config).scorer(config, TOOLS)
    assert made.arithmetic["dtype"] == "float32"


# What the worker puts right in the server


class Handler:
    """A handler as transformers has them: it refuses fields that it does not know, and other models."""

    def _validate_request(self, body: dict[str, Any]) -> None:
        unexpected = set(body) - {"model", "prompt"}
        if unexpected:
            raise ValueError(f"unexpected {unexpected}")

    def _build_generation_config(self, body: dict[str, Any], model_config: Any, use_cb: bool = False) -> Any:
        return SimpleNamespace(eos_token_id=model_config, use_cb=use_cb)

    def _resolve_model(self, body: dict[str, Any]) -> str:
        if body["model"] != "alias":
            raise ValueError("pinned")
        return str(body["model"])


def test_ignore_eos_is_taken_and_ends_nothing_by_a_token() -> None:
    class Endless(Handler):
        pass

    transformers_server.endless(Endless)
    handler, body = Endless(), {"model": "m", "prompt": "p", "ignore_eos": True}
    handler._validate_request(body)
    assert body["ignore_eos"] is True
    made = handler._build_generation_config(body, [2, 7], use_cb=True)
    assert (made.eos_token_id, made.use_cb) == (-1, True)
    for asked in ({"model": "m"}, {"model": "m", "ignore_eos": False}):
        assert handler._build_generation_config(asked, [2, 7]).eos_token_id == [2, 7]
    with pytest.raises(ValueError, match=r"unexpected .*other"):
        handler._validate_request({**body, "other": 1})


def test_the_served_name_means_the_link() -> None:
    resolve = transformers_server.named(Handler._resolve_model, "org/name", "alias")
    assert resolve(Handler(), {"model": "org/name"}) == "alias"
    assert resolve(Handler(), {"model": "alias"}) == "alias"
    with pytest.raises(ValueError, match="pinned"):
        resolve(Handler(), {"model": "another"})


@pytest.mark.parametrize(
    ("path", "headers", "through"),
    [
        ("/v1/models", [(b"authorization", b"Bearer secret")], True),
        ("/v1/models", [(b"host", b"h"), (b"authorization", b"Bearer secret")], True),
        ("/health", [], True),
        ("/v1/models", [], False),
        ("/v1/models", [(b"authorization", b"Bearer ")], False),
        ("/v1/models", [(b"authorization", b"Bearer secre")], False),
        ("/v1/models", [(b"authorization", b"secret")], False),
        ("/v1/models", [(b"authorization", b"Bearer s\xe9cret")], False),
        ("/health/../v1/models", [], False),
    ],
)
def test_nobody_passes_without_the_key(path: str, headers: list[tuple[bytes, bytes]], through: bool) -> None:
    sent: list[dict[str, Any]] = []

    async def app(scope: dict[str, Any], receive: Any, send: Any) -> None:
        await send({"type": "http.response.start", "status": 200})

    async def send(event: dict[str, Any]) -> None:
        sent.append(event)

    guard = transformers_server.Guard(app, "secret")
    asyncio.run(guard({"type": "http", "path": path, "headers": headers}, None, send))
    assert sent[0]["status"] == (200 if through else 401)
    if not through:
        assert json.loads(sent[1]["body"])["error"]["code"] == 401
