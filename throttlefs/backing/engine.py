"""The interface of the two engines, and the choice between them."""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Literal, Protocol, Unpack

from throttlefs.host.credentials import Credentials

from .buffers import Data
from .identities import OWN
from .pool import Arguments, Result

EngineChoice = Literal["auto", "uring", "threads"]


class Engine(Protocol):
    """Does I/O that may block without blocking the event loop.

    An operation cannot be cancelled: a cancelled task goes on when the kernel is done with its
    request, and `trio.Cancelled` comes at its next checkpoint. So when a call has returned or
    raised, its memory may be used again and its descriptor closed.

    All operations raise `OSError` with the errno of the system call. EINTR and EAGAIN are
    retried.

    *offload* says that the kernel copies much memory between the page cache and ours, and that
    another core should do it.
    """

    name: str

    async def read(self, fd: int, offset: int, size: int, *, offload: bool = False) -> Data:
        """Read up to *size* bytes at *offset*; fewer only at the end of the file."""

    async def write(
        self,
        fd: int,
        offset: int,
        data: Data,
        *,
        offload: bool = False,
        flags: int = 0,
        identity: int = OWN,
    ) -> int:
        """Write all of *data*; returns its length.

        *flags* are RWF_DSYNC, RWF_SYNC and RWF_APPEND (pwritev2(2)). The error is EOPNOTSUPP if the
        filesystem does not know them.

        After an error in the middle (ENOSPC, EFBIG) it returns the number of bytes written, as
        write(2) does; the write that goes on from there raises the error.
        """

    async def read_into(self, fd: int, offset: int, address: int, size: int) -> int:
        """Read as `read` does, to the memory at *address*; returns the number of bytes."""

    async def write_from(
        self,
        fd: int,
        offset: int,
        address: int,
        size: int,
        *,
        flags: int = 0,
        identity: int = OWN,
    ) -> int:
        """Write as `write` does, from the memory at *address*."""

    async def write_back(self, fd: int, offset: int, size: int) -> None:
        """Write dirty pages of the range to the disk and wait: sync_file_range(2).

        It leaves nothing dirty behind. It is no fsync: it flushes neither metadata nor the disk's
        own cache.
        """

    async def fsync(self, fd: int, datasync: bool) -> None:
        """fsync(2), or fdatasync(2) with *datasync*."""

    def add_identity(self, credentials: Credentials) -> int:
        """A number to write with for that user, without any capability.

        Raises `OSError`: EPERM if the daemon may not become that user.
        """

    def drop_identity(self, identity: int) -> None:
        """Drop a number of `add_identity`, once for each call. Any thread may call this."""

    async def call(
        self, function: Callable[[Unpack[Arguments]], Result], *args: *Arguments
    ) -> Result:
        """``function(*args)`` in a thread, for rare calls that may block."""

    def fileno(self) -> int:
        """A descriptor that becomes readable when `poll` has something to do.

        A loop that watches it, calls `poll`, and calls `before_sleep` before it waits, needs no
        `run`.
        """

    def before_sleep(self) -> None:
        """Let the kernel begin with all requests."""

    def poll(self) -> None:
        """Wake the tasks whose I/O is done; costs a few 100 ns when there are none.

        Call it where the event loop would not do so for long.
        """

    async def run(self) -> None:
        """Do what the engine does in the background, until cancelled.

        Without it no operation makes progress. Run it once, in a nursery around everything that
        does I/O.
        """

    def close(self) -> None:
        """Wait for the I/O under way, then free everything."""


class EngineUnavailableError(Exception):
    """The engine that was asked for cannot work here; the text says why."""


def create_engine(choice: EngineChoice, log: logging.Logger) -> Engine:
    """Make the engine called *choice*; ``auto`` is io_uring where it works, else threads.

    Call it in the process and thread that will do the I/O: an io_uring belongs to one thread and
    does not survive a fork. *log* gets what was chosen and why.

    Raises `EngineUnavailableError` if ``uring`` was asked for and cannot work.
    """
    from .threads import ThreadEngine

    if choice == "threads":
        log.info("backing I/O through threads, as asked for")
        return ThreadEngine()
    if choice not in ("auto", "uring"):
        raise ValueError(f"no engine is called {choice!r}: auto, uring or threads")

    from .ring import RingUnavailableError
    from .uring import UringEngine

    try:
        engine = UringEngine()
    except RingUnavailableError as error:
        if choice == "uring":
            raise EngineUnavailableError(f"io_uring cannot be used: {error}") from error
        log.warning("backing I/O through threads, which cost more: %s", error)
        return ThreadEngine()
    log.info("backing I/O through io_uring (%s)", engine.description)
    return engine
