"""The harness side of `convert-safetensors`, with workers of ours in the place of the one over torch."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import textwrap
import time
from pathlib import Path

import pytest

from bench.base.errors import CellFailure, FailureKind, UsageError
from bench.base.progress import Progress
from bench.cli.main import main
from bench.toolchains.toolchain import Toolchain
from quantize import convert_safetensors
from quantize.checkpoint import conversion, read_weights
from quantize.convert_safetensors import convert, pickled_weights
from quantize.models import LocalConfig
from quantize.source import resolve
from tests.support import CHECKOUT

WORKER = """\
import json, pathlib, time

def run(request, progress):
    out = pathlib.Path(request["out"])
    for file in request["files"]:
        (out / file["name"]).write_bytes(pathlib.Path(file["path"]).read_bytes()[:1])
        {behaviour}
    (out / "request.json").write_text(json.dumps(request))
    return {{"tensors": 3, "size_bytes": 12, "cloned": ["b"], "left_out": ["lm_head.weight"]}}
"""
REFUSING = """\
class Refused(Exception):
    kind = "usage"

def run(request, progress):
    raise Refused("pytorch_model.bin: holds code or objects, not only tensors: posix.system; nothing of it was run")
"""


class Tools:
    """A toolchain whose Python is ours, and a checkpoint of two parts."""

    def __init__(self, root: Path) -> None:
        self.root, self.made = root, 0

    def lock(self, name: str) -> str:
        return name

    def ensure(self, name: str, progress: Progress) -> Toolchain:
        assert name == "llmcompressor"
        self.made += 1
        return Toolchain(name=name, lock_hash=name, prefix=self.root, python=Path(sys.executable))

    def worker(self, source: str = WORKER, behaviour: str = "pass") -> Path:
        path = self.root / "tools" / "worker.py"
        path.parent.mkdir(exist_ok=True)
        path.write_text(source.format(behaviour=behaviour) if source is WORKER else source, encoding="utf-8")
        return path


def checkpoint(folder: Path, **files: bytes) -> Path:
    folder.mkdir(parents=True)
    (folder / "config.json").write_text('{"tie_word_embeddings": true}', encoding="utf-8")
    for name, data in files.items():
        (folder / name.replace("__", ".")).write_bytes(data)
    return folder


@pytest.fixture
def tools(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Tools:
    made = Tools(tmp_path)
    monkeypatch.setattr(convert_safetensors, "_WORKER", made.worker())
    return made


def test_weights_are_renamed_and_only_data_is_copied(tools: Tools, tmp_path: Path) -> None:
    folder = checkpoint(tmp_path / "model", pytorch_model__bin=b"w", training_args__bin=b"t", optimizer__pt=b"o")
    for name in ("tokenizer.json", "tokenizer.model", "merges.txt", "chat_template.jinja", "LICENSE", "README.md"):
        (folder / name).write_text("{}", encoding="utf-8")
    for name in ("modeling_own.py", "tf_model.h5", ".hidden.json", "scaler.pt", "x.pkl", "LICENSE.py", "flax.msgpack"):
        (folder / name).write_text("{}", encoding="utf-8")
    made = convert(folder, progress=Progress(), toolchains=tools)
    assert made.folder == tmp_path / "model-safetensors"
    assert (made.files, made.tensors, made.size_bytes) == (("model.safetensors",), 3, 12)
    assert {file.name for file in made.folder.iterdir()} == {
        *("config.json", "tokenizer.json", "tokenizer.model", "merges.txt", "chat_template.jinja", "LICENSE"),
        *("README.md", "model.safetensors", "request.json"),
    }
    request = json.loads((made.folder / "request.json").read_text())
    assert request["tied"] is True
    assert any("lm_head.weight is the input embeddings" in note for note in made.notes)
    assert any("1 tensors shared memory" in note for note in made.notes)
    assert sorted(entry.name for entry in tmp_path.iterdir()) == ["model", "model-safetensors", "tools"]
    assert oct((made.folder / "model.safetensors").stat().st_mode & 0o777) == "0o644"


def test_what_the_index_names_is_converted_and_its_own_index_is_not_copied(tools: Tools, tmp_path: Path) -> None:
    folder = checkpoint(tmp_path / "model", b__bin=b"2", a__bin=b"1", pytorch_model__bin=b"0")
    index = {"weight_map": {"x": "b.bin", "y": "a.bin", "z": "b.bin"}}
    (folder / "pytorch_model.bin.index.json").write_text(json.dumps(index), encoding="utf-8")
    assert pickled_weights(folder) == [folder / "a.bin", folder / "b.bin"]
    made = convert(folder, tmp_path / "out", progress=Progress(), toolchains=tools)
    assert made.files == ("model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors")
    assert [(made.folder / name).read_bytes() for name in made.files] == [b"1", b"2"]
    assert not list(made.folder.glob("pytorch*"))


@pytest.mark.parametrize(
    ("index", "expected"),
    [
        ("[]", "is not an index of weights"),
        ("{", "is not an index of weights"),
        ('{"weight_map": {"x": "../secret.bin"}}', r"names '../secret\.bin', which is no file of this folder"),
        ('{"weight_map": {"x": "a.bin", "y": "b.bin"}}', "1 of 2 files of weights are missing, first b.bin"),
    ],
)
def test_an_index_that_cannot_be_used_is_one_line(index: str, expected: str, tmp_path: Path) -> None:
    folder = checkpoint(tmp_path / "model", a__bin=b"1")
    (tmp_path / "secret.bin").write_bytes(b"")
    (folder / "pytorch_model.bin.index.json").write_text(index, encoding="utf-8")
    with pytest.raises(UsageError, match=expected) as caught:
        pickled_weights(folder)
    assert "\n" not in str(caught.value)


def test_other_pickles_are_taken_where_there_are_no_parts(tmp_path: Path) -> None:
    folder = checkpoint(tmp_path / "model", weights__pt=b"", second__pth=b"", rng_state_0__pth=b"", scheduler__pt=b"")
    assert [file.name for file in pickled_weights(folder)] == ["second.pth", "weights.pt"]


def test_refusals_come_before_any_work(tools: Tools, tmp_path: Path) -> None:
    pickled = checkpoint(tmp_path / "pickled", pytorch_model__bin=b"w")
    bare = tmp_path / "bare"
    bare.mkdir()
    (bare / "pytorch_model.bin").write_bytes(b"")
    safe = checkpoint(tmp_path / "safe", pytorch_model__bin=b"w", model__safetensors=b"")
    trained = checkpoint(tmp_path / "trained", training_args__bin=b"", optimizer__pt=b"")
    (tmp_path / "taken").mkdir()
    (tmp_path / "dangling").symlink_to(tmp_path / "nowhere")
    cases: list[tuple[Path, Path | None, str]] = [
        (tmp_path / "absent", None, "is no folder; give a Hugging Face folder"),
        (pickled / "pytorch_model.bin", None, f"is no folder; give the folder around it: {pickled}"),
        (bare, None, "has no config.json"),
        (safe, None, r"has safetensors already \(model.safetensors\), there is nothing to convert"),
        (trained, None, "has no pickled weights .*, there is nothing to convert"),
        (checkpoint(tmp_path / "empty"), None, "there is nothing to convert"),
        (pickled, tmp_path / "taken", "is there already; remove it, or name another folder with --out"),
        (pickled, tmp_path / "dangling", "is there already"),
        (pickled, tmp_path / "no" / "where", "there is no such folder"),
    ]
    for folder, out, expected in cases:
        with pytest.raises(UsageError, match=expected) as caught:
            convert(folder, out, progress=Progress(), toolchains=tools)
        assert "\n" not in str(caught.value)
        assert caught.value.exit_code == 2
    assert tools.made == 0, "no toolchain is made for what is refused"


def test_a_full_disk_is_said_before_the_work(tools: Tools, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = checkpoint(tmp_path / "model", pytorch_model__bin=b"w" * 2_000_000)
    monkeypatch.setattr("shutil.disk_usage", lambda _: type("Usage", (), {"free": 10})())
    with pytest.raises(CellFailure, match="takes about 2 MB, 0 MB are free; free some space") as caught:
        convert(folder, progress=Progress(), toolchains=tools)
    assert caught.value.kind is FailureKind.DISK_FULL
    assert tools.made == 0


def test_what_the_worker_refuses_is_bad_input_and_leaves_nothing(
    tools: Tools, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = checkpoint(tmp_path / "model", pytorch_model__bin=b"w")
    monkeypatch.setattr(convert_safetensors, "_WORKER", tools.worker(REFUSING))
    with pytest.raises(UsageError) as caught:
        convert(folder, progress=Progress(), toolchains=tools)
    assert str(caught.value) == (
        f"{folder}: pytorch_model.bin: holds code or objects, not only tensors: posix.system; nothing of it was run"
    )
    monkeypatch.setattr(convert_safetensors, "_WORKER", tools.worker("def run(request, progress):\n    1 / 0\n"))
    with pytest.raises(CellFailure, match="convert-safetensors: worker: ZeroDivisionError"):
        convert(folder, progress=Progress(), toolchains=tools)
    assert sorted(entry.name for entry in tmp_path.iterdir()) == ["model", "tools"]


def test_kill_9_leaves_no_half_folder_and_the_next_one_clears_up(tools: Tools, tmp_path: Path) -> None:
    folder = checkpoint(tmp_path / "model", pytorch_model__bin=b"w")
    script = textwrap.dedent(
        """
        import sys
        from pathlib import Path
        from bench.base.progress import Progress
        from quantize import convert_safetensors
        from tests.unit.quantize.test_convert_safetensors import Tools
        tools = Tools(Path(sys.argv[1]))
        convert_safetensors._WORKER = tools.worker(behaviour="time.sleep(60)")
        convert_safetensors.convert(Path(sys.argv[1]) / "model", progress=Progress(), toolchains=tools)
        """
    )
    environment = {**os.environ, "PYTHONPATH": str(CHECKOUT)}
    harness = subprocess.Popen([sys.executable, "-c", script, str(tmp_path)], env=environment)
    left = tmp_path / ".model-safetensors.converting"
    deadline = time.monotonic() + 30
    while not (left / "out" / "model.safetensors").exists():
        assert time.monotonic() < deadline
        assert harness.poll() is None
        time.sleep(0.02)
    with pytest.raises(UsageError, match="is being written by another conversion"):
        convert(folder, progress=Progress(), toolchains=tools)
    harness.send_signal(signal.SIGKILL)
    harness.wait()
    assert not (tmp_path / "model-safetensors").exists()
    (left / "out" / "half.safetensors").write_bytes(b"")
    tools.worker()
    made = convert(folder, progress=Progress(), toolchains=tools)
    assert {file.name for file in made.folder.iterdir()} == {"config.json", "model.safetensors", "request.json"}
    assert not left.exists()


def test_every_refusal_of_a_pickle_names_the_command(tmp_path: Path) -> None:
    folder = checkpoint(tmp_path / "my model", pytorch_model__bin=b"\x80")
    command = f"quantbench convert-safetensors '{folder}'"
    assert conversion(folder) == command
    for path in (folder, folder / "pytorch_model.bin"):
        with pytest.raises(UsageError) as caught:
            resolve(LocalConfig(path=str(path)), cache=tmp_path / "cache", progress=Progress())
        assert str(caught.value).endswith(f"convert them: {command}")
    with pytest.raises(UsageError) as caught:
        read_weights(folder)
    assert str(caught.value).endswith(f"convert it: {command}")


def test_the_command_line_says_bad_input_in_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["convert-safetensors", str(tmp_path / "absent")]) == 2
    said = capsys.readouterr().err
    assert said == f"quantbench: {tmp_path / 'absent'}: is no folder; give a Hugging Face folder\n"
    assert main(["convert-safetensors"]) == 2
    assert "--help" in capsys.readouterr().err
