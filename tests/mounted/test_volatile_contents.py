"""What power cuts of a real mount leave of the contents of files.

A model knows every state that the file was ever in (tests/unit/device/volatile_world.py).
"""

from __future__ import annotations

import errno
import mmap
import os
import random
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

import throttlefs
from tests.support import MountFactory, needs_feature
from tests.unit.device.volatile_world import Model, State
from throttlefs.host import syscalls

SECTOR = 512
SECTORS = 64
MOST = SECTORS * SECTOR
PUNCH = syscalls.FALLOC_FL_PUNCH_HOLE | syscalls.FALLOC_FL_KEEP_SIZE
ZERO = syscalls.FALLOC_FL_ZERO_RANGE


@contextmanager
def raises_eio() -> Iterator[None]:
    with pytest.raises(OSError) as caught:
        yield
    assert caught.value.errno == errno.EIO


class Worker:
    """Changes one file through the mount at random, and notes each state of it in a model."""

    def __init__(self, disk: Any, source: Path, rng: random.Random, *, can_map: bool) -> None:
        self.disk = disk
        self.source = source / "file"
        self.path = Path(disk.path) / "file"
        self.rng = rng
        self.can_map = can_map
        self.lost = 0
        self._begin()

    def _begin(self) -> None:
        data = self.source.read_bytes()
        self.number = 0
        self.final = 0  # the size of then is there
        self.model = Model([State(0, data, size=SECTOR)], [(0, len(data))], sectors=SECTORS)
        self.fd = os.open(self.path, os.O_RDWR)

    def work(self, steps: int) -> None:
        kinds = ["write"] * 8 + ["append", "durable", "truncate", "punch", "zero", "allocate"]
        kinds += ["fsync", "fsync", "reopen"] + ["unmap"] * (2 * self.can_map)
        for _ in range(steps):
            self.number += 1
            getattr(self, f"_{self.rng.choice(kinds)}")()

    # -- steps -----------------------------------------------------------------------------

    def _draw(self) -> tuple[int, bytes]:
        rng = self.rng
        offset = rng.choice((0, 511, 512, 4096, 8192, rng.randrange(MOST - 1)))
        length = min(rng.choice((1, 300, 512, 512, 1024, 4096, 5000)), MOST - offset)
        return offset, bytes([rng.randrange(1, 256)]) * length

    def _note(self, zeroed: range | None = None) -> None:
        data = self.source.read_bytes()
        states = frozenset(zeroed or ())
        self.model.states.append(State(self.number, data, states, SECTOR))
        self.model.sizes.append((self.number, len(data)))

    def _write(self) -> None:
        offset, data = self._draw()
        assert os.pwrite(self.fd, data, offset) == len(data)
        self._note()

    def _append(self) -> None:
        _, data = self._draw()
        if len(data) + self.source.stat().st_size <= MOST:
            fd = os.open(self.path, os.O_WRONLY | os.O_APPEND)
            os.write(fd, data)
            os.close(fd)
            self._note()

    def _durable(self) -> None:
        offset, data = self._draw()
        os.pwritev(self.fd, [data], offset, os.RWF_DSYNC)
        if offset + len(data) > self.model.sizes[-1][1]:
            self.final = self.number
        self._note()
        for at in range(offset // SECTOR, -(-(offset + len(data)) // SECTOR)):
            self.model.floors[at] = self.number

    def _truncate(self) -> None:
        old = self.source.stat().st_size
        size = self.rng.choice((0, old // 2, 700, 4096, self.rng.randrange(MOST)))
        os.ftruncate(self.fd, size)
        self._note(range(size // SECTOR, SECTORS) if size < old else None)

    def _reopen(self) -> None:
        os.close(self.fd)
        old = self.source.stat().st_size
        empties = self.rng.random() < 0.3
        self.fd = os.open(self.path, os.O_RDWR | (os.O_TRUNC if empties else 0))
        if empties and old:
            self._note(range(SECTORS))

    def _allocate(self, mode: int = 0) -> None:
        offset, data = self._draw()
        old = self.source.stat().st_size
        syscalls.fallocate(self.fd, mode, offset, len(data))
        end = min(offset + len(data), old)
        end = MOST if end == old else end
        gone = range(offset // SECTOR, -(-end // SECTOR)) if mode and offset < old else None
        self._note(gone)

    def _punch(self) -> None:
        self._allocate(PUNCH)

    def _zero(self) -> None:
        self._allocate(ZERO)

    def _unmap(self) -> None:
        size = self.source.stat().st_size
        if size:
            page = self.rng.randrange(size) // mmap.PAGESIZE * mmap.PAGESIZE
            length = min(mmap.PAGESIZE, size - page)
            with mmap.mmap(self.fd, length, offset=page) as mapped:
                mapped[length // 3] = self.rng.randrange(1, 256)
            self._note()

    def _fsync(self) -> None:
        os.fdatasync(self.fd)
        self.model.flushed(self.number)
        self.final = self.number

    # -- a power cut -----------------------------------------------------------------------

    def cut(self) -> None:
        """Cut the power, compare SRC with the model, and go on from there."""
        before = self.source.read_bytes()
        self.disk.power_cut(seed=self.rng.randrange(1 << 40))
        data = self.source.read_bytes()
        limits = range(self.final, self.number + 1)
        assert any(self._may_be(data, limit) for limit in limits), "no disk could have this"
        self.lost += data != before
        with raises_eio():
            os.pread(self.fd, 1, 0)
        os.close(self.fd)
        self.disk.power_on()
        assert self.path.read_bytes() == data
        self._begin()

    def _may_be(self, data: bytes, limit: int) -> bool:
        if len(data) != self.model.size_at(limit):
            return False
        for at in range(-(-len(data) // SECTOR)):
            found = data[at * SECTOR : (at + 1) * SECTOR]
            if found not in [it[: len(found)] for it in self.model.allowed(at, limit)]:
                return False
        return True


@pytest.fixture
def source(tmp_path: Path) -> Path:
    path = tmp_path / "src"
    path.mkdir()
    return path


@pytest.mark.parametrize(
    "how",
    [{}, {"cache": "none"}, {"cache": "writethrough"}, {"names": "posix"}],
    ids=["writeback", "none", "writethrough", "posix"],
)
def test_what_is_left_is_a_state_that_a_disk_could_have(
    how: dict[str, str], source: Path, rng: random.Random
) -> None:
    (source / "file").write_bytes(b"x" * 9000)
    with throttlefs.mounted(source, volatile=True, sector=SECTOR, **how) as disk:
        can_map = disk.show()["features"]["shared-mmap"]
        worker = Worker(disk, source, rng, can_map=can_map)
        for _ in range(12):
            worker.work(25)
            worker.cut()
        os.close(worker.fd)
    assert worker.lost > 0 or how.get("cache") == "writethrough"


def test_all_that_was_flushed_is_there_after_a_hundred_cuts(
    source: Path, rng: random.Random
) -> None:
    """Pages of a large file, each with its number, are written at random and flushed."""
    with throttlefs.mounted(source, volatile=True) as disk:
        path = Path(disk.path) / "file"
        path.write_bytes(bytes(1 << 20))
        disk.sync()
        flushed = [0] * 256
        for _ in range(100):
            latest = flushed[:]
            with path.open("r+b", buffering=0) as file:
                for _ in range(rng.randrange(60)):
                    at, number = rng.randrange(256), rng.randrange(1, 1 << 30)
                    os.pwrite(file.fileno(), number.to_bytes(4, "big") * 1024, at * 4096)
                    latest[at] = number
                    if rng.random() < 0.1:
                        os.fsync(file.fileno())
                        flushed = latest[:]
                disk.power_cut(seed=rng.randrange(1 << 40))
                disk.power_on()
            data = (source / "file").read_bytes()
            pages = [int.from_bytes(data[at : at + 4], "big") for at in range(0, 1 << 20, 4096)]
            for at, number in enumerate(pages):
                assert data[at * 4096 : (at + 1) * 4096] == number.to_bytes(4, "big") * 1024
                if latest[at] == flushed[at]:
                    assert number == flushed[at]
            flushed = pages


def test_msync_of_a_mapping_makes_it_durable(source: Path, make_mount: MountFactory) -> None:
    (source / "file").write_bytes(b"0" * 8192)
    needs_feature(make_mount(source=source, target=source.parent / "plain"), "shared-mmap")
    with throttlefs.mounted(source, volatile=True) as disk:
        for seed in range(6):
            with (Path(disk.path) / "file").open("r+b") as file:
                with mmap.mmap(file.fileno(), 8192) as mapped:
                    mapped[0:4] = mapped[4096:4100] = b"%04d" % seed
                    mapped.flush(0, 4096)
                disk.power_cut(seed=seed)
                disk.power_on()
            assert (source / "file").read_bytes()[:4] == b"%04d" % seed


@pytest.mark.parametrize("fsync_failure", ["dirty", "clean"])
def test_a_retry_of_an_fsync_that_failed(fsync_failure: str, source: Path) -> None:
    (source / "file").write_bytes(b"0" * 4096)
    left = set()
    with throttlefs.mounted(source, volatile=True, fsync_failure=fsync_failure) as disk:
        for seed in range(20):
            with (Path(disk.path) / "file").open("r+b", buffering=0) as file:
                file.write(b"1" * 4096)
                with disk.fault(op="flush", error="EIO", nth=1):
                    with raises_eio():
                        os.fsync(file.fileno())
                    os.fsync(file.fileno())
                disk.power_cut(seed=seed)
            left.add((source / "file").read_bytes()[:1])
            (source / "file").write_bytes(b"0" * 4096)
            disk.power_on()
    assert left == ({b"1"} if fsync_failure == "dirty" else {b"0", b"1"})


def test_a_file_that_replaces_another_has_its_data(source: Path) -> None:
    """With auto_da_alloc a rename over a file, and a truncate and rewrite, leave no empty file."""
    with throttlefs.mounted(source, volatile=True) as disk:
        path = Path(disk.path)
        (path / "file").write_bytes(b"old" * 1000)
        disk.sync()
        for seed in range(25):
            (path / "new").write_bytes(b"new" * 1000)
            (path / "new").rename(path / "file")
            disk.power_cut(seed=seed)
            assert (source / "file").read_bytes() in (b"old" * 1000, b"new" * 1000)
            disk.power_on()
            (path / "file").write_bytes(b"old" * 1000)
            disk.sync()


def test_a_copy_by_the_kernel_can_be_lost_as_any_write(source: Path) -> None:
    (source / "from").write_bytes(b"1" * 100_000)
    (source / "to").write_bytes(b"0" * 100_000)
    found = set()
    with throttlefs.mounted(source, volatile=True) as disk:
        for seed in range(12):
            with (
                (Path(disk.path) / "from").open("rb") as one,
                (Path(disk.path) / "to").open("r+b") as other,
            ):
                done = 0
                while done < 100_000:
                    done += os.copy_file_range(one.fileno(), other.fileno(), 100_000 - done)
                disk.power_cut(seed=seed)
            found |= set((source / "to").read_bytes())
            (source / "to").write_bytes(b"0" * 100_000)
            disk.power_on()
    assert found == {ord("0"), ord("1")}


def test_a_large_truncate_comes_back(source: Path) -> None:
    data = b"".join(at.to_bytes(4, "big") * 1024 for at in range(5000))
    (source / "file").write_bytes(data)
    sizes = set()
    with throttlefs.mounted(source, volatile=True) as disk:
        for seed in range(6):
            os.truncate(Path(disk.path) / "file", 10_000)
            disk.power_cut(seed=seed)
            left = (source / "file").read_bytes()
            assert left == data[: len(left)]
            sizes.add(len(left))
            disk.power_on()
            if len(left) < len(data):
                (source / "file").write_bytes(data)
    assert sizes == {10_000, len(data)}
