"""Engines in containers: the command line around an engine's own, and the end of what it started.

The runtime's client is supervised like any engine; its containers are not below it. They carry a label, and a guard
process ends whatever carries it as soon as the harness lets go or dies. What even the guard could not end is ended by
the next start on the same machine.
"""

from __future__ import annotations

import contextlib
import dataclasses
import os
import secrets
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING

from bench.base.clock import NS_PER_S, Clock
from bench.base.errors import ToolchainError, UsageError
from bench.base.process import clean_env
from bench.base.progress import Progress

if TYPE_CHECKING:
    from bench.engines.base import Command

RUN_LABEL = "quantbench.run"
OWNER_LABEL = "quantbench.owner"
#: Where the model and written files are inside.
MODEL_FOLDER = Path("/model")
FILES_FOLDER = Path("/quantbench")
#: Every interface of the container; the runtime publishes it on the host's loopback only.
INNER_HOST = "0.0.0.0"  # noqa: S104 - inside the container

_GUARD = Path(__file__).with_name("workers") / "container_guard.py"
_CLIENT_ENV = (
    *("DOCKER_HOST", "DOCKER_CONTEXT", "DOCKER_CONFIG", "DOCKER_CERT_PATH", "DOCKER_TLS_VERIFY"),
    *("CONTAINER_HOST", "CONTAINERS_CONF", "CONTAINERS_STORAGE_CONF", "XDG_RUNTIME_DIR", "XDG_CONFIG_HOME"),
)
#: Set for the container they would change the runtime's client, which hands values over by name.
_NOT_HANDED = ("PATH", "HOME", "TMPDIR", "LD_PRELOAD", "LD_LIBRARY_PATH", *_CLIENT_ENV)
#: Options that would undo what is promised here: loopback only, ended by the label, no value in a command line.
_REFUSED = {
    **dict.fromkeys(("-p", "--publish", "-P", "--publish-all"), "the port is published on 127.0.0.1 alone"),
    **dict.fromkeys(("-d", "--detach", "--restart"), "the container ends with the run"),
    **dict.fromkeys(("-e", "--env"), "use engine.env, or engine.pass_env for secrets"),
    **dict.fromkeys(("--gpus", "--shm-size", "--entrypoint"), "use the setting of engine.container of that name"),
}
_ASK_S = 60.0
_GUARD_S = 60.0
#: How often, and how long, a start is asked for its container's process.
_EVERY_PID_NS = 2 * NS_PER_S
_ASK_PID_S = 5.0
#: The kernel counts starts in ticks after a boot whose time it rounds.
_CLOCK_S = 2.0


class Runtime(StrEnum):
    """The program that runs containers."""

    docker = "docker"
    podman = "podman"


# Not frozen: OmegaConf makes nodes of frozen dataclasses inside another that no YAML can fill.
@dataclass(kw_only=True)
class ContainerConfig:
    """An engine out of `image`; empty: out of none. The model is mounted read-only, the port published on 127.0.0.1.

    The engine's command follows the image's name, without its first `omit_words` words, which the image's entry point
    says already; with `entrypoint` that program is started instead. `gpus`: `all`, numbers such as `0,1`, or empty for
    none. `volumes` are `host:container`, with `:ro` read-only; `cache` is one more volume that outlives containers.
    `port` is the engine's inside. `extra_args` are words for the runtime.
    """

    runtime: Runtime = Runtime.docker
    image: str = ""
    entrypoint: str = ""
    omit_words: int = 1
    gpus: str = ""
    shm_size: str = ""
    volumes: list[str] = field(default_factory=list)
    cache: str = ""
    port: int = 8000
    extra_args: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        if self.image.startswith("-"):
            raise ValueError(f"engine.container.image='{self.image}' is not an image; name one, such as name:tag")
        if not 1 <= self.port <= 65535:
            raise ValueError(f"engine.container.port={self.port} is not a port")
        if self.omit_words < 0:
            raise ValueError(f"engine.container.omit_words={self.omit_words} must be 0 or more")
        for volume in [*self.volumes, *([self.cache] if self.cache else [])]:
            source, _, target = volume.partition(":")
            if not source or not target.startswith("/"):
                raise ValueError(f"engine.container: '{volume}' is not a volume; write host:/container, or …:ro")
        self._refuse_extra()

    def _refuse_extra(self) -> None:
        where = "engine.container.extra_args"
        for number, word in enumerate(self.extra_args):
            option, _, value = word.partition("=")
            if option[:1] == "-" and option[:2] != "--" and option[1:2] in ("p", "P", "d", "e"):
                option = option[:2]  # a value, or other switches, may follow the letter at once
            following = self.extra_args[number + 1] if number + 1 < len(self.extra_args) else ""
            if option in ("--network", "--net") and (value or following) == "host":
                raise ValueError(f"{where}: the host's network would open the engine's port to others; leave it out")
            if option in _REFUSED:
                raise ValueError(f"{where}: {option} is not allowed: {_REFUSED[option]}")


