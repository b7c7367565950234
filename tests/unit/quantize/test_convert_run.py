"""Quantizing a Hugging Face folder, with programs of ours in the places of the converter and of llama-quantize."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from bench.base.errors import CellFailure, FailureKind, UsageError
from bench.base.progress import Progress
from quantize.artefact import Artefact
from quantize.models import LocalConfig
from quantize.run import quantize
from quantize.schemes.gguf import GgufConfig, GgufType
from tests.unit.quantize.gguf_writer import gguf_bytes
from tests.unit.quantize.safetensors_writer import write_safetensors
from tests.unit.quantize.test_quantize_run import Bench

CONVERTER = """\
import json, os, pathlib, sys
view = pathlib.Path(sys.argv[-1])
with open({calls!r}, "a") as stream:
    print(json.dumps([*sys.argv[1:], *sorted(os.listdir(view))]), file=stream)
for percent in (0, 40, 100):
    print(f"\\rWriting: {{percent:3d}}%|##", end="", file=sys.stderr, flush=True)
said = {said!r}
if said:
    sys.exit("\\n" + said)
pathlib.Path("model.gguf").write_bytes(pathlib.Path({written!r}).read_bytes())
"""


class ConvertBench(Bench):
    """A folder as the source, and a toolchain whose converter is CONVERTER."""

    def __init__(self, root: Path) -> None:
        super().__init__(root)
        self.folder = root / "my-model"
        self.folder.mkdir()
        (self.folder / "config.json").write_text("{}", encoding="utf-8")
        self.store("BF16")
        self.converter()

    def store(self, kind: str, **more: tuple[str, tuple[int, ...]]) -> None:
        write_safetensors(self.folder / "model.safetensors", {"a": (kind, (32, 4)), "norm": ("F32", (32,)), **more})

    def converter(self, said: str = "", written: bytes | None = None) -> None:
        result = self.root / "converted.gguf"
        result.write_bytes(gguf_bytes((("output.weight", (32, 4), 1),)) if written is None else written)
        script = self.root / "source" / "convert_hf_to_gguf.py"
        script.parent.mkdir(exist_ok=True)
        text = CONVERTER.format(calls=str(self.root / "conversions.log"), said=said, written=str(result))
        script.write_text(text, encoding="utf-8")

    @property
    def conversions(self) -> list[list[str]]:
        log = self.root / "conversions.log"
        return [json.loads(line) for line in log.read_text().splitlines()] if log.exists() else []

    def convert(self, kind: GgufType) -> Artefact:
        return quantize(
            LocalConfig(path=str(self.folder)),
            GgufConfig(type=kind, threads=3),
            cache=self.cache,
            progress=Progress(self.events.append),
            toolchains=self,
        )


@pytest.fixture
def tools(tmp_path: Path) -> ConvertBench:
    return ConvertBench(tmp_path)


def manifest_of(tools: ConvertBench, key: str) -> dict[str, Any]:
    manifest: dict[str, Any] = json.loads((tools.cache / "artefacts" / key / "manifest.json").read_text())
    return manifest


def test_all_types_are_made_from_one_conversion(tools: ConvertBench) -> None:
    first, second = tools.convert(GgufType.Q8_0), tools.convert(GgufType.F16)
    (conversion,) = tools.conversions
    assert conversion[:4] == ["--outtype", "bf16", "--model-name=my-model", "--outfile"]
    assert conversion[6:] == ["config.json", "model.safetensors"]
    master = manifest_of(tools, first.manifest["made_from"])
    assert second.manifest["made_from"] == master["key"]
    assert master["command"] == [
        "convert_hf_to_gguf.py", "--outtype", "bf16", "--model-name=my-model", "--outfile", "model.gguf", "my-model",
    ]  # fmt: skip
    assert master["toolchain"]["lock_hash"] == "lock of llama_cpp_convert"
    assert first.manifest["toolchain"]["lock_hash"] == "lock of llama_cpp"
    assert first.manifest["command"][2] == "converted/model.gguf"
    assert [Path(call[1]).parent.name for call in tools.calls] == [master["key"]] * 2
    assert master["peak_rss_bytes"] > 0
    assert (100, 100, "%") in [(event.done, event.total, event.unit) for event in tools.events]
    assert str(tools.root) not in json.dumps(master)
    assert not (tools.cache / "artefacts" / master["key"] / "view").exists()


@pytest.mark.parametrize(
    ("kind", "outtype", "warning"),
    [
        ("BF16", "bf16", None),
        ("F16", "f16", None),
        ("F32", "f32", None),
        ("F8_E4M3", "bf16", "F8_E4M3 weights were dequantized; all types are made from bf16"),
    ],
)
def test_the_conversion_keeps_the_precision(tools: ConvertBench, kind: str, outtype: str, warning: str | None) -> None:
    tools.store(kind)
    made = tools.convert(GgufType.Q8_0)
    assert tools.conversions[0][1] == outtype
    assert len(made.manifest["warnings"]) == (warning is not None)
    assert warning is None or warning in made.manifest["warnings"][0]


def test_a_mixed_checkpoint_says_so_on_every_type(tools: ConvertBench) -> None:
    tools.store("BF16", gate=("F32", (32, 1)))
    (warning,) = tools.convert(GgufType.Q8_0).manifest["warnings"]
    assert warning == "the checkpoint is BF16 with 20 % F32 in its matrices; all types are made from bf16"


def test_what_the_converter_packed_goes_through_f16(tools: ConvertBench) -> None:
    tools.converter(written=gguf_bytes((("output.weight", (32, 4), 8),)))
    tools.convert(GgufType.Q4_0)
    assert [call[3] for call in tools.calls] == ["F16", "Q4_0"]


TRACEBACK = "Traceback (most recent call last):\n  File 'x'\n"


@pytest.mark.parametrize(
    ("said", "kind", "expected"),
    [
        (
            "ERROR:hf-to-gguf:Model XForCausalLM is not supported",
            FailureKind.QUANTIZER,
            "the architecture XForCausalLM",
        ),
        (
            f"{TRACEBACK}NotImplementedError: BPE pre-tokenizer was not recognized - update get_vocab_base_pre()",
            FailureKind.QUANTIZER,
            "does not know this model's tokenizer",
        ),
        (f"{TRACEBACK}ValueError: Can not map tensor 'model.x'", FailureKind.QUANTIZER, "no place for: model.x$"),
        (
            f"{TRACEBACK}KeyError: 'hidden_size'",
            FailureKind.QUANTIZER,
            "py exited with code 1: KeyError: 'hidden_size'",
        ),
        (f"{TRACEBACK}RuntimeError: can't allocate memory: 9 bytes", FailureKind.OUT_OF_MEMORY, "ran out of memory"),
        ("OSError: No space left on device", FailureKind.DISK_FULL, "the disk is full"),
    ],
)
def test_failures_are_typed_and_leave_nothing(tools: ConvertBench, said: str, kind: FailureKind, expected: str) -> None:
    tools.converter(said)
    with pytest.raises(CellFailure, match=expected) as caught:
        tools.convert(GgufType.Q8_0)
    assert caught.value.kind is kind
    assert said in caught.value.log_tail
    assert "\n" not in str(caught.value)
    assert tools.artefacts == []
    assert tools.calls == []
    tools.converter()
    assert tools.convert(GgufType.Q8_0).manifest["label"] == "Q8_0"


def test_a_broken_conversion_is_told(tools: ConvertBench) -> None:
    tools.converter(written=b"GGUF")
    with pytest.raises(CellFailure, match=r"convert_hf_to_gguf\.py wrote no model"):
        tools.convert(GgufType.Q8_0)
    assert tools.artefacts == []


def test_damaged_weights_are_told_before_the_work(tools: ConvertBench) -> None:
    (tools.folder / "model.safetensors").write_bytes(b"version https://git-lfs")
    with pytest.raises(UsageError, match=r"model\.safetensors: is not a safetensors file"):
        tools.convert(GgufType.Q8_0)
    assert tools.conversions == []


def test_too_little_space_is_said_before_the_work(tools: ConvertBench, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("shutil.disk_usage", lambda _: type("Usage", (), {"free": 10})())
    with pytest.raises(CellFailure, match="the bf16 conversion takes about") as caught:
        tools.convert(GgufType.Q8_0)
    assert caught.value.kind is FailureKind.DISK_FULL
    assert tools.conversions == []
