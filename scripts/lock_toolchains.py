"""Write the lock files of all toolchains: exact versions and hashes for every platform, no index named.

    python scripts/lock_toolchains.py [NAME …]

Asks the package index that uv's configuration names. Review the difference before committing it.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
from dataclasses import dataclass, field
from pathlib import Path

LOCKS = Path(__file__).resolve().parents[1] / "conf" / "toolchain" / "locks"
OLDEST_PYTHON = "3.11"
FORBIDDEN = ("://", "--index", "--find-links", "@ file")


@dataclass(frozen=True, kw_only=True)
class Lock:
    """What a lock asks for; `resolve` False pins the named distributions alone."""

    requirements: tuple[str, ...]
    resolve: bool = True
    leave_out: tuple[str, ...] = field(default=())


LLAMA_CPP_PYTHON = "llama-cpp-python==0.3.36"

WANTED: dict[str, Lock] = {
    "llama_cpp_build": Lock(requirements=("cmake", "ninja", "scikit-build-core", "pathspec", "packaging")),
    "llama_cpp_source": Lock(requirements=(LLAMA_CPP_PYTHON,), resolve=False),
    "llama_cpp": Lock(requirements=(LLAMA_CPP_PYTHON,), leave_out=("llama-cpp-python",)),
    "llama_cpp_python": Lock(
        requirements=(f"{LLAMA_CPP_PYTHON.replace('==', '[server]==')}",), leave_out=("llama-cpp-python",)
    ),
    "llama_cpp_convert": Lock(
        requirements=(
            # What the vendored converter's own requirements file asks for; torch comes in a step of its own.
            "numpy~=2.2.6",
            "sentencepiece>=0.1.98,<0.3.0",
            "transformers==4.57.6",
            "protobuf>=4.21.0,<5.0.0",
            # What torch asks for on every platform, beside the libraries of an accelerator.
            "filelock",
            "fsspec",
            "jinja2",
            "networkx",
            "setuptools<82",
            "sympy>=1.13.3",
            "typing-extensions>=4.10.0",
            # pip asks the source archive for its metadata.
            "scikit-build-core",
            "pathspec",
            "packaging",
        ),
    ),
    "xllamacpp": Lock(requirements=("xllamacpp==2026.10.11549",)),
}


def compile_lock(lock: Lock) -> str:
    """The text of a lock file, resolved by uv for every platform and Python from the oldest supported."""
    command = [
        "uv", "pip", "compile", "-", "--universal", "--generate-hashes", "--no-header", "--no-annotate", "--quiet",
        "--python-version", OLDEST_PYTHON,
    ]  # fmt: skip
    command += [] if lock.resolve else ["--no-deps"]
    for name in lock.leave_out:
        command += ["--unsafe-package", name]
    text = "\n".join(lock.requirements) + "\n"
    done = subprocess.run(command, input=text, text=True, stdout=subprocess.PIPE, check=True)
    lines = [line for line in done.stdout.splitlines() if not line.startswith("#")]
    return "\n".join(lines) + "\n"


def checked(name: str, text: str) -> str:
    """The text, unless it names an index or lacks hashes; raises SystemExit."""
    for word in FORBIDDEN:
        if word in text:
            raise SystemExit(f"{name}: the lock must not contain '{word}'")
    if "--hash=sha256:" not in text:
        raise SystemExit(f"{name}: the lock has no hashes")
    return text


def main(arguments: list[str]) -> int:
    """Write the named locks, or all; returns the exit code."""
    parser = argparse.ArgumentParser(description="Write the toolchains' lock files.")
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"of: {', '.join(WANTED)} (default: all)")
    names = parser.parse_args(arguments).names or list(WANTED)
    unknown = sorted(set(names) - set(WANTED))
    if unknown:
        parser.error(f"unknown lock {unknown[0]}")
    LOCKS.mkdir(parents=True, exist_ok=True)
    for name in names:
        path = LOCKS / f"{name}.txt"
        text = checked(name, compile_lock(WANTED[name]))
        changed = not path.exists() or path.read_text(encoding="utf-8") != text
        path.write_text(text, encoding="utf-8")
        print(f"{path.name}: {'written' if changed else 'unchanged'}")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
