"""Whether a cell fits: its variant's size, memory while quantizing and serving, and formats, against hardware.

Nothing is made, loaded or kept. What headers do not tell is unknown, with the reason; nothing is guessed.
"""

from __future__ import annotations

import contextlib
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path

from omegaconf import MISSING

from bench.base.errors import CellFailure, ToolchainError, UsageError
from bench.base.schema import schema
from bench.engines.base import Support, SupportAnswer, engine_of
from bench.engines.footprint import Footprint
from bench.plan.config import RunConfig
from bench.plan.formats import on_gpu
from bench.plan.plan import CellSpec
from bench.telemetry.hardware import Hardware, HardwareConfig
from quantize.estimate import Estimate, UnknownSize, estimate
from quantize.models import ModelConfig
from quantize.shape import CacheShape, ModelShape
from quantize.source import Source, glance

#: Above this share of what there is, a fit is called tight: estimates err, and drivers keep some memory.
TIGHT = 0.9
_FLOAT_BYTES = 4
_MASK_BYTES = 2
_NO_MAIN_MEMORY = "main memory is not given, so quantizing is not judged: hardware.main_memory_gib=N"


@schema(None, "fit")
@dataclass(frozen=True, kw_only=True)
class FitConfig:
    """The hardware that cells are to fit into."""

    hardware: HardwareConfig = MISSING


class Verdict(StrEnum):
    """Whether it fits, the worst first: the worst of a cell's parts is the cell's."""

    NO = "does not fit"
    UNKNOWN = "unknown"
    TIGHT = "tight"
    FITS = "fits"


@dataclass(frozen=True, kw_only=True)
class Serving:
    """Bytes while serving, wherever they lie; None where it cannot be known.

    `overhead`: the program and its libraries, activations and logits; on each GPU where there are several.
    """

    weights: int
    cache: int | None
    overhead: int | None

    @property
    def total(self) -> int | None:
        """All of it."""
        return None if self.cache is None or self.overhead is None else self.weights + self.cache + self.overhead


@dataclass(frozen=True, kw_only=True)
class Need:
    """One comparison: the bytes that a step needs in one place, and those that are there; None: not known."""

    what: str
    needed: int | None
    there: int | None

    @property
    def verdict(self) -> Verdict:
        """Tight above nine tenths of what is there."""
        if self.needed is None or self.there is None:
            return Verdict.UNKNOWN
        if self.needed > self.there:
            return Verdict.NO
        return Verdict.TIGHT if self.needed > TIGHT * self.there else Verdict.FITS


@dataclass(frozen=True, kw_only=True)
class CellFit:
    """What is known of a cell before it is run; `unknown` says why something is not.

    `support` is the answer of engine, scheme and hardware together. `notes` are what is to be said of the figures.
    """

    label: str
    estimate: Estimate | None = None
    serving: Serving | None = None
    needs: tuple[Need, ...] = ()
    unknown: str = ""
    support: Support
    notes: tuple[str, ...] = ()

    @property
    def deciding(self) -> Need | None:
        """The comparison that decided: of the worst ones that of the fullest place; None when there is none."""
        order = list(Verdict)
        return min(
            self.needs,
            key=lambda need: (order.index(need.verdict), -(need.needed or 0) / (need.there or 1)),
            default=None,
        )

    @property
    def verdict(self) -> Verdict:
        """Of what decided."""
        return Verdict.UNKNOWN if self.deciding is None else self.deciding.verdict


def fit_cells(
    cells: Sequence[CellSpec],
    hardware: Hardware,
    *,
    cache: Path,
    ask_hub: bool = False,
    strict: bool = True,
    served: bool = True,
) -> list[CellFit]:
    """Each cell's fit. With `ask_hub`, the headers of a model that is on a hub only are fetched and thrown away.

    Raises UsageError for a model that cannot be used, such as a path where there is nothing; without `strict` that
    leaves its cells unknown, since a plan may be meant for another machine. What is not `served` is supported where
    its scorer loads it.
    """
    with contextlib.ExitStack() as stack:
        seen: dict[str, Source | str] = {}

        def look(model: ModelConfig) -> Source | str:
            key = repr(model)
            if key not in seen:
                try:
                    seen[key] = _source_or_reason(model, cache, stack, ask_hub=ask_hub)
                except UsageError as error:
                    if strict:
                        raise
                    seen[key] = str(error)
            return seen[key]

        return [_fit(spec, hardware, look, served=served) for spec in cells]


