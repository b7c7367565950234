"""What is asked of an endpoint before anything is measured: does it answer, is the key right, is the model there."""

from __future__ import annotations

import ssl
from typing import TYPE_CHECKING, Any

from bench.base.errors import UsageError, nearest
from bench.load.config import Api
from bench.load.prompts import TokenCounter
from bench.load.target import Address, Target, parse_url

if TYPE_CHECKING:
    import httpx

_TIMEOUT_S = 10.0


def check_endpoint(target: Target) -> None:
    """Raise UsageError when the endpoint cannot be reached, refuses the key, or does not serve the model.

    An endpoint without a usable `/v1/models` is given the benefit of the doubt.
    """
    served = _model_names(_ask_models(target))
    if served and target.model not in served:
        raise UsageError(
            f"endpoint.model '{target.model}' is not served at {target.url}; {nearest(target.model, served)}"
        )


def served_models(target: Target) -> list[str]:
    """The models that `/v1/models` lists, without aliases; empty where it lists none.

    Raises UsageError when the endpoint cannot be reached or refuses the key.
    """
    return _model_names(_ask_models(target), aliases=False)


def _ask_models(target: Target) -> httpx.Response:
    import httpx

    with open_client(target) as client:
        try:
            answer = client.get("/v1/models")
        except httpx.HTTPError as error:
            raise UsageError(f"endpoint.url {target.url}: {_reason(error)}; is a server running there?") from error
    if answer.status_code in (401, 403):
        given = "refuses the given API key" if target.api_key else "wants an API key"
        raise UsageError(f"endpoint.url {target.url} {given}; name its variable with endpoint.api_key_env=VARIABLE")
    return answer


def token_counter(client: httpx.Client, target: Target, api: Api) -> TokenCounter | None:
    """A counter over the endpoint's tokenize route (llama.cpp's or vLLM's), or None when it has none.

    Completions: tokens of the whole prompt, special ones included. Chat: of the message alone.
    """
    special = api is not Api.chat
    dialects = (
        lambda text: {"content": text, "add_special": special},
        lambda text: {"model": target.model, "prompt": text, "add_special_tokens": special},
    )
    for dialect in dialects:

        def count(text: str, dialect: Any = dialect) -> int:
            import httpx

            try:
                answer = client.post("/tokenize", json=dialect(text))
                value = answer.json() if answer.status_code == 200 else {}
            except (httpx.HTTPError, ValueError) as error:
                raise OSError(f"the tokenize route failed: {error}") from error
            tokens = value.get("tokens") if isinstance(value, dict) else None
            if not isinstance(tokens, list):
                raise OSError(f"the tokenize route answered HTTP {answer.status_code}")
            return len(tokens)

        try:
            if count("one two three") > 0:
                return count
        except OSError:
            continue
    return None


def open_client(target: Target) -> httpx.Client:
    """An HTTP client for the few requests outside the measurement: no proxies, no redirects."""
    import httpx

    address = parse_url(target.url)
    verify: ssl.SSLContext | bool = ssl.create_default_context(cafile=target.ca_file) if address.tls else False
    transport = httpx.HTTPTransport(verify=verify, uds=address.unix)
    headers = {"Authorization": f"Bearer {target.api_key}"} if target.api_key else {}
    return httpx.Client(
        transport=transport, base_url=_base_url(address), headers=headers, timeout=_TIMEOUT_S, trust_env=False
    )


def _base_url(address: Address) -> str:
    return f"{'https' if address.tls else 'http'}://{address.authority}{address.path}"


def _model_names(answer: httpx.Response, *, aliases: bool = True) -> list[str]:
    if answer.status_code != 200:
        return []
    try:
        entries = answer.json()["data"]
        names = [str(entry["id"]) for entry in entries]
        return names + [str(alias) for entry in entries if aliases for alias in entry.get("aliases", [])]
    except (ValueError, KeyError, TypeError, AttributeError):
        return []


def _reason(error: Exception) -> str:
    return str(error) or type(error).__name__
