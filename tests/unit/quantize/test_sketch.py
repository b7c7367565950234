from __future__ import annotations

import io
import random
from pathlib import Path

import numpy as np
import pytest

from quantize import sketch
from quantize.artefact import SKETCH_FILE, Artefact
from quantize.sketch import WORDS, Overlap, calibration_text, sketch_of, write_sketch


def words(count: int, seed: int = 0) -> str:
    chosen = random.Random(seed)
    return " ".join(f"w{chosen.randrange(10**9)}" for _ in range(count))


def test_what_is_planted_is_found_in_its_measure() -> None:
    calibration, evaluation = words(2000, seed=1), words(1000, seed=2)
    planted = " ".join(calibration.split()[500:607])
    assert sketch_of([calibration]).overlap([evaluation]) == Overlap(share=0.0, runs=993)
    found = sketch_of([calibration]).overlap([f"{evaluation} {planted}"])
    assert found == Overlap(share=100 / 1100, runs=1100)
    assert sketch_of([calibration]).overlap([calibration]).share == 1.0


def test_runs_do_not_cross_texts_and_repeated_ones_count_once() -> None:
    text = words(20)
    first, second = " ".join(text.split()[:10]), " ".join(text.split()[10:])
    assert sketch_of([first, second]).hashes.size == 6
    assert sketch_of([text]).overlap([first, second, second, first]) == Overlap(share=1.0, runs=6)
    assert sketch_of([first, second]).overlap([text]) == Overlap(share=6 / 13, runs=13)


@pytest.mark.parametrize("text", ["", " \n\t ", "seven words are one too few here", words(WORDS - 1)])
def test_texts_without_a_run_tell_nothing(text: str) -> None:
    assert sketch_of([text]).hashes.size == 0
    assert sketch_of([words(50)]).overlap([text]) == Overlap(share=None, runs=0)
    assert sketch_of([text]).overlap([words(50)]) == Overlap(share=0.0, runs=43)
    assert sketch_of([]).overlap([]) == Overlap(share=None, runs=0)


def test_case_and_white_space_of_any_script_do_not_matter() -> None:
    plain = "die straße führt über ΠΕΛΟΠΌΝΝΗΣΟΣ ins 東京 und 𝄞 nach İzmir"
    other = "DIE STRASSE\u00a0FÜHRT\u2003über\u2028πελοπόννησος\tINS\r\n東京\u3000UND 𝄞 NACH i\u0307zmir"
    assert sketch_of([plain]).overlap([other]) == Overlap(share=1.0, runs=4)
    assert sketch_of([plain]).overlap([other.replace("東京", "京都")]).share == 0.0
    lonely = "a lone surrogate \ud800 must not stop the work here"
    assert sketch_of([lonely]).overlap([lonely]).share == 1.0


def test_a_long_text_is_sampled_and_compared_alike() -> None:
    long = words(20_000)
    full, sparse = sketch_of([long]), sketch_of([long], most=1000)
    assert (full.sampled_every, full.hashes.size) == (1, 19_993)
    assert sparse.sampled_every in (32, 64)
    assert 250 < sparse.hashes.size <= 1000
    assert set(sparse.hashes) == {value for value in full.hashes if int(value) % sparse.sampled_every == 0}
    half = f"{' '.join(long.split()[:3000])} {words(3000, seed=9)}"
    found = sparse.overlap([half])
    assert found.runs == pytest.approx(6000 / sparse.sampled_every, rel=0.3)
    assert found.share == pytest.approx(0.5, abs=0.15)
    assert sparse.overlap([words(3000, seed=9)]).share == 0.0


def test_blocks_and_merging_change_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    texts = [words(300, seed=seed) for seed in range(5)]
    whole = sketch_of(texts)
    monkeypatch.setattr(sketch, "_BLOCK", 17)
    monkeypatch.setattr(sketch, "_GATHERED", 10)
    assert np.array_equal(sketch_of(texts).hashes, whole.hashes)
    assert np.array_equal(whole.hashes, np.unique(whole.hashes)), "sorted, each once"


def test_the_hashes_stay_what_they_are() -> None:
    """Sketches that were written must be read by later versions."""
    assert sketch_of(["One two three four five six seven eight NINE"]).hashes.tolist() == [
        7181464738655488247,
        15159390393312065694,
    ]


def artefact(folder: Path, calibration: object) -> Artefact:
    return Artefact(key="k", directory=folder, manifest={"label": "Q4_0 imatrix", "calibration": calibration})


def test_a_sketch_is_kept_beside_the_model(tmp_path: Path) -> None:
    text = words(100)
    told = write_sketch(tmp_path, [text])
    assert told == {"file": SKETCH_FILE, "words": 8, "sampled_every": 1, "hashes": 93}
    stored = np.load(tmp_path / SKETCH_FILE, allow_pickle=False)
    assert (stored.dtype, stored.shape) == (np.dtype("<u8"), (93,))
    found = calibration_text(artefact(tmp_path, {"name": "default", "sketch": told}))
    assert found is not None
    assert found.label == "Q4_0 imatrix"
    assert found.sketch is not None
    assert found.sketch.overlap([text]).share == 1.0


def test_what_cannot_be_believed_is_unknown_and_what_was_not_calibrated_is_none(tmp_path: Path) -> None:
    told = write_sketch(tmp_path, [words(100)])
    assert calibration_text(artefact(tmp_path, None)) is None
    before = {"name": "default", "digest": "sha256:0"}
    for record in (before, {**before, "sketch": {**told, "hashes": 92}}, {**before, "sketch": {**told, "words": 5}}):
        found = calibration_text(artefact(tmp_path, record))
        assert found is not None
        assert found.sketch is None
    pickled = io.BytesIO()
    np.save(pickled, np.array([None] * 93), allow_pickle=True)
    for content in (b"", b"\x93NUMPY", b"not a sketch", pickled.getvalue()):
        (tmp_path / SKETCH_FILE).write_bytes(content)
        found = calibration_text(artefact(tmp_path, {**before, "sketch": told}))
        assert found is not None
        assert found.sketch is None
