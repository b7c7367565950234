"""A server that answers like a hub's API, as far as fetching files asks: an instrument for tests."""

from __future__ import annotations

import contextlib
import hashlib
import json
import threading
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import unquote

import huggingface_hub.constants
import pytest


@dataclass(kw_only=True)
class Repo:
    """Files at one commit. `token`: the only one that gets in; `gated`: how it says so."""

    files: Mapping[str, bytes]
    commit: str = "c" * 40
    branches: tuple[str, ...] = ("main",)
    token: str | None = None
    gated: bool = False
    license: str = "apache-2.0"
    says_size: dict[str, int] = field(default_factory=dict)


class FakeHub:
    """Serves `repos` on 127.0.0.1; `requests` lists method and path, `tokens` what was sent.

    A model is called `ORG/NAME`, a dataset `datasets/ORG/NAME`.
    """

    def __init__(self) -> None:
        self.repos: dict[str, Repo] = {}
        self.requests: list[str] = []
        self.tokens: set[str | None] = set()
        hub = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_GET(self) -> None:
                hub.answer(self)

            def do_HEAD(self) -> None:
                hub.answer(self)

            def log_message(self, *arguments: Any) -> None:
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True
        self.url = f"http://127.0.0.1:{self._server.server_port}"
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.02,))
        self._thread.start()

    def close(self) -> None:
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()

    @property
    def fetched(self) -> list[str]:
        """Names of the files whose content was sent."""
        return sorted(
            line.rpartition("/")[2] for line in self.requests if line.startswith("GET") and "/resolve/" in line
        )

    def answer(self, handler: BaseHTTPRequestHandler) -> None:  # noqa: PLR0911 - one an answer
        path = unquote(handler.path.partition("?")[0])
        self.requests.append(f"{handler.command} {path}")
        token = (handler.headers.get("Authorization") or "").removeprefix("Bearer ") or None
        self.tokens.add(token)
        if path.startswith("/api/models/"):
            name, _, revision = path.removeprefix("/api/models/").partition("/revision/")
            file = None
        else:
            name, _, rest = path.removeprefix("/").partition("/resolve/")
            revision, _, file = rest.partition("/")
        repo = self.repos.get(name)
        if repo is None:
            return self._refuse(handler, 401 if token is None else 404, "RepoNotFound")
        if revision not in (*repo.branches, repo.commit):
            return self._refuse(handler, 404, "RevisionNotFound")
        if file is None:
            if repo.token is not None and not repo.gated and token != repo.token:
                return self._refuse(handler, 404, "RepoNotFound")
            return self._send(
                handler, json.dumps(self._info(name, repo)).encode(), {"Content-Type": "application/json"}
            )
        if repo.gated and token != repo.token:
            return self._refuse(handler, 403 if token else 401, "GatedRepo")
        if file not in repo.files:
            return self._refuse(handler, 404, "EntryNotFound")
        content = repo.files[file]
        etag = hashlib.sha256(content).hexdigest()
        return self._send(handler, content, {"ETag": f'"{etag}"', "X-Repo-Commit": repo.commit})

    def _info(self, name: str, repo: Repo) -> dict[str, Any]:
        siblings = [
            {"rfilename": file, "size": repo.says_size.get(file, len(content))} for file, content in repo.files.items()
        ]
        return {
            "_id": "1",
            "id": name,
            "modelId": name,
            "sha": repo.commit,
            "private": False,
            "gated": "manual" if repo.gated else False,
            "tags": [],
            "cardData": {"license": repo.license},
            "siblings": siblings,
        }

    def _refuse(self, handler: BaseHTTPRequestHandler, status: int, code: str) -> None:
        self._send(handler, b"{}", {"X-Error-Code": code, "X-Error-Message": code}, status)

    @staticmethod
    def _send(handler: BaseHTTPRequestHandler, content: bytes, headers: Mapping[str, str], status: int = 200) -> None:
        handler.send_response(status)
        for key, value in headers.items():
            handler.send_header(key, value)
        handler.send_header("Content-Length", str(len(content)))
        handler.end_headers()
        if handler.command == "GET":
            handler.wfile.write(content)


@contextlib.contextmanager
def the_hub(folder: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[FakeHub]:
    """A hub of the test's own that huggingface_hub in this process asks, with its cache below `folder`."""
    server = FakeHub()
    for name in ("HF_TOKEN", "HUGGING_FACE_HUB_TOKEN"):
        monkeypatch.delenv(name, raising=False)
    constants = huggingface_hub.constants
    monkeypatch.setattr(constants, "ENDPOINT", server.url)
    template = f"{server.url}/{{repo_id}}/resolve/{{revision}}/{{filename}}"
    monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", template)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(folder / "hf" / "hub"))
    monkeypatch.setattr(constants, "HF_TOKEN_PATH", str(folder / "hf" / "token"))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    try:
        yield server
    finally:
        server.close()
