"""Log-probabilities that running servers give: of a prompt's tokens, of chosen next tokens, of the likeliest next ones.

Each kind of server has its own request and answer; a `LogprobRoute` holds them, with what the server lacks. All are in
nat, over the whole vocabulary before any sampling.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from bench.base.errors import CellFailure, FailureKind, UsageError

if TYPE_CHECKING:
    from bench.engines.running import Endpoint

Body = dict[str, Any]


@dataclass(frozen=True, kw_only=True)
class Asked:
    """What is asked in one request: the prompt as ids or as text, and `chosen` ids or the `top` of the next token.

    `prompt_top`: at every place of the prompt so many of the likeliest tokens beside the prompt's own. `generate`: so
    many tokens, one after the other. `reuse`: whether what the server has computed of the same beginning may be used
    again.
    """

    model: str
    prompt: Sequence[int] | str
    chosen: Sequence[int] = ()
    top: int = 0
    prompt_top: int = 0
    generate: int = 1
    reuse: bool = False


class LogprobRoute:
    """How one kind of server is asked. A subclass says what it gives, and reads its answers; all may raise KeyError,
    TypeError or IndexError on an answer of another form.

    `prompt`: of a prompt's own tokens; `chosen`: of any token that is named; `most`: how many of the likeliest next
    tokens, 0 for none; `token_ids`: prompts may be ids, else they are text that the server tokenizes.
    """

    path = "/v1/completions"
    prompt = False
    chosen = False
    most = 0
    token_ids = True
    tokenizer = "/tokenize"

    def tokenize_body(self, asked_model: str, text: str, *, special: bool) -> Body:
        """The request for a text's ids; `special`: with the BOS that the model puts before a prompt, if it does."""
        return {"model": asked_model, "prompt": text, "add_special_tokens": special}

    def tokens(self, answer: Any) -> list[int]:
        """A text's ids."""
        return [int(token) for token in answer["tokens"]]

    def prompt_tops(self, answer: Any) -> list[Mapping[int, float]]:
        """Of every prompt token but the first and of the likeliest in its place, by id."""
        raise KeyError("prompt_tops")

    def generated(self, answer: Any) -> list[tuple[int, float]]:
        """Each generated token's id and its log-probability when it was chosen."""
        raise KeyError("generated")

    def body(self, asked: Asked) -> Body:
        """The request."""
        raise NotImplementedError

    def prompt_logprobs(self, answer: Any) -> list[float]:
        """Of every prompt token but the first, each after those before it."""
        raise NotImplementedError

    def next_logprobs(self, answer: Any) -> Mapping[int | str, float]:
        """Of the next token: by id, or by its text where the server gives no ids."""
        raise NotImplementedError


class OpenAiCompletions(LogprobRoute):
    """`logprobs` of the completions API: at most five, by the tokens' texts."""

    most = 5
    token_ids = False

    def body(self, asked: Asked) -> Body:
        """`logprobs`: how many."""
        return {"model": asked.model, "prompt": asked.prompt, "max_tokens": 1, "temperature": 0, "logprobs": asked.top}

    def next_logprobs(self, answer: Any) -> Mapping[int | str, float]:
        """The first generated token's `top_logprobs`."""
        found: Mapping[int | str, float] = answer["choices"][0]["logprobs"]["top_logprobs"][0]
        return found


class VllmCompletions(LogprobRoute):
    """vLLM's completions API with its own `prompt_logprobs` and `logprob_token_ids` (protocol of 0.32)."""

    prompt = True
    chosen = True
    most = 20

    def body(self, asked: Asked) -> Body:
        """Tokens come back as `token_id:NUMBER`."""
        prompt = asked.prompt if isinstance(asked.prompt, str) else list(asked.prompt)
        body: Body = {"model": asked.model, "prompt": prompt, "max_tokens": asked.generate, "temperature": 0}
        body["return_tokens_as_token_ids"] = True
        if asked.generate > 1:
            body["ignore_eos"] = True
        if asked.chosen:
            return {**body, "logprobs": 1, "logprob_token_ids": list(asked.chosen)}
        return {**body, "logprobs": asked.top} if asked.top else {**body, "prompt_logprobs": asked.prompt_top}

    def prompt_tops(self, answer: Any) -> list[Mapping[int, float]]:
        """A mapping by id for each token but the first, its own entry among them."""
        entries = answer["choices"][0]["prompt_logprobs"][1:]
        return [{int(token): told["logprob"] for token, told in entry.items()} for entry in entries]

    def generated(self, answer: Any) -> list[tuple[int, float]]:
        """Tokens as `token_id:NUMBER` beside their log-probabilities."""
        told = answer["choices"][0]["logprobs"]
        pairs = zip(told["tokens"], told["token_logprobs"], strict=True)
        return [(int(token.removeprefix("token_id:")), logprob) for token, logprob in pairs]

    def prompt_logprobs(self, answer: Any) -> list[float]:
        """A list with nothing for the first token, and one entry, the token's own, for each further one."""
        return [next(iter(entry.values()))["logprob"] for entry in answer["choices"][0]["prompt_logprobs"][1:]]

    def next_logprobs(self, answer: Any) -> Mapping[int | str, float]:
        """By id."""
        top = answer["choices"][0]["logprobs"]["top_logprobs"][0]
        return {int(token.removeprefix("token_id:")): logprob for token, logprob in top.items()}


