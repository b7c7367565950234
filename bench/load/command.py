"""`quantbench load`: one scenario against any endpoint, without the rest of the harness."""

from __future__ import annotations

import dataclasses
import os
import secrets
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bench.base.errors import UsageError
from bench.base.progress import Progress
from bench.load.config import EndpointConfig, LoadRunConfig

if TYPE_CHECKING:
    from bench.load.target import Target


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
    from bench.load.run import run_scenario

    target = make_target(config.endpoint)
    out = Path(config.out).expanduser()
    if out.exists() and not out.is_dir():
        raise UsageError(f"out: {out} is not a folder")
    if out.is_dir() and any(out.iterdir()) and not (out / "manifest.json").exists() and not (out / "raw").exists():
        raise UsageError(f"out: {out} holds files that are not a load result; name another folder")
    progress = progress.within(stage="load")
    if config.endpoint.check:
        progress.say(f"asking {config.endpoint.url} for its models")
        check_endpoint(target)
    workload = config.workload
    if config.fresh_prompts:
        workload = dataclasses.replace(workload, seed=secrets.randbelow(2**31))
    return run_scenario(target, config.scenario, workload, out, name=config.scenario.kind, progress=progress)
