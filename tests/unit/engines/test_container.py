"""Engines in containers: the runtime's command line, and the end of what carries our label."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

import pytest

from bench.base.clock import NS_PER_S, FakeClock
from bench.base.errors import ToolchainError, UsageError
from bench.base.process import wait_until
from bench.base.progress import Progress
from bench.engines.base import Command, EngineConfig, Launch, ServedModel, SupportAnswer, engine_of
from bench.engines.container import (
    OWNER_LABEL,
    RUN_LABEL,
    ContainerConfig,
    ContainerProcess,
    Mount,
    Runtime,
    container_command,
    end_ownerless,
    guarded,
    image_id,
    model_mounts,
    owner,
)
from bench.engines.launch import engine_command
from bench.engines.tensorrt_llm import OPTIONS_FILE, TensorRtLlmConfig
from bench.engines.tgi import TgiConfig
from bench.engines.xllamacpp import XllamacppConfig
from tests.support import CHECKOUT
from tests.unit.engines.flag_tables import RECORDED, given_flags, read_table

INNER = Command(argv=["serve", "/model", "--port", "8000"], env={"B": "2"}, secret_env={"API_KEY": "secret-key"})
LAUNCH = Launch(host="127.0.0.1", port=8123, api_key="secret-key")


def config(runtime: Runtime = Runtime.docker, **settings: Any) -> ContainerConfig:
    return ContainerConfig(**{"runtime": runtime, "image": "name:tag", **settings})


def everything(runtime: Runtime) -> list[str]:
    asked = config(
        runtime,
        entrypoint="/bin/serve",
        gpus="0,1",
        shm_size="1g",
        volumes=["/data:/data:ro"],
        cache="cache:/cache",
        extra_args=["--ulimit", "nofile=1024:1024"],
    )
    mounts = [Mount(source=Path("/models/m"), target=Path("/model"))]
    return list(container_command(asked, INNER, mounts, port=8123, labels={RUN_LABEL: "r1"}).argv)


def test_the_command_line_publishes_on_loopback_and_mounts_read_only() -> None:
    assert everything(Runtime.docker) == [
        *("docker", "run", "--rm", "--publish", "127.0.0.1:8123:8000", "--label", "quantbench.run=r1"),
        *("--gpus", '"device=0,1"', "--shm-size", "1g"),
        *("--mount", "type=bind,source=/models/m,target=/model,readonly"),
        *("--volume", "cache:/cache", "--volume", "/data:/data:ro", "--env", "API_KEY", "--env", "B"),
        *("--entrypoint", "/bin/serve", "--ulimit", "nofile=1024:1024", "name:tag", "/model", "--port", "8000"),
    ]


def test_values_of_variables_stay_in_the_environment() -> None:
    made = container_command(config(), INNER, [], port=1, labels={})
    assert "secret-key" not in " ".join(made.argv)
    assert (made.env, made.secret_env) == ({"B": "2"}, {"API_KEY": "secret-key"})


@pytest.mark.parametrize("runtime", list(Runtime))
@pytest.mark.parametrize("where", ["recorded", "real"])
def test_every_option_is_one_that_the_runtime_knows(runtime: Runtime, where: str) -> None:
    if where == "recorded":
        takes = {row["flag"]: row["value"] for row in read_table(RECORDED / f"{runtime}_run.tsv")}
    else:
        if shutil.which(runtime) is None:
            pytest.skip(f"{runtime} is not installed")
        text = subprocess.run([runtime, "run", "--help"], capture_output=True, text=True, check=True).stdout
        takes = {found[1]: found[2] or "" for found in re.finditer(r"^ +(?:-\w, )?(--[\w-]+)(?: (\S+))?  ", text, re.M)}
    ours = everything(runtime)
    used = given_flags(ours[: ours.index("--ulimit")])
    assert {"--rm", "--publish", "--label", "--shm-size", "--mount", "--volume", "--env", "--entrypoint"} <= dict(
        used
    ).keys()
    for flag, value in used:
        assert flag in takes, flag
        assert (value is None) == (takes[flag] == ""), flag


def test_gpus_are_asked_for_in_the_runtimes_own_words() -> None:
    def words(asked: ContainerConfig) -> list[str]:
        argv = list(container_command(asked, INNER, [], port=1, labels={}).argv)
        return argv[5 : argv.index("--env")]

    assert words(config()) == []
    assert words(config(gpus="all")) == ["--gpus", "all"]
    assert words(config(Runtime.podman, gpus="all")) == ["--device", "nvidia.com/gpu=all"]
    assert words(config(Runtime.podman, gpus="0,2")) == [
        *("--device", "nvidia.com/gpu=0"),
        *("--device", "nvidia.com/gpu=2"),
    ]


@pytest.mark.parametrize(
    "extra",
    [
        ["--network=host"],
        ["--network", "host"],
        ["--net", "host"],
        ["-p", "80:80"],
        ["-p80:80"],
        ["--publish=80:80"],
        ["-P"],
        ["-d"],
        ["--detach"],
        ["-e", "TOKEN=x"],
        ["-eTOKEN=x"],
        ["--env=TOKEN=x"],
        ["--restart=always"],
        ["--gpus", "all"],
    ],
)
def test_what_would_undo_our_promises_is_refused(extra: list[str]) -> None:
    with pytest.raises(ValueError, match=r"engine\.container\.extra_args: "):
        config(extra_args=extra)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"image": "--privileged"}, "is not an image"),
        ({"port": 0}, "port=0 is not a port"),
        ({"volumes": ["data"]}, "'data' is not a volume"),
        ({"cache": "/data:data"}, "'/data:data' is not a volume"),
        ({"omit_words": -1}, "omit_words=-1"),
    ],
)
def test_settings_that_cannot_be_are_refused(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        config(**settings)


def test_a_variable_that_would_change_the_runtime_is_refused() -> None:
    inner = Command(argv=["serve"], env={"LD_PRELOAD": "x.so"})
    with pytest.raises(UsageError, match="LD_PRELOAD would change docker itself"):
        container_command(config(), inner, [], port=1, labels={})


# ---- the model


def test_a_file_and_a_folder_are_mounted_as_they_are(tmp_path: Path) -> None:
    (tmp_path / "model.gguf").touch()
    mounts, inside = model_mounts(tmp_path / "model.gguf", "gguf")
    assert (mounts[0].source, inside) == (tmp_path / "model.gguf", Path("/model/model.gguf"))
    assert mounts[0].target == inside
    mounts, inside = model_mounts(tmp_path, "hf")
    assert [(mount.source, mount.target) for mount in mounts] == [(tmp_path, Path("/model"))]
    assert inside == Path("/model")


def test_links_are_followed_because_they_lead_nowhere_inside(tmp_path: Path) -> None:
    source, artefact = tmp_path / "source", tmp_path / "artefact"
    source.mkdir()
    (source / "model.safetensors").write_text("weights")
    artefact.mkdir()
    (artefact / "manifest.json").write_text("{}")
    (artefact / "model.safetensors").symlink_to(source / "model.safetensors")
    mounts, _ = model_mounts(artefact, "hf")
    assert [(mount.source, str(mount.target)) for mount in mounts] == [
        (artefact / "manifest.json", "/model/manifest.json"),
        (source / "model.safetensors", "/model/model.safetensors"),
    ]


def test_a_path_that_no_option_can_carry_is_refused() -> None:
    with pytest.raises(UsageError, match="a path with a comma"):
        Mount(source=Path("/a,b"), target=Path("/model")).words()


# ---- whole engines


def test_an_engine_listens_inside_and_is_published_outside() -> None:
    asked = TgiConfig(container=config(port=80), env={"NCCL_DEBUG": "WARN"}, pass_env=["HF_TOKEN"])
    model = ServedModel(format="hf", path=Path("/models/m"), name="m")
    made = engine_command(engine_of(asked), asked, model, LAUNCH, None, handed_over={"HF_TOKEN": "hf_x"})
    line = " ".join(made.argv)
    assert "127.0.0.1:8123:80 " in line
    assert line.endswith(
        "name:tag --model-id /model --hostname 0.0.0.0 --port 80 --usage-stats off --max-total-tokens 2048"
    )
    assert "--env HF_TOKEN --env NCCL_DEBUG" in line
    assert "hf_x" not in line
    assert made.secret_env == {"HF_TOKEN": "hf_x"}


def test_files_that_a_command_needs_are_mounted_too() -> None:
    asked = TensorRtLlmConfig(container=config(omit_words=0))
    model = ServedModel(format="hf", path=Path("/models/m"), name="m")
    made = engine_command(engine_of(asked), asked, model, LAUNCH, None, files=Path("/run/files"))
    assert made.argv[-2:] == ["--extra_llm_api_options", f"/quantbench/{OPTIONS_FILE}"]
    assert f"type=bind,source=/run/files/{OPTIONS_FILE},target=/quantbench/{OPTIONS_FILE},readonly" in made.argv
    assert "trtllm-serve serve /model" in " ".join(made.argv)


def test_what_is_no_program_is_not_served_out_of_an_image() -> None:
    asked = XllamacppConfig(container=config())
    answer = engine_of(asked).serves(asked, "gguf")
    assert answer.answer is SupportAnswer.NO
    assert "not by a program of an image" in answer.reason
    assert engine_of(asked).serves(type(asked)(), "gguf").answer is SupportAnswer.YES


@pytest.mark.parametrize(
    "places",
    [
        {"container": config(), "executable": "x"},
        {"container": config(), "base_url": "http://x"},
        {"executable": "x", "base_url": "http://x"},
    ],
)
def test_an_engine_has_one_place(places: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match="are two places for one engine"):
        EngineConfig(**places)


@pytest.mark.parametrize("settings", [{"gpus": "all"}, {"shm_size": "1g"}, {"runtime": Runtime.podman}])
def test_settings_of_a_container_belong_to_an_image(settings: dict[str, Any]) -> None:
    (name,) = settings
    with pytest.raises(ValueError, match=rf"engine\.container\.{name} belongs to an image"):
        EngineConfig(container=ContainerConfig(**settings))
    assert EngineConfig(container=config(**settings)).container.image


@pytest.mark.parametrize("kind", [TgiConfig, TensorRtLlmConfig])
def test_engines_of_gpus_need_some_in_their_container(
    kind: type[EngineConfig], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("bench.engines.gpu.has_gpu", lambda: True)
    with pytest.raises(UsageError, match=r"its container is given none: engine\.container\.gpus=all"):
        engine_of(kind()).check_machine(kind(container=config()))
    engine_of(kind()).check_machine(kind(container=config(gpus="all")))


# ---- the end of containers, with a runtime of files


@pytest.fixture
def running(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A runtime on the path whose containers are the files of the folder that is returned."""
    folder = tmp_path / "bin" / "containers"
    folder.mkdir(parents=True)
    program = tmp_path / "bin" / "docker"
    source = (CHECKOUT / "tests" / "plugins" / "fake_docker.py").read_text()
    program.write_text(f"#!{sys.executable}\n{source}")
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{program.parent}{os.pathsep}{os.environ['PATH']}")
    return folder


