"""The worker protocol with real workers: answers, errors, crashes, deadlines, nonsense, progress, isolation."""

from __future__ import annotations

import os
import sys
import time
from pathlib import Path
from typing import Any

import psutil
import pytest

from bench.base.errors import ToolchainError
from bench.base.progress import Progress, ProgressEvent
from bench.toolchains.toolchain import Toolchain
from bench.toolchains.worker import WorkerError, ended, run_worker


@pytest.fixture
def here(tmp_path: Path) -> Toolchain:
    return Toolchain(
        name="here", lock_hash="0" * 16, prefix=tmp_path, python=Path(sys.executable), env={"FROM_TOOLCHAIN": "yes"}
    )


class Harness:
    """Runs a worker given as source text."""

    def __init__(self, toolchain: Toolchain, folder: Path) -> None:
        self.toolchain = toolchain
        self.folder = folder
        self.log = folder / "logs" / "worker.log"
        self.events: list[ProgressEvent] = []

    def __call__(self, source: str, request: dict[str, Any] | None = None, **options: Any) -> dict[str, Any]:
        worker = self.folder / "some_worker.py"
        worker.write_text(source)
        return run_worker(
            self.toolchain,
            worker,
            request or {},
            work_dir=self.folder / "work",
            log=self.log,
            progress=Progress(self.events.append, stage="test"),
            **options,
        )


@pytest.fixture
def work(here: Toolchain, tmp_path: Path) -> Harness:
    return Harness(here, tmp_path)


def test_the_answer_and_its_usage(work: Harness) -> None:
    source = """
import time
def run(request, progress):
    end = time.process_time() + 0.2
    while time.process_time() < end: pass
    print("to the log")
    return {"doubled": request["value"] * 2, "text": "größer"}
"""
    result = work(source, {"value": 21})
    usage = result.pop("usage")
    assert result == {"doubled": 42, "text": "größer"}
    assert usage["wall_s"] >= 0.2
    assert 0.2 <= usage["cpu_s"] < 5
    assert usage["peak_rss_bytes"] > 1_000_000
    assert "to the log" in work.log.read_text()


def test_an_exception_is_an_error_with_its_kind_and_traceback(work: Harness) -> None:
    with pytest.raises(WorkerError, match=r"some_worker: ValueError: group 128 does not divide 576") as caught:
        work("def run(request, progress):\n    raise ValueError('group 128 does not divide 576')")
    assert caught.value.kind == "error"
    assert "Traceback" in caught.value.log_tail


@pytest.mark.parametrize(
    ("statement", "kind"),
    [
        ("raise MemoryError", "out_of_memory"),
        ("class OutOfMemoryError(RuntimeError): pass\n    raise OutOfMemoryError", "out_of_memory"),
        ("import no_such_module_anywhere", "import_error"),
        ("import errno; raise OSError(errno.ENOSPC, 'full')", "disk_full"),
        ("e = RuntimeError('x'); e.kind = 'corrupt'; raise e", "corrupt"),
        ("return [1]", "error"),
        ("return {'perplexity': float('nan')}", "error"),
        ("return {'value': object()}", "error"),
    ],
)
def test_error_kinds(work: Harness, statement: str, kind: str) -> None:
    with pytest.raises(WorkerError) as caught:
        work(f"def run(request, progress):\n    {statement}")
    assert caught.value.kind == kind


def test_a_worker_that_cannot_be_imported(work: Harness) -> None:
    with pytest.raises(WorkerError, match="SyntaxError"):
        work("def run(:")


def test_death_by_signal_is_crashed_and_names_it(work: Harness) -> None:
    with pytest.raises(WorkerError, match="was killed by SIGSEGV without a reply") as caught:
        work(
            "import os, signal\n"
            "def run(r, p):\n    print('last words', flush=True); os.kill(os.getpid(), signal.SIGSEGV)"
        )
    assert caught.value.kind == "crashed"
    assert "last words" in caught.value.log_tail


def test_leaving_without_a_reply_is_crashed(work: Harness) -> None:
    with pytest.raises(WorkerError, match="exited with code 0 without a reply") as caught:
        work("import os\ndef run(r, p): os._exit(0)")
    assert caught.value.kind == "crashed"


def test_an_old_reply_is_never_taken_for_a_new_one(work: Harness) -> None:
    assert work("def run(r, p): return {'a': 1}")["a"] == 1
    with pytest.raises(WorkerError, match="without a reply"):
        work("import os\ndef run(r, p): os._exit(0)")


