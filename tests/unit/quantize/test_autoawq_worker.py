"""AutoAWQ's worker with stand-ins for its libraries: the rows it is given, and the patch with its guard."""

from __future__ import annotations

import importlib.metadata
import importlib.util
import sys
from collections.abc import Callable, Iterator
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest

from quantize.schemes.hf import WORKERS

LIBRARIES = ("torch", "transformers", "awq", "awq.modules", "awq.modules.linear", "awq.quantize")


class Tensor:
    """A weight on a CPU: `cpu()` is the same object, as torch has it."""

    def __init__(self, value: float) -> None:
        self.value = value

    def cpu(self) -> Tensor:
        return self

    def detach(self) -> Tensor:
        return self

    def clone(self) -> Tensor:
        return Tensor(self.value)


class Module:
    def __init__(self) -> None:
        self.weight = Tensor(1.0)

    def state_dict(self) -> dict[str, Tensor]:
        return {"weight": self.weight}

    def load_state_dict(self, state: dict[str, Tensor]) -> None:
        self.weight.value = state["weight"].value


class AwqQuantizer:
    """What AutoAWQ 0.2.9 does: keep, try in place, put back."""

    def _compute_best_scale(self, x: Any, w_mean: Any, x_mean: Any, module2inspect: Module, *rest: Any) -> float:
        kept = {name: value.cpu() for name, value in module2inspect.state_dict().items()}
        for _ in range(3):
            module2inspect.weight.value *= 2
            module2inspect.load_state_dict(kept)
        return module2inspect.weight.value


@pytest.fixture
def worker(monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """The module, loaded as the bootstrap does it."""
    for name in LIBRARIES:
        monkeypatch.setitem(sys.modules, name, ModuleType(name))
    sys.modules["torch"].__dict__["nn"] = SimpleNamespace(Linear=object)
    sys.modules["transformers"].__dict__["AutoTokenizer"] = None
    sys.modules["awq"].__dict__["AutoAWQForCausalLM"] = None
    sys.modules["awq.modules.linear"].__dict__["WQLinear_GEMM"] = object
    quantizer = SimpleNamespace(AwqQuantizer=type("AwqQuantizer", (AwqQuantizer,), dict(AwqQuantizer.__dict__)))
    sys.modules["awq.quantize"].__dict__["quantizer"] = quantizer
    spec = importlib.util.spec_from_file_location("autoawq_worker", WORKERS / "autoawq_worker.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def installed(monkeypatch: pytest.MonkeyPatch) -> Callable[[str], None]:
    """Say which AutoAWQ is there."""

    def say(version: str) -> None:
        monkeypatch.setattr(importlib.metadata, "version", lambda name: version)

    return say


def search(worker: Any, module: Module, *, by_name: bool) -> float:
    quantizer = worker.quantizer.AwqQuantizer()
    if by_name:
        return float(quantizer._compute_best_scale(x=1, w_mean=1, x_mean=1, module2inspect=module))
    return float(quantizer._compute_best_scale(1, 1, 1, module, [], None))


def test_the_weights_survive_the_search_with_the_patch_alone(worker: Any, installed: Callable[[str], None]) -> None:
    assert search(worker, Module(), by_name=False) == 8.0, "as published: every try is made on the last one's weights"
    installed(worker.PATCHED)
    worker.keep_weights_apart()
    for by_name in (False, True):
        module = Module()
        assert search(worker, module, by_name=by_name) == 1.0
        assert "state_dict" not in vars(module), "nothing is left on the module"


def test_another_version_is_refused(worker: Any, installed: Callable[[str], None]) -> None:
    installed("0.3.0")
    with pytest.raises(worker.QuantizerError, match=r"0\.3\.0 was not looked at: use 0\.2\.9, a GPU, or ") as caught:
        worker.keep_weights_apart()
    assert caught.value.kind == "toolchain"


@pytest.mark.parametrize(
    ("windows", "expected"),
    [
        ([[1] * 8] * 3, (3, 8, 0)),
        ([[1] * 8, [2] * 3, [3] * 5], (2, 8, 0)),
        ([[1] * 8, [2] * 3], (2, 5, 1)),
        ([[1] * 4], (1, 4, 0)),
    ],
)
def test_rows_are_of_one_length_and_nothing_but_their_rest_is_dropped(
    worker: Any, windows: list[list[int]], expected: tuple[int, int, int], monkeypatch: pytest.MonkeyPatch
) -> None:
    count, length, dropped = expected
    loader = SimpleNamespace(token_windows=lambda tokenizer, asked: (windows, {"windows": len(windows)}))
    monkeypatch.setattr(worker, "sibling", lambda path: loader)
    rows, used = worker.calibration({"loader": "anywhere"}, None)
    assert [len(row) for row in rows] == [length] * count
    assert [token for row in rows for token in row] == [token for ids in windows for token in ids][: count * length]
    assert used == {"windows": len(windows), "rows": count, "dropped": dropped}


def test_layers_that_should_stay_are_looked_at(worker: Any) -> None:
    worker.refuse_wrong_layers(["a", "b"], ["c"])
    with pytest.raises(worker.QuantizerError, match="no layer was quantized"):
        worker.refuse_wrong_layers([], [])
    with pytest.raises(worker.QuantizerError, match="1 layers were quantized that should stay, first b"):
        worker.refuse_wrong_layers(["a", "b"], ["b", "c"])