def put(folder: Path, name: str, labels: dict[str, str]) -> Path:
    path = folder / name
    path.write_text(json.dumps(labels))
    return path


def test_what_carries_the_label_has_ended_on_leaving(running: Path) -> None:
    other = put(running, "other", {RUN_LABEL: "another"})
    with guarded(Runtime.docker) as labels:
        ours = put(running, "ours", dict(labels))
        assert labels[OWNER_LABEL] == owner(os.getpid())
    assert not ours.exists()
    assert other.exists()


KILLED = """
import json, sys, time
from pathlib import Path
from bench.engines.container import Runtime, guarded
with guarded(Runtime.docker) as labels:
    (Path(sys.argv[1]) / "ours").write_text(json.dumps(dict(labels)))
    print("running", flush=True)
    time.sleep(60)
"""


def test_the_guard_ends_them_when_the_harness_is_killed(running: Path) -> None:
    with subprocess.Popen(
        [sys.executable, "-c", KILLED, str(running)], stdout=subprocess.PIPE, text=True, cwd=CHECKOUT
    ) as harness:
        assert harness.stdout is not None
        assert harness.stdout.readline() == "running\n"
        harness.send_signal(signal.SIGKILL)
    assert wait_until(lambda: not (running / "ours").exists(), timeout_s=20)


