"""Compiles and runs the truth server: an instrument that speaks OpenAI streams on a known schedule and logs every send.

with TruthServer(ttft_ms=100, itl_ms=10) as truth:
    run_scenario(truth.target(), …)
    log = truth.take_log()
"""

from __future__ import annotations

import hashlib
import http.client
import os
import shutil
import subprocess
import tempfile
from pathlib import Path

import numpy as np
import numpy.typing as npt

from bench.base.errors import ToolchainError
from bench.base.paths import cache_dir
from bench.base.process import clean_env, spawn
from bench.load.target import Target
from bench.load.truth.pace import PACE_DTYPE

LOG_DTYPE = np.dtype([("request", "<u4"), ("index", "<u4"), ("ns", "<i8")])
"""index 0: the request was received; k: its k-th token-bearing event was about to be written. CLOCK_MONOTONIC ns."""

_SOURCE = Path(__file__).with_name("server.c")
_FLAGS = ("-O2", "-std=gnu11", "-Wall", "-Wextra")


def build() -> Path:
    """The compiled server, made on first use, kept by its source's digest. Raises ToolchainError without a compiler."""
    digest = hashlib.sha256(_SOURCE.read_bytes() + " ".join(_FLAGS).encode()).hexdigest()[:12]
    binary = cache_dir() / "truth" / f"server-{digest}"
    if binary.exists():
        return binary
    compiler = next((found for name in ("cc", "gcc", "clang") if (found := shutil.which(name))), None)
    if compiler is None:
        raise ToolchainError("the truth server needs a C compiler: install gcc or clang")
    binary.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=binary.parent) as folder:
        made = Path(folder) / "server"
        done = subprocess.run(
            [compiler, *_FLAGS, "-o", str(made), str(_SOURCE)], capture_output=True, text=True, check=False
        )
        if done.returncode:
            raise ToolchainError("the truth server does not compile", log_tail=done.stderr[-4000:])
        made.replace(binary)
    return binary


class TruthServer:
    """A running truth server on loopback. `slots` is how many requests it works on at once (0: all), so that its
    capacity is known; `cpu` pins it to one core; `port` 0 takes a free one; `by_arrival` numbers requests as they come,
    not by their ids. A context manager.
    """

    def __init__(
        self,
        *,
        ttft_ms: float = 100.0,
        itl_ms: float = 10.0,
        tokens: int = 128,
        slots: int = 0,
        cpu: int | None = None,
        port: int = 0,
        by_arrival: bool = False,
        api_key: str | None = None,
    ) -> None:
        self._api_key = api_key
        binary = build()
        ready_read, ready_write = os.pipe()
        command = [str(binary), "--ready-fd", str(ready_write), "--ttft-us", str(round(ttft_ms * 1000))]
        command += ["--itl-us", str(round(itl_ms * 1000)), "--tokens", str(tokens), "--port", str(port)]
        command += ["--slots", str(slots)]
        command += ["--by-arrival", "1"] if by_arrival else []
        command += [] if cpu is None else ["--cpu", str(cpu)]
        try:
            self.process = spawn(
                command,
                output=None,
                env=clean_env(extra={"TRUTH_API_KEY": api_key} if api_key else {}),
                pass_fds=(ready_write,),
            )
        finally:
            os.close(ready_write)
        with os.fdopen(ready_read, encoding="ascii") as stream:
            line = stream.readline()
        if not line:
            self.process.kill()
            raise ToolchainError("the truth server did not start")
        self.port = int(line)

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def target(self, fault: str = "", *, every: int = 1) -> Target:
        """A target whose model name asks for `fault` (see server.c), in every `every`-th request."""
        model = "truth" + (f":{fault}" if fault else "") + (f":{every}" if every > 1 else "")
        return Target(url=self.url, model=model, api_key=self._api_key)

    def take_log(self) -> npt.NDArray[np.void]:
        """What was sent since the last call, LOG_DTYPE, in order of time."""
        return np.frombuffer(self._get("/truth/log"), dtype=LOG_DTYPE)

    def take_pace(self) -> npt.NDArray[np.void]:
        """How fast the server's core was since the last call, PACE_DTYPE, a sample a millisecond of work."""
        return np.frombuffer(self._get("/truth/pace"), dtype=PACE_DTYPE)

    def _get(self, path: str) -> bytes:
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=30)
        try:
            headers = {"Authorization": f"Bearer {self._api_key}"} if self._api_key else {}
            connection.request("GET", path, headers=headers)
            return connection.getresponse().read()
        finally:
            connection.close()

    def __enter__(self) -> TruthServer:
        return self

    def __exit__(self, *_: object) -> None:
        if self.process.poll() is None:
            self.process.kill()
