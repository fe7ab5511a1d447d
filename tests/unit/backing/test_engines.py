"""What every engine must do: whole transfers, errors, cancellation, more than there is room."""

from __future__ import annotations

import ctypes
import errno
import os
import random
import select
import time
from collections.abc import Coroutine
from pathlib import Path

import pytest
import trio

from tests.unit.backing.conftest import new_engine, running
from throttlefs import waiting
from throttlefs.backing import Engine
from throttlefs.backing.buffers import address_of, new_aligned

MIB = 1 << 20


@pytest.fixture
def image(directory: Path) -> Path:
    path = directory / "image"
    path.write_bytes(random.Random(1).randbytes(3 * MIB + 777))
    return path


def opened(path: Path, flags: int = os.O_RDWR) -> int:
    return os.open(path, flags)


@pytest.mark.parametrize("offload", [False, True])
@pytest.mark.parametrize(
    ("offset", "size"),
    [(0, 1), (0, 4096), (4095, 2), (12345, 99_999), (0, MIB), (513, 3 * MIB), (0, 4 * MIB)],
)
def test_reads_whole(kind: str, image: Path, offset: int, size: int, offload: bool) -> None:
    async def main() -> bytes:
        async with running(kind) as engine:
            fd = opened(image)
            data = await engine.read(fd, offset, size, offload=offload)
            os.close(fd)
            return bytes(data)

    assert trio.run(main) == image.read_bytes()[offset : offset + size]


def test_reads_around_the_end_are_short(kind: str, image: Path) -> None:
    async def main() -> None:
        async with running(kind) as engine:
            fd, size = opened(image), image.stat().st_size
            assert bytes(await engine.read(fd, size - 10, 4096)) == image.read_bytes()[-10:]
            assert bytes(await engine.read(fd, size, 4096)) == b""
            assert bytes(await engine.read(fd, size + 5 * MIB, 1)) == b""
            assert bytes(await engine.read(fd, 0, 0)) == b""
            os.close(fd)

    trio.run(main)


@pytest.mark.parametrize("offload", [False, True])
@pytest.mark.parametrize("form", [bytes, bytearray, memoryview])
def test_writes_whole(kind: str, image: Path, form: type, offload: bool) -> None:
    before, data = image.read_bytes(), random.Random(2).randbytes(MIB + 13)

    async def main() -> None:
        async with running(kind) as engine:
            fd = opened(image)
            assert await engine.write(fd, 3 * MIB, form(data), offload=offload) == len(data)
            assert await engine.write(fd, 17, form(b"abc")) == 3
            assert await engine.write(fd, 17, form(b"")) == 0
            os.close(fd)

    trio.run(main)
    assert image.read_bytes() == before[:17] + b"abc" + before[20 : 3 * MIB] + data


def test_reads_into_and_writes_from_memory(kind: str, image: Path) -> None:
    async def main() -> None:
        async with running(kind) as engine:
            fd, data = opened(image), random.Random(3).randbytes(9999)
            assert await engine.write_from(fd, 100, address_of(data), len(data)) == len(data)
            memory = new_aligned(20_000, 4096)
            assert memory.address % 4096 == 0
            assert await engine.read_into(fd, 100, memory.address, 20_000) == 20_000
            assert bytes(memory.data(0, len(data))) == data
            assert bytes(memory.data(0, 20_000)) == image.read_bytes()[100:20_100]
            end = image.stat().st_size
            assert await engine.read_into(fd, end - 3, memory.address, 20_000) == 3
            assert await engine.read_into(fd, end, memory.address, 20_000) == 0
            os.close(fd)

    trio.run(main)


@pytest.mark.parametrize("datasync", [False, True])
def test_fsync_and_write_back(kind: str, image: Path, datasync: bool) -> None:
    async def main() -> None:
        async with running(kind) as engine:
            fd = opened(image)
            await engine.write(fd, 0, b"dirty")
            await engine.fsync(fd, datasync)
            await engine.write_back(fd, 0, 4096)
            os.close(fd)

    trio.run(main)
    assert image.read_bytes()[:5] == b"dirty"