@dataclass(frozen=True, kw_only=True)
class Mount:
    """A file or folder of this machine, read-only inside."""

    source: Path
    target: Path

    def words(self) -> list[str]:
        """The option for it; raises UsageError for a path that cannot be written in one."""
        if "," in str(self.source) or '"' in str(self.source):
            raise UsageError(f"{self.source}: a path with a comma or a quote cannot be mounted; move it")
        return ["--mount", f"type=bind,source={self.source},target={self.target},readonly"]


def model_mounts(path: Path, model_format: str) -> tuple[list[Mount], Path]:
    """What to mount so that the model can be read, and its path inside.

    Artefacts may be made of links, which lead nowhere inside: then each file is mounted for itself.
    """
    if path.is_file() or (model_format == "gguf" and not path.is_dir()):
        target = MODEL_FOLDER / path.name
        return [Mount(source=path.resolve() if path.exists() else path, target=target)], target
    files = [file for file in sorted(path.rglob("*")) if file.is_file()]
    if not any(file.is_symlink() for file in files):
        return [Mount(source=path.resolve() if path.exists() else path, target=MODEL_FOLDER)], MODEL_FOLDER
    mounts = [Mount(source=file.resolve(), target=MODEL_FOLDER / file.relative_to(path)) for file in files]
    return mounts, MODEL_FOLDER


def container_command(
    config: ContainerConfig, inner: Command, mounts: Sequence[Mount], *, port: int, labels: Mapping[str, str]
) -> Command:
    """The runtime's command line around an engine's; values of variables stay in the environment."""
    held = [name for name in (*inner.env, *inner.secret_env) if name in _NOT_HANDED]
    if held:
        raise UsageError(
            f"engine.env: {held[0]} would change {config.runtime} itself; set it in the image, or leave it out"
        )
    argv = [config.runtime.value, "run", "--rm", "--publish", f"127.0.0.1:{port}:{config.port}"]
    for name, value in labels.items():
        argv += ["--label", f"{name}={value}"]
    argv += _gpu_words(config)
    if config.shm_size:
        argv += ["--shm-size", config.shm_size]
    for mount in mounts:
        argv += mount.words()
    for volume in [*([config.cache] if config.cache else []), *config.volumes]:
        argv += ["--volume", volume]
    for name in sorted({*inner.env, *inner.secret_env}):
        argv += ["--env", name]
    if config.entrypoint:
        argv += ["--entrypoint", config.entrypoint]
    argv += [*config.extra_args, config.image, *list(inner.argv)[config.omit_words :]]
    return dataclasses.replace(inner, argv=argv)


def _gpu_words(config: ContainerConfig) -> list[str]:
    if not config.gpus:
        return []
    numbers = [] if config.gpus == "all" else [number.strip() for number in config.gpus.split(",")]
    if config.runtime is Runtime.podman:  # by the names of the Container Device Interface
        return [word for number in numbers or ["all"] for word in ("--device", f"nvidia.com/gpu={number}")]
    # The client takes the value apart as CSV, so that several numbers need quotes of their own.
    return ["--gpus", f'"device={",".join(numbers)}"' if numbers else "all"]


def client_env(extra: Mapping[str, str] | None = None) -> dict[str, str]:
    """The environment of the runtime's client."""
    return clean_env(keep=_CLIENT_ENV, extra=extra)


def require_runtime(runtime: Runtime) -> None:
    """Raise UsageError where there is no such program."""
    if shutil.which(runtime.value) is None:
        others = [other.value for other in Runtime if other is not runtime and shutil.which(other.value)]
        hint = f"or use engine.container.runtime={others[0]}" if others else "or choose a toolchain"
        raise UsageError(f"engine.container.runtime={runtime}: there is no such program; install it, {hint}")


def image_id(config: ContainerConfig, progress: Progress) -> str:
    """The content id of the image, which is pulled where it is not here; raises ToolchainError."""
    require_runtime(config.runtime)
    question = ["image", "inspect", "--format", "{{.Id}}", config.image]
    found = ask(config.runtime, question)
    if found.returncode != 0:
        progress.say(f"pulling {config.image}")
        pulled = ask(config.runtime, ["pull", config.image], timeout_s=None)
        found = ask(config.runtime, question) if pulled.returncode == 0 else pulled
    if found.returncode != 0:
        said = found.stderr.strip()
        reason = said.splitlines()[-1] if said else f"{config.runtime} answered {found.returncode}"
        raise ToolchainError(f"engine.container.image={config.image} cannot be had: {reason}", log_tail=said[-4000:])
    return found.stdout.strip()


