"""`convert-safetensors` on what torch really pickles, a malicious pickle among it."""

from __future__ import annotations

import dataclasses
import json
import subprocess
from pathlib import Path
from typing import Any

import pytest

from bench.base.errors import UsageError
from bench.base.progress import Progress, ProgressEvent
from bench.toolchains.toolchain import Toolchain
from bench.toolchains.worker import run_worker
from quantize.checkpoint import read_tensors
from quantize.convert_safetensors import convert
from quantize.models import LocalConfig
from quantize.run import ConfiguredToolchains
from quantize.source import resolve

pytestmark = pytest.mark.toolchains

WORKER = Path(__file__).with_name("pickled_checkpoint.py")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Maker:
    """Makes checkpoints with the toolchain's torch, below a folder of its own."""

    root: Path
    tools: Toolchain

    def ask(self, task: str, **request: Any) -> dict[str, Any]:
        asked = {"task": task, **request}
        work = self.root / "asked"
        return run_worker(
            self.tools, WORKER, asked, work_dir=work, log=work / "log", progress=Progress(), timeout_s=120
        )

    def llama(self, *, tied: bool) -> tuple[Path, list[str]]:
        folder = self.root / "llama"
        return folder, self.ask("llama", folder=str(folder), tied=tied)["names"]

    def folder(self, *, legacy: bool = False, **files: Any) -> Path:
        """`files`: names, with __ for a dot → tensors by name → their kind."""
        folder = self.root / "pickled"
        folder.mkdir()
        (folder / "config.json").write_text("{}", encoding="utf-8")
        paths = {str(folder / name.replace("__", ".")): content for name, content in files.items()}
        self.ask("save", files=paths, legacy=legacy, command=f"touch {self.root / 'RUN'}")
        return folder

    def others(self, folder: Path, originals: list[Path], **more: Any) -> dict[str, Any]:
        found = self.ask("compare", folder=str(folder), files=[str(file) for file in originals], **more)
        return {name: found[name] for name in ("stored", "other")}


@pytest.fixture
def maker(tmp_path: Path) -> Maker:
    return Maker(root=tmp_path, tools=ConfiguredToolchains().ensure("llmcompressor", Progress()))


def test_a_sharded_model_is_converted_and_loads_with_equal_weights(maker: Maker) -> None:
    folder, names = maker.llama(tied=True)
    events: list[ProgressEvent] = []
    made = convert(folder, progress=Progress(events.append))
    assert made.files == ("model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors")
    assert made.notes == ("lm_head.weight is the input embeddings and left out; whoever loads the model ties it",)
    originals = sorted(folder.glob("pytorch_model-*.bin"))
    stored = maker.others(made.folder, originals)
    assert stored == {"stored": [name for name in names if name != "lm_head.weight"], "other": ["lm_head.weight"]}
    loaded = maker.others(made.folder, originals, model=True)
    assert loaded == {"stored": names, "other": []}, "the output matrix is tied again"
    index = json.loads((made.folder / "model.safetensors.index.json").read_text())
    tensors = read_tensors(made.folder)
    assert sorted(index["weight_map"]) == sorted(tensor.name for tensor in tensors)
    assert index["metadata"]["total_size"] == sum(tensor.size_bytes for tensor in tensors) == made.size_bytes
    assert resolve(LocalConfig(path=str(made.folder)), cache=maker.root / "cache", progress=Progress()).format == "hf"
    assert [(event.done, event.total) for event in events if event.unit == "files"] == [(1, 2), (2, 2)]
    assert not [entry for entry in maker.root.iterdir() if entry.name.startswith(".")]


def test_shared_memory_that_nobody_ties_again_is_written_in_full(maker: Maker) -> None:
    folder, names = maker.llama(tied=False)
    made = convert(folder, progress=Progress())
    assert made.tensors == len(names)
    assert made.notes == ("1 tensors shared memory with others and were written in full, first lm_head.weight",)
    originals = sorted(folder.glob("pytorch_model-*.bin"))
    for model in (False, True):
        assert maker.others(made.folder, originals, model=model) == {"stored": names, "other": []}


