"""The wheel, installed outside the checkout, has everything: configuration, texts, templates, workers."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

from tests.support import CHECKOUT


def test_the_installed_wheel_plans_and_finds_its_files(tmp_path: Path) -> None:
    pip = [sys.executable, "-m", "pip", "--disable-pip-version-check", "--quiet"]
    build = [*pip, "wheel", "--no-deps", "--no-build-isolation", "--wheel-dir", str(tmp_path), str(CHECKOUT)]
    subprocess.run(build, check=True)
    (wheel,) = tmp_path.glob("quantbench-*.whl")
    site = tmp_path / "site"
    subprocess.run([*pip, "install", "--no-deps", "--target", str(site), str(wheel)], check=True)
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    env = {**os.environ, "PYTHONPATH": str(site)}

    def python(*arguments: str) -> str:
        command = [sys.executable, *arguments]
        return subprocess.run(command, cwd=elsewhere, env=env, capture_output=True, text=True, check=True).stdout

    where = python("-c", "from bench.base.compose import conf_dir; print(conf_dir())").strip()
    assert Path(where) == site / "bench" / "_conf"
    assert "Q8_0 · llama_cpp" in python("-m", "bench", "run", "experiment=quickstart", "--dry-run")
    shipped = {path.relative_to(site).as_posix() for path in site.rglob("*") if path.is_file()}
    source = {
        path.relative_to(CHECKOUT).as_posix()
        for room in ("bench", "quantize")
        for path in (CHECKOUT / room).rglob("*")
        if path.is_file() and "__pycache__" not in path.parts
    }
    assert source <= shipped, f"not in the wheel: {sorted(source - shipped)[:5]}"
