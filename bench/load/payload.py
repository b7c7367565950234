"""Request bodies of the OpenAI routes, and the head that goes before them."""

from __future__ import annotations

from typing import Any

from bench.load.config import Api, WorkloadConfig

ROUTES = {Api.completions: "/v1/completions", Api.chat: "/v1/chat/completions"}


def request_body(workload: WorkloadConfig, model: str, prompt: str) -> bytes:
    """The JSON body of one streaming request, usage asked for; `workload.extra` wins over what is set here."""
    import orjson

    body: dict[str, Any] = {
        "model": model,
        "max_tokens": workload.output_tokens,
        "temperature": workload.temperature,
        "stream": True,
        "stream_options": {"include_usage": True},
    }
    if workload.ignore_eos:
        body["ignore_eos"] = True
    if workload.api is Api.chat:
        body["messages"] = [{"role": "user", "content": prompt}]
    else:
        body["prompt"] = prompt
    body.update(workload.extra)
    return orjson.dumps(body)


class RequestHead:
    """Builds the bytes before a body. The API key lives here and in the environment of the process, nowhere else."""

    def __init__(self, *, authority: str, path: str, api_key: str | None, name: str) -> None:
        lines = [
            f"POST {path} HTTP/1.1",
            f"Host: {authority}",
            "Accept: text/event-stream",
            "Accept-Encoding: identity",
            "Content-Type: application/json",
            "User-Agent: quantbench",
        ]
        if api_key:
            lines.append(f"Authorization: Bearer {api_key}")
        self._fixed = "\r\n".join(lines).encode("latin-1")
        self._name = name

    def __call__(self, slot: int, length: int) -> bytes:
        """Head for the request in `slot` with a body of `length` bytes; its id ends in the slot number."""
        return b"%b\r\nX-Request-Id: %b-%d\r\nContent-Length: %d\r\n\r\n" % (
            self._fixed,
            self._name.encode(),
            slot,
            length,
        )
