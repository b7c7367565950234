"""The harness side of importance matrices, with programs of ours in the places of llama.cpp's."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import struct
import sys
from pathlib import Path
from typing import Any

import pytest

from bench.base.compose import compose
from bench.base.errors import CellFailure, FailureKind, UsageError
from bench.base.progress import Progress
from bench.base.schema import identity
from bench.pipeline.schemas import register_all
from bench.plan.config import RunConfig
from bench.plan.plan import plan
from quantize.artefact import Artefact
from quantize.calibration import CalibrationConfig
from quantize.models import LocalConfig
from quantize.run import quantize
from quantize.schemes.gguf import IGNORE_IMATRIX, NEED_IMATRIX, GgufConfig, GgufType
from tests.support import CHECKOUT
from tests.unit.quantize.gguf_writer import UINT32, gguf_bytes, pair
from tests.unit.quantize.test_quantize_run import Bench

register_all()

PROGRAM = """\
#!{python}
import json, os, pathlib, sys
with open({calls!r}, "a") as stream:
    print(json.dumps(sys.argv), file=stream)
said = {said!r}
if said:
    sys.exit(said)
if "llama-imatrix" in sys.argv[0]:
    assert pathlib.Path(sys.argv[4]).read_text(encoding="utf-8")
    print("[1]27.0112,[2]28.1752,", flush=True)
    out = sys.argv[6]
else:
    if "--imatrix" in sys.argv:
        assert pathlib.Path(sys.argv[sys.argv.index("--imatrix") + 1]).read_bytes()[:4] == b"GGUF"
        print("\\n====== llama_model_quantize_impl: did not find weights for token_embd.weight")
        print("\\n====== llama_model_quantize_impl: did not find weights for blk.0.ffn_up_exps.weight")
    out = sys.argv[-3]
