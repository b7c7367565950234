"""A finished variant on disk."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

#: Where an artefact that was calibrated keeps the sketch of its text; engines have no part in it.
SKETCH_FILE = "calibration_sketch.npy"


@dataclass(frozen=True, kw_only=True)
class Artefact:
    """A variant and its manifest (`manifest.json` in its folder)."""

    key: str
    directory: Path
    manifest: dict[str, Any]

    @property
    def label(self) -> str:
        """What reports call it."""
        return str(self.manifest["label"])

    @property
    def format(self) -> str:
        """`gguf` or `hf`: what engines are asked whether they serve."""
        return str(self.manifest["format"])

    @property
    def holds_weights(self) -> bool:
        """False where the weights are with a server that others run."""
        return self.format != "served"

    @property
    def load_method(self) -> str:
        """How the engine quantizes it while loading; empty: it loads what is written."""
        return self.manifest.get("load_method") or ""

    @property
    def model_path(self) -> Path:
        """What an engine loads: the GGUF file, or the folder of a Hugging Face checkpoint."""
        return self.directory / self.manifest["files"][0]["path"] if self.format == "gguf" else self.directory
