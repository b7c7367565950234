"""Telemetry around a measurement: host, GPUs and energy meters sampled together, written as one tidy table."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from bench.base.files import sync
from bench.telemetry.energy import Rapl
from bench.telemetry.gpu import Nvml, Unavailable
from bench.telemetry.host import Host, own_trees

COLUMNS = ("t_ns", "device", "metric", "value")


class Telemetry:
    """Samples on `take(t_ns)`, used by one thread; a context manager.

    `server_pid` is the root of the server's processes, `server_pss_bytes` its latest proportional set size.
    `unavailable` says of every meter or metric that cannot be had why, by «device» or «device metric».
    """

    def __init__(self, server_pid: int | None = None, server_pss_bytes: Callable[[], int | None] | None = None) -> None:
        self._stack = ExitStack()
        pss = {} if server_pss_bytes is None else {"server": server_pss_bytes}
        self._host = Host(own_trees(server_pid), pss_bytes=pss)
        self._nvml: Nvml | None = None
        self._rapl: Rapl | None = None
        self._rows: list[tuple[int, str, str, float]] = []
        self.unavailable: dict[str, str] = {}

    def __enter__(self) -> Telemetry:
        try:
            self._nvml = self._stack.enter_context(Nvml())
        except Unavailable as why:
            self.unavailable["gpu"] = str(why)
        try:
            self._rapl = Rapl()
        except Unavailable as why:
            self.unavailable["cpu_package"] = str(why)
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    def take(self, t_ns: int) -> None:
        """Sample everything once."""
        for device, values in self._host.sample(t_ns).items():
            self._rows += [(t_ns, device, metric, value) for metric, value in values.items()]
        if self._nvml is not None:
            for gpu in self._nvml.sample(t_ns):
                device = f"gpu{gpu.gpu}"
                self._rows += [(t_ns, device, metric, value) for metric, value in gpu.values.items()]
                self.unavailable.update({f"{device} {metric}": why for metric, why in gpu.unavailable.items()})
        if self._rapl is not None:
            try:
                self._rows.append((t_ns, "cpu_package", "energy_j", self._rapl.joules()))
            except Unavailable as why:
                self._rapl = None
                self.unavailable["cpu_package"] = str(why)

    def energy_j(self, start_ns: int, end_ns: int) -> dict[str, float | None]:
        """Joules between two times: of all GPUs together, and of the processor packages.

        Between samples a counter is taken to grow evenly. None where there is no meter, or one of the GPUs has none.
        """
        counted: dict[str, list[tuple[int, float]]] = {}
        for t_ns, device, metric, value in self._rows:
            if metric == "energy_j":
                counted.setdefault(device, []).append((t_ns, value))
        spent = {device: _between(readings, start_ns, end_ns) for device, readings in counted.items()}
        gpus = {device for _, device, _, _ in self._rows if device.startswith("gpu")}
        each = [spent.get(device) for device in gpus]
        known = [joules for joules in each if joules is not None]
        return {
            "gpu": sum(known) if each and len(known) == len(each) else None,
            "cpu_package": spent.get("cpu_package"),
        }

    def write(self, path: Path) -> None:
        """The samples as Parquet, whole or not at all; why something is unavailable is in the file's metadata."""
        import pyarrow as pa
        import pyarrow.parquet as pq

        columns: list[Any] = [list(column) for column in zip(*self._rows, strict=True)] or [[] for _ in COLUMNS]
        types = (pa.int64(), pa.string(), pa.string(), pa.float64())
        arrays = [pa.array(values, type=kind) for values, kind in zip(columns, types, strict=True)]
        table = pa.table(dict(zip(COLUMNS, arrays, strict=True)))
        table = table.replace_schema_metadata({f"unavailable {name}": why for name, why in self.unavailable.items()})
        temporary = path.with_name(f".{path.name}.tmp")
        pq.write_table(table, temporary, compression="zstd")
        sync(temporary)
        temporary.replace(path)


def _between(readings: Sequence[tuple[int, float]], start_ns: int, end_ns: int) -> float | None:
    """Growth of a counter between two times; None where fewer than two readings are around."""
    import numpy as np

    if len(readings) < 2:
        return None
    times = [t_ns - start_ns for t_ns, _ in readings]  # relative: nanoseconds of uptime do not fit a float
    first, last = np.interp([0, end_ns - start_ns], times, [value for _, value in readings])
    return float(last - first)
