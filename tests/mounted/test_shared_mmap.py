"""Shared mappings on a mount: what one program writes all others see, and it is paid for."""

from __future__ import annotations

import errno
import json
import mmap
import os
import random
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.file_worker import FileWorker
from tests.support import Mounted, MountFactory, features, needs_feature, run_throttlefs, wait_for

PAGE = mmap.PAGESIZE
MIB = 1 << 20
KEEP_SIZE, PUNCH_HOLE, ZERO_RANGE = 1, 2, 16

MakeWorker = Callable[..., FileWorker]


def statistics(mounted: Mounted, device: str) -> dict[str, Any]:
    lines = run_throttlefs("stats", "--json", mounted.path).stdout.splitlines()
    found: dict[str, Any] = {image["device"]: image for image in map(json.loads, lines)}[device]
    return found


@pytest.fixture
def mount(make_mount: MountFactory) -> MountFactory:
    """As make_mount, where the kernel knows mappings of files that are not in the page cache."""

    def checked(*arguments: Any, **named: Any) -> Mounted:
        mounted = make_mount(*arguments, **named)
        needs_feature(mounted, "shared-mmap")
        return mounted

    return checked


@pytest.fixture
def worker() -> Iterator[MakeWorker]:
    """Makes processes that use a file, and ends them."""
    made: list[FileWorker] = []

    def make(path: Path, mapped: int = 0) -> FileWorker:
        made.append(FileWorker(path, mapped))
        return made[-1]

    yield make
    for one in made:
        one.kill()


@pytest.mark.parametrize("options", ["", "cache=none", "auto_cache"])
def test_two_programs_see_each_others_mapping(
    mount: MountFactory, worker: MakeWorker, options: str
) -> None:
    mounted = mount(options)
    (mounted.source / "f").write_bytes(b"." * (16 * PAGE))
    one, two = (worker(mounted.path / "f", 16 * PAGE) for _ in range(2))
    one("store", 5, b"by mapping")
    assert two("load", 5, 10) == two("pread", 5, 10) == b"by mapping"
    assert two("read_directly", 0, PAGE)[5:15] == b"by mapping"
    two("pwrite", PAGE + 7, b"by write")
    assert one("load", PAGE + 7, 8) == b"by write"
    two("write_directly", 2 * PAGE, b"d" * PAGE)
    assert one("load", 2 * PAGE, PAGE) == b"d" * PAGE
    one("store", 2 * PAGE + 1, b"over it")
    assert two("read_directly", 2 * PAGE, PAGE)[:8] == b"dover it"
    one("msync")
    data = (mounted.source / "f").read_bytes()
    assert data[5:15] == b"by mapping"
    assert data[2 * PAGE : 2 * PAGE + 8] == b"dover it"


def test_what_is_mapped_reaches_src_when_its_program_is_killed(
    mount: MountFactory, worker: MakeWorker
) -> None:
    mounted = mount("bps_wr=20M")
    (mounted.source / "f").write_bytes(bytes(MIB))
    one = worker(mounted.path / "f", MIB)
    one("store", 0, b"w" * MIB)
    one.kill()
    # Before Linux 6.16 the program may end before its pages are written.
    wait_for(lambda: (mounted.source / "f").read_bytes() == b"w" * MIB, 60)


def test_page_faults_are_reads_and_write_back_is_writes(
    mount: MountFactory, worker: MakeWorker
) -> None:
    mounted = mount("bps_wr=3M")
    (mounted.source / "f").write_bytes(b"r" * (3 * MIB))
    one = worker(mounted.path / "f", 3 * MIB)
    assert one("load", 0, 2 * MIB) == b"r" * (2 * MIB)
    read = statistics(mounted, "f")["read"]["bytes"]
    assert 2 * MIB <= read <= 3 * MIB  # the kernel may read ahead
    began = time.monotonic()
    one("store", 0, b"w" * (3 * MIB))  # with little memory the kernel begins to write back here
    one("msync")
    took = time.monotonic() - began
    assert took > 0.6  # the last of three times 1 MiB waits for the other two
    assert statistics(mounted, "f")["write"]["bytes"] >= 3 * MIB
    assert (mounted.source / "f").read_bytes() == b"w" * (3 * MIB)