pathlib.Path(out).write_bytes(pathlib.Path({written!r}).read_bytes())
"""


class ImatrixBench(Bench):
    """Programs that write what they are told, a matrix of three chunks of 512 tokens among it."""

    def __init__(self, root: Path) -> None:
        super().__init__(root)
        pairs = [
            pair(f"imatrix.chunk_{name}", UINT32, struct.pack("<I", n)) for name, n in (("count", 3), ("size", 512))
        ]
        self.matrix = gguf_bytes(pairs=pairs)
        self.programs()

    def programs(self, *, imatrix_says: str = "", matrix: bytes | None = None) -> None:
        for name, said, written in (
            ("llama-quantize", "", gguf_bytes()),
            ("llama-imatrix", imatrix_says, self.matrix if matrix is None else matrix),
        ):
            result = self.root / f"{name}.out"
            result.write_bytes(written)
            program = self.root / "bin" / name
            program.write_text(
                PROGRAM.format(python=sys.executable, calls=str(self.calls_log), said=said, written=str(result)),
                encoding="utf-8",
            )
            program.chmod(0o755)

    def runs(self, name: str) -> list[list[str]]:
        lines = self.calls_log.read_text().splitlines() if self.calls_log.exists() else []
        return [call[1:] for call in map(json.loads, lines) if Path(call[0]).name == name]

    def make(self, kind: GgufType = GgufType.Q4_0, **calibration: Any) -> Artefact:
        return quantize(
            LocalConfig(path=str(self.source)),
            GgufConfig(type=kind, threads=3, imatrix=True, calibration=CalibrationConfig(**calibration)),
            cache=self.cache,
            progress=Progress(self.events.append),
            toolchains=self,
        )


@pytest.fixture
def tools(tmp_path: Path) -> ImatrixBench:
    return ImatrixBench(tmp_path)


def test_one_matrix_of_the_unquantized_model_guides_all_types(tools: ImatrixBench) -> None:
    first, second = tools.make(GgufType.Q4_0), tools.make(GgufType.IQ4_NL)
    ((flag, model, *options),) = tools.runs("llama-imatrix")
    assert flag == "-m"
    text = CHECKOUT / "quantize" / "texts" / "calibration.txt"
    digest = hashlib.sha256(text.read_bytes()).hexdigest()
    expected = ["-f", f"calibration-{digest[:16]}.txt", "-o", "imatrix.gguf", "-c", "512", "-t", "3"]
    assert options == expected
    master, quantized, _ = tools.runs("llama-quantize")
    assert master[-2] == "F16"
    assert Path(model).parent.name == Path(quantized[3]).parent.name == first.manifest["made_from"]
    assert quantized[:3] == ["--allow-requantize", "--imatrix", "imatrix.gguf"]
    assert (first.label, second.label) == ("Q4_0 imatrix", "IQ4_NL imatrix")
    calibration = first.manifest["calibration"]
    assert second.manifest["calibration"] == calibration
    matrix, sketch = calibration.pop("matrix"), calibration.pop("sketch")
    assert calibration == {
        "name": "default",
        "digest": f"sha256:{digest}",
        "context": 512,
        "chunks": 3,
        "tokens": 1536,
        "chat_template": False,
        "seed": None,
    }
    assert (sketch["file"], sketch["words"], sketch["sampled_every"]) == ("calibration_sketch.npy", 8, 1)
    assert sketch["hashes"] > 2000
    assert [entry["path"] for entry in first.manifest["files"]] == ["model.gguf", "calibration_sketch.npy"]
    assert first.manifest["size_bytes"] == first.manifest["files"][0]["size_bytes"], "the model alone"
    folder = tools.cache / "artefacts" / matrix
    manifest = json.loads((folder / "manifest.json").read_text())
    assert manifest["command"] == ["llama-imatrix", "-m", "F16/model.gguf", *expected]
    assert {file.name for file in folder.iterdir()} == {"imatrix.gguf", "manifest.json", "quantize.log"}
    assert {file.name for file in first.directory.iterdir()} == {
        *("model.gguf", "calibration_sketch.npy", "manifest.json", "quantize.log"),
    }
    assert str(tools.root) not in json.dumps([manifest, first.manifest])
    assert (2, None, "chunks") in [(event.done, event.total, event.unit) for event in tools.events]
    (warning,) = first.manifest["warnings"]
    assert warning.startswith("1 tensors were quantized without importance, first blk.0.ffn_up_exps.weight: ")


def test_text_and_chunks_make_another_matrix_and_another_place_does_not(tools: ImatrixBench, tmp_path: Path) -> None:
    for folder in ("here", "there"):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "mine.txt").write_text("So many words.", encoding="utf-8")
    mine = tools.make(text=str(tmp_path / "here" / "mine.txt"))
    assert mine.manifest["calibration"]["name"] == "mine.txt"
    assert tools.make(text=str(tmp_path / "there" / "mine.txt")).key == mine.key
    keys = {mine.key, tools.make().key, tools.make(chunks=2).key, tools.make(context=128).key}
    assert len(keys) == len(tools.runs("llama-imatrix")) == 4
    (tmp_path / "here" / "mine.txt").write_text("Other words.", encoding="utf-8")
    assert tools.make(text=str(tmp_path / "here" / "mine.txt")).key not in keys


def test_what_the_matrix_cannot_be_made_of_is_one_line(tools: ImatrixBench, tmp_path: Path) -> None:
    tools.programs(
        imatrix_says="0.1 E compute_imatrix: you need at least 1024 tokens for a context of 512 tokens\n"
        "0.1 E compute_imatrix: the data file you provided tokenizes to only 221 tokens"
    )
    with pytest.raises(UsageError, match="'default' has 221 tokens, 2 chunks of 512 are needed"):
        tools.make()
    tools.programs(imatrix_says="0.1 E main : failed to init")
    with pytest.raises(CellFailure, match=r"llama-imatrix exited with code 1: .*failed to init") as caught:
        tools.make()
    assert caught.value.kind is FailureKind.QUANTIZER
    tools.programs(matrix=gguf_bytes())
    with pytest.raises(CellFailure, match="llama-imatrix wrote no matrix"):
        tools.make()
    tools.programs()
    with pytest.raises(UsageError, match="chunks=9: the text 'default' has 3 chunks of 512 tokens"):
        tools.make(chunks=9)
    (tmp_path / "latin.txt").write_bytes(b"caf\xe9 au lait")
    (tmp_path / "empty.txt").write_text(" \n")
    for name, expected in (("latin", "not UTF-8 text \\(byte 3\\)"), ("empty", "is empty"), ("no", "there is no file")):
        with pytest.raises(UsageError, match=expected) as refused:
            tools.make(text=str(tmp_path / f"{name}.txt"))
        assert "\n" not in str(refused.value)


@pytest.mark.parametrize(
    ("overrides", "expected"),
    [
        (["scheme.type=IQ2_XS"], "scheme.type=IQ2_XS needs an importance matrix; add scheme.imatrix=true"),
        (["scheme.type=F16", "scheme.imatrix=true"], "F16 makes no use of an importance matrix"),
        (["scheme.calibration.chunks=3"], "used for an importance matrix only"),
        (["scheme.imatrix=true", "scheme.calibration.context=1"], "context=1 must be"),
    ],
)
def test_settings_that_make_no_sense_together_are_refused(overrides: list[str], expected: str) -> None:
    with pytest.raises(UsageError, match=expected):
        compose("run", ["scheme=gguf", "scheme.type=Q4_0", *overrides], RunConfig)


def test_every_type_has_a_config_that_composes() -> None:
    for kind in GgufType:
        needed = ["scheme.imatrix=true"] if kind in NEED_IMATRIX else []
        assert compose("run", ["scheme=gguf", f"scheme.type={kind}", *needed], RunConfig).scheme.label
    assert not NEED_IMATRIX & IGNORE_IMATRIX


def test_a_plan_tells_the_two_apart_and_old_identities_stay() -> None:
    cells = plan(["scheme=gguf_q4_k_m,gguf_q4_k_m_imatrix"], multirun=True).cells
    assert [cell.label for cell in cells] == ["Q4_K_M · llama_cpp", "Q4_K_M imatrix · llama_cpp"]
    scheme = GgufConfig(type=GgufType.Q4_0)
    assert identity(scheme) == {"kind": "gguf", "type": "Q4_0"}
    guided = dataclasses.replace(scheme, imatrix=True, calibration=CalibrationConfig(text="elsewhere.txt"))
    assert identity(guided) == {"kind": "gguf", "type": "Q4_0", "imatrix": True}
    chunked = dataclasses.replace(guided, calibration=CalibrationConfig(chunks=2))
    assert identity(chunked)["calibration"] == {"context": 512, "chunks": 2}
