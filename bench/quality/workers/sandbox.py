"""Worker: runs programs that a model wrote, each in a sandbox of its own, and says how each ended.

Imports the standard library only. For every program a process is made that

1. enters user, mount, pid, network, IPC and UTS namespaces of its own (as another user where this one is root), so
   that it sees no process, no network and no file but the interpreter's, read-only, and an empty folder in memory;
2. forks the interpreter once more, with limits on memory, processor time, file sizes and open files, without
   privileges, and behind a seccomp filter that refuses sockets, new processes, ptrace and the like;
3. runs the program and its tests there. A random word, which the program is not given, comes out when all tests ended.

Where namespaces are refused, Landlock (files) and the seccomp filter (network, processes, signals) take their place.
Where neither is to be had, nothing is run: the error's kind is `no_sandbox`.

request  {"task": "check"} or {"task": "run", "programs": [{"setup", "tests"}], "time_s", "memory_mib", "processes",
         "scratch": an empty folder}
result   {"level", "filter"} and for "run" also "verdicts": [{"verdict", "detail", "wall_s"}]
"""

from __future__ import annotations

import builtins
import contextlib
import ctypes
import errno
import json
import os
import platform
import resource
import secrets
import select
import shutil
import signal
import struct
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

CLONE_NEWNS, CLONE_NEWUTS, CLONE_NEWIPC = 0x00020000, 0x04000000, 0x08000000
CLONE_NEWUSER, CLONE_NEWPID, CLONE_NEWNET = 0x10000000, 0x20000000, 0x40000000
MS_RDONLY, MS_NOSUID, MS_NODEV, MS_NOEXEC = 1, 2, 4, 8
MS_BIND, MS_REC, MS_PRIVATE = 4096, 16384, 1 << 18
MNT_DETACH = 2
PR_SET_PDEATHSIG, PR_SET_DUMPABLE, PR_SET_NO_NEW_PRIVS, PR_SET_SECCOMP = 1, 4, 38, 22
MOUNT_ATTR_RDONLY, MOUNT_ATTR_NOSUID, MOUNT_ATTR_NODEV = 1, 2, 4
AT_FDCWD, AT_RECURSIVE = -100, 0x8000
#: Numbers of calls, by machine.
CALLS = {
    "x86_64": {
        "audit": 0xC000003E, "pivot_root": 155, "mount_setattr": 442,
        "landlock": (444, 445, 446), "capset": 126, "clone": 56, "clone3": 435, "kill": (62, 200, 234, 129, 297, 424),
        "denied": (
            41, 53, 57, 58, 59, 101, 103, 139, 153, 155, 156, 159, 161, 163, 164, 165, 166, 167, 168, 169, 170, 171,
            172, 173, 174, 175, 176, 177, 179, 180, 227, 246, 248, 249, 250, 272, 279, 298, 303, 304, 305, 308, 310,
            311, 312, 313, 320, 321, 322, 323, 425, 426, 427, 428, 429, 430, 431, 432, 433, 438, 440, 442,
        ),
    },
    "aarch64": {
        "audit": 0xC00000B7, "pivot_root": 41, "mount_setattr": 442,
        "landlock": (444, 445, 446), "capset": 91, "clone": 220, "clone3": 435, "kill": (129, 130, 131, 138, 240, 424),
        "denied": (
            198, 199, 117, 116, 39, 40, 41, 51, 60, 89, 97, 104, 105, 106, 112, 142, 161, 162, 170, 171, 217, 218, 219,
            221, 224, 225, 239, 241, 264, 265, 266, 268, 270, 271, 272, 273, 280, 281, 282, 294, 425, 426, 427, 428,
            429, 430, 431, 432, 433, 438, 440, 442,
        ),
    },
}  # fmt: skip
NOBODY = 65_534
#: Inside a user namespace the program is this user.
INNER_USER = 1000
SCRATCH_BYTES = 64 << 20
REPORT_BYTES = 8_192
#: Extra clock time for setting up, over what a program has.
GRACE_S = 2.0
VERDICTS = (
    *("passed", "failed_tests", "syntax_error", "runtime_error", "exited_early", "timed_out", "out_of_memory"),
    *("killed", "sandbox_error"),
)

libc = ctypes.CDLL(None, use_errno=True)


class NoSandboxError(Exception):
    """Programs cannot be contained here."""

    kind = "no_sandbox"


