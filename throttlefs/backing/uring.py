"""The io_uring engine: each operation waits for a completion of a `Ring`.

A request is written into the ring, and the handler (or trio task) that made it waits. The
completion has a number that leads back to it. Before a loop sleeps it calls `before_sleep`, which
submits all queued requests in one system call. Between requests and after a sleep it calls `poll`,
which reaps completions. The ring's eventfd wakes it. The session loop does all this itself; under
trio alone `run` does it, by hooks around trio's epoll_wait(2).
"""

from __future__ import annotations

import errno
import os
import time
from collections import deque
from collections.abc import Callable
from typing import NoReturn, Unpack

import trio
from trio.lowlevel import Task

from throttlefs import waiting
from throttlefs.host.credentials import Credentials, writing_for

from . import uring_abi as abi
from .blocking import WRITE_BACK_AND_WAIT
from .buffers import Data, address_of, addresses_are_known, new_bytes
from .identities import OWN, Identities
from .pool import Arguments, BlockingPool, Result
from .ring import Ring, RingUnavailableError

SUBMIT_BATCH = 8
"""How many requests may queue up before they are submitted although the loop is busy.

Early submission feeds the disk. Late submission saves CPU, because one system call and one kick of
the disk serve many requests. Random 4 KiB reads at queue depth 32 through a mount, buffered and
cold: 4 -> 34 k/s and 28.7 us of CPU each, 8 -> 38 k/s and 25.6 us, 32 -> 26 k/s (virtio disk, two
cores; scripts/benchmarks/backing_io.py has the engine alone).
"""

SUBMIT_AT_ONCE = 128 << 10
"""Bytes: a request of this size or more is submitted at once.

It keeps the disk, or the worker that copies it, busy for longer than a system call takes.
"""

SUBMIT_PATIENCE = 8
"""After so many calls of `poll` requests are submitted, however few."""

CALL_THREADS = 4
"""Threads for `UringEngine.call`, which is rare."""

_LAST_ROUNDS = 3
"""After so many rounds of trio's scheduler every woken task has run."""

CLOSE_TIMEOUT = 10.0
"""s for which `UringEngine.close` waits for the kernel to finish its requests."""

_abandoned: list[object] = []
"""Engines whose requests the kernel did not finish in time.

If their memory were freed, the kernel would overwrite its next contents."""


class _Request:
    """The task or handler that waits for a completion, and the completion's result."""

    __slots__ = ("result", "waiter")

    def __init__(self, waiter: Task | waiting.Waiter) -> None:
        self.waiter = waiter
        self.result = -errno.ECANCELED


