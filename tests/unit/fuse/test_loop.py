"""The session loop with a socket in the place of the kernel and small coroutines as handlers."""

from __future__ import annotations

import errno
import os
import threading
import time
from collections.abc import Iterator

import pytest
import trio
from trio.lowlevel import Abort

from tests.unit.fuse.loop_rig import NEVER, Rig, run, until
from throttlefs import waiting
from throttlefs.fuse import loop as loop_module
from throttlefs.fuse.pacing import Lateness


@pytest.fixture
def rig() -> Iterator[Rig]:
    rig = Rig()
    yield rig
    rig.loop.close()
    rig.kernel.close()
    rig.fuse.close()


def test_requests_are_served_in_order_until_unmounted(rig: Rig) -> None:
    async def script(rig: Rig) -> None:
        for number in range(100):
            rig.request(b"%d" % number)
        await until(lambda: len(rig.handled) == 100)
        await trio.sleep(0.01)
        rig.request(b"late")
        await until(lambda: rig.handled[-1] == b"late")
        rig.unmount()

    run(rig, script)
    assert rig.handled[:100] == [b"%d" % number for number in range(100)]
    assert (rig.loop.waiting, rig.ended) == (0, 1)


def test_a_handler_that_waits_does_not_hold_up_others(rig: Rig) -> None:
    waiters: dict[bytes, object] = {}

    async def handler(request: bytes) -> None:
        if request.startswith(b"slow"):
            waiters[request] = waiting.current()
            value = await waiting.wait(lambda _: Abort.SUCCEEDED)
            request += b" " + value
        rig.handled.append(request)

    async def script(rig: Rig) -> None:
        rig.handler = handler
        for request in (b"slow1", b"a", b"slow2", b"b"):
            rig.request(request)
        await until(lambda: rig.handled == [b"a", b"b"])
        rig.source.wake(waiters[b"slow2"], b"two")
        await until(lambda: rig.handled[2:] == [b"slow2 two"])
        # ... and from another thread, with the loop asleep in trio.
        await trio.sleep(0.05)
        threading.Thread(target=rig.source.wake, args=(waiters[b"slow1"], b"one")).start()
        await until(lambda: rig.handled[3:] == [b"slow1 one"])
        rig.unmount()

    run(rig, script)
    assert rig.loop.waiting == 0


def test_an_instant_so_near_that_the_alarm_has_gone_off_is_not_slept_through(rig: Rig) -> None:
    waiters: list[object] = []

    async def handler(request: bytes) -> None:
        waiters.append(waiting.current())
        rig.limiter.due = time.monotonic_ns() + Lateness.FIRST_NS - 5_000
        await waiting.wait(lambda _: Abort.SUCCEEDED)
        rig.handled.append(request)

    def poll() -> None:
        # No descriptor becomes readable: only the clock says that it is time.
        if time.monotonic_ns() >= rig.limiter.due:
            rig.limiter.due = NEVER
            waiting.wake(waiters.pop())  # type: ignore[arg-type]

    async def script(rig: Rig) -> None:
        rig.handler = handler
        rig.loop._polls = [poll]
        for number in range(1, 21):
            rig.request(b"x")
            await until(lambda: len(rig.handled) == number)  # noqa: B023
            await trio.sleep(0.005)
        rig.unmount()

    run(rig, script)


def test_trio_gets_its_turns_while_something_is_due_that_may_not_go(rig: Rig) -> None:
    async def handler(request: bytes) -> None:
        rig.limiter.due = 0
        rig.handled.append(request)
        waiter = waiting.current()
        rig.source.to_wake.append((waiter, None))
        await waiting.wait(lambda _: Abort.SUCCEEDED)

    async def script(rig: Rig) -> None:
        rig.handler = handler
        rig.request(b"x")
        await until(lambda: bool(rig.handled))
        for _ in range(50):
            await trio.sleep(0)
        rig.limiter.due = NEVER
        rig.unmount()

    run(rig, script)


def test_waking_from_a_trio_task_rouses_the_loop(rig: Rig) -> None:
    waiters: list[waiting.Waiter | trio.lowlevel.Task] = []

    async def handler(request: bytes) -> None:
        waiters.append(waiting.current())
        rig.handled.append(await waiting.wait(lambda _: Abort.SUCCEEDED))

    async def script(rig: Rig) -> None:
        rig.handler = handler
        rig.request(b"x")
        await until(lambda: bool(waiters))
        await trio.sleep(0.05)
        waiting.wake(waiters[0], b"woken")
        await until(lambda: rig.handled == [b"woken"])
        rig.unmount()

    run(rig, script)


def test_an_error_of_a_handler_is_its_reply_and_ends_nothing(rig: Rig) -> None:
    error = OSError(errno.EPROTO, "broken")

    async def handler(request: bytes) -> bytes:
        if request == b"bad":
            raise error
        return request

    async def script(rig: Rig) -> None:
        rig.handler = handler
        rig.request(b"bad")
        rig.request(b"good")
        await until(lambda: rig.replies == [error, b"good"])
        rig.unmount()

    run(rig, script)


def test_the_alarm_leads_by_what_the_cpus_allow(rig: Rig, monkeypatch: pytest.MonkeyPatch) -> None:
    """The CPUs that a process may use change while it runs: affinity, cpusets, quota."""
    monkeypatch.setattr(loop_module, "_LOOK_AT_CPUS_S", 0.01)

    async def script(rig: Rig) -> None:
        assert rig.limiter.leads == [Lateness.FIRST_NS]
        rig.cpus = 1
        await until(lambda: rig.limiter.leads[-1] == 0)
        rig.cpus = 1.5
        rig.cpus = 8
        await until(lambda: rig.limiter.leads[-1] == Lateness.FIRST_NS)
        rig.unmount()

    run(rig, script)


