"""Worker of the llmcompressor toolchain: checkpoints as torch pickles them, and what became of their tensors."""

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open

#: Lists that stand for tensors in a request.
KINDS: dict[str, Callable[[], Any]] = {
    "matrix": lambda: torch.arange(12.0).reshape(3, 4),
    "not a number": lambda: torch.tensor([float("nan"), -0.0, float("inf")]),
    "transposed": lambda: torch.arange(6.0).reshape(2, 3).t(),
    "scalar": lambda: torch.tensor(3),
    "empty": lambda: torch.empty(0, 3),
    "bool": lambda: torch.tensor([True, False]),
    "bf16": lambda: torch.arange(5.0).bfloat16(),
    "f8": lambda: torch.arange(5.0).to(torch.float8_e4m3fn),
    "c64": lambda: torch.tensor([1 + 2j]),
    "parameter": lambda: torch.nn.Parameter(torch.ones(2)),
    "sparse": lambda: torch.eye(3).to_sparse(),
    "c128": lambda: torch.tensor([1 + 2j], dtype=torch.complex128),
    "number": lambda: 3,
    "module": lambda: torch.nn.Linear(2, 2),
}


class Malicious:
    """Runs a command where a pickle of it is loaded without care."""

    def __init__(self, command: str) -> None:
        self.command = command

    def __reduce__(self) -> tuple[Any, ...]:
        return os.system, (self.command,)


def run(request: dict[str, Any], progress: Callable[..., None]) -> dict[str, Any]:
    """Make a checkpoint, save single pickles, or compare."""
    return {"llama": llama, "save": save, "compare": compare}[request["task"]](request)


def llama(request: dict[str, Any]) -> dict[str, Any]:
    """A tiny Llama in two parts with their index, its output matrix tied to its embeddings or a view of them."""
    from transformers import LlamaConfig, LlamaForCausalLM

    folder = Path(request["folder"])
    folder.mkdir(parents=True)
    torch.manual_seed(5)
    config = LlamaConfig(
        vocab_size=96,
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        tie_word_embeddings=request["tied"],
    )
    model = LlamaForCausalLM(config)
    config.architectures = ["LlamaForCausalLM"]
    config.save_pretrained(folder)
    state = model.state_dict()
    if not request["tied"]:
        state["lm_head.weight"] = state["model.embed_tokens.weight"]
    names = sorted(state, key=lambda name: "layers.1" in name)
    half = next(index for index, name in enumerate(names) if "layers.1" in name)
    parts = {"pytorch_model-00001-of-00002.bin": names[:half], "pytorch_model-00002-of-00002.bin": names[half:]}
    for file, members in parts.items():
        torch.save({name: state[name] for name in members}, folder / file)
    table = {"metadata": {}, "weight_map": {name: file for file, members in parts.items() for name in members}}
    (folder / "pytorch_model.bin.index.json").write_text(json.dumps(table))
    return {"names": sorted(state)}


def save(request: dict[str, Any]) -> dict[str, Any]:
    """Each of `files`: names → kinds of tensors, or one kind alone; `command` is what malicious ones run."""
    for path, content in request["files"].items():
        whole: Any = KINDS[content]() if isinstance(content, str) else {}
        for name, kind in content.items() if isinstance(content, dict) else ():
            whole[name] = Malicious(request["command"]) if kind == "malicious" else KINDS[kind]()
        torch.save(whole, path, _use_new_zipfile_serialization=not request.get("legacy", False))
    return {}


def compare(request: dict[str, Any]) -> dict[str, Any]:
    """Names of tensors that are not, bit for bit, in the safetensors of `folder` or, with `model`, of the model."""
    folder = Path(request["folder"])
    original: dict[str, torch.Tensor] = {}
    for file in request["files"]:
        original |= torch.load(file, weights_only=True)
    found: dict[str, torch.Tensor] = {}
    if request.get("model"):
        from transformers import AutoModelForCausalLM

        found = AutoModelForCausalLM.from_pretrained(folder, local_files_only=True).state_dict()
    else:
        for shard in folder.glob("model*.safetensors"):
            with safe_open(shard, framework="pt") as opened:
                found |= {name: opened.get_tensor(name) for name in opened.keys()}  # noqa: SIM118
    return {"stored": sorted(found), "other": [name for name in original if not same(original[name], found.get(name))]}


def same(one: torch.Tensor, other: torch.Tensor | None) -> bool:
    """Whether two tensors are equal in type, shape and every bit."""
    if other is None or (one.dtype, one.shape) != (other.dtype, other.shape):
        return False
    left, right = (tensor.detach().contiguous().reshape(-1).view(torch.uint8) for tensor in (one, other))
    return bool(torch.equal(left, right))
