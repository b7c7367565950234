"""pip as a supervised tool. Which index is asked is pip's own configuration and never ours."""

from __future__ import annotations

import importlib.util
import os
import sys
from collections.abc import Mapping
from pathlib import Path

from bench.base.errors import ToolchainError
from bench.base.process import clean_env

# What decides where packages come from and how they compile: the user's settings, passed through.
_KEPT_PREFIXES = ("PIP_",)
_KEPT_NAMES = (
    "HTTP_PROXY", "HTTPS_PROXY", "NO_PROXY", "ALL_PROXY", "http_proxy", "https_proxy", "no_proxy", "all_proxy",
    "SSL_CERT_DIR", "REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE", "XDG_CONFIG_HOME", "XDG_CACHE_HOME", "XDG_CONFIG_DIRS",
    "CC", "CXX", "CUDACXX", "CUDA_HOME", "CUDA_PATH", "CMAKE_PREFIX_PATH", "CMAKE_CUDA_ARCHITECTURES",
)  # fmt: skip


def install_env(*, path_first: Path | None = None, extra: Mapping[str, str] | None = None) -> dict[str, str]:
    """The environment of installers and compilers; `path_first` goes to the front of PATH."""
    kept = [name for name in os.environ if name.startswith(_KEPT_PREFIXES)]
    env = clean_env(keep=[*_KEPT_NAMES, *kept])
    env.update({"PIP_DISABLE_PIP_VERSION_CHECK": "1", "PIP_NO_INPUT": "1", "PYTHONUNBUFFERED": "1"})
    if path_first is not None:
        env["PATH"] = os.pathsep.join([str(path_first), env.get("PATH", os.defpath)])
    env.update(extra or {})
    return env


def pip_command() -> list[str]:
    """The harness's own pip, or that of the interpreter below it; raises ToolchainError when there is none."""
    if importlib.util.find_spec("pip") is not None:
        return [sys.executable, "-I", "-m", "pip"]
    base = Path(sys.base_prefix) / "bin" / f"python{sys.version_info[0]}.{sys.version_info[1]}"
    if next(Path(sys.base_prefix).glob("lib/python3*/site-packages/pip"), None) is not None and base.exists():
        return [str(base), "-I", "-m", "pip"]
    raise ToolchainError(f"there is no pip for {sys.executable}; install it with: {sys.executable} -m ensurepip")