def test_a_thousand_requests_in_a_ring_of_eight(kind: str, image: Path) -> None:
    before = image.read_bytes()
    result = bytearray(before)

    async def main() -> None:
        async with running(kind, entries=8) as engine:
            fd = opened(image)

            async def read(place: int) -> None:
                assert bytes(await engine.read(fd, place, 999)) == before[place : place + 999]

            async def write(place: int, data: bytes) -> None:
                assert await engine.write(fd, place, data) == len(data)

            with trio.fail_after(30):
                async with trio.open_nursery() as nursery:
                    for number in range(500):  # reads of the first half, writes to the second
                        nursery.start_soon(read, number * 2000)
                        place, data = MIB + number * 2000, b"%03d" % number * 333
                        result[place : place + len(data)] = data
                        nursery.start_soon(write, place, data)
            os.close(fd)

    trio.run(main)
    assert image.read_bytes() == bytes(result)


def test_fsync_among_many_requests(kind: str, image: Path) -> None:
    async def main() -> None:
        async with running(kind, entries=8) as engine:
            fd = opened(image)
            with trio.fail_after(30):
                async with trio.open_nursery() as nursery:
                    for number in range(100):
                        nursery.start_soon(engine.write, fd, number * 4096, b"x" * 4096)
                        nursery.start_soon(engine.fsync, fd, True)
            os.close(fd)

    trio.run(main)
    assert image.read_bytes()[: 100 * 4096] == b"x" * 100 * 4096


async def expect(number: int, engine: Engine, method: str, *args: object) -> None:
    with pytest.raises(OSError) as caught:
        await getattr(engine, method)(*args)
    assert caught.value.errno == number
    assert os.strerror(number) in str(caught.value)


