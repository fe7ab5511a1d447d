"""Runs blocking calls in threads, for trio tasks and for the handlers of the session loop."""

from __future__ import annotations

import os
import threading
import time
from collections import deque
from collections.abc import Callable
from queue import Empty, SimpleQueue
from typing import TypeVar, TypeVarTuple, Unpack, cast

import trio
from trio.lowlevel import Task, TrioToken

from throttlefs import waiting

from .fair_queue import FairQueue

Result = TypeVar("Result")
Arguments = TypeVarTuple("Arguments")

METADATA_THREADS = 8
"""Threads for metadata: few such calls are under way at a time."""

METADATA_THREADS_AT_MOST = 64
"""The most threads when others are stuck; one costs 8 MiB of address space and some 50 KiB."""

STUCK_AFTER = 0.1
"""s: a call that takes longer waits for a server, a lease or a very busy disk. Most take less than
1 ms."""


class _Job:
    """A call, the task or handler that waits for it, and its result or error."""

    __slots__ = ("call", "error", "result", "token", "waiter")

    def __init__(
        self,
        call: Callable[[], object],
        waiter: Task | waiting.Waiter,
        token: TrioToken | None,
    ) -> None:
        self.call = call
        self.waiter = waiter
        self.token = token
        self.result: object = None
        self.error: BaseException | None = None


