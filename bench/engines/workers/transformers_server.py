"""Serve a checkpoint with transformers' own server. Runs inside a toolchain with transformers, never in the harness.

`python -I transformers_server.py '{"model": …, "name": …, "alias": …, "threads": …, "options": {…}}'`; the API key
comes from TRANSFORMERS_API_KEY. The server itself knows no key, calls a model by its path, lists what is in the hub's
cache as its models, and refuses requests with `ignore_eos`, which other servers take: that is put right here.
"""

import hmac
import json
import os
import sys
import tempfile
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

#: What anyone may ask.
OPEN = ("/health",)
#: No token: transformers' word for an answer that only its length ends.
NO_EOS = -1


class Guard:
    """An ASGI application in front of another that lets nobody without the key through.

    Not a middleware of the framework, which would hand every event of a stream through a queue of its own.
    """

    def __init__(self, app: Callable[..., Awaitable[None]], key: str) -> None:
        self._app = app
        self._expected = f"Bearer {key}".encode()

    async def __call__(self, scope: dict[str, Any], receive: Any, send: Callable[..., Awaitable[None]]) -> None:
        """Answer 401, or pass the request on."""
        if scope["type"] != "http" or scope["path"] in OPEN or self._knows_the_key(scope):
            await self._app(scope, receive, send)
            return
        body = json.dumps({"error": {"message": "Invalid API Key", "code": 401}}).encode()
        headers = [(b"content-type", b"application/json"), (b"content-length", str(len(body)).encode())]
        await send({"type": "http.response.start", "status": 401, "headers": headers})
        await send({"type": "http.response.body", "body": body})

    def _knows_the_key(self, scope: dict[str, Any]) -> bool:
        given = dict(scope["headers"]).get(b"authorization", b"")
        return hmac.compare_digest(given, self._expected)


def guarded(build: Callable[..., Any], key: str) -> Callable[..., Any]:
    """`build_server` whose application refuses requests without the key."""

    def build_guarded(*arguments: Any, **options: Any) -> Any:
        app = build(*arguments, **options)
        app.add_middleware(Guard, key=key)
        return app

    return build_guarded


def named(resolve: Callable[..., Any], name: str, alias: str) -> Callable[..., Any]:
    """A handler's `_resolve_model` to which the served `name` is the model at `alias`."""

    def resolve_named(handler: Any, body: dict[str, Any]) -> Any:
        if body.get("model") == name:
            body["model"] = alias
        return resolve(handler, body)

    return resolve_named


def endless(handler: Any) -> None:
    """Have a class of handlers take `ignore_eos`."""
    validate, build = handler._validate_request, handler._build_generation_config

    def validate_others(self: Any, body: dict[str, Any]) -> Any:
        return validate(self, {field: value for field, value in body.items() if field != "ignore_eos"})

    def build_endless(self: Any, body: dict[str, Any], *arguments: Any, **options: Any) -> Any:
        config = build(self, body, *arguments, **options)
        if body.get("ignore_eos"):
            config.eos_token_id = NO_EOS
        return config

    handler._validate_request, handler._build_generation_config = validate_others, build_endless


def listing(name: str) -> Callable[..., list[dict[str, Any]]]:
    """What `/v1/models` answers: the one that is served."""

    def models(*_: Any, **__: Any) -> list[dict[str, Any]]:
        return [{"id": name, "object": "model", "created": 0, "owned_by": "quantbench"}]

    return models


def main() -> None:
    """Serve until SIGTERM."""
    import torch
    from transformers.cli import serve
    from transformers.cli.serving import model_manager, server, utils

    settings = json.loads(sys.argv[1])
    if settings["threads"] is not None:
        torch.set_num_threads(settings["threads"])
    server.build_server = guarded(server.build_server, os.environ.pop("TRANSFORMERS_API_KEY"))
    endless(utils.BaseHandler)
    model_manager.ModelManager.get_gen_models = staticmethod(listing(settings["name"]))
    resolve = utils.BaseHandler._resolve_model
    utils.BaseHandler._resolve_model = named(resolve, settings["name"], settings["alias"])
    with tempfile.TemporaryDirectory(prefix="quantbench-transformers-") as folder:
        # A model is called by the folder it is loaded from: a link of that name, seen from here.
        Path(folder, settings["alias"]).symlink_to(settings["model"])
        os.chdir(folder)
        serve.Serve(force_model=settings["alias"], **settings["options"])


if __name__ == "__main__":
    main()