@pytest.mark.parametrize("options", ["", "cache=none"])
def test_write_back_by_a_handle_that_appends_does_not_append(
    mount: MountFactory, options: str
) -> None:
    mounted = mount(options)
    (mounted.source / "f").write_bytes(b"." * (2 * PAGE))
    appending = os.open(mounted.path / "f", os.O_RDWR | os.O_APPEND)
    with mmap.mmap(appending, 2 * PAGE) as mapping:
        mapping[PAGE : PAGE + 4] = b"here"
        mapping.flush()
        assert os.write(appending, b"at the end") == 10
    os.close(appending)
    expected = b"." * PAGE + b"here" + b"." * (PAGE - 4) + b"at the end"
    assert (mounted.source / "f").read_bytes() == expected


def test_data_in_a_mapping_is_no_hole(mount: MountFactory, worker: MakeWorker) -> None:
    """SRC has a hole where a program has written and the kernel has not written back yet."""
    mounted = mount()
    with open(mounted.source / "f", "wb") as file:
        file.truncate(MIB)
    one, two = worker(mounted.path / "f", MIB), worker(mounted.path / "f")
    for whence, offset in ((os.SEEK_DATA, 0), (os.SEEK_DATA, -1), (os.SEEK_HOLE, -1)):
        with pytest.raises(OSError) as caught:
            two("seek", offset, whence)
        assert caught.value.errno == errno.ENXIO
    one("store", 100 * PAGE, b"data")
    assert two("seek", 0, os.SEEK_DATA) == 100 * PAGE
    one("store", 110 * PAGE, b"data")
    assert two("seek", 101 * PAGE, os.SEEK_DATA) == 110 * PAGE
    one("store", 101 * PAGE, b"data")
    assert two("seek", 100 * PAGE, os.SEEK_HOLE) == 102 * PAGE
    assert two("seek", 111 * PAGE, os.SEEK_HOLE) == 111 * PAGE


def test_nobody_waits_for_a_search_that_waits_for_its_limit(
    mount: MountFactory, worker: MakeWorker
) -> None:
    """It waits for what is written back first, in a thread; the loop serves all others."""
    mounted = mount()
    with open(mounted.source / "f", "wb") as file:
        file.truncate(4 * MIB)
    (mounted.source / "other").write_bytes(b"served")
    one, two = worker(mounted.path / "f", 4 * MIB), worker(mounted.path / "f")
    assert run_throttlefs("set", mounted.path / "f", "bps_wr=1").returncode == 0
    two("pwrite", 0, b"paid for in 4096 seconds".ljust(4096))
    one("store", MIB, b"x" * (16 * PAGE))  # so little that the kernel leaves it in the cache
    two.begin("seek", MIB, os.SEEK_DATA)
    wait_for(lambda: os.stat(mounted.path / "other").st_size == 6)
    assert (mounted.path / "other").read_bytes() == b"served"
    assert not two.has_answered()
    assert run_throttlefs("set", mounted.path / "f", "off").returncode == 0
    wait_for(two.has_answered, 60)
    assert two.result() == MIB


def test_no_mmap_refuses_it(make_mount: MountFactory) -> None:
    mounted = make_mount("no_mmap")
    assert features(mounted)["shared-mmap"] is False
    assert "this mount has no shared-mmap" in mounted.log
    (mounted.source / "f").write_bytes(b"x" * 8192)
    with open(mounted.path / "f", "r+b") as file:
        with pytest.raises(OSError) as caught:
            mmap.mmap(file.fileno(), 8192)
        assert caught.value.errno == errno.ENODEV
        with mmap.mmap(file.fileno(), 8192, flags=mmap.MAP_PRIVATE) as private:
            assert private[:3] == b"xxx"


OPERATIONS = [
    *("load", "store", "load_once", "store_once", "pread", "pwrite", "append", "truncate"),
    *("read_directly", "write_directly", "punch", "zero", "allocate", "copy", "msync", "search"),
]


