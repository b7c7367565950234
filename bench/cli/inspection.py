"""Commands that look rather than measure: status, toolchain, doctor, version."""

from __future__ import annotations

import argparse
import shlex
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from bench._version import __version__
from bench.base.errors import UsageError
from bench.cli.show import Display

if TYPE_CHECKING:
    from bench.pipeline.status import CellStatus, RunStatus


def toolchain(arguments: argparse.Namespace) -> int:
    """`quantbench toolchain ACTION [NAME] [KEY=VALUE …]`."""
    from bench.pipeline.schemas import register_all

    register_all()
    display = Display(quiet=arguments.quiet, json_lines=arguments.json_lines)
    if arguments.action == "list":
        return _list(display)
    if arguments.name is None:
        raise UsageError(f"toolchain {arguments.action}: name one; see quantbench toolchain list")
    actions: dict[str, Callable[[str, list[str], Display], int]] = {
        "install": _install,
        "verify": _verify,
        "remove": _remove,
        "path": _path,
    }
    return actions[arguments.action](arguments.name, arguments.overrides, display)


def status(arguments: argparse.Namespace) -> int:
    """`quantbench status DIR`: where a run is; 0 whatever state that is, 2 when there is no run."""
    from bench.pipeline.status import read_status

    display = Display(quiet=arguments.quiet, json_lines=arguments.json_lines)
    run = read_status(arguments.directory)
    display.result(
        f"{run.name}: {run.state.value}, {_since(run)}",
        run=run.name,
        state=run.state.value,
        started=run.started,
        finished=run.finished,
        directory=str(run.directory),
    )
    rows = [row for cell in run.cells for row in ((cell.label, "", cell.state, cell.note), *_children(cell))]
    display.table("stage", ("cell", "stage", "state", "note"), rows)
    command = shlex.join(run.command)
    begins = f" and begins {run.not_begun} cells" if run.not_begun else ""
    display.result(
        f"the same command reuses {run.reused} measurements, makes {run.to_measure}{begins}: {command}",
        reused=run.reused,
        to_measure=run.to_measure,
        not_begun=run.not_begun,
        command=command,
    )
    return 0


def _since(run: RunStatus) -> str:
    ended = "" if run.finished is None else f", ended {run.finished}"
    advice = " (its process is gone: the same command goes on from here)" if run.state.value == "dead" else ""
    return f"started {run.started}{ended}{advice}"


def _children(cell: CellStatus) -> list[tuple[str, str, str, str]]:
    return [("", f"{child.stage} {child.name}", child.state, child.note) for child in cell.children]


def doctor(arguments: argparse.Namespace) -> int:
    """`quantbench doctor`: exit code 1 when something must be mended before a run."""
    from bench.doctor.diagnose import Verdict, diagnose
    from bench.pipeline.schemas import register_all

    register_all()
    display = Display(quiet=arguments.quiet, json_lines=arguments.json_lines)
    checks = diagnose()
    display.table(
        "check",
        ("check", "verdict", "found", "remedy"),
        [(check.name, check.verdict.value, check.found, check.remedy or "") for check in checks],
    )
    return 1 if any(check.verdict is Verdict.FAIL for check in checks) else 0


def version(arguments: argparse.Namespace) -> int:
    """`quantbench version`."""
    from bench.telemetry.provenance import source_commit

    commit = source_commit()
    display = Display(quiet=arguments.quiet, json_lines=arguments.json_lines)
    text = f"quantbench {__version__}" + (f" ({commit})" if commit else "")
    display.result(text, version=__version__, commit=commit)
    return 0


def _list(display: Display) -> int:
    from bench.toolchains.command import list_toolchains

    rows = [
        (
            row.name,
            row.kind,
            row.accelerator,
            row.state.value,
            "-" if row.size_bytes is None else f"{row.size_bytes / 1e6:.0f} MB",
            row.description,
        )
        for row in list_toolchains()
    ]
    display.table("toolchain", ("name", "kind", "accelerator", "state", "size", "what for"), rows)
    return 0


def _install(name: str, overrides: list[str], display: Display) -> int:
    from bench.toolchains.command import install

    made = install(name, overrides=overrides, progress=display.progress())
    display.result(f"{name} is ready ({made.lock_hash})", name=name, lock_hash=made.lock_hash)
    return 0


def _verify(name: str, overrides: list[str], display: Display) -> int:
    from bench.toolchains.command import verify

    with tempfile.TemporaryDirectory(prefix="quantbench-verify-") as folder:
        versions = verify(name, overrides=overrides, log=Path(folder) / "verify.log", progress=display.progress())
    display.table("version", ("part", "version"), sorted(versions.items()))
    return 0


def _remove(name: str, overrides: list[str], display: Display) -> int:
    from bench.toolchains.command import remove

    freed = remove(name, overrides=overrides)
    display.result(f"{name} removed, {freed / 1e6:.0f} MB freed", name=name, freed_bytes=freed)
    return 0


def _path(name: str, overrides: list[str], display: Display) -> int:
    from bench.toolchains.command import path

    found = path(name, overrides=overrides)
    display.result(str(found), name=name, path=str(found))
    return 0
