"""`quantbench load`: one scenario against any endpoint, without the rest of the harness."""

from __future__ import annotations

import contextlib
import dataclasses
import os
import secrets
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bench.base.errors import UsageError
from bench.base.progress import Progress
from bench.load.config import EndpointConfig, LoadRunConfig

if TYPE_CHECKING:
    from bench.load.target import Target

_MARK = ".quantbench-load"
_ASIDE = "earlier-"


def make_target(endpoint: EndpointConfig) -> Target:
    """The Target of an endpoint config. Raises UsageError for a bad URL, a missing key variable or file."""
    from bench.load.target import Target, parse_url

    parse_url(endpoint.url)
    api_key = None
    if endpoint.api_key_env is not None:
        api_key = os.environ.get(endpoint.api_key_env, "").strip()
        if not api_key:
            raise UsageError(f"endpoint.api_key_env: the environment variable {endpoint.api_key_env} is not set")
        if not api_key.isascii() or not api_key.isprintable():
            raise UsageError(
                f"endpoint.api_key_env: {endpoint.api_key_env} does not hold a key that fits into a header"
            )
    if endpoint.ca_file is not None and not Path(endpoint.ca_file).is_file():
        raise UsageError(f"endpoint.ca_file: there is no file {endpoint.ca_file}")
    return Target(url=endpoint.url, model=endpoint.model, api_key=api_key, ca_file=endpoint.ca_file)


def run_load(config: LoadRunConfig, progress: Progress) -> dict[str, Any]:
    """Run what `config` says; returns the summary, whose files are in `config.out`.

    Raises UsageError when the endpoint cannot be used as configured, before anything is measured.
    """
    from bench.load.preflight import check_endpoint
    from bench.load.record import salvage
    from bench.load.run import run_scenario

    target = make_target(config.endpoint)
    out = Path(config.out).expanduser()
    if out.exists() and not out.is_dir():
        raise UsageError(f"out: {out} is not a folder")
    refuse_foreign(out)
    progress = progress.within(stage="load")
    if config.endpoint.check:
        progress.say(f"asking {config.endpoint.url} for its models")
        check_endpoint(target)
    workload = config.workload
    if config.fresh_prompts:
        workload = dataclasses.replace(workload, seed=secrets.randbelow(2**31))
    with _writing(out, before=salvage):
        return run_scenario(
            target, config.scenario, workload, out, name=config.scenario.kind, progress=progress, slo=config.slo
        )


def refuse_foreign(out: Path) -> None:
    """Raise UsageError when a folder holds anything that this command did not put there."""
    if not out.is_dir() or not any(out.iterdir()) or (out / _MARK).is_file():
        return
    raise UsageError(f"out: {out} holds files that are not a load result; name another folder")


@contextlib.contextmanager
def _writing(out: Path, *, before: Callable[[Path], object]) -> Iterator[None]:
    """Mark the folder as ours, set an older record aside (after `before` has seen it), and keep others out."""
    from filelock import FileLock, Timeout

    out.mkdir(parents=True, exist_ok=True)
    (out / _MARK).touch()
    try:
        with FileLock(out / ".lock", timeout=0):
            before(out)
            older = [entry for entry in out.iterdir() if entry.name not in (_MARK, ".lock") and not _is_aside(entry)]
            if older:
                aside = out / f"{_ASIDE}{1 + sum(map(_is_aside, out.iterdir()))}"
                aside.mkdir()
                for entry in older:
                    entry.rename(aside / entry.name)
            yield
    except Timeout:
        raise UsageError(f"out: {out} is being written by another quantbench load; name another folder") from None


def _is_aside(entry: Path) -> bool:
    return entry.name.startswith(_ASIDE)
