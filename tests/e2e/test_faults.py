"""What goes wrong while real parts run: one clear line, the right exit code, nothing left running, nothing lost."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
import socket
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest

from bench.base.paths import cache_dir
from bench.base.process import wait_until
from tests.support import ONE_LOAD, SMALL, Answer, Workspace, command_line, require, started_from

pytestmark = pytest.mark.llama_cpp

#: One cell with one scenario and nothing to score.
ONE = (*ONE_LOAD, "workloads.default.input_tokens=16", "workloads.default.output_tokens=8")


@pytest.fixture(scope="module")
def made(make_workspace: Callable[[str], Workspace]) -> Workspace:
    """A workspace whose variants are made and accepted, so that each fault is met at once."""
    workspace = make_workspace("faults")
    (cache_dir() / "artefacts").mkdir(exist_ok=True)
    (workspace.cache / "artefacts").symlink_to(cache_dir() / "artefacts")
    answer = workspace.run("quantize", "-m", "scheme=gguf_q8_0,gguf_f16")
    assert answer.returncode == 0, answer.stderr
    return workspace


@pytest.fixture
def workspace(made: Workspace, tmp_path: Path) -> Iterator[Workspace]:
    """A folder of the test's own on those variants; afterwards nothing that was started here may live."""
    yield Workspace(folder=tmp_path, cache=made.cache)
    assert wait_until(lambda: not started_from(made), timeout_s=20), started_from(made)


def servers_of(workspace: Workspace) -> list[psutil.Process]:
    """Its llama-servers that live."""
    found = []
    for process in started_from(workspace):
        with contextlib.suppress(psutil.NoSuchProcess):
            if process.name() == "llama-server":
                found.append(process)
    return found


def said(answer: Answer) -> list[str]:
    """Our own lines on stderr; a traceback is never one."""
    assert "Traceback" not in answer.stderr, answer.stderr
    return [line for line in answer.stderr.splitlines() if line.startswith("quantbench: ")]


def cells(workspace: Workspace) -> dict[str, dict[str, Any]]:
    records = [json.loads(path.read_text()) for path in workspace.folder.glob("results/*/cells/*/cell.json")]
    return {record["label"]: record for record in records}


def only_failure(workspace: Workspace, answer: Answer) -> dict[str, Any]:
    """The one failed cell's failure; the run was recorded as failed, told in one line, and reported."""
    assert answer.returncode == 1, answer.stdout + answer.stderr
    assert said(answer) == []
    assert len([line for line in answer.stdout.splitlines() if line.startswith("failed: ")]) == 1
    assert "report: " in answer.stdout
    (run,) = workspace.folder.glob("results/*/run.json")
    assert json.loads(run.read_text())["status"] == "failed"
    (failure,) = [cell["failure"] for cell in cells(workspace).values() if cell["status"] == "failed"]
    result: dict[str, Any] = failure
    return result


def test_a_server_that_dies_at_its_start(workspace: Workspace) -> None:
    answer = workspace.run("run", *ONE, "engine.extra_args=[--no-such-flag]")
    failure = only_failure(workspace, answer)
    assert (failure["stage"], failure["kind"]) == ("serve", "crashed")
    assert "ended before it was ready" in failure["message"]
    assert "invalid argument: --no-such-flag" in failure["log_tail"]


def test_a_server_that_is_never_ready(workspace: Workspace) -> None:
    answer = workspace.run("run", *ONE, "engine.start_limit_s=0.01")
    failure = only_failure(workspace, answer)
    assert failure["kind"] == "start_timeout"
    assert "raise engine.start_limit_s" in failure["message"]


def test_a_cpu_build_that_is_asked_for_the_gpu(workspace: Workspace) -> None:
    failure = only_failure(workspace, workspace.run("run", *ONE, "engine.gpu_layers=99"))
    assert failure["kind"] == "cpu_fallback"
    assert "set engine.gpu_layers=0" in failure["message"]


