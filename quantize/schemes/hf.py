"""What all schemes share that make a quantized Hugging Face checkpoint of a Hugging Face checkpoint.

A scheme gives its worker and recipe; the checks before any work, the worker's run and the product are here.
"""

from __future__ import annotations

import dataclasses
import json
import os
import re
import shutil
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from bench.base.errors import CellFailure, FailureKind, UsageError
from bench.base.files import tail
from bench.base.process import SHORT_SPIN
from bench.base.schema import not_identity
from bench.toolchains.worker import WorkerError, run_worker
from quantize.artefact import SKETCH_FILE
from quantize.checkpoint import safe_view
from quantize.layers import (
    LayerInventory,
    choose_group_size,
    gguf_layers,
    held_notes,
    linear_layers,
    read_model_config,
    refuse_held,
)
from quantize.packed import Contents, contents, method_of, read_config
from quantize.schemes.base import Job, Product, SchemeConfig
from quantize.source import Source, SourceFormat

if TYPE_CHECKING:
    from quantize.samples import SampleSetConfig

#: Files of a tokenizer, which a quantizer has no part in.
_TOKENIZER = re.compile(
    r"(tokenizer|special_tokens|added_tokens|vocab|chat_template|preprocessor|processor)\w*\.(json|model|jinja|txt)"
    r"|merges\.txt|spiece\.model|.*\.tiktoken"
)
WORKERS = Path(__file__).parents[1] / "workers"
#: What workers load to turn a calibration file into token ids.
_LOADER = WORKERS / "calibration_tokens.py"
#: The calibration samples as they are given to the worker, and the text of what it used of them.
_SAMPLES, _USED = "calibration.jsonl", "calibration-used.jsonl"
#: Bytes of a weight that is not quantized.
_PLAIN_BYTES = 2
_FAILURES = {
    "out_of_memory": FailureKind.OUT_OF_MEMORY,
    "disk_full": FailureKind.DISK_FULL,
    "import_error": FailureKind.TOOLCHAIN,
    "toolchain": FailureKind.TOOLCHAIN,
}
_ADVICE = {
    FailureKind.OUT_OF_MEMORY: "; free memory, calibrate with fewer samples or choose a smaller model",
    FailureKind.DISK_FULL: "; free some space",
}


