"""What the schemes over llm-compressor share: the worker, where weights lie while it works, and recipe steps."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from bench.base.errors import UsageError
from bench.base.schema import identity_when_changed, not_identity
from quantize.architectures import architecture_of
from quantize.layers import LayerInventory, read_model_config
from quantize.samples import SampleSetConfig
from quantize.schemes.hf import HfSchemeConfig

if TYPE_CHECKING:
    from collections.abc import Sequence

_DEVICE = re.compile(r"cpu|cuda:\d+")


class Devices(StrEnum):
    """Where the weights lie; each layer goes to the first GPU, where there is one, while it is worked on."""

    cpu = "cpu"
    disk = "disk"
    gpus = "gpus"


@dataclass(frozen=True, kw_only=True)
class LlmCompressorConfig(HfSchemeConfig):
    """Base of these schemes; a subclass gives `steps`.

    `devices`: weights lie in memory (`cpu`), there and on disk where memory is short (`disk`), or spread over all GPUs
    (`gpus`). Activations between layers wait on `activations_on`: `cpu`, or a GPU such as `cuda:1`.
    """

    worker: ClassVar[str] = "llmcompressor_worker"
    tool: ClassVar[str] = "llm-compressor"
    fused_experts: ClassVar[bool] = True

    devices: Devices = not_identity(Devices.cpu)  # noqa: RUF009 - a field specifier
    activations_on: str = not_identity("cpu")

    def __post_init__(self) -> None:
        super().__post_init__()
        if not _DEVICE.fullmatch(self.activations_on):
            raise ValueError(f"scheme.activations_on='{self.activations_on}' must be cpu, or a GPU such as cuda:1")

    @property
    def packing(self) -> str:
        return "compressed-tensors"

    def layers_of(self, folder: Path) -> LayerInventory:
        layers = super().layers_of(folder)
        config = read_model_config(folder)
        if architecture_of(config).fused:
            raise UsageError(
                f"{folder.name}: {self.tool} writes the experts of {config.get('model_type')} one by one, and "
                "transformers loads them from one tensor only; use a scheme of GGUF, such as gguf_q4_k_m"
            )
        return layers

    def steps(self, settled: Mapping[str, Any]) -> list[dict[str, Any]]:
        """The modifiers of `oneshot`, in order: {"modifier": its class, …its arguments}."""
        raise NotImplementedError

    def recipe(self, layers: LayerInventory, settled: Mapping[str, Any]) -> dict[str, Any]:
        return {"modifiers": self.steps(settled), "ignore": list(layers.ignore)}

    def options(self, scratch: Path) -> dict[str, Any]:
        return {
            "devices": self.devices.value,
            "activations_on": self.activations_on,
            "offload": str(scratch / "offload"),
        }


@dataclass(frozen=True, kw_only=True)
class CalibratedConfig(LlmCompressorConfig):
    """Base of those that look at activations of a `calibration` set, always or with some settings."""

    calibration: SampleSetConfig = identity_when_changed(default_factory=SampleSetConfig)  # noqa: RUF009 - a field specifier

    def __post_init__(self) -> None:
        super().__post_init__()
        if not self.calibrates and self.calibration != SampleSetConfig():
            raise ValueError(f"scheme.calibration is not used by {self.title}; drop it")

    @property
    def calibrates(self) -> bool:
        """Whether these settings need activations."""
        return True

    @property
    def sample_set(self) -> SampleSetConfig | None:
        return self.calibration if self.calibrates else None


def preset(name: str, **more: Any) -> dict[str, Any]:
    """Plain quantization of all linear layers by one of compressed-tensors' presets."""
    return {"modifier": "QuantizationModifier", "scheme": name, "targets": ["Linear"], **more}


def weight_only(bits: int, group_size: int, *, symmetric: bool) -> dict[str, Any]:
    """`config_groups` of integer weights in groups along the inputs (-1: a whole row), activations as they are."""
    weights: dict[str, Any] = {"num_bits": bits, "type": "int", "symmetric": symmetric, "dynamic": False}
    groups = {"strategy": "channel"} if group_size == -1 else {"strategy": "group", "group_size": group_size}
    return {"group_0": {"targets": ["Linear"], "weights": {**weights, **groups}}}


def grouped_bits(bits: int, group_size: int, *, symmetric: bool) -> float:
    """Bits a weight takes with its share of a 16-bit scale and a zero point; automatic groups are taken as small."""
    if group_size == -1:
        return float(bits)
    return bits + (16 + (0 if symmetric else bits)) / (group_size or 32)


def misfits(layers: LayerInventory, multiple: int) -> Sequence[str]:
    """Layers with inputs or outputs that are no multiple: `NAME (outputs × inputs)`."""
    return [
        f"{layer.name} ({layer.outputs} × {layer.inputs})"
        for layer in layers.quantized
        if layer.inputs % multiple or layer.outputs % multiple
    ]