class UringEngine:
    """Backing I/O through io_uring; see `Engine`. Raises `RingUnavailableError`."""

    name = "uring"

    def __init__(self, entries: int = 256) -> None:
        if not addresses_are_known():
            raise RingUnavailableError("this Python does not tell the addresses of its objects")
        self._ring = Ring(entries)
        self._pool = BlockingPool(CALL_THREADS, "calls", self._ring.event_fd)
        self._calls = 0  # in the pool
        self._identities = Identities(
            self._new_identity, lambda number: abi.unregister_personality(self._ring.fd, number)
        )
        self._requests: dict[int, _Request] = {}
        self._last_number = 0
        # Requests that the ring had no room for, in order: the arguments of Ring.push.
        self._backlog: deque[tuple[int, int, int, int, int, int, int, int, int]] = deque()
        self._patience = SUBMIT_PATIENCE
        self._ended = False

    @property
    def description(self) -> str:
        """The ring's size and how the kernel hands over completions, for the log."""
        ring = self._ring
        if ring.setup & abi.Setup.DEFER_TASKRUN:
            delivery = "completions on demand"
        elif ring.setup & abi.Setup.COOP_TASKRUN:
            delivery = "cooperative completions"
        else:
            delivery = "interrupting completions"
        return f"{ring.entries} entries, {delivery}"

    async def read(self, fd: int, offset: int, size: int, *, offload: bool = False) -> Data:
        """See `Engine.read`."""
        buffer = new_bytes(size)
        got = await self._transfer(abi.Op.READ, fd, offset, address_of(buffer), size, offload)
        return buffer if got == size else buffer[:got]

    async def write(
        self,
        fd: int,
        offset: int,
        data: Data,
        *,
        offload: bool = False,
        flags: int = 0,
        identity: int = OWN,
    ) -> int:
        """See `Engine.write`."""
        if type(data) is memoryview and data.readonly:
            data = bytes(data)  # its own address is not known
        address, size = address_of(data), len(data)
        return await self._transfer(
            abi.Op.WRITE, fd, offset, address, size, offload, flags, identity
        )

    async def read_into(self, fd: int, offset: int, address: int, size: int) -> int:
        """See `Engine.read_into`."""
        return await self._transfer(abi.Op.READ, fd, offset, address, size, False)

    async def write_from(
        self,
        fd: int,
        offset: int,
        address: int,
        size: int,
        *,
        flags: int = 0,
        identity: int = OWN,
    ) -> int:
        """See `Engine.write_from`."""
        return await self._transfer(abi.Op.WRITE, fd, offset, address, size, False, flags, identity)

    async def write_back(self, fd: int, offset: int, size: int) -> None:
        """See `Engine.write_back`."""
        await self._request(abi.Op.SYNC_FILE_RANGE, fd, offset, size, WRITE_BACK_AND_WAIT)

    async def fsync(self, fd: int, datasync: bool) -> None:
        """See `Engine.fsync`."""
        await self._request(abi.Op.FSYNC, fd, 0, 0, abi.FSYNC_DATASYNC if datasync else 0)

    def add_identity(self, credentials: Credentials) -> int:
        """See `Engine.add_identity`."""
        return self._identities.add(credentials)

    def drop_identity(self, identity: int) -> None:
        """See `Engine.drop_identity`."""
        self._identities.drop(identity)

    def _new_identity(self, credentials: Credentials) -> int:
        with writing_for(credentials):
            return abi.register_personality(self._ring.fd)

    async def call(
        self, function: Callable[[Unpack[Arguments]], Result], *args: *Arguments
    ) -> Result:
        """See `Engine.call`."""
        self._calls += 1
        try:
            return await self._pool.run(function, *args)
        finally:
            self._calls -= 1

    async def _request(self, opcode: int, fd: int, offset: int, length: int, op_flags: int) -> None:
        while True:
            request = self._begin(opcode, fd, offset, 0, length, op_flags, 0)
            await waiting.wait(waiting.when_done)
            result = request.result
            if result >= 0:
                return
            if result not in (-errno.EINTR, -errno.EAGAIN):
                _raise(result)

    async def _transfer(
        self,
        opcode: int,
        fd: int,
        offset: int,
        address: int,
        size: int,
        offload: bool,
        rw_flags: int = 0,
        personality: int = OWN,
    ) -> int:
        """Read or write until all is done, the file ends, or an error comes."""
        done = 0
        sqe_flags = abi.SQE_ASYNC if offload else 0
        while done < size:
            request = self._begin(
                opcode,
                fd,
                offset + done,
                address + done,
                size - done,
                rw_flags,
                sqe_flags,
                personality,
            )
            await waiting.wait(waiting.when_done)
            result = request.result
            if result == size:  # by far the most frequent case
                return size
            if result > 0:
                done += result
            elif result == 0:
                if opcode == abi.Op.READ or done:
                    break
                _raise(-errno.EIO)  # the file takes nothing, and the error is not known
            elif result == -errno.EAGAIN:
                sqe_flags = abi.SQE_ASYNC  # it would have blocked here: let a worker block
            elif result != -errno.EINTR:
                if done and opcode == abi.Op.WRITE:
                    break  # the caller gets the error when it goes on from there
                _raise(result)
        return done

    def _begin(
        self,
        opcode: int,
        fd: int,
        offset: int,
        address: int,
        length: int,
        op_flags: int,
        sqe_flags: int,
        personality: int = OWN,
    ) -> _Request:
        """Put one request into the ring; the caller must `wait` for it next."""
        if self._ended:
            raise RuntimeError("nobody would reap the completion: the engine's run() has ended")
        request = _Request(waiting.current())
        self._last_number = number = self._last_number + 1
        self._requests[number] = request
        ring = self._ring
        if self._backlog or not ring.has_room:
            self._backlog.append(
                (number, opcode, fd, offset, address, length, op_flags, sqe_flags, personality)
            )
        else:
            ring.push(number, opcode, fd, offset, address, length, op_flags, sqe_flags, personality)
        # A single request has nothing to wait for: 5 us earlier on the disk at queue depth 1.
        if (
            ring.queued >= SUBMIT_BATCH
            or ring.in_flight == ring.queued == 1
            or length >= SUBMIT_AT_ONCE
        ):
            self._submit()
        return request

    def _submit(self) -> None:
        self._patience = SUBMIT_PATIENCE
        try:
            self._ring.submit()
        except OSError as error:
            if error.errno in (errno.EAGAIN, errno.EBUSY, errno.EINTR):
                # The kernel is short of memory, or wants completions reaped first. The loop must
                # not sleep now, but run once more and try again.
                os.eventfd_write(self._ring.event_fd, 1)
                return
            for number in self._ring.withdraw():
                self._deliver(number, -(error.errno or errno.EIO))

    def _deliver(self, number: int, result: int) -> None:
        request = self._requests.pop(number)
        request.result = result
        waiting.wake(request.waiter)

    def poll(self) -> None:
        """See `Engine.poll`."""
        ring = self._ring
        ring.reap(self._deliver)
        if self._calls:
            self._pool.poll()
        if self._backlog:
            self._let_in()
        if ring.queued:
            self._patience -= 1
            if self._patience <= 0:
                self._submit()

    def _let_in(self) -> None:
        ring, backlog = self._ring, self._backlog
        while backlog and ring.has_room:
            ring.push(*backlog.popleft())
            if ring.queued >= SUBMIT_BATCH:
                self._submit()

    async def run(self) -> None:
        """See `Engine.run`. When cancelled, it waits for what is under way before it ends."""
        hooks = _LoopHooks(self)
        trio.lowlevel.add_instrument(hooks)
        try:
            while True:
                await self._wake_up()
        finally:
            with trio.CancelScope(shield=True):
                # A woken task may make more requests before it reaches a checkpoint and is
                # cancelled. When no more requests come, all tasks have run.
                rounds, last = 0, self._last_number
                while self._requests or self._calls or rounds < _LAST_ROUNDS:
                    if self._requests:
                        await self._wake_up()
                    elif self._calls:
                        await trio.sleep(0.001)  # the pool wakes trio's tasks by itself
                    await trio.lowlevel.checkpoint()
                    rounds = rounds + 1 if self._last_number == last else 0
                    last = self._last_number
            self._ended = True
            trio.lowlevel.remove_instrument(hooks)

    async def _wake_up(self) -> None:
        await trio.lowlevel.wait_readable(self._ring.event_fd)
        try:
            os.eventfd_read(self._ring.event_fd)
        except BlockingIOError:
            pass  # the hooks have read it already
        self.poll()

    def fileno(self) -> int:
        """See `Engine.fileno`."""
        return self._ring.event_fd

    def before_sleep(self) -> None:
        """See `Engine.before_sleep`: submits what is queued."""
        if self._backlog:
            self._let_in()
        if self._ring.queued:
            self._submit()

    def close(self) -> None:
        """See `Engine.close`. Requests that did not get into the ring fail with ECANCELED."""
        while self._backlog:
            self._deliver(self._backlog.popleft()[0], -errno.ECANCELED)
        for number in self._ring.withdraw():
            self._deliver(number, -errno.ECANCELED)
        deadline = time.monotonic() + CLOSE_TIMEOUT
        pool_ended = self._pool.close(CLOSE_TIMEOUT)
        ring = self._ring
        while True:
            ring.reap(self._deliver)
            if not ring.in_flight and pool_ended:
                ring.close()
                return
            if time.monotonic() > deadline:
                _abandoned.append(self)
                return
            time.sleep(0.001)


class _LoopHooks(trio.abc.Instrument):
    """trio calls these around its epoll_wait."""

    def __init__(self, engine: UringEngine) -> None:
        self._engine = engine

    def before_io_wait(self, timeout: float) -> None:
        self._engine.before_sleep()

    def after_io_wait(self, timeout: float) -> None:
        self._engine.poll()


def _raise(result: int) -> NoReturn:
    raise OSError(-result, os.strerror(-result))
