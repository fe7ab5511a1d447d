"""The session loop: takes requests from the kernel and runs their handlers.

pyfuse3's own loop is a trio task for each request under way, with a lock and a wait through
trio for every single one, which costs more than the request itself. Here (see `seam`)

- a "task" is a `Session`: one of pyfuse3's coroutines, run by this loop directly. It takes a
  request, runs the handler and replies; then it is idle until it gets the next one;
- waiting for the FUSE descriptor makes a session idle, without a system call;
- a handler that waits (for its limit, its I/O, a thread) does so by `throttlefs.waiting`.

Reads and writes do not even get there: the `Channel` answers them, and those that have to wait
are a `Session` each, a `Transfer`.

All that can wake the loop, the FUSE descriptor and each `Source`, is in one epoll set. trio sees
the loop as a single task that waits for that set. In a rush of requests the loop does not even
ask trio, for up to `MAX_TURN_NS` at a time: it drains, and it sleeps in the epoll set itself.
"""

from __future__ import annotations

import os
import select
import sys
import time
import types
from collections import deque
from collections.abc import Callable, Coroutine, Generator, Sequence
from typing import Any, Protocol

import pyfuse3
import trio

from throttlefs import waiting
from throttlefs.host import memory

from . import seam
from .channel import Channel, Contents, Reply
from .session import Session, Transfer

MAX_TURN_NS = 1_000_000
"""How long the loop goes on before trio's other tasks get a turn."""

SPIN_NS = 200_000
"""How long the loop looks for the next event before it sleeps, while events come that fast.

To sleep and be woken takes some 25 us on either side, more than a request: at queue depth 1,
looking instead of sleeping took cached 4 KiB reads from 15,000 to 35,000 a second. O_DIRECT
writes to a disk that takes 60 us went from 8,500 (no looking) to 10,000 (100 us) and 10,800.
"""

ALARM_LEAD_NS = 100_000
"""How long before a request is due the loop wakes up and watches the clock.

A sleeper is woken 30 to 100 us late; so what it waits for is a little less late. Of iops=3000 at
queue depth 1 the slowest 1 % took 379 us with 60 us of this, and 363 us with 100 us (at 27 and
40 % of a CPU).
"""

_NOTHING_DUE_NS = 1 << 60
"""ns: longer than the limiter holds anything."""

_EVENTS = 8
"""Room for the descriptors in the epoll set; more would be allocated for each call."""

_RETIRE_AFTER_S = 1.0
"""How long sessions stay idle, with their receive buffers, once the rush is over."""

_WIND_DOWN_S = 10.0

_IDLE = object()
"""What a session yields when it wants the next request."""


class Source(Protocol):
    """Something that lets waiting handlers go on."""

    def fileno(self) -> int:
        """A descriptor that becomes readable when `poll` has something to do."""

    def poll(self) -> None:
        """Wake the handlers that can go on; next to nothing to do if there are none."""

    def before_sleep(self) -> None:
        """Called when the loop has nothing left to do."""


