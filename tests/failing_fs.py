"""A filesystem with one file, ``f``, whose reads and writes fail with whatever errno is asked.

``python failing_fs.py MOUNTPOINT SWITCH``: while the file SWITCH holds a number, every read,
write and fsync of ``f`` fails with that errno. It stands in for a failing disk where the kernel
has no device mapper. Prints a line once it is mounted; ends when it is unmounted.
"""

from __future__ import annotations

import errno
import os
import stat
import sys
from pathlib import Path

import pyfuse3
import trio

FILE = pyfuse3.InodeT(2)


class FailingFile(pyfuse3.Operations):
    def __init__(self, switch: Path) -> None:
        super().__init__()
        self._switch = switch
        self._data = bytearray(1 << 20)

    def _fail_if_asked(self) -> None:
        wanted = self._switch.read_text().strip()
        if wanted:
            raise pyfuse3.FUSEError(int(wanted))

    def init(self) -> None:
        print("mounted", flush=True)

    async def getattr(self, inode, ctx):
        entry = pyfuse3.EntryAttributes()
        entry.st_ino = inode
        entry.st_mode = (stat.S_IFDIR | 0o755) if inode == pyfuse3.ROOT_INODE else 0o100644
        entry.st_size = len(self._data)
        entry.attr_timeout = entry.entry_timeout = 0
        return entry

    async def setattr(self, inode, attr, fields, fh, ctx):
        return await self.getattr(inode, ctx)

    async def lookup(self, parent_inode, name, ctx):
        if name != b"f":
            raise pyfuse3.FUSEError(errno.ENOENT)
        return await self.getattr(FILE, ctx)

    async def forget(self, inode_list):
        pass

    async def open(self, inode, flags, ctx):
        return pyfuse3.FileInfo(fh=1, direct_io=True)

    async def read(self, fh, off, size):
        self._fail_if_asked()
        return bytes(self._data[off : off + size])

    async def write(self, fh, off, buf):
        self._fail_if_asked()
        self._data[off : off + len(buf)] = buf
        return len(buf)

    async def fsync(self, fh, datasync):
        self._fail_if_asked()


if __name__ == "__main__":
    pyfuse3.init(FailingFile(Path(sys.argv[2])), os.path.abspath(sys.argv[1]), {"fsname=failing"})
    try:
        trio.run(pyfuse3.main)
    finally:
        pyfuse3.close(unmount=False)
