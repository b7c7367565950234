"""What all that is fetched from a Hugging Face hub shares: whom to ask, and its errors as one line of ours.

The hub's own variables decide: HF_ENDPOINT, HF_TOKEN, HF_HOME, HF_HUB_OFFLINE.
"""

from __future__ import annotations

import errno
import os
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal, TypeVar

from bench.base.errors import CellFailure, FailureKind, QuantbenchError, ToolchainError, UsageError
from bench.base.progress import Progress

T = TypeVar("T")


@dataclass(frozen=True, kw_only=True)
class Wanted:
    """What the hub is asked for; `check_repo` and `check_revision` say which settings to look at when it has none."""

    kind: Literal["model", "dataset"]
    repo: str
    revision: str
    check_repo: str
    check_revision: str
    file: str | None = None


def quiet_library() -> None:
    """Keep the library from telling a hub more than it must, and from writing between our own lines.

    Call it before the library is imported, which reads both then; what the user has set stays.
    """
    os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")
    os.environ.setdefault("HF_HUB_VERBOSITY", "error")


def endpoint() -> str:
    """The hub's address."""
    from huggingface_hub import constants

    return constants.ENDPOINT


def asked(request: Callable[[], T], wanted: Wanted) -> T:
    """What the library answers to `request`.

    Raises UsageError when there is no such thing, access is refused or it was never fetched and the hub is off;
    CellFailure when the disk is full; ToolchainError when the hub cannot be reached.
    """
    try:
        return request()
    except Exception as error:  # the library raises its own, its HTTP library's and the system's
        raise _translated(_reason(error), wanted) from error


def not_fetched(wanted: Wanted) -> UsageError:
    """What to say when HF_HUB_OFFLINE is set and something is not on this machine."""
    return UsageError(
        f"{wanted.repo}@{wanted.revision} is not (or not wholly) in the hub's cache and HF_HUB_OFFLINE is set; "
        "fetch it once without"
    )


def silent_bar(progress: Progress, before: int = 0, total: int = 0) -> type[Any]:
    """A progress bar that shows nothing and tells `progress` how many MiB of all files are there.

    `before`: bytes of earlier files; `total`: bytes of all, 0 where it is not known.
    """
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


def _reason(error: Exception) -> Exception:
    """Behind «it is not in the cache either» is why the hub did not give it."""
    from huggingface_hub import errors

    cause = error.__cause__
    return cause if isinstance(error, errors.LocalEntryNotFoundError) and isinstance(cause, Exception) else error


def _translated(error: Exception, wanted: Wanted) -> QuantbenchError:  # noqa: PLR0911 - one a cause
    from huggingface_hub import errors, get_token

    repo = wanted.repo
    token = "the token that is set has no access" if get_token() else "no token is set"
    if isinstance(error, errors.GatedRepoError):
        page = f"{endpoint()}/{'datasets/' if wanted.kind == 'dataset' else ''}{repo}"
        return UsageError(
            f"{repo} is gated and {token}; accept its terms at {page} and set HF_TOKEN to a token of that account"
        )
    if isinstance(error, errors.RevisionNotFoundError):
        return UsageError(f"{repo} has no revision '{wanted.revision}'; check {wanted.check_revision}")
    if isinstance(error, errors.RemoteEntryNotFoundError) and wanted.file is not None:
        return UsageError(f"{repo}@{wanted.revision} has no file '{wanted.file}'; check {wanted.check_repo}")
    if isinstance(error, errors.RepositoryNotFoundError):
        return UsageError(
            f"the hub has no {wanted.kind} '{repo}', or it is private and {token}; check {wanted.check_repo}, set "
            "HF_TOKEN"
        )
    if isinstance(error, errors.HFValidationError):
        return UsageError(f"{wanted.check_repo}: {repo} is no name of a repository; write org/name")
    if isinstance(error, errors.OfflineModeIsEnabled):
        return not_fetched(wanted)
    if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT):
        return CellFailure(FailureKind.DISK_FULL, f"the disk of the hub's cache is full while fetching {repo}")
    status = getattr(getattr(error, "response", None), "status_code", None)
    if isinstance(error, errors.HfHubHTTPError) and status in (401, 403):
        return UsageError(f"the hub refuses access to {repo} (HTTP {status}) and {token}; set HF_TOKEN")
    said = next((line for line in str(error).splitlines() if line.strip()), type(error).__name__)
    return ToolchainError(
        f"{repo} cannot be fetched from {endpoint()} ({said.strip()[:160]}); try again, or set HF_HUB_OFFLINE=1 to "
        "use what was fetched before"
    )