def test_errors_have_their_errno(kind: str, tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_bytes(b"data")
    data = b"x" * 10_000

    async def main() -> None:
        async with running(kind) as engine:
            read_only, write_only = opened(path, os.O_RDONLY), opened(path, os.O_WRONLY)
            directory = opened(tmp_path, os.O_RDONLY)
            full = opened(Path("/dev/full"))
            memory = opened(Path("/proc/self/mem"), os.O_RDONLY)
            closed = os.open(path, os.O_RDONLY)
            os.close(closed)  # the last one opened: its number is free
            address = address_of(data)
            for method, args in (
                ("read", (0, 10)),
                ("write", (0, data)),
                ("read_into", (0, address, 10)),
                ("write_from", (0, address, 10)),
                ("write_back", (0, 10)),
                ("fsync", (True,)),
            ):
                await expect(errno.EBADF, engine, method, closed, *args)
            await expect(errno.EBADF, engine, "write", read_only, 0, data)
            await expect(errno.EBADF, engine, "write_from", read_only, 0, address, 10)
            await expect(errno.EBADF, engine, "read", write_only, 0, 10)
            await expect(errno.EISDIR, engine, "read", directory, 0, 10)
            await expect(errno.ENOSPC, engine, "write", full, 0, data)
            await expect(errno.ENOSPC, engine, "write_from", full, 0, address, 10)
            await expect(errno.EIO, engine, "read", memory, 0, 10)  # nothing is mapped at 0
            await expect(errno.EINVAL, engine, "fsync", full, False)
            # ... and none of it harms what comes after.
            assert bytes(await engine.read(read_only, 0, 10)) == b"data"
            for fd in (read_only, write_only, directory, full, memory):
                os.close(fd)

    trio.run(main)


def test_a_cancelled_task_goes_on_when_the_kernel_is_done(kind: str, image: Path) -> None:
    """The memory of a cancelled request is still written to: it must not be given away."""
    before = image.read_bytes()

    async def main() -> None:
        async with running(kind, entries=8) as engine:
            fd = opened(image)
            begun, outcomes = [], []

            async def victim(scope: trio.CancelScope, place: int) -> None:
                with scope:
                    begun.append(place)
                    outcomes.append(bytes(await engine.read(fd, place, 4096)))
                    await trio.lowlevel.checkpoint()
                    pytest.fail("was not cancelled")

            async with trio.open_nursery() as nursery:
                scopes = [trio.CancelScope() for _ in range(50)]
                for number, scope in enumerate(scopes):
                    nursery.start_soon(victim, scope, number * 4096)
                while len(begun) < len(scopes):
                    await trio.lowlevel.checkpoint()
                for scope in scopes:
                    scope.cancel()
            # Everybody was given his own bytes and no others'.
            assert sorted(outcomes) == sorted(before[n * 4096 :][:4096] for n in range(50))
            assert bytes(await engine.read(fd, 0, 10)) == before[:10]
            os.close(fd)

    trio.run(main)


def test_cancelling_everything_leaves_nobody_behind(kind: str, image: Path) -> None:
    """The engine's own task is cancelled together with those that wait for it."""
    data = random.Random(4).randbytes(64 << 10)

    async def main() -> None:
        engine = new_engine(kind, entries=8)
        fd = opened(image)

        async def client(place: int) -> None:
            while True:
                await engine.write(fd, place, data)
                await engine.read(fd, place, len(data))
                await trio.lowlevel.checkpoint_if_cancelled()

        with trio.fail_after(30):
            async with trio.open_nursery() as nursery:
                nursery.start_soon(engine.run)
                for number in range(40):
                    nursery.start_soon(client, number * len(data))
                await trio.sleep(0.05)
                nursery.cancel_scope.cancel()
        engine.close()
        os.close(fd)

    trio.run(main)
    after = image.read_bytes()
    for number in range(40):
        assert after[number * len(data) :][: len(data)] == data


class Handler:
    """A handler of a loop that is not trio's; see `throttlefs.waiting`."""

    def __init__(self, coroutine: Coroutine[object, object, object]) -> None:
        self.coroutine = coroutine
        self.abort: object = None
        self.ready = True
        self.done = False
        self.value: object = None
        self.outcome: object = None

    def resume(self, value: object) -> None:
        self.ready, self.value = True, value

    def step(self) -> None:
        self.ready = False
        waiting.running = self  # type: ignore[assignment]
        try:
            assert self.coroutine.send(self.value) is waiting.PARKED
        except StopIteration as stop:
            self.done, self.outcome = True, stop.value
        except OSError as error:
            self.done, self.outcome = True, error.errno
        finally:
            waiting.running = None


def test_handlers_of_another_loop(kind: str, image: Path) -> None:
    """poll() and before_sleep() are all that the session loop has; trio is not even there."""
    before = image.read_bytes()
    engine = new_engine(kind, entries=8)
    fd = opened(image)
    data = random.Random(5).randbytes(5000)
    handlers = [Handler(engine.read(fd, number * 4096, 4096)) for number in range(100)]
    handlers += [Handler(engine.write(fd, MIB + number * 5000, data)) for number in range(100)]
    handlers += [Handler(engine.call(divmod, 17, number + 1)) for number in range(100)]
    handlers += [Handler(engine.fsync(fd, True)), Handler(engine.read(-1, 0, 10))]
    poller = select.poll()
    poller.register(engine.fileno(), select.POLLIN)
    deadline = time.monotonic() + 30
    while not all(handler.done for handler in handlers):
        for handler in handlers:
            if handler.ready:
                handler.step()
        engine.before_sleep()
        engine.poll()
        if not any(handler.ready for handler in handlers):
            poller.poll(10_000)
            engine.poll()
        assert time.monotonic() < deadline
    engine.close()
    os.close(fd)
    for number in range(100):
        assert bytes(handlers[number].outcome) == before[number * 4096 :][:4096]  # type: ignore[call-overload]
        assert handlers[100 + number].outcome == 5000
        assert handlers[200 + number].outcome == divmod(17, number + 1)
    assert handlers[-1].outcome == errno.EBADF
    assert image.read_bytes()[MIB:][:500_000] == data * 100


def test_close_is_clean(kind: str, image: Path) -> None:
    before = len(os.listdir("/proc/self/fd"))

    async def main() -> None:
        for _ in range(3):
            async with running(kind) as engine:
                fd = opened(image)
                await engine.read(fd, 0, 10)
                os.close(fd)

    trio.run(main)
    assert len(os.listdir("/proc/self/fd")) == before


def test_errors_of_libc_are_not_mixed_up(kind: str, image: Path) -> None:
    """ctypes keeps an errno per thread; an old one must not be taken for a new one."""

    async def main() -> None:
        async with running(kind) as engine:
            fd = opened(image)
            ctypes.set_errno(errno.ENOTDIR)
            memory = new_aligned(10, 1)
            assert await engine.read_into(fd, 0, memory.address, 10) == 10
            await expect(errno.EBADF, engine, "read_into", -1, 0, memory.address, 10)
            os.close(fd)

    trio.run(main)
