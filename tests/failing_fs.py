"""A filesystem with a file ``f`` whose reads and writes fail with whatever errno is asked.

``python failing_fs.py MOUNTPOINT SWITCH SIZE``: while the file SWITCH holds a number, every read,
write and fsync of ``f`` fails with that errno; while it holds "hang", they wait. Its neighbour
``g`` is always well. SIZE is what both have at first (bytes). It stands in for a failing disk
where the kernel has no device mapper, and for a server that hangs.
Prints a line once it is mounted; ends when it is unmounted.
"""

from __future__ import annotations

import errno
import os
import stat
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pyfuse3
import trio

from tests.support import detach

FILES = {b"f": pyfuse3.InodeT(2), b"g": pyfuse3.InodeT(3)}
FAILING = FILES[b"f"]


class FailingFile(pyfuse3.Operations):
    def __init__(self, switch: Path, size: int) -> None:
        super().__init__()
        self._switch = switch
        self._data = {number: bytearray(size) for number in FILES.values()}

    async def _fail_if_asked(self, fh) -> None:
        while (wanted := self._switch.read_text().strip()) == "hang" and fh == FAILING:
            await trio.sleep(0.01)
        if wanted and fh == FAILING:
            raise pyfuse3.FUSEError(int(wanted))

    def init(self) -> None:
        print("mounted", flush=True)

    async def getattr(self, inode, ctx):
        entry = pyfuse3.EntryAttributes()
        entry.st_ino = inode
        entry.st_mode = (stat.S_IFDIR | 0o755) if inode == pyfuse3.ROOT_INODE else 0o100644
        entry.st_uid, entry.st_gid = os.getuid(), os.getgid()
        entry.st_size = len(self._data.get(inode, b""))
        entry.attr_timeout = entry.entry_timeout = 0
        return entry

    async def setattr(self, inode, attr, fields, fh, ctx):
        return await self.getattr(inode, ctx)

    async def lookup(self, parent_inode, name, ctx):
        if name not in FILES:
            raise pyfuse3.FUSEError(errno.ENOENT)
        return await self.getattr(FILES[name], ctx)

    async def opendir(self, inode, ctx):
        return inode

    async def readdir(self, fh, start_id, token):
        for position, (name, inode) in enumerate(FILES.items()):
            if position >= start_id:
                entry = await self.getattr(inode, None)
                if not pyfuse3.readdir_reply(token, name, entry, position + 1):
                    return

    async def forget(self, inode_list):
        pass

    async def open(self, inode, flags, ctx):
        return pyfuse3.FileInfo(fh=inode, direct_io=True)

    async def read(self, fh, off, size):
        await self._fail_if_asked(fh)
        return bytes(self._data[fh][off : off + size])

    async def write(self, fh, off, buf):
        await self._fail_if_asked(fh)
        data = self._data[fh]
        data.extend(bytes(max(0, off - len(data))))
        data[off : off + len(buf)] = buf
        return len(buf)

    async def fsync(self, fh, datasync):
        await self._fail_if_asked(fh)


@contextmanager
def failing_filesystem(directory: Path, size: int) -> Iterator[tuple[Path, Path]]:
    """Mounted at DIRECTORY/src; the second path is the switch, and *size* in bytes."""
    with failing_process(directory, size) as (source, switch, _):
        yield source, switch


@contextmanager
def failing_process(
    directory: Path, size: int
) -> Iterator[tuple[Path, Path, subprocess.Popen[bytes]]]:
    """As `failing_filesystem`; also the process behind it, which may be stopped."""
    source, switch = directory / "src", directory / "switch"
    source.mkdir(exist_ok=True)
    switch.write_text("")
    process = subprocess.Popen(
        [sys.executable, "-m", "tests.failing_fs", source, switch, str(size)],
        stdout=subprocess.PIPE,
        cwd=Path(__file__).parents[1],
    )
    try:
        assert process.stdout is not None
        assert process.stdout.readline() == b"mounted\n"
        try:
            yield source, switch, process
        finally:
            detach(source)
        process.wait(10)
    finally:
        # Better a dead mount than a test that waits for ever.
        process.kill()
        process.communicate()


if __name__ == "__main__":
    filesystem = FailingFile(Path(sys.argv[2]), int(sys.argv[3]))
    pyfuse3.init(filesystem, os.path.abspath(sys.argv[1]), {"fsname=failing"})
    try:
        trio.run(pyfuse3.main)
    finally:
        pyfuse3.close(unmount=False)
