"""Files that come, change and go, with a record of what must be in each."""

from __future__ import annotations

import os
import random
from collections.abc import Callable
from pathlib import Path

_MOST_FILES = 120
_LARGEST = 96 << 10


class Churn:
    """Works in *directory*, which is its own: `step` does something to some name and checks it.

    A hard link is one content under two names, so names point to a ``bytearray`` that they share.
    """

    def __init__(self, directory: Path, seed: int) -> None:
        self._directory = directory
        self._random = random.Random(seed)
        self._files: dict[str, bytearray] = {}
        self._made = 0
        self.steps = 0

    def step(self) -> None:
        steps: list[Callable[[], None]] = [self._create, self._list, self._directories]
        if self._files:
            steps += [self._append, self._rename, self._link, self._unlink, self._truncate]
            steps += [self._replace, self._unlink_while_open, self._read]
        self._random.choice(steps)()
        while len(self._files) > _MOST_FILES:
            self._unlink()
        self.steps += 1

    def verify(self, source: Path) -> int:
        """Compare every file with what it must hold, here and in *source*; how many there are."""
        for directory in (self._directory, source):
            assert sorted(os.listdir(directory)) == sorted(self._files)
            for name, content in self._files.items():
                assert (directory / name).read_bytes() == content, name
        return len(self._files)

    def remove_all(self) -> None:
        for name in list(self._files):
            (self._directory / name).unlink()
        self._files.clear()
        assert os.listdir(self._directory) == []

    # -- the steps -------------------------------------------------------------------------

    def _new_name(self) -> str:
        self._made += 1
        return f"file-{self._made}"

    def _some(self) -> str:
        return self._random.choice(list(self._files))

    def _data(self) -> bytes:
        return self._random.randbytes(self._random.randint(1, _LARGEST))

    def _create(self) -> None:
        name, data = self._new_name(), self._data()
        (self._directory / name).write_bytes(data)
        self._files[name] = bytearray(data)

    def _append(self) -> None:
        name, data = self._some(), self._data()
        if len(self._files[name]) > 4 * _LARGEST:
            return
        with open(self._directory / name, "ab") as file:
            file.write(data)
        self._files[name] += data

    def _rename(self) -> None:
        old, new = self._some(), self._new_name()
        os.rename(self._directory / old, self._directory / new)
        self._files[new] = self._files.pop(old)

    def _replace(self) -> None:
        """As editors save: a new file takes an old one's name."""
        name, data = self._some(), self._data()
        temporary = self._directory / "temporary"
        temporary.write_bytes(data)
        os.replace(temporary, self._directory / name)
        self._files[name] = bytearray(data)

    def _link(self) -> None:
        old, new = self._some(), self._new_name()
        os.link(self._directory / old, self._directory / new)
        self._files[new] = self._files[old]

    def _unlink(self) -> None:
        name = self._some()
        os.unlink(self._directory / name)
        del self._files[name]

    def _unlink_while_open(self) -> None:
        name = self._some()
        content = self._files.pop(name)
        with open(self._directory / name, "rb") as file:
            os.unlink(self._directory / name)
            assert file.read() == content, name

    def _truncate(self) -> None:
        name = self._some()
        content = self._files[name]
        size = self._random.randint(0, 2 * len(content) + 1)
        os.truncate(self._directory / name, size)
        content[size:] = b""
        content.extend(bytes(size - len(content)))

    def _read(self) -> None:
        name = self._some()
        assert (self._directory / name).read_bytes() == self._files[name], name

    def _list(self) -> None:
        with os.scandir(self._directory) as entries:
            sizes = {entry.name: entry.stat().st_size for entry in entries}
        assert sizes == {name: len(content) for name, content in self._files.items()}

    def _directories(self) -> None:
        top = self._directory / self._new_name()
        inner = top / "inner"
        os.makedirs(inner)
        (inner / "file").write_bytes(b"x")
        os.rename(inner, top / "moved")
        assert os.listdir(top) == ["moved"]
        os.symlink("moved/file", top / "link")
        assert (top / "link").read_bytes() == b"x"
        os.unlink(top / "link")
        os.unlink(top / "moved" / "file")
        os.rmdir(top / "moved")
        os.rmdir(top)
