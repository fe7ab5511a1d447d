"""Sees to the descriptors that a process starts with: stdin, stdout, stderr, and others."""

from __future__ import annotations

import os
from collections.abc import Collection

_STANDARD = (0, 1, 2)
"""stdin, stdout and stderr (stdin(3))."""


def open_standard() -> list[int]:
    """Open those of stdin, stdout and stderr that are closed on /dev/null; returns which.

    The next file that a program opens gets the lowest free number. A device or socket with number 2
    would get the error messages of our children, and would be lost when the daemon leaves its
    terminal. So call this before everything else that opens a file.
    """
    closed = [number for number in _STANDARD if not _is_open(number)]
    for number in closed:
        found = os.open(os.devnull, os.O_RDWR)  # the lowest free number, which is this one
        if found != number:
            os.dup2(found, number)
            os.close(found)
        os.set_inheritable(number, True)
    return closed


def let_go_of(numbers: Collection[int]) -> None:
    """Point *numbers*, of stdin, stdout and stderr, at /dev/null, so that their readers see EOF.

    *numbers* must be open.
    """
    null = os.open(os.devnull, os.O_RDWR)
    for number in numbers:
        os.dup2(null, number)
    os.close(null)


def beside_standard() -> frozenset[int]:
    """The descriptors that are open beside stdin, stdout and stderr.

    If the program has opened nothing yet, it has inherited them: a shell hands on its locks and
    pipes (``exec 9>lock``), make(1) its jobserver.
    """
    numbers = map(int, os.listdir("/proc/self/fd"))  # one of them reads this directory
    return frozenset(number for number in numbers if number > max(_STANDARD) and _is_open(number))


def close_all(numbers: Collection[int]) -> None:
    """Close *numbers*."""
    for number in numbers:
        try:
            os.close(number)
        except OSError:
            pass  # e.g. EIO of a write-back that failed: it is closed all the same


def _is_open(number: int) -> bool:
    try:
        os.fstat(number)
    except OSError:
        return False
    return True
