"""Ends containers when the harness lets go: `LIFELINE_FD RUNTIME LABEL`. Standard library only.

The lifeline's writing end is in the harness alone, so reading it ends when the harness closes it or dies, however it
dies. A container may appear while its client is being killed: the label is asked for until nothing carries it for a
while.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time

_LIMIT_S = 50.0
_EVERY_S = 0.3
_QUIET_ROUNDS = 4


def main(arguments: list[str]) -> int:
    """Wait for the end of the lifeline, then end what carries the label; 1 when something still does."""
    lifeline, runtime, label = int(arguments[0]), arguments[1], arguments[2]
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)
    while os.read(lifeline, 1):
        pass
    deadline = time.monotonic() + _LIMIT_S
    quiet = 0
    while quiet < _QUIET_ROUNDS and time.monotonic() < deadline:
        listed = ask([runtime, "ps", "--all", "--quiet", "--filter", f"label={label}"])
        found = [] if listed is None else listed.split()
        quiet = 0 if found or listed is None else quiet + 1
        if found:
            ask([runtime, "rm", "--force", *found])
        time.sleep(_EVERY_S)
    return 0 if quiet == _QUIET_ROUNDS else 1


def ask(command: list[str]) -> str | None:
    """What the runtime answers; None when it fails or does not answer in time."""
    try:
        answer = subprocess.run(command, capture_output=True, text=True, timeout=20, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return None
    return answer.stdout if answer.returncode == 0 else None


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