def test_a_container_that_appears_late_is_ended_too(running: Path) -> None:
    with guarded(Runtime.docker) as labels:
        late = json.dumps(dict(labels))
        delayed = f"import time, pathlib; time.sleep(0.6); pathlib.Path({str(running / 'late')!r}).write_text({late!r})"
        client = subprocess.Popen([sys.executable, "-c", delayed])
    client.wait()
    time.sleep(0.1)
    assert not (running / "late").exists()


def test_a_runtime_that_fails_for_a_while_is_asked_again(running: Path) -> None:
    down = running.parent / "down"
    with guarded(Runtime.docker) as labels:
        ours = put(running, "ours", dict(labels))
        down.touch()
        recovery = threading.Timer(4.0, down.unlink)
        recovery.start()
    recovery.join()
    assert not ours.exists()


def test_a_containers_process_is_found_once_there_is_one(running: Path) -> None:
    clock = FakeClock()
    found = ContainerProcess(Runtime.docker, f"{RUN_LABEL}=r1", clock=clock)

    def later() -> int | None:
        clock.sleep_ns(2 * NS_PER_S)
        return found.find()

    assert found.find() is None
    put(running, "ours", {RUN_LABEL: "r1", "pid": "0"})
    put(running, "other", {RUN_LABEL: "r2", "pid": str(os.getpid())})
    assert later() is None, "it was made and does not run yet"
    with subprocess.Popen(["sleep", "60"]) as first:
        put(running, "ours", {RUN_LABEL: "r1", "pid": str(first.pid)})
        assert found.find() is None, "it was asked a moment ago"
        assert later() == first.pid
        first.kill()


