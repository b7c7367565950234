"""Multiple-choice questions in the classic MMLU layout, and the prompts made of them.

A folder holds `test/<subject>_test.csv` with the questions and `dev/<subject>_dev.csv` with the shots; rows have no
header and six fields: question, four choices, the letter of the right one. Or it holds `test*.parquet` and
`dev*.parquet` in the layout of `cais/mmlu`: question, subject, choices, the number of the right one. Prompts are, to
the character, those of EleutherAI's lm-evaluation-harness for its `mmlu` tasks.
"""

from __future__ import annotations

import csv
import hashlib
import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bench.base.errors import UsageError, nearest
from bench.base.hashing import canonical_json, sha256_file
from bench.engines.scoring import PromptGroup
from bench.quality.config import DEFAULT_QUESTIONS, MMLU, MultipleChoiceConfig
from bench.quality.rows import data_file, read_rows

LETTERS = ("A", "B", "C", "D")
#: What is scored after a prompt: the letters as lm-eval's target delimiter makes them.
CONTINUATIONS = tuple(f" {letter}" for letter in LETTERS)
_SHIPPED = Path(__file__).parent / "texts" / "questions"
_SUFFIX = "_test.csv"
#: All 57 subjects of `cais/mmlu`, at the commit that holds them as Parquet.
_HUB = "cais/mmlu/all/{split}-00000-of-00001.parquet@c30699e8356da336a370243923dbaf21066bb9fe"


@dataclass(frozen=True, kw_only=True)
class Question:
    """One row; `number` counts the rows of its file from 1."""

    number: int
    text: str
    choices: tuple[str, str, str, str]
    answer: str


@dataclass(frozen=True, kw_only=True)
class Subject:
    """The shots of a subject and the questions asked about it."""

    name: str
    shots: tuple[Question, ...]
    questions: tuple[Question, ...]


def load_subjects(config: MultipleChoiceConfig) -> list[Subject]:
    """What `config` asks for, subjects by name. Raises UsageError naming file and line of what cannot be used."""
    loaded = []
    for name, questions, shots, where in _sources(config):
        if len(shots) < config.shots:
            raise UsageError(f"task.shots={config.shots}: {where} has only {len(shots)} rows; ask for fewer shots")
        chosen = _choose(questions, name, config)
        loaded.append(Subject(name=name, shots=tuple(shots[: config.shots]), questions=chosen))
    return loaded


def data_digest(config: MultipleChoiceConfig) -> str:
    """What identifies the data in keys and summaries: the content of every file that is read."""
    tables = _tables(config)
    if tables is not None:
        test, dev = tables
        files: list[Any] = [sha256_file(test), None if dev is None else sha256_file(dev), sorted(set(config.subjects))]
    else:
        files = [
            (name, sha256_file(test), sha256_file(dev) if config.shots else None) for name, test, dev in _files(config)
        ]
    return f"sha256:{hashlib.sha256(canonical_json(files)).hexdigest()}"


def _sources(
    config: MultipleChoiceConfig,
) -> Iterator[tuple[str, tuple[Question, ...], tuple[Question, ...], Path]]:
    """Each subject's name, questions and shots, and the file of the shots."""
    tables = _tables(config)
    if tables is None:
        for name, test, dev in _files(config):
            yield name, read_questions(test), read_questions(dev) if config.shots else (), dev
        return
    test, dev_or_none = tables
    questions = _by_subject(test)
    shots = {} if dev_or_none is None else _by_subject(dev_or_none)
    for name in sorted(set(config.subjects)) or sorted(questions):
        if name not in questions:
            raise UsageError(f"task.subjects: {test} has no '{name}'; {nearest(name, questions)}")
        yield name, questions[name], shots.get(name, ()), dev_or_none or test


def _tables(config: MultipleChoiceConfig) -> tuple[Path, Path | None] | None:
    """The Parquet files of questions and, where any are asked, of shots; None for data in another layout."""
    if config.data == MMLU:
        files = [f"hub:{_HUB.format(split=split)}" for split in ("test", "dev")]
        return data_file("task.data", files[0]), data_file("task.data", files[1]) if config.shots else None
    root = Path(config.data).expanduser().resolve()
    if config.data == DEFAULT_QUESTIONS or not root.is_dir():
        return None
    found = {split: sorted(root.glob(f"{split}*.parquet")) for split in ("test", "dev")}
    if not found["test"]:
        return None
    for split, paths in found.items():
        if len(paths) != 1 and (split == "test" or config.shots):
            raise UsageError(f"task.data: {root} has {len(paths)} {split}*.parquet; give one, or ask with task.shots=0")
    return found["test"][0], found["dev"][0] if config.shots else None


