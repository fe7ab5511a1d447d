"""Changes everything on a mount, with a model of what a power cut may leave of it."""

from __future__ import annotations

import errno
import os
import random
from collections.abc import Callable
from pathlib import Path
from typing import Final

from throttlefs.host import syscalls
from throttlefs.host.stash import MARK, STASH_NAME

HIDDEN: Final = os.fsdecode(STASH_NAME)

SECTOR: Final = 4096

ORDINARY: Final = (
    *(errno.EEXIST, errno.ENOENT, errno.ENOTEMPTY, errno.EINVAL),
    *(errno.EISDIR, errno.ENOTDIR, errno.EPERM, errno.ENODATA, errno.ELOOP),
)
"""What random changes of names may fail with."""

STEPS: Final = (
    *(["create"] * 3 + ["mkdir"] * 3 + ["rename"] * 5 + ["write"] * 5),
    *("exchange", "exchange", "link", "symlink", "remove", "remove"),
    *("chmod", "setxattr", "removexattr", "truncate", "fsync", "fsync directory"),
)

Picture = dict[str, tuple[object, ...]]


def hidden_files(source: Path) -> list[str]:
    """What lies in the hidden directory of a volatile mount of *source*."""
    return [name for name in os.listdir(source / HIDDEN) if name != os.fsdecode(MARK)]


def picture(source: Path) -> Picture:
    """All files below SRC with their inodes, modes and attributes, but no contents."""
    found = {}
    for path in sorted(source.rglob("*")):
        name = str(path.relative_to(source))
        if name.split("/", 1)[0] == HIDDEN:
            continue
        st = path.lstat()
        values = () if path.is_symlink() else tuple(os.listxattr(path))
        found[name] = (st.st_ino, st.st_mode, st.st_uid, values)
    return found


def code(call: Callable[..., object], *args: object, **kwargs: object) -> str:
    """The name of the error that the call gets, or "done"."""
    try:
        call(*args, **kwargs)
    except OSError as exc:
        return errno.errorcode[exc.errno or 0]
    return "done"