def ask(
    runtime: Runtime, arguments: Sequence[str], *, timeout_s: float | None = _ASK_S
) -> subprocess.CompletedProcess[str]:
    """Ask the runtime; one that does not answer in time counts as failed."""
    argv = [runtime.value, *arguments]
    try:
        return subprocess.run(
            argv, capture_output=True, text=True, timeout=timeout_s, env=client_env(), check=False, errors="replace"
        )
    except subprocess.TimeoutExpired:
        return subprocess.CompletedProcess(argv, 1, "", f"{runtime} did not answer within {timeout_s:g} s")


class ContainerProcess:
    """Finds the first process of the container that carries `label`, of which one client was just started here.

    The runtime is asked until it tells; a number that stands for an older process here, or for none, is another
    machine's, whose processes cannot be seen.
    """

    def __init__(self, runtime: Runtime, label: str, *, clock: Clock) -> None:
        self._runtime = runtime
        self._label = label
        self._clock = clock
        self._since_s = time.time()
        self._next_ns = 0
        self._elsewhere = False

    def find(self) -> int | None:
        """Its process id; None while, or where, it is not known."""
        if self._elsewhere or self._clock.now_ns() < self._next_ns:
            return None
        self._next_ns = self._clock.now_ns() + _EVERY_PID_NS
        listed = self._ask("ps", "--quiet", "--filter", f"label={self._label}").split()
        told = self._ask("inspect", "--type", "container", "--format", "{{.State.Pid}}", listed[0]) if listed else ""
        if not told.isdigit() or int(told) == 0:
            return None
        self._elsewhere = not _started_since(int(told), self._since_s)
        return None if self._elsewhere else int(told)

    def _ask(self, *arguments: str) -> str:
        found = ask(self._runtime, arguments, timeout_s=_ASK_PID_S)
        return found.stdout.strip() if found.returncode == 0 else ""


def _started_since(pid: int, since_s: float) -> bool:
    import psutil

    try:
        return bool(psutil.Process(pid).create_time() >= since_s - _CLOCK_S)
    except psutil.Error:
        return False


@contextlib.contextmanager
def guarded(runtime: Runtime) -> Iterator[Mapping[str, str]]:
    """Labels for one start. Whatever carries them has ended on leaving, or soon after this process died."""
    end_ownerless(runtime)
    run = secrets.token_hex(8)
    lifeline_read, lifeline_write = os.pipe()
    try:
        guard = subprocess.Popen(
            [sys.executable, "-I", "-S", str(_GUARD), str(lifeline_read), runtime.value, f"{RUN_LABEL}={run}"],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            env=client_env(),
            pass_fds=[lifeline_read],
            start_new_session=True,
        )
    except BaseException:
        os.close(lifeline_write)
        raise
    finally:
        os.close(lifeline_read)
    try:
        yield {RUN_LABEL: run, OWNER_LABEL: owner(os.getpid())}
    finally:
        os.close(lifeline_write)
        with contextlib.suppress(subprocess.TimeoutExpired):
            guard.wait(_GUARD_S)


def owner(pid: int) -> str:
    """A process of this machine, told apart from those of others that share the runtime.

    Boot, process namespace, process id, and its start in clock ticks after the boot, which no clock step moves.
    Raises OSError when there is no such process.
    """
    boot = Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii").strip()
    namespace = Path("/proc/self/ns/pid").readlink().name.strip("pid:[]")
    fields = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8", errors="replace").rpartition(")")[2].split()
    return f"{boot}.{namespace}.{pid}.{fields[19]}"


def end_ownerless(runtime: Runtime) -> None:
    """End containers of earlier runs on this machine whose harness is gone, as after a power cut of the guard."""
    mine = owner(os.getpid()).rsplit(".", 2)[0]
    listed = ask(runtime, ["ps", "--all", "--quiet", "--filter", f"label={OWNER_LABEL}"])
    for container in listed.stdout.split() if listed.returncode == 0 else []:
        template = f'{{{{index .Config.Labels "{OWNER_LABEL}"}}}}'
        named = ask(runtime, ["inspect", "--type", "container", "--format", template, container]).stdout.strip()
        place, _, rest = named.partition(f"{mine}.")
        pid = rest.partition(".")[0]
        if place or not pid.isdigit():
            continue
        with contextlib.suppress(OSError):
            if owner(int(pid)) == named:
                continue
        ask(runtime, ["rm", "--force", container])