def run(request: dict[str, Any], progress: Callable[..., None]) -> dict[str, Any]:
    """The worker's entry."""
    level = containment()
    result: dict[str, Any] = {"level": level, "filter": platform.machine()}
    if request["task"] == "check":
        return result
    programs = request["programs"]
    verdicts: list[dict[str, Any] | None] = [None] * len(programs)
    running: dict[int, Running] = {}
    waiting = list(reversed(list(enumerate(programs))))
    done = 0
    while waiting or running:
        while waiting and len(running) < request["processes"]:
            place, program = waiting.pop()
            started = start(Task(program, request, level, Path(request["scratch"]) / str(place)))
            started.place = place
            running[started.report] = started
        ready, _, _ = select.select(list(running), [], [], 0.05)
        now = time.monotonic()
        for descriptor, one in list(running.items()):
            if descriptor in ready and not one.read():
                one.closed = True
            if one.closed or now > one.deadline:
                verdicts[one.place] = one.finish()
                del running[descriptor]
                done += 1
                progress(done, len(programs), "programs")
    return {**result, "verdicts": verdicts}


class Task:
    """A program, how it may run, and the word that comes out when its tests have ended."""

    def __init__(self, program: dict[str, Any], request: dict[str, Any], level: str, folder: Path) -> None:
        self.program, self.request, self.level, self.folder = program, request, level, folder
        self.word = secrets.token_hex(16)
        self.writer = -1


class Running:
    """One program on its way: the process around its sandbox, and what it reports."""

    def __init__(self, pid: int, report: int, word: str, deadline: float, folder: Path) -> None:
        self.pid, self.report, self.word, self.deadline, self.folder = pid, report, word, deadline, folder
        self.started = time.monotonic()
        self.place = -1
        self.said = b""
        self.closed = False

    def read(self) -> bool:
        """Take what was reported; False at its end, or when it says more than a verdict."""
        data = os.read(self.report, REPORT_BYTES)
        self.said += data[: REPORT_BYTES - len(self.said)]
        return bool(data) and len(self.said) < REPORT_BYTES

    def finish(self) -> dict[str, Any]:
        """End everything of it and judge."""
        late = not self.closed
        with contextlib.suppress(ProcessLookupError):
            os.kill(self.pid, signal.SIGKILL) if late else None
        _, status = os.waitpid(self.pid, 0)
        os.close(self.report)
        shutil.rmtree(self.folder, ignore_errors=True)
        verdict, detail = judged(self.said, self.word, status, late)
        return {"verdict": verdict, "detail": detail, "wall_s": round(time.monotonic() - self.started, 4)}


def judged(said: bytes, word: str, status: int, late: bool) -> tuple[str, str]:
    """How a program ended, by what it reported and how its process ended; passed only with the word."""
    lines = said.decode("utf-8", errors="replace").splitlines()
    if any(line == word for line in lines):
        return "passed", ""
    if late:
        return "timed_out", "the clock ran out"
    for line in lines:
        try:
            entry = json.loads(line)
            verdict, detail = str(entry["verdict"]), str(entry["detail"])
        except (ValueError, KeyError, TypeError):
            continue
        if verdict in VERDICTS and verdict != "passed":
            return verdict, detail[:500]
    code = os.waitstatus_to_exitcode(status)
    ended_by = {128 + signal.SIGXCPU: "timed_out", 128 + signal.SIGKILL: "killed", 128 + signal.SIGSEGV: "killed"}
    if code in ended_by:
        return ended_by[code], f"signal {code - 128}"
    if code > 128:
        return "killed", f"signal {code - 128}"
    return "exited_early", f"exit code {code} before the tests had ended"


def start(task: Task) -> Running:
    """Start a program in its sandbox."""
    reader, writer = os.pipe()
    to_child, from_parent = os.pipe()
    from_child, to_parent = os.pipe()
    task.writer = writer
    task.folder.mkdir()
    pid = os.fork()
    if pid == 0:
        try:
            for descriptor in (reader, from_parent, from_child):
                os.close(descriptor)
            contained(task, to_child, to_parent)
        except BaseException as error:
            tell(writer, "sandbox_error", f"{type(error).__name__}: {error}")
        finally:
            os._exit(70)
    for descriptor in (writer, to_child, to_parent):
        os.close(descriptor)
    if task.level == "namespaces" and os.read(from_child, 1):
        with contextlib.suppress(OSError):  # the child then says that it has no user, and is judged by that
            map_user(pid)
    os.close(from_parent)
    os.close(from_child)
    return Running(pid, reader, task.word, time.monotonic() + task.request["time_s"] + GRACE_S, task.folder)