def test_a_server_killed_in_mid_run_fails_its_cell_and_the_next_one_goes_on(workspace: Workspace) -> None:
    two = [word for word in ONE if not word.startswith("scheme=")]
    process = subprocess.Popen(
        command_line(["run", "-m", *two, "scheme=gguf_f16,gguf_q8_0", "scenarios.c1.requests=60", "--json-lines"]),
        cwd=workspace.folder,
        env={**os.environ, **workspace.env},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert process.stdout is not None
    killed = False
    lines = []
    for line in process.stdout:
        event = json.loads(line)
        lines.append(event)
        if not killed and event.get("stage") == "load" and event.get("done", 0) >= 3:
            (server,) = servers_of(workspace)
            server.send_signal(signal.SIGKILL)
            killed = True
    _, errors = process.communicate()
    assert process.returncode == 1, errors
    assert "Traceback" not in errors
    by_label = cells(workspace)
    first, second = by_label["F16 · llama_cpp"], by_label["Q8_0 · llama_cpp"]
    assert (first["status"], second["status"]) == ("failed", "complete")
    assert first["failure"]["kind"] == "crashed"
    assert "killed by SIGKILL" in first["failure"]["message"]
    assert "| task " in first["failure"]["log_tail"]
    (entry,) = first["scenarios"].values()
    assert entry["status"] == "failed"
    (folder,) = workspace.folder.glob(f"results/*/cells/{first['key']}/{entry['path']}")
    assert (folder / "requests.parquet").is_file(), "what was measured until then is kept"
    assert json.loads((folder / "manifest.json").read_text())["status"] == "failed"


def test_a_server_that_hangs_in_mid_run_fails_its_scenario_and_the_next_one_gets_a_new_server(
    workspace: Workspace,
) -> None:
    two = [word for word in ONE if word != "~scenarios.c4"]
    asked = [*two, "scenarios.c1.requests=60", "scenarios.c4.requests=8", "engine.unhealthy_after_s=3"]
    process = subprocess.Popen(
        command_line(["run", *asked, "--json-lines"]),
        cwd=workspace.folder,
        env={**os.environ, **workspace.env},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert process.stdout is not None
    stopped: psutil.Process | None = None
    for line in process.stdout:
        event = json.loads(line)
        if stopped is None and event.get("stage") == "load" and event.get("done", 0) >= 3:
            (stopped,) = servers_of(workspace)
            stopped.send_signal(signal.SIGSTOP)
            since = time.monotonic()
        elif stopped is not None and event.get("message") == "recording":
            took_s = time.monotonic() - since
            break
    _, errors = process.communicate()
    assert process.returncode == 1, errors
    assert "Traceback" not in errors
    assert stopped is not None
    assert not stopped.is_running()
    assert took_s < 20, "the scenario does not wait for the deadlines of its requests"
    (cell,) = cells(workspace).values()
    first, second = cell["scenarios"]["c1"], cell["scenarios"]["c4"]
    assert (first["status"], first["failure"]["kind"]) == ("failed", "unhealthy")
    assert "did not answer for 3 s under load" in first["failure"]["message"]
    assert "| task " in first["failure"]["log_tail"]
    assert second["status"] == "complete"
    (folder,) = workspace.folder.glob(f"results/*/cells/{cell['key']}/{first['path']}")
    assert (folder / "requests.parquet").is_file(), "what was measured until then is kept"
    assert json.loads((folder / "manifest.json").read_text())["status"] == "partial"


def test_a_format_the_engine_cannot_serve_is_an_answer(workspace: Workspace) -> None:
    plugin = workspace.folder / "hf_only.py"
    plugin.write_text(HF_ONLY)
    (workspace.folder / "conf" / "engine").mkdir(parents=True)
    (workspace.folder / "conf" / "engine" / "hf_only.yaml").write_text("defaults: [base_hf_only, _self_]\n")
    flags = ("--plugin", "hf_only", "--config-dir", "conf")
    overrides = [word for word in ONE if not word.startswith("experiment=")]
    env = {**workspace.env, "PYTHONPATH": os.pathsep.join([str(workspace.folder), os.environ.get("PYTHONPATH", "")])}
    answer = subprocess.run(
        command_line(["run", *ONE[:1], *overrides, "engine=hf_only", *flags]),
        cwd=workspace.folder,
        env={**os.environ, **env},
        capture_output=True,
        text=True,
        check=False,
    )
    assert answer.returncode == 0, answer.stdout + answer.stderr
    assert "unsupported: Q8_0 · hf_only: serves Hugging Face folders only" in answer.stdout
    (cell,) = cells(workspace).values()
    assert cell["status"] == "unsupported"


HF_ONLY = """
from dataclasses import dataclass

from bench.base.schema import schema
from bench.engines.base import Engine, EngineConfig, Support, SupportAnswer, engine


@schema("engine", "hf_only")
@dataclass(frozen=True, kw_only=True)
class HfOnlyConfig(EngineConfig):
    kind: str = "hf_only"
    toolchain: str = "llama_cpp"


@engine("hf_only")
class HfOnly(Engine):
    config_class = HfOnlyConfig

    def support(self, config, model_format):
        return Support(answer=SupportAnswer.NO, reason="serves Hugging Face folders only")
"""


def bad_model(folder: Path, kind: str, whole: Path) -> Path:
    path = folder / "model.gguf"
    if kind == "truncated":
        with whole.open("rb") as source:
            path.write_bytes(source.read(4 << 20))
    elif kind == "text":
        path.write_text("Once upon a time there was a checkpoint.\n")
    elif kind == "pickle":
        path = folder / "checkpoint"
        path.mkdir()
        (path / "config.json").write_text('{"architectures": ["LlamaForCausalLM"]}')
        (path / "pytorch_model.bin").write_bytes(b"\x80\x02csubprocess\ncall\n.")
    return path


@pytest.mark.parametrize(
    ("kind", "message"),
    [
        ("missing", "model.gguf"),
        ("truncated", "model.gguf: is cut short"),
        ("text", "model.gguf: is not a GGUF file"),
        ("pickle", "has only pickled weights (pytorch_model.bin)"),
    ],
)
@pytest.mark.parametrize("command", ["run", "quantize", "serve"])
def test_a_bad_checkpoint_is_one_line_and_exit_code_2(
    workspace: Workspace, command: str, kind: str, message: str
) -> None:
    (whole,) = {path for path in (workspace.cache / "sources").rglob("*.gguf") if "Q4_1" in path.name}
    path = bad_model(workspace.folder, kind, whole)
    overrides = ONE if command == "run" else ("scheme=gguf_q8_0",)
    answer = workspace.run(command, *overrides, "model=local", f"model.path={path}")
    assert answer.returncode == 2, answer.stderr
    (line,) = said(answer)
    assert message in line
    assert answer.stderr.splitlines()[-1] == line


def test_a_corrupt_variant_is_not_served(workspace: Workspace) -> None:
    """The bound on the divergence is one that Q4_0 cannot meet; the second time the verdict is remembered."""
    overrides = ("scheme=gguf_q4_0", "scheme.max_divergence=0.0001")
    cache = workspace.folder / "cache"
    cache.mkdir()
    for part in ("toolchains", "sources"):
        (cache / part).symlink_to(workspace.cache / part)
    own = Workspace(folder=workspace.folder, cache=cache)
    for _ in range(2):
        answer = own.run("serve", *overrides)
        assert answer.returncode == 1, answer.stdout + answer.stderr
        (line,) = said(answer)
        assert "Q4_0 is not accepted: its mean divergence" in line
        assert "serving" not in answer.stdout
    assert "accepting" not in answer.stderr


def test_a_task_without_its_data_fails_alone(workspace: Workspace) -> None:
    answer = workspace.run("evaluate", *SMALL, "scheme=gguf_q8_0", "tasks.divergence.text=nowhere.txt")
    assert answer.returncode == 2, answer.stdout + answer.stderr
    (line,) = said(answer)
    assert "task.text: there is no file" in line
    (cell,) = cells(workspace).values()
    assert {name: entry["status"] for name, entry in cell["tasks"].items()} == {
        "divergence": "failed",
        "perplexity": "complete",
        "mmlu": "complete",
    }


def test_a_taken_port_is_one_line_and_exit_code_2(workspace: Workspace) -> None:
    with socket.socket() as holder:
        holder.bind(("127.0.0.1", 0))
        holder.listen()
        port = holder.getsockname()[1]
        answer = workspace.run("serve", "scheme=gguf_q8_0", "--port", str(port))
    assert answer.returncode == 2, answer.stderr
    (line,) = said(answer)
    assert f"--port {port}" in line
    assert "in use" in line


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 12 MB: a run's manifests fit, the 8 MB of a recording beside 6 MB of other files do not."""
    folder = tmp_path / "disk"
    folder.mkdir()
    mounted = shutil.which("mount") is not None and os.geteuid() == 0
    if mounted:
        command = ["mount", "-t", "tmpfs", "-o", "size=12m", "tmpfs", str(folder)]
        mounted = subprocess.run(command, capture_output=True, check=False).returncode == 0
    if not mounted:
        pytest.skip("mounting a small file system takes root")
    yield folder
    subprocess.run(["umount", "-l", str(folder)], check=True)


def test_a_full_disk_while_recording(workspace: Workspace, small_disk: Path) -> None:
    out = small_disk / "run"
    first = workspace.run("run", *ONE, f"out={out}")
    assert first.returncode == 0, first.stdout + first.stderr
    measured = {path: path.read_bytes() for path in out.rglob("*.parquet")}
    (small_disk / "ballast").write_bytes(bytes(6 << 20))

    again = workspace.run("run", *ONE, "scenarios.c1.requests=5", f"out={out}")
    assert again.returncode == 1, again.stdout + again.stderr
    assert "Traceback" not in again.stderr, again.stderr
    (line,) = [line for line in again.stdout.splitlines() if line.startswith("failed: ")]
    assert "no space left" in line.lower()
    (record,) = [json.loads(path.read_text()) for path in out.glob("cells/*/cell.json")]
    assert record["failure"]["kind"] == "disk_full"
    assert {path: path.read_bytes() for path in measured} == measured

    (small_disk / "ballast").unlink()
    resumed = workspace.run("run", *ONE, "scenarios.c1.requests=5", f"out={out}")
    assert resumed.returncode == 0, resumed.stdout + resumed.stderr


def test_a_disk_too_full_for_any_manifest(workspace: Workspace, small_disk: Path) -> None:
    out = small_disk / "run"
    with (small_disk / "ballast").open("wb") as ballast, contextlib.suppress(OSError):
        while True:
            ballast.write(bytes(1 << 16))
            ballast.flush()
    answer = workspace.run("run", *ONE, f"out={out}")
    assert answer.returncode == 1, answer.stdout + answer.stderr
    (line,) = said(answer)
    assert "no space left on the disk" in line.lower()


def test_an_unreadable_result_folder(workspace: Workspace) -> None:
    out = workspace.folder / "results" / "locked"
    (out / "cells").mkdir(parents=True)
    (out / "run.json").write_text("{}")
    out.chmod(0)
    drop = []
    if os.geteuid() == 0:
        require(shutil.which("setpriv") is not None, "setpriv, without which root may read everything")
        rights = "-dac_override,-dac_read_search"
        drop = ["setpriv", "--bounding-set", rights, "--inh-caps", rights]
    try:
        for command in ("report", "status"):
            answer = subprocess.run(
                [*drop, *command_line([command, str(out)])],
                cwd=workspace.folder,
                env={**os.environ, **workspace.env},
                capture_output=True,
                text=True,
                check=False,
            )
            assert answer.returncode == 2, answer.stderr
            (line,) = said(answer)
            assert str(out) in line
            assert "ermission denied" in line
    finally:
        out.chmod(0o755)


def test_status_of_a_run_that_runs_and_of_one_that_was_killed(workspace: Workspace) -> None:
    process = subprocess.Popen(
        command_line(["run", *ONE, "scenarios.c1.requests=200", "--json-lines"]),
        cwd=workspace.folder,
        env={**os.environ, **workspace.env},
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    )
    with process:
        assert process.stdout is not None
        for line in process.stdout:
            event = json.loads(line)
            if event.get("stage") == "load" and event.get("done", 0) >= 3:
                break
        running = workspace.run("status", "results/quickstart")
        process.kill()
    assert running.returncode == 0, running.stderr
    assert running.stdout.startswith("quickstart: running, started ")
    assert "of 202 requests recorded" in running.stdout
    dead = workspace.run("status", "results/quickstart", "--json-lines")
    events = [json.loads(line) for line in dead.stdout.splitlines()]
    assert dead.returncode == 0
    assert events[0]["state"] == "dead"
    (scenario,) = [event for event in events if event.get("stage") == "load c1"]
    assert scenario["state"] == "died"
    assert int(scenario["note"].split()[0]) >= 3
    assert (events[-1]["reused"], events[-1]["to_measure"]) == (0, 1)
    deadline = time.monotonic() + 20
    while started_from(workspace) and time.monotonic() < deadline:
        time.sleep(0.05)
