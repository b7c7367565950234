"""What to do about a failed cell, by the kind of its failure."""

from __future__ import annotations

from bench.base.errors import FailureKind as Kind

_REMEDIES = {
    Kind.OUT_OF_MEMORY: "Take fewer bits, a shorter context, a smaller KV cache or batch, or more memory;"
    " `quantbench fit` tells what it needs.",
    Kind.START_TIMEOUT: "See in the log what it was doing; raise the engine's start deadline where it was loading.",
    Kind.CRASHED: "The end of the log tells why the process died; the engine's exact command is under provenance.",
    Kind.UNHEALTHY: "The server ran and did not answer as it should: see its log, and try it by `quantbench serve`.",
    Kind.CORRUPT: "The variant's files or its answers are not what they should be: make it anew, or by another scheme.",
    Kind.CPU_FALLBACK: "A GPU was asked for and the processor was used: check driver, toolchain flavour and layers.",
    Kind.UNSUPPORTED_ARCHITECTURE: "This engine or build does not know the model's architecture: take a newer one.",
    Kind.MISSING_KERNEL: "This hardware or build has no kernel for the format: another format, engine or GPU.",
    Kind.DRIVER: "Driver and toolchain do not fit together: `quantbench doctor` tells which.",
    Kind.PORT_TAKEN: "Something else listens on the port: leave the port free to choose, or end the other process.",
    Kind.CLIENT_FAULT: "The load generator failed, not the server: see the message, and report it.",
    Kind.TOOLCHAIN: "The environment could not be made or is damaged: `quantbench toolchain install` it again.",
    Kind.QUANTIZER: "The quantizer refused or failed: see its log; another group size or method may do.",
    Kind.EVALUATOR: "Scoring failed, the measured loads still hold: see the log, then run the same command again.",
    Kind.HOPELESS: "It could not have succeeded and was stopped early: the message names the limit it would break.",
    Kind.DISK_FULL: "Free space, or move the cache with QUANTBENCH_CACHE; what was done is kept.",
    Kind.USAGE: "The settings contradict each other or the model: the message says which to change.",
}


def remedy(kind: str) -> str:
    """What to do; for a kind that is not known, that the message and the log are what there is."""
    known = {failure.value: told for failure, told in _REMEDIES.items()}
    return known.get(kind, "See the message and the end of the log; the same command takes up where it stopped.")
