"""Lets every request fail while the power of a disk is off, and later what was open then."""

from __future__ import annotations

import errno
import functools
import os
from collections.abc import Callable, Coroutine
from typing import Any, Final

from .operations import Operations
from .table import TABLE

Handler = Callable[..., Coroutine[Any, Any, Any]]

_OPEN_TO_ALL: Final = frozenset(("forget", "release", "releasedir"))
"""What the kernel lets go of; it must always be let go of."""

_HANDLES: Final[dict[str, tuple[int, ...]]] = {
    "fsync": (0,),
    "flush": (0,),
    "fallocate": (0,),
    "lseek": (0,),
    "copy_file_range": (0, 2),
    "setattr": (3,),
    "list_entries": (0,),
    "fsyncdir": (0,),
}
"""Which arguments of a handler are open files or directories. Reads and writes have their own way:
`Handle.kill`."""


class PowerGate:
    """Stands before all handlers of *operations*, in front of everything else."""

    def __init__(self, operations: Operations) -> None:
        self.is_off = False
        self._operations = operations
        self._dead: set[int] = set()
        for name in {row.handler for row in TABLE.values()} - _OPEN_TO_ALL:
            setattr(operations, name, self._guarded(getattr(operations, name), name))
        for name in ("release", "releasedir"):
            setattr(operations, name, self._releasing(getattr(operations, name)))

    def shut(self) -> None:
        """Let everything fail from now on, and what is open now for ever."""
        self.is_off = True
        self._dead |= self._operations.kill_handles()
        self._dead |= self._operations.open_directories()

    def open(self) -> None:
        """Let requests through again."""
        self.is_off = False

    def _guarded(self, handler: Handler, name: str) -> Handler:
        handles = _HANDLES.get(name, ())

        @functools.wraps(handler)
        def guarded(*args: Any) -> Coroutine[Any, Any, Any]:
            if self.is_off:
                return _fail()
            if self._dead and any(args[place] in self._dead for place in handles):
                return _fail()
            return handler(*args)

        return guarded

    def _releasing(self, handler: Handler) -> Handler:
        @functools.wraps(handler)
        def releasing(fh: int) -> Coroutine[Any, Any, Any]:
            self._dead.discard(fh)  # the next file that is opened may get its number
            return handler(fh)

        return releasing


async def _fail() -> None:
    raise OSError(errno.EIO, os.strerror(errno.EIO))
