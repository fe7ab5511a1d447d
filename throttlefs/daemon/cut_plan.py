"""The plan of a power cut: all that is to be done to SRC, in two files of the hidden directory.

It is written before anything is done. Whoever finds it there, be it the next mount, can do it, or
finish it, with the undo log, whose path it has.
"""

from __future__ import annotations

import json
import os
from array import array
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any, Final, NamedTuple

_PLAN: Final = b"plan"
_NEW: Final = b"plan.new"
_DONE: Final = b"plan.done"
_PIECES: Final = b"pieces"

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
    """The files of a plan in the hidden directory *directory*, a descriptor.

    All calls may wait for the disk and raise `OSError`.
    """

    def __init__(self, directory: int) -> None:
        self._directory = directory

    def write(self, plan: CutPlan, pieces: Sequence[Sequence[tuple[int, int, int]]]) -> None:
        """Write *plan*, with the *pieces* of each of its files, so that `begin` can follow."""
        count = 0
        with open(self._create(_PIECES), "wb") as file:
            for one, its_pieces in zip(plan.files, pieces, strict=True):
                one.first, one.count = count, len(its_pieces)
                count += one.count
                array("q", (number for piece in its_pieces for number in piece)).tofile(file)
            self._sync(file)
        with open(self._create(_NEW), "wb") as file:
            file.write(json.dumps(asdict(plan)).encode())
            self._sync(file)

    def begin(self) -> None:
        """From now on the plan is to be done, whatever happens."""
        os.rename(_NEW, _PLAN, src_dir_fd=self._directory, dst_dir_fd=self._directory)
        os.fsync(self._directory)

    def end(self) -> None:
        """Note that all has been done; then the undo log can go."""
        os.rename(_PLAN, _DONE, src_dir_fd=self._directory, dst_dir_fd=self._directory)

    def to_be_done(self) -> CutPlan | None:
        """The plan that has begun and not ended. Raises `ValueError` if it is damaged."""
        return self._read(_PLAN)

    def log_left(self) -> str | None:
        """The undo log of a plan that has ended, or has not begun."""
        for name in (_DONE, _NEW):
            try:
                plan = self._read(name)
            except ValueError:
                continue  # it was being written, and its log had no name yet
            if plan is not None:
                return plan.log
        return None

    def pieces(self, file: FileToRestore) -> Iterator[PieceOfFile]:
        """The pieces of *file*."""
        fd = os.open(_PIECES, os.O_RDONLY | os.O_CLOEXEC, dir_fd=self._directory)
        with open(fd, "rb") as stream:
            stream.seek(file.first * 3 * 8)
            left = file.count * 3
            while left:
                numbers = array("q")
                numbers.fromfile(stream, min(left, _AT_ONCE))
                left -= len(numbers)
                for at in range(0, len(numbers), 3):
                    yield PieceOfFile(*numbers[at : at + 3])

    def _create(self, name: bytes) -> int:
        flags = os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW | os.O_CLOEXEC
        return os.open(name, flags, 0o600, dir_fd=self._directory)

    @staticmethod
    def _sync(file: Any) -> None:
        file.flush()
        os.fsync(file.fileno())

    def _read(self, name: bytes) -> CutPlan | None:
        try:
            fd = os.open(name, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=self._directory)
        except FileNotFoundError:
            return None
        with open(fd, "rb") as stream:
            found = json.loads(stream.read())
        try:
            if found["version"] != _VERSION:
                raise ValueError(f"it is of the version {found['version']}")
            plan = CutPlan(**found)
            plan.files = [FileToRestore(**one) for one in found["files"]]
            plan.paths = {int(ino): paths for ino, paths in found["paths"].items()}
            plan.values = {int(ino): values for ino, values in found["values"].items()}
        except (KeyError, TypeError) as exc:
            raise ValueError(f"it lacks {exc}") from None
        return plan
