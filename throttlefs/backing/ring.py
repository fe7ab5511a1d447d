"""One io_uring: two ring buffers shared with the kernel, and the entries that they hold.

io_uring_setup(2) makes it and says at which offsets of its mappings the words and entries
below lie. This is how it works (io_uring(7); the words in capitals are the kernel's)::

      we write                                            the kernel writes
      SQEs   [ 0 ][ 1 ][ 2 ][ 3 ] ...   one request each  CQEs [ 0 ][ 1 ] ...  one result each
               ^ tail: ours to move                         ^ tail: the kernel's to move
      SQ head: the kernel's                               CQ head: ours

A request is written into the SQE at the submission ring's tail, and the tail is moved behind
it; io_uring_enter(2) makes the kernel take everything between head and tail. Its result
appears as a CQE at the completion ring's tail, with the request's ``user_data``; moving the
completion ring's head behind it frees the place. Heads and tails are 32-bit counters that
only ever grow and wrap; the place is ``counter & (entries - 1)``.

The kernel's submission ring is really an array of indices into the SQEs. It is filled once
with 0, 1, 2, ... and never touched again, so that place n always means SQE n.
"""

from __future__ import annotations

import contextlib
import errno
import mmap
import os
import platform
import threading
from collections.abc import Callable

from . import uring_abi as abi

_COUNTER = 0xFFFF_FFFF

_SETUP_FLAGS = (
    abi.Setup.SUBMIT_ALL
    | abi.Setup.TASKRUN_FLAG
    | abi.Setup.SINGLE_ISSUER
    | abi.Setup.DEFER_TASKRUN,
    abi.Setup.SUBMIT_ALL | abi.Setup.TASKRUN_FLAG | abi.Setup.COOP_TASKRUN,
    abi.Setup(0),
)
"""From the best to the plainest; a kernel that does not know a flag says EINVAL.

With DEFER_TASKRUN the kernel posts completions when this thread asks for them, and does not
interrupt it: epoll_wait(2) is not cut short with EINTR, and a burst of completions costs one
system call. COOP_TASKRUN spares only the interrupt of running code. With either, SQ_TASKRUN in
the ring's flags says that completions wait to be asked for.
"""

_MAX_WORKERS = 64
"""How many kernel workers may do blocking requests.

The kernel starts a worker when all others are blocked, by default at most four per CPU. These are
too few to keep a network filesystem busy, where each request blocks one.
"""

_REQUIRED_FEATURES = int(abi.Feature.SINGLE_MMAP | abi.Feature.NODROP | abi.Feature.SUBMIT_STABLE)


class RingUnavailableError(Exception):
    """io_uring cannot be used here; the text says why."""