def _source_or_reason(model: ModelConfig, cache: Path, stack: contextlib.ExitStack, *, ask_hub: bool) -> Source | str:
    """The model's headers, or why they are not known."""
    located = model.at_hand(cache)
    if located is not None:
        return glance(located.path, model.name or located.name or "")
    if ask_hub:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="quantbench-fit-")))
        try:
            outline = model.outline(folder / "outline")
        except (ToolchainError, CellFailure) as error:
            return str(error)
        if outline is not None:
            return glance(outline, model.name)
    return "the model is not on this machine, so its headers are not known; quantbench quantize fetches it"


def _fit(spec: CellSpec, hardware: Hardware, look: Callable[[ModelConfig], Source | str], *, served: bool) -> CellFit:
    config = spec.config
    if config is None:
        return CellFit(label=spec.label, support=_no(spec.error or "its overrides do not compose"))
    engine = engine_of(config.engine)
    footprint = engine.footprint(config.engine)
    scheme = config.scheme
    packing = scheme.packing if served else ""
    support = engine.serves(config.engine, scheme.format_of(config.model), scheme.load_method, packing)
    if scheme.without_gpu and not hardware.gpus:
        support = _no(scheme.without_gpu)
    support = _with_gpus(support, footprint, hardware)
    if config.engine.base_url:
        return CellFit(label=spec.label, unknown="the server runs already, what it needs is not known", support=support)
    source = look(config.model)
    if isinstance(source, str):
        return CellFit(label=spec.label, unknown=source, support=support)
    try:
        found = estimate(source, scheme)
    except UnknownSize as error:
        return CellFit(label=spec.label, unknown=str(error), support=support)
    except UsageError as error:  # what the scheme refuses
        return CellFit(label=spec.label, support=support if support.answer is SupportAnswer.NO else _no(str(error)))
    serving = serving_bytes(found, footprint)
    share = gpu_share(found.shape, footprint, hardware)
    if share != 0 and footprint.native and support.answer is not SupportAnswer.NO:
        support = _with_format(support, found.words, hardware.compute_capability)
    needs = [*_quantizing(found, hardware), *_places(serving, share, footprint, hardware)]
    not_judged = found.quantizing_bytes and hardware.main_bytes is None
    return CellFit(
        label=spec.label,
        estimate=found,
        serving=serving,
        needs=tuple(needs),
        unknown=_why_unknown(found.shape, serving, share, config, hardware),
        support=support,
        notes=(*found.notes, *found.shape.notes, *((_NO_MAIN_MEMORY,) if not_judged else ())),
    )


def serving_bytes(found: Estimate, footprint: Footprint) -> Serving:
    """Memory while serving: weights as the engine holds them, a full KV cache, and overhead.

    KV cache: layers × tokens × (keys × bytes + values × bytes), tokens being all that all sequences have room for; for
    layers with a window no more than that. Overhead: the engine's constant; as F32 the logits (tokens × vocabulary) and
    activations (tokens × (3 × inner + 4 × hidden)) of what it computes at once; and a mask of 16 bits for every token
    that each of these may see.
    """
    shape = found.shape
    overhead = None
    if shape.vocabulary and shape.hidden:
        activations = 3 * (shape.inner or 4 * shape.hidden) + 4 * shape.hidden
        numbers = footprint.logit_tokens * shape.vocabulary + footprint.batch_tokens * activations
        mask = _MASK_BYTES * footprint.batch_tokens * footprint.tokens
        overhead = footprint.process_bytes + _FLOAT_BYTES * numbers + mask
    return Serving(
        weights=found.unpacked_bytes if found.packing in footprint.unpacks else found.weight_bytes,
        cache=None if shape.cache is None else cache_bytes(shape.cache, footprint),
        overhead=overhead,
    )


