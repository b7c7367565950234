"""The extras of pyproject.toml: what people look for by name, at the versions of the toolchains' locks."""

from __future__ import annotations

import re
import tomllib

import pytest
from omegaconf import OmegaConf

from tests.support import CHECKOUT

CONF = CHECKOUT / "conf" / "toolchain"
TEXT = (CHECKOUT / "pyproject.toml").read_text(encoding="utf-8")
EXTRAS: dict[str, list[str]] = tomllib.loads(TEXT)["project"]["optional-dependencies"]
NAMED = {
    *("vllm", "autoawq", "auto-gptq", "llama-cpp", "transformers", "lm-eval", "datasets", "llmcompressor"),
    *("gptqmodel", "bitsandbytes"),
}
#: Extra → the toolchain that the comment above it names.
TOOLCHAINS = {extra: name for name, extra in re.findall(r"^# toolchain (\w+).*\n([\w-]+) = \[", TEXT, re.MULTILINE)}
_PIN = re.compile(r"^([\w.-]+)==([\w.]+)", re.MULTILINE)


def locked(toolchain: str) -> set[tuple[str, str]]:
    """Every distribution and version in the locks that a toolchain installs."""
    steps = OmegaConf.load(CONF / f"{toolchain}.yaml").steps
    names = [str(step.lock) for step in steps if "lock" in step]
    return {pin for name in names for pin in _PIN.findall((CONF / "locks" / name).read_text(encoding="utf-8"))}


def test_all_named_packages_are_extras() -> None:
    assert set(EXTRAS) - {"dev"} == NAMED
    assert set(TOOLCHAINS) == NAMED
    assert "quantbench toolchain install NAME" in TEXT


@pytest.mark.parametrize("extra", sorted(NAMED))
def test_an_extra_is_pinned_as_its_toolchain_is(extra: str) -> None:
    pins = [_PIN.fullmatch(requirement) for requirement in EXTRAS[extra]]
    assert pins
    for pin in pins:
        assert pin is not None, "an exact version"
        if extra in TOOLCHAINS:
            assert (pin[1], pin[2]) in locked(TOOLCHAINS[extra])


def test_plain_dependencies_are_those_of_the_harness() -> None:
    plain = tomllib.loads(TEXT)["project"]["dependencies"]
    assert {"pandas", "matplotlib", "hydra-core"} <= {re.split(r"[<>=]", requirement)[0] for requirement in plain}
    assert not {re.split(r"[<>=]", requirement)[0] for requirement in plain} & NAMED
