"""The alarm that wakes the dispatcher: a timer on the monotonic clock, exact to some 50 us.

``trio.sleep`` ends in an epoll timeout of whole milliseconds, so it is up to 1 ms late. A timerfd
(timerfd_create(2)) is as exact as the kernel's high-resolution timers. Python has it from 3.13 on
(``os.timerfd_create``); for earlier versions this module uses ctypes.
"""

from __future__ import annotations

import ctypes
import os
import struct
from typing import Final, Protocol

import trio

_CLOCK_MONOTONIC: Final = 1
_TFD_NONBLOCK: Final = os.O_NONBLOCK
_TFD_CLOEXEC: Final = os.O_CLOEXEC
_TFD_TIMER_ABSTIME: Final = 1
_NANO: Final = 1_000_000_000
_LATEST: Final = (1 << 62) - 1
"""The latest instant (ns) that fits into a timer: some 146 years."""


class Alarm(Protocol):
    """Something that wakes one waiting task at an instant of the limiter's clock."""

    def set(self, instant: int | None) -> None:
        """Go off at *instant* (ns), at once if it has passed; None: not at all."""

    async def wait(self) -> None:
        """Return when the instant that is set has come; it may change in the meantime."""

    def fileno(self) -> int:
        """A descriptor that becomes readable when the instant comes."""

    def close(self) -> None:
        """Free what the alarm holds; nobody waits any more."""


class TimerfdAlarm:
    """An alarm on CLOCK_MONOTONIC, the clock of `time.monotonic_ns`, for a trio task.

    Raises OSError if there are no descriptors left.
    """

    def __init__(self) -> None:
        libc = ctypes.CDLL(None, use_errno=True)
        self._settime = libc.timerfd_settime
        self._settime.argtypes = (ctypes.c_int, ctypes.c_int, ctypes.c_void_p, ctypes.c_void_p)
        # struct itimerspec: interval (none: one shot) and value, each seconds and nanoseconds.
        self._spec = ctypes.create_string_buffer(32)
        self._address = ctypes.addressof(self._spec)
        self._fd: int = libc.timerfd_create(_CLOCK_MONOTONIC, _TFD_NONBLOCK | _TFD_CLOEXEC)
        if self._fd < 0:
            raise _last_error("timerfd_create")

    def set(self, instant: int | None) -> None:
        """Go off at *instant* (ns), at once if it has passed; None: not at all."""
        if instant is None:
            seconds = nanoseconds = 0
        else:
            # A value of 0 would disarm the timer instead of making it go off at once.
            seconds, nanoseconds = divmod(min(max(instant, 1), _LATEST), _NANO)
        struct.pack_into("@qqqq", self._spec, 0, 0, 0, seconds, nanoseconds)
        if self._settime(self._fd, _TFD_TIMER_ABSTIME, self._address, None) < 0:
            raise _last_error("timerfd_settime")

    async def wait(self) -> None:
        """Return when the instant that is set has come; it may change in the meantime."""
        while True:
            await trio.lowlevel.wait_readable(self._fd)
            try:
                os.read(self._fd, 8)
            except BlockingIOError:
                continue  # set anew after it had gone off
            return

    def fileno(self) -> int:
        """The timer's descriptor; setting the timer anew makes it unreadable again."""
        return self._fd

    def close(self) -> None:
        """Close the descriptor; nobody waits any more."""
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1


def _last_error(call: str) -> OSError:
    number = ctypes.get_errno()
    return OSError(number, f"{call}: {os.strerror(number)}")
