"""O_DIRECT with requests of any alignment."""

from __future__ import annotations

import mmap
import os

from .alignment import Alignment
from .buffers import SLOT_SIZE, Data, address_of, copy_aligned, give_slot, new_aligned, take_slot
from .engine import Engine
from .gate import gate_of
from .write_flags import APPEND, reopened
from .writer import Writer


class DirectIo:
    """Reads and writes past the page cache, through *fd*, which has O_DIRECT set.

    - A read is widened to whole blocks, into memory that is aligned.
    - An aligned write is copied to memory that is aligned, if its own is not.
    - An append goes to the real end of the file, which is not known beforehand, and takes the same
      way as an unaligned write. The kernel refuses RWF_APPEND with O_DIRECT if the end is not
      aligned, and XFS puts several appends that are under way at once into one place (of 400
      appends of 4 KiB by io_uring 32 were left, Linux 6.18).
    - An unaligned write would need its first and last block read, changed and written back, and the
      file cut to size if that was its last one. The page cache does all this. So such a write goes
      through a second descriptor, without O_DIRECT, and is written back before anything else may be
      written (`WriteGate`). No dirty page ever gets in the way of O_DIRECT. Virtual machines do not
      write like this, unless their sectors are smaller than the disk's.
    """

    def __init__(
        self,
        fd: int,
        engine: Engine,
        writer: Writer,
        alignment: Alignment,
        key: tuple[int, int],
    ) -> None:
        """*key* is the file's device and inode number."""
        self._fd = fd
        self._engine = engine
        self._writer = writer
        self._block_mask = alignment.offset - 1
        self._memory_alignment = alignment.memory
        # A slot is aligned to a page; no known disk demands more.
        self._slot_size = SLOT_SIZE if alignment.memory <= mmap.PAGESIZE else 0
        self._gate = gate_of(*key)
        self._cached_fd = -1

    async def read(self, offset: int, size: int) -> Data:
        """See `BackingFile.read`."""
        mask = self._block_mask
        start = offset & ~mask
        length = ((offset + size + mask) & ~mask) - start
        first = offset - start
        if length > self._slot_size:
            memory = new_aligned(length, self._memory_alignment)
            got = await self._engine.read_into(self._fd, start, memory.address, length)
            return memory.data(first, max(first, min(first + size, got)))
        slot = take_slot()
        try:
            got = await self._engine.read_into(self._fd, start, slot.address, length)
            return slot.memory[first : min(first + size, got)]
        finally:
            give_slot(slot)

    async def write(self, offset: int, data: Data, flags: int) -> int:
        """See `BackingFile.write`."""
        alone = bool((offset | len(data)) & self._block_mask or flags & APPEND)
        gate = self._gate
        if not gate.try_enter(alone=alone):
            await gate.enter(alone=alone)
        try:
            if alone:
                return await self._write_through_cache(offset, data, flags)
            if len(data) > self._slot_size:
                return await self._write_large(offset, data, flags)
            slot = take_slot()
            try:
                slot.memory[: len(data)] = data
                return await self._writer.write_from(
                    self._fd, offset, slot.address, len(data), flags
                )
            finally:
                give_slot(slot)
        finally:
            gate.leave(alone=alone)

    async def _write_large(self, offset: int, data: Data, flags: int) -> int:
        if type(data) is memoryview and data.readonly:
            data = bytes(data)
        address = address_of(data)
        if address & (self._memory_alignment - 1):
            memory = copy_aligned(data, self._memory_alignment)
            address = memory.address
        return await self._writer.write_from(self._fd, offset, address, len(data), flags)

    async def _write_through_cache(self, offset: int, data: Data, flags: int) -> int:
        engine = self._engine
        if self._cached_fd < 0:
            self._cached_fd = await engine.call(reopened, self._fd)
        fd = self._cached_fd
        written = await self._writer.write(fd, offset, data, flags)
        if flags & APPEND:
            await engine.write_back(fd, 0, 0)  # all of it: the place of the append is unknown
        else:
            await engine.write_back(fd, offset, written)
        return written

    def close(self) -> None:
        """Close the second descriptor, if there is one. Raises `OSError` as close(2) does."""
        if self._cached_fd >= 0:
            fd, self._cached_fd = self._cached_fd, -1
            os.close(fd)
