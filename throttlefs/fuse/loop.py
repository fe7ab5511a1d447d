"""The session loop: takes requests from the kernel and runs their handlers.

pyfuse3's own loop is a trio task for each request under way, with a lock and a wait through
trio for every single one, which costs more than the request itself. pyfuse3 looks ``trio`` up
in its module's namespace (its ``pyfuse3.asyncio`` relies on the same), so a small namespace of
ours can take its place. In it

- a "task" is a `Session`: one of pyfuse3's coroutines, run by this loop directly. It takes a
  request, runs the handler and replies; then it is idle until it gets the next one;
- waiting for the FUSE descriptor makes a session idle, without a system call;
- a handler that waits (for its limit, its I/O, a thread) does so by `throttlefs.waiting`.

All that can wake the loop, the FUSE descriptor and each `Source`, is in one epoll set. trio sees
the loop as a single task that waits for that set. In a rush of requests the loop does not even
ask trio, for up to `MAX_TURN_NS` at a time: it drains, and it sleeps in the epoll set itself.
"""

from __future__ import annotations

import errno
import logging
import os
import select
import time
import types
from collections import deque
from collections.abc import Callable, Coroutine, Generator, Sequence
from types import SimpleNamespace
from typing import Any, Protocol

import pyfuse3
import trio

from throttlefs import waiting

from . import memory

log = logging.getLogger("throttlefs")

MAX_TURN_NS = 1_000_000
"""How long the loop goes on before trio's other tasks get a turn."""

SPIN_NS = 50_000
"""How long the loop looks for the next event before it sleeps, while events come that fast.

To sleep and be woken takes some 25 us on either side, more than a request: at queue depth 1,
looking instead of sleeping took 4 KiB reads from 15,000 to 35,000 a second.
"""

_RETIRE_AFTER_S = 1.0
"""How long sessions stay idle, with their receive buffers, once the rush is over."""

_WIND_DOWN_S = 10.0

_IDLE = object()
"""What a session yields when it wants the next request."""


class SessionEndedError(Exception):
    """Stands for trio.ClosedResourceError in pyfuse3: ends one idle session."""


class Source(Protocol):
    """Something that lets waiting handlers go on."""

    def fileno(self) -> int:
        """A descriptor that becomes readable when `poll` has something to do."""

    def poll(self) -> None:
        """Wake the handlers that can go on; next to nothing to do if there are none."""

    def before_sleep(self) -> None:
        """Called when the loop has nothing left to do."""


def seam_is_there() -> bool:
    """Whether this pyfuse3 still looks ``trio`` up in its namespace, as `SessionLoop` needs."""
    return getattr(pyfuse3, "trio", None) is trio


class Session:
    """One of pyfuse3's session coroutines, and what it waits for."""

    __slots__ = ("_loop", "abort", "coroutine", "start", "value")

    def __init__(self, loop: SessionLoop, start: Callable[[], Coroutine[Any, Any, None]]) -> None:
        self._loop = loop
        self.start = start
        self.coroutine = start()
        self.abort: waiting.AbortFunction | None = None  # set while its handler waits
        self.value: object = None

    def resume(self, value: object) -> None:
        """See `waiting.Waiter.resume`."""
        self.abort = None
        self.value = value
        self._loop.make_ready(self)


