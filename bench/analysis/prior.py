"""The rule of thumb for hardware on which nothing was measured: what practitioners choose, labelled as that."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from bench.analysis.prices import words

LABEL = "rule of thumb, not measured"
#: Driver and error correction keep some of what a card's name says: a T4 of 16 GB tells of 15.0 GiB, an L4 of 22.5.
_LEFT = 0.93


@dataclass(frozen=True, kw_only=True)
class Prior:
    """`families` in order of preference, each as `family_of` names them; `presets` are schemes of `conf/scheme`."""

    families: tuple[str, ...]
    presets: tuple[str, ...]
    because: str

    @property
    def said(self) -> str:
        """In a sentence."""
        return f"{' or '.join(self.families)} ({LABEL}): {self.because}."


_FP8 = (("FP8",), ("fp8",))
_FP16 = (("FP16",), ("fp16",))
_AWQ = (("AWQ",), ("awq",))
_EIGHT = (("8-bit (EETQ, INT8)", "AWQ"), ("load_eetq", "int8", "awq"))
_GPTQ = (("GPTQ",), ("gptq",))
_GGUF = (("GGUF Q4_K_M",), ("gguf_q4_k_m",))


def prior_of(gpu: str, memory_gib: float | None, *, quality_first: bool) -> Prior:
    """What is usual on a GPU of that name and memory (of one GPU, GiB); without a GPU `memory_gib` is None.

    H100: FP8. From 80 GB: FP16 when quality comes first, else AWQ. From 40: 8-bit, or AWQ. From 24: AWQ. From 16: GPTQ.
    Below, or without a GPU: GGUF Q4_K_M.
    """
    if "h100" in words(gpu):
        return _prior(_FP8, "an H100 computes in FP8 itself")
    if memory_gib is None:
        return _prior(_GGUF, "there is no GPU")
    for least, chosen, because in _by_memory(quality_first):
        if memory_gib >= least * _LEFT:
            return _prior(chosen, because)
    return _prior(_GGUF, "less than 16 GB of GPU memory")


_Choice = tuple[tuple[str, ...], tuple[str, ...]]


def _by_memory(quality_first: bool) -> Sequence[tuple[float, _Choice, str]]:
    return (
        (80, _FP16 if quality_first else _AWQ, f"80 GB or more, {'quality' if quality_first else 'speed'} first"),
        (40, _EIGHT, "40 GB or more: 8-bit where quality matters, else AWQ"),
        (24, _AWQ, "24 GB or more"),
        (16, _GPTQ, "16 GB or more"),
    )


def _prior(chosen: _Choice, because: str) -> Prior:
    return Prior(families=chosen[0], presets=chosen[1], because=because)


_FAMILIES = (
    ("nvfp4", "NVFP4"),
    ("fp8", "FP8"),
    ("awq", "AWQ"),
    ("gptq", "GPTQ"),
    ("eetq", "8-bit (EETQ, INT8)"),
    ("int8", "8-bit (EETQ, INT8)"),
    ("w8a8", "8-bit (EETQ, INT8)"),
    ("nf4", "NF4"),
    ("q4_k_m", "GGUF Q4_K_M"),
)
_SIXTEEN = frozenset({"f16", "fp16", "bf16"})


def family_of(names: Sequence[str]) -> str:
    """The family that a variant's names (label, scheme's kind and type) place it in; their first where none does."""
    told = " ".join(names).lower()
    if _SIXTEEN & {part for name in names for part in name.lower().split()}:
        return "FP16"
    return next((family for sign, family in _FAMILIES if sign in told), names[0] if names else "")
