"""How a run goes while it runs: a sample of its newest answers, parsed in the harness's process from the recordings.

The workers' loops are not asked for anything: what they append to files can be read here as it grows.
"""

from __future__ import annotations

import contextlib
import mmap
import struct
import threading
from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path
from time import monotonic_ns

from bench.base.clock import NS_PER_S
from bench.load import segments
from bench.load.answer import Answer, EventLog
from bench.load.clockmap import sample_pair
from bench.load.outcome import End, Status

SAMPLE_S = 0.5
_RECORDS_AT_ONCE = 60_000
"""About 30 ms of walking; where more was recorded, the rest up to the newest segment is skipped."""
_OPEN_AT_ONCE = 32
_READS_AN_ANSWER = 20_000
_FRESH_NS = 10 * NS_PER_S
_EVERY_DELAY = 16
_NO_ERRORS = frozenset(end.value for end in End)
_HEADER = struct.Struct("<BIqqqI")
"""segments.HEADER with the stamp as two numbers."""


@dataclass(frozen=True, kw_only=True)
class Reading:
    """What the last ten seconds showed. None: nothing yet. Times in ms, delays in µs."""

    answers: int = 0
    """How many answers were parsed for this."""
    ttft_p50_ms: float | None = None
    ttft_p95_ms: float | None = None
    gap_p50_ms: float | None = None
    gap_p95_ms: float | None = None
    tokens_an_answer: float | None = None
    read_delay_p99_us: float | None = None
    """How late reads came, user minus kernel time; None also in user time."""
    slip_p99_us: float | None = None
    """How late requests were taken up, against their schedule."""
    errors: tuple[str, ...] = ()
    """Kinds of errors seen since the beginning: those the loop saw, and those of parsed answers."""


class Follower:
    """Reads the recording of one worker as it grows."""

    def __init__(self, directory: Path, stem: str) -> None:
        self._directory = directory
        self._stem = stem
        self._number = 0
        self._map: mmap.mmap | None = None
        self._position = 0

    def close(self) -> None:
        if self._map is not None:
            self._map.close()
            self._map = None

    def records(self, limit: int) -> Iterator[tuple[int, int, int, int, int, bytes]]:
        """(tag, slot, ns, stamp's first and second number, payload) of what was recorded since the last call.

        At most `limit`; when that does not reach the end, what is left before the newest segment is skipped.
        """
        size = _HEADER.size
        while limit:
            finished = self._path(self._number + 1).exists()
            content = self._look()
            if content is None:
                return
            position, last = self._position, len(content) - size
            while limit and position <= last:
                tag, slot, ns, first, second, length = _HEADER.unpack_from(content, position)
                following = position + size + length
                if following > len(content):  # it is just being written
                    break
                limit -= 1
                self._position = following
                yield tag, slot, ns, first, second, content[position + size : following]
                position = following
            if not finished or not self._go_on(skip=not limit):
                return

    def _look(self) -> mmap.mmap | None:
        """The present segment as it is now."""
        self.close()
        try:
            with self._path(self._number).open("rb") as stream:
                self._map = mmap.mmap(stream.fileno(), 0, access=mmap.ACCESS_READ)
        except (OSError, ValueError):  # not there yet, or empty
            return None
        return self._map

    def _go_on(self, *, skip: bool) -> bool:
        """Turn to the next segment when there is one (the newest: `skip`); whether there was."""
        newest = self._number
        while self._path(newest + 1).exists():
            newest += 1
            if not skip:
                break
        if newest == self._number:
            return False
        self._number, self._position = newest, 0
        return True

    def _path(self, number: int) -> Path:
        return self._directory / f"{self._stem}-{number:03d}.seg"


@dataclass(kw_only=True)
class _Open:
    """A request in the sample whose answer is not whole yet."""

    sent_ns: int = 0
    reads: list[tuple[bytes, int, int]] = field(default_factory=list)


@dataclass(frozen=True, kw_only=True)
class _Parsed:
    at_ns: int
    ttft_ms: float
    gaps_ms: list[float]
    tokens: int


