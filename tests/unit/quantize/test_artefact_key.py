"""Golden keys: when one of these changes, every artefact on every machine is made again. Mean it."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest

from bench.base.progress import Progress
from bench.toolchains.toolchain import Toolchain
from quantize.run import Toolchains, artefact_key, scheme_key
from quantize.schemes.gguf import GgufConfig, GgufType
from quantize.schemes.gguf_converted import ConvertedConfig
from quantize.schemes.gguf_imatrix import ImatrixConfig
from quantize.source import Source, SourceFormat

SOURCE = "sha256:" + "5" * 64
LOCK = "7" * 64


@pytest.mark.parametrize(
    ("kind", "key"),
    [(GgufType.F16, "1ce4caa917bdf593"), (GgufType.Q8_0, "a200533dd227c4fd"), (GgufType.Q4_K_M, "3b701c1c663c0866")],
)
def test_golden(kind: GgufType, key: str) -> None:
    assert artefact_key(GgufConfig(type=kind), SOURCE, LOCK) == key


def test_golden_with_an_importance_matrix() -> None:
    guided = GgufConfig(type=GgufType.Q4_K_M, imatrix=True)
    assert artefact_key(guided, SOURCE, LOCK, "sha256:calibration") == "bdca38e2d11879bb"
    assert artefact_key(ImatrixConfig(), SOURCE, LOCK, "sha256:calibration") == "fe7d319d7dba39f9"


def source(form: SourceFormat) -> Source:
    return Source(path=Path("anywhere"), format=form, digest=SOURCE, name="m")


def locks(**changed: str) -> Toolchains:
    """Toolchains that are only ever asked for their locks."""

    class Locks:
        def lock(self, name: str) -> str:
            return {"llama_cpp": LOCK, "llama_cpp_convert": "8" * 64, **changed}[name]

        def ensure(self, name: str, progress: Progress) -> Toolchain:
            raise AssertionError("a key makes nothing")

    return Locks()


def test_golden_over_a_gguf_and_over_a_hugging_face_folder() -> None:
    """The converter's lock is in the keys of what is made from a folder, and in no other."""
    scheme = GgufConfig(type=GgufType.Q8_0)
    assert scheme_key(source(SourceFormat.gguf), scheme, locks()) == artefact_key(scheme, SOURCE, LOCK)
    assert scheme_key(source(SourceFormat.hf), ConvertedConfig(), locks()) == "d29e4a3015107eaa"
    assert scheme_key(source(SourceFormat.hf), scheme, locks()) == "73f2e1fa90814d8a"
    for form, same in ((SourceFormat.gguf, True), (SourceFormat.hf, False)):
        other = scheme_key(source(form), scheme, locks(llama_cpp_convert="other"))
        assert (other == scheme_key(source(form), scheme, locks())) is same
    named = dataclasses.replace(scheme, converter="my_converter")
    renamed = scheme_key(source(SourceFormat.hf), named, locks(my_converter="8" * 64))
    assert renamed == "73f2e1fa90814d8a"


def test_what_does_not_change_the_bytes_does_not_change_the_key() -> None:
    scheme = GgufConfig(type=GgufType.Q8_0)
    key = artefact_key(scheme, SOURCE, LOCK)
    for changed in ({"threads": 7}, {"max_divergence": 0.01}, {"toolchain": "llama_cpp_existing"}):
        assert artefact_key(dataclasses.replace(scheme, **changed), SOURCE, LOCK) == key


def test_what_changes_the_bytes_changes_the_key(monkeypatch: pytest.MonkeyPatch) -> None:
    scheme = GgufConfig(type=GgufType.Q8_0)
    keys = {
        artefact_key(scheme, SOURCE, LOCK),
        artefact_key(dataclasses.replace(scheme, type=GgufType.Q4_0), SOURCE, LOCK),
        artefact_key(scheme, "sha256:other", LOCK),
        artefact_key(scheme, SOURCE, "other"),
        artefact_key(scheme, SOURCE, LOCK, "sha256:calibration"),
    }
    monkeypatch.setattr(GgufConfig, "worker_version", 99)
    keys.add(artefact_key(scheme, SOURCE, LOCK))
    assert len(keys) == 6
