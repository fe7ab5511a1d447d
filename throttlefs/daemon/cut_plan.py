"""The plan of a power cut: all that is to be done to SRC.

It is written before anything is done, beside the undo log: SRC may be full. A symlink in the hidden
directory leads there. Whoever finds that, be it the next mount, can do the plan, or finish it.
"""

from __future__ import annotations

import contextlib
import errno
import json
import logging
import os
from array import array
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import IO, Any, Final, NamedTuple

log = logging.getLogger("throttlefs")

_LINK: Final = b"plan"
_NEW: Final = b"plan.new"
_DONE: Final = b"plan.done"

_PLAN: Final = ".plan"
_PIECES: Final = ".pieces"

_VERSION: Final = 1
_AT_ONCE: Final = 3 * 8192
"""How many numbers of pieces are read at a time."""


class PieceOfFile(NamedTuple):
    """*length* bytes at *offset* that go back to those at *place* in the undo log, or to zeroes."""

    offset: int
    length: int
    place: int


@dataclass(slots=True)
class FileToRestore:
    """A file whose contents go back. Its pieces are in the file of pieces, from *first* on.

    *path* is where it lies today, relative to SRC, if it cannot be linked into the hidden
    directory. *size* in bytes; None: as it is. Its mode and times (ns) stay as they are.
    """

    ino: int
    path: str
    size: int | None
    mode: int
    atime: int
    mtime: int
    first: int = 0
    count: int = 0


@dataclass(slots=True)
class CutPlan:
    """What is to be done. Files are known by their inode numbers; names are Latin-1 text.

    *steps* are those of `device.volatile.steps`: kind, inode of the directory, name, inode of the
    file, whether that is a directory. *paths* says where directories may lie, and *values* which
    attributes files get, by their inodes.
    """

    log: str
    files: list[FileToRestore] = field(default_factory=list)
    steps: list[tuple[str, int, str, int, bool]] = field(default_factory=list)
    paths: dict[int, list[str]] = field(default_factory=dict)
    values: dict[int, dict[str, Any]] = field(default_factory=dict)
    version: int = _VERSION


def as_text(name: bytes) -> str:
    """A name for the plan: each byte is one character."""
    return name.decode("latin-1")


def as_name(text: str) -> bytes:
    """The name that `as_text` made *text* of."""
    return text.encode("latin-1")


def pack_values(values: Mapping[str | bytes, Any]) -> dict[str, Any]:
    """Values of attributes as the plan has them (`device.volatile.names.AttributeValues`)."""
    packed: dict[str, Any] = {}
    for name, value in values.items():
        if isinstance(name, bytes):
            packed["=" + as_text(name)] = None if value is None else as_text(value)
        else:
            packed[name] = value
    return packed


def unpack_values(packed: Mapping[str, Any]) -> dict[str | bytes, Any]:
    """The opposite of `pack_values`."""
    values: dict[str | bytes, Any] = {}
    for name, value in packed.items():
        if name.startswith("="):
            values[as_name(name[1:])] = None if value is None else as_name(value)
        else:
            values[name] = value
    return values


class PlanFiles:
    """The files of plans, and the symlink in the hidden directory *directory*, a descriptor.

    The path of the undo log is that of the plan, too, with another ending. All calls may wait for
    the disk and raise `OSError`.
    """

    def __init__(self, directory: int) -> None:
        self._directory = directory

    def write(self, plan: CutPlan, pieces: Sequence[Sequence[tuple[int, int, int]]]) -> None:
        """Write *plan*, with the *pieces* of each of its files, so that `begin` can follow."""
        self._forget(_NEW)
        os.symlink(plan.log, _NEW, dir_fd=self._directory)
        count = 0
        with open(_create(plan.log + _PIECES), "wb") as file:
            for one, its_pieces in zip(plan.files, pieces, strict=True):
                one.first, one.count = count, len(its_pieces)
                count += one.count
                array("q", (number for piece in its_pieces for number in piece)).tofile(file)
            _sync(file)
        with open(_create(plan.log + _PLAN), "wb") as file:
            file.write(json.dumps(asdict(plan)).encode())
            _sync(file)

    def begin(self) -> None:
        """From now on the plan is to be done, whatever happens, unless `OSError` is raised."""
        os.rename(_NEW, _LINK, src_dir_fd=self._directory, dst_dir_fd=self._directory)
        try:
            os.fsync(self._directory)
        except OSError:
            os.rename(_LINK, _NEW, src_dir_fd=self._directory, dst_dir_fd=self._directory)
            raise

    def end(self) -> None:
        """Note that all has been done, and remove the undo log and the files of the plan."""
        self._forget(_DONE)
        os.rename(_LINK, _DONE, src_dir_fd=self._directory, dst_dir_fd=self._directory)
        self.remove_rest()

    def remove_rest(self) -> None:
        """Remove the files of plans that have ended, or have not begun."""
        for name in (_DONE, _NEW):
            path = self._read(name)
            if path is not None:
                for ending in ("", _PIECES, _PLAN):
                    _remove(path + ending)
                self._forget(name)

    def to_be_done(self) -> CutPlan | None:
        """The plan that has begun and not ended. Raises `ValueError` if it is damaged."""
        path = self._read(_LINK)
        if path is None:
            return None
        with open(open_own(path + _PLAN), "rb") as stream:
            found = json.loads(stream.read())
        try:
            if found["version"] != _VERSION:
                raise ValueError(f"its plan is of the version {found['version']}")
            plan = CutPlan(**found)
            plan.files = [FileToRestore(**one) for one in found["files"]]
            plan.paths = {int(ino): paths for ino, paths in found["paths"].items()}
            plan.values = {int(ino): values for ino, values in found["values"].items()}
        except (KeyError, TypeError) as exc:
            raise ValueError(f"its plan lacks {exc}") from None
        return plan

    def _read(self, name: bytes) -> str | None:
        try:
            return os.fsdecode(os.readlink(name, dir_fd=self._directory))
        except FileNotFoundError:
            return None

    def _forget(self, name: bytes) -> None:
        with contextlib.suppress(FileNotFoundError):
            os.unlink(name, dir_fd=self._directory)


def pieces_of(plan: CutPlan, file: FileToRestore) -> Iterator[PieceOfFile]:
    """The pieces of *file*, one of *plan*. Raises `OSError`."""
    with open(open_own(plan.log + _PIECES), "rb") as stream:
        stream.seek(file.first * 3 * 8)
        left = file.count * 3
        while left:
            numbers = array("q")
            numbers.fromfile(stream, min(left, _AT_ONCE))
            left -= len(numbers)
            for at in range(0, len(numbers), 3):
                yield PieceOfFile(*numbers[at : at + 3])


def open_own(path: str) -> int:
    """A descriptor to read the file *path*, which must be of this user. Raises `OSError`."""
    fd = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC)
    if os.fstat(fd).st_uid != os.geteuid():
        os.close(fd)
        raise PermissionError(errno.EPERM, "another user has put it there", path)
    return fd


def _create(path: str) -> int:
    return os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)


def _sync(file: IO[bytes]) -> None:
    file.flush()
    os.fsync(file.fileno())


def _remove(path: str) -> None:
    try:
        os.unlink(path)
    except FileNotFoundError:
        pass
    except OSError as exc:
        log.warning("%s stays: %s", path, exc.strerror)
