"""A file on a real filesystem that can lose power, with its undo log, and the model of what it may
lose (tests/unit/device/volatile_world.py)."""

from __future__ import annotations

import os
import random
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import trio

from tests.unit.backing.conftest import open_file, running
from tests.unit.device.volatile_world import Limit, Model, Numbers, State, all_restores
from throttlefs.backing.undo_log import UndoLog
from throttlefs.device.volatile.contents import Contents
from throttlefs.device.volatile.picking import Restore
from throttlefs.fuse.inode import Inode
from throttlefs.fuse.inodes import InodeTable
from throttlefs.fuse.volatile_file import VolatileFile
from throttlefs.fuse.volatile_files import VolatileFiles
from throttlefs.host import syscalls
from throttlefs.settings.cachemode import CacheMode

SECTOR = 512


async def in_thread(call: Any, *args: Any, owner: int | None = None) -> Any:
    return await trio.to_thread.run_sync(call, *args)


def restored(data: bytes, restores: Sequence[Restore], log_fd: int) -> bytes:
    """*data*, the contents of SRC, as a power cut leaves them."""
    for restore in restores:
        if restore.size is not None:
            data = data[: restore.size].ljust(restore.size, b"\0")
        changed = bytearray(data)
        for offset, length, place in restore.pieces:
            piece = bytes(length) if place < 0 else os.pread(log_fd, length, place)
            assert len(piece) == length
            assert offset + length <= len(data)
            changed[offset : offset + length] = piece
        data = bytes(changed)
    return data


class Rig:
    """One file, open once, in *directory*, and what a power cut may leave of it."""

    def __init__(self, directory: Path, begin: bytes, engine: Any, cache: CacheMode) -> None:
        self.path = directory / "file"
        self.path.write_bytes(begin)
        st = self.path.stat()
        self.key = (st.st_dev, st.st_ino)
        self.numbers = Numbers()
        self.contents = Contents(self.numbers, SECTOR, 1)
        self.log = UndoLog(str(directory))
        root = SimpleNamespace(key=(st.st_dev, 1))
        self.forgotten: list[tuple[int, int]] = []
        self.files = VolatileFiles(
            self.contents,
            self.log,
            cast(InodeTable, SimpleNamespace(root=root)),
            in_thread,
            engine,
            self._forget,
            stays_dirty=True,
            flushes_at_close=True,
            all_durable=cache.durable_writes,
        )
        self.inode = Inode(7, self.key, None, b"file")
        self.engine = engine
        self.cache = cache
        self.file = self.open()
        self.model = Model([State(0, begin, size=SECTOR)], [(0, len(begin))], sectors=64)

    def open(self) -> VolatileFile:
        file = open_file(self.path, self.engine, self.cache)
        return self.files.opened(self.inode, file, os.fstat(file.fd).st_size)

    async def _forget(self, gone: Sequence[tuple[int, int]]) -> None:
        self.forgotten += gone
        self.inode.lookups -= len(gone)

    @property
    def data(self) -> bytes:
        return self.path.read_bytes()

    def note(self, before: int, zeroed: frozenset[int] = frozenset()) -> None:
        """Note the state of SRC in the model; *before*: the latest number before the change."""
        data = self.data
        self.model.states.append(State(before + 1, data, zeroed, SECTOR))
        if len(data) != self.model.sizes[-1][1]:
            number = before + 1 if zeroed else self.numbers.latest
            self.model.sizes.append((number, len(data)))

    async def write(self, offset: int, data: bytes, flags: int = 0) -> None:
        before = self.numbers.latest
        if flags & os.RWF_APPEND:
            offset = len(self.data)
        written = self.file.write_now(offset, data, flags)
        if written is None:
            written = await self.file.write(offset, data, flags)
        assert written == len(data)
        self.note(before)
        if flags & os.RWF_DSYNC or self.cache.durable_writes:
            for at in range(offset // SECTOR, -(-(offset + written) // SECTOR)):
                self.model.floors[at] = before + 1

    async def truncate(self, size: int) -> None:
        before, old = self.numbers.latest, len(self.data)

        async def change() -> None:
            await in_thread(os.truncate, self.path, size)

        await self.files.truncating(self.inode, self.file.fd, size, 0, change)
        gone = range(size // SECTOR, self.model.sectors) if size < old else ()
        self.note(before, frozenset(gone))

    async def allocate(self, mode: int, offset: int, length: int) -> None:
        before, old = self.numbers.latest, len(self.data)

        async def change() -> None:
            await in_thread(syscalls.fallocate, self.file.fd, mode, offset, length)

        await self.files.allocating(self.inode, self.file.fd, mode, offset, length, 0, change)
        end = min(offset + length, old)
        gone: Sequence[int] = ()
        if mode & ~syscalls.FALLOC_FL_KEEP_SIZE and offset < end:
            end = self.model.sectors * SECTOR if end == old else end
            gone = range(offset // SECTOR, -(-end // SECTOR))
        self.note(before, frozenset(gone))

    async def fsync(self) -> None:
        before = self.numbers.latest
        await self.file.fsync(True)
        self.model.flushed(before + 1)

    def cut(self, seed: int) -> tuple[bytes, int]:
        """What a power cut leaves, and the limit that it drew."""
        rng = random.Random(seed)
        limit = rng.randint(self.numbers.final, self.numbers.latest)
        restores = all_restores(self.contents, Limit(limit), rng)
        assert self.log.hand_over()
        self.log.drain()
        return restored(self.data, restores, self.log.fd), limit

    def check_cut(self, seed: int) -> None:
        """Cut the power, and compare with what the model allows."""
        data, limit = self.cut(seed)
        assert len(data) == self.model.size_at(limit)
        for at in range(-(-len(data) // SECTOR)):
            found = data[at * SECTOR : (at + 1) * SECTOR]
            allowed = [it[: len(found)] for it in self.model.allowed(at, limit)]
            assert found in allowed, (at, found[:8], [it[:8] for it in allowed], limit)


@asynccontextmanager
async def rig(
    directory: Path,
    begin: bytes = b"",
    *,
    kind: str = "threads",
    cache: CacheMode = CacheMode.WRITEBACK,
) -> AsyncIterator[Rig]:
    async with running(kind) as engine:
        made = Rig(directory, begin, engine, cache)
        try:
            yield made
        finally:
            made.file.close()
            made.log.close()