class LlamaServerCompletion(LogprobRoute):
    """llama-server's own completion route: the likeliest next tokens, as many as asked; nothing of the prompt."""

    path = "/completion"
    most = 1 << 20

    def body(self, asked: Asked) -> Body:
        """Probabilities before sampling; prompts are not cached unless asked, so that they are computed alike."""
        prompt = asked.prompt if isinstance(asked.prompt, str) else list(asked.prompt)
        body: Body = {"prompt": prompt, "n_predict": asked.generate, "temperature": 0, "n_probs": max(1, asked.top)}
        if asked.generate > 1:
            body["ignore_eos"] = True
        return {**body, "cache_prompt": asked.reuse}

    def tokenize_body(self, asked_model: str, text: str, *, special: bool) -> Body:
        """`add_special`: a BOS where the vocabulary adds one. Special tokens are parsed with it, as in a prompt."""
        return {"content": text, "add_special": special, "parse_special": special}

    def generated(self, answer: Any) -> list[tuple[int, float]]:
        """One entry a token."""
        return [(entry["id"], entry["logprob"]) for entry in answer["completion_probabilities"]]

    def next_logprobs(self, answer: Any) -> Mapping[int | str, float]:
        """By id."""
        return {entry["id"]: entry["logprob"] for entry in answer["completion_probabilities"][0]["top_logprobs"]}


class SglangGenerate(LogprobRoute):
    """SGLang's own route with `return_logprob` (`GenerateReqInput` of 0.5.23)."""

    path = "/generate"
    prompt = True
    chosen = True
    most = 1 << 20

    def body(self, asked: Asked) -> Body:
        """`logprob_start_len` 0: of the whole prompt."""
        prompt = {"text": asked.prompt} if isinstance(asked.prompt, str) else {"input_ids": list(asked.prompt)}
        sampling: Body = {"max_new_tokens": asked.generate, "temperature": 0}
        if asked.generate > 1:
            sampling["ignore_eos"] = True
        body: Body = {**prompt, "sampling_params": sampling, "return_logprob": True}
        if asked.chosen:
            return {**body, "token_ids_logprob": list(asked.chosen)}
        if asked.prompt_top:
            return {**body, "logprob_start_len": 0, "top_logprobs_num": asked.prompt_top}
        return {**body, "top_logprobs_num": asked.top} if asked.top else {**body, "logprob_start_len": 0}

    def prompt_tops(self, answer: Any) -> list[Mapping[int, float]]:
        """The likeliest of each place, and the prompt's own token."""
        told = answer["meta_info"]
        pairs = zip(told["input_token_logprobs"][1:], told["input_top_logprobs"][1:], strict=True)
        return [{**{entry[1]: entry[0] for entry in top or ()}, own[1]: own[0]} for own, top in pairs]

    def generated(self, answer: Any) -> list[tuple[int, float]]:
        """Entries as for the prompt."""
        return [(entry[1], entry[0]) for entry in answer["meta_info"]["output_token_logprobs"]]

    def prompt_logprobs(self, answer: Any) -> list[float]:
        """Entries are (log-probability, id, text); the first token's is empty."""
        return [entry[0] for entry in answer["meta_info"]["input_token_logprobs"][1:]]

    def next_logprobs(self, answer: Any) -> Mapping[int | str, float]:
        """By id, of the chosen ones where they were asked for."""
        told = answer["meta_info"]
        entries = (told.get("output_token_ids_logprobs") or told["output_top_logprobs"])[0]
        return {entry[1]: entry[0] for entry in entries}


