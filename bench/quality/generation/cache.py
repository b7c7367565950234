"""Answers kept on disk as they come, so that an interrupted evaluation goes on where it was."""

from __future__ import annotations

import dataclasses
import json
import os
from pathlib import Path

from bench.quality.generation.ask import Answer, Request


class AnswerStore:
    """One file of JSON lines for what one model on one engine answered, by the digest of what was asked.

    Each line is one write to the end of the file, so that a killed process loses the answer it was writing at most and
    several processes may share the file. Failures are not kept: they are asked again.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._known: dict[str, Answer] | None = None

    def get(self, request: Request) -> Answer | None:
        """What was answered before."""
        return self._loaded().get(request.digest)

    def put(self, request: Request, answer: Answer) -> None:
        """Keep an answer."""
        if answer.error is not None:
            return
        self._loaded()[request.digest] = answer
        line = json.dumps({"digest": request.digest, "answer": dataclasses.asdict(answer)}, ensure_ascii=False)
        self.path.parent.mkdir(parents=True, exist_ok=True)
        descriptor = os.open(self.path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o644)
        try:
            # A line that a killed process left unfinished must not swallow this one.
            os.write(descriptor, b"\n" + line.encode("utf-8", errors="surrogatepass") + b"\n")
        finally:
            os.close(descriptor)

    def _loaded(self) -> dict[str, Answer]:
        if self._known is None:
            self._known = {}
            try:
                lines = self.path.read_bytes().splitlines()
            except FileNotFoundError:
                lines = []
            for line in lines:
                try:
                    entry = json.loads(line)
                    self._known[entry["digest"]] = Answer(**entry["answer"])
                except (ValueError, KeyError, TypeError):
                    continue
        return self._known
