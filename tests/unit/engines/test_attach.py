"""Servers that run already: taken as they are, refused in the engine's own terms."""

from __future__ import annotations

import dataclasses
import http.server
import json
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from bench.base.errors import UsageError
from bench.base.progress import Progress
from bench.engines.base import EngineConfig, ServedModel, SupportAnswer, engine_of
from bench.engines.launch import Endpoint, launched
from bench.engines.llama_cpp import LlamaCppConfig
from bench.engines.openai import OpenAiConfig

MODEL = ServedModel(format="served", path=Path("nowhere"), name="ours")
METRICS = "# TYPE llamacpp:tokens_predicted_total counter\nllamacpp:tokens_predicted_total 42\n"


class Handler(http.server.BaseHTTPRequestHandler):
    models: tuple[str, ...] = ()

    def do_GET(self) -> None:
        if self.headers["Authorization"] != "Bearer right":
            self.answer(401, "no")
        elif self.path == "/v1/models":
            self.answer(200, json.dumps({"data": [{"id": name, "aliases": [name]} for name in self.models]}))
        else:
            self.answer(200, METRICS) if self.path == "/metrics" else self.answer(404, "")

    def answer(self, status: int, text: str) -> None:
        self.send_response(status)
        self.send_header("Content-Length", str(len(text)))
        self.end_headers()
        self.wfile.write(text.encode())

    def log_message(self, *_: object) -> None:
        return


@pytest.fixture
def url(monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    monkeypatch.setenv("OWN_KEY", "right")
    monkeypatch.setattr(Handler, "models", ("smol",))
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_address[1]}/v1"
    server.shutdown()
    server.server_close()


def attach(config: EngineConfig, tmp_path: Path) -> Endpoint:
    log = tmp_path / "engine.log"
    with launched(engine_of(config), config, MODEL, toolchain=None, log=log, progress=Progress()) as endpoint:
        return endpoint


def test_nothing_is_started_and_its_only_model_is_found(url: str, tmp_path: Path) -> None:
    endpoint = attach(OpenAiConfig(base_url=url, api_key_env="OWN_KEY"), tmp_path)
    assert (endpoint.url, endpoint.model) == (url.removesuffix("/v1"), "smol")
    assert endpoint.process is None
    assert endpoint.tree_pid is None
    assert endpoint.ready_s is None
    assert endpoint.alive
    assert endpoint.counters() is None
    assert "right" not in repr(endpoint)
    endpoint.raise_if_dead()


def test_an_attached_llama_server_is_read_as_one(url: str, tmp_path: Path) -> None:
    counters = attach(LlamaCppConfig(base_url=url, api_key_env="OWN_KEY"), tmp_path).counters()
    assert counters is not None
    assert counters.generation_tokens == 42


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"api_key_env": "NO_SUCH"}, "^engine.api_key_env: the environment variable NO_SUCH is not set"),
        ({"api_key_env": ""}, "^engine.base_url .* wants an API key; name its variable with engine.api_key_env="),
        ({"served_name": "other"}, "^engine.served_name 'other' is not served at"),
        ({"base_url": "http://127.0.0.1:1"}, "^engine.base_url http://127.0.0.1:1: .* is a server running there"),
    ],
)
def test_what_cannot_be_used_is_said_in_the_engines_terms(
    url: str, tmp_path: Path, settings: dict[str, Any], message: str
) -> None:
    with pytest.raises(UsageError, match=message):
        attach(OpenAiConfig(**{"base_url": url, "api_key_env": "OWN_KEY", **settings}), tmp_path)


@pytest.mark.parametrize(
    ("url", "message"),
    [
        ("ftp://x", "^engine.base_url 'ftp://x' is not an http or https URL"),
        ("http://me:secret@127.0.0.1:1/v1", "^engine.base_url: credentials do not belong in a URL; use engine.api_key"),
        ("me:se/cret@127.0.0.1", "^engine.base_url: credentials do not belong in a URL"),
        ("http://127.0.0.1:port", "^engine.base_url 'http://127.0.0.1:port'"),
    ],
)
def test_what_is_no_url_is_refused_when_it_is_read(url: str, message: str) -> None:
    with pytest.raises(ValueError, match=message) as caught:
        OpenAiConfig(base_url=url)
    assert "cret" not in str(caught.value)


def test_of_several_models_one_must_be_named(url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Handler, "models", ("a", "b"))
    with pytest.raises(UsageError, match=r"engine\.served_name: the server at .* serves a, b; name one"):
        attach(OpenAiConfig(base_url=url, api_key_env="OWN_KEY"), tmp_path)
    assert attach(OpenAiConfig(base_url=url, api_key_env="OWN_KEY", served_name="b"), tmp_path).model == "b"


@pytest.mark.parametrize("setting", ["served_name", "api_key_env"])
def test_settings_of_attaching_belong_to_it(setting: str) -> None:
    with pytest.raises(ValueError, match=f"engine.{setting} belongs to a server that runs already"):
        dataclasses.replace(LlamaCppConfig(), **{setting: "x"})  # type: ignore[arg-type]  # a name by parameter


def test_openai_starts_nothing_and_scores_no_hugging_face_variant() -> None:
    def serves(config: EngineConfig, model_format: str) -> tuple[SupportAnswer, str]:
        answer = engine_of(config).serves(config, model_format)
        return answer.answer, answer.reason

    assert "give engine.base_url" in serves(OpenAiConfig(), "served")[1]
    attached = OpenAiConfig(base_url="http://x")
    assert serves(attached, "served") == serves(attached, "gguf") == (SupportAnswer.YES, "")
    assert "use scheme=as_served" in serves(attached, "hf")[1]
    assert "give engine.base_url" in serves(LlamaCppConfig(), "served")[1]
    assert serves(LlamaCppConfig(base_url="http://x"), "served")[0] is SupportAnswer.YES
