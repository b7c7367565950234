"""The command line as users meet it: what it answers, how it refuses, what it costs to ask."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from bench.cli.main import build_parser
from tests.support import CHECKOUT, quantbench

COMMANDS = (
    *("run", "quantize", "fit", "serve", "load", "evaluate", "report", "status", "toolchain", "convert-safetensors"),
    *("engines", "doctor", "version"),
)
QUICKSTART = [f"{variant} · llama_cpp" for variant in ("F16", "Q8_0", "Q4_K_M", "Q4_0")]
HEAVY = {"hydra", "omegaconf", "numpy", "pandas", "pyarrow", "matplotlib", "httpx", "jinja2", "psutil"}


def test_help_names_every_command(tmp_path: Path) -> None:
    answer = quantbench("--help", cwd=tmp_path)
    assert answer.returncode == 0
    assert all(f"    {name}" in answer.stdout for name in COMMANDS)


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_has_help(tmp_path: Path, command: str) -> None:
    answer = quantbench(command, "--help", cwd=tmp_path)
    assert answer.returncode == 0
    assert answer.stdout.startswith("usage:")


def test_help_loads_nothing_heavy() -> None:
    code = (
        "import sys\nfrom bench.cli.main import main\n"
        "try:\n    main(['--help'])\nexcept SystemExit:\n    pass\n"
        f"print('LOADED', sorted({HEAVY!r} & set(sys.modules)))"
    )
    answer = subprocess.run([sys.executable, "-c", code], cwd=CHECKOUT, capture_output=True, text=True, check=True)
    assert answer.stdout.splitlines()[-1] == "LOADED []"


def test_python_dash_m_spells_the_same_commands(tmp_path: Path) -> None:
    answer = quantbench("version", cwd=tmp_path)
    assert answer.stdout.startswith("quantbench 0.")
    command = [sys.executable, "-m", "quantize", "scheme=gguf_q8_0", "--dry-run"]
    planned = subprocess.run(command, cwd=CHECKOUT, capture_output=True, text=True, check=True)
    assert "Q8_0 · llama_cpp" in planned.stdout


def test_a_dry_run_prints_the_plan_and_writes_nothing(tmp_path: Path) -> None:
    answer = quantbench("run", "experiment=quickstart", "--dry-run", cwd=tmp_path)
    assert answer.returncode == 0
    lines = answer.stdout.splitlines()
    assert [line.split("  ")[0] for line in lines[1:]] == QUICKSTART
    assert list(tmp_path.iterdir()) == []


def test_json_lines_are_one_object_a_line(tmp_path: Path) -> None:
    answer = quantbench("run", "experiment=quickstart", "--dry-run", "--json-lines", cwd=tmp_path)
    rows = [json.loads(line) for line in answer.stdout.splitlines()]
    assert [row["cell"] for row in rows] == QUICKSTART
    assert {row["status"] for row in rows} == {"planned"}


def test_serve_prints_the_exact_command_without_a_key(tmp_path: Path) -> None:
    answer = quantbench("serve", "scheme=gguf_q8_0", "engine.threads=2", "--print", "--port", "8099", cwd=tmp_path)
    assert answer.returncode == 0
    assert answer.stdout.startswith("LLAMA_API_KEY=$API_KEY llama-server --model MODEL --alias ")
    assert "--port 8099" in answer.stdout
    assert "--threads 2" in answer.stdout


def test_overrides_may_follow_flags(tmp_path: Path) -> None:
    answer = quantbench("run", "--dry-run", "experiment=quickstart", "--quiet", "scheme.type=Q4_0", cwd=tmp_path)
    assert answer.stdout.splitlines()[1].startswith("Q4_0 · llama_cpp")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["run", "scheme.tpye=Q8_0"], "'scheme.tpye' is not a known key; did you mean 'type'?"),
        (["run", "scheme.type=Q9_0"], "'Q9_0' is not a known value; did you mean 'Q8_0'?"),
        (["run", "scheme=gguf_q9_0"], "scheme 'gguf_q9_0' is unknown; did you mean"),
        (["run", "engine=lama_cpp"], "engine 'lama_cpp' is unknown; did you mean 'llama_cpp'?"),
        (["run", "experiment=quickstrat"], "experiment 'quickstrat' is unknown; did you mean 'quickstart'?"),
        (["run", "engine.threads=two"], "engine.threads: Value 'two'"),
        (["run", "engine.threads=0"], "engine.threads=0 must be at least 1"),
        (["run", "quickstart"], "'quickstart' is not KEY=VALUE"),
        (["run", "--dry"], "unknown option --dry"),
        (["run", "--config-dir", "nowhere", "--dry-run"], "nowhere does not exist"),
        (["run", "--plugin", "no_such_module", "--dry-run"], "--plugin no_such_module: cannot be imported"),
        (["rum"], "invalid choice: 'rum'"),
        ([], "the following arguments are required: COMMAND"),
        (["quantize", "model=local", "model.path=missing.gguf"], "missing.gguf"),
        (["serve", "-m"], "unknown option -m"),
        (["report", "nowhere"], "nowhere"),
        (["status", "nowhere"], "nowhere: is not a quantbench run"),
        (["load", "endpoint.url=http://127.0.0.1:1", "endpoint.model=m", "out=o"], "is a server running there?"),
        (["load"], "missing: "),
        (["engines", "vlm"], "engine 'vlm' is unknown; did you mean 'vllm'?"),
        (["engines", "vllm", "sglang"], "engines: unexpected 'sglang'"),
        (["engines", "--accelerator", "tpu"], "invalid choice: 'tpu'"),
        (["engines", "verify"], "name a choice of conf/engine"),
        (["engines", "verify", "llama_cpp", "gguf"], "'gguf' is not KEY=VALUE"),
        (["engines", "verify", "openai"], "engine=openai is not in the table of support"),
        (["engines", "verify", "sglang", "scheme=bf16"], "toolchain sglang is for NVIDIA GPUs"),
        (["toolchain", "install"], "name one"),
        (["toolchain", "install", "lama_cpp"], "did you mean 'llama_cpp'?"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_bad_input_is_one_line_and_exit_code_2(tmp_path: Path, arguments: list[str], message: str) -> None:
    answer = quantbench(*arguments, cwd=tmp_path, env={"QUANTBENCH_CACHE": str(tmp_path / "cache")})
    assert answer.returncode == 2, answer.stderr
    assert message in answer.stderr
    said = [line for line in answer.stderr.splitlines() if line.startswith("quantbench: ")]
    assert len(said) == 1
    assert answer.stderr.splitlines()[-1] == said[0]
    assert "Traceback" not in answer.stderr


def test_engines_answers_for_the_accelerator_that_is_asked(tmp_path: Path) -> None:
    answer = quantbench("engines", "--accelerator", "cuda", cwd=tmp_path)
    assert answer.returncode == 0, answer.stderr
    header, *rows = (line.split() for line in answer.stdout.splitlines())
    assert header[:2] == ["on", "cuda"]
    said = {row[0]: dict(zip(header[2:], row[1:], strict=False)) for row in rows}
    assert said["gguf"]["vllm"] == "no"
    assert said["nvfp4"]["vllm"] == "unverified"
    assert "never run here" in answer.stdout


def test_one_engine_is_shown_with_its_settings(tmp_path: Path) -> None:
    answer = quantbench("engines", "tgi", "--accelerator=cuda", cwd=tmp_path)
    assert answer.returncode == 0, answer.stderr
    for said in ("--num-shard", "swap_space_gib          refused", "engine.container.image=IMAGE", "tgi_container"):
        assert said in answer.stdout
    lines = quantbench("engines", "tgi", "--json-lines", "--accelerator=cuda", cwd=tmp_path).stdout.splitlines()
    records = [json.loads(line) for line in lines]
    told = {record["format"]: record["answer"] for record in records if record["event"] == "support"}
    assert (told["load_eetq"], told["nvfp4"]) == ("unverified", "no")
    assert {record["event"] for record in records} == {"support", "launch", "setting", "logprobs", "preset"}


def test_the_parser_is_built_without_touching_the_configuration() -> None:
    assert build_parser().prog == "quantbench"


def test_doctor_names_what_it_looked_at(tmp_path: Path) -> None:
    answer = quantbench("doctor", "--json-lines", cwd=tmp_path)
    checks = {json.loads(line)["check"]: json.loads(line) for line in answer.stdout.splitlines()}
    assert answer.returncode == (1 if any(check["verdict"] == "fail" for check in checks.values()) else 0)
    assert len(checks) >= 5
