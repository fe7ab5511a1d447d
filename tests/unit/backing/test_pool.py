"""Threads for what blocks: results, order, room for others when calls are stuck."""

from __future__ import annotations

import os
import select
import sys
import threading
import time
from collections.abc import Callable, Coroutine

import pytest
import trio
import trio.testing

from throttlefs import waiting
from throttlefs.backing import BlockingPool


def test_pool_returns_results_and_raises_errors() -> None:
    def fail(text: str) -> None:
        raise ValueError(text)

    async def main() -> None:
        pool = BlockingPool()
        assert await pool.run(divmod, 17, 5) == (3, 2)
        assert await pool.run(threading.get_ident) != threading.get_ident()
        with pytest.raises(ValueError, match="oh"):
            await pool.run(fail, "oh")
        with pytest.raises(SystemExit):
            await pool.run(sys.exit, 3)  # not even this ends the thread
        assert await pool.run(divmod, 7, 5) == (1, 2)
        pool.close()

    trio.run(main)


def test_pool_has_a_limit_and_keeps_order() -> None:
    order, at_once = [], []

    def work(number: int) -> int:
        order.append(number)
        at_once.append(sum(t.name.startswith("few-") for t in threading.enumerate()))
        time.sleep(0.005)
        return number

    async def main() -> None:
        pool = BlockingPool(3, "few", at_most=3)
        results = [-1] * 30

        async def client(number: int) -> None:
            results[number] = await pool.run(work, number)

        async with trio.open_nursery() as nursery:
            for number in range(30):
                nursery.start_soon(client, number)
                await trio.lowlevel.checkpoint()
        assert results == list(range(30))
        assert order == sorted(order) or max(abs(a - b) for a, b in enumerate(order)) < 3
        assert max(at_once) == 3
        assert {t.name for t in threading.enumerate()} >= {"few-0", "few-1", "few-2"}
        pool.close(10)
        assert not any(t.name.startswith("few-") for t in threading.enumerate())

    trio.run(main)


def test_pool_starts_no_more_threads_than_it_needs() -> None:
    async def main() -> None:
        before = threading.active_count()
        pool = BlockingPool(8)
        for _ in range(20):
            await pool.run(os.getpid)
        assert threading.active_count() == before + 1
        pool.close(10)

    trio.run(main)


def test_pool_cancellation_waits_for_the_call() -> None:
    async def main() -> None:
        pool, ended = BlockingPool(), []

        def work() -> str:
            time.sleep(0.05)
            ended.append(True)
            return "done"

        with trio.move_on_after(0.01):
            assert await pool.run(work) == "done"  # its outcome is not lost
            assert ended
            await trio.lowlevel.checkpoint()
            pytest.fail("was not cancelled")
        pool.close()

    trio.run(main)


def test_pool_forgets_what_it_was_given() -> None:
    """An idle thread must not keep a megabyte alive until its next call."""
    import gc
    import weakref

    class Payload:
        pass

    async def main() -> None:
        pool, payload = BlockingPool(), Payload()
        gone = weakref.ref(payload)
        await pool.run(id, payload)
        del payload
        with trio.move_on_after(5):
            while gone() is not None:
                gc.collect()
                await trio.sleep(0.001)
        assert gone() is None
        pool.close()

    trio.run(main)


def test_pool_after_close() -> None:
    async def main() -> None:
        pool = BlockingPool()
        pool.close()
        with pytest.raises(RuntimeError, match="closed"):
            await pool.run(os.getpid)

    trio.run(main)


def test_pool_close_lets_calls_finish() -> None:
    async def main() -> None:
        pool, results = BlockingPool(2), []

        async def client(number: int) -> None:
            results.append(await pool.run(lambda: time.sleep(0.01) or number))

        async with trio.open_nursery() as nursery:
            for number in range(6):
                nursery.start_soon(client, number)
            await trio.sleep(0.005)
            pool.close(10)
        assert sorted(results) == list(range(6))

    trio.run(main)


# -- calls that are stuck --------------------------------------------------------------------

ANNA, BERT, ROOT = 1001, 1002, 0

NEVER = 1e6


class Stuck:
    """Calls that block until they are let go."""

    def __init__(self, pool: BlockingPool, nursery: trio.Nursery) -> None:
        self.pool = pool
        self.nursery = nursery
        self.may_end = threading.Event()
        self.begun = threading.Semaphore(0)
        self.ended = 0

    def _block(self) -> None:
        self.begun.release()
        assert self.may_end.wait(60)

    def start(self, count: int, owner: int | None) -> None:
        for _ in range(count):
            self.nursery.start_soon(self._call, owner)

    async def _call(self, owner: int | None) -> None:
        await self.pool.run(self._block, owner=owner)
        self.ended += 1

    async def until(self, count: int) -> None:
        """*count* more of them are blocked."""
        for _ in range(count):
            while not self.begun.acquire(blocking=False):
                await trio.sleep(0.001)

    def more_have_begun(self) -> bool:
        return self.begun.acquire(blocking=False)


def with_pool(
    body: Callable[[BlockingPool, Stuck], Coroutine[None, None, None]], pool: BlockingPool
) -> None:
    async def main() -> None:
        with trio.fail_after(60):
            async with trio.open_nursery() as nursery:
                stuck = Stuck(pool, nursery)
                try:
                    await body(pool, stuck)
                finally:
                    stuck.may_end.set()
            assert pool.close(60)

    trio.run(main)


