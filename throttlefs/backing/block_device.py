"""Finds the size of a block device that is the one file of a mount; fstat(2) does not tell it."""

from __future__ import annotations

import os
import stat
from collections.abc import Callable
from contextlib import ExitStack


def device_size(source_fd: int, stack: ExitStack) -> Callable[[], int] | None:
    """A function that returns the size in bytes of the block device *source_fd* (O_PATH).

    The device may grow, so the function asks each time; *stack* closes the descriptor that it
    uses. None if *source_fd* is no block device. Raises `OSError` if it cannot be opened.
    """
    if not stat.S_ISBLK(os.fstat(source_fd).st_mode):
        return None
    device = os.open(b"/proc/self/fd/%d" % source_fd, os.O_RDONLY | os.O_CLOEXEC)
    stack.callback(os.close, device)
    return lambda: os.lseek(device, 0, os.SEEK_END)


def is_device_of_size(path_fd: int, size: int) -> bool:
    """Whether *path_fd* (O_PATH) is a block device of *size* bytes.

    No device can be truncated, but a program that asks for the size it already has may succeed.
    Raises `OSError` if the device cannot be opened.
    """
    if not stat.S_ISBLK(os.fstat(path_fd).st_mode):
        return False
    device = os.open(b"/proc/self/fd/%d" % path_fd, os.O_RDONLY | os.O_CLOEXEC)
    try:
        return os.lseek(device, 0, os.SEEK_END) == size
    finally:
        os.close(device)
