"""How many requests run at once: more while that makes the engine faster, and no more than that."""

from __future__ import annotations

from dataclasses import dataclass

from bench.base.clock import NS_PER_S

_ANYTHING = 0.02


@dataclass
class Concurrency:
    """A limit that doubles while each doubling gives at least `gain` more tokens a second, and then stays.

    It stays at the last doubling where that gave anything, else a quarter above the one before: with no more requests
    than the engine has slots, each slot would wait from its answer to the next request.

    A step is judged by at least `least` answers that came after as many as were in flight when it began: those were
    sent under the old limit. `overloaded` halves the limit for good.
    """

    limit: int
    bound: int
    gain: float = 0.1
    least: int = 8
    settled: bool = False

    def __post_init__(self) -> None:
        self.limit = max(1, min(self.limit, self.bound))
        self._best_rate = 0.0
        self._best_limit = self.limit
        self._skip = 0
        self._since_ns: int | None = None
        self._begin()

    def answered(self, now_ns: int, tokens: int) -> None:
        """Note an answer of `tokens` output tokens."""
        if self.settled:
            return
        if self._skip:
            self._skip -= 1
            self._since_ns = now_ns
            return
        if self._since_ns is None:
            self._since_ns = now_ns
            return
        self._answers += 1
        self._tokens += tokens
        if self._answers >= max(self.least, 2 * self.limit):
            self._judge(now_ns)

    def overloaded(self) -> None:
        """The server turned a request away: go back."""
        self.limit = max(1, self.limit // 2)
        self.settled = True

    def _judge(self, now_ns: int) -> None:
        assert self._since_ns is not None
        rate = self._tokens * NS_PER_S / max(1, now_ns - self._since_ns)
        if self._best_rate and rate < self._best_rate * (1 + self.gain):
            if rate < self._best_rate * (1 + _ANYTHING):
                self.limit = min(self.limit, self._best_limit + max(1, self._best_limit // 4))
            self.settled = True
            return
        self._best_rate, self._best_limit = rate, self.limit
        if self.limit == self.bound:
            self.settled = True
            return
        self._skip = self.limit
        self.limit = min(self.bound, 2 * self.limit)
        self._begin()

    def _begin(self) -> None:
        self._since_ns = None
        self._answers = 0
        self._tokens = 0
