"""The client loop: one epoll, non-blocking keep-alive connections, every read stamped, every exchange ended.

Per read it does: receive into the recording, note the time, walk the framing. What the bytes mean is found out later.
"""

from __future__ import annotations

import itertools
import select
import ssl
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from select import EPOLLERR, EPOLLIN, EPOLLOUT
from time import monotonic_ns, sleep

from bench.base.clock import NS_PER_MS, NS_PER_S
from bench.load import segments
from bench.load.clockmap import sample_pair
from bench.load.connection import Connection, Dial, State
from bench.load.framing import SIZE_LINES, USUAL_BYTES, BadHttp
from bench.load.outcome import GONE, End, ErrorKind
from bench.load.schedule import FAR_NS, Arrivals
from bench.load.segments import NO_STAMP
from bench.load.stamps import ANCILLARY_BYTES, STAMP_BYTES, Reader, transmit_stamps
from bench.load.timer import Timer

TICK_NS = 50 * NS_PER_MS
IDLE_NS = 4 * NS_PER_S
"""Servers close idle connections after 5 s and more; younger ones are safe to use again."""
BREATH_NS = NS_PER_MS // 2
GATHERED = 24
"""Where the kernel's stamps tell when events came, the loop sleeps for as long as so many take to arrive, `BREATH_NS`
at most, before it reads them: waking up for each costs as much as reading it. Only at more than `CROWDED` events a
tick, and not after a round with as many."""
CROWDED = 500
_MOST_EVENTS = 1023
"""What one poll tells at most (FD_SETSIZE - 1): others may be ready too."""
LAUNCHING_NS = 3 * NS_PER_MS
"""Requests are sent for so long before what has arrived meanwhile is read: two events of a stream that wait together
would share one stamp, while a request that is late shows itself as such. A thirtieth of it where a late read is late
by its stamp."""
_SOON_NS, _LATE_NS = NS_PER_MS, 8 * NS_PER_MS
"""Bytes that may have waited for three quarters of the mean time between two reads of a connection, within these
bounds, are looked at before they are read, if this one was last read twice as long ago: they may be several events.
Sooner would cost a busy core what it needs to catch up, and so would looking at all when it is `_SATURATED`."""
_SATURATED = 0.7
_TURN = 32
"""After so many events it is looked whether a first token has come: where the loop is behind, those do not queue. They
are stamped right where the read is the stamp, and where the kernel stamps they are not merged with what follows."""
_LEADING = 2
"""The first reads of a body that may hold the first token: a chunk with the role alone comes before it in a chat."""
_APART = 2
"""So many chunks that wait may have stamps of their own; those after them the kernel has merged."""
_RECEIVING = State.receiving
_UNSTAMPED: list[tuple[int, int, bytes]] = []
_Read = tuple[Connection, int, bytes, list[tuple[int, int, bytes]]]
"""Of whom, when the read returned (CLOCK_MONOTONIC ns), what, and the kernel's messages that came with it."""
ANSWER_LIMIT = 256 * 1024 * 1024
"""Bytes of one body; a server that floods would fill the disk. Looked at with the deadlines."""
_CHECK_NS = NS_PER_S // 2


@dataclass(frozen=True, kw_only=True)
class Deadlines:
    """How long each part of an exchange may take, ns."""

    connect_ns: int
    first_token_ns: int
    stall_ns: int
    total_ns: int


@dataclass(kw_only=True)
class Tally:
    """Counts for the live view and the circuit breaker."""

    done: int = 0
    failed: int = 0
    in_flight: int = 0
    refused_in_row: int = 0
    gone_in_row: int = 0
    stale: int = 0
    """Kept-alive connections that the server had closed without an answer; those requests were sent again."""
    busiest_ns: int = 0
    """The longest time between two waits for events: how late a read could be."""


