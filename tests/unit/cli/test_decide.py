"""`quantbench recommend` and `quantbench compare` on recorded runs, through the command line."""

from __future__ import annotations

import json
import struct
from pathlib import Path
from typing import Any

import pytest

from bench.cli.main import main
from bench.report.build import build_report
from tests.unit.report.fake_runs import VARIANTS, FakeRun, quickstart


def said(capsys: pytest.CaptureFixture[str], *argv: str) -> tuple[int, str, str]:
    code = main(list(argv))
    captured = capsys.readouterr()
    return code, captured.out, captured.err


def records(text: str) -> list[dict[str, Any]]:
    return [json.loads(line) for line in text.splitlines()]


@pytest.fixture
def run(tmp_path: Path) -> Path:
    return quickstart(tmp_path / "run")


def test_it_prints_what_the_report_says(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    from bench.analysis.settings import report_config

    code, out, _ = said(capsys, "recommend", str(run), "max_perplexity_increase=0.3")
    build_report([run], run / "report", report_config([run], ["max_perplexity_increase=0.3"]))
    answer = json.loads((run / "report" / "report.json").read_text(encoding="utf-8"))["answer"]
    assert code == 0
    lines = [line.strip() for line in out.splitlines()]
    assert lines[0] == answer["headline"] == "Deploy Q4_0."
    for name, key in (("costs", "costs"), ("loses", "loses"), ("how sure", "sure")):
        assert f"{name}: {answer[key]}" in lines
    for line in (*answer["why"], *answer["caveats"]):
        assert any(shown.endswith(f": {line}") for shown in lines)
    assert any(line.startswith("usual here: GGUF Q4_K_M (rule of thumb, not measured)") for line in lines)


def test_for_machines(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    _, out, _ = said(capsys, "recommend", str(run), "--json-lines")
    first = records(out)[0]
    assert (first["choice"], first["certainty"]) == ("Q8_0", "clear")


def test_without_runs_it_tells_what_is_usual(capsys: pytest.CaptureFixture[str]) -> None:
    code, out, _ = said(capsys, "recommend", "hardware=a100_80gb", "priority=quality")
    assert code == 0
    assert "usual there: FP16 (rule of thumb, not measured): 80 GB or more, quality first." in out
    _, out, _ = said(capsys, "recommend", "hardware=t4_16gb", "--json-lines")
    assert any(record.get("usual") == ["GPTQ"] for record in records(out))


def test_a_models_fit_goes_before_what_is_usual(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = checkpoint(tmp_path / "model", layers=20, hidden=8192)
    model = ("model=local", f"model.path={folder}")
    _, out, _ = said(capsys, "recommend", "hardware=l4_24gb", *model, "--json-lines")
    fits = {record["scheme"]: record["verdict"] for record in records(out) if record["event"] == "fit"}
    assert fits["fp16"] == "does not fit"
    last = records(out)[-1]
    assert last["scheme"] != "fp16"
    _, out, _ = said(capsys, "recommend", "hardware=h100_80gb", *model, "--json-lines")
    assert records(out)[-1]["scheme"] == "fp8"


def checkpoint(folder: Path, *, layers: int, hidden: int) -> Path:
    """A Llama checkpoint of that shape whose weights are one hole: headers are all that is read."""
    inner, tensors, end = 3 * hidden, {}, 0
    shapes = {f"self_attn.{name}_proj": (hidden, hidden) for name in "qkvo"}
    shapes |= {"mlp.gate_proj": (inner, hidden), "mlp.up_proj": (inner, hidden), "mlp.down_proj": (hidden, inner)}
    for layer in range(layers):
        for name, (rows, columns) in shapes.items():
            start, end = end, end + 2 * rows * columns
            offsets = {"dtype": "BF16", "shape": [rows, columns], "data_offsets": [start, end]}
            tensors[f"model.layers.{layer}.{name}.weight"] = offsets
    folder.mkdir()
    header = json.dumps(tensors).encode()
    with (folder / "model.safetensors").open("wb") as file:
        file.write(struct.pack("<Q", len(header)) + header)
        file.truncate(8 + len(header) + end)
    config = {"num_hidden_layers": layers, "hidden_size": hidden, "intermediate_size": inner}
    heads = {"num_attention_heads": 64, "num_key_value_heads": 8, "vocab_size": 32000}
    (folder / "config.json").write_text(json.dumps({"model_type": "llama", **config, **heads}))
    return folder


def test_hardware_limits_the_memory_of_what_was_measured(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    small = ("hardware=this_machine", "hardware.gpus=0", "hardware.memory_gib=0.1")
    _, out, _ = said(capsys, "recommend", str(run), *small)
    assert "no variant is known to hold every constraint" in out
    assert "F16 does not fit 0.1 GiB" in out


@pytest.mark.parametrize(
    ("words", "told"),
    [
        ((), "name a run folder"),
        (("nowhere",), "nowhere does not exist"),
        (("hardware=a100_80gb,t4_16gb",), "lists several"),
        (("hardware=a100",), "did you mean"),
        (("RUN", "model=smollm2"), "name hardware=NAME too"),
        (("RUN", "slo.ttft=5"), "slo"),
    ],
)
def test_wrong_requests_end_in_one_line(
    run: Path, capsys: pytest.CaptureFixture[str], words: tuple[str, ...], told: str
) -> None:
    code, _, err = said(capsys, "recommend", *(str(run) if word == "RUN" else word for word in words))
    assert code == 2
    assert told in err
    assert len(err.splitlines()) == 1


@pytest.fixture
def slower(tmp_path: Path) -> Path:
    made = FakeRun(tmp_path / "slower", name="slower")
    for variant in ("F16", "Q8_0", "Q4_K_M", "Q4_0"):
        known = VARIANTS[variant]
        made.cell(variant, figures={**known, "itl_ms": known["itl_ms"] * (1.3 if variant == "Q4_0" else 1.0)})
    return made.directory


@pytest.mark.parametrize(("gate", "code"), [("none", 0), ("worse", 1), ("inconclusive", 1)])
def test_comparing_is_a_gate_only_on_demand(
    run: Path, slower: Path, capsys: pytest.CaptureFixture[str], gate: str, code: int
) -> None:
    assert said(capsys, "compare", str(run), str(slower), f"fail_on={gate}")[0] == code
    assert said(capsys, "compare", str(run), str(run), "fail_on=worse")[0] == 0


def test_three_forms_of_a_comparison(run: Path, slower: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out_folder = run.parent / "side"
    _, out, _ = said(capsys, "compare", str(run), str(slower), "--out", str(out_folder), "--json-lines")
    assert {path.name for path in out_folder.iterdir()} == {"compare.md", "compare.html", "compare.csv"}
    told = records(out)
    worse = [each for each in told if each["event"] == "change" and each["verdict"] == "worse"]
    assert worse
    assert {each["cell"] for each in worse} == {"Q4_0"}
    assert all(each["change"]["lo"] < each["change"]["value"] < each["change"]["hi"] for each in worse)
    headline = next(each["headline"] for each in told if "headline" in each)
    assert headline in (out_folder / "compare.html").read_text(encoding="utf-8")


@pytest.mark.parametrize("command", [("recommend", "RUN"), ("compare", "RUN", "RUN")])
def test_names_steer_no_terminal(tmp_path: Path, capsys: pytest.CaptureFixture[str], command: tuple[str, ...]) -> None:
    made = FakeRun(tmp_path / "run", name="\x1b[31mred")
    for variant in ("F16", "Q8_0"):
        folder = made.cell(variant)
        path = folder / "cell.json"
        text = path.read_text(encoding="utf-8").replace(
            f'"label": "{variant}', f'"label": "\\u001b]0;x\\u0007{variant}'
        )
        path.write_text(text, encoding="utf-8")
    code, out, _ = said(capsys, *(str(made.directory) if word == "RUN" else word for word in command))
    assert code == 0
    assert "Q8_0" in out
    assert not set("\x1b\x07\r") & set(out)


def test_margins_are_the_reports(run: Path, slower: Path, capsys: pytest.CaptureFixture[str]) -> None:
    wide = ("margins.throughput=0.9", "fail_on=worse")
    assert said(capsys, "compare", str(run), str(slower), *wide)[0] == 0


@pytest.mark.parametrize(
    ("words", "told"),
    [(("RUN",), "two run folders"), (("RUN", "RUN", "RUN"), "these are 3"), (("RUN", "RUN", "fail_on=wose"), "worse")],
)
def test_wrong_comparisons_end_in_one_line(
    run: Path, capsys: pytest.CaptureFixture[str], words: tuple[str, ...], told: str
) -> None:
    code, _, err = said(capsys, "compare", *(str(run) if word == "RUN" else word for word in words))
    assert code == 2
    assert told in err
    assert len(err.splitlines()) == 1
