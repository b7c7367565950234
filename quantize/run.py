"""Quantize: a model and a scheme to an artefact, made once per machine."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any, Protocol

from bench.base.clock import utc_now
from bench.base.files import write_json
from bench.base.hashing import DigestCache, canonical_json, key_of, sha256_file
from bench.base.progress import Progress
from bench.base.schema import identity
from bench.store.artefacts import MANIFEST, ArtefactStore
from bench.toolchains.toolchain import Toolchain
from quantize.artefact import SKETCH_FILE, Artefact
from quantize.models import ModelConfig
from quantize.schemes.base import Job, Product, SchemeConfig
from quantize.source import Source, resolve

__all__ = [
    "Artefact",
    "ConfiguredToolchains",
    "Toolchains",
    "artefact_key",
    "quantize",
    "quantize_source",
    "scheme_key",
]

SCHEMA_VERSION = 1
LOG_FILE = "quantize.log"


class Toolchains(Protocol):
    """Where environments come from."""

    def lock(self, name: str) -> str:
        """The lock hash of toolchain `name`, without making it."""
        ...

    def ensure(self, name: str, progress: Progress) -> Toolchain:
        """Toolchain `name`, made first when it is not there."""
        ...


class ConfiguredToolchains:
    """Toolchains as `conf/toolchain` describes them."""

    def lock(self, name: str) -> str:
        from bench.toolchains.config import load_toolchain_config
        from bench.toolchains.ensure import lock_hash

        return lock_hash(load_toolchain_config(name))

    def ensure(self, name: str, progress: Progress) -> Toolchain:
        from bench.toolchains.config import load_toolchain_config
        from bench.toolchains.ensure import ensure

        return ensure(load_toolchain_config(name), progress=progress)


def artefact_key(
    scheme: SchemeConfig, source_digest: str, toolchain_lock: str, calibration_digest: str | None = None
) -> str:
    """What makes two artefacts the same one: worker version, scheme, source, calibration and toolchain."""
    return key_of(
        {
            "worker": scheme.worker_version,
            "scheme": identity(scheme),
            "source": source_digest,
            "calibration": calibration_digest,
            "toolchain": toolchain_lock,
        }
    )


def scheme_key(source: Source, scheme: SchemeConfig, toolchains: Toolchains) -> str:
    """The key of `scheme` over `source`, without making anything.

    Where another artefact is read in the source's place, its key takes the place of the source's digest.
    """
    prior = scheme.prior(source)
    digest = source.digest if prior is None else f"artefact:{scheme_key(source, prior, toolchains)}"
    lock = toolchains.lock(scheme.toolchain) if scheme.toolchain else ""
    return artefact_key(scheme, digest, lock, scheme.calibration_digest())


def quantize(
    model: ModelConfig,
    scheme: SchemeConfig,
    *,
    cache: Path,
    progress: Progress,
    toolchains: Toolchains | None = None,
) -> Artefact:
    """The variant of `model` under `scheme`: from `cache` when it is there, else made now.

    Raises UsageError for bad input, ToolchainError when the environment cannot be made, CellFailure when the
    quantizer fails. A failure or a kill leaves no half artefact.
    """
    if not scheme.holds_weights:
        return _served_elsewhere(model, scheme, cache)
    source = resolve(model, cache=cache, progress=progress)
    return quantize_source(source, scheme, cache=cache, progress=progress, toolchains=toolchains)


def quantize_source(
    source: Source,
    scheme: SchemeConfig,
    *,
    cache: Path,
    progress: Progress,
    toolchains: Toolchains | None = None,
) -> Artefact:
    """`quantize` for a source that is already resolved."""
    provider = toolchains or ConfiguredToolchains()
    store = ArtefactStore(cache / "artefacts")
    key = scheme_key(source, scheme, provider)
    found = _cached(store, key)
    if found is not None and scheme.is_intact(source, found):
        progress.say(f"{scheme.label}: already made ({key})")
        return found
    scheme.check(source)
    scheme.check_machine()
    toolchain = provider.ensure(scheme.toolchain, progress) if scheme.toolchain else None
    with store.making(key) as work:
        found = _cached(store, key)
        if found is None or not scheme.is_intact(source, found):
            progress.say(f"quantizing {source.name} to {scheme.label}")
            job = Job(
                source=source,
                environment=toolchain,
                work=work,
                log=work / LOG_FILE,
                progress=progress,
                make=lambda other: quantize_source(source, other, cache=cache, progress=progress, toolchains=provider),
            )
            product = scheme.launch(job)
            digests = DigestCache(cache / "sources" / "digests.json")
            manifest = _manifest(scheme, job, product, digests)
            write_json(work / MANIFEST, {"schema_version": SCHEMA_VERSION, "key": key, **manifest})
    made = _cached(store, key)
    assert made is not None, "an artefact exists once its manifest was written"
    return made


def _served_elsewhere(model: ModelConfig, scheme: SchemeConfig, cache: Path) -> Artefact:
    """A variant of which nothing is here; it is named after the model that the user says it is."""
    key = key_of({"scheme": identity(scheme), "model": dataclasses.asdict(model)})
    unknown = (
        *("size_bytes", "parameters", "effective_bits_per_weight", "command", "made_from", "calibration", "packing"),
        *("quantized_layers", "group_size", "toolchain", "wall_s", "cpu_s", "peak_rss_bytes", "peak_gpu_bytes"),
        *("load_method", "loaded_bytes"),
    )
    manifest: dict[str, Any] = {
        "key": key,
        "label": scheme.label,
        "format": scheme.format,
        "scheme": _recorded(scheme),
        "model": {"name": model.name or model.kind, "digest": None, "license": None, "notes": [], "origin": None},
        "files": [],
        "tensor_types": [],
        "skipped_layers": [],
        "warnings": ["the weights are not known: a server that others run holds them"],
        **dict.fromkeys(unknown),
        "created": utc_now(),
    }
    return Artefact(key=key, directory=ArtefactStore(cache / "artefacts").directory(key), manifest=manifest)


def _cached(store: ArtefactStore, key: str) -> Artefact | None:
    manifest = store.manifest(key)
    return None if manifest is None else Artefact(key=key, directory=store.directory(key), manifest=manifest)


def _manifest(scheme: SchemeConfig, job: Job, product: Product, digests: DigestCache) -> dict[str, Any]:
    source = job.source
    files = [_file_entry(job.work, name, digests) for name in product.files]
    return {
        "label": product.label or scheme.label,
        "format": product.format,
        "scheme": _recorded(scheme),
        "model": {
            "name": source.name,
            "digest": source.digest,
            "license": source.license,
            "notes": list(source.notes),
            "origin": source.origin,
        },
        "files": files,
        # What an engine loads: the sketch of the calibration text is not of the model.
        "size_bytes": sum(file["size_bytes"] for file in files if file["path"] != SKETCH_FILE),
        "parameters": product.parameters,
        "effective_bits_per_weight": product.effective_bits_per_weight,
        "tensor_types": list(product.tensor_types),
        "warnings": list(product.warnings),
        "command": list(product.command),
        "made_from": product.made_from,
        "calibration": product.calibration,
        "packing": product.packing or scheme.packing,
        "quantized_layers": product.quantized_layers,
        "skipped_layers": list(product.skipped_layers),
        "group_size": product.group_size,
        "toolchain": None if job.environment is None else job.environment.describe(),
        "wall_s": product.wall_s,
        "cpu_s": product.cpu_s,
        "peak_rss_bytes": product.peak_rss_bytes,
        "peak_gpu_bytes": product.peak_gpu_bytes,
        "load_method": scheme.load_method or None,
        "loaded_bytes": product.loaded_bytes,
        "created": utc_now(),
    }


def _recorded(scheme: SchemeConfig) -> dict[str, Any]:
    """The scheme's settings; of a calibration set the name and not the path on this machine."""
    settings: dict[str, Any] = json.loads(canonical_json(scheme))
    calibration = getattr(scheme, "calibration", None)
    if calibration is not None and isinstance(settings.get("calibration"), dict):
        settings["calibration"]["text"] = calibration.name
    return settings


def _file_entry(work: Path, name: str, digests: DigestCache) -> dict[str, Any]:
    """A file as the manifest lists it; the content behind a link is digested once, not for every artefact."""
    file = work / name
    sha256 = digests.digest(file) if file.is_symlink() else sha256_file(file)
    return {"path": name, "size_bytes": file.stat().st_size, "sha256": sha256}