class Client:
    """Sends what `arrivals` says and records what comes back.

    `request_bytes(slot)` gives the whole request. `on_tick(now_ns)` is called about every 50 ms. Where `keep(slot)`
    says so, `on_kept(slot, reads, end)` is given the reads of an answer at its end; it must not take long.
    """

    def __init__(
        self,
        *,
        dial: Dial,
        reader: Reader,
        record: segments.SegmentWriter,
        deadlines: Deadlines,
        request_bytes: Callable[[int], bytes],
        breaker: int,
        on_tick: Callable[[int], None] = lambda _: None,
        keep: Callable[[int], bool] = lambda _: False,
        on_kept: Callable[[int, list[bytes], str], None] = lambda _slot, _reads, _end: None,
    ) -> None:
        self.tally = Tally()
        self._keeps = keep
        self._on_kept = on_kept
        self.broken = False
        self._dial = dial
        self._reader = reader
        self._stamped = reader.stamped
        self._record = record
        self._deadlines = deadlines
        self._request_bytes = request_bytes
        self._breaker = breaker
        self._on_tick = on_tick
        self._epoll, self._first = select.epoll(), select.epoll()
        """The second one has the connections whose first token is still to come, and is itself watched by the first."""
        self._epoll.register(self._first, EPOLLIN)
        self._timer = Timer()
        self._epoll.register(self._timer.fd, EPOLLIN)
        self._active: dict[int, Connection] = {}
        self._idle: deque[Connection] = deque()
        self._by_fd: dict[int, Connection] = {}
        self._retired: list[Connection] = []
        self._stopping = False
        self._keep = True
        self._breath_ns = 0
        self._few = False
        self._events = 0
        self._polled_ns = 0
        """When it was last told which connections have something to read."""
        self._read_ns = 0
        """When something was last read, or it was told that there is something to read."""
        self._patience_ns = _LATE_NS
        self._idle_ns = self._ticked_ns = 0
        self._load = 0.0
        """The share of about the last second in which the loop did not wait for something to do."""
        self._launching_ns = LAUNCHING_NS if reader.stamped else LAUNCHING_NS // 30
        self._next_tick_ns = 0
        self._next_pair_ns = self._next_check_ns = 0
        self._unchecked: list[Connection] = []
        """Whose deadlines are still to be looked at, of those that were active when looking began."""
        self._arrivals: Arrivals | None = None
        self._watched: dict[int, Callable[[], None]] = {}

    def watch(self, descriptor: int, on_readable: Callable[[], None]) -> None:
        """Call `on_readable` from the loop whenever `descriptor` is readable."""
        self._epoll.register(descriptor, EPOLLIN)
        self._watched[descriptor] = on_readable

    def stop(self) -> None:
        """Send nothing more and cancel what is in flight."""
        self._stopping = True
        if self._arrivals is not None:
            self._arrivals.stop()

    def wait(self) -> None:
        """Handle one round of events without any arrivals (between phases)."""
        self._round(monotonic_ns())

    def run(self, arrivals: Arrivals) -> None:
        """Until `arrivals` has nothing more and nothing is in flight."""
        self._arrivals = arrivals
        if self._stopping or self.broken:
            arrivals.stop()
        now = monotonic_ns()
        try:
            while True:
                self._launch(now)
                if self._stopping:
                    for connection in list(self._active.values()):
                        self._end(connection, End.cancelled, monotonic_ns(), reuse=False)
                if not self._active and arrivals.next_due_ns() is None:
                    break
                now = self._round(now)
            self._arrivals = None
            self._sample_clock()
        finally:  # whatever went wrong
            self._record.commit()

    def close(self) -> None:
        for connection in [*self._by_fd.values(), *self._retired]:
            connection.close()
        self._first.close()
        self._epoll.close()
        self._timer.close()

    def _round(self, now: int) -> int:
        """Wait for events and handle them; the time afterwards."""
        due = self._arrivals.next_due_ns() if self._arrivals is not None else None
        if now >= self._next_tick_ns:
            self._tick(now)
        overdue = bool(self._unchecked) or (due is not None and due <= now)
        if self._few and self._breath_ns and not overdue and (due is None or due - now > 2 * self._breath_ns):
            sleep(self._breath_ns / NS_PER_S)
            self._idle_ns += self._breath_ns
        if not overdue:
            self._timer.arm(self._next_tick_ns if due is None else min(due, self._next_tick_ns))
        asked = monotonic_ns()
        events = self._epoll.poll(0 if overdue else -1)
        self._read_ns = woken = monotonic_ns()
        self._idle_ns += woken - asked
        # What is read now came after the last poll; after this one began, where it had to wait for the first.
        since_ns = asked if woken - asked > BREATH_NS else self._polled_ns
        self._polled_ns = woken
        self._events += len(events)
        self._few = len(events) < GATHERED
        looking = self._stamped and self._load < _SATURATED
        most = self._handle_in_turns(events, since_ns + self._patience_ns if looking else FAR_NS)
        if (self._unchecked or woken >= self._next_check_ns) and most < _MOST_EVENTS:
            self._check_deadlines(woken)
        for connection in self._retired:
            connection.close()
        self._retired.clear()
        now = monotonic_ns()
        self.tally.busiest_ns = max(self.tally.busiest_ns, now - woken)
        return now

    def _handle_in_turns(self, events: list[tuple[int, int]], late_ns: int) -> int:
        """One round of events, looking now and then for first tokens; the most events that one poll told."""
        most = len(events)
        for start in range(0, len(events), _TURN):
            turn = events[start : start + _TURN]
            if start or (self._first.fileno(), EPOLLIN) in turn:
                first = self._first.poll(0)
                most = max(most, len(first))
                self._events += len(first)
                self._handle(first, late_ns)
            self._handle(turn, late_ns)
        return most

    def _handle(self, events: list[tuple[int, int]], late_ns: int) -> None:
        """Events in their order; of what is read after `late_ns`, that which may be several chunks is read in parts."""
        by_fd, stamped, doubtful_ns = self._by_fd, self._stamped, 2 * self._patience_ns
        read_ns = self._read_ns
        reads: list[_Read] = []
        for descriptor, mask in events:
            connection = by_fd.get(descriptor)
            if connection is None:
                self._handle_own(descriptor)
                continue
            sock = connection.flowing
            several = read_ns > late_ns and read_ns - connection.last_ns > doubtful_ns
            if sock is None or mask != EPOLLIN or several:
                self._handle_other(connection, mask, several=several)
                read_ns = max(read_ns, self._read_ns)
                continue
            # The hot path, for nearly every event of a run: without a call that is not needed.
            try:
                if stamped:
                    data, ancillary, _, _ = sock.recvmsg(USUAL_BYTES, ANCILLARY_BYTES)
                else:
                    data, ancillary = sock.recv(USUAL_BYTES), _UNSTAMPED
            except BlockingIOError:
                continue
            except OSError:
                self._lost(connection)
                continue
            read_ns = monotonic_ns()
            reads.append((connection, read_ns, data, ancillary))
        self._read_ns = read_ns
        if reads:
            self._keep_reads(reads)

    def _keep_reads(self, reads: list[_Read]) -> None:
        """The other half of the hot path: record what was read, see that it is what was expected.

        For a turn at once, as calls of the kernel drive this code from the processor's caches.
        """
        records: list[bytes] = []
        unusual = []
        for connection, read_ns, data, ancillary in reads:
            size = len(data)
            if size:
                connection.last_ns = read_ns
                stamp = ancillary[0][2][:STAMP_BYTES] if ancillary else NO_STAMP
                records += segments.pack_header(segments.DATA, connection.slot, read_ns, stamp, size), data
            if connection.in_chunks and data.startswith(SIZE_LINES[size]) and data.endswith(b"\r\n"):
                connection.framing.body_bytes += size
            else:
                unusual.append((connection, data))
        if records:
            self._record.append(records)
        for connection, data in unusual:
            self._take(connection, data)

    def _handle_own(self, descriptor: int) -> None:
        """An event on what is no connection."""
        if descriptor == self._timer.fd:
            self._timer.acknowledge()
        elif descriptor in self._watched:
            self._watched[descriptor]()

    def _handle_other(self, connection: Connection, mask: int, *, several: bool) -> None:
        """An event on a connection of which anything may come, or several chunks."""
        if mask & EPOLLERR and not (mask := self._left(connection, mask)):
            return
        if connection.state is not _RECEIVING:
            self._advance(connection, mask)
        elif several or connection.body_reads < _LEADING:  # the first token's time is worth a look in any case
            self._receive_apart(connection)
        else:
            self._receive(connection)

    # ---- beginning an exchange

    def _launch(self, now: int) -> None:
        """Send what is due, for as long as a turn may last."""
        assert self._arrivals is not None
        until_ns = now + self._launching_ns
        while now < until_ns and (request := self._arrivals.take(now)) is not None:
            slot, scheduled_ns = request
            taken_ns = monotonic_ns()
            self._record.mark(segments.START, slot, taken_ns, stamp=segments.PAIR.pack(scheduled_ns, 0))
            self.tally.in_flight += 1
            self._begin(slot, taken_ns)
            now = monotonic_ns()

    def _begin(self, slot: int, now: int) -> None:
        outgoing = self._request_bytes(slot)
        while self._idle:
            connection = self._idle.pop()
            if now - connection.last_ns < IDLE_NS:
                connection.begin(slot, outgoing, now, keep=self._keeps(slot))
                connection.state = State.sending
                self._poll_by(self._first, connection)
                self._active[slot] = connection
                self._send(connection)
                return
            self._drop(connection)
        connection = Connection(self._dial, self._reader.prepare)
        connection.begin(slot, outgoing, now, keep=self._keeps(slot))
        self._active[slot] = connection
        self._by_fd[connection.fd] = connection
        connection.awaited = EPOLLOUT
        self._poll_by(self._first, connection)
        try:
            connection.connect(self._dial)
        except OSError:
            self._end(connection, ErrorKind.refused, monotonic_ns(), reuse=False)

    def _send(self, connection: Connection) -> None:
        if not connection.sent_ns:
            connection.sent_ns = connection.last_ns = monotonic_ns()
            self._record.mark(segments.SENT, connection.slot, connection.sent_ns)
        try:
            everything = connection.send()
        except OSError:
            self._lost(connection)
            return
        if self._stamped:  # on loopback the stamp is there by now, elsewhere epoll will tell
            for stamp in itertools.islice(transmit_stamps(connection.sock), 1):
                self._record.mark(segments.LEFT, connection.slot, monotonic_ns(), stamp=stamp)
        if everything and not self._stamped:
            connection.flow()
        self._await(connection, EPOLLIN if everything else EPOLLIN | EPOLLOUT)

    def _await(self, connection: Connection, events: int) -> None:
        if connection.awaited != events:
            connection.awaited = events
            if connection.poller is not None:
                connection.poller.modify(connection.fd, events)

    def _poll_by(self, poller: select.epoll | None, connection: Connection) -> None:
        if connection.poller is not poller:
            if connection.poller is not None:
                connection.poller.unregister(connection.fd)
            if poller is not None:
                poller.register(connection.fd, connection.awaited)
            connection.poller = poller

    def _left(self, connection: Connection, mask: int) -> int:
        """Record the stamps that a socket's error queue holds; what of `mask` is still to be handled."""
        if not self._stamped:
            return mask
        for stamp in transmit_stamps(connection.sock):
            self._record.mark(segments.LEFT, connection.slot, monotonic_ns(), stamp=stamp)
            mask &= ~EPOLLERR
        return mask

    def _advance(self, connection: Connection, mask: int) -> None:
        """An event on a connection that is not (only) receiving."""
        try:
            if connection.state == State.connecting:
                connection.finish_connect(self._dial)
            if connection.state == State.handshaking:
                wanted = connection.handshake()
                if wanted is not None:
                    self._await(connection, wanted)
                    return
        except ssl.SSLError:
            self._end(connection, ErrorKind.tls, monotonic_ns(), reuse=False)
            return
        except OSError:
            self._end(connection, ErrorKind.refused, monotonic_ns(), reuse=False)
            return
        if connection.state == State.idle:
            self._drop(connection)  # the peer closed it, or talks out of turn
        elif mask & ~EPOLLOUT and connection.sent_ns:
            self._receive(connection)  # an answer before the request is out: an early refusal
        else:
            self._send(connection)

    # ---- the hot path

    def _receive_apart(self, connection: Connection) -> None:
        """Read what has waited part by part, so that each keeps its own stamp."""
        slot = connection.slot
        try:
            waiting = self._reader.waiting(connection.sock)
        except OSError:
            self._lost(connection)
            return
        if not waiting:
            self._receive(connection)
        apart = 0
        while waiting and self._active.get(slot) is connection:
            length = len(waiting)
            if apart < _APART:
                length = min(connection.framing.first_part(waiting), segments.READ_BYTES)
                apart += connection.framing.status > 0
            self._receive(connection, length)
            waiting = waiting[length:]

    def _receive(self, connection: Connection, limit: int = segments.READ_BYTES) -> None:
        try:
            received = self._reader.read(connection.sock, limit)
        except OSError:
            self._lost(connection)
            return
        if received is not None:
            data, stamp = received
            if data:
                self._read_ns = connection.last_ns = self._record.data(connection.slot, stamp, data)
            self._take(connection, data)

    def _take(self, connection: Connection, data: bytes) -> None:
        """Find out what one read (recorded already) means for the exchange; b"": the peer has ended the stream."""
        connection.flowing = None
        if not data:
            connection.last_ns = monotonic_ns()
            if connection.framing.status:
                self._end(connection, End.eof, connection.last_ns, reuse=False)
            else:
                self._lost(connection)
            return
        connection.answered = True
        if connection.kept is not None:
            connection.kept.append(data)
        try:
            whole = connection.framing.feed(data)
        except BadHttp:
            self._end(connection, ErrorKind.bad_http, monotonic_ns(), reuse=False)
            return
        if whole:
            received = connection.state == State.receiving
            self._end(connection, End.complete, connection.last_ns, reuse=received and connection.framing.keep_alive)
            return
        connection.body_reads += connection.framing.body_bytes > 0
        leading = connection.body_reads < _LEADING
        connection.in_chunks = connection.framing.between and not leading
        if connection.in_chunks or (leading and not self._stamped):
            connection.flow()
        if not leading:
            self._poll_by(self._epoll, connection)
        if connection.layered and connection.buffered():
            self._receive(connection)

    # ---- ending an exchange

    def _lost(self, connection: Connection) -> None:
        """The peer dropped the connection. One that was kept alive and gave nothing had been closed before the request
        (RFC 9112, 9.3.1): the request goes out again on a fresh one, and none is kept alive from then on.
        """
        if not connection.used or connection.answered or self._stopping:
            self._end(connection, ErrorKind.reset, monotonic_ns(), reuse=False)
            return
        self.tally.stale += 1
        self._keep = False
        while self._idle:
            self._drop(self._idle[-1])
        del self._active[connection.slot]
        self._drop(connection)
        self._begin(connection.slot, connection.taken_ns)

    def _end(self, connection: Connection, kind: End | ErrorKind, now: int, *, reuse: bool) -> None:
        self._record.mark(segments.END, connection.slot, now, payload=kind.value.encode())
        del self._active[connection.slot]
        if reuse and self._keep:
            connection.state = State.idle
            connection.used = True
            self._idle.append(connection)
        else:
            self._drop(connection)
        self._count(kind, connection.framing.status)
        if self._arrivals is not None:
            self._arrivals.finished(connection.slot, now)
            if connection.kept is not None:
                self._on_kept(connection.slot, connection.kept, kind.value)

    def _drop(self, connection: Connection) -> None:
        if connection.state == State.idle and connection in self._idle:
            self._idle.remove(connection)
        self._by_fd.pop(connection.fd, None)
        self._poll_by(None, connection)
        # Closed after the round: a new connection must not get a number that events at hand still speak of.
        self._retired.append(connection)

    def _count(self, kind: End | ErrorKind, status: int) -> None:
        tally = self.tally
        tally.done += 1
        tally.in_flight -= 1
        failed = isinstance(kind, ErrorKind) or status >= 400
        tally.failed += failed
        if not failed:
            tally.refused_in_row = tally.gone_in_row = 0
            return
        tally.refused_in_row = tally.refused_in_row + 1 if kind is ErrorKind.refused else 0
        tally.gone_in_row = tally.gone_in_row + 1 if kind in GONE else 0
        if tally.refused_in_row >= self._breaker or tally.gone_in_row >= 2 * self._breaker + tally.in_flight:
            self.broken = True
            if self._arrivals is not None:
                self._arrivals.stop()

    # ---- every 50 ms

    def _tick(self, now: int) -> None:
        self._next_tick_ns = now + TICK_NS
        busy = 1 - self._idle_ns / max(now - self._ticked_ns, TICK_NS)
        self._load += (busy - self._load) * TICK_NS / NS_PER_S
        self._ticked_ns, self._idle_ns = now, 0
        crowded = self._stamped and self._events > CROWDED
        self._breath_ns = min(BREATH_NS, TICK_NS * GATHERED // self._events) if crowded else 0
        self._patience_ns = max(_SOON_NS, min(_LATE_NS, TICK_NS * len(self._active) * 3 // (4 * self._events + 1)))
        self._events = 0
        self._record.commit()
        if now >= self._next_pair_ns:
            self._sample_clock()
            self._next_pair_ns = now + NS_PER_S
        self._on_tick(now)

    def _check_deadlines(self, now: int) -> None:
        """End what is overdue at `now`, by which whatever had come is read: a pause of our own is nobody's stall.

        Some at a time, between two rounds. Nothing can be overdue before the next check: what begins, or comes, until
        then has a whole deadline before it.
        """
        if not self._unchecked:
            deadlines = self._deadlines
            shortest_ns = min(deadlines.connect_ns, deadlines.first_token_ns, deadlines.stall_ns, deadlines.total_ns)
            self._next_check_ns = now + min(shortest_ns, _CHECK_NS)
            self._unchecked = list(self._active.values())
        some, self._unchecked = self._unchecked[:_TURN], self._unchecked[_TURN:]
        for connection in some:
            if self._active.get(connection.slot) is not connection:
                continue
            at_ns, kind = self._deadline(connection)
            if now > at_ns:
                self._end(connection, kind, max(now, connection.last_ns), reuse=False)
            elif connection.framing.body_bytes > ANSWER_LIMIT:
                self._end(connection, ErrorKind.too_large, now, reuse=False)
            else:
                self._next_check_ns = min(self._next_check_ns, at_ns)

    def _deadline(self, connection: Connection) -> tuple[int, ErrorKind]:
        """When the exchange is overdue, and what it then is."""
        deadlines = self._deadlines
        if connection.state in (State.connecting, State.handshaking):
            return connection.taken_ns + deadlines.connect_ns, ErrorKind.connect_timeout
        if connection.framing.body_bytes:
            part = connection.last_ns + deadlines.stall_ns, ErrorKind.stall_timeout
        else:
            part = connection.sent_ns + deadlines.first_token_ns, ErrorKind.first_token_timeout
        total_ns = connection.sent_ns + deadlines.total_ns
        return part if part[0] < total_ns else (total_ns, ErrorKind.total_timeout)

    def _sample_clock(self) -> None:
        monotonic, realtime, uncertainty = sample_pair()
        self._record.mark(segments.CLOCK, 0, monotonic, stamp=segments.PAIR.pack(realtime, uncertainty))