class TgiGenerate(LogprobRoute):
    """TGI's own route: `decoder_input_details` for the prompt, at most five of the next token; prompts are text."""

    path = "/generate"
    prompt = True
    most = 5
    token_ids = False

    def body(self, asked: Asked) -> Body:
        """`details` carry both."""
        parameters: Body = {"max_new_tokens": 1, "details": True, "decoder_input_details": not asked.top}
        if asked.top:
            parameters["top_n_tokens"] = asked.top
        return {"inputs": asked.prompt, "parameters": parameters}

    def prompt_logprobs(self, answer: Any) -> list[float]:
        """The first token's is null."""
        return [token["logprob"] for token in answer["details"]["prefill"][1:]]

    def next_logprobs(self, answer: Any) -> Mapping[int | str, float]:
        """By id."""
        return {token["id"]: token["logprob"] for token in answer["details"]["top_tokens"][0]}


def prompt_logprobs(endpoint: Endpoint, prompt: Sequence[int] | str) -> list[float]:
    """Log-probabilities of every prompt token but the first; raises UsageError where the engine gives none."""
    route = route_of(endpoint)
    if not route.prompt:
        raise UsageError(f"{endpoint.engine.kind} gives no log-probabilities of prompts")
    found = _read(endpoint, route, Asked(model=endpoint.model, prompt=prompt), route.prompt_logprobs)
    return [_finite(endpoint, value) for value in found]


def next_logprobs(endpoint: Endpoint, prompt: Sequence[int] | str, wanted: Sequence[int]) -> list[float | None]:
    """Log-probabilities of the tokens `wanted` after a prompt.

    Where an engine is not asked for named tokens, those that are not among its likeliest ones are None.
    """
    route = route_of(endpoint)
    if route.chosen:
        asked = Asked(model=endpoint.model, prompt=prompt, chosen=wanted)
    elif route.most and route.token_ids:
        asked = Asked(model=endpoint.model, prompt=prompt, top=min(route.most, 200))
    else:
        raise UsageError(f"{endpoint.engine.kind} gives no log-probabilities by a token's id")
    found = _read(endpoint, route, asked, route.next_logprobs)
    return [None if token not in found else _finite(endpoint, found[token]) for token in wanted]


def top_logprobs(endpoint: Endpoint, prompt: Sequence[int] | str, top: int) -> Mapping[int | str, float]:
    """The likeliest next tokens, by id or by text; raises UsageError where the engine gives fewer than `top`."""
    route = route_of(endpoint)
    if top > route.most:
        raise UsageError(f"{endpoint.engine.kind} gives the {route.most} likeliest next tokens at most, not {top}")
    asked = Asked(model=endpoint.model, prompt=prompt, top=top)
    found: Mapping[int | str, float] = _read(endpoint, route, asked, route.next_logprobs)
    return found


def route_of(endpoint: Endpoint) -> LogprobRoute:
    """The engine's route; raises UsageError where it gives no log-probabilities at all."""
    route = endpoint.engine.logprobs
    if route is None:
        raise UsageError(f"{endpoint.engine.kind} gives no log-probabilities")
    return route


def _read(endpoint: Endpoint, route: LogprobRoute, asked: Asked, read: Any) -> Any:
    """One request; raises CellFailure where the server refuses it or answers in another form."""
    import httpx

    if not route.token_ids and not isinstance(asked.prompt, str):
        raise UsageError(f"{endpoint.engine.kind} takes prompts as text here, not as token ids")
    with endpoint.client() as client:
        try:
            answer = client.post(route.path, json=route.body(asked), timeout=300.0)
            answer.raise_for_status()
            return read(answer.json())
        except httpx.HTTPStatusError as error:
            said = f"HTTP {error.response.status_code}: {error.response.text[:200]}"
            raise _failed(endpoint, said) from error
        except httpx.HTTPError as error:
            raise _failed(endpoint, type(error).__name__) from error
        except (KeyError, TypeError, IndexError, ValueError, StopIteration, AttributeError) as error:
            raise _failed(endpoint, f"its answer has another form ({type(error).__name__}: {error})") from error


def _failed(endpoint: Endpoint, said: str) -> CellFailure:
    message = f"{endpoint.engine.kind} gave no log-probabilities: {said}"
    return CellFailure(FailureKind.EVALUATOR, message, log_tail=endpoint.said)


def _finite(endpoint: Endpoint, value: float) -> float:
    if not math.isfinite(value):
        raise _failed(endpoint, f"one of them is {value}")
    return value
