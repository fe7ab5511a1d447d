"""Data that wait in a file: whatever is put there comes back, and the file does not grow."""

from __future__ import annotations

import errno
import os
import random

import pytest
import trio
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.support import wait_for
from throttlefs.fuse import spill as spill_module
from throttlefs.fuse.spill import Spill

MIB = 1 << 20


async def in_thread(call, *args):  # type: ignore[no-untyped-def]
    return await trio.to_thread.run_sync(call, *args)


async def at_once(call, *args):  # type: ignore[no-untyped-def]
    return call(*args)


@settings(max_examples=50, deadline=None)
@given(
    steps=st.lists(
        st.one_of(
            st.sampled_from([1, 4096, MIB - 1, MIB, MIB + 1, 3 * MIB]),
            st.sampled_from(["take"] * 3),
        ),
        max_size=25,
    ),
    seed=st.integers(0, 1000),
)
def test_what_is_put_is_taken_whatever_came_between(steps: list[int | str], seed: int) -> None:
    pick = random.Random(seed)

    async def main() -> None:
        spill = Spill(at_once)
        held: dict[int, bytes] = {}
        for step in steps:
            if isinstance(step, int):
                data = pick.randbytes(step)
                place = await spill.put(memoryview(data))
                assert place not in held
                held[place] = data
            elif held:
                place = pick.choice(sorted(held))
                data = held.pop(place)
                if pick.random() < 0.2:
                    spill.drop(place, len(data))
                else:
                    assert await spill.take(place, len(data)) == data
            assert spill.held == sum(map(len, held.values()))
            if not held:
                assert spill._end == 0
        for place, data in held.items():
            assert await spill.take(place, len(data)) == data
        spill.close()

    before = os.listdir("/proc/self/fd")
    trio.run(main)
    # An emptied file is closed in a thread.
    wait_for(lambda: os.listdir("/proc/self/fd") == before)


def test_writes_that_come_side_by_side_share_one_file() -> None:
    async def main() -> None:
        spill = Spill(in_thread)
        places: dict[int, bytes] = {}

        async def put(number: int) -> None:
            data = bytes([number]) * MIB
            places[await spill.put(data)] = data

        before = len(os.listdir("/proc/self/fd"))
        async with trio.open_nursery() as nursery:
            for number in range(20):
                nursery.start_soon(put, number)
        assert len(os.listdir("/proc/self/fd")) == before + 1
        for place, data in places.items():
            assert await spill.take(place, MIB) == data
        spill.close()

    trio.run(main)


def test_a_full_disk_is_an_error_and_its_place_is_free_again(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def full(*_: object) -> int:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    async def main() -> None:
        spill = Spill(at_once)
        with monkeypatch.context() as patch:
            patch.setattr("os.pwrite", full)
            with pytest.raises(OSError, match="space"):
                await spill.put(b"x")
        assert (spill.held, spill._end) == (0, 0)
        place = await spill.put(b"y")
        assert await spill.take(place, 1) == b"y"
        spill.close()

    trio.run(main)


def test_without_another_thread_the_file_is_closed_all_the_same(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def refused(*_: object) -> int:
        raise RuntimeError("can't start new thread")

    async def main() -> None:
        spill = Spill(at_once)
        place = await spill.put(b"x")
        fd = spill._fd
        monkeypatch.setattr("_thread.start_new_thread", refused)
        assert await spill.take(place, 1) == b"x"
        with pytest.raises(OSError, match="descriptor"):
            os.fstat(fd)
        spill.close()

    trio.run(main)


def test_without_o_tmpfile_the_file_has_no_name_either(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(spill_module, "_DIRECTORIES", ("/proc",))
    fd = spill_module._open_unnamed()
    try:
        assert os.fstat(fd).st_nlink == 0
    finally:
        os.close(fd)
