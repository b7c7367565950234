"""The edit of llama.cpp's source changes how fast the nearest level is found, and nothing else."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest

from bench.toolchains.config import StepKind, VenvConfig, load_toolchain_config

PROGRAM = """
#include <math.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>
static const int8_t LEVELS[16] = {-127,-104,-83,-65,-49,-35,-22,-10,1,13,25,38,53,69,89,113};
static int before(int n, const int8_t * val, float x) {
%s
static int after(int n, const int8_t * val, float x) {
%s
int main(void) {
    long differ = 0, tried = 0;
    for (uint64_t bits = 0; bits < (1ull << 32); bits += 211) {  // every kind of number, with every sign and exponent
        uint32_t word = (uint32_t) bits; float x; memcpy(&x, &word, 4);
        differ += before(16, LEVELS, x) != after(16, LEVELS, x); ++tried;
    }
    for (int i = 0; i + 1 < 16; ++i) {  // around every tie
        float x = (LEVELS[i] + LEVELS[i+1]) / 2.f;
        for (int step = 0; step < 1000; ++step) x = nextafterf(x, -1e9f);
        for (int step = 0; step < 2000; ++step, x = nextafterf(x, 1e9f)) {
            differ += before(16, LEVELS, x) != after(16, LEVELS, x); ++tried;
        }
    }
    printf("%%ld of %%ld\\n", differ, tried);
    return differ != 0;
}
"""


def test_the_edited_search_finds_what_the_original_finds(tmp_path: Path) -> None:
    compiler = shutil.which("cc")
    if compiler is None:
        pytest.skip("no C compiler")
    config = load_toolchain_config("llama_cpp")
    assert isinstance(config, VenvConfig)
    edit = next(step for step in config.steps if step.kind is StepKind.edit_source)
    bodies = [text.partition("\n\n//")[0] for text in (edit.before, edit.after)]
    source = tmp_path / "levels.c"
    source.write_text(PROGRAM % tuple(bodies))
    subprocess.run([compiler, "-O2", "-o", tmp_path / "levels", source, "-lm"], check=True)
    found = subprocess.run([tmp_path / "levels"], check=False, capture_output=True, text=True, timeout=120)
    assert found.returncode == 0, found.stdout
    assert found.stdout.startswith("0 of 20")
