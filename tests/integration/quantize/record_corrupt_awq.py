"""Make tests/data/corrupt_awq again: `.venv/bin/python -m tests.integration.quantize.record_corrupt_awq [FOLDER]`.

Needs the toolchains llmcompressor and autoawq; without a GPU, because only there AutoAWQ breaks a model.
"""

from __future__ import annotations

import shutil
import sys
import tempfile
from pathlib import Path

from bench.base.progress import Progress
from bench.toolchains.worker import run_worker
from quantize.models import LocalConfig
from quantize.run import ConfiguredToolchains, quantize
from quantize.samples import SampleSetConfig
from quantize.schemes.autoawq import AutoAwqConfig
from tests.support import CHECKOUT

RECORDED = CHECKOUT / "tests" / "data" / "corrupt_awq"
TEXT = CHECKOUT / "bench" / "quality" / "texts" / "default.txt"
WORKER = Path(__file__).with_name("recorded_checkpoint.py")
STEPS, SPREAD = 300, 1.0
KEPT = ("config.json", "model.safetensors", "tokenizer.model", "tokenizer_config.json")


def main(target: Path) -> None:
    """Write `baseline`, `unpatched` and `patched` below `target`."""
    with tempfile.TemporaryDirectory(prefix="quantbench-record-") as name:
        work = Path(name)
        tools = ConfiguredToolchains().ensure("llmcompressor", Progress())
        request = {"folder": str(work / "tiny"), "text": str(TEXT), "steps": STEPS, "spread": SPREAD}
        progress = Progress(lambda event: print(event.done, event.total, event.message, flush=True))
        print(run_worker(tools, WORKER, request, work_dir=work, log=work / "log", progress=progress))
        keep(work / "tiny", target / "baseline")
        for folder, patched in (("unpatched", False), ("patched", True)):
            scheme = AutoAwqConfig(patched=patched, threads=1, calibration=SampleSetConfig(samples=16, length=64))
            made = quantize(LocalConfig(path=str(work / "tiny")), scheme, cache=work / "cache", progress=progress)
            toolchain = made.manifest["toolchain"]["versions"]
            print(folder, made.label, {tool: toolchain.get(tool) for tool in ("autoawq", "torch", "transformers")})
            keep(made.directory, target / folder)


def keep(source: Path, target: Path) -> None:
    """The files a loader needs."""
    target.mkdir(parents=True, exist_ok=True)
    for name in KEPT:
        shutil.copyfile(source / name, target / name)


if __name__ == "__main__":
    main(Path(sys.argv[1]) if len(sys.argv) > 1 else RECORDED)
