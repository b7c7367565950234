"""Reading MMLU's CSV layout, and prompts that are lm-eval's to the character."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import pytest

from bench.base.errors import UsageError
from bench.pipeline.keys import task_key
from bench.quality.config import MultipleChoiceConfig
from bench.quality.mmlu import data_digest, load_subjects, prompt_group, read_questions
from tests.support import test_data as data_file

ROW = "What is {n}?,one,two,three,four,{letter}\n"


def layout(root: Path, subject: str = "some_subject", *, rows: int = 6, shots: int = 5) -> Path:
    """A folder of one more subject; questions are numbered, the answers go around."""
    for split, count in (("test", rows), ("dev", shots)):
        (root / split).mkdir(parents=True, exist_ok=True)
        lines = [ROW.format(n=f"{split} {n}", letter="ABCD"[n % 4]) for n in range(1, count + 1)]
        (root / split / f"{subject}_{split}.csv").write_text("".join(lines), encoding="utf-8")
    return root


#: What lm-evaluation-harness sends for the first question of mmlu_abstract_algebra with five shots: description, and
#: `doc_to_text` + " " + letter + "\n\n" of each row of the dev split, from its task files and the data set.
LM_EVAL_PREFIX = (
    "The following are multiple choice questions (with answers) about abstract algebra.\n\n"
    "Find all c in Z_3 such that Z_3[x]/(x^2 + c) is a field.\nA. 0\nB. 1\nC. 2\nD. 3\nAnswer: B\n\n"
    "Statement 1 | If aH is an element of a factor group, then |aH| divides |a|. Statement 2 | If H and K are subgroups"
    " of G then HK is a subgroup of G.\nA. True, True\nB. False, False\nC. True, False\nD. False, True\nAnswer: B\n\n"
    "Statement 1 | Every element of a group generates a cyclic subgroup of the group. Statement 2 | The symmetric group"
    " S_10 has 10 elements.\nA. True, True\nB. False, False\nC. True, False\nD. False, True\nAnswer: C\n\n"
    "Statement 1| Every function from a finite set onto itself must be one to one. Statement 2 | Every subgroup of an"
    " abelian group is abelian.\nA. True, True\nB. False, False\nC. True, False\nD. False, True\nAnswer: A\n\n"
    "Find the characteristic of the ring 2Z.\nA. 0\nB. 3\nC. 12\nD. 30\nAnswer: A\n\n"
)
LM_EVAL_ENDING = (
    "Find the degree for the given field extension Q(sqrt(2), sqrt(3), sqrt(18)) over Q.\n"
    "A. 0\nB. 4\nC. 2\nD. 6\nAnswer:"
)


def test_prompts_are_lm_evals() -> None:
    data = str(data_file("mmlu"))
    (subject,) = load_subjects(MultipleChoiceConfig(data=data, subjects=["abstract_algebra"]))
    group = prompt_group(subject)
    assert group.prefix == LM_EVAL_PREFIX
    assert group.endings[0] == LM_EVAL_ENDING
    assert len(group.endings) == 100


def test_prompt_without_shots_and_with_spaces_around_the_question(tmp_path: Path) -> None:
    root = layout(tmp_path, rows=1)
    (root / "test" / "some_subject_test.csv").write_text('" Why,\nso? ", a,"b ""c""",,d,D \n', encoding="utf-8")
    (subject,) = load_subjects(MultipleChoiceConfig(data=str(root), shots=0))
    group = prompt_group(subject)
    assert group.prefix == "The following are multiple choice questions (with answers) about some subject.\n\n"
    # lm-eval strips the question and leaves the choices as they are.
    assert group.endings == ('Why,\nso?\nA.  a\nB. b "c"\nC. \nD. d\nAnswer:',)
    assert subject.questions[0].answer == "D"


def test_every_real_file_that_is_at_hand_reads() -> None:
    subjects = load_subjects(MultipleChoiceConfig(data=str(data_file("mmlu"))))
    assert len(subjects) >= 10
    assert {len(subject.shots) for subject in subjects} == {5}
    assert sum(len(subject.questions) for subject in subjects) > 1000


def test_the_shipped_questions() -> None:
    subjects = load_subjects(MultipleChoiceConfig())
    assert [subject.name for subject in subjects] == [
        "biology",
        "computing",
        "geography",
        "history",
        "mathematics",
        "physics",
    ]
    questions = [question for subject in subjects for question in subject.questions]
    assert len(questions) == 60
    assert Counter(question.answer for question in questions) == dict.fromkeys("ABCD", 15)
    every = [*questions, *(shot for subject in subjects for shot in subject.shots)]
    assert len({question.text for question in every}) == 90
    assert all(len(set(question.choices)) == 4 for question in every)