class BlockingPool:
    """Runs functions that block in threads of its own.

    Threads are started when they are needed, up to *limit*, and kept. When calls wait, more threads
    replace those that have been stuck for *stuck_after* seconds, up to *at_most* in all; they end
    when nothing waits any more. `FairQueue` decides who may have how many. The threads are called
    *name* in ``top -H`` and tracebacks.

    A call costs half of ``trio.to_thread.run_sync``, which starts with a capacity limiter, a
    context copy and a checkpoint and ends with a message per call. Here the results of many calls
    come back with one wake-up of the loop.
    """

    def __init__(
        self,
        limit: int = METADATA_THREADS,
        name: str = "blocking",
        event_fd: int = -1,
        *,
        at_most: int = METADATA_THREADS_AT_MOST,
        stuck_after: float = STUCK_AFTER,
    ) -> None:
        """*event_fd* is an eventfd of the caller, which `fileno` returns.

        It must stay open until `close` has returned True.
        """
        self._limit = limit
        self._name = name
        # Only the loop decides which call may begin, so this needs no lock.
        self._queue: FairQueue[_Job] = FairQueue(limit, max(limit, at_most), stuck_after)
        self._begun: SimpleQueue[_Job | None] = SimpleQueue()  # None: a thread must end
        self._done: deque[_Job] = deque()
        self._threads: list[threading.Thread] = []  # some of them may have ended
        self._started = 0  # threads, ever
        self._live = 0  # threads that were not told to end
        self._alarm = _Alarm(f"{name} alarm", self._look)
        self._look_is_due = False
        self._token: TrioToken | None = None  # the instant of the latest call
        self._closed = False
        self._owns_event_fd = event_fd < 0
        if self._owns_event_fd:
            event_fd = os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC)
        self._event_fd = event_fd

    async def run(
        self,
        function: Callable[[Unpack[Arguments]], Result],
        *args: *Arguments,
        owner: int | None = None,
    ) -> Result:
        """``function(*args)`` in a thread; its result, or its exception.

        *owner* is the user who asks; None: the daemon itself. A cancellation waits for the call, as
        with `Engine`. Raises `RuntimeError` after `close`.
        """
        if self._closed:
            raise RuntimeError("the pool of threads is closed")
        # A session loop watches `fileno`; a trio task is woken through the token of its loop.
        self._token = token = None if waiting.running else trio.lowlevel.current_trio_token()
        job = _Job(lambda: function(*args), waiting.current(), token)
        self._queue.put(job, owner)
        self._begin()
        await waiting.wait(waiting.when_done)
        if job.error is not None:
            raise job.error
        return cast(Result, job.result)

    def _begin(self) -> None:
        """Hand the calls that may begin to the threads."""
        queue, now = self._queue, time.monotonic()
        while (job := queue.take(now)) is not None:
            if queue.running > self._live:
                self._start_thread()
            self._begun.put(job)
        if queue.any_waiting:
            self._alarm.set(queue.next_look(now))

    def is_at_work(self) -> bool:
        """Whether a thread runs a call."""
        return self._queue.running > 0

    def has_stuck_call(self) -> bool:
        """Whether a call has been under way for so long that it counts as stuck."""
        return self._queue.any_stuck(time.monotonic())

    def fileno(self) -> int:
        """A descriptor that becomes readable when calls of a session loop's handlers are done."""
        return self._event_fd

    def poll(self) -> None:
        """Wake the tasks whose calls are done, and begin calls that waited for that."""
        done = self._done
        if not done and not self._look_is_due:
            return
        if self._look_is_due:
            self._look_is_due = False
            self._alarm.set_to = None
        queue = self._queue
        while done:
            job = done.popleft()
            queue.done(job)
            waiting.wake(job.waiter)
        if queue.any_waiting:
            self._begin()
        while self._live > max(self._limit, queue.running) and not self._closed:
            self._live -= 1
            self._begun.put(None)

    def close(self, timeout: float = 0.0) -> bool:
        """Let the threads end when their calls are done.

        Waits for at most *timeout* seconds; returns whether all have ended.
        """
        self._closed = True
        for job in self._queue.take_all():
            self._begun.put(job)
        for _ in range(self._live):
            self._begun.put(None)
        deadline = time.monotonic() + timeout
        threads = [*self._threads, *self._alarm.end()]
        for thread in threads:
            thread.join(max(0.0, deadline - time.monotonic()))
        self.poll()
        ended = not any(thread.is_alive() for thread in threads)
        if ended and self._owns_event_fd:
            os.close(self._event_fd)
        return ended

    def _start_thread(self) -> None:
        thread = threading.Thread(
            target=self._work, name=f"{self._name}-{self._started}", daemon=True
        )
        self._threads = [*filter(threading.Thread.is_alive, self._threads), thread]
        self._started += 1
        self._live += 1
        thread.start()

    def _work(self) -> None:
        begun, done = self._begun, self._done
        while (job := begun.get()) is not None:
            try:
                job.result = job.call()
            except BaseException as error:
                job.error = error
            token = job.token
            done.append(job)
            del job  # otherwise an idle thread keeps the buffers of its last call alive
            self._tell(token)

    def _look(self) -> None:
        """Note that a call is stuck, so another one may begin. Any thread may call this."""
        self._look_is_due = True
        self._tell(self._token)

    def _tell(self, token: TrioToken | None) -> None:
        """Make the loop call `poll`. Any thread may call this."""
        if token is None:
            os.eventfd_write(self._event_fd, 1)
            return
        try:
            # However many of these come before the loop runs, it calls `poll` once.
            token.run_sync_soon(self.poll, idempotent=True)
        except trio.RunFinishedError:
            pass  # nobody is left who could wait for it


class _Alarm:
    """Calls *ring* in a thread of its own, at the instant that was set last."""

    def __init__(self, name: str, ring: Callable[[], None]) -> None:
        self._name = name
        self._ring = ring
        self._instants: SimpleQueue[float | None] = SimpleQueue()
        self.set_to: float | None = None
        """Whether it has rung; the owner clears it."""
        self._thread: threading.Thread | None = None

    def set(self, instant: float | None) -> None:
        """Ring at *instant* (s, time.monotonic) and not before; None keeps the old instant."""
        if instant is None or instant == self.set_to:
            return
        self.set_to = instant
        self._instants.put(instant)
        if self._thread is None:
            self._thread = threading.Thread(target=self._watch, name=self._name, daemon=True)
            self._thread.start()

    def end(self) -> list[threading.Thread]:
        """Do not ring any more; returns the thread that is about to end, if there is one."""
        self._instants.put(None)
        return [] if self._thread is None else [self._thread]

    def _watch(self) -> None:
        instant = self._instants.get()
        while instant is not None:
            try:
                instant = self._instants.get(timeout=max(0.0, instant - time.monotonic()))
            except Empty:
                self._ring()
                instant = self._instants.get()