@pytest.mark.parametrize("legacy", [False, True], ids=["zip", "before torch 1.6"])
def test_every_kind_of_tensor_comes_back_bit_for_bit(maker: Maker, legacy: bool) -> None:
    kinds = ["matrix", "not a number", "transposed", "scalar", "empty", "bool", "bf16", "c64", "parameter"]
    kinds += [] if legacy else ["f8"]  # which is younger than that format, and torch does not read it there
    folder = maker.folder(weights__pt={kind: kind for kind in kinds}, legacy=legacy)
    made = convert(folder, progress=Progress())
    assert (made.files, made.tensors) == (("model.safetensors",), len(kinds))
    assert maker.others(made.folder, [folder / "weights.pt"]) == {"stored": sorted(kinds), "other": []}


@pytest.mark.parametrize("legacy", [False, True], ids=["zip", "before torch 1.6"])
def test_a_malicious_pickle_is_refused_and_does_not_run(maker: Maker, legacy: bool) -> None:
    folder = maker.folder(pytorch_model__bin={"a": "matrix", "b": "malicious"}, legacy=legacy)
    with pytest.raises(UsageError) as caught:
        convert(folder, progress=Progress())
    assert str(caught.value) == (
        f"{folder}: pytorch_model.bin: holds code or objects, not only tensors: posix.system; nothing of it was run"
    )
    assert not (maker.root / "RUN").exists()
    assert sorted(entry.name for entry in maker.root.iterdir()) == ["asked", "pickled"], "no half folder is left"
    # The pickle is what it says: who loads it without care runs it.
    code = f"import torch; torch.load({str(folder / 'pytorch_model.bin')!r}, weights_only=False)"
    subprocess.run([str(maker.tools.python), "-I", "-c", code], env=maker.tools.environ(), check=True, timeout=60)
    assert (maker.root / "RUN").exists()


@pytest.mark.parametrize(
    ("files", "expected"),
    [
        ({"m__bin": "module"}, r"holds code or objects, not only tensors: torch\.nn\.modules\.linear\.Linear"),
        ({"m__bin": {"a": "matrix", "epoch": "number"}}, "not only tensors: 'epoch' is a int"),
        ({"m__bin": "matrix"}, "not only tensors: a Tensor in place of names"),
        ({"m__bin": {}}, "holds no tensors"),
        ({"m__bin": {"a": "sparse"}}, r"'a' is torch\.sparse_coo, which safetensors cannot hold"),
        ({"m__bin": {"a": "c128"}}, r"'a' is torch\.complex128, which safetensors cannot hold"),
        ({"m__bin": {"a": "bool"}, "n__bin": {"a": "bool"}}, "'a' is in another file too, so these are parts for"),
    ],
    ids=["a module", "a number", "no names", "nothing", "sparse", "a type", "parallel parts"],
)
def test_what_is_no_checkpoint_is_one_line(maker: Maker, files: dict[str, Any], expected: str) -> None:
    folder = maker.folder(**{f"pytorch_model_{name}": content for name, content in files.items()})
    with pytest.raises(UsageError, match=expected) as caught:
        convert(folder, progress=Progress())
    assert "\n" not in str(caught.value)
    assert not (maker.root / "pickled-safetensors").exists()


def test_damaged_files_are_named(maker: Maker) -> None:
    folder = maker.folder(pytorch_model__bin={"a": "matrix"})
    file = folder / "pytorch_model.bin"
    whole = file.read_bytes()
    for content, expected in (
        (whole[: len(whole) // 2], "torch cannot read it .*; copy or download it again"),
        (b"", "was not written by torch.save"),
        (b"version https://git-lfs.github.com/spec/v1\n", r"was not written by torch.save \(a Git LFS pointer"),
        (b"\x80\x04\x95garbage", "pytorch_model.bin: "),
    ):
        file.write_bytes(content)
        with pytest.raises(UsageError, match=expected) as caught:
            convert(folder, progress=Progress())
        assert "\n" not in str(caught.value)
