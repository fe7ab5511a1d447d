"""The session loop withdraws requests that wait: who waits cleans up, and the kernel gets EINTR."""

from __future__ import annotations

import errno
import subprocess
from collections.abc import Iterator

import pytest
import trio
from trio.lowlevel import Abort

from tests.unit.fuse.loop_rig import Rig, run, until
from throttlefs import waiting
from throttlefs.fuse.work import Work


@pytest.fixture
def rig() -> Iterator[Rig]:
    rig = Rig()
    yield rig
    rig.loop.close()
    rig.kernel.close()
    rig.fuse.close()


async def waits_for_ever(rig: Rig, request: bytes) -> None:
    """A handler that cleans up when it is withdrawn."""

    def leave(_: object) -> Abort:
        rig.handled.append(b"left")
        return Abort.SUCCEEDED

    try:
        await waiting.wait(leave)
    finally:
        rig.handled.append(b"cleaned up")


def the_waiting(rig: Rig) -> Work:
    (work,) = rig.loop._waiting.values()
    return work


def test_what_waits_can_be_withdrawn_and_gets_eintr(rig: Rig) -> None:
    async def script(rig: Rig) -> None:
        rig.handler = lambda request: waits_for_ever(rig, request)
        rig.request(b"x")
        await until(lambda: rig.loop.waiting == 1)
        rig.loop.withdraw(the_waiting(rig))
        assert rig.handled == [b"left", b"cleaned up"]
        assert rig.loop.waiting == 0
        rig.handler = rig.reply
        rig.request(b"next")
        await until(lambda: rig.handled[-1] == b"next")
        rig.unmount()

    run(rig, script)
    (error, _) = rig.replies
    assert isinstance(error, InterruptedError)
    assert error.errno == errno.EINTR


def test_a_withdrawal_lets_a_loop_go_on_that_had_no_room(rig: Rig) -> None:
    async def script(rig: Rig) -> None:
        rig.handler = lambda request: waits_for_ever(rig, request)
        rig.request(b"x")
        await until(lambda: rig.loop.waiting == 1)
        rig.room = False
        rig.handler = rig.reply
        rig.request(b"next")
        await trio.sleep(0.05)
        assert not rig.handled
        rig.room = True
        rig.loop.withdraw(the_waiting(rig))
        await until(lambda: rig.handled[-1] == b"next")
        rig.unmount()

    run(rig, script)


def test_what_is_under_way_is_not_withdrawn(rig: Rig) -> None:
    waiters: list[object] = []

    async def handler(request: bytes) -> bytes:
        waiters.append(waiting.current())
        await waiting.wait(waiting.when_done)
        return request

    async def script(rig: Rig) -> None:
        rig.handler = handler
        rig.request(b"x")
        await until(lambda: bool(waiters))
        assert not the_waiting(rig).is_withdrawable
        rig.loop.withdraw(the_waiting(rig))
        assert not rig.replies
        rig.source.wake(waiters[0])
        await until(lambda: rig.replies == [b"x"])
        rig.unmount()

    run(rig, script)


def test_a_handler_may_finish_what_it_cannot_leave_when_it_is_withdrawn(rig: Rig) -> None:
    waiters: list[object] = []

    async def handler(request: bytes) -> None:
        try:
            await waiting.wait(lambda _: Abort.SUCCEEDED)
        finally:
            waiters.append(waiting.current())
            await waiting.wait(waiting.when_done)

    async def script(rig: Rig) -> None:
        rig.handler = handler
        rig.request(b"x")
        await until(lambda: rig.loop.waiting == 1)
        rig.loop.withdraw(the_waiting(rig))
        assert not rig.replies
        rig.source.wake(waiters[0])
        await until(lambda: rig.loop.waiting == 0)
        rig.unmount()

    run(rig, script)
    assert isinstance(rig.replies[0], InterruptedError)


def test_requests_of_a_killed_process_are_withdrawn(rig: Rig) -> None:
    """By what /proc says. The process is a zombie, which still shows how it died."""

    async def script(rig: Rig) -> None:
        with subprocess.Popen(["sleep", "60"]) as process:
            rig.owner = process.pid
            rig.handler = lambda request: waits_for_ever(rig, request)
            rig.request(b"x")
            await until(lambda: rig.loop.waiting == 1)
            rig.loop.interrupts.interrupted(the_waiting(rig).reply.unique)
            await trio.sleep(0.2)
            assert rig.loop.waiting == 1
            process.kill()
            await until(lambda: rig.loop.waiting == 0)
            rig.request(b"later")  # what it still asks for, and has to wait for, is not waited for
            await until(lambda: len(rig.replies) == 2)
        rig.unmount()

    run(rig, script)
    assert all(isinstance(error, InterruptedError) for error in rig.replies)


def test_all_that_wait_can_be_withdrawn_with_an_error(rig: Rig) -> None:
    async def script(rig: Rig) -> None:
        rig.handler = lambda request: waits_for_ever(rig, request)
        for request in (b"one", b"two"):
            rig.request(request)
        await until(lambda: rig.loop.waiting == 2)
        rig.loop.withdraw_all(errno.EIO)
        assert rig.loop.waiting == 0
        rig.unmount()

    run(rig, script)
    assert [error.errno for error in rig.replies] == [errno.EIO] * 2