@pytest.mark.parametrize(
    ("reply", "said"),
    [
        ('{"protocol": 1, "status": "ok"', "not JSON"),
        ("[]", "another protocol"),
        ('{"protocol": 2, "status": "ok", "result": {}}', "another protocol"),
        ('{"protocol": 1, "status": "fine", "result": {}}', "neither with a result nor an error"),
        ('{"protocol": 1, "status": "ok", "result": 3}', "neither with a result nor an error"),
    ],
)
def test_a_garbage_reply_is_named_so(work: Harness, reply: str, said: str) -> None:
    source = f"import os, sys\ndef run(r, p):\n    open(sys.argv[3], 'w').write({reply!r}); os._exit(0)"
    with pytest.raises(WorkerError, match=said) as caught:
        work(source)
    assert caught.value.kind == "bad_reply"


def test_the_deadline_ends_the_whole_tree(work: Harness) -> None:
    source = """
import os, pathlib, subprocess, time
def run(request, progress):
    child = subprocess.Popen(["sleep", "600"], start_new_session=True)
    pathlib.Path(request["pids"]).write_text(f"{os.getpid()} {child.pid}")
    time.sleep(600)
"""
    pids = work.folder / "pids"
    started = time.monotonic()
    with pytest.raises(WorkerError, match=r"did not end within 5 s") as caught:
        work(source, {"pids": str(pids)}, timeout_s=5)
    assert caught.value.kind == "timeout"
    assert time.monotonic() - started < 30
    assert not any(psutil.pid_exists(int(pid)) for pid in pids.read_text().split())


def test_progress_arrives_in_order_and_noise_does_no_harm(work: Harness) -> None:
    source = """
import os
def run(request, progress):
    for done in range(1, 4):
        progress(done, 3, "layers", f"layer {done}")
    progress(7)
    os.write(progress._descriptor, b"not json\\n{}\\n[1]\\n" + b"\\xff\\n")
    return {}
"""
    work(source)
    assert [(e.done, e.total, e.unit, e.message) for e in work.events] == [
        (1, 3, "layers", "layer 1"),
        (2, 3, "layers", "layer 2"),
        (3, 3, "layers", "layer 3"),
        (7, None, "", ""),
    ]
    assert {event.stage for event in work.events} == {"test"}


def test_a_flood_of_progress_does_not_block(work: Harness) -> None:
    source = "def run(r, p):\n    for i in range(20000): p(i, 20000, 'tokens', 'x' * 150)\n    return {}"
    work(source, timeout_s=60)
    done = [event.done for event in work.events if event.done is not None]
    assert done
    assert done == sorted(done)


def test_the_harness_does_not_leak_in(work: Harness, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PYTHONPATH", str(work.folder / "ours"))
    monkeypatch.setenv("QUANTBENCH_API_KEY", "secret")
    source = """
import os, sys
def run(request, progress):
    return {"path": sys.path, "environ": dict(os.environ)}
"""
    result = work(source, env={"FROM_CALLER": "1"})
    environ = result["environ"]
    assert "" not in result["path"]
    assert not [entry for entry in result["path"] if entry.startswith(str(work.folder))]
    assert {"PYTHONPATH", "QUANTBENCH_API_KEY", "QUANTBENCH_PROGRESS_FD"}.isdisjoint(environ)
    assert (environ["FROM_TOOLCHAIN"], environ["FROM_CALLER"]) == ("yes", "1")
    assert environ["PATH"].split(os.pathsep)[0] == str(Path(sys.executable).parent)


def test_grandchildren_do_not_hold_the_progress_pipe(work: Harness) -> None:
    source = """
import os, subprocess, sys
def run(request, progress):
    code = "import os\\nprint(len([n for n in os.listdir('/proc/self/fd') if int(n) > 2]))"
    out = subprocess.run([sys.executable, "-I", "-c", code], capture_output=True, text=True, close_fds=False)
    return {"open": int(out.stdout)}
"""
    assert work(source)["open"] == 1  # the listing's own


def test_no_python_is_a_toolchain_error(work: Harness, tmp_path: Path) -> None:
    work.toolchain = Toolchain(name="gone", lock_hash="0", prefix=tmp_path, python=tmp_path / "bin" / "python")
    with pytest.raises(ToolchainError, match="toolchain gone: there is no Python"):
        work("def run(r, p): return {}")


@pytest.mark.parametrize(
    ("code", "words"),
    [
        (3, "exited with code 3"),
        (137, "was killed by SIGKILL (most likely for lack of memory)"),
        (139, "was killed by SIGSEGV"),
        (250, "exited with code 250"),
    ],
)
def test_endings_in_words(code: int, words: str) -> None:
    assert ended(code) == words
