"""Blocking calls in threads of their own, from tasks and from the session loop's handlers."""

from __future__ import annotations

import os
import threading
import time
from collections import deque
from collections.abc import Callable
from queue import SimpleQueue
from typing import TypeVar, TypeVarTuple, Unpack, cast

import trio
from trio.lowlevel import Abort, RaiseCancelT, Task, TrioToken

from throttlefs import waiting

Result = TypeVar("Result")
Arguments = TypeVarTuple("Arguments")

METADATA_THREADS = 8
"""Threads for metadata, of which little is under way at a time."""


class _Job:
    """A call, the task that waits for it, and its result or error."""

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

    Threads are started as they are needed, up to *limit*, and kept; more calls than that wait
    their turn in order. The threads are called *name* in ``top -H`` and tracebacks.

    A call costs half of ``trio.to_thread.run_sync``, which starts with a capacity limiter,
    a context copy and a checkpoint and ends with a message per call; here the results of many
    calls come back with one wake-up of the loop.
    """

    def __init__(
        self, limit: int = METADATA_THREADS, name: str = "blocking", event_fd: int = -1
    ) -> None:
        """*event_fd* is an eventfd of the caller's, to be used for `fileno`.

        It must stay open until `close` has returned True.
        """
        self._limit = limit
        self._name = name
        self._jobs: SimpleQueue[_Job | None] = SimpleQueue()
        self._done: deque[_Job] = deque()
        self._threads: list[threading.Thread] = []
        self._under_way = 0  # jobs handed over and not yet delivered
        self._closed = False
        self._owns_event_fd = event_fd < 0
        if self._owns_event_fd:
            event_fd = os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC)
        self._event_fd = event_fd

    async def run(
        self,
        function: Callable[[Unpack[Arguments]], Result],
        *args: *Arguments,
    ) -> Result:
        """``function(*args)`` in a thread; its result, or its exception.

        Cancellation waits for it, as with `Engine`. Raises `RuntimeError` after `close`.
        """
        if self._closed:
            raise RuntimeError("the pool of threads is closed")
        # A session loop watches `fileno`; a trio task is reached by its loop's token.
        token = None if waiting.running else trio.lowlevel.current_trio_token()
        job = _Job(lambda: function(*args), waiting.current(), token)
        self._under_way += 1
        if self._under_way > len(self._threads) < self._limit:
            self._start_thread()
        self._jobs.put(job)
        await waiting.wait(_not_before_it_is_done)
        if job.error is not None:
            raise job.error
        return cast(Result, job.result)

    def fileno(self) -> int:
        """A descriptor that becomes readable when calls of a session loop's handlers are done."""
        return self._event_fd

    def before_sleep(self) -> None:
        """Nothing to do: the threads are at work already."""

    def poll(self) -> None:
        """Wake the tasks whose calls are done."""
        done = self._done
        while done:
            self._under_way -= 1
            waiting.wake(done.popleft().waiter)

    def close(self, timeout: float = 0.0) -> bool:
        """Let the threads end when they have done what was handed to them.

        Waits for that for *timeout* seconds at most; returns whether all have ended.
        """
        self._closed = True
        for _ in self._threads:
            self._jobs.put(None)
        deadline = time.monotonic() + timeout
        for thread in self._threads:
            thread.join(max(0.0, deadline - time.monotonic()))
        self.poll()
        ended = not any(thread.is_alive() for thread in self._threads)
        if ended and self._owns_event_fd:
            os.close(self._event_fd)
        return ended

    def _start_thread(self) -> None:
        thread = threading.Thread(
            target=self._work, name=f"{self._name}-{len(self._threads)}", daemon=True
        )
        self._threads.append(thread)
        thread.start()

    def _work(self) -> None:
        jobs, done = self._jobs, self._done
        while (job := jobs.get()) is not None:
            try:
                job.result = job.call()
            except BaseException as error:
                job.error = error
            done.append(job)
            if job.token is None:
                os.eventfd_write(self._event_fd, 1)
                del job
                continue
            try:
                # Any number of these before the loop comes round are one call of `poll`.
                job.token.run_sync_soon(self.poll, idempotent=True)
            except trio.RunFinishedError:
                pass  # nobody is left who could wait for it
            del job  # or an idle thread keeps the last call's buffers alive


def _not_before_it_is_done(_: RaiseCancelT) -> Abort:
    return Abort.FAILED