class FileModel:
    """All versions of the contents of a file: when each sector, and the size, became what."""

    def __init__(self, when: int, contents: bytes = b"") -> None:
        self.contents = contents
        self.flushed = when
        self.flushed_before: list[tuple[int, int]] = []  # a rename over a file: that, and the data
        self.sizes = [(when, len(contents))]
        self.sectors: dict[int, list[tuple[int, bytes]]] = {}
        self._note(when, contents)

    def change(self, when: int, contents: bytes) -> None:
        self.contents = contents
        self.sizes.append((when, len(contents)))
        self._note(when, contents)

    def _note(self, when: int, contents: bytes) -> None:
        sectors = {*self.sectors, *range(-(-len(contents) // SECTOR))}
        for number in sectors:
            known = self.sectors.setdefault(number, [(-1, bytes(SECTOR))])
            now = sector_of(contents, number)
            if known[-1][1] != now:
                known.append((when, now))

    def check(self, found: bytes, moment: int) -> None:
        """*found* must be possible if names are those of *moment*."""
        floor = max([self.flushed, *(data for name, data in self.flushed_before if name <= moment)])
        assert len(found) in since(self.sizes, self.flushed)
        for number in range(-(-len(found) // SECTOR)):
            versions = since(self.sectors[number], floor)
            # The size may cut a sector, too.
            rest = len(found) - number * SECTOR
            assert sector_of(found, number) in [sector_of(one[:rest], 0) for one in versions]


def sector_of(contents: bytes, number: int) -> bytes:
    return contents[number * SECTOR : (number + 1) * SECTOR].ljust(SECTOR, b"\0")


def since(versions: list, when: int) -> list:
    """What was there at *when*, and all that came later."""
    before = [value for at, value in versions if at <= when]
    return before[-1:] + [value for at, value in versions if at > when]


class Worker:
    """Works on *mount*, and notes how *source* looks after each step."""

    def __init__(self, mount: Path, source: Path, rng: random.Random) -> None:
        self.mount = mount
        self.source = source
        self.rng = rng
        self.now = 0
        self.pictures = [(0, picture(source))]
        self.files: dict[int, FileModel] = {}

    def work(self, steps: int) -> None:
        for _ in range(steps):
            self.now += 1
            try:
                self._step(self.rng.choice(STEPS), self._path(), self._path())
            except OSError as exc:
                if exc.errno not in ORDINARY:
                    raise
            seen = picture(self.source)
            if seen != self.pictures[-1][1]:
                self.pictures.append((self.now, seen))

    def look_after_cut(self) -> int:
        """How many changes of names were undone; SRC must be as a disk could have it."""
        seen = picture(self.source)
        moments = [when for when, earlier in self.pictures if earlier == seen]
        assert moments
        undone = sum(when > moments[-1] for when, _ in self.pictures)
        left = {}
        for name in seen:
            path = self.source / name
            if path.is_file() and not path.is_symlink():
                inode, contents = path.stat().st_ino, path.read_bytes()
                self.files[inode].check(contents, moments[0])
                left[inode] = FileModel(self.now, contents)
        self.files = left
        self.pictures = [(self.now, seen)]
        return undone

    # -- steps -----------------------------------------------------------------------------

    def _step(self, kind: str, one: Path, other: Path) -> None:
        rng = self.rng
        if kind == "create":
            os.close(os.open(one, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o644))
            self.files[self._inode(one)] = FileModel(self.now)
        elif kind == "mkdir":
            one.mkdir()
        elif kind == "rename":
            self._rename(one, other)
        elif kind == "exchange":
            syscalls.renameat2(-100, bytes(one), -100, bytes(other), syscalls.RENAME_EXCHANGE)
        elif kind == "symlink":
            one.symlink_to("anywhere")
        elif kind == "remove":
            one.rmdir() if one.is_dir() and not one.is_symlink() else one.unlink()
        elif kind == "fsync directory":
            self._fsync_directory(one.parent)
        elif not one.is_symlink():
            self._change_file(kind, one, other, rng)

    def _change_file(self, kind: str, one: Path, other: Path, rng: random.Random) -> None:
        if kind == "link":
            other.hardlink_to(one)
        elif kind == "chmod":
            one.chmod(rng.choice([0o700, 0o750, 0o755]))
        elif kind == "setxattr":
            os.setxattr(one, rng.choice(["user.a", "user.b"]), b"1")
        elif kind == "removexattr":
            os.removexattr(one, "user.a")
        elif one.is_file():
            model = self.files[self._inode(one)]
            if kind == "write":
                self._write(one, model, rng)
            elif kind == "truncate":
                size = rng.randrange(30_000)
                os.truncate(one, size)
                model.change(self.now, model.contents[:size].ljust(size, b"\0"))
            elif kind == "fsync":
                self._fsync(one, model)

    def _write(self, path: Path, model: FileModel, rng: random.Random) -> None:
        place = rng.randrange(20_000)
        data = rng.randbytes(1) * rng.randrange(1, 10_000)
        fd = os.open(path, os.O_WRONLY)
        os.pwrite(fd, data, place)
        os.close(fd)
        old = model.contents.ljust(place, b"\0")
        model.change(self.now, old[:place] + data + old[place + len(data) :])

    def _fsync(self, path: Path, model: FileModel) -> None:
        fd = os.open(path, os.O_RDONLY)
        os.fsync(fd)
        os.close(fd)
        model.flushed = self.now
        self._names_are_durable()

    def _fsync_directory(self, path: Path) -> None:
        fd = os.open(path, os.O_RDONLY)
        os.fsync(fd)
        os.close(fd)
        self._names_are_durable()

    def _names_are_durable(self) -> None:
        self.pictures = [(self.now, picture(self.source))]

    def _rename(self, one: Path, other: Path) -> None:
        replaces = all(path.is_file() and not path.is_symlink() for path in (one, other))
        inodes = [self._inode(path) for path in (one, other)] if replaces else []
        one.rename(other)
        if replaces and inodes[0] != inodes[1]:
            model = self.files[inodes[0]]
            model.flushed_before.append((self.now, self.now))

    def _inode(self, path: Path) -> int:
        return (self.source / path.relative_to(self.mount)).stat().st_ino

    def _path(self) -> Path:
        """One of a few names in a directory that is there."""
        directories = [self.mount]
        for _ in range(3):
            below = [path for path in directories[-1].iterdir() if path.is_dir()]
            if below and self.rng.random() < 0.6:
                directories.append(self.rng.choice(sorted(below)))
        return directories[-1] / self.rng.choice("abcd")


class PosixWorker(Worker):
    """Works on a mount with ``names=posix``: each slot has versions since its directory's fsync."""

    def __init__(self, mount: Path, source: Path, rng: random.Random) -> None:
        super().__init__(mount, source, rng)
        self.versions: dict[int, dict[str, list[int | None]]] = {}
        self._look()

    def look_after_cut(self) -> int:
        """How many slots went back to an earlier version; all must have one of theirs."""
        undone = 0
        seen = slots(self.source)
        for directory, names in seen.items():
            known = self.versions[directory]
            for name, versions in known.items():
                assert names.get(name) in versions, name
                undone += names.get(name) != versions[-1]
            assert names.keys() <= known.keys()
        self.versions = {
            directory: {name: [inode] for name, inode in names.items()}
            for directory, names in seen.items()
        }
        inodes = {inode for names in seen.values() for inode in names.values()}
        self.files = {inode: FileModel(self.now) for inode in inodes}  # contents are not compared
        self.pictures = [(self.now, picture(self.source))]
        return undone

    def _step(self, kind: str, one: Path, other: Path) -> None:
        try:
            super()._step(kind, one, other)
        finally:
            self._look()

    def _look(self) -> None:
        for directory, names in slots(self.source).items():
            known = self.versions.setdefault(directory, {})
            for name in {*known, *names}:
                versions = known.setdefault(name, [None])
                if versions[-1] != names.get(name):
                    versions.append(names.get(name))

    def _fsync_directory(self, path: Path) -> None:
        super()._fsync_directory(path)
        for versions in self.versions[self._inode(path)].values():
            del versions[:-1]

    def _names_are_durable(self) -> None:
        pass  # an fsync is for one file or directory alone


def slots(source: Path) -> dict[int, dict[str, int]]:
    """For each directory of SRC, by its inode, which inodes its names have."""
    found = {}
    for path, directories, files in os.walk(source):
        directories[:] = [name for name in directories if name != HIDDEN]
        names = [*directories, *files]
        found[os.stat(path).st_ino] = {
            name: os.lstat(os.path.join(path, name)).st_ino for name in names
        }
    return found
