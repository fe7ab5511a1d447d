"""The io_uring itself, and what the engine makes of what a kernel may do to it."""

from __future__ import annotations

import errno
import os
import random
from collections.abc import Callable
from pathlib import Path

import pytest
import trio

from tests.unit.backing.conftest import RING_KINDS, running
from throttlefs.backing import ring, uring_abi
from throttlefs.backing.buffers import address_of, new_bytes
from throttlefs.backing.ring import Ring, RingUnavailableError
from throttlefs.backing.uring_abi import Op

SIZE = 100_000


@pytest.fixture
def image(tmp_path: Path) -> Path:
    path = tmp_path / "image"
    path.write_bytes(random.Random(1).randbytes(SIZE))
    return path


@pytest.fixture(params=RING_KINDS)
def uring_kind(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def small_ring() -> Ring:
    try:
        return Ring(4)
    except RingUnavailableError as error:
        pytest.skip(str(error))


def reap_all(small_ring: Ring) -> dict[int, int]:
    results: dict[int, int] = {}
    while small_ring.in_flight:
        small_ring.reap(results.__setitem__)
    return results


def test_counters_go_round_many_times(small_ring: Ring, image: Path) -> None:
    """Places are used again and again, and results find the request they belong to."""
    fd, expected = os.open(image, os.O_RDONLY), image.read_bytes()
    for first in range(0, 400, 4):
        buffers = {first + n: new_bytes(first + n + 1) for n in range(4)}
        for number, buffer in buffers.items():
            assert small_ring.has_room
            size = len(buffer)
            small_ring.push(number, Op.READ, fd, number * 7, address_of(buffer), size)
        assert not small_ring.has_room
        small_ring.submit()
        assert small_ring.queued == 0
        assert reap_all(small_ring) == {number: number + 1 for number in buffers}
        for number, buffer in buffers.items():
            assert buffer == expected[number * 7 :][: number + 1]
    os.close(fd)
    small_ring.close()


def test_counters_pass_two_to_the_32(small_ring: Ring, image: Path) -> None:
    """Heads and tails are 32-bit counters that wrap; a mount of some weeks gets there."""
    # Nothing but the difference of the counters and their low bits matters to the kernel,
    # whose own copies cannot be set. So the arithmetic is checked, on counters of our own.
    small_ring._sq_tail = 0xFFFF_FFFE
    buffer = new_bytes(10)
    for _ in range(4):
        small_ring.push(1, Op.READ, 0, 0, address_of(buffer), 10)
    assert small_ring._sq_tail == 2
    assert small_ring._words[small_ring._sq_tail_at] == 2
    assert small_ring.withdraw() == [1, 1, 1, 1]
    assert small_ring._sq_tail == 0xFFFF_FFFE
    small_ring.close()


def test_no_more_go_in_than_completions_have_room(small_ring: Ring, image: Path) -> None:
    fd, buffer = os.open(image, os.O_RDONLY), new_bytes(10)
    pushed = 0
    while small_ring.has_room:
        small_ring.push(pushed, Op.READ, fd, 0, address_of(buffer), 10)
        small_ring.submit()
        pushed += 1
        assert pushed <= small_ring.capacity
    assert pushed == small_ring.capacity
    assert reap_all(small_ring) == dict.fromkeys(range(pushed), 10)
    assert small_ring.has_room
    os.close(fd)
    small_ring.close()


def test_withdraws_what_was_not_submitted(small_ring: Ring, image: Path) -> None:
    fd, buffer = os.open(image, os.O_RDONLY), new_bytes(10)
    small_ring.push(1, Op.READ, fd, 0, address_of(buffer), 10)
    small_ring.submit()
    for number in (2, 3):
        small_ring.push(number, Op.READ, fd, 0, address_of(buffer), 10)
    assert small_ring.withdraw() == [2, 3]
    assert reap_all(small_ring) == {1: 10}
    small_ring.push(4, Op.READ, fd, 0, address_of(buffer), 7)
    small_ring.submit()
    assert reap_all(small_ring) == {4: 7}
    os.close(fd)
    small_ring.close()


def test_a_bad_request_does_not_stop_those_behind_it(small_ring: Ring, image: Path) -> None:
    fd, buffer = os.open(image, os.O_RDONLY), new_bytes(10)
    for number, opcode in enumerate((Op.READ, 255, Op.READ)):
        small_ring.push(number, opcode, fd, 0, address_of(buffer), 10)
    small_ring.submit()
    assert reap_all(small_ring) == {0: 10, 1: -errno.EINVAL, 2: 10}
    os.close(fd)
    small_ring.close()


def test_a_fence_does_no_harm() -> None:
    for _ in range(3):
        ring._full_fence()
        ring._no_fence()
    assert ring._fence_lock.locked()


def raising(number: int) -> Callable[..., int]:
    def call(*_: object) -> int:
        raise OSError(number, os.strerror(number))

    return call


@pytest.mark.parametrize(
    ("call", "number", "says"),
    [
        ("setup", errno.ENOSYS, "no io_uring"),
        ("setup", errno.EPERM, "forbidden"),
        ("setup", errno.ENOMEM, "RLIMIT_MEMLOCK"),
        ("setup", errno.EMFILE, "Too many open files"),
        ("register_eventfd", errno.EPERM, "not permitted"),
        ("supported_ops", errno.EINVAL, "Invalid argument"),
    ],
)
def test_says_why_there_is_no_ring(
    monkeypatch: pytest.MonkeyPatch, call: str, number: int, says: str
) -> None:
    before = len(os.listdir("/proc/self/fd"))
    monkeypatch.setattr(uring_abi, call, raising(number))
    with pytest.raises(RingUnavailableError, match=says):
        Ring()
    assert len(os.listdir("/proc/self/fd")) == before


def test_an_old_kernel_lacks_operations(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(uring_abi, "supported_ops", lambda fd: frozenset({Op.FSYNC}))
    with pytest.raises(RingUnavailableError, match="cannot READ, SYNC_FILE_RANGE, WRITE"):
        Ring()


def test_an_old_kernel_lacks_features(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ring, "_REQUIRED_FEATURES", 1 << 31)
    with pytest.raises(RingUnavailableError, match="lacks"):
        Ring()


def test_does_without_the_limit_of_workers(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(uring_abi, "limit_workers", raising(errno.EINVAL))
    Ring().close()


# -- the engine under a kernel's whims ---------------------------------------------------


def read_and_write_much(kind: str, image: Path) -> None:
    """Reads and writes of several sizes by several tasks, checked byte by byte."""
    result = bytearray(image.read_bytes())

    async def main() -> None:
        async with running(kind, entries=8) as engine:
            fd = os.open(image, os.O_RDWR)

            async def client(number: int) -> None:
                start, rng = number * 2000, random.Random(number)
                for _ in range(10):
                    data = rng.randbytes(rng.randrange(1, 2000))
                    assert await engine.write(fd, start, data) == len(data)
                    result[start : start + len(data)] = data
                    assert bytes(await engine.read(fd, start, 2000)) == result[start:][:2000]

            with trio.fail_after(30):
                async with trio.open_nursery() as nursery:
                    for number in range(SIZE // 2000):
                        nursery.start_soon(client, number)
            os.close(fd)

    trio.run(main)
    assert image.read_bytes() == bytes(result)


def test_short_transfers_are_completed(
    monkeypatch: pytest.MonkeyPatch, uring_kind: str, image: Path
) -> None:
    push = Ring.push

    def push_less(self: Ring, *args: int) -> None:
        *before, length, op_flags, sqe_flags, personality = args
        push(self, *before, -(-length // 3), op_flags, sqe_flags, personality)

    monkeypatch.setattr(Ring, "push", push_less)
    read_and_write_much(uring_kind, image)


@pytest.mark.parametrize("number", [errno.EINTR, errno.EAGAIN])
def test_interrupted_requests_are_repeated(
    monkeypatch: pytest.MonkeyPatch, uring_kind: str, image: Path, number: int
) -> None:
    reap, rng = Ring.reap, random.Random(5)

    def reap_interrupted(self: Ring, deliver: Callable[[int, int], None]) -> None:
        def deliver_or_not(user_data: int, result: int) -> None:
            deliver(user_data, -number if rng.random() < 0.5 else result)

        reap(self, deliver_or_not)

    monkeypatch.setattr(Ring, "reap", reap_interrupted)
    read_and_write_much(uring_kind, image)

    async def flush() -> None:
        async with running(uring_kind) as engine:
            fd = os.open(image, os.O_RDWR)
            for _ in range(10):
                await engine.fsync(fd, True)
            os.close(fd)

    trio.run(flush)


@pytest.mark.parametrize("number", [errno.EAGAIN, errno.EBUSY, errno.EINTR])
def test_a_kernel_that_takes_nothing_for_a_while(
    monkeypatch: pytest.MonkeyPatch, uring_kind: str, image: Path, number: int
) -> None:
    enter, rng = uring_abi.enter, random.Random(6)

    def enter_or_not(fd: int, to_submit: int, flags: int) -> int:
        if to_submit and rng.random() < 0.7:
            raise OSError(number, os.strerror(number))
        return enter(fd, to_submit, flags)

    monkeypatch.setattr(uring_abi, "enter", enter_or_not)
    read_and_write_much(uring_kind, image)


def test_a_kernel_that_takes_few_at_a_time(
    monkeypatch: pytest.MonkeyPatch, uring_kind: str, image: Path
) -> None:
    enter, rng = uring_abi.enter, random.Random(7)

    def enter_few(fd: int, to_submit: int, flags: int) -> int:
        return enter(fd, rng.randrange(min(to_submit, 3) + 1), flags)

    monkeypatch.setattr(uring_abi, "enter", enter_few)
    read_and_write_much(uring_kind, image)


def test_a_ring_that_breaks_fails_requests_and_hangs_nobody(
    monkeypatch: pytest.MonkeyPatch, uring_kind: str, image: Path
) -> None:
    errors = []

    async def main() -> None:
        async with running(uring_kind, entries=8) as engine:
            fd = os.open(image, os.O_RDWR)

            async def client() -> None:
                try:
                    await engine.read(fd, 0, 10)
                except OSError as error:
                    errors.append(error.errno)

            with monkeypatch.context() as patch, trio.fail_after(10):
                patch.setattr(uring_abi, "enter", raising(errno.EBADR))
                async with trio.open_nursery() as nursery:
                    for _ in range(50):
                        nursery.start_soon(client)
            os.close(fd)

    trio.run(main)
    assert errors == [errno.EBADR] * 50


def test_a_write_that_makes_no_progress_is_an_error(
    monkeypatch: pytest.MonkeyPatch, uring_kind: str, image: Path
) -> None:
    reap = Ring.reap

    def reap_nothing(self: Ring, deliver: Callable[[int, int], None]) -> None:
        reap(self, lambda user_data, result: deliver(user_data, 0))

    async def main() -> None:
        async with running(uring_kind) as engine:
            fd = os.open(image, os.O_RDWR)
            with trio.fail_after(10), pytest.raises(OSError) as caught:
                await engine.write(fd, 0, b"data")
            assert caught.value.errno == errno.EIO
            os.close(fd)

    monkeypatch.setattr(Ring, "reap", reap_nothing)
    trio.run(main)


def test_an_engine_whose_run_has_ended_says_so(uring_kind: str, image: Path) -> None:
    async def main() -> None:
        async with running(uring_kind) as engine:
            pass
        fd = os.open(image, os.O_RDWR)
        with pytest.raises(RuntimeError, match="has ended"):
            await engine.read(fd, 0, 10)
        os.close(fd)

    trio.run(main)
