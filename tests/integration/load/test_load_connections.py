"""Ways to an endpoint other than plain TCP, and connections that never come about."""

from __future__ import annotations

import select
import shutil
import socket
import ssl
import statistics
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from bench.base.clock import NS_PER_MS, NS_PER_S
from bench.base.progress import Progress
from bench.load import segments
from bench.load.client import Client, Deadlines
from bench.load.command import run_load
from bench.load.config import ClosedConfig, EndpointConfig, LoadRunConfig, SyntheticConfig, TimeSource
from bench.load.connection import Dial
from bench.load.run import run_scenario
from bench.load.schedule import ClosedArrivals
from bench.load.stamps import KernelReader, UserReader
from bench.load.target import Target
from tests.support import require

EVENTS = (
    b'data: {"choices":[{"text":"one","finish_reason":null}]}\n\n',
    b'data: {"choices":[{"text":" two","finish_reason":"length"}]}\n\n',
    b'data: {"choices":[],"usage":{"prompt_tokens":4,"completion_tokens":2}}\n\n',
    b"data: [DONE]\n\n",
)
HEAD = b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n"
Wrap = Callable[[socket.socket], socket.socket]


Log = dict[int, list[int]]


def serve(connection: socket.socket, log: Log) -> None:
    """Answer every request on a connection with the same stream; `log` gets when each event was sent, by request."""
    received = b""
    while data := connection.recv(65536):
        received += data
        head, found, body = received.partition(b"\r\n\r\n")
        length = int(head.lower().partition(b"content-length: ")[2].split(b"\r\n")[0] or 0)
        if not found or len(body) < length:
            continue
        received = b""
        request_id = head.lower().partition(b"x-request-id: ")[2].split(b"\r\n")[0]
        times = log.setdefault(int(request_id.rpartition(b"-")[2] or 0), [])
        connection.sendall(HEAD)
        for event in EVENTS:
            time.sleep(0.002)
            times.append(time.monotonic_ns())
            connection.sendall(b"%x\r\n%b\r\n" % (len(event), event))
        connection.sendall(b"0\r\n\r\n")


@contextmanager
def serving(
    listener: socket.socket, wrap: Callable[[socket.socket], socket.socket] = lambda plain: plain
) -> Iterator[Log]:
    """A canned engine behind `listener`, one thread a connection; gives its log."""
    log: Log = {}

    def talk(plain: socket.socket) -> None:
        with suppress(OSError), plain, wrap(plain) as connection:
            serve(connection, log)

    def accept() -> None:
        with suppress(OSError):
            while True:
                connection, _ = listener.accept()
                if connection.family != socket.AF_UNIX:
                    connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                threading.Thread(target=talk, args=(connection,), daemon=True).start()

    thread = threading.Thread(target=accept, daemon=True)
    thread.start()
    try:
        yield log
    finally:
        listener.shutdown(socket.SHUT_RDWR)
        thread.join(5)


def assert_timed(
    url: str, log: Log, out: Path, *, ca_file: str | None = None, source: TimeSource = TimeSource.auto, used: str
) -> None:
    """Everything is answered, and received when it was sent."""
    workload = SyntheticConfig(output_tokens=2, input_tokens=4, tokenize=False)
    scenario = ClosedConfig(concurrency=2, requests=200, warmup=0, time_source=source)
    log.clear()
    summary = run_scenario(Target(url=url, model="m", ca_file=ca_file), scenario, workload, out)
    assert summary["errors"] == {}
    assert summary["own_error"]["time_source"] == used
    assert summary["own_error"]["unstamped_reads_share"] == (0.0 if used == "kernel" else 1.0)
    rows = pq.read_table(out / "requests.parquet").to_pylist()
    assert [row["output_tokens"] for row in rows] == [2] * 200
    assert all((row["sent_kernel_ns"] is not None) == (used == "kernel") for row in rows)
    late = [row["first_token_ns"] - log[row["request_id"]][0] for row in rows]
    late += [row["last_token_ns"] - log[row["request_id"]][1] for row in rows]
    # Server and client share this machine's cores with whatever else runs, hence the quartile, and room.
    assert min(late) > -50_000
    assert statistics.quantiles(late, n=4)[0] < 2_000_000


