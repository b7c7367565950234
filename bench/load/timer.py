"""A timer with a file descriptor (timerfd_create(2)): exact where epoll's own timeout counts in milliseconds."""

from __future__ import annotations

import contextlib
import ctypes
import os

from bench.base.clock import NS_PER_S

_CLOCK_MONOTONIC = 1
_ABSOLUTE = 1
_libc = ctypes.CDLL(None, use_errno=True)


class _Spec(ctypes.Structure):
    _fields_ = (
        ("interval_s", ctypes.c_long),
        ("interval_ns", ctypes.c_long),
        ("value_s", ctypes.c_long),
        ("value_ns", ctypes.c_long),
    )


class Timer:
    """Becomes readable at a CLOCK_MONOTONIC time. Raises OSError when the system has none."""

    def __init__(self) -> None:
        self.fd: int = _libc.timerfd_create(_CLOCK_MONOTONIC, os.O_NONBLOCK | os.O_CLOEXEC)
        if self.fd < 0:
            number = ctypes.get_errno()
            raise OSError(number, os.strerror(number))
        self._spec = _Spec()
        self._armed_ns = 0

    def arm(self, at_ns: int) -> None:
        """Fire at `at_ns`; a time in the past fires at once."""
        if at_ns != self._armed_ns:
            self._spec.value_s, self._spec.value_ns = divmod(max(at_ns, 1), NS_PER_S)
            _libc.timerfd_settime(self.fd, _ABSOLUTE, ctypes.byref(self._spec), None)
            self._armed_ns = at_ns

    def acknowledge(self) -> None:
        """Make the descriptor quiet again after it fired."""
        with contextlib.suppress(BlockingIOError):
            os.read(self.fd, 8)
        self._armed_ns = 0

    def close(self) -> None:
        os.close(self.fd)