def contained(task: Task, to_child: int, to_parent: int) -> None:
    """In the new process: build the sandbox, run the program in it, relay its end."""
    os.setsid()
    check(libc.prctl(PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0), "prctl")
    null = os.open(os.devnull, os.O_RDWR)
    for standard in (0, 1, 2):
        os.dup2(null, standard)
    if task.level == "namespaces":
        spaces = CLONE_NEWUSER | CLONE_NEWNS | CLONE_NEWPID | CLONE_NEWNET | CLONE_NEWIPC | CLONE_NEWUTS
        check(libc.unshare(spaces), "unshare")
        os.write(to_parent, b"u")
        os.read(to_child, 1)
        relay(task.writer, lambda: first(task))
    else:
        os.chdir(task.folder)
        relay(task.writer, lambda: innermost(task, task.folder))


def first(task: Task) -> None:
    """The first process of the new pid namespace: when it ends, the kernel ends every other one there."""
    check(libc.prctl(PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0), "prctl")
    new_root(task.folder)
    relay(task.writer, lambda: innermost(task, Path("/tmp")))  # noqa: S108 - of the new root


def relay(writer: int, body: Callable[[], None]) -> None:
    """Fork, run `body` in the child, end as it ends (128 + n for signal n). Never returns."""
    pid = os.fork()
    if pid == 0:
        try:
            body()
        except BaseException as error:
            tell(writer, "sandbox_error", f"{type(error).__name__}: {error}")
        finally:
            os._exit(70)
    _, status = os.waitpid(pid, 0)
    code = os.waitstatus_to_exitcode(status)
    os._exit(code if code >= 0 else 128 - code)


def map_user(pid: int) -> None:
    """Give the user namespace of `pid` its users: root there only to mount, and one without rights for the program."""
    outer, group = os.getuid(), os.getgid()
    if outer == 0:
        users = f"0 0 1\n{INNER_USER} {NOBODY} 1\n"
        groups = users
    else:
        users, groups = f"{INNER_USER} {outer} 1\n", f"{INNER_USER} {group} 1\n"
        Path(f"/proc/{pid}/setgroups").write_text("deny")
    Path(f"/proc/{pid}/gid_map").write_text(groups)
    Path(f"/proc/{pid}/uid_map").write_text(users)


def new_root(folder: Path) -> None:
    """Make `folder` the root: the interpreter's folders read-only, and an empty `/tmp` in memory."""
    mount("none", "/", "", MS_REC | MS_PRIVATE)
    mount("tmpfs", str(folder), "tmpfs", MS_NOSUID | MS_NODEV, "size=1m,mode=755")
    for source in readable():
        target = folder / source.relative_to("/")
        target.mkdir(parents=True, exist_ok=True)
        mount(str(source), str(target), "", MS_BIND | MS_REC)
        read_only(target)
    scratch = folder / "tmp"
    scratch.mkdir(exist_ok=True)
    options = f"size={SCRATCH_BYTES},nr_inodes=4096,mode=1777"
    mount("tmpfs", str(scratch), "tmpfs", MS_NOSUID | MS_NODEV | MS_NOEXEC, options)
    os.chdir(folder)
    check(libc.syscall(calls()["pivot_root"], b".", b"."), "pivot_root")
    check(libc.umount2(b".", MNT_DETACH), "umount2")
    mount("none", "/", "", 32 | MS_BIND | MS_RDONLY | MS_NOSUID | MS_NODEV)
    os.chdir("/tmp")  # noqa: S108 - of the new root


def readable() -> list[Path]:
    """What the interpreter needs: its own folders and the system's libraries."""
    wanted = [Path("/usr"), Path("/lib"), Path("/lib64"), Path(sys.base_prefix), Path(os.__file__).resolve().parent]
    found: list[Path] = []
    for folder in wanted:
        if folder.is_dir() and not any(other == folder or other in folder.parents for other in found):
            found.append(folder)
    return found