def test_unix_socket(tmp_path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(tmp_path / "e.sock"))
        listener.listen()
        with serving(listener) as log:
            assert_timed(f"unix:{tmp_path}/e.sock", log, tmp_path / "out", used="user")


@pytest.mark.parametrize("source", [TimeSource.auto, TimeSource.user])
def test_ipv6(tmp_path: Path, source: TimeSource) -> None:
    with socket.socket(socket.AF_INET6) as listener:
        try:
            listener.bind(("::1", 0))
        except OSError:
            require(False, "IPv6 on the loopback interface")
        listener.listen()
        with serving(listener) as log:
            url = f"http://[::1]:{listener.getsockname()[1]}"
            used = "user" if source is TimeSource.user else "kernel"
            assert_timed(url, log, tmp_path / "out", source=source, used=used)


def test_proxies_of_the_environment_are_not_asked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("http_proxy", "https_proxy", "all_proxy", "HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY"):
        monkeypatch.setenv(name, "http://127.0.0.1:9")
    monkeypatch.delenv("no_proxy", raising=False)
    monkeypatch.delenv("NO_PROXY", raising=False)
    with socket.create_server(("127.0.0.1", 0)) as listener, serving(listener) as log:
        url = f"http://127.0.0.1:{listener.getsockname()[1]}"
        config = LoadRunConfig(
            endpoint=EndpointConfig(url=url, model="m"),
            scenario=ClosedConfig(requests=2, warmup=0),
            workload=SyntheticConfig(output_tokens=2, input_tokens=4),
            out=str(tmp_path / "out"),
        )
        assert run_load(config, Progress())["requests"]["ok"] == 2
        assert len(log) >= 2


def certificate(folder: Path) -> tuple[Path, Path]:
    require(shutil.which("openssl") is not None, "openssl makes the certificate")
    key, cert = folder / "key.pem", folder / "cert.pem"
    command = ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2", "-subj", "/CN=localhost"]
    command += ["-addext", "subjectAltName=DNS:localhost", "-keyout", str(key), "-out", str(cert)]
    subprocess.run(command, check=True, capture_output=True)
    return key, cert


def test_tls(tmp_path: Path) -> None:
    key, cert = certificate(tmp_path)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(cert, key)
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
        with serving(listener, lambda plain: context.wrap_socket(plain, server_side=True)) as log:
            url = f"https://localhost:{port}"
            assert_timed(url, log, tmp_path / "kernel", ca_file=str(cert), used="kernel")
            assert_timed(url, log, tmp_path / "user", ca_file=str(cert), source=TimeSource.user, used="user")
            scenario = ClosedConfig(requests=3, warmup=0)
            untrusted = run_scenario(
                Target(url=url, model="m"), scenario, SyntheticConfig(tokenize=False), tmp_path / "untrusted"
            )
    assert untrusted["errors"] == {"tls": 3}
    assert untrusted["status"] == "failed"


def endings(address: tuple[str, int], folder: Path, requests: int, breaker: int) -> list[bytes]:
    """How requests to `address` ended, as the recording has it; the connect deadline is 200 ms."""
    record = segments.SegmentWriter(folder, "w")
    client = Client(
        dial=Dial(family=socket.AF_INET, address=address),
        reader=KernelReader(),
        record=record,
        deadlines=Deadlines(connect_ns=200 * NS_PER_MS, first_token_ns=NS_PER_S, stall_ns=NS_PER_S, total_ns=NS_PER_S),
        request_bytes=lambda _: b"GET / HTTP/1.1\r\n\r\n",
        breaker=breaker,
    )
    client.run(ClosedArrivals(range(requests), 1, 0))
    client.close()
    record.close()
    return [payload for tag, *_, payload in segments.read_records(folder, "w") if tag == segments.END]


def test_refused_connections_trip_the_breaker(tmp_path: Path) -> None:
    with socket.socket() as bound:
        bound.bind(("127.0.0.1", 0))
        assert endings(bound.getsockname(), tmp_path, requests=100, breaker=4) == [b"refused"] * 4


def test_a_connection_that_is_never_accepted_times_out(tmp_path: Path) -> None:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen(0)
        fillers = [socket.socket() for _ in range(4)]
        for filler in fillers:
            filler.setblocking(False)
            with suppress(BlockingIOError):
                filler.connect(listener.getsockname())
        try:
            assert endings(listener.getsockname(), tmp_path, requests=2, breaker=9) == [b"connect_timeout"] * 2
        finally:
            for filler in fillers:
                filler.close()