def test_limit_seed_and_subjects(tmp_path: Path) -> None:
    root = layout(layout(tmp_path, "zoology", rows=40), "algebra", rows=40)

    def numbers(**settings: object) -> list[list[int]]:
        loaded = load_subjects(MultipleChoiceConfig(data=str(root), **settings))  # type: ignore[arg-type]
        return [[question.number for question in subject.questions] for subject in loaded]

    assert numbers() == [list(range(1, 41))] * 2
    assert numbers(limit=3) == [[1, 2, 3]] * 2
    assert numbers(limit=99, seed=1) == [list(range(1, 41))] * 2
    algebra, zoology = numbers(limit=8, seed=1)
    assert algebra == sorted(set(algebra))
    assert len(algebra) == 8
    assert algebra != zoology
    assert numbers(limit=8, seed=1, subjects=["zoology"]) == [zoology], "a draw depends on its own subject alone"
    assert numbers(limit=8, seed=2)[0] != algebra


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        (b"question,A,B,C,D,answer\nWhy?,a,b,c,d,A\n", "line 1: the answer 'answer' is not one of A, B, C, D; the f"),
        (b"Why?,a,b,c,d,A\nWhy?,a,b,c,d\n", "line 2: 5 fields, expected 6"),
        (b"Why?,a,b,c,d,2\n", "line 1: the answer '2' is not one of"),
        (b"Why?,a,b,c,d,E\n", "line 1: the answer 'E' is not one of"),
        (b" ,a,b,c,d,A\n", "line 1: the question is empty"),
        (b'Why?,a,b,c,d,A\n"Why?,a,b,c,d,A\n', "line 2: not valid CSV"),
        (b"caf\xe9?,a,b,c,d,A\n", "is not UTF-8 text"),
        (b"\n\n", "has no questions"),
        (b"PK\x03\x04\x00\x00", "line 1: "),
    ],
)
def test_files_that_cannot_be_used_are_named_in_one_line(tmp_path: Path, content: bytes, expected: str) -> None:
    path = tmp_path / "bad_test.csv"
    path.write_bytes(content)
    with pytest.raises(UsageError) as caught:
        read_questions(path)
    assert expected in str(caught.value)
    assert "bad_test.csv" in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_byte_order_mark_and_blank_lines_are_no_content(tmp_path: Path) -> None:
    path = tmp_path / "x_test.csv"
    path.write_bytes(b"\xef\xbb\xbfWhy?,a,b,c,d,A\r\n\r\nHow?,a,b,c,d,B\r\n")
    assert [question.text for question in read_questions(path)] == ["Why?", "How?"]


def test_folders_that_cannot_be_used(tmp_path: Path) -> None:
    root = layout(tmp_path / "good", shots=3)

    def complaint(**settings: object) -> str:
        with pytest.raises(UsageError) as caught:
            load_subjects(MultipleChoiceConfig(**settings))  # type: ignore[arg-type]
        assert "\n" not in str(caught.value)
        return str(caught.value)

    assert "there is no folder" in complaint(data=str(tmp_path / "nowhere"))
    assert "no SUBJECT_test.csv" in complaint(data=str(tmp_path))
    assert "did you mean 'some_subject'?" in complaint(data=str(root), subjects=["some_subjekt"])
    assert "has only 3 rows; ask for fewer shots" in complaint(data=str(root))
    (root / "dev" / "some_subject_dev.csv").unlink()
    assert "ask with task.shots=0" in complaint(data=str(root), shots=2)
    assert len(load_subjects(MultipleChoiceConfig(data=str(root), shots=0))) == 1


@pytest.mark.parametrize("wrong", [{"shots": -1}, {"limit": -1}, {"data": " "}, {"seed": 3}])
def test_wrong_values_are_named(wrong: dict[str, object]) -> None:
    with pytest.raises(ValueError, match=f"task.{next(iter(wrong))}"):
        MultipleChoiceConfig(**wrong)  # type: ignore[arg-type]


def test_the_content_enters_the_key_and_the_path_does_not(tmp_path: Path) -> None:
    one, same, other = layout(tmp_path / "one"), layout(tmp_path / "same"), layout(tmp_path / "other", rows=7)
    digests = [data_digest(MultipleChoiceConfig(data=str(root))) for root in (one, same, other)]
    assert digests[0] == digests[1] != digests[2]
    (same / "dev" / "some_subject_dev.csv").write_text(ROW.format(n="another", letter="A") * 5, encoding="utf-8")
    assert MultipleChoiceConfig(data=str(same)).data_digest() != digests[0]
    assert data_digest(MultipleChoiceConfig(data=str(same), shots=0)) == data_digest(
        MultipleChoiceConfig(data=str(one), shots=0)
    )

    def key(task: MultipleChoiceConfig) -> str:
        return task_key(task, text_digest=task.data_digest(), baseline="b", scorer_lock="l")

    moved = layout(tmp_path / "moved")
    assert key(MultipleChoiceConfig(data=str(one))) == key(MultipleChoiceConfig(data=str(moved)))
    assert key(MultipleChoiceConfig(data=str(one))) != key(MultipleChoiceConfig(data=str(one), limit=2))
