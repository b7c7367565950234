"""Checkpoints on a Hugging Face hub: a revision resolved to its commit, and of its files only those that are data.

Files are in the hub's own cache folder (`HF_HOME`), shared with everything else that uses it. Which commit a revision
was, and which files belong to it, is remembered under the harness's cache, so that a pinned commit and HF_HUB_OFFLINE
need no request.
"""

from __future__ import annotations

import errno
import fnmatch
import functools
import os
import re
import shutil
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from bench.base.errors import CellFailure, FailureKind, QuantbenchError, ToolchainError, UsageError, nearest
from bench.base.files import read_json, write_json
from bench.base.hashing import key_of
from bench.base.progress import Progress
from quantize.checkpoint import PICKLED
from quantize.models import HubConfig, Located

T = TypeVar("T")

_COMMIT = re.compile(r"[0-9a-f]{40}")
_SPLIT = re.compile(r"-\d{5}-of-\d{5}\.gguf$")
#: What a checkpoint needs beside its weights. Never Python, never a pickle.
_DATA = ("*.json", "*.jinja", "*.tiktoken", "tokenizer.model", "merges.txt", "vocab.txt")
_SHARDS, _ALL_WEIGHTS = "model*.safetensors", "*.safetensors"
_RECORD_VERSION = 1
_TIMEOUT_S = 30.0


@dataclass(frozen=True, kw_only=True)
class Listing:
    """What a repository holds at one commit: file → bytes, None where the hub does not say."""

    commit: str
    files: Mapping[str, int | None]
    license: str | None = None


def fetch(config: HubConfig, cache: Path, progress: Progress) -> Located:
    """Make the repository's files available; `cache` keeps what a revision was.

    Raises UsageError when there is no such repository, revision or file, when access is refused or offline files are
    missing; CellFailure when the disk is full; ToolchainError when the hub cannot be reached.
    """
    # Read when the library is imported: it asks the hub for what is needed and tells it nothing else.
    os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")
    from huggingface_hub import is_offline_mode

    record = cache / "sources" / "hub" / f"{key_of([config.repo, config.revision, config.file])}.json"
    offline = is_offline_mode()
    if offline or _COMMIT.fullmatch(config.revision):
        kept = _recorded(record) or (_kept_by_others(config) if offline else None)
        if kept is not None and not _missing(config, kept):
            return _located(config, kept)
    if offline:
        raise UsageError(
            f"{config.repo}@{config.revision} is not (or not wholly) in the hub's cache and HF_HUB_OFFLINE is set; "
            "fetch it once without"
        )
    progress.say(f"asking the hub for {config.repo}@{config.revision}")
    listing = _listing(config.repo, config.revision, _endpoint())
    chosen = Listing(commit=listing.commit, license=listing.license, files=_chosen(config, listing.files))
    _download(config, chosen, progress)
    write_json(
        record,
        {
            "schema_version": _RECORD_VERSION,
            "repo": config.repo,
            "revision": config.revision,
            "commit": chosen.commit,
            "license": chosen.license,
            "files": dict(chosen.files),
        },
    )
    return _located(config, chosen)


def _endpoint() -> str:
    from huggingface_hub import constants

    return constants.ENDPOINT


@functools.cache
def _listing(repo: str, revision: str, endpoint: str) -> Listing:
    """One answer for a whole run: all its cells see the same commit."""
    from huggingface_hub import HfApi

    api = HfApi(endpoint=endpoint)
    info = _asked(
        lambda: api.model_info(repo, revision=revision, files_metadata=True, timeout=_TIMEOUT_S), repo, revision
    )
    if info.sha is None:
        raise ToolchainError(f"the hub at {endpoint} does not say which commit {repo}@{revision} is; try again")
    named = getattr(info.card_data, "license", None)
    files = {file.rfilename: file.size for file in info.siblings or ()}
    return Listing(commit=info.sha, files=files, license=named if isinstance(named, str) else None)