@pytest.mark.parametrize("size", [200, 3_000_000])
def test_requests_of_any_size_arrive_whole_and_are_stamped(tmp_path: Path, size: int) -> None:
    received: list[int] = []

    def count(connection: socket.socket) -> socket.socket:
        remaining = size
        while remaining:
            remaining -= len(connection.recv(65536))
        received.append(size)
        connection.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n")
        return connection

    record = segments.SegmentWriter(tmp_path, "w")
    with socket.create_server(("127.0.0.1", 0)) as listener, serving(listener, count):
        second = Deadlines(connect_ns=NS_PER_S, first_token_ns=9 * NS_PER_S, stall_ns=NS_PER_S, total_ns=9 * NS_PER_S)
        client = Client(
            dial=Dial(family=socket.AF_INET, address=listener.getsockname()),
            reader=KernelReader(),
            record=record,
            deadlines=second,
            request_bytes=lambda _: bytes(size),
            breaker=3,
        )
        client.run(ClosedArrivals([0], 1, 0))
        client.close()
    record.close()
    assert received == [size]
    sent, *left = [
        found for found in segments.read_records(tmp_path, "w") if found[0] in (segments.SENT, segments.LEFT)
    ]
    assert sent[0] == segments.SENT
    assert left


def test_a_head_that_comes_alone_does_not_hide_where_the_body_begins(tmp_path: Path) -> None:
    """The connection leaves the ones that are looked at first once its first tokens have come."""
    polled_first: list[int] = []

    def answer(connection: socket.socket) -> socket.socket:
        connection.recv(65536)
        connection.sendall(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n")
        for _ in range(6):
            time.sleep(0.06)
            connection.sendall(b"c\r\ndata: {...}\n\r\n")
        connection.sendall(b"0\r\n\r\n")
        return connection

    record = segments.SegmentWriter(tmp_path, "w")
    second = Deadlines(connect_ns=NS_PER_S, first_token_ns=9 * NS_PER_S, stall_ns=9 * NS_PER_S, total_ns=9 * NS_PER_S)
    with socket.create_server(("127.0.0.1", 0)) as listener, serving(listener, answer):
        client = Client(
            dial=Dial(family=socket.AF_INET, address=listener.getsockname()),
            reader=KernelReader(),
            record=record,
            deadlines=second,
            request_bytes=lambda _: b"GET / HTTP/1.1\r\n\r\n",
            breaker=3,
            on_tick=lambda _: polled_first.extend(
                connection.framing.body_bytes
                for connection in client._active.values()
                if connection.poller is client._first
            ),
        )
        client.run(ClosedArrivals([0], 1, 0))
        client.close()
    record.close()
    assert polled_first
    assert max(polled_first) <= len(b"c\r\ndata: {...}\n\r\n")


def test_an_early_refusal_over_a_unix_socket_ends(tmp_path: Path) -> None:
    """The peer answers and closes without reading the request: its error is on a socket without an error queue."""

    def refuse(connection: socket.socket) -> socket.socket:
        select.select([connection], [], [])
        connection.sendall(b"HTTP/1.1 400 Bad Request\r\nContent-Length: 0\r\nConnection: close\r\n\r\n")
        connection.close()
        return connection

    path = str(tmp_path / "s")
    record = segments.SegmentWriter(tmp_path, "w")
    second = Deadlines(connect_ns=NS_PER_S, first_token_ns=9 * NS_PER_S, stall_ns=9 * NS_PER_S, total_ns=9 * NS_PER_S)
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(path)
        listener.listen()
        with serving(listener, refuse):
            client = Client(
                dial=Dial(family=socket.AF_UNIX, address=path),
                reader=UserReader(),
                record=record,
                deadlines=second,
                request_bytes=lambda _: b"GET / HTTP/1.1\r\n\r\n",
                breaker=9,
                on_tick=lambda _: time.sleep(0.1),  # so that the answer and the error are found together
            )
            client.run(ClosedArrivals(range(6), 1, 0))
            client.close()
    record.close()
    endings = [payload for tag, *_, payload in segments.read_records(tmp_path, "w") if tag == segments.END]
    assert len(endings) == 6
    assert set(endings) <= {b"complete", b"reset"}