@dataclass(frozen=True, kw_only=True)
class HfSchemeConfig(SchemeConfig):
    """Base of these schemes; a subclass gives `worker`, `tool`, `packing`, `title`, `weight_bits` and `recipe`.

    A GGUF source is first written as a BF16 checkpoint. `ignore` names modules that stay as they are, or after `re:`
    regexes of their names, beside those that the architecture always skips. `threads` 0: all cores this process may
    use.
    """

    #: The worker's file in quantize/workers, without `.py`.
    worker: ClassVar[str]
    #: What messages and manifests call the quantizer.
    tool: ClassVar[str]
    #: Fields that `title` tells.
    titled: ClassVar[frozenset[str]] = frozenset()
    #: Whether the quantizer takes apart experts that are stored in one tensor.
    fused_experts: ClassVar[bool] = False
    #: Whether the quantizer sees experts as linear layers.
    sees_experts: ClassVar[bool] = True

    toolchain: str = not_identity("llmcompressor")
    threads: int = not_identity(0)
    ignore: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.threads < 0:
            raise ValueError(f"scheme.threads={self.threads} must be 0 (all cores) or more")

    # What a subclass says of itself

    @property
    def title(self) -> str:
        """The label's beginning: `FP8 dynamic`, `GPTQ W4A16`. What differs from the defaults is added to it."""
        raise NotImplementedError

    @property
    def weight_bits(self) -> float:
        """Bits of a quantized weight with its share of scales: an estimate for the disk it takes."""
        raise NotImplementedError

    @property
    def sample_set(self) -> SampleSetConfig | None:
        """The calibration set; None for a scheme that needs none."""
        return None

    def settle(self, layers: LayerInventory) -> dict[str, Any]:
        """What only the layers decide, such as `group_size`; raises UsageError where they do not allow what is asked.

        It is given to `recipe`, and a `group_size` in it is recorded and told by the label.
        """
        return {}

    def recipe(self, layers: LayerInventory, settled: Mapping[str, Any]) -> dict[str, Any]:
        """What the worker is asked for, JSON-able; recorded in the manifest, so it names no path of this machine."""
        raise NotImplementedError

    def notes(self, layers: LayerInventory, settled: Mapping[str, Any]) -> list[str]:
        """Warnings for the manifest."""
        return []

    def options(self, scratch: Path) -> dict[str, Any]:
        """More for the worker's request that does not change what is written; `scratch` may hold files meanwhile."""
        return {}

    def prepare(self, view: Path) -> None:
        """Change the view of the checkpoint the worker reads; plain files in it may be replaced, links removed."""

    # What the harness asks for

    @property
    def label(self) -> str:
        return self._label(None)

    def _label(self, group_size: int | None) -> str:
        groups = f" g{group_size}" if group_size else ""
        return " ".join([f"{self.title}{groups}", *_changed(self, self.titled)])

    @property
    def format(self) -> str:
        return "hf"

    def prior(self, source: Source) -> SchemeConfig | None:
        if source.format is SourceFormat.hf:
            return None
        from quantize.schemes.unquantized import UnquantizedConfig

        return UnquantizedConfig()

    def calibration_digest(self) -> str | None:
        return None if self.sample_set is None else self.sample_set.digest()

    def check(self, source: Source) -> None:
        """The calibration set; from headers: not quantized already, layers that can be quantized, groups that fit."""
        if self.sample_set is not None:
            self.sample_set.check()
        if source.format is SourceFormat.gguf:
            layers = gguf_layers(source.path, self.ignore)
            if not self.sees_experts:
                refuse_held(layers, self.tool, source.path.name)
            self.settle(layers)
        else:
            self.settle(self.layers_of(source.path))

    def layers_of(self, folder: Path) -> LayerInventory:
        """The layers of a checkpoint as this quantizer sees them; raises UsageError for one it can make nothing of."""
        refuse_quantized(folder)
        layers = linear_layers(folder, self.ignore)
        if not self.sees_experts:
            layers = layers.without_experts()
            refuse_held(layers, self.tool, folder.name)
        if layers.fused and not self.fused_experts:
            raise UsageError(
                f"{folder.name}: {layers.fused[0].name} holds {layers.fused[0].count} experts in one tensor, which "
                f"{self.tool} does not take apart; choose a scheme over llm-compressor"
            )
        return layers

    def launch(self, job: Job) -> Product:
        """Checkpoint → worker → checked product."""
        prior = self.prior(job.source)
        made_from = None if prior is None else job.make(prior)
        folder = job.source.path if made_from is None else made_from.model_path
        layers = self.layers_of(folder)
        settled = self.settle(layers)
        _refuse_full_disk(job.work, layers, self.weight_bits, self.label)
        scratch = job.work / "scratch"
        view = safe_view(folder, scratch / "checkpoint")
        self.prepare(view)
        calibration, record = self._calibration(job, scratch)
        recipe = self.recipe(layers, settled)
        request = {
            "source": str(view),
            "out": str(scratch / "out"),
            "recipe": recipe,
            "calibration": calibration,
            "layers": [layer.name for layer in layers.quantized],
            "ignore": list(layers.ignore),
            "asked_ignore": list(self.ignore),
            "skip": [layer.name for layer in layers.skipped],
            "threads": self.threads or len(os.sched_getaffinity(0)),
            "accelerator": job.toolchain.accelerator,
            **self.options(scratch),
        }
        result = self._run(job, scratch, request)
        _refuse_more(layers, result, self.tool, job.log)
        files = _keep(scratch / "out", view, job.work)
        if record is not None:
            record["sketch"] = _write_sketch(scratch, job.work)
            files.append(SKETCH_FILE)
        shutil.rmtree(scratch)
        found = self._read_back(job)
        usage = result["usage"]
        group_size = settled.get("group_size")
        return Product(
            format=self.format,
            files=files,
            command=[self.tool, json.dumps(recipe, sort_keys=True)],
            parameters=found.parameters,
            effective_bits_per_weight=found.effective_bits_per_weight,
            tensor_types=list(found.types),
            warnings=[
                *(made_from.manifest["warnings"] if made_from else []),
                *self.notes(layers, settled),
                *([] if self.sees_experts else held_notes(layers, self.tool)),
                *_unexpected(layers, result),
                *_short_calibration(calibration, result),
                *result.get("warnings", []),
            ],
            wall_s=usage["wall_s"],
            cpu_s=usage["cpu_s"],
            peak_rss_bytes=usage["peak_rss_bytes"],
            made_from=None if made_from is None else made_from.key,
            label=self._label(group_size),
            calibration=None if record is None else {**record, **(result.get("calibration") or {})},
            quantized_layers=int(result["quantized_layers"]),
            skipped_layers=[
                *(str(name) for name in result["skipped_layers"]),
                *(() if self.sees_experts else layers.expert_modules),
            ],
            group_size=group_size,
            peak_gpu_bytes=result.get("peak_gpu_bytes"),
        )

    def _calibration(self, job: Job, scratch: Path) -> tuple[dict[str, Any] | None, dict[str, Any] | None]:
        """What the worker is told of the calibration set, and what the manifest records of it."""
        samples = self.sample_set
        if samples is None:
            return None, None
        file = scratch / _SAMPLES
        record = samples.write(file, progress=job.progress, toolchain=job.environment, log=job.log)
        told = {
            "file": str(file),
            "loader": str(_LOADER),
            "used": str(scratch / _USED),
            "samples": samples.samples,
            "length": samples.length,
            "chat_template": samples.chat_template,
            "seed": samples.seed,
        }
        return told, record

    def _run(self, job: Job, scratch: Path, request: Mapping[str, Any]) -> dict[str, Any]:
        try:
            return run_worker(
                job.toolchain,
                WORKERS / f"{self.worker}.py",
                request,
                work_dir=scratch / "worker",
                log=job.log,
                progress=job.progress,
                env=self.environment(job),
            )
        except WorkerError as error:
            raise as_failure(error, self.tool, job.work) from error

    def environment(self, job: Job) -> dict[str, str]:
        """Variables of the worker's process beside the toolchain's own."""
        threads = str(self.threads or len(os.sched_getaffinity(0)))
        return {"OMP_NUM_THREADS": threads, "MKL_NUM_THREADS": threads, **SHORT_SPIN}

    def _read_back(self, job: Job) -> Contents:
        """What the headers of the written checkpoint say; one that cannot be read is the quantizer's failure."""
        try:
            return contents(job.work, read_config(job.work))
        except UsageError as error:
            message = f"{self.tool} wrote no quantized checkpoint: {without(str(error), job.work)}"
            raise CellFailure(FailureKind.QUANTIZER, message, log_tail=tail(job.log)) from error


