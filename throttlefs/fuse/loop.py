"""The session loop: many FUSE requests for each wake-up of trio.

pyfuse3's own loop takes a lock and waits for readability through trio for every request,
which costs more than the request itself. pyfuse3 looks ``trio`` up in its module's namespace
(its ``pyfuse3.asyncio`` relies on the same), so a namespace with a cheaper lock and a cheaper
wait can take its place; all else in it stays trio's.

One task at a time, the reader, holds the lock and takes requests from the kernel. While the
handlers finish without waiting it goes on and on, without a switch of task. When a handler
has to wait, the reader's task yields to trio, and only then is the next of the parked tasks
woken to become the reader.
"""

from __future__ import annotations

import errno
import logging
import os
import select
import time
from collections.abc import Awaitable, Callable
from types import SimpleNamespace, TracebackType
from typing import Any

import outcome
import pyfuse3
import trio

log = logging.getLogger("throttlefs")

MAX_DRAIN_NS = 1_000_000
"""How long requests are taken before trio's other tasks get a turn, and how long the reader
sleeps outside of trio at most."""

_RETIRE_AFTER_S = 1.0
"""How long a task stays parked, with its receive buffer, once the rush is over."""

_SEAM = ("Lock", "ClosedResourceError", "lowlevel", "open_nursery")


class SessionEndedError(Exception):
    """Stands for trio.ClosedResourceError in pyfuse3: ends one parked task."""


def seam_is_there() -> bool:
    """Whether this pyfuse3 still looks ``trio`` up in its namespace, as `SessionLoop` needs."""
    return getattr(pyfuse3, "trio", None) is trio


