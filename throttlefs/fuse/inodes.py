"""The inodes that the kernel knows, each held by an O_PATH descriptor.

A descriptor stands for a file, not a remembered path, so a rename below SRC cannot move a handle to
another file. The number of descriptors is bounded. Beyond the bound the least used are closed. They
are opened again on demand by parent and name. The file counts as the same only if device and inode
number are the same and it was made before it was closed.
"""

from __future__ import annotations

import errno
import os
from collections.abc import Iterable, Iterator
from contextlib import contextmanager

import pyfuse3

from throttlefs.host import syscalls
from throttlefs.host.files import FileKey, clock_of_files
from throttlefs.host.stash import Stash

from .held import HeldDescriptors
from .inode import Inode, Pin

PATH_FLAGS = os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC
_BY_HANDLE = os.O_PATH | os.O_CLOEXEC  # through /proc/self/fd, whose links must be followed
_DEVICE_SHIFT = 48
_FIRST_FALLBACK_NUMBER = 1 << 62


def _stale() -> OSError:
    """ESTALE makes the kernel look the name up once more, if there is one (path_resolution(7))."""
    return OSError(errno.ESTALE, os.strerror(errno.ESTALE))


class InodeTable:
    """All inodes of a mount, by number and by file, and the descriptors that hold them.

    *root_fd* is an O_PATH descriptor of SRC, which the table owns from then on. *max_descriptors*
    bounds how many other O_PATH descriptors stay open. *root_name* is the name of SRC if it is one
    file.
    """

    def __init__(self, root_fd: int, max_descriptors: int, root_name: bytes = b"") -> None:
        st = os.fstat(root_fd)
        self.root = Inode(pyfuse3.ROOT_INODE, (st.st_dev, st.st_ino), None, root_name)
        self.root.fd = root_fd
        self.root.lookups = 1
        self.root.pins = 1  # never evicted
        self._by_number: dict[int, Inode] = {self.root.number: self.root}
        self._by_key: dict[FileKey, Inode] = {self.root.key: self.root}
        self._held = HeldDescriptors(max_descriptors)
        self._devices: dict[int, int] = {st.st_dev: 0}
        self._next_fallback = _FIRST_FALLBACK_NUMBER
        self._generation = 0
        self._hidden: Stash | None = None

    def __len__(self) -> int:
        return len(self._by_number)

    @property
    def descriptors(self) -> int:
        """How many O_PATH descriptors are open beside the root's."""
        return len(self._held)

    @property
    def is_one_file(self) -> bool:
        """Whether SRC is one file, which the root then is."""
        return bool(self.root.name)

    def get(self, number: int) -> Inode:
        """The inode of that *number*; the kernel names only inodes that it got from us.

        Raises `OSError` (ESTALE) for any other, and for one of an earlier generation.
        """
        try:
            inode = self._by_number[number]
        except KeyError:
            raise _stale() from None
        if inode.generation != self._generation:
            raise _stale()
        return inode

    def begin_generation(self) -> None:
        """After a power cut the kernel has to look all files up again, except the root."""
        self._generation += 1
        self.root.generation = self._generation
        for inode in self._by_number.values():
            # Its file may be gone, and its number in SRC another file's.
            if inode.fd < 0 and not inode.handle_fds and self._by_key.get(inode.key) is inode:
                del self._by_key[inode.key]

    def fd(self, inode: Inode) -> int:
        """A descriptor of *inode*; it is opened again if it was closed to keep the bound.

        Raises `OSError`: ESTALE when another file has taken its name since.
        """
        inode.recently_used = True
        if inode.fd >= 0:
            return inode.fd
        if inode.handle_fds:
            return inode.handle_fds[0]
        return self._reopen(inode)

    def pinned(self, inode: Inode) -> Pin:
        """A descriptor of *inode* that stays open while a thread works with it."""
        return Pin(self.pin, inode)

    def pin(self, inode: Inode) -> int:
        """Begin what `pinned` does; ``inode.pins -= 1`` ends it. Raises `OSError`."""
        if inode.fd < 0 and inode.handle_fds:
            # The descriptor of a handle is closed with the handle, so it must not be lent.
            proc_path = b"/proc/self/fd/%d" % inode.handle_fds[0]
            self._held.hold(inode, os.open(proc_path, os.O_PATH | os.O_CLOEXEC))
        fd = self.fd(inode)
        inode.pins += 1
        return fd

    def proc_path(self, inode: Inode) -> bytes:
        """A path that leads to the file itself, for calls that take no descriptor.

        It also leads to a symlink itself, because the kernel does not follow past such a link
        (proc(5), /proc/pid/fd).
        """
        return b"/proc/self/fd/%d" % self.fd(inode)

    def look_in(self, hidden: Stash) -> None:
        """Find files without their names in *hidden*, too, the hidden directory of the mount."""
        self._hidden = hidden
        self._held.hidden = hidden.keys

    def find(self, key: FileKey) -> Inode | None:
        """The inode of the file *key*, if the kernel knows it."""
        return self._by_key.get(key)

    def path_of(self, key: FileKey) -> bytes | None:
        """Where the file *key* was last seen, if the kernel knows it."""
        inode = self._by_key.get(key)
        return None if inode is None else inode.path

    def open_now(self, parent: Inode, name: bytes) -> int:
        """A descriptor (O_PATH) of *name* in *parent*, on the same filesystem; -1 if on another.

        *parent* must be on a local filesystem. Raises `OSError`, mostly ENOENT.
        """
        dir_fd = self.fd(parent)
        try:
            try:
                return syscalls.open_on_same_filesystem(name, PATH_FLAGS, dir_fd)
            except OSError as exc:
                if not self.makes_room(exc):
                    raise
            return syscalls.open_on_same_filesystem(name, PATH_FLAGS, dir_fd)
        except OSError as exc:
            if exc.errno != errno.EXDEV:
                raise
            return -1

    def adopt(self, parent: Inode, name: bytes, fd: int, st: os.stat_result) -> Inode:
        """The inode of the file that *fd* was opened for by *name* in *parent*; *st* is its status.

        Counts one lookup by the kernel. The table owns *fd* (O_PATH) from then on.
        """
        try:
            inode = self._known(st, parent, name)
        except BaseException:
            os.close(fd)
            raise
        if inode.fd >= 0:
            os.close(fd)
        else:
            self._held.hold(inode, fd)
        inode.lookups += 1
        return inode

    def adopt_created(self, parent: Inode, name: bytes, st: os.stat_result) -> Inode:
        """The inode of a file that was just made; its handle serves as its descriptor.

        Counts one lookup. `hold_by` gives it a descriptor of its own before the handle goes.
        """
        inode = self._known(st, parent, name)
        inode.lookups += 1
        return inode

    def hold_by(self, inode: Inode, handle_fd: int, *, may_open: bool) -> None:
        """Give *inode* a descriptor of its own before its handle *handle_fd* is closed.

        Without one a later file of the same number would look like this file. *may_open* says that
        the filesystem answers at once; otherwise only the name is kept.
        """
        if inode.fd >= 0 or inode.number not in self._by_number:
            return
        inode.left_ns = clock_of_files()
        if not may_open:
            return
        try:
            self._held.hold(inode, self.open_path(b"/proc/self/fd/%d" % handle_fd, -1, _BY_HANDLE))
        except OSError:
            pass  # no descriptor is left

    def lookup_listed(self, parent: Inode, name: bytes, st: os.stat_result, seen_ns: int) -> Inode:
        """As `lookup`, for an entry of a listing, whose descriptor is opened when first needed.

        A directory of 100,000 entries would otherwise hold as many descriptors. *st* is how the
        file was at *seen_ns* (`clock_of_files`) or after.
        """
        inode = self._known(st, parent, name)
        inode.left_ns = seen_ns
        inode.lookups += 1
        return inode

    def forget(self, number: int, count: int) -> Inode | None:
        """Take back *count* lookups; returns the inode if it is gone now.

        The caller must close its descriptor, if it has one. That may take long: the last close of
        an unlinked file frees its blocks.
        """
        inode = self._by_number.get(number)
        if inode is None:
            return None
        inode.lookups -= count
        if inode.lookups > 0 or inode is self.root:
            return None
        del self._by_number[number]
        if self._by_key.get(inode.key) is inode:
            del self._by_key[inode.key]
        self._held.let_go(inode)
        return inode

    def all(self) -> list[Inode]:
        """Every inode that the kernel knows."""
        return list(self._by_number.values())

    def held(self) -> list[Inode]:
        """The inodes that have a descriptor of their own, except the root."""
        return self._held.inodes()

    @contextmanager
    def all_pinned(self, inodes: Iterable[Inode]) -> Iterator[list[Inode]]:
        """Those of *inodes* that have a descriptor and are not in use, for a thread to examine."""
        pinned = [inode for inode in inodes if inode.fd >= 0 and not inode.handle_fds]
        for inode in pinned:
            inode.pins += 1
        try:
            yield pinned
        finally:
            for inode in pinned:
                inode.pins -= 1

    def take_deleted(self, inodes: Iterable[Inode]) -> list[tuple[int, FileKey]]:
        """Take the descriptors, with their files, from those of *inodes* that nobody uses.

        The caller closes them, which may free blocks and take long. The inodes give ESTALE from
        then on, until the kernel forgets them.
        """
        taken = []
        for inode in inodes:
            if inode.fd < 0 or inode.pins or inode.handle_fds:
                continue
            # Its number in SRC may soon be another file's.
            if self._by_key.get(inode.key) is inode:
                del self._by_key[inode.key]
            self._held.let_go(inode)
            taken.append((inode.fd, inode.key))
            inode.fd = -1
        return taken

    def keep_hold(self, fd: int, st: os.stat_result) -> bool:
        """Note that a name of the file that *fd* (O_PATH) was opened for is about to be removed.

        Without a descriptor the file could not be found again. Nor could the daemon see, when the
        kernel forgets it, that it is gone for good. Takes *fd*.

        Returns whether the kernel knows the file, and nobody has it open through the mount.
        """
        inode = self._by_key.get((st.st_dev, st.st_ino))
        if inode is None or inode.fd >= 0:
            os.close(fd)
        else:
            self._held.hold(inode, fd)
        return inode is not None and not inode.handle_fds

    def renamed(self, key: FileKey, parent: Inode, name: bytes) -> None:
        """Note the new place of the file *key*."""
        inode = self._by_key.get(key)
        if inode is not None and inode is not self.root:
            inode.parent = parent
            inode.name = name

    def open_path(self, name: bytes, dir_fd: int, flags: int = PATH_FLAGS, mode: int = 0) -> int:
        """open(2) relative to *dir_fd*, making room among the held descriptors if none is left."""
        try:
            return os.open(name, flags, mode, dir_fd=dir_fd)
        except OSError as exc:
            if not self.makes_room(exc):
                raise
        return os.open(name, flags, mode, dir_fd=dir_fd)

    def makes_room(self, error: OSError) -> bool:
        """Whether *error* says that descriptors are short and some have now been closed.

        Only the thread of the loop may call this, like everything here.
        """
        short = error.errno in (errno.EMFILE, errno.ENFILE)
        return short and self._held.evict(max(1, len(self._held) // 2)) > 0

    def close(self) -> None:
        """Close every descriptor, the root's included."""
        for inode in self._by_number.values():
            if inode.fd >= 0:
                os.close(inode.fd)
                inode.fd = -1
        self._held.clear()

    def _known(self, st: os.stat_result, parent: Inode, name: bytes) -> Inode:
        key = (st.st_dev, st.st_ino)
        inode = self._by_key.get(key)
        if inode is None:
            inode = Inode(self._new_number(key), key, parent, name)
            self._by_key[key] = inode
            self._by_number[inode.number] = inode
        elif inode is not self.root:
            inode.parent = parent
            inode.name = name
        inode.generation = self._generation
        return inode

    def _new_number(self, key: FileKey) -> int:
        """The inode number of SRC if it is free, so that it stays the same over time.

        Files of other devices (filesystems mounted below SRC) get the index of their
        device in the upper bits.
        """
        dev, ino = key
        index = self._devices.setdefault(dev, len(self._devices))
        number = index << _DEVICE_SHIFT | ino
        if (
            ino > pyfuse3.ROOT_INODE
            and ino >> _DEVICE_SHIFT == 0
            and number < _FIRST_FALLBACK_NUMBER
            and number not in self._by_number
        ):
            return number
        self._next_fallback += 1
        return self._next_fallback

    def _reopen(self, inode: Inode) -> int:
        """Open *inode* again, and before it its directories, from the first that is open."""
        if self._hidden is not None and inode.key in self._hidden.keys:
            fd = self._hidden.open(inode.key, os.O_PATH)
            self._held.hold(inode, fd)
            return fd
        closed = []
        for ancestor in inode.ancestry():
            if ancestor.fd >= 0:
                break
            closed.append(ancestor)
        if not closed:
            raise _stale()
        fd = -1
        for found in reversed(closed):
            fd = self._reopen_in_parent(found)
        return fd

    def _reopen_in_parent(self, inode: Inode) -> int:
        parent = inode.parent
        if parent is None or parent.fd < 0:
            raise _stale()
        parent.pins += 1  # it must not be closed to make room for its own entries
        try:
            fd = self.open_path(inode.name, parent.fd)
        except FileNotFoundError:
            raise _stale() from None
        finally:
            parent.pins -= 1
        try:
            st = os.fstat(fd)
            born = syscalls.birth_ns(fd)
            if (st.st_dev, st.st_ino) != inode.key or (born is not None and born >= inode.left_ns):
                # Another file, perhaps with the number of the old one, which is free again.
                raise _stale()
        except BaseException:
            os.close(fd)
            raise
        self._held.hold(inode, fd)
        return fd