class SessionLoop:
    """Serves the session that ``pyfuse3.init`` mounted until it is unmounted.

    *contents* serves the reads and writes. *sources* are looked at between any two requests, and
    not before the instant *next_due* (ns, monotonic), if nothing else happens.
    While *has_room* says no, no further request is taken. *on_end* is called once the kernel has
    ended the session: what still waits then waits for nothing.
    """

    def __init__(
        self,
        sources: Sequence[Source],
        contents: Contents,
        has_room: Callable[[], bool],
        on_end: Callable[[], None],
        next_due: Callable[[], int],
    ) -> None:
        self._next_due = next_due
        self._contents = contents
        self._has_room = has_room
        self._on_end = on_end
        self._polls = [source.poll for source in sources]
        self._before_sleep = [source.before_sleep for source in sources]
        self._fd = -1  # what pyfuse3 takes for the FUSE descriptor
        self._channel: Channel | None = None
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
        self._live_max = sys.maxsize
        self._asleep = False
        self._tidy = False  # whether nothing happened since memory was last given back
        self._turn_ends_ns = 0
        self._event_ns = 0  # when something last happened
        # How long nothing had happened before that: while the limiter held nothing, while it did.
        self._gaps_ns = [MAX_TURN_NS, MAX_TURN_NS]
        alone = len(os.sched_getaffinity(0)) == 1  # then others need the CPU to make it happen
        self._spin_ns = 0 if alone else SPIN_NS
        self._lead_ns = 0 if alone else ALARM_LEAD_NS

    async def run(self, max_sessions: int) -> None:
        """Serve up to *max_sessions* requests at a time; returns once the mount is gone."""
        pyfuse3.trio = seam.namespace(self)  # type: ignore[attr-defined]
        try:
            # min_tasks = max_tasks: sessions are retired here, when idle for a while, and not
            # by pyfuse3 after each request that waited.
            self._live_max = max_sessions
            await pyfuse3.main(min_tasks=max_sessions, max_tasks=max_sessions)
        finally:
            pyfuse3.trio = trio  # type: ignore[attr-defined]
            if self._channel is not None:
                self._channel.restore()
            self._epoll.close()
            os.close(self._bell)

    @types.coroutine
    def wait_readable(self, fd: int) -> Generator[object, None, None]:
        """For pyfuse3: wait for a request, which makes its session idle."""
        if fd != self._fd:
            self._adopt(fd)
        yield _IDLE

    def _adopt(self, fd: int) -> None:
        """Take over the FUSE descriptor, which pyfuse3 shows nowhere but here."""
        self._fd = fd
        self._channel = Channel(fd, self._contents, self._start_transfer, self._forward)
        self._epoll.register(self._channel.fd, 0)

    def notify_closing(self, _fd: int) -> None:
        """For pyfuse3: ``terminate`` has set its flag, and idle sessions are to see it."""
        self._end()
        os.eventfd_write(self._bell, 1)

    # -- sessions --------------------------------------------------------------------------

    @property
    def sessions(self) -> int:
        """How many there are: what waits, and those that are idle."""
        return self._live

    def start(self, session_loop: Callable[..., Coroutine[Any, Any, None]], *args: object) -> None:
        """Add a session; pyfuse3 does when none is idle."""
        self._live += 1
        self.make_ready(Session(self.make_ready, session_loop(*args)))

    def make_ready(self, session: Session) -> None:
        """Let *session* be run; from the thread of the loop."""
        self._ready.append(session)
        if self._asleep:
            os.eventfd_write(self._bell, 1)

    def _start_transfer(self, coroutine: Coroutine[Any, Any, Any], reply: Reply) -> None:
        self._live += 1
        self._run(Transfer(self.make_ready, coroutine, reply))

    def _forward(self) -> None:
        """A request is there for libfuse."""
        self._run(self._idle.pop())

    def _run(self, session: Session) -> None:
        """Run *session* until it is idle, waits or ends."""
        value, session.value = session.value, None
        waiting.running = session
        try:
            wanted = session.coroutine.send(value)
            while wanted is not _IDLE and wanted is not waiting.PARKED:
                mistake = RuntimeError("a handler may wait by throttlefs.waiting only")
                wanted = session.coroutine.throw(mistake)
        except StopIteration as stop:
            self._ended(session, stop.value)
            return
        except Exception as exc:
            self._failed(session, exc)
            return
        finally:
            waiting.running = None
        if wanted is waiting.PARKED:
            self._waiting.add(session)
            return
        self._waiting.discard(session)
        self._idle.append(session)
        if self._channel is not None:
            self._channel.pass_replies()

    def _ended(self, session: Session, result: object) -> None:
        self._live -= 1
        if isinstance(session, Transfer):
            self._waiting.discard(session)
            session.reply.done(result)
        else:
            if self._channel is not None:
                self._channel.pass_replies()
            self._on_end()

    def _failed(self, session: Session, error: Exception) -> None:
        self._live -= 1
        if not isinstance(session, Transfer):
            raise error
        self._waiting.discard(session)
        session.reply.failed(error)

    def _retire(self, count: int) -> None:
        """End *count* idle sessions, the longest idle first."""
        count = max(count, 0)
        for session in self._idle[:count]:
            try:
                session.coroutine.throw(seam.SessionEndedError())
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
        has_room, now_ns = self._has_room, time.monotonic_ns
        run(ready.popleft())  # makes the channel
        channel = self._channel
        assert channel is not None
        take = channel.take
        while self._live:
            worked = False
            if sleepers:  # else no source can have anything to do
                for poll in polls:
                    poll()
            while ready:
                run(ready.popleft())
                worked = True
            if idle and has_room() and self._live < self._live_max and take():
                worked = True
                if channel.ended:
                    self._end()
            if not worked:
                await self._sleep(channel)
            elif now_ns() > self._turn_ends_ns:
                await self._give_turn()

    async def _give_turn(self) -> None:
        """Let trio's other tasks run, which takes it some 30 us."""
        await trio.lowlevel.checkpoint()
        self._turn_ends_ns = time.monotonic_ns() + MAX_TURN_NS

    def _end(self) -> None:
        """The session is over: nothing more is taken, and what waits is to finish."""
        self._on_end()
        self._retire(len(self._idle))

    async def _sleep(self, channel: Channel) -> None:
        """Return when something may have happened."""
        for prepare in self._before_sleep:
            prepare()
        if self._ready:
            return
        wants_request = bool(self._idle) and self._has_room() and self._live < self._live_max
        if wants_request is not self._watching:
            self._watching = wants_request
            self._epoll.modify(channel.fd, select.EPOLLIN if wants_request else 0)
        began = time.monotonic_ns()
        until_due = self._next_due() - began
        turn_is_over = began > self._turn_ends_ns
        holds = until_due < _NOTHING_DUE_NS
        if until_due <= self._lead_ns and not (turn_is_over and until_due < -MAX_TURN_NS):
            # The alarm has gone off, or is about to, and nobody might see it a second time.
            self._watch(began, until_due)
        elif turn_is_over:
            # Now, as nothing is due: not between waking up and what was waited for.
            await self._give_turn()
            return
        elif began - self._event_ns > MAX_TURN_NS or not self._sleep_outside_trio(
            began, self._gaps_ns[holds] < self._spin_ns
        ):
            await self._sleep_in_trio(channel)
        self._event_ns = time.monotonic_ns()
        gap = self._event_ns - began
        # The alarm, of which one knows, says nothing about what else may come.
        self._gaps_ns[holds] = gap if gap < until_due - self._lead_ns else MAX_TURN_NS

    def _sleep_outside_trio(self, began: int, look: bool) -> bool:
        """Wait for up to 1 ms without trio, for whose 20 us per wake-up two requests can be had.

        trio's other tasks are late by no more than that: the loop sleeps here only if something
        happened within the last millisecond.
        """
        if look and self._watch(began, self._spin_ns):
            return True
        return bool(self._epoll.poll(MAX_TURN_NS / 1e9, _EVENTS))

    def _watch(self, began: int, duration: int) -> bool:
        """Look for an event until *duration* ns after *began*; whether there was one."""
        poll, now_ns = self._epoll.poll, time.monotonic_ns
        # If nothing waits here, the client is to cause the event, and its thread may be waiting
        # for this very CPU: of iops=3000 at queue depth 1, 2 % came 200 us late for that.
        is_the_clients_turn = not self._waiting
        while now_ns() - began < duration:
            if poll(0, _EVENTS):
                return True
            if is_the_clients_turn:
                os.sched_yield()
        return False

    async def _sleep_in_trio(self, channel: Channel) -> None:
        self._asleep = True
        try:
            if self._tidy:
                await trio.lowlevel.wait_readable(self._epoll.fileno())
            else:
                with trio.move_on_after(_RETIRE_AFTER_S) as scope:
                    await trio.lowlevel.wait_readable(self._epoll.fileno())
                if scope.cancelled_caught:
                    self._retire(len(self._idle) - 1)
                    channel.tidy()
                    memory.give_back()
                    self._tidy = True
                    return
        finally:
            self._asleep = False
        self._tidy = False
        self._epoll.poll(0, _EVENTS)  # takes the edge-triggered events off the list
        self._turn_ends_ns = time.monotonic_ns() + MAX_TURN_NS

    def _wind_down(self) -> None:
        """Cancelled: end every handler that can be, and see the others to their end."""
        deadline = time.monotonic() + _WIND_DOWN_S
        for session in list(self._waiting):
            if session.abort is not None and session.abort(_never) is trio.lowlevel.Abort.SUCCEEDED:
                self._waiting.discard(session)
                session.coroutine.close()
                if isinstance(session, Transfer):
                    session.reply.drop()
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
