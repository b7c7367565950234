"""Command lines that cannot be understood end in one line that says what to do."""

from __future__ import annotations

import pytest

from bench.cli.main import main


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--quiet", "evaluate"], "--quiet stands after the command: quantbench evaluate --quiet"),
        (["evaluate", "--quet"], "evaluate: unknown option --quet; did you mean '--quiet'?"),
        (["evaluate", "scheme"], "evaluate: 'scheme' is not KEY=VALUE"),
    ],
)
def test_one_line_says_what_is_wrong(words: list[str], said: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(words) == 2
    complaint = capsys.readouterr().err
    assert said in complaint
    assert complaint.count("\n") == 1