def innermost(task: Task, scratch: Path) -> None:
    """In the process that runs the program: give up everything, then run it."""
    check(libc.prctl(PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0), "prctl")
    if os.getuid() == 0 and task.level == "namespaces":
        os.setgroups([])
        os.setresgid(INNER_USER, INNER_USER, INNER_USER)
        os.setresuid(INNER_USER, INNER_USER, INNER_USER)
    limit(task.request)
    drop_capabilities()
    check(libc.prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0), "prctl")
    if task.level != "namespaces":
        landlock(scratch)
    seccomp(signals=task.level == "namespaces")
    if task.writer != 3:
        os.dup2(task.writer, 3)
    os.closerange(4, 1 << 16)
    os.environ.clear()
    execute(task.program["setup"], task.program["tests"], task.word)


def limit(request: dict[str, Any]) -> None:
    """Limits of the process, which it cannot raise again."""
    memory = request["memory_mib"] << 20
    seconds = max(1, round(request["time_s"]))
    for name, value in (
        (resource.RLIMIT_AS, memory),
        (resource.RLIMIT_FSIZE, SCRATCH_BYTES),
        (resource.RLIMIT_NOFILE, 64),
        (resource.RLIMIT_CORE, 0),
        (resource.RLIMIT_MEMLOCK, 0),
        (resource.RLIMIT_MSGQUEUE, 0),
    ):
        resource.setrlimit(name, (value, value))
    resource.setrlimit(resource.RLIMIT_CPU, (seconds, seconds + 1))


def execute(setup: str, tests: str, word: str) -> None:
    """Run the program, then its tests with the builtins as they were, and tell how that ended. Never returns."""
    sys.path[:] = [entry for entry in sys.path if "-packages" not in entry]
    sys.argv[:] = ["program"]
    write, leave, report = os.write, os._exit, tell  # what the program may replace is not what is used afterwards
    table = vars(builtins)
    untouched = dict(table)
    names: dict[str, Any] = {"__name__": "__main__", "__builtins__": builtins}
    try:
        exec(compile(setup, "program", "exec"), names)  # noqa: S102 - that is what the sandbox is for
        for name in [name for name in table if name not in untouched]:
            del table[name]
        table.update(untouched)
        sys.settrace(None)
        # The program's own names that hide a builtin stay its own: the tests do not judge with them.
        seen = {name: value for name, value in names.items() if name == "__builtins__" or name not in untouched}
        exec(compile(tests, "tests", "exec"), seen)  # noqa: S102
        write(3, word.encode() + b"\n")
    except AssertionError as error:
        report(3, "failed_tests", str(error))
    except SyntaxError as error:
        report(3, "syntax_error", str(error))
    except MemoryError:
        report(3, "out_of_memory", "MemoryError")
    except SystemExit as error:
        report(3, "exited_early", f"SystemExit({error.code!r})")
    except BaseException as error:
        report(3, "runtime_error", f"{type(error).__name__}: {error}")
    finally:
        leave(0)


def tell(descriptor: int, verdict: str, detail: str) -> None:
    """Report a verdict other than passed."""
    line = json.dumps({"verdict": verdict, "detail": detail[:500]})
    with contextlib.suppress(OSError):
        os.write(descriptor, line.encode() + b"\n")


def drop_capabilities() -> None:
    """Give up what being root in a user namespace allows."""
    header = struct.pack("Ii", 0x20080522, 0)
    check(libc.syscall(calls()["capset"], header, bytes(24)), "capset")


def seccomp(*, signals: bool) -> None:
    """Refuse sockets, processes (not threads), ptrace, mounts, keys, BPF, io_uring …, and signals unless told."""
    table = calls()
    load, equal, at_least, both, give = 0x20, 0x15, 0x35, 0x45, 0x06
    refuse, allow, kill, missing = 0x00050000 | errno.EPERM, 0x7FFF0000, 0x80000000, 0x00050000 | errno.ENOSYS

    def op(code: int, value: int, yes: int = 0, no: int = 0) -> bytes:
        return struct.pack("HBBI", code, yes, no, value)

    program = [op(load, 4), op(equal, table["audit"], 1, 0), op(give, kill), op(load, 0)]
    if platform.machine() == "x86_64":
        program += [op(at_least, 0x40000000, 0, 1), op(give, kill)]  # another numbering of the same calls
    program += [op(equal, table["clone3"], 0, 1), op(give, missing)]  # its flags cannot be read: clone is used then
    program += [
        op(equal, table["clone"], 0, 4),
        op(load, 16),
        op(both, 0x00010000, 1, 0),  # a thread
        op(give, refuse),
        op(give, allow),
    ]
    for number in (*table["denied"], *(() if signals else table["kill"])):
        program += [op(equal, number, 0, 1), op(give, refuse)]
    program.append(op(give, allow))
    code = ctypes.create_string_buffer(b"".join(program))
    filter_ = ctypes.create_string_buffer(struct.pack("HxxxxxxP", len(program), ctypes.addressof(code)))
    check(libc.prctl(PR_SET_SECCOMP, 2, ctypes.byref(filter_), 0, 0), "seccomp")