def cache_bytes(cache: CacheShape, footprint: Footprint) -> int:
    """Bytes of a full KV cache, or what is set aside for it; see `serving_bytes`."""
    if footprint.set_aside_bytes is not None:
        return footprint.set_aside_bytes
    if cache.latent is not None and footprint.latent_cache:
        token = cache.latent * footprint.key_bytes
    else:
        token = cache.keys * footprint.key_bytes + cache.values * footprint.value_bytes
    cells = cache.layers * footprint.cells() + cache.windowed * footprint.cells(cache.window)
    return round(cells * token)


def gpu_share(shape: ModelShape, footprint: Footprint, hardware: Hardware) -> float | None:
    """How much of weights and cache is on GPUs: 0 … 1; None where layers are counted and it has nobody knows how many.

    The output counts as one more layer, as llama.cpp has it.
    """
    if not hardware.gpus or footprint.gpu_layers == 0:
        return 0.0
    if footprint.gpu_layers is None:
        return 1.0
    return None if shape.layers is None else min(1.0, footprint.gpu_layers / (shape.layers + 1))


def _quantizing(found: Estimate, hardware: Hardware) -> list[Need]:
    if not found.quantizing_bytes or hardware.main_bytes is None:
        return []
    return [Need(what="quantizing", needed=found.quantizing_bytes, there=hardware.main_bytes)]


def _places(serving: Serving, share: float | None, footprint: Footprint, hardware: Hardware) -> list[Need]:
    """What serving needs of a GPU, and of main memory where a part of the model is there."""
    if share is None or serving.cache is None or serving.overhead is None:
        return [Need(what="serving", needed=None, there=hardware.gpu_bytes or hardware.main_bytes)]
    model, needs = serving.weights + serving.cache, []
    if share > 0:
        used = min(footprint.gpus or hardware.gpus, hardware.gpus)
        there = None if hardware.gpu_bytes is None else int(hardware.gpu_bytes * footprint.gpu_fraction)
        what = "serving on a GPU" if used == 1 else f"serving on each of {used} GPUs"
        needs.append(Need(what=what, needed=round(share * model / used) + serving.overhead, there=there))
    if share < 1:
        needed = round((1 - share) * model) + serving.overhead
        needs.append(Need(what="serving in main memory", needed=needed, there=hardware.main_bytes))
    return needs


def _why_unknown(
    shape: ModelShape, serving: Serving, share: float | None, config: RunConfig, hardware: Hardware
) -> str:
    if serving.cache is None:
        return f"the KV cache is not known: {shape.no_cache}"
    if serving.overhead is None or share is None:
        return "the headers do not tell the vocabulary, the hidden size or the number of layers"
    if share > 0 and hardware.gpu_bytes is None:
        return "the GPU's memory is not known: hardware.memory_gib=N"
    if share < 1 and hardware.main_bytes is None:
        offload = "; engine.gpu_layers=999 puts it on the GPU" if hasattr(config.engine, "gpu_layers") else ""
        return f"it is served from main memory, which is not given: hardware.main_memory_gib=N{offload}"
    return ""


def _no(reason: str) -> Support:
    return Support(answer=SupportAnswer.NO, reason=reason)


def _with_gpus(support: Support, footprint: Footprint, hardware: Hardware) -> Support:
    """The engine's answer, and whether there are the GPUs it is set to use."""
    if support.answer is SupportAnswer.NO:
        return support
    needing = f"engine.gpu_layers={footprint.gpu_layers}" if footprint.gpu_layers else footprint.needs_gpu
    if needing and not hardware.gpus:
        return _no(f"{needing}, and there is no GPU")
    wanted = footprint.gpus or 1
    if wanted > max(1, hardware.gpus):
        return _no(f"the engine is set to use {wanted} GPUs, there are {hardware.gpus}")
    return support


def _with_format(support: Support, words: str, capability: float | None) -> Support:
    """The engine's answer, and whether the GPU computes the format."""
    answer = on_gpu(words, capability)
    if answer.answer is False:
        return _no(answer.reason)
    if answer.answer is None:
        return Support(answer=SupportAnswer.UNVERIFIED, reason=answer.reason)
    reasons = [reason for reason in (support.reason, answer.reason) if reason]
    return Support(answer=support.answer, reason="; ".join(reasons))
