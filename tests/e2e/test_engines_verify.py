"""`quantbench engines verify` against an engine that runs."""

from __future__ import annotations

import json
from collections.abc import Callable

import pytest

from tests.support import Workspace

pytestmark = pytest.mark.llama_cpp


def test_what_the_table_says_of_llama_cpp_holds(make_workspace: Callable[[str], Workspace]) -> None:
    workspace = make_workspace("verify")
    arguments = ("engines", "verify", "llama_cpp", "scheme=gguf_q8_0", "engine.threads=1", "--json-lines", "out=seen")
    answer = workspace.run(*arguments)
    assert answer.returncode == 0, answer.stdout + answer.stderr
    records = [json.loads(line) for line in answer.stdout.splitlines()]
    (row,) = [record for record in records if record["event"] == "seen"]
    assert (row["format"], row["variant"], row["table"]) == ("gguf", "Q8_0", "yes")
    assert (row["loads"], row["generates"], row["tokens_counted"], row["metrics_read"]) == (True, True, True, True)
    assert records[-1]["holds"] is True
    assert (workspace.folder / "seen" / "run.json").is_file()
    broken = workspace.run(*arguments[:-1], "out=broken", "engine.extra_args=[--no-such-flag]")
    assert broken.returncode == 1
    records = [json.loads(line) for line in broken.stdout.splitlines()]
    (row,) = [record for record in records if record["event"] == "seen"]
    assert (row["loads"], row["failure"]) == (False, "crashed")
    assert "--no-such-flag" in row["log_tail"]
    (correction,) = [record["correction"] for record in records if "correction" in record]
    assert correction.startswith("llama_cpp on cpu, gguf: yes → no (crashed: ")
