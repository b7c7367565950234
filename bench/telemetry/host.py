"""The machine and our process trees on it: processor time, memory, load, and what a hypervisor took."""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Callable, Mapping

import psutil

from bench.base.clock import NS_PER_S

#: Finding a tree lists every process of the machine, so its members are remembered for this long.
_TREE_NS = 10 * NS_PER_S
#: Load workers come and go with a scenario: looked for with every sample of 1 Hz.
_CLIENT_NS = NS_PER_S // 2


class Tree:
    """A process and all below it, without those of `without` and what is below them."""

    def __init__(self, root_pid: int, without: Tree | None = None, *, refresh_ns: int = _TREE_NS) -> None:
        self._root_pid = root_pid
        self._without = without
        self._refresh_ns = refresh_ns
        self._members: dict[int, psutil.Process] = {}
        self._seen: set[int] = set()
        self._gone_cpu_s = 0.0
        self._cpu_s: dict[int, float] = {}
        self._found_ns: int | None = None

    @property
    def pids(self) -> set[int]:
        """The members as last seen."""
        return set(self._members)

    def pss_bytes(self, t_ns: int) -> int | None:
        """Proportional set size, so that shared pages of forked workers count once; resident memory where the kernel
        does not give it. None when the tree is gone."""
        self._refresh(t_ns)
        sizes = [size for process in self._members.values() if (size := _pss_bytes(process)) is not None]
        return sum(sizes) if sizes else None

    def sample(self, t_ns: int) -> dict[str, float]:
        """`cpu_s` (seconds of processor time so far) and `rss_bytes`; empty when the tree is gone."""
        self._refresh(t_ns)
        rss_bytes = 0
        for pid, process in list(self._members.items()):
            try:
                with process.oneshot():
                    times = process.cpu_times()
                    rss_bytes += process.memory_info().rss
                self._cpu_s[pid] = times.user + times.system
            except psutil.Error:
                self._members.pop(pid)
                self._gone_cpu_s += self._cpu_s.pop(pid, 0.0)
        if not self._members:
            return {}
        return {"cpu_s": self._gone_cpu_s + sum(self._cpu_s.values()), "rss_bytes": float(rss_bytes)}

    def _refresh(self, t_ns: int) -> None:
        if self._found_ns is not None and t_ns - self._found_ns < self._refresh_ns:
            return
        self._found_ns = t_ns
        others = self._without.pids if self._without is not None else set()
        running = set(psutil.pids())
        unknown = running - self._seen - others
        new = {pid: found for pid in unknown if (found := _with_parent(pid)) is not None}
        ended = unknown - new.keys()
        while joining := {pid for pid, (_, up) in new.items() if pid == self._root_pid or up in self._members}:
            self._members |= {pid: new.pop(pid)[0] for pid in joining}
        # Below one that just ended may be some of ours: who is left is looked at again.
        self._seen = running - new.keys() if ended else running


def _with_parent(pid: int) -> tuple[psutil.Process, int] | None:
    try:
        process = psutil.Process(pid)
        return process, process.ppid()
    except psutil.Error:
        return None


def _pss_bytes(process: psutil.Process) -> int | None:
    try:
        try:
            return int(process.memory_full_info().pss)
        except AttributeError:
            return int(process.memory_info().rss)
    except (psutil.NoSuchProcess, psutil.AccessDenied):
        return None


class Host:
    """Samples the machine and named process trees; `pss_bytes` is asked of who measures it anyway.

    Proportional set size makes the kernel walk page tables, so it is not taken here a second time.
    """

    def __init__(self, trees: Mapping[str, Tree], *, pss_bytes: Mapping[str, Callable[[], int | None]] = {}) -> None:
        self._trees = trees
        self._pss_bytes = pss_bytes

    def sample(self, t_ns: int) -> dict[str, dict[str, float]]:
        """Values by device («host» or a tree's name) and metric; what is not to be had is left out.

        `cpu_busy_s` and `cpu_steal_s` are seconds of all cores so far, `memory_available_bytes` the machine's,
        `load_1min` its load average.
        """
        found = {name: tree.sample(t_ns) for name, tree in self._trees.items()}
        for name, ask in self._pss_bytes.items():
            pss = ask()
            if pss is not None:
                found.setdefault(name, {})["pss_bytes"] = float(pss)
        return {"host": _machine(), **found}


def _machine() -> dict[str, float]:
    times = psutil.cpu_times()
    idle_s = times.idle + getattr(times, "iowait", 0.0)
    values = {
        "cpu_busy_s": sum(times) - idle_s - getattr(times, "guest", 0.0) - getattr(times, "guest_nice", 0.0),
        "memory_available_bytes": float(psutil.virtual_memory().available),
    }
    if hasattr(times, "steal"):
        values["cpu_steal_s"] = times.steal
    with contextlib.suppress(OSError):
        values["load_1min"] = os.getloadavg()[0]
    return values


def own_trees(server_pid: int | None) -> dict[str, Tree]:
    """The server's tree, and ours without it: the load generator."""
    if server_pid is None:
        return {"client": Tree(os.getpid(), refresh_ns=_CLIENT_NS)}
    server = Tree(server_pid)
    server.sample(time.monotonic_ns())
    return {"server": server, "client": Tree(os.getpid(), without=server, refresh_ns=_CLIENT_NS)}
