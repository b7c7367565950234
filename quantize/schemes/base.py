"""What every scheme is: a config in group `scheme` that can launch itself. Nothing else of the house names schemes."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from bench.base.progress import Progress
from bench.base.schema import not_identity
from quantize.artefact import Artefact
from quantize.models import ModelConfig
from quantize.source import Source

if TYPE_CHECKING:
    from bench.toolchains.toolchain import Toolchain


@dataclass(frozen=True, kw_only=True)
class Job:
    """What a scheme gets to do its work: everything it writes goes below `work`, tool output to `log`.

    `make` gives the artefact of another scheme over the same source, made first when it is not there.
    """

    source: Source
    environment: Toolchain | None
    work: Path
    log: Path
    progress: Progress
    make: Callable[[SchemeConfig], Artefact]

    @property
    def toolchain(self) -> Toolchain:
        """The environment of a scheme that names one."""
        assert self.environment is not None, "the scheme names a toolchain"
        return self.environment


@dataclass(frozen=True, kw_only=True)
class Product:
    """What a scheme wrote into its work folder; sizes and digests are taken by the caller.

    `made_from`: key of the artefact that was read in the source's place, if any. `label`: what reports call the
    variant where that is known only now. `calibration`: the text that guided it, as it is recorded.
    `packing`: as the scheme's, where that is known only now. `quantized_layers`: how many linear layers were
    quantized, `skipped_layers` the names of those that were not; `group_size`: weights that share a scale, None
    without groups. `peak_gpu_bytes`: over all GPUs, None where none was used. `loaded_bytes`: what the weights take in
    an engine that quantizes them itself, None where that is what the files hold.
    `files` are relative to the work folder, the model first. `command` is recorded as it stands, so it names no path
    of this machine.
    """

    format: str
    files: Sequence[str]
    command: Sequence[str]
    parameters: int
    effective_bits_per_weight: float | None
    tensor_types: Sequence[dict[str, Any]]
    warnings: Sequence[str]
    wall_s: float
    cpu_s: float | None
    peak_rss_bytes: int | None
    made_from: str | None = None
    label: str | None = None
    calibration: dict[str, Any] | None = None
    packing: str | None = None
    quantized_layers: int | None = None
    skipped_layers: Sequence[str] = ()
    group_size: int | None = None
    peak_gpu_bytes: int | None = None
    loaded_bytes: int | None = None


@dataclass(frozen=True, kw_only=True)
class SchemeConfig:
    """Base of the group. `toolchain` names the environment, empty: none is needed.

    The environment's lock, not its name, enters the artefact's key.

    `max_divergence` bounds the mean divergence from the baseline, in nats per token, above which the candidate
    counts as corrupt: a bound on breakage, not on quality.
    """

    #: Raised when the same config begins to give other bytes.
    worker_version: ClassVar[int] = 1
    #: Why it quantizes on an NVIDIA GPU only, and what to do without one; empty: it needs none.
    without_gpu: ClassVar[str] = ""
    #: False where the weights are with a server that others run: nothing is fetched or made.
    holds_weights: ClassVar[bool] = True

    kind: str = "?"
    toolchain: str = not_identity("")
    max_divergence: float = not_identity(1.0)

    def __post_init__(self) -> None:
        if not self.max_divergence > 0:
            raise ValueError(f"scheme.max_divergence={self.max_divergence} must be positive (nats per token)")

    @property
    def label(self) -> str:
        """What reports call the variant."""
        return self.kind

    @property
    def format(self) -> str:
        """What it writes, `gguf` or `hf`: known before any work, so that an engine can refuse it."""
        return "hf"

    @property
    def packing(self) -> str:
        """How it packs weights, which engines must know of: `gguf`, `none`, `compressed-tensors`, `bitsandbytes`, …

        Empty: as the checkpoint says, see the artefact's manifest.
        """
        return "gguf" if self.format == "gguf" else "none"

    @property
    def load_method(self) -> str:
        """How the engine shall quantize while it loads; empty: it loads what is written."""
        return ""

    def own_baseline(self, model: ModelConfig) -> SchemeConfig:
        """The unquantized form in the format that it writes of `model`: what its quality is held against."""
        if self.format_of(model) == "gguf":
            from quantize.schemes.gguf import GgufConfig, GgufType

            return GgufConfig(type=GgufType.F16, max_divergence=0.05)
        from quantize.schemes.unquantized import UnquantizedConfig

        return UnquantizedConfig()

    def needs_base(self, model: ModelConfig) -> bool:
        """Whether `model` holds no unquantized form: a baseline is then made of another model, `base`."""
        return False

    def check(self, source: Source) -> None:
        """Refuse what cannot be made of `source`, from headers alone and before any work; raises UsageError."""

    def check_machine(self) -> None:
        """Refuse what cannot be made on this machine, before any toolchain is made; raises UsageError."""

    def prior(self, source: Source) -> SchemeConfig | None:
        """The scheme whose artefact is read in the source's place and enters the key; None: the source is read."""
        return None

    def format_of(self, model: ModelConfig) -> str:
        """`format` for a `model` that nobody has fetched yet."""
        return self.format

    def calibration_digest(self) -> str | None:
        """Digest of the text that guides the scheme; raises UsageError when it cannot be read. None: without one."""
        return None

    def is_intact(self, source: Source, artefact: Artefact) -> bool:
        """Whether a finished artefact can still be used; one that is not is made again."""
        return True

    def launch(self, job: Job) -> Product:
        """Write the candidate; raises UsageError, CellFailure or ToolchainError."""
        raise NotImplementedError(f"scheme kind '{self.kind}' cannot quantize")


def discover() -> None:
    """Import every module of this package, so that each registers its schema."""
    import importlib
    import pkgutil

    import quantize.schemes

    for module in pkgutil.iter_modules(quantize.schemes.__path__):
        importlib.import_module(f"quantize.schemes.{module.name}")
