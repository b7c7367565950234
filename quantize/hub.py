"""Checkpoints on a Hugging Face hub: a revision resolved to its commit, and of its files only those that are data.

Files are in the hub's own cache folder (`HF_HOME`), shared with everything else that uses it. Which commit a revision
was, and which files belong to it, is remembered under the harness's cache, so that a pinned commit and HF_HUB_OFFLINE
need no request.
"""

from __future__ import annotations

import fnmatch
import functools
import re
import shutil
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

from bench.base.errors import CellFailure, FailureKind, ToolchainError, UsageError, nearest
from bench.base.files import read_json, write_json
from bench.base.hashing import key_of
from bench.base.hub import Wanted, asked, endpoint, not_fetched, quiet_library, silent_bar
from bench.base.progress import Progress
from quantize.checkpoint import CONVERT, PICKLED
from quantize.models import HubConfig, Located

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
    quiet_library()
    from huggingface_hub import is_offline_mode

    record = cache / "sources" / "hub" / f"{key_of([config.repo, config.revision, config.file])}.json"
    offline = is_offline_mode()
    if offline or _COMMIT.fullmatch(config.revision):
        kept = _recorded(record) or (_kept_by_others(config) if offline else None)
        if kept is not None and not _missing(config, kept):
            return _located(config, kept)
    if offline:
        raise not_fetched(_wanted(config.repo, config.revision))
    progress.say(f"asking the hub for {config.repo}@{config.revision}")
    chosen = listed(config)
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


def kept(config: HubConfig, cache: Path) -> Located | None:
    """What is on this machine of the repository, if it is whole; the hub is not asked whether it changed."""
    quiet_library()
    record = _recorded(cache / "sources" / "hub" / f"{key_of([config.repo, config.revision, config.file])}.json")
    try:
        found = record or _kept_by_others(config)
    except UsageError:  # a part of it, such as its configuration alone
        return None
    return None if found is None or _missing(config, found) else _located(config, found)


def listed(config: HubConfig) -> Listing:
    """The files that `fetch` would make available, as the hub tells them."""
    listing = _listing(config.repo, config.revision, endpoint())
    return Listing(commit=listing.commit, license=listing.license, files=_chosen(config, listing.files))


def wanted(config: HubConfig) -> Wanted:
    """How errors name the repository."""
    return _wanted(config.repo, config.revision)


def _wanted(repo: str, revision: str) -> Wanted:
    return Wanted(
        kind="model",
        repo=repo,
        revision=revision,
        check_repo="model.repo",
        check_revision="model.revision (a branch, tag or commit)",
    )


@functools.cache
def _listing(repo: str, revision: str, address: str) -> Listing:
    """One answer for a whole run: all its cells see the same commit."""
    from huggingface_hub import HfApi

    api = HfApi(endpoint=address)
    info = asked(
        lambda: api.model_info(repo, revision=revision, files_metadata=True, timeout=_TIMEOUT_S),
        _wanted(repo, revision),
    )
    if info.sha is None:
        raise ToolchainError(f"the hub at {address} does not say which commit {repo}@{revision} is; try again")
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
            f"choose a repository or revision with safetensors, or download it and use quantbench {CONVERT} FOLDER"
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
        asked(
            lambda name=name, done=done: hf_hub_download(  # type: ignore[misc]  # mypy cannot infer the defaults
                config.repo,
                name,
                revision=listing.commit,
                endpoint=endpoint(),
                tqdm_class=silent_bar(progress, done, total),
            ),
            _wanted(config.repo, config.revision),
        )
        done += listing.files[name] or 0


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
