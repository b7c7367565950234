"""Scheme `as_served`: whatever a server that runs already serves. No weights are here, so nothing is made of any."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from bench.base.schema import schema
from quantize.models import ModelConfig
from quantize.schemes.base import SchemeConfig


@schema("scheme", "as_served")
@dataclass(frozen=True, kw_only=True)
class AsServedConfig(SchemeConfig):
    """A variant whose weights are with the server at `engine.base_url`, and not known.

    It cannot be accepted, and its quality cannot be scored: only what the server answers is measured.
    """

    holds_weights: ClassVar[bool] = False

    kind: str = "as_served"

    @property
    def label(self) -> str:
        return "as served"

    @property
    def format(self) -> str:
        return "served"

    @property
    def packing(self) -> str:
        return ""

    def own_baseline(self, model: ModelConfig) -> SchemeConfig:
        """Itself: there is nothing to compare it with."""
        return self
