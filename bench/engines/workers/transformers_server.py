"""Serve a checkpoint with transformers' own server. Runs inside a toolchain with transformers, never in the harness.

`python -I transformers_server.py '{"model": …, "alias": …, "options": {…}}'`; the API key comes from
TRANSFORMERS_API_KEY. The server itself knows no key, and calls a model by its path: both are put right here.
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


def guarded(build: Callable[..., Any], key: str) -> Callable[..., Any]:
    """`build_server` whose application refuses requests without the key."""

    def build_guarded(*arguments: Any, **options: Any) -> Any:
        from fastapi import Request
        from fastapi.responses import JSONResponse

        app = build(*arguments, **options)

        async def check(request: Request, call_next: Callable[[Request], Awaitable[Any]]) -> Any:
            given = request.headers.get("authorization", "").removeprefix("Bearer ")
            if request.url.path not in OPEN and not hmac.compare_digest(given.encode(), key.encode()):
                return JSONResponse({"error": {"message": "Invalid API Key", "code": 401}}, status_code=401)
            return await call_next(request)

        app.middleware("http")(check)
        return app

    return build_guarded


def main() -> None:
    """Serve until SIGTERM."""
    import torch
    from transformers.cli import serve
    from transformers.cli.serving import server

    settings = json.loads(sys.argv[1])
    if settings["threads"] is not None:
        torch.set_num_threads(settings["threads"])
    server.build_server = guarded(server.build_server, os.environ.pop("TRANSFORMERS_API_KEY"))
    with tempfile.TemporaryDirectory(prefix="quantbench-transformers-") as folder:
        # A model is called by the folder it is loaded from: a link of that name, seen from here.
        Path(folder, settings["alias"]).symlink_to(settings["model"])
        os.chdir(folder)
        serve.Serve(force_model=settings["alias"], **settings["options"])


if __name__ == "__main__":
    main()
