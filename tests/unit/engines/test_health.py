"""A server that hangs under load is noticed; one that answers, or has no such route, is left alone."""

from __future__ import annotations

import http.server
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from bench.base.errors import FailureKind
from bench.base.process import wait_until
from bench.engines.base import Command, Engine
from bench.engines.health import HealthWatch
from bench.engines.launch import Endpoint


class Server(http.server.ThreadingHTTPServer):
    """Answers with `status` while `open`, and keeps every request waiting while it is not."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.status = 200
        self.open = threading.Event()
        self.open.set()
        self.asked = 0
        self.slow_s = 0.0


class Handler(http.server.BaseHTTPRequestHandler):
    server: Server

    def do_GET(self) -> None:
        self.server.asked += 1
        self.server.open.wait()
        time.sleep(self.server.slow_s)
        self.send_response(self.server.status)
        self.send_header("Content-Length", "0")
        self.end_headers()

    def log_message(self, *_: object) -> None:
        return


@pytest.fixture
def server() -> Iterator[Server]:
    made = Server()
    thread = threading.Thread(target=made.serve_forever, daemon=True)
    thread.start()
    yield made
    made.open.set()
    made.shutdown()
    made.server_close()


class Busy(Engine):
    kind = "busy"
    health_under_load = False


class Plain(Engine):
    kind = "plain"


def endpoint(server: Server, tmp_path: Path, *, engine: Engine | None = None, after_s: float | None = 1.0) -> Endpoint:
    log = tmp_path / "engine.log"
    log.write_text("the last words\n")
    return Endpoint(
        url=f"http://127.0.0.1:{server.server_address[1]}",
        model="m",
        api_key="k",
        command=Command(argv=[]),
        process=None,
        log=log,
        ready_s=None,
        engine=engine or Plain(),
        unhealthy_after_s=after_s,
    )


def test_one_that_stops_answering_is_lost_with_its_last_words(server: Server, tmp_path: Path) -> None:
    with HealthWatch(endpoint(server, tmp_path)) as watch:
        assert wait_until(lambda: server.asked >= 4, timeout_s=20)
        assert not watch.lost(), "it answers"
        server.open.clear()
        started = time.monotonic()
        assert wait_until(watch.lost, timeout_s=20)
        assert time.monotonic() - started < 15
        server.open.set()
    assert watch.lost(), "it stays lost"
    failure = watch.failure()
    assert failure.kind is FailureKind.UNHEALTHY
    assert "plain did not answer for 1 s under load" in str(failure)
    assert failure.log_tail == "the last words"


def test_errors_of_the_server_are_no_answer(server: Server, tmp_path: Path) -> None:
    with HealthWatch(endpoint(server, tmp_path)) as watch:
        assert wait_until(lambda: server.asked >= 2, timeout_s=10)
        server.status = 503
        assert wait_until(watch.lost, timeout_s=10)


def test_an_answer_that_takes_a_while_is_waited_for_however_soon_a_server_is_given_up(
    server: Server, tmp_path: Path
) -> None:
    server.slow_s = 0.45
    with HealthWatch(endpoint(server, tmp_path, after_s=2.0)) as watch:
        assert wait_until(lambda: server.asked >= 3, timeout_s=10)
        assert not watch.lost()


def test_one_without_the_route_from_the_start_is_not_watched(server: Server, tmp_path: Path) -> None:
    server.status = 502
    with HealthWatch(endpoint(server, tmp_path)) as watch:
        time.sleep(1.2)
        assert not watch.lost()
    assert server.asked == 1


def test_another_answer_is_a_sign_of_life(server: Server, tmp_path: Path) -> None:
    server.status = 404
    with HealthWatch(endpoint(server, tmp_path)) as watch:
        assert wait_until(lambda: server.asked >= 8, timeout_s=10), "longer than it is given"
        assert not watch.lost()


@pytest.mark.parametrize(("engine", "after_s"), [(Busy(), 0.2), (Plain(), None)])
def test_some_are_never_asked(server: Server, tmp_path: Path, engine: Engine, after_s: float | None) -> None:
    with HealthWatch(endpoint(server, tmp_path, engine=engine, after_s=after_s)) as watch:
        time.sleep(0.5)
        assert not watch.lost()
    assert server.asked == 0


def test_what_comes_after_the_load_is_not_held_against_it(server: Server, tmp_path: Path) -> None:
    with HealthWatch(endpoint(server, tmp_path)) as watch:
        assert wait_until(lambda: server.asked >= 1, timeout_s=10)
    time.sleep(1.2)
    assert not watch.lost()
