"""The process between the harness and a tool: when the harness dies, however it dies, everything below here ends.

Run as `python -I -S supervisor.py LIFELINE_FD USAGE_FD -- ARGV…`; standard library only, no package imports.
It adopts orphans (PR_SET_CHILD_SUBREAPER, see prctl(2)), so descendants that left the process group or were
daemonised are still its children. It holds the reading end of a pipe to the harness:

    byte `T`      send SIGTERM to the tool and its process group
    byte `K`      kill every descendant now
    end of file   the harness is gone: kill every descendant now

It exits with the tool's exit code, or 128 + signal number, after killing what the tool left behind, and writes
one JSON line of resource usage of the whole tree to USAGE_FD.
"""

import contextlib
import ctypes
import json
import os
import resource
import select
import signal
import sys
import time

PR_SET_PDEATHSIG = 1
PR_SET_CHILD_SUBREAPER = 36


def prctl(option: int, value: int) -> None:
    """prctl(2) on Linux; elsewhere nothing, and only the process group is ended."""
    if sys.platform == "linux":
        ctypes.CDLL(None, use_errno=True).prctl(option, value, 0, 0, 0)


def descendants(root: int) -> list[int]:
    """Process ids below `root`, deepest last, read from /proc."""
    children: dict[int, list[int]] = {}
    with contextlib.suppress(FileNotFoundError):
        for name in os.listdir("/proc"):  # noqa: PTH208 - no pathlib: start-up time counts here
            if not name.isdigit():
                continue
            with contextlib.suppress(OSError, ValueError, IndexError):
                with open(f"/proc/{name}/stat", encoding="utf-8", errors="replace") as stream:  # noqa: PTH123
                    parent = int(stream.read().rpartition(")")[2].split()[1])
                children.setdefault(parent, []).append(int(name))
    found: list[int] = []
    queue = [root]
    while queue:
        below = children.get(queue.pop(), [])
        found += below
        queue += below
    return found


def signal_group(group: int, number: int) -> None:
    """Signal a process group that may already be gone."""
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(group, number)


def kill_all(child: int) -> None:
    """SIGKILL everything below this process until nothing is left (a fork may race one pass)."""
    deadline = time.monotonic() + 4.0
    while time.monotonic() < deadline:
        signal_group(child, signal.SIGKILL)
        below = descendants(os.getpid())
        for pid in below:
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.kill(pid, signal.SIGKILL)
        reap_all()
        if not descendants(os.getpid()):
            return
        time.sleep(0.01)


def reap_all() -> None:
    """Collect every child that has ended."""
    with contextlib.suppress(ChildProcessError):
        while os.waitpid(-1, os.WNOHANG)[0]:
            pass


def start(argv: list[str], inherited_to_close: tuple[int, ...]) -> int:
    """Fork and execute the tool in its own process group; it dies with this process."""
    child = os.fork()
    if child:
        with contextlib.suppress(PermissionError, ProcessLookupError):
            os.setpgid(child, child)
        return child
    try:
        os.setpgid(0, 0)
        prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
        signal.set_wakeup_fd(-1)
        # SIGPIPE and SIGXFSZ are ignored by Python itself, and a tool would inherit that.
        for number in (signal.SIGCHLD, signal.SIGTERM, signal.SIGINT, signal.SIGPIPE, signal.SIGXFSZ):
            signal.signal(number, signal.SIG_DFL)
        for descriptor in inherited_to_close:
            os.close(descriptor)
        os.execvp(argv[0], argv)  # noqa: S606 - an argument list, no shell
    except OSError as error:
        os.write(2, f"cannot start {argv[0]}: {error.strerror}\n".encode())
    finally:
        os._exit(127)


def supervise(child: int, lifeline: int, wakeup: int) -> int:
    """Wait for the tool or for the harness to go; returns the tool's wait status, or -1 when it was killed here."""
    while True:
        ready, _, _ = select.select([lifeline, wakeup], [], [])
        if wakeup in ready:
            os.read(wakeup, 4096)
        # The tool's own status must not be lost to reap_all, so orphans are collected one by one here.
        with contextlib.suppress(ChildProcessError):
            while True:
                pid, status = os.waitpid(-1, os.WNOHANG)
                if pid == child:
                    return status
                if pid == 0:
                    break
        if lifeline in ready:
            command = os.read(lifeline, 1)
            if command == b"T":
                signal_group(child, signal.SIGTERM)
            else:
                return -1


def main(arguments: list[str]) -> int:
    """Supervise `arguments` = LIFELINE_FD USAGE_FD -- ARGV…"""
    lifeline, usage = int(arguments[0]), int(arguments[1])
    prctl(PR_SET_CHILD_SUBREAPER, 1)
    wakeup_read, wakeup_write = os.pipe()
    for descriptor in (wakeup_read, wakeup_write):
        os.set_blocking(descriptor, False)
    signal.set_wakeup_fd(wakeup_write, warn_on_full_buffer=False)
    signal.signal(signal.SIGCHLD, lambda *_: None)
    # Ctrl-C and a polite kill of the group reach the harness, which decides; end of file on the lifeline follows.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    child = start(arguments[3:], (lifeline, usage, wakeup_read, wakeup_write))
    status = supervise(child, lifeline, wakeup_read)
    kill_all(child)
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    unit = 1 if sys.platform == "darwin" else 1024
    report = {"cpu_s": used.ru_utime + used.ru_stime, "peak_rss_bytes": used.ru_maxrss * unit}
    with contextlib.suppress(OSError):
        os.write(usage, json.dumps(report).encode() + b"\n")
    if status == -1:
        return 128 + signal.SIGKILL
    return 128 + os.WTERMSIG(status) if os.WIFSIGNALED(status) else os.WEXITSTATUS(status)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
