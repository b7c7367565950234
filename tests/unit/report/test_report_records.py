"""How variants were made, as the report tells it: layers, groups, calibration."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from bench.analysis.load import load_results
from bench.base.errors import FailureKind
from bench.report.records import artefacts
from bench.report.remedies import remedy
from tests.unit.report.fake_runs import FakeRun, write_json

RECORDED = {
    "packing": "compressed-tensors",
    "quantized_layers": 1210,
    "skipped_layers": [f"model.layers.{n}.mlp.gate" for n in range(10)],
    "group_size": 64,
    "calibration": {
        "name": "default",
        "digest": "sha256:abc",
        "samples": 128,
        "windows": 97,
        "tokens": 49_664,
        "length": 512,
    },
}


def facts(directory: Path, **changes: Any) -> dict[str, str]:
    """What is said of a variant whose manifest has `changes`."""
    cell = FakeRun(directory).cell("Q8_0", scenarios=(), tasks=False) / "cell.json"
    record = json.loads(cell.read_text(encoding="utf-8"))
    write_json(cell, {**record, "variant": {**record["variant"], **changes}})
    analysis: Any = SimpleNamespace(results=load_results([directory]))
    (made,) = artefacts(analysis)
    return dict(made.facts)


def test_layers_groups_and_calibration_are_told(tmp_path: Path) -> None:
    told = facts(tmp_path / "run", **RECORDED)
    assert told["packing"] == "compressed-tensors"
    assert told["quantized layers"] == "1,210"
    assert told["group size"] == "64"
    assert told["left as they are"].startswith("model.layers.0.mlp.gate, ")
    assert told["left as they are"].endswith("model.layers.7.mlp.gate and 2 more")
    assert told["calibration"] == "default, 97 windows, 128 samples, 49,664 tokens, sha256:abc"


def test_an_importance_matrix_counts_chunks(tmp_path: Path) -> None:
    told = facts(tmp_path / "run", calibration={"text": "mine.txt", "chunks": 3, "tokens": 1536, "digest": "sha256:d"})
    assert told["calibration"] == "mine.txt, 3 chunks, 1,536 tokens, sha256:d"


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"packing": None, "quantized_layers": None, "skipped_layers": [], "group_size": None, "calibration": None},
        {"quantized_layers": "x", "skipped_layers": "no list", "group_size": [], "calibration": []},
    ],
)
def test_what_a_manifest_lacks_is_not_told(tmp_path: Path, changes: dict[str, Any]) -> None:
    """Of a record before these fields, of a scheme without them, and of one that says nonsense."""
    told = facts(tmp_path / "run", **changes)
    assert not {"packing", "quantized layers", "left as they are", "group size", "calibration"} & set(told)
    assert told["parameters"] == "134,515,008"


def test_every_kind_of_failure_has_a_remedy_of_its_own() -> None:
    remedies = {remedy(kind.value) for kind in FailureKind}
    assert len(remedies) == len(FailureKind)
    assert "the end of the log" in remedy("of another version")
