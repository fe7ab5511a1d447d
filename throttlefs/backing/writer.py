"""Writes to one open file through an engine, for its user and with the flags of each write."""

from __future__ import annotations

import errno
import logging
import os
from collections.abc import Awaitable

from throttlefs.host.credentials import Credentials, call_for, may_differ

from . import blocking
from .buffers import Data
from .engine import Engine
from .identities import OWN
from .write_flags import APPEND, reopened

log = logging.getLogger("throttlefs")

_warned: list[str] = []
"""Messages that the log already has."""


class Writer:
    """Writes for the user of *credentials*, or for the daemon.

    The user gets no more space than by writing directly, see `throttlefs.host.credentials`. Raises
    `OSError` if the credentials cannot be registered; nothing is left then.
    """

    def __init__(self, engine: Engine, credentials: Credentials | None) -> None:
        self._engine = engine
        self._credentials = credentials if may_differ(credentials) else None
        self._identity = OWN
        if self._credentials is not None:
            try:
                self._identity = engine.add_identity(self._credentials)
            except PermissionError:
                self._credentials = None
                _warn_once(
                    "the daemon may not take the ids of its users (CAP_SETUID, CAP_SETGID): they"
                    " can fill what a filesystem of SRC keeps for root"
                )

    @property
    def is_limited(self) -> bool:
        """Whether a write as the daemon could do more than the user may."""
        return self._identity != OWN

    def write(
        self, fd: int, offset: int, data: Data, flags: int, *, offload: bool = False
    ) -> Awaitable[int]:
        """`Engine.write` with *flags* of pwritev2(2), even if the filesystem knows none."""
        if flags:
            return self._write_with_flags(fd, offset, data, flags, offload)
        return self._engine.write(fd, offset, data, offload=offload, identity=self._identity)

    def write_from(
        self, fd: int, offset: int, address: int, size: int, flags: int
    ) -> Awaitable[int]:
        """`Engine.write_from` with *flags* except RWF_APPEND, even if the filesystem knows none."""
        if flags:
            return self._write_from_with_flags(fd, offset, address, size, flags)
        return self._engine.write_from(fd, offset, address, size, identity=self._identity)

    async def _write_with_flags(
        self, fd: int, offset: int, data: Data, flags: int, offload: bool
    ) -> int:
        try:
            return await self._engine.write(
                fd, offset, data, offload=offload, flags=flags, identity=self._identity
            )
        except OSError as error:
            if error.errno != errno.EOPNOTSUPP:
                raise
        call = self._engine.call
        return await call(_write_without_flags, fd, offset, data, flags, self._credentials)

    async def _write_from_with_flags(
        self, fd: int, offset: int, address: int, size: int, flags: int
    ) -> int:
        engine, identity = self._engine, self._identity
        try:
            return await engine.write_from(
                fd, offset, address, size, flags=flags, identity=identity
            )
        except OSError as error:
            if error.errno != errno.EOPNOTSUPP:
                raise
        written = await engine.write_from(fd, offset, address, size, identity=identity)
        await engine.fsync(fd, not flags & os.RWF_SYNC)
        return written

    def close(self) -> None:
        """End writing. Any thread may call this."""
        if self._identity != OWN:
            self._engine.drop_identity(self._identity)
            self._identity = OWN


def _write_without_flags(
    fd: int, offset: int, data: Data, flags: int, credentials: Credentials | None
) -> int:
    """Make a write durable by other system calls, as *flags* ask."""
    own = reopened(fd, os.O_APPEND) if flags & APPEND else -1
    try:
        written = call_for(credentials, blocking.write, fd if own < 0 else own, offset, data)
        if flags & os.RWF_SYNC:
            os.fsync(fd)
        elif flags & os.RWF_DSYNC:
            os.fdatasync(fd)
    finally:
        if own >= 0:
            os.close(own)
    return written


def _warn_once(text: str) -> None:
    if text not in _warned:
        _warned.append(text)
        log.warning("%s", text)
