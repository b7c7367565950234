"""Scheme `own_baseline`: in the place of a baseline, the unquantized form of whatever scheme is held against it."""

from __future__ import annotations

from dataclasses import dataclass

from bench.base.schema import schema
from quantize.schemes.base import SchemeConfig


@schema("scheme", "own_baseline")
@dataclass(frozen=True, kw_only=True)
class OwnBaselineConfig(SchemeConfig):
    """A GGUF's is F16, a Hugging Face checkpoint's BF16. It is replaced when a cell is planned and never launched."""

    kind: str = "own_baseline"