def _chosen(config: HubConfig, files: Mapping[str, int | None]) -> dict[str, int | None]:
    """The named GGUF, or the configuration, tokenizer and weights in the repository's top folder."""
    where = f"{config.repo}@{config.revision}"
    if config.file is not None:
        if config.file not in files:
            hint = nearest(config.file, _of_kind(files, "*.gguf"))
            raise UsageError(f"{where} has no file '{config.file}'; {hint}")
        if _SPLIT.search(config.file):
            raise UsageError(f"{where}: {config.file} is one part of a split GGUF; choose a file that is whole")
        return {config.file: files[config.file]}
    top = [name for name in files if "/" not in name]
    weights = _of_kind(top, _SHARDS) or _of_kind(top, _ALL_WEIGHTS)
    if "config.json" in files and weights:
        data = {name for pattern in _DATA for name in _of_kind(top, pattern)}
        return {name: files[name] for name in sorted({*weights, *data})}
    ggufs = sorted(_of_kind(files, "*.gguf"))
    if ggufs:
        raise UsageError(f"{where} holds GGUF files; name one with model.file=NAME: {', '.join(ggufs[:12])}")
    pickled = sorted(name for name in files if name.endswith(PICKLED))
    if pickled and not weights:
        raise UsageError(
            f"{where} has only pickled weights ({pickled[0]}), which run code when they are loaded and are refused; "
            "choose a repository or revision with safetensors"
        )
    lacking = "no config.json" if weights else "no *.safetensors and no GGUF"
    raise UsageError(f"{where} has {lacking}: it is no checkpoint that can be used; check model.repo")


def _of_kind(names: Iterable[str], pattern: str) -> list[str]:
    return [name for name in names if fnmatch.fnmatchcase(name, pattern)]


def _download(config: HubConfig, listing: Listing, progress: Progress) -> None:
    from huggingface_hub import hf_hub_download

    missing = _missing(config, listing)
    total = sum(listing.files[name] or 0 for name in missing)
    _refuse_full_disk(config, total)
    done = 0
    for name in missing:
        progress.say(f"downloading {name} of {config.repo} ({_mebibytes(listing.files[name])})")
        _asked(
            lambda name=name, done=done: hf_hub_download(  # type: ignore[misc]  # mypy cannot infer the defaults
                config.repo,
                name,
                revision=listing.commit,
                endpoint=_endpoint(),
                tqdm_class=_bar(progress, done, total),
            ),
            config.repo,
            config.revision,
        )
        done += listing.files[name] or 0


def _bar(progress: Progress, before: int, total: int) -> type[Any]:
    """A progress bar that shows nothing and tells `progress` how many MiB of all files are there."""
    from tqdm import tqdm  # type: ignore[import-untyped]  # its types are no dependency

    class Reporting(tqdm):  # type: ignore[misc]  # untyped
        def __init__(self, *args: Any, **options: Any) -> None:
            options.pop("name", None)
            super().__init__(*args, **{**options, "disable": True})
            self.arrived = int(options.get("initial") or 0)

        def update(self, n: float | None = 1) -> bool | None:
            self.arrived += int(n or 0)
            progress.advance((before + self.arrived) >> 20, max(1, total >> 20), "MiB")
            return None

    return Reporting


def _mebibytes(size: int | None) -> str:
    return "size unknown" if size is None else f"{size / (1 << 20):.1f} MiB"


def _refuse_full_disk(config: HubConfig, needed: int) -> None:
    """Refuse before the first byte when the hub's cache has no room."""
    from huggingface_hub import constants

    folder = Path(constants.HF_HUB_CACHE)
    existing = next(parent for parent in (folder, *folder.parents) if parent.exists())
    free = shutil.disk_usage(existing).free
    if free < needed:
        raise CellFailure(
            FailureKind.DISK_FULL,
            f"{config.repo} takes {needed >> 20} MiB in the hub's cache {folder}, {free >> 20} MiB are free; free some "
            "space, or move the cache with HF_HOME",
        )


