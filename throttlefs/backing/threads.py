"""The engine that uses threads, for systems without io_uring."""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Unpack

import trio

from throttlefs.host.credentials import Credentials, call_for, writing_for

from . import blocking
from .buffers import Data
from .identities import OWN, Identities
from .pool import Arguments, BlockingPool, Result

IO_THREADS = 32
"""Enough to keep a fast disk busy; a thread costs 8 MiB of address space and some 50 KiB."""

CLOSE_TIMEOUT = 10.0
"""s for which `ThreadEngine.close` waits for operations under way."""


class ThreadEngine:
    """Backing I/O through threads; see `Engine`."""

    name = "threads"

    def __init__(self, threads: int = IO_THREADS) -> None:
        self._pool = BlockingPool(threads, "backing", at_most=threads)
        self._identities = Identities(self._new_identity, lambda _: None)
        self._latest_identity = OWN
        self.poll = self._pool.poll
        self.fileno = self._pool.fileno

    def before_sleep(self) -> None:
        """See `Engine.before_sleep`: the threads are already at work."""

    async def read(self, fd: int, offset: int, size: int, *, offload: bool = False) -> Data:
        """See `Engine.read`."""
        return await self._pool.run(blocking.read, fd, offset, size)

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
        """See `Engine.write`."""
        if identity != OWN:
            user = self._identities.credentials(identity)
            return await self._pool.run(call_for, user, blocking.write, fd, offset, data, flags)
        return await self._pool.run(blocking.write, fd, offset, data, flags)

    async def read_into(self, fd: int, offset: int, address: int, size: int) -> int:
        """See `Engine.read_into`."""
        return await self._pool.run(blocking.read_into, fd, offset, address, size)

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
        """See `Engine.write_from`."""
        if identity != OWN:
            user, write = self._identities.credentials(identity), blocking.write_from
            return await self._pool.run(call_for, user, write, fd, offset, address, size, flags)
        return await self._pool.run(blocking.write_from, fd, offset, address, size, flags)

    async def write_back(self, fd: int, offset: int, size: int) -> None:
        """See `Engine.write_back`."""
        await self._pool.run(blocking.write_back, fd, offset, size)

    async def fsync(self, fd: int, datasync: bool) -> None:
        """See `Engine.fsync`."""
        await self._pool.run(os.fdatasync if datasync else os.fsync, fd)

    def add_identity(self, credentials: Credentials) -> int:
        """See `Engine.add_identity`."""
        return self._identities.add(credentials)

    def drop_identity(self, identity: int) -> None:
        """See `Engine.drop_identity`."""
        self._identities.drop(identity)

    def _new_identity(self, credentials: Credentials) -> int:
        with writing_for(credentials):
            pass  # try whether it can be done
        self._latest_identity += 1
        return self._latest_identity

    async def call(
        self, function: Callable[[Unpack[Arguments]], Result], *args: *Arguments
    ) -> Result:
        """See `Engine.call`."""
        return await self._pool.run(function, *args)

    async def run(self) -> None:
        """See `Engine.run`. The threads wake the loop by themselves."""
        await trio.sleep_forever()

    def close(self) -> None:
        """See `Engine.close`."""
        self._pool.close(CLOSE_TIMEOUT)