class SessionLoop:
    """Serves the session that ``pyfuse3.init`` mounted until it is unmounted.

    *sources* are looked at between any two requests. While *has_room* says no, no further
    request is taken. *on_end* is called once the kernel has ended the session: what still waits
    then waits for nothing.
    """

    def __init__(
        self,
        sources: Sequence[Source],
        has_room: Callable[[], bool],
        on_end: Callable[[], None],
    ) -> None:
        self._has_room = has_room
        self._on_end = on_end
        self._polls = [source.poll for source in sources]
        self._before_sleep = [source.before_sleep for source in sources]
        self._fd = -1
        self._fuse_poll = select.poll()
        self._epoll = select.epoll()
        self._watching = False  # whether the FUSE descriptor is in the epoll set
        self._bell = os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC)
        for fd in (self._bell, *(source.fileno() for source in sources)):
            # Edge-triggered: nobody has to read these descriptors to quieten them.
            self._epoll.register(fd, select.EPOLLIN | select.EPOLLET)
        self._ready: deque[Session] = deque()
        self._idle: list[Session] = []  # the last to become idle, its memory warm, goes first
        self._waiting: set[Session] = set()
        self._live = 0
        self._asleep = False
        self._tidy = False  # whether nothing happened since memory was last given back
        self._turn_ends_ns = 0
        self._event_ns = 0  # when something last happened
        self._gap_ns = MAX_TURN_NS  # how long nothing had happened before that
        self._spin_ns = SPIN_NS if len(os.sched_getaffinity(0)) > 1 else 0

    async def run(self, max_sessions: int) -> None:
        """Serve up to *max_sessions* requests at a time; returns once the mount is gone."""
        pyfuse3.trio = self._namespace()  # type: ignore[attr-defined]
        try:
            # min_tasks = max_tasks: sessions are retired here, when idle for a while, and not
            # by pyfuse3 after each request that waited.
            await pyfuse3.main(min_tasks=max_sessions, max_tasks=max_sessions)
        finally:
            pyfuse3.trio = trio  # type: ignore[attr-defined]
            self._epoll.close()
            os.close(self._bell)

    def _namespace(self) -> SimpleNamespace:
        """What pyfuse3 is to see as the module ``trio``."""
        task = SimpleNamespace(name="session")
        return SimpleNamespace(
            Lock=_NoLock,
            ClosedResourceError=SessionEndedError,
            open_nursery=lambda: _Nursery(self),
            lowlevel=SimpleNamespace(
                wait_readable=self._wait_readable,
                notify_closing=self._notify_closing,
                current_task=lambda: task,
                current_trio_token=trio.lowlevel.current_trio_token,
            ),
        )

    @types.coroutine
    def _wait_readable(self, fd: int) -> Generator[object, None, None]:
        if fd != self._fd:
            self._adopt(fd)
        yield _IDLE

    def _adopt(self, fd: int) -> None:
        """Prepare the FUSE descriptor, which pyfuse3 shows nowhere but here.

        Between poll and read the client may be killed and its request withdrawn; a blocking
        read would then freeze the whole loop.
        """
        self._fd = fd
        os.set_blocking(fd, False)
        self._fuse_poll.register(fd, select.POLLIN)
        self._epoll.register(fd, 0)

    def _notify_closing(self, _fd: int) -> None:
        """``pyfuse3.terminate`` has set its flag: idle sessions are to see it."""
        self._retire(len(self._idle))
        os.eventfd_write(self._bell, 1)

    # -- sessions --------------------------------------------------------------------------

    def start(self, session_loop: Callable[..., Coroutine[Any, Any, None]], *args: object) -> None:
        """Add a session; pyfuse3 does when none is idle."""
        self._live += 1
        self.make_ready(Session(self, lambda: session_loop(*args)))

    def make_ready(self, session: Session) -> None:
        """Let *session* be run; from the thread of the loop."""
        self._ready.append(session)
        if self._asleep:
            os.eventfd_write(self._bell, 1)

    def _run(self, session: Session) -> None:
        """Run *session* until it is idle, waits or ends."""
        value, session.value = session.value, None
        waiting.running = session
        try:
            wanted = session.coroutine.send(value)
            while wanted is not _IDLE and wanted is not waiting.PARKED:
                mistake = RuntimeError("a handler may wait by throttlefs.waiting only")
                wanted = session.coroutine.throw(mistake)
        except StopIteration:
            self._live -= 1
            self._on_end()
            return
        except OSError as exc:
            # EAGAIN: the request was withdrawn before it could be read. pyfuse3 takes that for
            # fatal, so its coroutine is begun anew.
            if exc.errno != errno.EAGAIN:
                self._live -= 1
                raise
            session.coroutine = session.start()
            self._ready.append(session)
            return
        except BaseException:
            self._live -= 1
            raise
        finally:
            waiting.running = None
        if wanted is _IDLE:
            self._waiting.discard(session)
            self._idle.append(session)
        else:
            self._waiting.add(session)

    def _retire(self, count: int) -> None:
        """End *count* idle sessions, the longest idle first."""
        count = max(count, 0)
        for session in self._idle[:count]:
            try:
                session.coroutine.throw(SessionEndedError())
            except StopIteration:
                self._live -= 1
        del self._idle[:count]

    # -- the loop --------------------------------------------------------------------------

    async def serve(self) -> None:
        """Run until the last session has ended."""
        try:
            await self._serve()
        except BaseException:
            self._wind_down()
            raise

    async def _serve(self) -> None:
        ready, idle, sleepers, run = self._ready, self._idle, self._waiting, self._run
        polls = self._polls
        readable, has_room, now_ns = self._fuse_poll.poll, self._has_room, time.monotonic_ns
        while self._live:
            worked = False
            if sleepers:  # else no source can have anything to do
                for poll in polls:
                    poll()
            while ready:
                run(ready.popleft())
                worked = True
            if idle and has_room() and readable(0):
                run(idle.pop())
                worked = True
            if not worked:
                await self._sleep()
            elif now_ns() > self._turn_ends_ns:
                await trio.lowlevel.checkpoint()
                self._turn_ends_ns = now_ns() + MAX_TURN_NS

    async def _sleep(self) -> None:
        """Return when something may have happened."""
        for prepare in self._before_sleep:
            prepare()
        if self._ready:
            return
        wants_request = bool(self._idle) and self._has_room()
        if wants_request is not self._watching:
            self._watching = wants_request
            self._epoll.modify(self._fd, select.EPOLLIN if wants_request else 0)
        began = time.monotonic_ns()
        if began - self._event_ns > MAX_TURN_NS or not self._sleep_outside_trio(began):
            await self._sleep_in_trio()
        now = time.monotonic_ns()
        self._gap_ns = now - began
        self._event_ns = now

    def _sleep_outside_trio(self, began: int) -> bool:
        """Wait for up to 1 ms without trio, for whose 20 us per wake-up two requests can be had.

        trio's other tasks are late by no more than that: the loop sleeps here only if something
        happened within the last millisecond.
        """
        poll = self._epoll.poll
        if self._gap_ns < self._spin_ns:
            spin_until = began + self._spin_ns
            while time.monotonic_ns() < spin_until:
                if poll(0):
                    return True
        return bool(poll(MAX_TURN_NS / 1e9))

    async def _sleep_in_trio(self) -> None:
        self._asleep = True
        try:
            if self._tidy:
                await trio.lowlevel.wait_readable(self._epoll.fileno())
            else:
                with trio.move_on_after(_RETIRE_AFTER_S) as scope:
                    await trio.lowlevel.wait_readable(self._epoll.fileno())
                if scope.cancelled_caught:
                    self._retire(len(self._idle) - 1)
                    memory.give_back()
                    self._tidy = True
                    return
        finally:
            self._asleep = False
        self._tidy = False
        self._epoll.poll(0)  # takes the edge-triggered events off the list
        self._turn_ends_ns = time.monotonic_ns() + MAX_TURN_NS

    def _wind_down(self) -> None:
        """Cancelled: end every handler that can be, and see the others to their end."""
        deadline = time.monotonic() + _WIND_DOWN_S
        for session in list(self._waiting):
            if session.abort is not None and session.abort(_never) is trio.lowlevel.Abort.SUCCEEDED:
                self._waiting.discard(session)
                session.coroutine.close()
                self._live -= 1
        self._retire(len(self._idle))
        while self._live > 0 and time.monotonic() < deadline:
            for step in (*self._before_sleep, *self._polls):
                step()
            while self._ready:
                self._run(self._ready.popleft())
            self._retire(len(self._idle))
            time.sleep(0.001)


def _never() -> Any:
    raise AssertionError("a session is closed, not cancelled")


class _NoLock:
    """pyfuse3's read lock: sessions run one at a time and need none."""

    async def __aenter__(self) -> None:
        pass

    async def __aexit__(self, *_exc_info: object) -> None:
        pass


class _Nursery:
    """pyfuse3's nursery, whose tasks are the loop's sessions."""

    def __init__(self, loop: SessionLoop) -> None:
        self._loop = loop

    async def __aenter__(self) -> _Nursery:
        return self

    async def __aexit__(self, exc_type: type[BaseException] | None, *_exc_info: object) -> None:
        if exc_type is None:
            await self._loop.serve()

    def start_soon(
        self, function: Callable[..., Coroutine[Any, Any, None]], *args: Any, name: str
    ) -> None:
        self._loop.start(function, *args)