@dataclass(frozen=True, kw_only=True)
class GroupedConfig(HfSchemeConfig):
    """Base of schemes whose weights share scales in groups along a layer's inputs.

    `group_size` 0: the largest of 128, 64, 32 that divides every quantized layer's inputs, also after they are split
    among `tensor_parallel` ranks, for which the variant is meant. -1: one group a row, where the scheme allows it.
    """

    #: Whether `group_size: -1` may be asked for.
    whole_rows: ClassVar[bool] = True

    group_size: int = 0
    tensor_parallel: int = 1

    def __post_init__(self) -> None:
        super().__post_init__()
        least = -1 if self.whole_rows else 0
        if self.group_size < least:
            raise ValueError(f"scheme.group_size={self.group_size} must be 0 (automatic), a positive number or -1")
        if self.tensor_parallel < 1:
            raise ValueError(f"scheme.tensor_parallel={self.tensor_parallel} must be 1 or more")

    @property
    def label(self) -> str:
        """Tells the group size where it is asked for; one that only the layers decide is told when it is known."""
        return self._label(self.group_size)

    def settle(self, layers: LayerInventory) -> dict[str, Any]:
        if self.group_size == -1:
            return {"group_size": -1}
        return {"group_size": choose_group_size(layers.quantized, self.group_size, self.tensor_parallel)}


def refuse_quantized(folder: Path) -> None:
    """Raise UsageError for a checkpoint that is quantized already."""
    found = read_model_config(folder).get("quantization_config")
    if isinstance(found, dict):
        raise UsageError(
            f"{folder.name}: is quantized already ({method_of(found)}); use scheme=prequantized, or give the "
            "unquantized checkpoint"
        )


def as_failure(error: WorkerError, tool: str, work: Path) -> UsageError | CellFailure:
    """A worker's error in the words of the house: without paths of the work folder, with what to do."""
    said = without(str(error), work).splitlines()[0][:500]
    if error.kind == "usage":
        return UsageError(said.split(": ", 2)[-1])
    kind = _FAILURES.get(error.kind, FailureKind.QUANTIZER)
    if error.kind == "crashed" and "SIGKILL" in said:
        kind = FailureKind.OUT_OF_MEMORY
    return CellFailure(kind, f"{tool}: {said}{_ADVICE.get(kind, '')}", log_tail=error.log_tail)


def without(text: str, work: Path) -> str:
    """`text` without the path of the work folder."""
    return text.replace(f"{work}{os.sep}", "").replace(str(work), ".")


