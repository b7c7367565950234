"""The imaginary engine's server: `HOST PORT BEHAVIOUR`. A test instrument."""

import http.server
import json
import os
import signal
import sys
import time
from pathlib import Path

KEY = os.environ["IMAGINARY_KEY"]
HOST, PORT, BEHAVIOUR = sys.argv[1], int(sys.argv[2]), sys.argv[3]
TRIED = Path(os.environ.get("TMPDIR", ".")) / "tried"
answered: list[str] = []


class Handler(http.server.BaseHTTPRequestHandler):
    def answer(self, status: int, body: str) -> None:
        self.send_response(status)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body.encode())

    def do_GET(self) -> None:
        if self.path == "/metrics":
            text = "# TYPE imaginary:generation_tokens_total counter\nimaginary:generation_tokens_total"
            self.answer(200, f"{text} {len(answered)}\n")
        else:
            self.answer(200, "ok")

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        if self.headers["Authorization"] != f"Bearer {KEY}":
            self.answer(401, "wrong key")
        elif BEHAVIOUR in ("never_generates", "never_generates_and_logs"):
            self.answer(503, "loading")
        elif BEHAVIOUR == "refuses_and_logs":
            self.answer(404, "no such model")
        elif self.path != "/v1/completions":
            self.answer(404, "no such route")
        elif body.get("stream"):
            self.stream(body["max_tokens"])
        else:
            answered.append("x")
            self.answer(200, json.dumps({"choices": [{"text": "x"}]}))

    def stream(self, tokens: int) -> None:
        self.send_response(200)
        self.send_header("Content-Type", "text/event-stream")
        self.end_headers()
        for number in range(tokens):
            answered.append("x")
            finished = "length" if number + 1 == tokens else None
            self.event({"choices": [{"text": "x", "finish_reason": finished}]})
            time.sleep(0.002)
        self.event({"choices": [], "usage": {"prompt_tokens": 8, "completion_tokens": tokens}})
        self.wfile.write(b"data: [DONE]\n\n")

    def event(self, value: object) -> None:
        self.wfile.write(b"data: " + json.dumps(value).encode() + b"\n\n")

    def log_message(self, *_: object) -> None:
        if BEHAVIOUR.endswith("_and_logs"):
            print(f"{self.command} {self.path}", flush=True)


if BEHAVIOUR == "dies":
    print("loading weights", flush=True)
    print("fatal: no such tensor", flush=True)
    sys.exit(7)
if BEHAVIOUR == "out_of_memory":
    print("ggml_backend_alloc: failed to allocate buffer of size 99999999999", flush=True)
    os.abort()
if BEHAVIOUR == "port_taken_once" and not TRIED.exists():
    TRIED.touch()
    print("couldn't bind HTTP server socket", flush=True)
    sys.exit(1)
if BEHAVIOUR == "stops":
    print("loading weights", flush=True)
    os.kill(os.getpid(), signal.SIGSTOP)
if BEHAVIOUR == "works_long":
    until = time.monotonic() + 3
    while time.monotonic() < until:
        pass
if BEHAVIOUR == "tells_env":
    print(*(f"{name}={os.environ.get(name)}" for name in ("PLAIN", "TOKEN", "CUDA_VISIBLE_DEVICES")), flush=True)
if BEHAVIOUR == "slow":
    time.sleep(0.5)
print("listening", flush=True)
http.server.ThreadingHTTPServer((HOST, PORT), Handler).serve_forever()
