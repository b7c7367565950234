"""A served model, as tasks ask it: what it answered before comes from disk, and only the rest needs a server."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

from bench.base.errors import CellFailure, FailureKind
from bench.base.progress import Progress
from bench.load.target import Target
from bench.quality.generation.ask import Answer, AskError, Request
from bench.quality.generation.cache import AnswerStore
from bench.quality.generation.client import Limits, ask_all

if TYPE_CHECKING:
    from bench.toolchains.toolchain import Toolchain


class RunningServer(Protocol):
    """What is needed of a server: bench.engines.running.Endpoint is one."""

    @property
    def url(self) -> str:
        """Its base, without `/v1`."""
        ...

    @property
    def model(self) -> str:
        """What requests call the model."""
        ...

    @property
    def api_key(self) -> str:
        """Empty where none is asked for."""
        ...

    @property
    def alive(self) -> bool:
        """False once it has ended."""
        ...

    def raise_if_dead(self) -> None:
        """Raise CellFailure when it has ended."""
        ...


@dataclass(frozen=True, kw_only=True)
class AttachedServer:
    """A server that others run, such as a judge's."""

    url: str
    model: str
    api_key: str = field(default="", repr=False)

    @property
    def alive(self) -> bool:
        return True

    def raise_if_dead(self) -> None:
        return None


@dataclass(frozen=True, kw_only=True)
class Session:
    """One served model under evaluation.

    `server` starts it when it is first called. `key` names its artefact on its engine build and `model_path` holds its
    weights, None where they are elsewhere. `concurrency` is what the engine was started for, where that is known.
    """

    key: str
    label: str
    server: Callable[[], RunningServer]
    store: AnswerStore
    progress: Progress
    work_dir: Path
    concurrency: int | None = None
    context: int | None = None
    model_path: Path | None = None
    model_format: str = ""
    toolchain: Callable[[str], Toolchain] | None = None

    def answers(self, requests: Sequence[Request], limits: Limits, *, unit: str = "questions") -> list[Answer]:
        """The answer to every request, in their order; what failed says why.

        Raises CellFailure when the server died, or answered nothing at all.
        """
        known = {request.digest: self.store.get(request) for request in requests}
        missing = {request.digest: request for request in requests if known[request.digest] is None}
        if missing:
            self._ask(list(missing.values()), known, limits, len(known), unit)
        else:
            self.progress.say(f"{self.label} has answered these {len(known)} {unit} before, reused")
        answers = [known[request.digest] for request in requests]
        assert all(answer is not None for answer in answers)
        return [answer for answer in answers if answer is not None]

    def _ask(
        self, requests: Sequence[Request], known: dict[str, Answer | None], limits: Limits, total: int, unit: str
    ) -> None:
        server = self.server()
        reused = total - len(requests)
        told = f" ({reused} answered before)" if reused else ""
        self.progress.say(f"asking {self.label} {len(requests)} {unit}{told}")
        failures: Counter[str] = Counter()
        last = ""
        done = reused

        def answered(place: int, answer: Answer) -> None:
            nonlocal last, done
            request = requests[place]
            known[request.digest] = answer
            self.store.put(request, answer)
            if answer.error is not None:
                failures[answer.error] += 1
                last = answer.message or ""
                last = last.replace(server.api_key, "***") if server.api_key else last
            done += 1
            self.progress.advance(done, total, unit)

        ask_all(
            Target(url=server.url, model=server.model, api_key=server.api_key or None),
            requests,
            limits=limits,
            answered=answered,
            alive=lambda: server.alive,
        )
        server.raise_if_dead()
        if sum(failures.values()) == total:
            kind, _ = failures.most_common(1)[0]
            raise CellFailure(
                FailureKind.UNHEALTHY if kind in (AskError.CONNECTION, AskError.TIMEOUT) else FailureKind.EVALUATOR,
                f"{self.label} answered none of {total} {unit}: {kind} ({' '.join(last.split())})",
            )
