"""Answers in words: lm-eval's prompts and figures, by hand; files of every kind; what cannot be used."""

from __future__ import annotations

import gzip
import json
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from bench.base.errors import UsageError
from bench.base.progress import Progress
from bench.engines.scoring import ScorableModel
from bench.quality.choice_formats import Asked, load_questions
from bench.quality.choices import graded
from bench.quality.config import ChoiceFormat, ChoicesConfig, MultipleChoiceConfig
from bench.quality.evaluate import evaluate
from bench.quality.mmlu import load_subjects
from bench.quality.thinking import refuse_thinking, thinks
from tests.unit.quality.scorers import BASELINE, VARIANT, FormulaScorer

ARC = {
    "id": "x",
    "question": "Which is hot?",
    "choices": {"text": ["ice", "the sun"], "label": ["A", "B"]},
    "answerKey": "B",
}
HELLASWAG = {
    "activity_label": "Making tea",
    "ctx_a": "[header] How to [title] Boil water.",
    "ctx_b": "the cup",
    "endings": ["is [step] empty.", "is  full."],
    "label": "1",
}
TRUTHFUL = {
    "question": "Is it?",
    "mc1_targets": {"choices": ["Yes", "No"], "labels": [1, 0]},
    "mc2_targets": {"choices": ["Yes", "It is", "No"], "labels": [1, 1, 0]},
}
PLAIN = [{"question": f"q{n}", "choices": ["a", "bb", "ccc"], "answer": n % 3} for n in range(6)]


def rows_file(path: Path, rows: list[dict[str, Any]]) -> str:
    text = "".join(json.dumps(row) + "\n" for row in rows)
    if path.suffix == ".parquet":
        pq.write_table(pa.Table.from_pylist(rows), path)
    elif path.suffix == ".gz":
        path.write_bytes(gzip.compress(text.encode()))
    else:
        path.write_text(text)
    return str(path)


def loaded(tmp_path: Path, kind: ChoiceFormat, rows: list[dict[str, Any]], **settings: Any) -> Any:
    data = rows_file(tmp_path / "rows.jsonl.gz", rows)
    return load_questions(ChoicesConfig(format=kind, data=data, **settings))


def test_prompts_are_those_of_lm_eval(tmp_path: Path) -> None:
    (arc,) = loaded(tmp_path, ChoiceFormat.arc, [ARC]).asked
    assert (arc.text, arc.choices, arc.right) == ("Question: Which is hot?\nAnswer:", ("ice", "the sun"), (1,))
    (swag,) = loaded(tmp_path, ChoiceFormat.hellaswag, [HELLASWAG]).asked
    assert swag.text == "Making tea: How to. Boil water. The cup"
    assert swag.choices == ("is empty.", "is full.")
    truthful = loaded(tmp_path, ChoiceFormat.truthfulqa_mc2, [TRUTHFUL])
    assert truthful.prefix.endswith("A: The 1992 Olympics were held in Barcelona, Spain.\n\n")
    assert truthful.group.choices == ((" Yes", " It is", " No"),)
    assert truthful.asked[0].right == (0, 1)
    assert loaded(tmp_path, ChoiceFormat.truthfulqa_mc1, [TRUTHFUL]).asked[0].choices == ("Yes", "No")


def test_shots_are_the_first_rows_of_their_file(tmp_path: Path) -> None:
    shots = rows_file(tmp_path / "shots.parquet", [ARC, ARC])
    found = loaded(tmp_path, ChoiceFormat.arc, [ARC], shots=1, shots_data=shots)
    assert found.prefix == "Question: Which is hot?\nAnswer: the sun\n\n"
    with pytest.raises(UsageError, match="has only 2 rows"):
        loaded(tmp_path, ChoiceFormat.arc, [ARC], shots=3, shots_data=shots)


@pytest.mark.parametrize(
    ("row", "said"),
    [
        ({**ARC, "answerKey": "E"}, "row 1: not in the format 'arc'"),
        ({"question": "?"}, "row 1 has no 'choices'"),
        ({**ARC, "choices": {"text": ["one"], "label": ["B"]}}, "fewer than two choices"),
    ],
)
def test_rows_that_do_not_fit_are_named(tmp_path: Path, row: dict[str, Any], said: str) -> None:
    with pytest.raises(UsageError, match=said):
        loaded(tmp_path, ChoiceFormat.arc, [row])


def test_files_that_are_none_are_named(tmp_path: Path) -> None:
    (tmp_path / "x.parquet").write_bytes(b"no")
    for data, said in (("", "is empty"), (str(tmp_path / "no.csv"), "there is no file"), ("x.parquet", "no parquet")):
        value = str(tmp_path / data) if data == "x.parquet" else data
        with pytest.raises(UsageError, match=said):
            load_questions(ChoicesConfig(data=value))
    with pytest.raises(ValueError, match="40 hexadecimal digits"):
        load_questions(ChoicesConfig(data="hub:a/b/c.parquet@main"))