class SessionLoop(trio.abc.Instrument):
    """Serves the session that ``pyfuse3.init`` mounted until it is unmounted.

    *between_requests* is called between the requests of one wake-up: requests that are due in
    the limiter and I/O that has completed are not to wait behind a drain. *may_read* tells
    whether a further request may be taken from the kernel; if not, *wait_for_room* waits until
    it may.
    """

    def __init__(
        self,
        between_requests: Callable[[], None],
        may_read: Callable[[], bool],
        wait_for_room: Callable[[], Awaitable[None]],
    ) -> None:
        self._between_requests = between_requests
        self._may_read = may_read
        self._wait_for_room = wait_for_room
        self._poller = select.poll()
        self._fd = -1
        self._reader_chosen = False  # the lock: some task reads, or was woken to read
        self._parked: list[trio.lowlevel.Task] = []  # the last to park is the first to wake
        self._tasks = 0  # pyfuse3's tasks alive: parked, reading, or in a handler
        self._runnable = 0  # trio tasks scheduled that have not had their turn
        self._drain_until_ns = 0
        self._last_request_ns = 0
        self.requests = 0
        """How many requests were taken from the kernel so far."""

    async def run(self, max_tasks: int) -> None:
        """Serve up to *max_tasks* requests at a time; returns once the mount is gone."""
        pyfuse3.trio = self._namespace()  # type: ignore[attr-defined]
        trio.lowlevel.add_instrument(self)
        try:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(self._retire_idle_tasks)
                # min_tasks = max_tasks: pyfuse3 would end a task after each request that
                # waited and start one for the next. Here tasks retire by idleness instead.
                await pyfuse3.main(min_tasks=max_tasks, max_tasks=max_tasks)
                nursery.cancel_scope.cancel()
        finally:
            trio.lowlevel.remove_instrument(self)
            pyfuse3.trio = trio  # type: ignore[attr-defined]

    def _namespace(self) -> SimpleNamespace:
        """What pyfuse3 is to see as the module ``trio``."""
        return SimpleNamespace(
            Lock=lambda: _ReaderLock(self),
            ClosedResourceError=SessionEndedError,
            open_nursery=lambda: _Nursery(self),
            lowlevel=SimpleNamespace(
                wait_readable=self._wait_readable,
                notify_closing=trio.lowlevel.notify_closing,
                current_task=trio.lowlevel.current_task,
                current_trio_token=trio.lowlevel.current_trio_token,
            ),
        )

    # -- waiting for the next request ------------------------------------------------------

    async def _wait_readable(self, fd: int) -> None:
        """Return when a request is there, without a switch of task if one is there already."""
        if fd != self._fd:
            self._adopt(fd)
        if not self._may_read():
            await self._wait_for_room()
        self.requests += 1
        self._between_requests()
        now = time.monotonic_ns()
        if self._poller.poll(0):
            if now < self._drain_until_ns:
                self._last_request_ns = now
                return
            await trio.lowlevel.checkpoint()
        elif not (self._may_nap(now) and self._poller.poll(1)):
            await trio.lowlevel.wait_readable(fd)
        now = time.monotonic_ns()
        self._last_request_ns = now
        self._drain_until_ns = now + MAX_DRAIN_NS

    def _adopt(self, fd: int) -> None:
        """Prepare the FUSE descriptor, which pyfuse3 shows nowhere but here.

        Between readable and read the client may be killed and its request withdrawn; a
        blocking read would then freeze the whole loop.
        """
        self._fd = fd
        os.set_blocking(fd, False)
        self._poller.register(fd, select.POLLIN)

    def _may_nap(self, now: int) -> bool:
        """Whether to sleep in poll(2) for up to 1 ms instead of in trio.

        It saves trio's 20 us per wake-up, which is most of the latency at queue depth 1. Only
        in a rush of requests, and only while no handler and no task waits for anything that
        the nap would delay.
        """
        return (
            now - self._last_request_ns < MAX_DRAIN_NS
            and self._runnable == 0
            and self._tasks == len(self._parked) + 1
        )

    # -- the reader's lock -----------------------------------------------------------------

    async def become_reader(self) -> None:
        """Return when this task is the one to read. Raises `SessionEndedError` to retire it."""
        if not self._reader_chosen:
            self._reader_chosen = True
            return
        task = trio.lowlevel.current_task()
        self._parked.append(task)

        def abort(_raise_cancel: object) -> trio.lowlevel.Abort:
            self._parked.remove(task)
            return trio.lowlevel.Abort.SUCCEEDED

        await trio.lowlevel.wait_task_rescheduled(abort)

    def stop_reading(self) -> None:
        """Called by the reader when it has a request; nobody is woken before it yields."""
        self._reader_chosen = False

    def after_task_step(self, task: trio.lowlevel.Task) -> None:
        """trio's hook: some task has yielded. If it was the reader, the next one takes over."""
        if not self._reader_chosen and self._parked:
            self._reader_chosen = True
            trio.lowlevel.reschedule(self._parked.pop())

    def task_scheduled(self, task: trio.lowlevel.Task) -> None:
        """trio's hook: count who waits for a turn, so that no nap makes him wait longer."""
        self._runnable += 1

    def before_task_step(self, task: trio.lowlevel.Task) -> None:
        """trio's hook: the counterpart of `task_scheduled`."""
        self._runnable -= 1

    def before_io_wait(self, timeout: float) -> None:
        """trio's hook: about to sleep, so nobody waits for a turn, whatever was counted."""
        if timeout > 0:
            self._runnable = 0

    # -- pyfuse3's tasks -------------------------------------------------------------------

    async def serve(self, session_loop: Callable[..., Awaitable[None]], *args: object) -> None:
        """Run one of pyfuse3's tasks; pyfuse3 starts the next when all others are busy."""
        self._tasks += 1
        try:
            while True:
                try:
                    return await session_loop(*args)
                except OSError as exc:
                    # The request was withdrawn before it could be read. pyfuse3 takes that for
                    # fatal, so its loop is entered anew.
                    if exc.errno != errno.EAGAIN:
                        raise
        finally:
            self._tasks -= 1

    async def _retire_idle_tasks(self) -> None:
        """End the parked tasks but one after a second without requests, for their memory."""
        while True:
            before = self.requests
            await trio.sleep(_RETIRE_AFTER_S)
            if self.requests != before:
                continue
            while len(self._parked) > 1:
                trio.lowlevel.reschedule(self._parked.pop(0), outcome.Error(SessionEndedError()))


class _ReaderLock:
    """`SessionLoop`'s lock in the shape that pyfuse3 uses: ``async with``."""

    __slots__ = ("_loop",)

    def __init__(self, loop: SessionLoop) -> None:
        self._loop = loop

    async def __aenter__(self) -> None:
        await self._loop.become_reader()

    async def __aexit__(self, *_exc_info: object) -> None:
        self._loop.stop_reading()


class _Nursery:
    """trio's nursery, except that pyfuse3's tasks are run by `SessionLoop.serve`."""

    def __init__(self, loop: SessionLoop) -> None:
        self._loop = loop
        self._manager = trio.open_nursery()

    async def __aenter__(self) -> _Nursery:
        self._nursery = await self._manager.__aenter__()
        return self

    async def __aexit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> bool:
        return bool(await self._manager.__aexit__(exc_type, exc, traceback))

    def start_soon(self, function: Callable[..., Awaitable[Any]], *args: Any, name: str) -> None:
        self._nursery.start_soon(self._loop.serve, function, *args, name=name)