def _path(config: HubConfig, listing: Listing, name: str) -> Path | None:
    """A file in the hub's cache, or None."""
    from huggingface_hub import try_to_load_from_cache

    found = try_to_load_from_cache(config.repo, name, revision=listing.commit)
    return Path(found) if isinstance(found, str) and Path(found).exists() else None


def _missing(config: HubConfig, listing: Listing) -> list[str]:
    return [name for name in listing.files if _path(config, listing, name) is None]


def _located(config: HubConfig, listing: Listing) -> Located:
    path = _path(config, listing, config.file or "config.json")
    assert path is not None, "every chosen file was fetched"
    origin = {"hub": config.repo, "revision": config.revision, "commit": listing.commit}
    digest = f"hub:{config.repo}@{listing.commit}"
    if config.file is not None:
        return Located(
            path=path,
            license=listing.license,
            digest=f"{digest}/{config.file}",
            origin={**origin, "file": config.file},
        )
    name = config.repo.rpartition("/")[2]
    return Located(path=path.parent, license=listing.license, digest=digest, name=name, origin=origin)


def _recorded(record: Path) -> Listing | None:
    """What an earlier run found the revision to be."""
    try:
        kept = read_json(record)
        if kept["schema_version"] != _RECORD_VERSION:
            return None
        return Listing(commit=str(kept["commit"]), files=dict(kept["files"]), license=kept["license"])
    except (OSError, ValueError, KeyError, TypeError):
        return None


def _kept_by_others(config: HubConfig) -> Listing | None:
    """What another program left in the hub's cache for this revision; nobody knows whether it is all."""
    from huggingface_hub import try_to_load_from_cache

    found = try_to_load_from_cache(config.repo, config.file or "config.json", revision=config.revision)
    if not isinstance(found, str):
        return None
    if config.file is not None:
        commit = Path(found).parents[len(Path(config.file).parts) - 1].name
        return Listing(commit=commit, files={config.file: None})
    folder = Path(found).parent
    present: dict[str, int | None] = {file.name: None for file in folder.iterdir() if file.is_file()}
    return Listing(commit=folder.name, files=_chosen(config, present))


def _asked(request: Callable[[], T], repo: str, revision: str) -> T:
    """What the library answers; its errors as one line of ours."""
    try:
        return request()
    except Exception as error:  # the library raises its own, its HTTP library's and the system's
        raise _translated(error, repo, revision) from error


def _translated(error: Exception, repo: str, revision: str) -> QuantbenchError:  # noqa: PLR0911 - one a cause
    from huggingface_hub import errors, get_token

    token = "the token that is set has no access" if get_token() else "no token is set"
    if isinstance(error, errors.GatedRepoError):
        return UsageError(
            f"{repo} is gated and {token}; accept its terms at {_endpoint()}/{repo} and set HF_TOKEN to a token of "
            "that account"
        )
    if isinstance(error, errors.RevisionNotFoundError):
        return UsageError(f"{repo} has no revision '{revision}'; check model.revision (a branch, tag or commit)")
    if isinstance(error, errors.RepositoryNotFoundError):
        return UsageError(
            f"the hub has no model '{repo}', or it is private and {token}; check model.repo, set HF_TOKEN"
        )
    if isinstance(error, errors.HFValidationError):
        return UsageError(f"model.repo={repo} is no name of a repository; write org/name")
    if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT):
        return CellFailure(FailureKind.DISK_FULL, f"the disk of the hub's cache is full while fetching {repo}")
    status = getattr(getattr(error, "response", None), "status_code", None)
    if isinstance(error, errors.HfHubHTTPError) and status in (401, 403):
        return UsageError(f"the hub refuses access to {repo} (HTTP {status}) and {token}; set HF_TOKEN")
    said = next((line for line in str(error).splitlines() if line.strip()), type(error).__name__)
    return ToolchainError(
        f"{repo} cannot be fetched from {_endpoint()} ({said.strip()[:160]}); try again, or set HF_HUB_OFFLINE=1 to "
        "use what was fetched before"
    )
