"""What is logged to MLflow and Weights & Biases, against stand-ins that take what mlflow 3.17 and wandb 0.31 take."""

from __future__ import annotations

import contextlib
import dataclasses
import re
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest

from bench.analysis.config import PriceConfig, ReportConfig, TrackingConfig
from bench.base.errors import UsageError
from bench.base.progress import Progress, ProgressEvent
from bench.report.build import build_report
from tests.unit.report.fake_runs import FakeRun, edit_summary

CONFIG = ReportConfig(price=PriceConfig(name="a machine", per_hour=0.1, date="2026-11-01", source="an invoice"))
ALLOWED = re.compile(r"[A-Za-z0-9_\-. /]{1,250}")


class FakeMlflow(ModuleType):
    """The part of mlflow's fluent interface that is used, with its refusals."""

    def __init__(self) -> None:
        super().__init__("mlflow")
        self.uri = self.experiment = ""
        self.runs: list[dict[str, Any]] = []
        self._open: list[dict[str, Any]] = []

    def set_tracking_uri(self, uri: str) -> None:
        self.uri = uri

    def set_experiment(self, experiment_name: str) -> None:
        self.experiment = experiment_name

    @contextlib.contextmanager
    def start_run(self, *, run_name: str, nested: bool = False) -> Iterator[SimpleNamespace]:
        assert bool(self._open) == nested, "a run is active already, or there is none to nest in"
        run: dict[str, Any] = {"name": run_name, "nested": nested, "metrics": {}, "params": {}, "tags": {}, "files": ""}
        self.runs.append(run)
        self._open.append(run)
        yield SimpleNamespace(info=SimpleNamespace(run_id=f"run-{len(self.runs)}"))
        self._open.pop()

    def set_tags(self, tags: dict[str, str]) -> None:
        self._open[-1]["tags"] |= tags

    def log_params(self, params: dict[str, str]) -> None:
        assert all(len(value) <= 6000 for value in params.values())
        self._open[-1]["params"] |= params

    def log_metrics(self, metrics: dict[str, float]) -> None:
        assert all(ALLOWED.fullmatch(name) and isinstance(value, float) for name, value in metrics.items())
        self._open[-1]["metrics"] |= metrics

    def log_artifacts(self, local_dir: str) -> None:
        self._open[-1]["files"] = sorted(path.name for path in Path(local_dir).iterdir())


class FakeWandb(ModuleType):
    """The part of wandb that is used."""

    def __init__(self) -> None:
        super().__init__("wandb")
        self.logged: dict[str, Any] = {}
        self.summary: dict[str, str] = {}
        self.artifacts: list[Any] = []
        self.id = "abc"
        self.finished = False

    def init(self, *, project: str, name: str, job_type: str) -> FakeWandb:
        assert project
        assert name
        assert job_type == "report"
        return self

    def log(self, data: dict[str, Any]) -> None:
        self.logged |= data

    def log_artifact(self, artifact: Any) -> None:
        self.artifacts.append(artifact)

    def finish(self) -> None:
        self.finished = True

    @staticmethod
    def Table(*, columns: list[str], data: list[list[Any]]) -> dict[str, Any]:  # noqa: N802 - wandb's name
        assert all(len(row) == len(columns) for row in data)
        return {"columns": columns, "data": data}

    @staticmethod
    def Artifact(name: str, *, type: str) -> SimpleNamespace:  # noqa: A002, N802 - wandb's names
        made = SimpleNamespace(name=name, type=type, folder="")
        made.add_dir = lambda folder: setattr(made, "folder", folder)
        return made


@pytest.fixture
def run(tmp_path: Path) -> Path:
    made = FakeRun(tmp_path / "run", name="my run")
    made.cell("F16")
    spoilt = made.cell("Q8_0")

    def spoil(summary: dict[str, dict[str, dict[str, object]]]) -> None:
        summary["metrics"]["ttft"]["validity"] = ["client_slip"]
        summary["metrics"]["odd (name)!"] = {"unit": "1", "value": 1.5, "validity": []}

    edit_summary(spoilt, "c4", spoil)
    return made.directory


def report(run: Path, tracking: TrackingConfig) -> list[str]:
    told: list[str] = []

    def sink(event: ProgressEvent) -> None:
        told.append(event.message or "")

    build_report([run], run / "report", dataclasses.replace(CONFIG, tracking=tracking), Progress(sink=sink))
    return told


def test_mlflow_gets_a_run_a_cell_below_one_with_the_files(run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    mlflow = FakeMlflow()
    monkeypatch.setitem(sys.modules, "mlflow", mlflow)
    told = report(run, TrackingConfig(mlflow=True, mlflow_uri="file:///x", project="p"))
    assert told[-1] == "logged to MLflow, experiment p, run run-1"
    assert (mlflow.uri, mlflow.experiment) == ("file:///x", "p")
    parent, f16, q8 = mlflow.runs
    assert parent["tags"]["quantbench.headline"] == "Deploy Q8_0."
    assert {"report.html", "report.json", "summary.parquet"} <= set(parent["files"])
    assert (f16["name"], q8["params"]["variant"]) == ("F16", "Q8_0")
    assert f16["metrics"]["c4.ttft"] > 0
    assert "c4.ttft" not in q8["metrics"]  # not valid, not logged
    assert q8["metrics"]["c4.odd _name__"] == 1.5
    assert q8["metrics"]["c4.cost_per_million_output_tokens"] > 0


def test_wandb_gets_one_run_with_a_table(run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    wandb = FakeWandb()
    monkeypatch.setitem(sys.modules, "wandb", wandb)
    told = report(run, TrackingConfig(wandb=True))
    assert told[-1] == "logged to Weights & Biases, project quantbench, run abc"
    table = wandb.logged["cells"]
    by_name = [dict(zip(table["columns"], row, strict=True)) for row in table["data"]]
    assert [row["variant"] for row in by_name] == ["F16", "Q8_0"]
    assert by_name[1]["c4.ttft"] is None
    assert wandb.summary["quantbench.choice"] == "Q8_0"
    assert wandb.artifacts[0].folder == str(run / "report")
    assert wandb.finished


def test_a_library_that_is_missing_is_said_before_any_work(run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "mlflow", None)
    with pytest.raises(UsageError, match=r"tracking\.mlflow=true: mlflow is not installed here"):
        report(run, TrackingConfig(mlflow=True))
    assert not (run / "report").exists()
