"""An OpenAI-speaking server whose answers are a function of the request: an instrument with known truth."""

from __future__ import annotations

import contextlib
import json
import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

from bench.base.progress import Progress
from bench.quality.generation.cache import AnswerStore
from bench.quality.generation.session import AttachedServer, Session

#: (route, body) → text, (status, text of the body), or (text, finish reason, extra fields of the message).
Rule = Callable[[str, dict[str, Any]], Any]
KEY = "the-key-of-the-test"


class TruthServer:
    """A running server; `asked` are the bodies it got, `most` the most requests that ran at once."""

    def __init__(self, rule: Rule) -> None:
        self.rule = rule
        self.asked: list[dict[str, Any]] = []
        self.most = self.running = 0
        self.lock = threading.Lock()
        self.url = ""

    @property
    def server(self) -> AttachedServer:
        return AttachedServer(url=self.url, model="m", api_key=KEY)


@contextlib.contextmanager
def serving(rule: Rule) -> Iterator[TruthServer]:
    truth = TruthServer(rule)

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def log_message(self, *_: Any) -> None:
            pass

        def do_POST(self) -> None:
            body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            assert self.headers["Authorization"] == f"Bearer {KEY}"
            with truth.lock:
                truth.running += 1
                truth.most = max(truth.most, truth.running)
                truth.asked.append(body)
            try:
                found = truth.rule(self.path, body)
            finally:
                with truth.lock:
                    truth.running -= 1
            self.answer(found, chat=self.path.endswith("/chat/completions"))

        def answer(self, found: Any, *, chat: bool) -> None:
            if isinstance(found, tuple) and isinstance(found[0], int):
                status, payload = found[0], found[1].encode()
            else:
                text, reason, extra = found if isinstance(found, tuple) else (found, "stop", {})
                content = {"message": {"role": "assistant", "content": text, **extra}} if chat else {"text": text}
                usage = {"prompt_tokens": 7, "completion_tokens": 3}
                status = 200
                payload = json.dumps(
                    {"choices": [{"index": 0, "finish_reason": reason, **content}], "usage": usage}
                ).encode()
            self.send_response(status)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(payload)))
            self.end_headers()
            self.wfile.write(payload)

    httpd = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    httpd.daemon_threads = True
    thread = threading.Thread(target=httpd.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True)
    thread.start()
    truth.url = f"http://127.0.0.1:{httpd.server_address[1]}"
    try:
        yield truth
    finally:
        httpd.shutdown()
        httpd.server_close()
        thread.join()


def session(truth: TruthServer, folder: Path, key: str = "v") -> Session:
    """A served model of its own under evaluation."""
    return Session(
        key=key,
        label=key.upper(),
        server=lambda: truth.server,
        store=AnswerStore(folder / f"{key}.jsonl"),
        progress=Progress(),
        work_dir=folder / "work",
        concurrency=2,
    )
