"""Does what the plan of a power cut says to SRC, from wherever an earlier try has ended."""

from __future__ import annotations

import errno
import logging
import os
import stat
from collections.abc import Sequence
from typing import Any, Final

from throttlefs.device.volatile.names import Named, Slot
from throttlefs.device.volatile.steps import Route, Step, walk
from throttlefs.errors import ThrottlefsError
from throttlefs.host import syscalls
from throttlefs.host.files import FileKey
from throttlefs.host.stash import CANNOT_LINK, ELSEWHERE, Stash

from .cut_plan import (
    CutPlan,
    FileToRestore,
    PlanFiles,
    as_name,
    open_own,
    pieces_of,
    unpack_values,
)

log = logging.getLogger("throttlefs")

_AT_ONCE: Final = 1 << 20
_DIRECTORY: Final = os.O_PATH | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
_PUNCH: Final = syscalls.FALLOC_FL_PUNCH_HOLE | syscalls.FALLOC_FL_KEEP_SIZE


def clear_up(source: str, root_fd: int, stash: Stash) -> None:
    """Finish the power cut that an earlier mount of *source* began, if one did.

    Then take away all that the mount has left in *stash*. *root_fd* is SRC, or the directory that
    it lies in if it is one file. Raises `ThrottlefsError`.
    """
    files = PlanFiles(stash.fd)
    try:
        plan = files.to_be_done()
        if plan is not None:
            log.warning("a power cut of SRC %s was interrupted: finishing it", source)
            for step in do(plan, root_fd, stash):
                log.warning("%s", not_done(step))
        files.remove_rest()
        stash.sweep()
    except (OSError, ValueError, EOFError) as exc:
        why = f"{exc.filename}: {exc.strerror}" if isinstance(exc, OSError) else str(exc)
        raise ThrottlefsError(
            f"a power cut of SRC {source} was interrupted, and cannot be finished ({why});"
            f" to use SRC as it is, remove {os.fsdecode(stash.name)} from its directory"
        ) from None


def do(plan: CutPlan, root_fd: int, stash: Stash) -> list[Step]:
    """Do all of *plan*, which has begun, and end it; returns the steps that cannot be done.

    Raises `OSError`; it can be called again then.
    """
    source = SourceTree(root_fd, stash)
    log_fd = open_own(plan.log)
    try:
        for file in plan.files:
            _restore(plan, file, source, log_fd)
    finally:
        os.close(log_fd)
    dev = source.dev
    paths = {(dev, ino): [as_name(one) for one in found] for ino, found in plan.paths.items()}
    for ino, packed in plan.values.items():
        if (dev, ino) not in paths:
            source.set_values((dev, ino), None, unpack_values(packed))
    steps = [
        Step(kind, Slot((dev, directory), as_name(name)), Named((dev, ino), is_directory))
        for kind, directory, name, ino, is_directory in plan.steps
    ]
    try:
        failed = walk(Route(steps, paths), source)
        for ino, packed in plan.values.items():
            if (dev, ino) in paths:
                source.set_values((dev, ino), paths[(dev, ino)], unpack_values(packed))
    finally:
        source.close()
    PlanFiles(stash.fd).end()
    return failed


def not_done(step: Step) -> str:
    """What to say of a step that cannot be done, as somebody has changed SRC meanwhile."""
    return f"a file could not get its name {os.fsdecode(step.slot.name)} back: SRC was changed"


def _restore(plan: CutPlan, file: FileToRestore, source: SourceTree, log_fd: int) -> None:
    """Bring the contents of one file back, without a change of its times. Raises `OSError`."""
    fd = source.open_file(file)
    if fd < 0:
        return  # it was removed in SRC, or replaced
    try:
        for piece in pieces_of(plan, file):
            if piece.place < 0:
                _zero(fd, piece.offset, piece.length)
            else:
                _copy(log_fd, piece.place, fd, piece.offset, piece.length)
        if file.size is not None:
            os.ftruncate(fd, file.size)
        os.fchmod(fd, stat.S_IMODE(file.mode))
        syscalls.utimens(b"/proc/self/fd/%d" % fd, file.atime, file.mtime)
    finally:
        os.close(fd)


def _zero(fd: int, offset: int, length: int) -> None:
    try:
        syscalls.fallocate(fd, _PUNCH, offset, length)
    except OSError as exc:
        if exc.errno not in (errno.EOPNOTSUPP, errno.ENOSYS):
            raise
        end = min(offset + length, os.fstat(fd).st_size)
        while offset < end:
            offset += os.pwrite(fd, bytes(min(end - offset, _AT_ONCE)), offset)


def _copy(source: int, place: int, target: int, offset: int, length: int) -> None:
    try:
        while length:
            # On one XFS or btrfs this clones: there may be no room for a copy.
            copied = os.copy_file_range(source, target, length, place, offset)
            if not copied:
                break
            place, offset, length = place + copied, offset + copied, length - copied
    except OSError as exc:
        if exc.errno not in (errno.EXDEV, errno.EOPNOTSUPP, errno.EINVAL, errno.ENOSYS):
            raise
    while length:
        data = os.pread(source, min(length, _AT_ONCE), place)
        if not data:
            raise OSError(errno.EIO, "the undo log is too short")
        written = os.pwrite(target, data, offset)
        place, offset, length = place + written, offset + written, length - written


