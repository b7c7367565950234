"""`requests.parquet` and `events.parquet`: written from columns in row groups, read back into them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from bench.base.files import sync
from bench.load.columns import ERROR_KINDS, MISSING, STATUSES
from bench.load.outcome import Phase
from bench.load.table import Events, Table

if TYPE_CHECKING:
    import pyarrow as pa

_GROUP_ROWS = 1 << 17
_TIMES = (
    *("scheduled_ns", "taken_ns", "sent_ns", "sent_kernel_ns"),
    *("first_token_ns", "first_answer_ns", "last_token_ns", "done_ns"),
)
_COUNTS = ("prompt_tokens", "cached_tokens", "output_tokens", "events")
_ASKED = ("session", "turn", "asked_input_tokens", "asked_output_tokens")


def load_parquet() -> None:
    """Load what `write_parquet` needs, so that it is there when the time comes."""
    import pyarrow.parquet  # noqa: F401


def write_parquet(table: Table, events: Events, out: Path, *, scenario: str, repeat: int) -> None:
    """Write `requests.parquet` and `events.parquet` into `out`, each whole or not at all."""
    _write(out, "requests", len(table), lambda rows: _requests(table, rows, scenario=scenario, repeat=repeat))
    _write(out, "events", len(events), lambda rows: _events(events, rows))
    sync(out)


def _write(out: Path, name: str, size: int, group: Callable[[slice], pa.Table]) -> None:
    import pyarrow.parquet as pq

    temporary = out / f".{name}.parquet.tmp"
    first = group(slice(0, _GROUP_ROWS))
    with pq.ParquetWriter(temporary, first.schema, compression="zstd") as writer:
        writer.write_table(first)
        for start in range(_GROUP_ROWS, size, _GROUP_ROWS):
            writer.write_table(group(slice(start, start + _GROUP_ROWS)))
    sync(temporary)
    temporary.replace(out / f"{name}.parquet")


# Arrow arrays are made of their buffers: `pyarrow.array` would import pandas, a third of a second and 46 MB.


def _ints(values: npt.NDArray[Any], kind: Any) -> Any:
    """Integers, MISSING as null."""
    import pyarrow as pa

    known = values != MISSING
    content = np.ascontiguousarray(values, dtype=kind.to_pandas_dtype())
    return pa.Array.from_buffers(kind, len(values), [_validity(known), _buffer(content)])


def _words(codes: npt.NDArray[Any], names: Sequence[str]) -> Any:
    """Strings of their numbers in `names`."""
    import pyarrow as pa

    return pa.DictionaryArray.from_arrays(_ints(codes, pa.int16()), _strings(names)).cast(pa.string())


def _strings(words: Sequence[str | None]) -> Any:
    import pyarrow as pa

    encoded = [None if word is None else word.encode(errors="replace") for word in words]
    offsets = np.cumsum([0, *(len(word or b"") for word in encoded)], dtype=np.int32)
    known = np.array([word is not None for word in encoded], dtype=bool)
    content = pa.py_buffer(b"".join(word or b"" for word in encoded))
    return pa.Array.from_buffers(pa.string(), len(words), [_validity(known), _buffer(offsets), content])


def _validity(known: npt.NDArray[np.bool_]) -> Any:
    return None if known.all() else _buffer(np.packbits(known, bitorder="little"))


def _buffer(content: Any) -> Any:
    import pyarrow as pa

    return pa.py_buffer(content)


def _requests(table: Table, rows: slice, *, scenario: str, repeat: int) -> pa.Table:
    import pyarrow as pa

    nanoseconds, count = pa.int64(), pa.int32()
    slots = table.slot[rows]
    messages = [table.messages.get(slot) for slot in slots.tolist()] if table.messages else [None] * len(slots)
    phases = [Phase.warmup.value, Phase.main.value, Phase.cooldown.value]
    phase = np.where(table.main, 1, np.where(table.behind_main, 2, 0)).astype(np.int16)
    columns = {
        "request_id": _ints(slots, nanoseconds),
        "scenario": _words(np.zeros(len(slots), dtype=np.int16), [scenario]),
        "repeat": _ints(np.full(len(slots), repeat), count),
        "worker": _ints(table.worker[rows], count),
        "phase": _words(phase[rows], phases),
        **{name: _ints(getattr(table, name)[rows], nanoseconds) for name in _TIMES},
        **{name: _ints(getattr(table, name)[rows], count) for name in (*_COUNTS, *_ASKED)},
        "status": _words(table.status[rows], STATUSES),
        "error_kind": _words(table.error[rows], ERROR_KINDS),
        "error_message": _strings(messages),
        "finish_reason": _words(table.finish[rows], list(table.finish_reasons)),
        "http_status": _ints(table.http_status[rows], count),
    }
    return pa.table(columns)


def _events(events: Events, rows: slice) -> pa.Table:
    import pyarrow as pa

    return pa.table(
        {
            "request_id": _ints(events.slot[rows].astype(np.int64), pa.int64()),
            "ns": _ints(events.ns[rows], pa.int64()),
            "bytes": _ints(events.bytes[rows].astype(np.int64), pa.int32()),
            "tokens": _ints(events.tokens[rows], pa.int32()),
        }
    )


def _filled(column: Any, kind: npt.DTypeLike) -> npt.NDArray[Any]:
    """A column of integers, null as MISSING."""
    return np.asarray(column.fill_null(MISSING).to_numpy(), dtype=kind)


def read_table(out: Path) -> Table:
    """The requests of a result in `out`. Columns that were not recorded yet when it was written are all missing.

    Raises OSError or ValueError where the file is missing or damaged.
    """
    import pyarrow.parquet as pq

    stored = pq.read_table(out / "requests.parquet")

    def ints(name: str) -> npt.NDArray[np.int64]:
        if name not in stored.column_names:
            return np.full(len(stored), MISSING, dtype=np.int64)
        return _filled(stored.column(name), np.int64)

    def codes(name: str, names: Sequence[str]) -> npt.NDArray[np.int16]:
        import pyarrow as pa
        import pyarrow.compute as pc

        found = pc.index_in(stored.column(name), value_set=pa.array(names, type=pa.string()))
        return _filled(found, np.int16)

    reasons = sorted(reason for reason in stored.column("finish_reason").unique().to_pylist() if reason is not None)
    slots = ints("request_id")
    told = stored.column("error_message").is_valid().to_numpy()
    messages = [str(message) for message in stored.column("error_message").drop_null().to_pylist()]
    return Table(
        slot=slots,
        main=codes("phase", [Phase.main.value]) == 0,
        worker=ints("worker"),
        http_status=ints("http_status"),
        status=codes("status", STATUSES),
        error=codes("error_kind", ERROR_KINDS),
        finish=codes("finish_reason", reasons),
        finish_reasons=reasons,
        messages=dict(zip(slots[told].tolist(), messages, strict=True)),
        **{name: ints(name) for name in (*_TIMES, *_COUNTS, *_ASKED)},
    )


def read_events(out: Path) -> Events:
    """The events of a result in `out`. Raises OSError or ValueError where the file is missing or damaged."""
    import pyarrow.parquet as pq

    stored = pq.read_table(out / "events.parquet")

    def column(name: str, kind: npt.DTypeLike) -> npt.NDArray[Any]:
        return _filled(stored.column(name), kind)

    return Events(
        slot=column("request_id", np.uint32),
        ns=column("ns", np.int64),
        bytes=column("bytes", np.uint32),
        tokens=column("tokens", np.int32),
    )
