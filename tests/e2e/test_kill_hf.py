"""kill -9 of the harness while a Hugging Face checkpoint is quantized: no half artefact, and it is made afterwards."""

from __future__ import annotations

import json
import os
import signal
import subprocess
from collections.abc import Callable

import psutil
import pytest

from tests.support import Workspace, command_line

pytestmark = pytest.mark.toolchains

QUANTIZE = ("quantize", "model=smollm2", "engine=transformers", "scheme=fp8_dynamic")
GONE_WITHIN_S = 20.0


def test_a_killed_quantization_leaves_nothing_and_is_made_again(make_workspace: Callable[[str], Workspace]) -> None:
    workspace = make_workspace("kill_hf")
    with subprocess.Popen(
        command_line([*QUANTIZE, "--json-lines"]),
        cwd=workspace.folder,
        env={**os.environ, **workspace.env},
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    ) as process:
        assert process.stdout is not None
        for line in process.stdout:
            event = json.loads(line)
            if event.get("stage") == "quantize" and "packing" in str(event) and (event.get("done") or 0) >= 3:
                break
        else:
            pytest.fail("no layer was packed")
        below = psutil.Process(process.pid).children(recursive=True)
        os.kill(process.pid, signal.SIGKILL)
    _, alive = psutil.wait_procs(below, timeout=GONE_WITHIN_S)
    assert len(below) >= 2, "a supervisor and the quantizer were at work"
    assert not alive, [left.cmdline() for left in alive]
    kept = {path.parent.name for path in (workspace.cache / "artefacts").glob("*/manifest.json")}
    labels = [json.loads((workspace.cache / "artefacts" / key / "manifest.json").read_text())["label"] for key in kept]
    assert labels == ["BF16"], "the checkpoint that it is made from was whole"

    resumed = workspace.run(*QUANTIZE)
    assert resumed.returncode == 0, resumed.stdout + resumed.stderr
    made = [json.loads(path.read_text()) for path in (workspace.cache / "artefacts").glob("*/manifest.json")]
    assert sorted(manifest["label"] for manifest in made) == ["BF16", "FP8 dynamic"]
    folders = [path for path in (workspace.cache / "artefacts").iterdir() if path.is_dir()]
    assert all((folder / "manifest.json").is_file() for folder in folders), "nothing half made is left"
