"""From a calibration file to token ids: what every calibrating worker does alike. Workers load it by path.

The file is JSON lines of {"text": …} or {"messages": […]}. One line of text is one long text, cut into windows; several
lines are samples of their own. What was used of them is written down as text too, where that is asked for.
"""

import itertools
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any


def token_windows(tokenizer: Any, asked: dict[str, Any]) -> tuple[list[list[int]], dict[str, Any]]:
    """Token ids of every sample, and what was used: {tokens, windows, overlapping, truncated}.

    `asked` holds `file`, `samples`, `length` (tokens), `chat_template`, and in `used` the file into which the text of
    every sample goes, if any. Raises ValueError when nothing is left.
    """
    windows, used = chosen_windows(tokenizer, asked)
    if asked.get("used"):
        write_texts(Path(asked["used"]), tokenizer, windows)
    return windows, used


def write_texts(file: Path, tokenizer: Any, windows: list[list[int]]) -> None:
    """JSON lines of {"text": …}: each sample as far as it was used, without special tokens."""
    with file.open("w", encoding="utf-8") as stream:
        for ids in windows:
            text = tokenizer.decode(ids, skip_special_tokens=True, clean_up_tokenization_spaces=False)
            print(json.dumps({"text": text}), file=stream)


def chosen_windows(tokenizer: Any, asked: dict[str, Any]) -> tuple[list[list[int]], dict[str, Any]]:
    """The same, without writing anything."""
    # Not splitlines, which also cuts at U+2028 and the like in a string.
    lines = [json.loads(line) for line in Path(asked["file"]).read_text(encoding="utf-8").split("\n") if line]
    if len(lines) == 1 and "text" in lines[0] and not asked["chat_template"]:
        return cut(encode(tokenizer, lines[0], chat_template=False), asked["samples"], asked["length"])
    encoded = [encode(tokenizer, line, chat_template=asked["chat_template"]) for line in lines[: asked["samples"]]]
    windows = [ids[: asked["length"]] for ids in encoded if len(ids) > 1]
    if not windows:
        raise ValueError("no calibration sample has two tokens or more")
    return windows, {
        "tokens": sum(map(len, windows)),
        "windows": len(windows),
        "overlapping": False,
        "truncated": sum(len(ids) > asked["length"] for ids in encoded),
    }


def encode(tokenizer: Any, line: dict[str, Any], *, chat_template: bool) -> list[int]:
    """Ids of one line; messages always go through the chat template, a text only where that is asked."""
    if "messages" not in line and not chat_template:
        return list(tokenizer(line["text"], add_special_tokens=True)["input_ids"])
    messages = line.get("messages") or [{"role": "user", "content": line["text"]}]
    if tokenizer.chat_template is None:
        raise ValueError("the model has no chat template, but the calibration samples are messages or ask for one")
    rendered = tokenizer.apply_chat_template(messages, tokenize=False)
    return list(tokenizer(rendered, add_special_tokens=False)["input_ids"])


def cut(ids: Sequence[int], samples: int, length: int) -> tuple[list[list[int]], dict[str, Any]]:
    """`samples` windows of `length` tokens spread evenly over a text; where it is too short for them they overlap.

    None begins less than half a length after another, but for the last: a short text gives fewer windows, because more
    would take time and tell nothing. A text shorter than one window is one window.
    """
    length = min(length, len(ids))
    if length < 2:
        raise ValueError("the calibration text has less than two tokens")
    last = len(ids) - length
    count = min(samples, 1 + -(-last // (length // 2)))
    starts = [round(index * last / max(1, count - 1)) for index in range(count)]
    windows = [list(ids[start : start + length]) for start in starts]
    overlapping = any(after - before < length for before, after in itertools.pairwise(starts))
    covered = len(ids) if overlapping else count * length
    return windows, {
        "tokens": covered,
        "windows": count,
        "overlapping": overlapping,
        "truncated": 0,
    }