class SourceTree:
    """SRC, in which the steps are done: `device.volatile.steps.Hands`. *root_fd* is its top."""

    def __init__(self, root_fd: int, stash: Stash) -> None:
        self._root_fd = root_fd
        self._stash = stash
        self._open = -1
        self.dev = os.fstat(stash.fd).st_dev

    def close(self) -> None:
        """Close the directory that was opened last."""
        if self._open >= 0:
            os.close(self._open)
            self._open = -1

    # -- files and attributes --------------------------------------------------------------

    def open_file(self, file: FileToRestore) -> int:
        """A descriptor to write to *file*; -1 if it is gone. Raises `OSError`."""
        key = (self.dev, file.ino)
        path_fd = self._path_of(key, [as_name(file.path)])
        if path_fd < 0:
            return -1
        path = b"/proc/self/fd/%d" % path_fd
        try:
            if not stat.S_ISREG(os.fstat(path_fd).st_mode):
                return -1
            try:
                return os.open(path, os.O_RDWR | os.O_CLOEXEC)
            except PermissionError:
                os.chmod(path, 0o600)  # it gets its own mode back when it is restored
            return os.open(path, os.O_RDWR | os.O_CLOEXEC)
        finally:
            os.close(path_fd)

    def set_values(
        self, key: FileKey, paths: Sequence[bytes] | None, values: dict[str | bytes, Any]
    ) -> None:
        """Give the file its attributes back; *paths* if it is a directory, which may lie there."""
        fd = self._path_of(key, paths or ())
        if fd < 0:
            return
        try:
            _set_values(fd, values)
        except OSError as exc:
            log.warning("an attribute could not be rolled back: %s", exc.strerror)
        finally:
            os.close(fd)

    def _path_of(self, key: FileKey, paths: Sequence[bytes]) -> int:
        """A descriptor (O_PATH) of a file in the hidden directory, or at one of *paths*; or -1."""
        if self._stash.has(key):
            return self._stash.open(key, os.O_PATH)
        for path in paths:
            directory, _, name = path.rpartition(b"/")
            parent = self._walk_to(directory)
            if parent < 0:
                continue
            try:
                fd = os.open(name or b".", os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=parent)
            except OSError:
                continue
            finally:
                os.close(parent)
            st = os.fstat(fd)
            if (st.st_dev, st.st_ino) == key:
                return fd
            os.close(fd)
        return -1

    def _walk_to(self, path: bytes) -> int:
        """A descriptor (O_PATH) of the directory *path* below SRC, without symlinks; or -1."""
        fd = os.open(b".", _DIRECTORY, dir_fd=self._root_fd)
        for name in path.split(b"/") if path else ():
            try:
                below = os.open(name, _DIRECTORY, dir_fd=fd)
            except OSError:
                below = -1
            os.close(fd)
            if below < 0:
                return -1
            fd = below
        return fd

    # -- the steps -------------------------------------------------------------------------

    def open(self, paths: Sequence[bytes], key: FileKey) -> int | None:
        """See `Hands.open`; it is open until the next call."""
        self.close()
        for path in paths:
            fd = self._walk_to(path)
            if fd < 0:
                continue
            st = os.fstat(fd)
            if (st.st_dev, st.st_ino) == key:
                self._open = fd
                return fd
            os.close(fd)
        return None

    def key_in(self, folder: int, name: bytes) -> FileKey | None:
        """See `Hands.key_in`."""
        try:
            st = os.stat(name, dir_fd=folder, follow_symlinks=False)
        except FileNotFoundError:
            return None
        return st.st_dev, st.st_ino

    def take(self, folder: int, name: bytes, named: Named) -> None:
        """See `Hands.take`; what is on another mount below SRC stays where it is."""
        try:
            self._take(folder, name, named)
        except OSError as exc:
            if exc.errno != ELSEWHERE:
                raise

    def _take(self, folder: int, name: bytes, named: Named) -> None:
        stash = self._stash
        if named.is_directory:
            stash.move_in(folder, name, named.key)
            return
        if not stash.has(named.key):
            try:
                stash.keep(folder, name, named.key)
            except OSError as exc:
                if exc.errno not in CANNOT_LINK:
                    raise
                stash.move_in(folder, name, named.key)
                return
        os.unlink(name, dir_fd=folder)

    def put(self, folder: int, name: bytes, named: Named) -> bool:
        """See `Hands.put`."""
        stash = self._stash
        if not stash.has(named.key):
            return False
        if named.is_directory:
            stash.move_out(folder, name, named.key)
            return True
        try:
            stash.link_out(folder, name, named.key)
        except OSError as exc:
            if exc.errno not in CANNOT_LINK:
                raise
            stash.move_out(folder, name, named.key)
        return True


def _set_values(fd: int, values: dict[str | bytes, Any]) -> None:
    """Set attributes of the file *fd* (O_PATH). Raises `OSError`."""
    path = b"/proc/self/fd/%d" % fd
    if "owner" in values:
        os.chown(path, *values["owner"])
    if "mode" in values and not stat.S_ISLNK(os.fstat(fd).st_mode):
        os.chmod(path, stat.S_IMODE(values["mode"]))
    for name, value in values.items():
        if isinstance(name, bytes):
            _set_xattr(path, name, value)
    atime, mtime = values.get("atime"), values.get("mtime")
    if atime is not None or mtime is not None:
        syscalls.utimens(path, atime, mtime)


def _set_xattr(path: bytes, name: bytes, value: bytes | None) -> None:
    if value is not None:
        os.setxattr(path, name, value)
        return
    try:
        os.removexattr(path, name)
    except OSError as exc:
        if exc.errno != errno.ENODATA:
            raise
