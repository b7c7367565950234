"""What each kind of step does to an environment."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from bench.base.progress import Progress
from bench.toolchains.config import Step, StepKind, VenvConfig, lock_file
from bench.toolchains.pip import install_env
from bench.toolchains.runner import run_tool


@dataclass(frozen=True, kw_only=True)
class Build:
    """An environment in the making."""

    config: VenvConfig
    prefix: Path
    log: Path
    progress: Progress

    @property
    def venv(self) -> Path:
        return self.prefix / "venv"

    @property
    def python(self) -> Path:
        return self.venv / "bin" / "python"

    @property
    def native(self) -> Path:
        return self.prefix / "native"

    @property
    def work(self) -> Path:
        return self.prefix / "work"

    @property
    def source(self) -> Path:
        return self.work / "source"

    def environment(self) -> dict[str, str]:
        """The variables of all `set_env` steps, `{prefix}` unexpanded."""
        return {
            name: value
            for step in self.config.active_steps()
            if step.kind is StepKind.set_env
            for name, value in step.environment.items()
        }

    def run(
        self,
        argv: Sequence[str | Path],
        what: str,
        *,
        environment: dict[str, str] | None = None,
        cwd: Path | None = None,
    ) -> None:
        """Run a tool of this environment; raises ToolchainError."""
        run_tool(
            [str(part) for part in argv],
            what=f"toolchain {self.config.name}: {what}",
            log=self.log,
            env=install_env(path_first=self.python.parent, extra=environment),
            progress=self.progress,
            cwd=cwd,
        )

    def pip(self, *arguments: str | Path, what: str, environment: dict[str, str] | None = None) -> None:
        """Run the environment's own pip."""
        self.run([self.python, "-I", "-m", "pip", *arguments], what, environment=environment)


def run_step(build: Build, step: Step) -> None:
    """Do one step; raises ToolchainError. Doing a finished step again does no harm."""
    _ACTIONS[step.kind](build, step)


def touches_venv(step: Step | None) -> bool:
    """Whether an interruption of this step may leave the venv half changed; unknown steps are suspect."""
    return step is None or step.kind not in (
        StepKind.fetch_source,
        StepKind.edit_source,
        StepKind.build_native,
        StepKind.keep_source,
        StepKind.reuse_native,
        StepKind.set_env,
    )


def _install(build: Build, step: Step) -> None:
    lock = lock_file(str(step.lock))
    build.pip(
        "install", "--require-hashes", "--no-deps", "--progress-bar", "off", "--requirement", lock,
        what=f"installing {lock.name}",
        environment=step.environment,
    )  # fmt: skip


def _install_no_deps(build: Build, step: Step) -> None:
    build.pip(
        "install", "--no-deps", "--progress-bar", "off", *step.requirements,
        what=f"installing {', '.join(step.requirements)}",
        environment=step.environment,
    )  # fmt: skip


def _install_with_deps(build: Build, step: Step) -> None:
    build.pip(
        "install", "--progress-bar", "off", *step.requirements,
        what=f"installing {', '.join(step.requirements)}",
        environment=step.environment,
    )  # fmt: skip


def _uninstall(build: Build, step: Step) -> None:
    build.pip("uninstall", "--yes", *step.requirements, what=f"uninstalling {', '.join(step.requirements)}")


def _alias(build: Build, step: Step) -> None:
    from bench.toolchains.alias import alias_distribution

    site_packages = next((build.venv / "lib").glob("python3*/site-packages"))
    alias_distribution(site_packages, str(step.distribution), str(step.alias))


def _fetch_source(build: Build, step: Step) -> None:
    from bench.toolchains.native import fetch_source

    fetch_source(build, step)


def _edit_source(build: Build, step: Step) -> None:
    from bench.toolchains.native import edit_source

    edit_source(build, step)


def _build_native(build: Build, step: Step) -> None:
    from bench.toolchains.native import build_native

    build_native(build, step)


def _install_source(build: Build, step: Step) -> None:
    build.pip(
        "install", "--no-deps", "--no-build-isolation", build.source,
        what="installing the Python binding",
        environment=step.environment,
    )  # fmt: skip


def _keep_source(build: Build, step: Step) -> None:
    from bench.toolchains.native import keep_source

    keep_source(build, step)


def _reuse_native(build: Build, step: Step) -> None:
    from bench.toolchains.reuse import reuse_native

    reuse_native(build, step)


def _set_env(_: Build, __: Step) -> None:
    """Nothing to do now: `Build.environment` collects these."""


_ACTIONS: dict[StepKind, Callable[[Build, Step], None]] = {
    StepKind.install: _install,
    StepKind.install_no_deps: _install_no_deps,
    StepKind.install_with_deps: _install_with_deps,
    StepKind.uninstall: _uninstall,
    StepKind.alias: _alias,
    StepKind.fetch_source: _fetch_source,
    StepKind.edit_source: _edit_source,
    StepKind.build_native: _build_native,
    StepKind.install_source: _install_source,
    StepKind.keep_source: _keep_source,
    StepKind.reuse_native: _reuse_native,
    StepKind.set_env: _set_env,
}
