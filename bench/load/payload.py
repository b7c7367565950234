"""Routes and request bodies of the protocols, and the head that goes before them."""

from __future__ import annotations

from typing import Any, NamedTuple

from bench.load.config import Api, WorkloadConfig
from bench.load.workloads.draft import Draft

ROUTES = {
    Api.completions: "/v1/completions",
    Api.chat: "/v1/chat/completions",
    Api.llama_cpp: "/completion",
}

BETWEEN_TURNS = "\\n\\n"
"""What goes between the turns of a session in a completion's prompt, as it stands in JSON."""


class Body(NamedTuple):
    """A JSON body. In a session, what earlier turns said goes in at `insert_at`, and `own_length` bytes from there are
    this turn's part of what later ones begin with."""

    content: bytes
    insert_at: int = 0
    own_length: int = 0


def request_body(workload: WorkloadConfig, model: str, draft: Draft, *, in_session: bool = False) -> Body:
    """The JSON body of one streaming request, usage asked for.

    `workload.extra`, and before it `draft.extra`, win over what is set here; null there takes a key out.
    """
    import orjson

    keys = _keys(workload, model, draft)
    if not in_session:
        return Body(orjson.dumps(keys))
    if workload.api is Api.chat:
        *before, own = keys.pop("messages")
        opening = b'{"messages":[' + b"".join(orjson.dumps(message) + b"," for message in before)
        said, closing = orjson.dumps(own), b"],"
    else:
        opening, closing = b'{"prompt":"', b'",'
        said = orjson.dumps(keys.pop("prompt"))[1:-1]
    return Body(opening + said + closing + orjson.dumps(keys)[1:], len(opening), len(said))


def spoken(api: Api, own: bytes, answer: str) -> bytes:
    """What a turn adds to the bodies of those after it: its own part and the answer."""
    import orjson

    said = orjson.dumps(answer)
    if api is Api.chat:
        return own + b',{"role":"assistant","content":' + said + b"},"
    return own + said[1:-1] + BETWEEN_TURNS.encode()


def _keys(workload: WorkloadConfig, model: str, draft: Draft) -> dict[str, Any]:
    keys: dict[str, Any] = {"model": model, "temperature": workload.temperature, "stream": True}
    if workload.api is Api.llama_cpp:
        keys |= {"n_predict": draft.output_tokens, "return_tokens": True}
    else:
        keys |= {"max_tokens": draft.output_tokens, "stream_options": {"include_usage": True}}
    if workload.ignore_eos:
        keys["ignore_eos"] = True
    sampling = {name: getattr(workload, name) for name in ("top_p", "top_k", "min_p")}
    sampling |= {"stop": workload.stop or None, "seed": workload.sampling_seed}
    keys |= {name: value for name, value in sampling.items() if value is not None}
    if workload.api is Api.chat:
        messages = [{"role": "user", "content": draft.prompt}] if draft.messages is None else list(draft.messages)
        system = [{"role": "system", "content": workload.system}] if workload.system else []
        keys["messages"] = [*system, *messages]
    else:
        keys["prompt"] = draft.prompt
    extra = {**workload.extra, **draft.extra}
    return {name: value for name, value in (keys | extra).items() if not (name in extra and value is None)}


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
