"""From a tool's last words to one sentence that says what to do."""

from __future__ import annotations

import re

_REMEDIES: tuple[tuple[str, str], ...] = (
    (r"No space left on device", "the disk is full; free some space or set QUANTBENCH_CACHE to a folder with more."),
    (
        r"No CMAKE_C(XX)?_COMPILER|CMAKE_C(XX)?_COMPILER not set|Could not find compiler set in",
        "there is no working C/C++ compiler; install one, for example: apt-get install g++.",
    ),
    (
        r"Could not find nvcc|No CMAKE_CUDA_COMPILER|CUDA Toolkit not found|Could NOT find CUDAToolkit",
        "the CUDA toolkit was not found; install it, set CUDACXX to its nvcc, or use accelerator=cpu.",
    ),
    (
        r"fatal error: Killed signal|cc1plus.*Killed|virtual memory exhausted|internal compiler error: Killed",
        "the compiler ran out of memory; set QUANTBENCH_BUILD_JOBS=1 and try again.",
    ),
    (
        r"ensurepip is not available|No module named ensurepip|No module named venv",
        "this Python cannot make virtual environments; install that part, for example: apt-get install python3-venv.",
    ),
    (
        r"DO NOT MATCH THE HASHES",
        "the index offers other files than the lock names; do not trust them, check pip's index configuration.",
    ),
    (
        r"No matching distribution found|Could not find a version that satisfies",
        "the package index has no such version for this Python and platform; check pip's index configuration.",
    ),
    (
        r"name resolution|Name or service not known|Connection refused|timed out|NewConnection|unreachable|ProxyError",
        "the package index cannot be reached; check the network and pip's configuration, then try again.",
    ),
    (r"CERTIFICATE_VERIFY_FAILED", "the package index's certificate is not trusted; set pip's `cert` option."),
    (r"Permission denied", "a file may not be written or run; check the rights of the cache folder."),
)


def remedy(log_tail: str, exit_code: int) -> str:
    """What to do about a failure, from the end of its log; the last line itself when nothing is recognised."""
    for pattern, advice in _REMEDIES:
        if re.search(pattern, log_tail):
            return advice
    if exit_code == 137:
        return "it was killed, most likely for lack of memory; close other programs or set QUANTBENCH_BUILD_JOBS=1."
    said = [line.strip() for line in log_tail.splitlines() if line.strip() and not line.startswith("$ ")]
    compiler = [line for line in said if re.search(r":(\d+:)* (fatal )?error: ", line)]
    errors = [line for line in said if re.match(r"(?i)(\w*error|fatal)\b", line)]
    last = compiler[0] if compiler else (errors or said or ["it said nothing"])[-1]
    return f"{last[:200].rstrip('.')}."
