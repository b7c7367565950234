"""A compact sketch of the text a variant was calibrated on, and how much of another text is in it.

A text is its runs of eight words, casefolded and split at white space; a run never crosses two samples. Of their 64-bit
hashes those are kept that `sampled_every` divides, so that two texts sampled alike can be compared by their hashes.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from quantize.artefact import SKETCH_FILE, Artefact

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

#: Words in a run.
WORDS = 8
#: Hashes kept at most: 2 MiB.
MOST_HASHES = 1 << 18
#: Characters that are taken apart at a time.
_BLOCK = 1 << 22
#: Hashes that are merged at a time.
_GATHERED = 1 << 20
_SPACE = re.compile(r"\s")
_MULTIPLIER = 0x9E3779B97F4A7C15


@dataclass(frozen=True, kw_only=True)
class Overlap:
    """`share` of the `runs` that were looked up is in the sketch; None where the text has none to look up."""

    share: float | None
    runs: int


@dataclass(frozen=True, kw_only=True)
class Sketch:
    """Sorted hashes of runs of words, of all those that `sampled_every` (a power of two) divides."""

    hashes: NDArray[np.uint64]
    sampled_every: int

    def overlap(self, texts: Iterable[str]) -> Overlap:
        """How many of the different runs of `texts` are in the sketch, sampled as it is."""
        import numpy as np

        runs = _collected(texts, every=self.sampled_every, most=None).hashes
        shared = int(np.isin(runs, self.hashes, assume_unique=True).sum())
        return Overlap(share=shared / runs.size if runs.size else None, runs=int(runs.size))


@dataclass(frozen=True, kw_only=True)
class CalibrationText:
    """What a variant was calibrated on; `sketch` is None where none can be read, and nothing can be told."""

    label: str
    sketch: Sketch | None


def sketch_of(texts: Iterable[str], *, most: int = MOST_HASHES) -> Sketch:
    """The sketch of `texts`, sampled as sparsely as it must be for `most` hashes."""
    return _collected(texts, every=1, most=most)


def write_sketch(folder: Path, texts: Iterable[str]) -> dict[str, Any]:
    """Write the sketch of `texts` into an artefact; returns what its manifest records: {file, words, hashes, …}."""
    import numpy as np

    sketch = sketch_of(texts)
    with (folder / SKETCH_FILE).open("wb") as stream:
        np.save(stream, sketch.hashes.astype("<u8"), allow_pickle=False)
    return {
        "file": SKETCH_FILE,
        "words": WORDS,
        "sampled_every": sketch.sampled_every,
        "hashes": int(sketch.hashes.size),
    }


def calibration_text(artefact: Artefact) -> CalibrationText | None:
    """What `artefact` was calibrated on; None where nothing was.

    A sketch is not there where the variant was made before there were any, and not believed where it is not what the
    manifest says.
    """
    recorded = artefact.manifest.get("calibration")
    if not recorded:
        return None
    told = recorded.get("sketch")
    sketch = _read(artefact.directory, told) if isinstance(told, Mapping) and told.get("words") == WORDS else None
    return CalibrationText(label=artefact.label, sketch=sketch)


def _read(folder: Path, told: Mapping[str, Any]) -> Sketch | None:
    import numpy as np

    try:
        hashes = np.load(folder / SKETCH_FILE, allow_pickle=False)
    except (OSError, ValueError, EOFError):
        return None
    every = told.get("sampled_every")
    fits = hashes.dtype == np.dtype("<u8") and hashes.shape == (told.get("hashes"),)
    if not fits or not isinstance(every, int) or every < 1:
        return None
    return Sketch(hashes=hashes.astype(np.uint64), sampled_every=every)


def _collected(texts: Iterable[str], *, every: int, most: int | None) -> Sketch:
    """Different hashes that `every` divides; where they become more than `most`, every second one is dropped."""
    import numpy as np

    kept = np.empty(0, dtype=np.uint64)
    for hashes in _gathered(_run_hashes(texts)):
        kept = np.union1d(kept, _sampled(hashes, every))
        while most is not None and kept.size > most:
            every *= 2
            kept = _sampled(kept, every)
    return Sketch(hashes=kept, sampled_every=every)


def _sampled(hashes: NDArray[np.uint64], every: int) -> NDArray[np.uint64]:
    import numpy as np

    kept: NDArray[np.uint64] = hashes[hashes % np.uint64(every) == 0]
    return kept


def _gathered(arrays: Iterable[NDArray[np.uint64]]) -> Iterator[NDArray[np.uint64]]:
    """Many short arrays as a few long ones."""
    import numpy as np

    held: list[NDArray[np.uint64]] = []
    size = 0
    for array in arrays:
        held.append(array)
        size += array.size
        if size >= _GATHERED:
            yield np.concatenate(held)
            held, size = [], 0
    if held:
        yield np.concatenate(held)


def _run_hashes(texts: Iterable[str]) -> Iterator[NDArray[np.uint64]]:
    """Hashes of the runs of each text, block by block; the words are hashed once each."""
    import numpy as np

    known: dict[str, int] = {}
    for text in texts:
        before = np.empty(0, dtype=np.uint64)
        for words in _blocks(text):
            for word in words:
                if word not in known:
                    known[word] = _word_hash(word)
            hashed = np.fromiter((known[word] for word in words), dtype=np.uint64, count=len(words))
            joined = np.concatenate([before, hashed])
            yield _mixed(joined)
            before = joined[-(WORDS - 1) :]


def _blocks(text: str) -> Iterator[list[str]]:
    """The words of a text, some at a time."""
    start = 0
    while start < len(text):
        cut = _SPACE.search(text, start + _BLOCK)
        end = len(text) if cut is None else cut.start()
        yield text[start:end].casefold().split()
        start = end


def _word_hash(word: str) -> int:
    data = word.encode(errors="surrogatepass")
    return int.from_bytes(hashlib.blake2b(data, digest_size=8).digest(), "little")


def _mixed(words: NDArray[np.uint64]) -> NDArray[np.uint64]:
    """One hash for every run: a polynomial of its words' hashes, and the last mixing of splitmix64."""
    import numpy as np

    count = max(0, words.size - WORDS + 1)
    mixed = np.zeros(count, dtype=np.uint64)
    for offset in range(WORDS if count else 0):
        mixed = mixed * np.uint64(_MULTIPLIER) + words[offset : offset + count]
    for shift, factor in ((30, 0xBF58476D1CE4E5B9), (27, 0x94D049BB133111EB)):
        mixed = (mixed ^ (mixed >> np.uint64(shift))) * np.uint64(factor)
    return mixed ^ (mixed >> np.uint64(31))
