"""Blocking calls in threads: metadata that can block, and all I/O where io_uring is missing."""

import os
import threading
from collections import deque
from collections.abc import Callable
from queue import SimpleQueue
from typing import TypeVar, TypeVarTuple, Unpack, cast

import trio
from trio.lowlevel import Abort, RaiseCancelT, Task, TrioToken, current_task, wait_task_rescheduled

from throttlefs.backing import blocking
from throttlefs.backing.buffers import Data

Result = TypeVar("Result")
Arguments = TypeVarTuple("Arguments")

# Enough to keep a fast disk busy; a thread costs 8 MiB of address space and some 50 KiB.
IO_THREADS = 32

METADATA_THREADS = 8


class _Job:
    """A call, the task that waits for it, and what became of it."""

    __slots__ = ("call", "error", "result", "task", "token")

    def __init__(self, call: Callable[[], object], task: Task, token: TrioToken) -> None:
        self.call = call
        self.task = task
        self.token = token
        self.result: object = None
        self.error: BaseException | None = None


class BlockingPool:
    """Runs functions that block in threads of its own, from trio tasks.

    Threads are started as they are needed, up to `limit`, and kept; more calls than that wait
    their turn in order. `name` is what the threads are called in ``top -H`` and tracebacks.

    Half the cost of ``trio.to_thread.run_sync``, which starts with a capacity limiter,
    a context copy and a checkpoint and ends with a message per call; here the results of many
    calls come back with one wake-up of the loop.
    """

    def __init__(self, limit: int = METADATA_THREADS, name: str = "blocking") -> None:
        self._limit = limit
        self._name = name
        self._jobs: SimpleQueue[_Job | None] = SimpleQueue()
        self._done: deque[_Job] = deque()
        self._threads: list[threading.Thread] = []
        self._under_way = 0  # jobs handed over and not yet delivered
        self._closed = False

    async def run(
        self,
        function: Callable[[Unpack[Arguments]], Result],
        *args: *Arguments,
    ) -> Result:
        """``function(*args)`` in a thread; its result, or its exception.

        Not cancellable once begun, as with `Engine`. Raises RuntimeError after `close`.
        """
        if self._closed:
            raise RuntimeError("the pool of threads is closed")
        job = _Job(lambda: function(*args), current_task(), trio.lowlevel.current_trio_token())
        self._under_way += 1
        if self._under_way > len(self._threads) < self._limit:
            self._start_thread()
        self._jobs.put(job)
        await wait_task_rescheduled(_not_before_it_is_done)
        if job.error is not None:
            raise job.error
        return cast(Result, job.result)

    def poll(self) -> None:
        """Reschedule the tasks whose calls are done."""
        done = self._done
        while done:
            self._under_way -= 1
            trio.lowlevel.reschedule(done.popleft().task)

    def close(self) -> None:
        """Let the threads end when they have done what was handed to them. Does not wait."""
        self._closed = True
        for _ in self._threads:
            self._jobs.put(None)

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
            try:
                # Any number of these before the loop comes round are one call of `poll`.
                job.token.run_sync_soon(self.poll, idempotent=True)
            except trio.RunFinishedError:
                pass  # nobody is left who could wait for it
            del job  # or an idle thread keeps the last call's buffers alive


class ThreadEngine:
    """Backing I/O through threads; see `Engine`."""

    name = "threads"

    def __init__(self, threads: int = IO_THREADS) -> None:
        self._pool = BlockingPool(threads, "backing")
        self.poll = self._pool.poll

    async def read(self, fd: int, offset: int, size: int, *, offload: bool = False) -> Data:
        """See `Engine.read`."""
        return await self._pool.run(blocking.read, fd, offset, size)

    async def write(self, fd: int, offset: int, data: Data, *, offload: bool = False) -> int:
        """See `Engine.write`."""
        return await self._pool.run(blocking.write, fd, offset, data)

    async def read_into(self, fd: int, offset: int, address: int, size: int) -> int:
        """See `Engine.read_into`."""
        return await self._pool.run(blocking.read_into, fd, offset, address, size)

    async def write_from(self, fd: int, offset: int, address: int, size: int) -> int:
        """See `Engine.write_from`."""
        return await self._pool.run(blocking.write_from, fd, offset, address, size)

    async def write_back(self, fd: int, offset: int, size: int) -> None:
        """See `Engine.write_back`."""
        await self._pool.run(blocking.write_back, fd, offset, size)

    async def fsync(self, fd: int, datasync: bool) -> None:
        """See `Engine.fsync`."""
        await self._pool.run(os.fdatasync if datasync else os.fsync, fd)

    async def run(self) -> None:
        """See `Engine.run`. The threads wake the loop by themselves."""
        await trio.sleep_forever()

    def close(self) -> None:
        """See `Engine.close`."""
        self._pool.close()


def _not_before_it_is_done(_: RaiseCancelT) -> Abort:
    return Abort.FAILED
