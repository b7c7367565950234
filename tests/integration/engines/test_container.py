"""llama-server out of a real container: served on loopback, its model read-only, and gone when the harness is killed.

The image is made here of the toolchain's own files, so that nothing is pulled.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import tarfile
from collections.abc import Iterator
from pathlib import Path

import httpx
import psutil
import pytest

from bench.base.process import wait_until
from bench.base.progress import Progress
from bench.engines.base import ServedModel, engine_of
from bench.engines.container import RUN_LABEL, ContainerConfig, Runtime, ask
from bench.engines.launch import launched
from bench.engines.llama_cpp import LlamaCppConfig
from quantize.schemes.gguf import GgufType
from tests.integration.quantize.real_llama_cpp import artefact, toolchain
from tests.support import CHECKOUT

pytestmark = pytest.mark.llama_cpp

IMAGE = "localhost/quantbench-test-llama-server:latest"
#: Settings of podman with which a container may start on a machine that is itself a container.
TRIED = (
    "",
    '[containers]\ndefault_ulimits = ["nofile=1024:1024", "nproc=1024:1024"]\n[engine]\nruntime = "runc"\n',
)


@pytest.fixture(scope="module")
def model() -> ServedModel:
    return ServedModel(format="gguf", path=artefact(GgufType.Q8_0).model_path, name="smol")


@pytest.fixture(scope="module")
def image(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """An image of llama-server and the libraries it is linked to, where podman can start one."""
    if shutil.which("podman") is None:
        pytest.skip("podman is not installed")
    folder = tmp_path_factory.mktemp("image")
    program = toolchain().executable("llama-server")
    linked = subprocess.run(["ldd", str(program)], capture_output=True, text=True, check=True).stdout
    with tarfile.open(folder / "image.tar", "w") as archive:
        archive.add(program.resolve(), "engine/llama-server")
        for name, path in re.findall(r"(\S+) => (/\S+)", linked):
            archive.add(Path(path).resolve(), f"engine/lib/{name}")
        for loader in re.findall(r"^\s*(/\S+ld-linux\S+)", linked, re.MULTILINE):
            archive.add(Path(loader).resolve(), loader.lstrip("/"))
        temporary = tarfile.TarInfo("tmp")
        temporary.type, temporary.mode = tarfile.DIRTYPE, 0o1777
        archive.addfile(temporary)
    made = ask(
        Runtime.podman,
        [
            *("import", "--change", 'ENTRYPOINT ["/engine/llama-server"]'),
            *("--change", "ENV LD_LIBRARY_PATH=/engine/lib", str(folder / "image.tar"), IMAGE),
        ],
        timeout_s=300,
    )
    if made.returncode != 0:
        pytest.skip(f"podman cannot make an image here: {made.stderr.strip()[-200:]}")
    before = os.environ.get("CONTAINERS_CONF")
    try:
        said = ""
        for settings in TRIED:
            (folder / "containers.conf").write_text(settings)
            os.environ["CONTAINERS_CONF"] = str(folder / "containers.conf")
            tried = ask(Runtime.podman, ["run", "--rm", "--publish", "127.0.0.1::8000", IMAGE, "--version"])
            if tried.returncode == 0:
                yield IMAGE
                break
            said = tried.stderr.strip()[-200:]
        else:
            pytest.skip(f"podman cannot start a container here: {said}")
    finally:
        ask(Runtime.podman, ["rmi", "--force", IMAGE])
        os.environ.pop("CONTAINERS_CONF")
        if before is not None:
            os.environ["CONTAINERS_CONF"] = before


def config(image: str) -> LlamaCppConfig:
    container = ContainerConfig(runtime=Runtime.podman, image=image)
    return LlamaCppConfig(
        max_model_len=256, max_sequences=1, threads=1, container=container, env={"QUANTBENCH_TEST": "yes"}
    )


def containers() -> list[str]:
    return ask(Runtime.podman, ["ps", "--all", "--quiet", "--filter", f"label={RUN_LABEL}"]).stdout.split()


def test_it_serves_on_loopback_with_a_key_and_a_model_that_it_cannot_change(
    image: str, model: ServedModel, tmp_path: Path
) -> None:
    asked = config(image)
    log = tmp_path / "engine.log"
    with launched(engine_of(asked), asked, model, toolchain=None, log=log, progress=Progress()) as endpoint:
        (container,) = containers()
        found = json.loads(ask(Runtime.podman, ["inspect", container]).stdout)[0]
        (mount,) = [each for each in found["Mounts"] if each["Destination"].startswith("/model")]
        assert mount["RW"] is False
        assert "QUANTBENCH_TEST=yes" in found["Config"]["Env"]
        assert all(binding["HostIp"] == "127.0.0.1" for (binding,) in found["HostConfig"]["PortBindings"].values())
        assert endpoint.api_key not in " ".join(endpoint.command.argv)
        assert endpoint.tree_pid is None, "the client's memory is not the engine's"
        refused = httpx.post(f"{endpoint.url}/v1/completions", json={"prompt": "The", "max_tokens": 1}, timeout=30)
        assert refused.status_code == 401
        counters = endpoint.counters()
        assert counters is not None
        assert counters.generation_tokens
    assert containers() == []
    with socket.socket() as probe:
        assert probe.connect_ex(("127.0.0.1", int(endpoint.url.rpartition(":")[2]))) != 0


SERVING = """
import sys, time
from pathlib import Path
from bench.base.progress import Progress
from bench.engines.base import ServedModel, engine_of
from bench.engines.launch import launched
from tests.integration.engines.test_container import config
asked = config(sys.argv[1])
model = ServedModel(format="gguf", path=Path(sys.argv[2]), name="smol")
with launched(engine_of(asked), asked, model, toolchain=None, log=Path(sys.argv[3]), progress=Progress()):
    print("ready", flush=True)
    time.sleep(300)
"""


def test_no_container_outlives_a_harness_that_is_killed(image: str, model: ServedModel, tmp_path: Path) -> None:
    words = [sys.executable, "-c", SERVING, image, str(model.path), str(tmp_path / "engine.log")]
    env = {**os.environ, "PYTHONPATH": str(CHECKOUT)}
    with subprocess.Popen(words, stdout=subprocess.PIPE, text=True, env=env) as harness:
        assert harness.stdout is not None
        assert harness.stdout.readline() == "ready\n", (tmp_path / "engine.log").read_text()
        below = psutil.Process(harness.pid).children(recursive=True)
        assert len(containers()) == 1
        harness.send_signal(signal.SIGKILL)
    assert wait_until(lambda: containers() == [], timeout_s=60)
    _, alive = psutil.wait_procs(below, timeout=30)
    assert not alive