def landlock(scratch: Path) -> None:
    """Allow reading the interpreter's folders and writing below `scratch`, and nothing else of the file system."""
    create, add, restrict = calls()["landlock"]
    version = libc.syscall(create, None, 0, 1)
    if version < 1:
        raise NoSandboxError("the kernel has no Landlock")
    every = (1 << (16 if version > 4 else 15 if version > 2 else 14 if version > 1 else 13)) - 1
    read = 1 | 4 | 8
    handled = struct.pack("QQQ", every, 3 if version > 3 else 0, 3 if version > 5 else 0)
    size = 24 if version > 5 else 16 if version > 3 else 8
    rules = check(libc.syscall(create, handled[:size], size, 0), "landlock")
    for folder, allowed in [*((path, read) for path in readable()), (scratch, every)]:
        place = os.open(folder, os.O_PATH | os.O_CLOEXEC)
        check(libc.syscall(add, rules, 1, struct.pack("=Qi", allowed, place), 0), "landlock")
        os.close(place)
    check(libc.syscall(restrict, rules, 0), "landlock")
    os.close(rules)


def containment() -> str:
    """`namespaces` or `landlock`; raises NoSandboxError when there is neither."""
    if sys.platform != "linux" or platform.machine() not in CALLS:
        raise NoSandboxError(f"there is no sandbox for {sys.platform} on {platform.machine()}, only for Linux")
    if namespaces_work():
        return "namespaces"
    if libc.syscall(calls()["landlock"][0], None, 0, 1) >= 1:
        return "landlock"
    raise NoSandboxError(
        "neither user namespaces nor Landlock are to be had here; allow one of them (a container needs "
        "--security-opt seccomp=unconfined, some distributions sysctl kernel.unprivileged_userns_clone=1)"
    )


def namespaces_work() -> bool:
    """Whether a process may make itself all the namespaces and mount in them."""
    reader, writer = os.pipe()
    to_child, from_parent = os.pipe()
    pid = os.fork()
    if pid == 0:
        try:
            os.close(from_parent)
            spaces = CLONE_NEWUSER | CLONE_NEWNS | CLONE_NEWPID | CLONE_NEWNET | CLONE_NEWIPC | CLONE_NEWUTS
            check(libc.unshare(spaces), "unshare")
            os.write(writer, b"u")
            os.read(to_child, 1)
            mount("none", "/", "", MS_REC | MS_PRIVATE)
            mount("tmpfs", "/usr", "tmpfs", MS_NOSUID, "size=1m")
            os._exit(0)
        finally:
            os._exit(1)
    os.close(writer)
    if os.read(reader, 1):
        with contextlib.suppress(OSError):
            map_user(pid)
    os.close(from_parent)
    _, status = os.waitpid(pid, 0)
    for descriptor in (reader, to_child):
        os.close(descriptor)
    return status == 0


def mount(source: str, target: str, kind: str, flags: int, options: str = "") -> None:
    """mount(2); raises OSError."""
    words = [word.encode() or None for word in (source, target, kind)]
    check(libc.mount(*words, ctypes.c_ulong(flags), options.encode() or None), f"mount {target}")


def read_only(folder: Path) -> None:
    """Make a mount and those below it read-only."""
    wanted = struct.pack("QQQQ", MOUNT_ATTR_RDONLY | MOUNT_ATTR_NOSUID | MOUNT_ATTR_NODEV, 0, 0, 0)
    number = calls()["mount_setattr"]
    check(libc.syscall(number, AT_FDCWD, os.fsencode(folder), AT_RECURSIVE, wanted, 32), "mount_setattr")


def calls() -> dict[str, Any]:
    """This machine's numbers of calls."""
    return CALLS[platform.machine()]


def check(result: int, what: str) -> int:
    """`result`, unless it says that the call failed: raises OSError."""
    if result < 0:
        number = ctypes.get_errno()
        raise OSError(number, f"{what}: {os.strerror(number)}")
    return result
