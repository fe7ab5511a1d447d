"""The descriptors that a process starts with: stdin, stdout and stderr, and what it inherits."""

from __future__ import annotations

import os
from collections.abc import Collection

_STANDARD = (0, 1, 2)
"""stdin, stdout and stderr (stdin(3))."""


def open_standard() -> list[int]:
    """Open on /dev/null what is closed of stdin, stdout and stderr; returns which were closed.

    Whatever a program opens next takes the lowest free number. A device or socket that became
    number 2 would get the error messages of our children, and would be lost when a daemon lets
    go of its terminal. So this comes before everything else that opens a file.
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
    """Point *numbers*, of stdin, stdout and stderr, at /dev/null: whoever reads them has the end.

    *numbers* must be open.
    """
    null = os.open(os.devnull, os.O_RDWR)
    for number in numbers:
        os.dup2(null, number)
    os.close(null)


def beside_standard() -> frozenset[int]:
    """All that is open beside stdin, stdout and stderr.

    Before a program has opened anything that is what it inherits: a shell hands on its locks and
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
            pass  # such as EIO of a file that could not be written back: it is closed then, too


def _is_open(number: int) -> bool:
    try:
        os.fstat(number)
    except OSError:
        return False
    return True
