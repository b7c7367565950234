"""What every calibrated scheme records of its samples, with a worker of ours that only turns them into tokens."""

from __future__ import annotations

import hashlib
import json
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from bench.base.progress import Progress
from bench.toolchains.toolchain import Toolchain
from quantize.artefact import Artefact
from quantize.models import LocalConfig
from quantize.packed import Contents
from quantize.run import quantize
from quantize.samples import SampleSetConfig
from quantize.schemes import hf
from quantize.schemes.base import discover
from quantize.schemes.fp8 import Fp8Activations, Fp8Config
from quantize.schemes.hf import HfSchemeConfig
from quantize.schemes.int8 import Int8Config, Int8Method
from quantize.sketch import calibration_text
from quantize.workers.calibration_tokens import token_windows
from tests.unit.quantize.test_layers import LLAMA, checkpoint

discover()

#: Rows of 13 words, no word in two of them.
ROWS = [" ".join(f"word{place}of{number}" for place in range(13)) for number in range(20)]
#: Settings of schemes that look at samples with some settings only.
CALIBRATING: dict[type[HfSchemeConfig], dict[str, Any]] = {
    Fp8Config: {"activations": Fp8Activations.static},
    Int8Config: {"method": Int8Method.smoothquant_gptq},
}


def below(base: type[HfSchemeConfig]) -> Iterator[type[HfSchemeConfig]]:
    """All classes that derive from `base`; one of several bases comes several times."""
    for scheme in base.__subclasses__():
        yield scheme
        yield from below(scheme)


#: Every scheme of this kind that takes a calibration set.
SCHEMES = [
    scheme
    for scheme in dict.fromkeys(below(HfSchemeConfig))
    if scheme.kind != "?" and "calibration" in scheme.__dataclass_fields__
]


class Words:
    """A tokenizer: each word is a token, and the template puts a word before each message."""

    def __init__(self) -> None:
        self.known: list[str] = []
        self.chat_template = "some"

    def __call__(self, text: str, *, add_special_tokens: bool) -> dict[str, list[int]]:
        return {"input_ids": [self._id(word) for word in text.split()]}

    def _id(self, word: str) -> int:
        if word not in self.known:
            self.known.append(word)
        return self.known.index(word)

    def apply_chat_template(self, messages: list[dict[str, str]], *, tokenize: bool) -> str:
        return " ".join(f"{message['role']}: {message['content']}" for message in messages)

    def decode(self, ids: list[int], **_: Any) -> str:
        return " ".join(self.known[token] for token in ids)


class Provider:
    """Toolchains that are our own Python."""

    def lock(self, name: str) -> str:
        return name

    def ensure(self, name: str, progress: Progress) -> Toolchain:
        return Toolchain(name=name, lock_hash=name, prefix=Path(sys.prefix), python=Path(sys.executable))


@pytest.fixture
def made(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """A maker of artefacts by schemes whose worker writes an empty checkpoint."""
    told: dict[str, Any] = {}

    def worker(_: Toolchain, __: Path, request: Mapping[str, Any], **___: Any) -> dict[str, Any]:
        out = Path(request["out"])
        out.mkdir()
        (out / "model.safetensors").write_bytes(b"")
        if told["tells"]:
            _ids, used = token_windows(Words(), dict(request["calibration"]))
        else:
            used = None
        usage = {"wall_s": 1.0, "cpu_s": 1.0, "peak_rss_bytes": 1}
        return {"usage": usage, "quantized_layers": 14, "skipped_layers": ["lm_head"], "calibration": used}

    monkeypatch.setattr(hf, "run_worker", worker)
    found = Contents(parameters=1, size_bytes=1, types=())
    monkeypatch.setattr(HfSchemeConfig, "_read_back", lambda *_: found)
    source = checkpoint(tmp_path / "model", LLAMA, architectures=["LlamaForCausalLM"], **SHAPE)

    def make(scheme: HfSchemeConfig, *, tells: bool = True) -> Artefact:
        told["tells"] = tells
        return quantize(
            LocalConfig(path=str(source)),
            scheme,
            cache=tmp_path / "cache",
            progress=Progress(),
            toolchains=Provider(),
        )

    return make


SHAPE = {"hidden_size": 256, "num_attention_heads": 4, "num_key_value_heads": 2, "num_hidden_layers": 2}


def sample_file(folder: Path) -> Path:
    path = folder / "mine.jsonl"
    path.write_text("".join(json.dumps({"text": row}) + "\n" for row in ROWS), encoding="utf-8")
    return path


@pytest.mark.parametrize("scheme", SCHEMES, ids=lambda scheme: scheme.kind)
def test_every_calibrated_scheme_records_its_samples(
    scheme: type[HfSchemeConfig], made: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(scheme, "check_machine", lambda *_: None)  # such as whether there is a GPU
    file = sample_file(tmp_path)
    samples = SampleSetConfig(text=str(file), samples=5, length=12, seed=3, chat_template=True)
    asked: Any = {**CALIBRATING.get(scheme, {}), "calibration": samples}
    artefact = made(scheme(**asked))
    record = artefact.manifest["calibration"]
    assert record["digest"] == f"sha256:{hashlib.sha256(file.read_bytes()).hexdigest()}.jsonl"
    assert record["samples_digest"].startswith("sha256:")
    expected = {"name": "mine.jsonl", "samples": 5, "length": 12, "seed": 3, "chat_template": True, "pieces": 5}
    assert {name: record[name] for name in expected} == expected
    assert record["tokens"] == 5 * 12
    assert str(tmp_path) not in json.dumps(record)
    sketch = record["sketch"]
    assert artefact.manifest["files"][-1]["path"] == sketch["file"] == "calibration_sketch.npy"
    assert (
        hashlib.sha256((artefact.directory / sketch["file"]).read_bytes()).hexdigest()
        == (artefact.manifest["files"][-1]["sha256"])
    )
    assert np.load(artefact.directory / sketch["file"], allow_pickle=False).shape == (sketch["hashes"],)


def test_there_are_such_schemes() -> None:
    assert {"fp8", "int8", "gptq", "awq", "nvfp4"} <= {scheme.kind for scheme in SCHEMES}


def test_the_sketch_is_of_what_was_used(made: Any, tmp_path: Path) -> None:
    """Five of the rows, cut after ten words; a worker that does not tell what it used has used all it was given."""
    file = sample_file(tmp_path)
    for tells, runs in ((True, 10 - 7), (False, 13 - 7)):
        samples = SampleSetConfig(text=str(file), samples=5, length=10, seed=int(tells))
        text = calibration_text(made(Fp8Config(activations=Fp8Activations.static, calibration=samples), tells=tells))
        assert text is not None
        assert text.sketch is not None
        assert text.sketch.hashes.size == 5 * runs
        shares = [text.sketch.overlap([row]).share for row in ROWS]
        assert sorted(share for share in shares if share) == pytest.approx([runs / 6] * 5)


def test_a_scheme_without_samples_records_none(made: Any) -> None:
    artefact = made(Fp8Config(), tells=False)
    assert artefact.manifest["calibration"] is None
    assert [file["path"] for file in artefact.manifest["files"]] == ["model.safetensors"]
    assert calibration_text(artefact) is None
