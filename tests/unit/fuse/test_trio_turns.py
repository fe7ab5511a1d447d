"""Whether trio's other tasks have anything to do."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Awaitable, Callable

import pytest
import trio
import trio.testing

from throttlefs.fuse import trio_turns
from throttlefs.fuse.trio_turns import TrioTurns


def play(script: Callable[[TrioTurns, trio.Nursery], Awaitable[None]]) -> None:
    async def main() -> None:
        with trio.fail_after(20):
            async with trio.open_nursery() as nursery:
                with TrioTurns() as turns:
                    await script(turns, nursery)
                nursery.cancel_scope.cancel()

    trio.run(main)


async def settle() -> None:
    """Let all other tasks run until they wait for something."""
    await trio.testing.wait_all_tasks_blocked()


def test_tasks_that_wait_need_no_turn() -> None:
    async def script(turns: TrioTurns, nursery: trio.Nursery) -> None:
        nursery.start_soon(trio.sleep_forever)
        nursery.start_soon(trio.sleep, 1000)
        assert turns.is_needed()  # they have not begun
        await settle()
        for _ in range(20):
            assert not turns.is_needed()
            await trio.lowlevel.checkpoint()

    play(script)


def test_a_task_that_never_waits_always_needs_one() -> None:
    """Half of the time it is to run after this one in the same round."""

    async def busy() -> None:
        while True:
            await trio.lowlevel.checkpoint()

    async def script(turns: TrioTurns, nursery: trio.Nursery) -> None:
        nursery.start_soon(busy)
        for _ in range(100):
            assert turns.is_needed()
            await trio.lowlevel.checkpoint()

    play(script)


def test_a_task_whose_descriptor_is_readable_needs_one_and_loses_nothing() -> None:
    reader, writer = os.pipe()
    got: list[bytes] = []

    async def read() -> None:
        await trio.lowlevel.wait_readable(reader)
        got.append(os.read(reader, 100))

    async def script(turns: TrioTurns, nursery: trio.Nursery) -> None:
        nursery.start_soon(read)
        await settle()
        assert not turns.is_needed()
        os.write(writer, b"x")
        for _ in range(5):
            assert turns.is_needed()
        while not got:
            await trio.lowlevel.checkpoint()
        assert not turns.is_needed()

    play(script)
    assert got == [b"x"]
    os.close(reader)
    os.close(writer)


def test_a_thread_that_calls_trio_needs_one() -> None:
    async def script(turns: TrioTurns, nursery: trio.Nursery) -> None:
        called: list[bool] = []
        token = trio.lowlevel.current_trio_token()
        await settle()
        assert not turns.is_needed()
        thread = threading.Thread(target=token.run_sync_soon, args=(called.append, True))
        thread.start()
        thread.join()
        assert turns.is_needed()
        while not called:
            await trio.lowlevel.checkpoint()

    play(script)


def test_a_timer_that_has_run_out_needs_one() -> None:
    async def script(turns: TrioTurns, nursery: trio.Nursery) -> None:
        nursery.start_soon(trio.sleep, 0.05)
        await settle()
        deadline = time.monotonic() + 20
        while not turns.is_needed():
            assert time.monotonic() < deadline
            time.sleep(0.005)

    play(script)


def test_where_trio_cannot_be_looked_into_each_turn_is_needed(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(trio_turns, "_poller", lambda: None)

    async def script(turns: TrioTurns, nursery: trio.Nursery) -> None:
        await settle()
        assert turns.is_needed()

    play(script)