def test_without_room_no_request_is_taken(rig: Rig) -> None:
    async def script(rig: Rig) -> None:
        rig.room = False
        rig.request(b"x")
        await trio.sleep(0.1)
        assert rig.handled == []
        rig.room = True
        os.eventfd_write(rig.source.fd, 1)  # room comes with an event: some write has ended
        await until(lambda: rig.handled == [b"x"])
        rig.unmount()

    run(rig, script)


def test_while_no_request_could_go_none_wakes_the_loop_and_then_it_looks_for_them(
    rig: Rig,
) -> None:
    async def script(rig: Rig) -> None:
        rig.request(b"first")
        await until(lambda: rig.handled == [b"first"])
        rig.limiter.hushes = True
        rig.request(b"second")
        # No event tells of the third, which comes while the loop does not listen.
        await until(lambda: rig.limiter.times_hushed > 0)
        rig.request(b"third")
        await until(lambda: rig.handled == [b"first", b"second", b"third"])
        rig.limiter.hushes = False
        rig.request(b"fourth")
        await until(lambda: rig.handled[3:] == [b"fourth"])
        rig.unmount()

    run(rig, script)


def test_what_woke_the_loop_has_waited_for_that(rig: Rig) -> None:
    async def script(rig: Rig) -> None:
        await trio.sleep(0.05)  # the loop sleeps in trio
        rig.request(b"x")
        await until(lambda: rig.handled == [b"x"])
        rig.unmount()

    run(rig, script)
    assert rig.limiter.slept_ns[0] == Lateness.FIRST_NS


def test_an_idle_loop_does_nothing(rig: Rig) -> None:
    async def script(rig: Rig) -> None:
        rig.request(b"x")
        await until(lambda: bool(rig.handled))
        await trio.sleep(0.05)
        before, cpu = rig.source.sleeps, time.process_time()
        await trio.sleep(0.5)
        assert rig.source.sleeps - before <= 1
        assert time.process_time() - cpu < 0.1
        rig.unmount()

    run(rig, script)


def test_trio_gets_its_turns_in_a_flood(rig: Rig) -> None:
    """Requests that never cease must not keep trio's other tasks from running."""

    async def handler(request: bytes) -> None:
        rig.handled.append(request)
        rig.request(request)

    async def script(rig: Rig) -> None:
        rig.handler = handler
        rig.request(b"again")
        turns = 0
        deadline = time.monotonic() + 1
        while time.monotonic() < deadline:
            await trio.sleep(0)
            turns += 1
        assert turns > 50
        assert len(rig.handled) > 1000
        rig.handler = rig.reply
        rig.unmount()

    run(rig, script)


def test_memory_is_given_back_once_nothing_happens(
    rig: Rig, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(loop_module, "_TIDY_AFTER_S", 0.05)

    async def script(rig: Rig) -> None:
        await until(lambda: rig.channel.tidied == 1)
        rig.request(b"x")
        await until(lambda: rig.channel.tidied == 2)
        assert rig.handled == [b"x"]
        rig.unmount()

    run(rig, script)


def test_what_waits_when_the_session_ends_comes_to_its_end(rig: Rig) -> None:
    waiters: list[object] = []

    async def handler(request: bytes) -> bytes:
        waiters.append(waiting.current())
        await waiting.wait(lambda _: Abort.SUCCEEDED)
        return request

    async def script(rig: Rig) -> None:
        rig.handler = handler
        rig.request(b"x")
        await until(lambda: bool(waiters))
        rig.unmount()
        await until(lambda: rig.ended == 1)
        before = time.process_time()
        await trio.sleep(0.2)
        assert time.process_time() - before < 0.1  # the dead descriptor is not looked at
        rig.source.wake(waiters[0])
        await until(lambda: rig.replies == [b"x"])

    run(rig, script)


def test_cancellation_aborts_what_can_be_and_sees_the_rest_to_its_end(rig: Rig) -> None:
    aborted, finished = [], []
    waiters: dict[bytes, object] = {}

    async def handler(request: bytes) -> None:
        waiters[request] = waiting.current()

        def abort(_: object) -> Abort:
            if request == b"io":
                threading.Timer(0.1, rig.source.wake, (waiters[b"io"],)).start()
                return Abort.FAILED
            aborted.append(request)
            return Abort.SUCCEEDED

        await waiting.wait(abort)
        finished.append(request)

    async def main() -> None:
        rig.handler = handler
        async with trio.open_nursery() as nursery:
            nursery.start_soon(rig.serve)
            for request in (b"limit1", b"io", b"limit2"):
                rig.request(request)
            await until(lambda: len(waiters) == 3)
            nursery.cancel_scope.cancel()

    trio.run(main)
    assert (sorted(aborted), finished) == ([b"limit1", b"limit2"], [b"io"])
    assert rig.loop.waiting == 0


def test_a_handler_that_waits_by_trio_itself_is_an_error(rig: Rig) -> None:
    async def handler(request: bytes) -> None:
        try:
            await trio.sleep(0)
        except RuntimeError as exc:
            rig.handled.append(str(exc).encode())
        else:
            rig.handled.append(b"no error")

    async def script(rig: Rig) -> None:
        rig.handler = handler
        rig.request(b"x")
        await until(lambda: bool(rig.handled))
        rig.unmount()

    run(rig, script)
    assert b"throttlefs.waiting" in rig.handled[0]