class Model:
    """What the file must have, and a random operation on it by one of the workers, as fsx has."""

    SIZE = 64 * PAGE

    def __init__(self, pick: random.Random, workers: list[FileWorker]) -> None:
        self.pick = pick
        self.workers = workers
        self.data = bytearray(self.SIZE)
        self.done: dict[str, int] = {}

    def step(self) -> None:
        pick, size = self.pick, len(self.data)
        self.run = pick.choice(self.workers)
        offset = pick.randrange(self.SIZE)
        length = pick.choice([1, 100, PAGE, 3 * PAGE + 5, pick.randrange(1, 16 * PAGE)])
        inside = min(length, size - offset)  # what of it the file has
        blocks = offset & -PAGE, -(-length // PAGE) * PAGE
        name = pick.choice(OPERATIONS)
        if name in ("load", "load_once", "store", "store_once", "copy") and inside <= 0:
            name = "pwrite"
        if name == "append" and size + length > self.SIZE:
            name = "pread"
        length = min(length, self.SIZE - offset)
        self.done[name] = self.done.get(name, 0) + 1
        getattr(self, name)(offset, *{
            "load": (inside,), "load_once": (inside,), "store": (inside,), "store_once": (inside,),
            "copy": (inside,), "read_directly": blocks, "write_directly": blocks,
        }.get(name, (length,)))  # fmt: skip

    def fill(self, length: int) -> bytes:
        return self.pick.randbytes(8).ljust(16, b"_") * (length // 16 + 1)

    def put(self, offset: int, data: bytes) -> None:
        self.data.extend(bytes(max(0, offset + len(data) - len(self.data))))
        self.data[offset : offset + len(data)] = data

    def same(self, offset: int, length: int, found: bytes) -> None:
        assert found == self.data[offset : offset + length]

    def load(self, offset: int, length: int) -> None:
        self.same(offset, length, self.run("load", offset, length))

    def load_once(self, offset: int, length: int) -> None:
        self.same(offset, length, self.run("load_once", offset, length))

    def store(self, offset: int, length: int) -> None:
        data = self.fill(length)[:length]
        self.run("store", offset, data)
        self.put(offset, data)

    def store_once(self, offset: int, length: int) -> None:
        data = self.fill(length)[:length]
        self.run("store_once", offset, data)
        self.put(offset, data)

    def pread(self, offset: int, length: int) -> None:
        self.same(offset, length, self.run("pread", offset, length))

    def pwrite(self, offset: int, length: int) -> None:
        data = self.fill(length)[:length]
        assert self.run("pwrite", offset, data) == length
        self.put(offset, data)

    def read_directly(self, _: int, offset: int, length: int) -> None:
        self.same(offset, length, self.run("read_directly", offset, length))

    def write_directly(self, _: int, offset: int, length: int) -> None:
        length = min(length, self.SIZE - offset)
        data = self.fill(length)[:length]
        assert self.run("write_directly", offset, data) == length
        self.put(offset, data)

    def append(self, _: int, length: int) -> None:
        data = self.fill(length)[:length]
        assert self.run("append", data) == length
        self.put(len(self.data), data)

    def truncate(self, offset: int, _: int) -> None:
        self.run("truncate", offset)
        del self.data[offset:]
        self.data.extend(bytes(offset - len(self.data)))

    def punch(self, offset: int, length: int) -> None:
        self.run("fallocate", PUNCH_HOLE | KEEP_SIZE, offset, length)
        end = min(offset + length, len(self.data))
        self.data[offset:end] = bytes(max(0, end - offset))

    def zero(self, offset: int, length: int) -> None:
        self.run("fallocate", ZERO_RANGE, offset, length)
        self.put(offset, bytes(length))

    def allocate(self, offset: int, length: int) -> None:
        self.run("fallocate", 0, offset, length)
        self.data.extend(bytes(max(0, offset + length - len(self.data))))

    def copy(self, offset: int, length: int) -> None:
        target = self.pick.randrange(self.SIZE - length + 1)
        if offset < target + length and target < offset + length:
            return  # EINVAL: the parts overlap
        copied = self.run("copy", offset, target, length)
        assert 0 < copied <= length
        self.put(target, bytes(self.data[offset : offset + copied]))

    def msync(self, *_: int) -> None:
        self.run("msync")

    def search(self, offset: int, _: int) -> None:
        """Where a search passes over a hole, there must be nothing but zeroes."""
        try:
            found = self.run("seek", offset, os.SEEK_DATA)
        except OSError as exc:
            assert exc.errno == errno.ENXIO  # noqa: PT017
            found = len(self.data)
        assert not any(self.data[offset:found])


@pytest.mark.parametrize("options", ["", "cache=none", "engine=threads,bps=200M"])
def test_random_operations_by_two_programs(
    mount: MountFactory, worker: MakeWorker, rng: random.Random, options: str
) -> None:
    mounted = mount(options)
    (mounted.source / "f").write_bytes(bytes(Model.SIZE))
    workers = [worker(mounted.path / "f", Model.SIZE) for _ in range(2)]
    model = Model(rng, workers)
    for _ in range(1500):
        model.step()
    assert model.done.keys() == set(OPERATIONS)
    for one in workers:
        assert one("pread", 0, Model.SIZE) == model.data
        one("msync")
    assert (mounted.source / "f").read_bytes() == model.data
    assert "internal error" not in mounted.log
    assert "damaged" not in mounted.log