def _by_subject(path: Path) -> dict[str, tuple[Question, ...]]:
    """The questions of a table, by subject; `number` counts a subject's rows."""
    found: dict[str, list[Question]] = {}
    rows = read_rows(path, "task.data", ("question", "subject", "choices", "answer"))
    for number, row in enumerate(rows, start=1):
        choices, answer = row["choices"], row["answer"]
        if len(choices) != len(LETTERS) or answer not in range(len(LETTERS)):
            raise UsageError(f"task.data: {path}, row {number}: not four choices and the number of the right one")
        own = found.setdefault(str(row["subject"]), [])
        own.append(
            Question(
                number=len(own) + 1,
                text=row["question"],
                choices=(choices[0], choices[1], choices[2], choices[3]),
                answer=LETTERS[answer],
            )
        )
    return {name: tuple(questions) for name, questions in found.items()}


def read_questions(path: Path) -> tuple[Question, ...]:
    """The rows of one CSV file. Raises UsageError with file and line."""
    questions: list[Question] = []
    try:
        with path.open(encoding="utf-8-sig", newline="") as stream:
            reader = csv.reader(stream, strict=True)
            try:
                questions.extend(
                    _question(row, number, f"{path}, line {reader.line_num}")
                    for number, row in enumerate(filter(None, reader), start=1)
                )
            except csv.Error as error:
                raise UsageError(f"{path}, line {reader.line_num}: not valid CSV ({error})") from None
    except UnicodeDecodeError as error:
        raise UsageError(f"{path} is not UTF-8 text (byte {error.start})") from None
    except OSError as error:
        raise UsageError(f"{path} cannot be read ({error.strerror})") from error
    if not questions:
        raise UsageError(f"{path} has no questions")
    return tuple(questions)


def prompt_group(subject: Subject) -> PromptGroup:
    """The prompts of a subject: description and shots as the common prefix, one ending a question.

    lm-eval: description, then per shot its text, the target delimiter (a space), the letter and the few-shot delimiter
    (a blank line), then the question's text; the continuation scored after it is a space and a letter.
    """
    shots = "".join(f"{_asked(shot)} {shot.answer}\n\n" for shot in subject.shots)
    about = subject.name.replace("_", " ")
    return PromptGroup(
        prefix=f"The following are multiple choice questions (with answers) about {about}.\n\n{shots}",
        endings=tuple(_asked(question) for question in subject.questions),
    )


def _asked(question: Question) -> str:
    choices = "".join(f"{letter}. {choice}\n" for letter, choice in zip(LETTERS, question.choices, strict=True))
    return f"{question.text.strip()}\n{choices}Answer:"


def _question(row: Sequence[str], number: int, where: str) -> Question:
    if len(row) != 6:
        raise UsageError(f"{where}: {len(row)} fields, expected 6: question, four choices, the letter of the answer")
    text, a, b, c, d, answer = row
    answer = answer.strip()
    if answer not in LETTERS:
        hint = "; the files have no header" if number == 1 and answer.lower() == "answer" else ""
        raise UsageError(f"{where}: the answer '{answer[:40]}' is not one of {', '.join(LETTERS)}{hint}")
    if not text.strip():
        raise UsageError(f"{where}: the question is empty")
    return Question(number=number, text=text, choices=(a, b, c, d), answer=answer)


def _files(config: MultipleChoiceConfig) -> list[tuple[str, Path, Path]]:
    """Name, test file and dev file of every subject asked for."""
    root = _SHIPPED if config.data == DEFAULT_QUESTIONS else Path(config.data).expanduser().resolve()
    if not root.is_dir():
        raise UsageError(
            f"task.data: there is no folder {root}; give one with test/ and dev/ in MMLU's layout, '{MMLU}' for those "
            f"of a hub, or '{DEFAULT_QUESTIONS}' for the shipped questions"
        )
    known = {path.name.removesuffix(_SUFFIX): path for path in sorted((root / "test").glob(f"*{_SUFFIX}"))}
    if not known:
        raise UsageError(f"task.data: {root / 'test'} has no SUBJECT{_SUFFIX}, so it is not MMLU's layout")
    wanted = sorted(set(config.subjects)) or list(known)
    found = []
    for name in wanted:
        if name not in known:
            raise UsageError(f"task.subjects: {root} has no '{name}'; {nearest(name, known)}")
        dev = root / "dev" / f"{name}_dev.csv"
        if config.shots and not dev.is_file():
            raise UsageError(f"task.shots={config.shots}: there is no {dev}; give it, or ask with task.shots=0")
        found.append((name, known[name], dev))
    return found


def _choose(questions: Sequence[Question], subject: str, config: MultipleChoiceConfig) -> tuple[Question, ...]:
    """All, the first `limit`, or with a seed `limit` of them drawn without replacement, in the file's order."""
    if not config.limit or config.limit >= len(questions):
        return tuple(questions)
    if config.seed is None:
        return tuple(questions[: config.limit])
    # The subject's name in the seed: a subject's draw does not depend on which others are asked.
    drawn = random.Random(f"{config.seed} {subject}").sample(range(len(questions)), config.limit)  # noqa: S311
    return tuple(questions[place] for place in sorted(drawn))
