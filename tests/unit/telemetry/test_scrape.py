"""What a metrics route answered is kept to the byte; a server that does not answer is recorded as that."""

from __future__ import annotations

import http.server
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from bench.load.target import Target
from bench.telemetry.scrape import Scraper, read_scrapes

BODY = '# HELP a Naïve «metric»\na{b="c"} 1.0\n' * 3000


class Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    asked: list[tuple[str, str | None]] = []  # noqa: RUF012 - reset by the fixture

    def do_GET(self) -> None:
        self.asked.append((self.path, self.headers["Authorization"]))
        body = BODY.encode() if self.path == "/metrics" else b"not here"
        self.send_response(200 if self.path == "/metrics" else 404)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        return


@pytest.fixture
def server() -> Iterator[http.server.ThreadingHTTPServer]:
    Handler.asked = []
    made = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    made.daemon_threads = True
    thread = threading.Thread(target=made.serve_forever, daemon=True)
    thread.start()
    yield made
    made.shutdown()
    made.server_close()


def target(server: http.server.ThreadingHTTPServer, api_key: str | None = "key") -> Target:
    return Target(url=f"http://127.0.0.1:{server.server_port}", model="m", api_key=api_key)


def test_answers_are_kept_as_they_came(server: http.server.ThreadingHTTPServer, tmp_path: Path) -> None:
    with Scraper(target(server), ["/metrics", "/other"], tmp_path / "raw.gz") as scraper:
        for t_ns in (10, 20):
            scraper.take(t_ns)
        assert scraper.failed == 0
    first, second = read_scrapes(tmp_path / "raw.gz")
    assert (first.t_ns, second.t_ns) == (10, 20)
    assert first.texts == second.texts == {"/metrics": BODY}
    assert first.answers["/metrics"].took_ns > 0
    assert first.answers["/other"].error == "HTTP 404"
    assert Handler.asked[0] == ("/metrics", "Bearer key")
    assert (tmp_path / "raw.gz").stat().st_size < len(BODY) / 10
    assert b"Bearer" not in (tmp_path / "raw.gz").read_bytes()


def test_a_server_that_died_is_recorded_and_sampling_goes_on(
    server: http.server.ThreadingHTTPServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Handler, "protocol_version", "HTTP/1.0")  # a connection that is kept would be answered on
    with Scraper(target(server, None), ["/metrics"], tmp_path / "raw.gz") as scraper:
        assert scraper.take(1).texts
        server.shutdown()
        server.server_close()
        dead = scraper.take(2)
        assert scraper.failed == 1
    assert dead.texts == {}
    error = dead.answers["/metrics"].error
    assert error is not None
    assert error.startswith("ConnectError")
    assert [scrape.t_ns for scrape in read_scrapes(tmp_path / "raw.gz")] == [1, 2]


def test_a_file_that_a_kill_cut_off_keeps_what_was_whole(
    server: http.server.ThreadingHTTPServer, tmp_path: Path
) -> None:
    path = tmp_path / "raw.gz"
    with Scraper(target(server), ["/metrics"], path) as scraper:
        for t_ns in (1, 2, 3):
            scraper.take(t_ns)
    whole = path.read_bytes()
    path.write_bytes(whole[:-20])
    assert [scrape.t_ns for scrape in read_scrapes(path)] == [1, 2]
    assert list(read_scrapes(tmp_path / "none.gz")) == []