class Ring:
    """An io_uring of one thread: only the thread that made it may use it.

    *entries* is the submission ring's size, a power of two; at most twice as many requests can be
    under way (`capacity`). `push` lets no more in, so the completion ring has room for every result
    and cannot overflow.

    Raises `RingUnavailableError`.
    """

    def __init__(self, entries: int = 256) -> None:
        with contextlib.ExitStack() as undo:
            params, self.fd = _make_ring(entries)
            undo.callback(os.close, self.fd)
            self.event_fd = os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC)
            undo.callback(os.close, self.event_fd)
            try:
                _check(params, self.fd)
                abi.register_eventfd(self.fd, self.event_fd)
                self._map(params)
            except OSError as error:
                raise RingUnavailableError(str(error)) from error
            _allow_workers(self.fd)
            undo.pop_all()
        self.entries: int = params.sq_entries
        self.capacity: int = params.cq_entries
        self.setup = abi.Setup(params.flags)
        self.queued = 0  # requests written, not yet taken by the kernel
        self.in_flight = 0  # requests written, result not yet reaped

    def _map(self, params: abi.Params) -> None:
        shared = mmap.MAP_SHARED | mmap.MAP_POPULATE
        access = mmap.PROT_READ | mmap.PROT_WRITE
        sq, cq = params.sq_off, params.cq_off
        size = max(
            sq.array + params.sq_entries * 4,
            cq.cqes + params.cq_entries * abi.CQE.size,
        )
        self._rings = mmap.mmap(self.fd, size, shared, access, offset=abi.OFFSET_SQ_RING)
        self._sqes = mmap.mmap(
            self.fd, params.sq_entries * abi.SQE_SIZE, shared, access, offset=abi.OFFSET_SQES
        )
        # The words of the rings are read and written as aligned 32-bit words, never byte by byte.
        self._words = memoryview(self._rings)[: size & ~3].cast("I")
        words = self._words
        self._sq_head_at, self._sq_tail_at = sq.head // 4, sq.tail // 4
        self._sq_flags_at = sq.flags // 4
        self._cq_head_at, self._cq_tail_at = cq.head // 4, cq.tail // 4
        self._cqes_at = cq.cqes
        self._sq_mask, self._cq_mask = words[sq.ring_mask // 4], words[cq.ring_mask // 4]
        self._sq_tail, self._cq_head = words[self._sq_tail_at], words[self._cq_head_at]
        for index in range(params.sq_entries):
            words[sq.array // 4 + index] = index

    @property
    def has_room(self) -> bool:
        """Whether `push` may be called."""
        return self.in_flight < self.capacity and self.queued < self.entries

    def push(
        self,
        user_data: int,
        opcode: int,
        fd: int,
        offset: int,
        address: int,
        length: int,
        op_flags: int = 0,
        sqe_flags: int = 0,
        personality: int = 0,
    ) -> None:
        """Write one request; the kernel sees it at the next `submit`. Needs `has_room`.

        The memory at *address* must stay where it is until the request has been reaped, and
        *fd* open until it has been submitted. *personality* is a registered one's number.
        """
        tail = self._sq_tail
        abi.SQE.pack_into(
            self._sqes,
            (tail & self._sq_mask) * abi.SQE_SIZE,
            opcode,
            sqe_flags,
            0,
            fd,
            offset,
            address,
            length,
            op_flags,
            user_data,
            personality,
        )
        # The kernel reads entry and tail inside io_uring_enter on this very thread (there is no
        # SQPOLL thread), so no memory barrier is needed in between.
        self._sq_tail = self._words[self._sq_tail_at] = (tail + 1) & _COUNTER
        self.queued += 1
        self.in_flight += 1

    def submit(self) -> None:
        """Hand the queued requests to the kernel: one system call, as a rule.

        Raises `OSError`. After EAGAIN and EBUSY the kernel takes the requests later (reap first),
        after any other error never. Requests that it did not take stay queued.
        """
        while self.queued:
            taken = abi.enter(self.fd, self.queued, abi.ENTER_GETEVENTS)
            self.queued -= taken
            if not taken:
                raise BlockingIOError(errno.EAGAIN, "io_uring_enter took no request")

    def withdraw(self) -> list[int]:
        """Take back the requests that are queued and not submitted; returns their user_data."""
        withdrawn = []
        while self.queued:
            self._sq_tail = (self._sq_tail - 1) & _COUNTER
            at = (self._sq_tail & self._sq_mask) * abi.SQE_SIZE
            withdrawn.append(abi.SQE.unpack_from(self._sqes, at)[abi.SQE_USER_DATA])
            self.queued -= 1
            self.in_flight -= 1
        self._words[self._sq_tail_at] = self._sq_tail
        withdrawn.reverse()
        return withdrawn

    def reap(self, deliver: Callable[[int, int], None]) -> None:
        """Call ``deliver(user_data, result)`` for each completion. Never waits.

        The result is the system call's, or minus an errno. Costs 0.1 us if there is none.
        """
        words = self._words
        if words[self._sq_flags_at] & (abi.SQ_TASKRUN | abi.SQ_CQ_OVERFLOW):
            abi.enter(self.fd, 0, abi.ENTER_GETEVENTS)
        head, tail = self._cq_head, words[self._cq_tail_at]
        if head == tail:
            return
        _fence()  # the entries are read after the tail that covers them
        results = []
        while head != tail:
            at = self._cqes_at + (head & self._cq_mask) * abi.CQE.size
            results.append(abi.CQE.unpack_from(self._rings, at))
            head = (head + 1) & _COUNTER
        _fence()  # ... and before the head that gives their places back
        self._cq_head = words[self._cq_head_at] = head
        self.in_flight -= len(results)
        for user_data, result, _ in results:
            deliver(user_data, result)

    def close(self) -> None:
        """Give the ring back to the kernel. All requests must have been reaped."""
        self._words.release()
        self._sqes.close()
        self._rings.close()
        os.close(self.event_fd)
        os.close(self.fd)


def _make_ring(entries: int) -> tuple[abi.Params, int]:
    """Make the best kind of ring that this kernel knows."""
    if abi.ODD_NUMBERS:
        raise RingUnavailableError("on this architecture its system calls are not known here")
    for flags in _SETUP_FLAGS:
        params = abi.Params(flags=flags | abi.Setup.CLAMP)
        try:
            fd = abi.setup(entries, params)
        except OSError as error:
            if error.errno == errno.EINVAL and flags:
                continue
            raise RingUnavailableError(_explain(error)) from error
        return params, fd
    raise AssertionError("the last of the flag sets is empty")


def _allow_workers(fd: int) -> None:
    try:
        abi.limit_workers(fd, _MAX_WORKERS)
    except OSError:
        pass  # Linux before 5.15 keeps its own limit


def _check(params: abi.Params, fd: int) -> None:
    missing = abi.Feature(_REQUIRED_FEATURES & ~params.features)
    if missing:
        raise RingUnavailableError(f"this kernel's io_uring lacks {missing!r}")
    supported = abi.supported_ops(fd)
    lacking = {op.name for op in abi.Op if op not in supported}
    if lacking:
        raise RingUnavailableError(f"this kernel's io_uring cannot {', '.join(sorted(lacking))}")


def _explain(error: OSError) -> str:
    reasons = {
        errno.ENOSYS: "this kernel has no io_uring (or seccomp hides it)",
        errno.EPERM: "io_uring is forbidden here (sysctl kernel.io_uring_disabled, seccomp or"
        " a security module)",
        errno.ENOMEM: "no memory may be locked for io_uring's rings (RLIMIT_MEMLOCK)",
    }
    reason = reasons.get(error.errno or 0)
    return f"{reason}: {error.strerror}" if reason else str(error.strerror)


def _full_fence() -> None:
    """Order this thread's memory accesses: a release followed by an acquire."""
    _fence_lock.release()
    _fence_lock.acquire()


def _no_fence() -> None:
    """x86 and s390 keep loads in order, and loads before later stores: nothing to do."""


_fence_lock = threading.Lock()
"""Kernel workers write completions from other CPUs. Python has no memory barriers of its own, but
a lock's release and acquire are one on every architecture."""
_fence_lock.acquire()
_strongly_ordered = platform.machine() in ("x86_64", "i686", "i386", "s390x")
_fence = _no_fence if _strongly_ordered else _full_fence