def test_likeliest_and_likeliest_by_length_and_the_mass_of_right_ones() -> None:
    asked = [
        Asked(number=1, text="", choices=("a", "bbbbbbbbbb"), right=(1,)),
        Asked(number=2, text="", choices=("a", "b", "c"), right=(0, 2)),
        Asked(number=3, text="", choices=("a", "b"), right=(0,)),
    ]
    logprobs = np.array([-2.0, -4.0, *np.log([0.1, 0.2, 0.1]), np.nan, -1.0])
    found = graded(asked, logprobs)
    assert found.picked.tolist() == [0, 1, -1]
    assert found.picked_norm.tolist() == [1, 1, -1]
    assert found.correct.tolist() == [False, False, False]
    assert found.correct_norm.tolist() == [True, False, False]
    assert found.mass[1] == pytest.approx(0.5)
    assert np.isnan(found.mass[2])
    assert not found.complete


def run(tmp_path: Path, kind: ChoiceFormat, rows: list[dict[str, Any]], scorer: FormulaScorer) -> dict[str, Any]:
    task = ChoicesConfig(format=kind, data=rows_file(tmp_path / "rows.parquet", rows))
    return evaluate(
        task,
        variant=VARIANT,
        baseline=BASELINE,
        scorer=scorer,
        out=tmp_path / "out",
        progress=Progress(),
        cache=tmp_path / "cache",
    )


def test_items_summary_and_what_is_remembered(tmp_path: Path) -> None:
    scorer = FormulaScorer(picks={VARIANT.key: "0", BASELINE.key: "012"})
    summary = run(tmp_path, ChoiceFormat.plain, PLAIN, scorer)
    metrics = summary["metrics"]
    assert metrics["accuracy"]["value"] == pytest.approx(2 / 6)
    assert metrics["base_accuracy"]["value"] == 1.0
    assert (metrics["right_to_wrong"]["value"], metrics["wrong_to_right"]["value"]) == (4, 0)
    assert summary["comparisons"]["accuracy"]["verdict"] == "inconclusive", "four of four flips are 1 in 8"
    assert summary["comparisons"]["accuracy"]["needed"] > 1000
    items = pq.read_table(tmp_path / "out" / "items.parquet").to_pandas()
    assert items["picked"].tolist() == [0] * 6
    assert [len(each) for each in items["logprobs"]] == [3] * 6
    assert run(tmp_path, ChoiceFormat.plain, PLAIN, scorer)["metrics"] == metrics
    assert len(scorer.asked) == 2, "both models answered before"
    assert not list((tmp_path / "cache").glob("unfinished/*"))


def test_several_right_answers_are_compared_by_their_mass(tmp_path: Path) -> None:
    scorer = FormulaScorer(picks={VARIANT.key: "2", BASELINE.key: "0"})
    summary = run(tmp_path, ChoiceFormat.truthfulqa_mc2, [TRUTHFUL] * 5, scorer)
    metrics = summary["metrics"]
    assert set(metrics) == {"truthful_mass", "base_truthful_mass", "truthful_mass_change"}
    change = metrics["truthful_mass"]["value"] - metrics["base_truthful_mass"]["value"]
    assert metrics["truthful_mass_change"]["value"] == pytest.approx(change)
    assert summary["comparisons"]["truthful_mass"]["verdict"] == "worse"


def test_mmlu_as_parquet_is_what_it_is_as_csv(tmp_path: Path) -> None:
    for split, folder in (("test", "test"), ("dev", "dev")):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / f"x_{split}.csv").write_text("Why?,a,b,c,d,B\nHow?,a,b,c,d,D\n")
    tables = tmp_path / "tables"
    tables.mkdir()
    rows = [
        {"question": q, "subject": "x", "choices": list("abcd"), "answer": a} for q, a in (("Why?", 1), ("How?", 3))
    ]
    for split in ("test", "dev"):
        rows_file(tables / f"{split}-00000-of-00001.parquet", rows)
    config = {"shots": 2, "subjects": ["x"]}
    from_csv = load_subjects(MultipleChoiceConfig(data=str(tmp_path), **config))  # type: ignore[arg-type]
    assert load_subjects(MultipleChoiceConfig(data=str(tables), **config)) == from_csv  # type: ignore[arg-type]
    with pytest.raises(UsageError, match="has no 'y'"):
        load_subjects(MultipleChoiceConfig(data=str(tables), subjects=["y"]))


def test_a_model_that_thinks_is_not_asked_for_letters(tmp_path: Path) -> None:
    (tmp_path / "tokenizer_config.json").write_text(json.dumps({"chat_template": "{% if enable_thinking %}<think>"}))
    model = ScorableModel(format="hf", path=tmp_path, key="k", label="Thinker")
    with pytest.raises(UsageError, match="Thinker thinks before it answers"):
        refuse_thinking(model)
    (tmp_path / "chat_template.jinja").write_text("{{ messages }}")
    refuse_thinking(model)
    refuse_thinking(VARIANT)  # its file is not there: nothing says so
    assert not thinks(None)