def test_another_users_call_is_not_kept() -> None:
    async def body(pool: BlockingPool, stuck: Stuck) -> None:
        stuck.start(100, ANNA)
        await stuck.until(7)
        for owner in (BERT, ROOT, None, BERT):
            assert await pool.run(divmod, 17, 5, owner=owner) == (3, 2)
        await trio.testing.wait_all_tasks_blocked()
        assert not stuck.more_have_begun()  # one of eight is free for whoever else comes
        assert await pool.run(divmod, 17, 5, owner=BERT) == (3, 2)

    with_pool(body, BlockingPool(8, stuck_after=NEVER))


def test_others_stand_in_for_threads_that_are_stuck() -> None:
    """Nothing happens but that time goes by: the pool looks by itself."""

    async def body(pool: BlockingPool, stuck: Stuck) -> None:
        stuck.start(6, None)
        await stuck.until(6)
        assert await pool.run(divmod, 17, 5) == (3, 2)

    with_pool(body, BlockingPool(2, stuck_after=0.001))


def test_it_knows_whether_a_call_is_stuck() -> None:
    async def body(pool: BlockingPool, stuck: Stuck) -> None:
        assert not pool.has_stuck_call()
        stuck.start(1, ANNA)
        await stuck.until(1)
        while not pool.has_stuck_call():
            await trio.sleep(0.001)
        stuck.may_end.set()
        while stuck.ended < 1:
            await trio.sleep(0.001)
        assert not pool.has_stuck_call()

    with_pool(body, BlockingPool(8, stuck_after=0.01))


def test_there_is_a_bound_and_room_left_for_others() -> None:
    async def body(pool: BlockingPool, stuck: Stuck) -> None:
        stuck.start(100, ANNA)
        await stuck.until(14)  # as many as are left for others: 28 of 32 are for users
        assert await pool.run(divmod, 17, 5, owner=BERT) == (3, 2)
        stuck.start(100, BERT)
        await stuck.until(7)
        for uid in range(2000, 2100):
            stuck.start(1, uid)
        await stuck.until(7)
        await trio.testing.wait_all_tasks_blocked()
        assert not stuck.more_have_begun()
        assert await pool.run(divmod, 17, 5, owner=ROOT) == (3, 2)
        assert await pool.run(divmod, 17, 5) == (3, 2)

    with_pool(body, BlockingPool(4, at_most=32, stuck_after=0.0))


def test_threads_end_that_are_needed_no_more() -> None:
    def count() -> int:
        return sum(thread.name.startswith("shrinks-") for thread in threading.enumerate())

    async def body(pool: BlockingPool, stuck: Stuck) -> None:
        stuck.start(20, None)
        await stuck.until(20)
        assert count() == 20
        stuck.may_end.set()
        while stuck.ended < 20 or count() > 3:
            await trio.sleep(0.001)
        assert await pool.run(divmod, 17, 5) == (3, 2)
        assert count() == 3

    with_pool(body, BlockingPool(3, "shrinks", stuck_after=0.0))


def test_close_does_all_that_waits() -> None:
    async def body(pool: BlockingPool, stuck: Stuck) -> None:
        stuck.start(10, ANNA)
        stuck.start(10, None)
        await stuck.until(2)
        assert not pool.close(0)
        stuck.may_end.set()
        await stuck.until(18)

    with_pool(body, BlockingPool(2, at_most=2))


class Handler:
    """A handler of a loop that is not trio's; see `throttlefs.waiting`."""

    def __init__(self, coroutine: Coroutine[object, object, object]) -> None:
        self.coroutine = coroutine
        self.abort: object = None
        self.ready = True
        self.done = False
        self.outcome: object = None

    def resume(self, value: object) -> None:
        self.ready = True

    def step(self) -> None:
        self.ready = False
        waiting.running = self  # type: ignore[assignment]
        try:
            assert self.coroutine.send(None) is waiting.PARKED
        except StopIteration as stop:
            self.done, self.outcome = True, stop.value
        finally:
            waiting.running = None


def run_handlers(pool: BlockingPool, handlers: list[Handler]) -> None:
    """Run them, watching nothing but the pool's descriptor, until the last one is done."""
    poller = select.poll()
    poller.register(pool.fileno(), select.POLLIN)
    while True:
        for handler in handlers:
            if handler.ready and not handler.done:
                handler.step()
        if handlers[-1].done:
            return
        assert poller.poll(60_000)
        os.eventfd_read(pool.fileno())
        pool.poll()


def test_a_session_loop_is_woken_when_calls_are_stuck() -> None:
    pool, may_end = BlockingPool(2, stuck_after=0.001), threading.Event()
    handlers = [Handler(pool.run(may_end.wait, 60)) for _ in range(5)]
    handlers.append(Handler(pool.run(divmod, 17, 5)))
    run_handlers(pool, handlers)
    assert handlers[-1].outcome == (3, 2)
    assert not any(handler.done for handler in handlers[:-1])
    may_end.set()
    handlers.append(Handler(pool.run(divmod, 7, 5)))
    run_handlers(pool, handlers)
    assert pool.close(60)
