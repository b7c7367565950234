"""Models that think before they answer: told by their chat template, and never asked for a letter at once."""

from __future__ import annotations

import json
from pathlib import Path

from bench.base.errors import UsageError
from bench.engines.scoring import ScorableModel

#: In templates of models that write their thoughts first, or can be told not to.
_MARKS = ("<think>", "enable_thinking", "[THINK]", "<|channel|>analysis")


def chat_template(model: ScorableModel) -> str | None:
    """The template that the model's files hold; None where they hold none, or are not here."""
    if model.format == "gguf":
        return _of_gguf(model.path)
    beside = model.path / "chat_template.jinja"
    try:
        if beside.is_file():
            return beside.read_text(encoding="utf-8")
        settings = json.loads((model.path / "tokenizer_config.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    found = settings.get("chat_template")
    return found if isinstance(found, str) else None if found is None else json.dumps(found)


def thinks(template: str | None) -> bool:
    """Whether a template is that of a model that thinks before it answers."""
    return template is not None and any(mark in template for mark in _MARKS)


def refuse_thinking(model: ScorableModel) -> None:
    """Raise UsageError where the first token of an answer would be a thought's."""
    if thinks(chat_template(model)):
        raise UsageError(
            f"{model.label} thinks before it answers (its chat template says so), so the likeliest first letter says "
            "nothing: use task=served_multiple_choice with task.api=chat, which switches thinking off, or a task that "
            "takes the answer out of a text, such as task=exact_match"
        )


def _of_gguf(path: Path) -> str | None:
    from quantize.gguf_file import read_gguf

    try:
        found = read_gguf(path).metadata.get("tokenizer.chat_template")
    except (UsageError, OSError):
        return None
    return found if isinstance(found, str) else None