def _short_calibration(asked: Mapping[str, Any] | None, result: Mapping[str, Any]) -> list[str]:
    """A warning where one text was too short for the samples that were asked."""
    used = result.get("calibration") or {}
    if asked is None or used.get("windows", asked["samples"]) >= asked["samples"]:
        return []
    found = f"the calibration text has {used['tokens']} tokens: {used['windows']} samples instead of {asked['samples']}"
    return [f"{found}; a longer one may lose less (scheme.calibration.text)"]


def _unexpected(layers: LayerInventory, result: Mapping[str, Any]) -> list[str]:
    """A warning where fewer layers were quantized than the checkpoint has."""
    expected, done = sum(layer.count for layer in layers.quantized), int(result["quantized_layers"])
    if done >= expected:
        return []
    return [f"{done} of {expected} linear layers were quantized: the rest are no separate layers once they are loaded"]


def _refuse_more(layers: LayerInventory, result: Mapping[str, Any], tool: str, log: Path) -> None:
    """Raise CellFailure where more layers were quantized than the checkpoint has: some should have been left.

    A tensor of all experts may hold two layers of each.
    """
    most = sum(layer.count * (2 if layer.count > 1 else 1) for layer in layers.quantized)
    done = int(result["quantized_layers"])
    if done > most:
        raise CellFailure(
            FailureKind.QUANTIZER,
            f"{tool} quantized {done} layers, at most {most} were asked for: layers may have other names once they are "
            "loaded, so that scheme.ignore did not reach them; give a regex (re:...) that fits both names",
            log_tail=tail(log),
        )


def _keep(out: Path, view: Path, work: Path) -> list[str]:
    """Move what the worker wrote into the artefact, with the checkpoint's own tokenizer; returns names, weights first.

    Raises CellFailure when the worker wrote nothing.
    """
    written = sorted(file for file in out.iterdir() if file.is_file()) if out.is_dir() else []
    for file in written:
        file.rename(work / file.name)
    own = [file for file in sorted(view.iterdir()) if _TOKENIZER.fullmatch(file.name)]
    for file in own:
        shutil.copyfile(file, work / file.name)
    names = {file.name for file in [*written, *own]}
    return sorted(names, key=lambda name: (not name.endswith(".safetensors"), name))


def _write_sketch(scratch: Path, work: Path) -> dict[str, Any]:
    """The sketch of the text that was used; of all that was given to a worker that does not tell what it used."""
    from quantize.sketch import write_sketch

    used = scratch / _USED
    lines = (used if used.is_file() else scratch / _SAMPLES).read_text(encoding="utf-8").split("\n")
    rows = [json.loads(line) for line in lines if line]
    return write_sketch(work, [text for row in rows for text in texts_of(row)])


def texts_of(row: Mapping[str, Any]) -> list[str]:
    """The texts of a calibration sample: its own, or those of its messages."""
    if isinstance(row.get("text"), str):
        return [row["text"]]
    said = [message.get("content") for message in row.get("messages", ()) if isinstance(message, dict)]
    return [content for content in said if isinstance(content, str)]


def _refuse_full_disk(work: Path, layers: LayerInventory, bits: float, label: str) -> None:
    """Refuse before the work begins when the tensors alone would not fit."""
    needed = int(layers.parameters * bits / 8) + layers.rest * _PLAIN_BYTES
    free = shutil.disk_usage(work).free
    if free < needed:
        raise CellFailure(
            FailureKind.DISK_FULL,
            f"{label} takes about {needed >> 20} MiB of disk, {free >> 20} MiB are free; free some space",
        )


_UNTOLD = frozenset({"kind", "toolchain", "max_divergence", "threads", "group_size", "devices", "activations_on"})


def _changed(config: Any, titled: frozenset[str] = frozenset()) -> list[str]:
    """`name=value` of every field that differs from its default and that a label's beginning does not tell."""
    told: list[str] = []
    for item in dataclasses.fields(config):
        if item.name in _UNTOLD or item.name in titled:
            continue
        value = getattr(config, item.name)
        made = item.default_factory
        default = item.default if made is dataclasses.MISSING else made()
        if value == default:
            continue
        if dataclasses.is_dataclass(value):
            told += _changed(value)
        else:
            told.append(f"{item.name}={_shown(value)}")
    return told


def _shown(value: Any) -> str:
    """A value as labels show it: lists by their entries, paths by their last part."""
    if isinstance(value, list):
        return "+".join(str(entry) for entry in value)
    if isinstance(value, bool):
        return str(value).lower()
    return str(value).rsplit("/", 1)[-1]
