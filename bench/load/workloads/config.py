"""Workloads from files: `jsonl`, `sharegpt`."""

from __future__ import annotations

from dataclasses import dataclass

from bench.base.schema import not_identity, schema
from bench.load.config import MISSING, WorkloadConfig


@dataclass(frozen=True, kw_only=True)
class FileConfig(WorkloadConfig):
    """Prompts out of a file, in its order or shuffled from `seed`; where it ends, it begins again.

    A prefix cache can answer prompts that come again, and what they share: `cached_share` says how much it did.
    """

    path: str = not_identity(MISSING)
    shuffle: bool = False
    ignore_eos: bool = False

    def files(self) -> dict[str, str]:
        return {"path": self.path}


@schema("workload", "jsonl")
@dataclass(frozen=True, kw_only=True)
class JsonlConfig(FileConfig):
    """One JSON object a line: `prompt` (text, or token ids), `messages` (a chat whole), or `turns` (what a user says in
    a session, with the real answers in between); beside it `output_tokens` and `extra` (body keys), where they differ.
    """

    kind: str = "jsonl"


@schema("workload", "sharegpt")
@dataclass(frozen=True, kw_only=True)
class ShareGptConfig(FileConfig):
    """Conversations in ShareGPT's format: a JSON list of `{"conversations": [{"from": "human", "value": …}, …]}`.

    Asked is what the human says first; with `sessions` all of it, with the real answers in between. With
    `recorded_lengths` each answer may be as long as the recorded one, else `output_tokens`. As vLLM's benchmark does,
    conversations are left out whose first prompt or answer is shorter than `fewest_tokens`, whose prompt is longer than
    `most_prompt_tokens`, or whose prompt and answer are longer than `most_tokens`.
    """

    kind: str = "sharegpt"
    shuffle: bool = True
    sessions: bool = False
    recorded_lengths: bool = True
    fewest_tokens: int = 4
    most_prompt_tokens: int = 1024
    most_tokens: int = 2048

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.fewest_tokens < 1:
            raise ValueError(f"fewest_tokens is {self.fewest_tokens}; it must be at least 1")
        if self.most_tokens < self.most_prompt_tokens or self.most_prompt_tokens < self.fewest_tokens:
            raise ValueError("most_tokens, most_prompt_tokens and fewest_tokens must not increase in this order")

    def shares_prefixes(self) -> bool:
        return self.sessions
