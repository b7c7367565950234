"""Telemetry around a measurement: host, GPUs and energy meters sampled together, written as one tidy table."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bench.base.files import sync
from bench.telemetry.energy import Rapl
from bench.telemetry.gpu import Nvml, Unavailable
from bench.telemetry.host import Host, own_trees

COLUMNS = ("t_ns", "device", "metric", "value")
_UNREAD = "it was not read both before the first request and after the last"


@dataclass(frozen=True, kw_only=True)
class Energy:
    """Joules of everything in `scope`, whoever used it; None with the reason in `missing`."""

    joules: float | None = None
    scope: str | None = None
    missing: str | None = None


class Telemetry:
    """Samples on `take(t_ns)`, used by one thread; a context manager.

    `server_pid` is the root of the server's processes, None where they are not below us, because of `without_pid`;
    `server_pss_bytes` is its latest proportional set size.
    `unavailable` says of every meter or metric that cannot be had why, by «device» or «device metric».
    """

    def __init__(
        self,
        server_pid: int | None = None,
        server_pss_bytes: Callable[[], int | None] | None = None,
        *,
        without_pid: str = "no server was started here",
    ) -> None:
        self._stack = ExitStack()
        pss = {} if server_pss_bytes is None else {"server": server_pss_bytes}
        self._trees = own_trees(server_pid)
        self._host = Host(self._trees, pss_bytes=pss)
        self._without_pid = without_pid
        self._server_gpus: set[int] = set()
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
        """Sample everything once, the growing meters first: they are to be read at `t_ns`."""
        if self._rapl is not None:
            try:
                self._rows.append((t_ns, "cpu_package", "energy_j", self._rapl.joules()))
            except Unavailable as why:
                self._rapl = None
                self.unavailable["cpu_package"] = str(why)
        if self._nvml is not None:
            self._take_gpus(self._nvml, t_ns)
        for device, values in self._host.sample(t_ns).items():
            self._rows += [(t_ns, device, metric, value) for metric, value in values.items()]

    def _take_gpus(self, nvml: Nvml, t_ns: int) -> None:
        for gpu in nvml.sample(t_ns):
            device = f"gpu{gpu.gpu}"
            self._rows += [(t_ns, device, metric, value) for metric, value in gpu.values.items()]
            self.unavailable.update({f"{device} {metric}": why for metric, why in gpu.unavailable.items()})
        server = self._trees.get("server")
        if server is not None:
            try:
                self._server_gpus |= {process.gpu for process in nvml.processes() if process.pid in server.pids}
            except Unavailable as why:
                self.unavailable["gpu processes"] = str(why)

    def energy(self, start_ns: int, end_ns: int) -> dict[str, Energy]:
        """Between two times: of the GPUs that the server's processes were seen on, and of the processor packages.

        Between samples a counter is taken to grow evenly; what was not read on both sides of the two times is missing.
        """
        counted: dict[str, list[tuple[int, float]]] = {}
        for t_ns, device, metric, value in self._rows:
            if metric == "energy_j":
                counted.setdefault(device, []).append((t_ns, value))
        spent = {device: _between(readings, start_ns, end_ns) for device, readings in counted.items()}
        package = spent.get("cpu_package")
        return {
            "gpu": self._gpu_energy(spent),
            "cpu_package": Energy(joules=package, scope="packages")
            if package is not None
            else Energy(missing=self.unavailable.get("cpu_package", _UNREAD)),
        }

    def _gpu_energy(self, spent: Mapping[str, float | None]) -> Energy:
        if "gpu" in self.unavailable:
            return Energy(missing=self.unavailable["gpu"])
        if "server" not in self._trees:
            return Energy(missing=f"{self._without_pid}: its GPUs are not known")
        if not self._server_gpus:
            unseen = "NVML sees none of the server's processes on a GPU"
            return Energy(missing=self.unavailable.get("gpu processes", unseen))
        total = 0.0
        for gpu in sorted(self._server_gpus):
            joules = spent.get(f"gpu{gpu}")
            if joules is None:
                return Energy(missing=f"GPU {gpu}: {self.unavailable.get(f'gpu{gpu} energy_j', _UNREAD)}")
            total += joules
        return Energy(joules=total, scope=f"gpus {', '.join(map(str, sorted(self._server_gpus)))}")

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
    """Growth of a counter between two times; None where it was not read on both sides, or fell."""
    import numpy as np

    if len(readings) < 2 or readings[0][0] > start_ns or readings[-1][0] < end_ns:
        return None
    times = [t_ns - start_ns for t_ns, _ in readings]  # relative: nanoseconds of uptime do not fit a float
    first, last = np.interp([0, end_ns - start_ns], times, [value for _, value in readings])
    return float(last - first) if last >= first else None
