"""Adding an engine: one module, one YAML, and this test. Nothing of the harness names it."""

from __future__ import annotations

from pathlib import Path

from tests.support import CHECKOUT, quantbench

PLUGINS = CHECKOUT / "tests" / "plugins"


def test_an_engine_from_outside_is_planned_and_launched_like_any_other(tmp_path: Path) -> None:
    extended = ["--plugin", "imaginary_engine", "--config-dir", str(PLUGINS / "conf")]
    env = {"PYTHONPATH": str(PLUGINS)}
    planned = quantbench("run", "engine=imaginary", "--dry-run", *extended, cwd=tmp_path, env=env)
    assert planned.returncode == 0, planned.stderr
    assert "Q8_0 · imaginary" in planned.stdout
    printed = quantbench(
        "serve", "engine=imaginary", "engine.behaviour=slow", "--print", *extended, cwd=tmp_path, env=env
    )
    assert printed.stdout.startswith("IMAGINARY_KEY=$API_KEY ")
    assert printed.stdout.strip().endswith("slow")
    unknown = quantbench("run", "engine=imaginary", "--dry-run", cwd=tmp_path)
    assert unknown.returncode == 2