@pytest.mark.parametrize("pid", [1, 2**22 + 1])
def test_a_number_that_is_another_machines_is_no_process_here(running: Path, pid: int) -> None:
    put(running, "ours", {RUN_LABEL: "r1", "pid": str(pid)})
    found = ContainerProcess(Runtime.docker, f"{RUN_LABEL}=r1", clock=FakeClock())
    assert found.find() is None


def test_the_next_start_ends_what_a_dead_owner_left_and_nothing_else(running: Path) -> None:
    mine = owner(os.getpid())
    place = mine.rsplit(".", 2)[0]
    gone = put(running, "gone", {OWNER_LABEL: f"{place}.999999999.1"})
    reused = put(running, "reused", {OWNER_LABEL: f"{place}.{os.getpid()}.1"})
    alive = put(running, "alive", {OWNER_LABEL: mine})
    elsewhere = put(running, "elsewhere", {OWNER_LABEL: "another-boot.4026531836.999999999.1"})
    end_ownerless(Runtime.docker)
    assert (gone.exists(), reused.exists()) == (False, False)
    assert alive.exists()
    assert elsewhere.exists()


def test_an_image_is_named_by_its_content(running: Path) -> None:
    assert image_id(config(image="here"), Progress()) == "sha256:of-here"
    with pytest.raises(ToolchainError, match=r"engine\.container\.image=absent cannot be had: .*pull access denied"):
        image_id(config(image="absent"), Progress())


def test_a_runtime_that_is_not_there_is_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(UsageError, match=r"engine\.container\.runtime=podman: there is no such program"):
        image_id(config(Runtime.podman), Progress())
