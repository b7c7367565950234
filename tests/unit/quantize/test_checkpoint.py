from __future__ import annotations

import json
import struct
from pathlib import Path

import pytest

from bench.base.errors import UsageError
from quantize.checkpoint import read_weights, safe_view
from tests.unit.quantize.safetensors_writer import write_safetensors


def test_weights_are_counted_over_all_shards(tmp_path: Path) -> None:
    write_safetensors(tmp_path / "model-00001-of-00002.safetensors", {"a": ("BF16", (4, 8)), "norm": ("F32", (1000,))})
    write_safetensors(tmp_path / "model-00002-of-00002.safetensors", {"b": ("BF16", (2, 8)), "gate": ("F32", (2, 8))})
    write_safetensors(tmp_path / "consolidated.safetensors", {"a": ("F16", (400, 8))})
    found = read_weights(tmp_path)
    assert found.matrices == {"BF16": 48, "F32": 16}
    assert found.parameters == 48 + 16 + 1000
    assert found.main_type == "BF16"


def test_vectors_alone_have_no_main_type(tmp_path: Path) -> None:
    write_safetensors(tmp_path / "model.safetensors", {"norm": ("F32", (4,))})
    assert read_weights(tmp_path).main_type is None


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"", "is not a safetensors file"),
        (b"version https://git-lfs.github.com/spec/v1", "is not a safetensors file"),
        (struct.pack("<Q", 2) + b"[]", "is not a safetensors file"),
        (struct.pack("<Q", 8) + b'{"a": 1}', "is not a safetensors file"),
    ],
)
def test_other_files_are_told_apart(tmp_path: Path, content: bytes, said: str) -> None:
    (tmp_path / "model.safetensors").write_bytes(content)
    with pytest.raises(UsageError, match=said) as caught:
        read_weights(tmp_path)
    assert "\n" not in str(caught.value)


def test_a_file_cut_short_is_told(tmp_path: Path) -> None:
    path = write_safetensors(tmp_path / "model.safetensors", {"a": ("BF16", (4, 8))})
    path.write_bytes(path.read_bytes()[:-1])
    with pytest.raises(UsageError, match=r"is cut short: \d+ bytes are needed"):
        read_weights(tmp_path)


def test_a_folder_without_such_files_is_told(tmp_path: Path) -> None:
    write_safetensors(tmp_path / "adapter_model.safetensors", {"a": ("BF16", (4, 8))})
    with pytest.raises(UsageError, match=r"holds no weights named model\*\.safetensors"):
        read_weights(tmp_path)


def test_the_view_has_everything_but_code(tmp_path: Path) -> None:
    folder = tmp_path / "model"
    (folder / "sub").mkdir(parents=True)
    plain = {"architectures": ["A"], "torch_dtype": "bfloat16"}
    (folder / "config.json").write_text(json.dumps({**plain, "auto_map": {"AutoConfig": "code.C"}}))
    (folder / "generation_config.json").write_text("{}")
    for name in ("code.py", "pytorch_model.bin", "model.safetensors", "tokenizer.model", "tokenizer.json"):
        (folder / name).write_text(name)
    view = safe_view(folder, tmp_path / "work" / "view")
    assert {file.name for file in view.iterdir()} == {
        "config.json", "generation_config.json", "model.safetensors", "tokenizer.model", "tokenizer.json",
    }  # fmt: skip
    assert json.loads((view / "config.json").read_text()) == plain
    assert not (view / "config.json").is_symlink()
    assert (view / "model.safetensors").resolve() == folder / "model.safetensors"
    assert "auto_map" in (folder / "config.json").read_text(), "the checkpoint itself is not touched"


def test_a_tokenizer_of_transformers_5_gets_its_older_name(tmp_path: Path) -> None:
    folder = tmp_path / "model"
    folder.mkdir()
    newer = {"tokenizer_class": "TokenizersBackend", "extra_special_tokens": ["<a>"], "bos_token": "<s>"}
    (folder / "tokenizer_config.json").write_text(json.dumps(newer))
    view = safe_view(folder, tmp_path / "view")
    assert json.loads((view / "tokenizer_config.json").read_text()) == {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "additional_special_tokens": ["<a>"],
        "bos_token": "<s>",
    }


def test_a_configuration_that_is_no_json_is_told(tmp_path: Path) -> None:
    folder = tmp_path / "model"
    folder.mkdir()
    (folder / "config.json").write_text("{")
    with pytest.raises(UsageError, match=r"config\.json: is not JSON"):
        safe_view(folder, tmp_path / "view")