class Sample:
    """Keeps a few requests at a time of one worker, and parses their answers when they are whole."""

    def __init__(self, follower: Follower) -> None:
        self._follower = follower
        self._open: dict[int, _Open] = {}
        self.parsed: deque[_Parsed] = deque(maxlen=64)
        self.delays_us: deque[tuple[int, float]] = deque(maxlen=1024)
        self.slips_us: deque[tuple[int, float]] = deque(maxlen=1024)
        self.errors: set[str] = set()

    def close(self) -> None:
        self._follower.close()

    def take(self) -> None:
        """Read what was recorded since the last call."""
        monotonic, realtime, _ = sample_pair()
        offset = realtime - monotonic
        for number, (tag, slot, ns, first, second, payload) in enumerate(self._follower.records(_RECORDS_AT_ONCE)):
            if tag == segments.DATA:
                kernel_ns = first * NS_PER_S + second - offset if first else 0
                if kernel_ns and number % _EVERY_DELAY == 0:
                    self.delays_us.append((ns, (ns - kernel_ns) / 1000))
                if slot in self._open:
                    self._keep(slot, payload, kernel_ns or ns, ns)
            elif tag == segments.START:
                self.slips_us.append((ns, (ns - first) / 1000))
                if len(self._open) < _OPEN_AT_ONCE:
                    self._open[slot] = _Open()
            elif tag == segments.SENT and slot in self._open:
                self._open[slot].sent_ns = ns
            elif tag == segments.END:
                self._end(slot, payload.decode(), ns)

    def _keep(self, slot: int, payload: bytes, arrived_ns: int, read_ns: int) -> None:
        reads = self._open[slot].reads
        reads.append((payload, arrived_ns, read_ns))
        if len(reads) > _READS_AN_ANSWER:
            del self._open[slot]

    def _end(self, slot: int, end: str, ns: int) -> None:
        whole = self._open.pop(slot, None)
        if end not in _NO_ERRORS:
            self.errors.add(end)
        elif whole is not None:
            self._parse(slot, whole, end, ns)

    def _parse(self, slot: int, request: _Open, end: str, ns: int) -> None:
        log = EventLog()
        answer = Answer(slot, log)
        for data, arrived_ns, read_ns in request.reads:
            answer.feed(data, arrived_ns, read_ns)
        status, kind, _ = answer.finish(end)
        if kind is not None:
            self.errors.add(kind.value)
        times = log.column(1)
        if status is not Status.ok or not times or not request.sent_ns:
            return
        gaps = [(later - earlier) / 1e6 for earlier, later in pairwise(times)]
        tokens = answer.output_tokens if answer.output_tokens is not None else len(times)
        self.parsed.append(_Parsed(at_ns=ns, ttft_ms=(times[0] - request.sent_ns) / 1e6, gaps_ms=gaps, tokens=tokens))


class LiveSampler:
    """While inside, `reading` is renewed about twice a second from the recordings `stems` in `directory`."""

    def __init__(self, directory: Path, stems: list[str], *, now_ns: Callable[[], int] = monotonic_ns) -> None:
        self.reading = Reading()
        self._samples = [Sample(Follower(directory, stem)) for stem in stems]
        self._now_ns = now_ns
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._run, name="quantbench-live", daemon=True)

    def __enter__(self) -> LiveSampler:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        self._thread.join()
        for sample in self._samples:
            sample.close()

    def renew(self) -> None:
        """Take what was recorded since the last time."""
        for sample in self._samples:
            with contextlib.suppress(OSError, ValueError, struct.error):  # a view must never end a run
                sample.take()
        self.reading = self._read(self._now_ns() - _FRESH_NS)

    def _run(self) -> None:
        while not self._over.wait(SAMPLE_S):
            self.renew()

    def _read(self, since_ns: int) -> Reading:
        parsed = [answer for sample in self._samples for answer in sample.parsed if answer.at_ns >= since_ns]
        gaps = [gap for answer in parsed for gap in answer.gaps_ms]
        ttfts = [answer.ttft_ms for answer in parsed]
        delays = [delay for sample in self._samples for at, delay in sample.delays_us if at >= since_ns]
        slips = [slip for sample in self._samples for at, slip in sample.slips_us if at >= since_ns]
        return Reading(
            answers=len(parsed),
            ttft_p50_ms=_quantile(ttfts, 0.5),
            ttft_p95_ms=_quantile(ttfts, 0.95),
            gap_p50_ms=_quantile(gaps, 0.5),
            gap_p95_ms=_quantile(gaps, 0.95),
            tokens_an_answer=sum(answer.tokens for answer in parsed) / len(parsed) if parsed else None,
            read_delay_p99_us=_quantile(delays, 0.99),
            slip_p99_us=_quantile(slips, 0.99),
            errors=tuple(sorted({kind for sample in self._samples for kind in sample.errors})),
        )


def _quantile(values: list[float], share: float) -> float | None:
    """The nearest rank, which is enough for a glance."""
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, int(share * len(ordered)))] if ordered else None
