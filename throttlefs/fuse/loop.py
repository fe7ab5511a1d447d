"""The session loop: takes requests from the kernel and runs the handlers that wait.

A trio task for each request would cost more than the request itself. Here a handler that waits (for
its limit, its I/O, a thread) is a coroutine, a `Work`. It waits through `throttlefs.waiting`, and
this loop resumes it when the wait is over.

One epoll set holds everything that can wake the loop: the FUSE descriptor and each `Source`. For
trio the loop is a single task that waits for that set. While many requests come, the loop sleeps
without trio, for up to `pacing.MAX_TURN_NS` at a time; `Pacing` decides.
"""

from __future__ import annotations

import errno
import os
import select
import time
from collections import deque
from collections.abc import Callable, Coroutine, Sequence
from typing import Any, Protocol

import trio

from throttlefs import waiting
from throttlefs.host import memory
from throttlefs.host.cpus import usable_cpus

from .channel import Channel
from .interrupts import Interrupts
from .pacing import MAX_TURN_NS, Pacing, Step
from .replies import Reply
from .work import Work

_EVENTS = 8
"""Room for the descriptors in the epoll set; more would be allocated for each call."""

_TIDY_AFTER_S = 1.0
"""Seconds without any event after which memory is given back."""

_LOOK_AT_CPUS_S = 5.0
"""Seconds between two looks at how many CPUs the loop may use."""

_WIND_DOWN_S = 10.0


class Source(Protocol):
    """Something that lets waiting handlers go on."""

    def fileno(self) -> int:
        """A descriptor that becomes readable when `poll` has something to do."""

    def poll(self) -> None:
        """Wake the handlers that can go on; costs next to nothing if there are none."""

    def before_sleep(self) -> None:
        """Called when the loop has nothing left to do."""


class TimedSource(Source, Protocol):
    """The limiter: a source that knows when it has something to do."""

    def next_due(self) -> int:
        """The instant (ns, monotonic) before which `poll` has nothing to do."""

    def lead_alarm(self, lead_ns: int) -> None:
        """Let its descriptor become readable *lead_ns* before that instant, from now on."""


class SessionLoop:
    """Serves a mount until the kernel ends it.

    The loop polls the *limiter* and all *sources* between any two requests. While *has_room* says
    no, it takes no further request. It calls *on_end* when the kernel has ended the session:
    requests that still wait then wait for nothing. *threads_work* says whether threads run calls:
    a loop that looks for events would keep Python's lock from them (unlink took 227 us, and 164 us
    without).
    """

    def __init__(
        self,
        limiter: TimedSource,
        sources: Sequence[Source],
        has_room: Callable[[], bool],
        on_end: Callable[[], None],
        threads_work: Callable[[], bool] = lambda: False,
        cpus: Callable[[], float] = usable_cpus,
    ) -> None:
        self._limiter = limiter
        self._has_room = has_room
        self._on_end = on_end
        self._threads_work = threads_work
        self._cpus = cpus
        sources = (limiter, *sources)
        self._polls = [source.poll for source in sources]
        self._before_sleep = [source.before_sleep for source in sources]
        self._epoll = select.epoll()
        self._watching = False  # whether the FUSE descriptor is in the epoll set
        self._bell = os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC)
        for fd in (self._bell, *(source.fileno() for source in sources)):
            # They are edge-triggered, so nobody has to read these descriptors.
            self._epoll.register(fd, select.EPOLLIN | select.EPOLLET)
        self._ready: deque[Work] = deque()
        self._waiting: dict[int, Work] = {}  # by the unique number of the request
        self.interrupts = Interrupts(self._waiting, self.withdraw)
        self._ended = False
        self._asleep = False
        self._tidy = False  # whether nothing happened since memory was last given back
        self._known_cpus = cpus()
        self._pacing = Pacing(self._known_cpus)
        limiter.lead_alarm(self._pacing.lead_ns)

    def close(self) -> None:
        """Close the loop's own descriptors."""
        self.interrupts.close()
        self._epoll.close()
        os.close(self._bell)

    @property
    def waiting(self) -> int:
        """How many requests wait or are under way."""
        return len(self._waiting)

    # -- handlers --------------------------------------------------------------------------

    def start(self, coroutine: Coroutine[Any, Any, Any], reply: Reply) -> None:
        """Run *coroutine* until it waits or ends; *reply* gets its result."""
        self._run(Work(self._make_ready, coroutine, reply))

    def _make_ready(self, work: Work) -> None:
        """Let *work* be run; call this in the thread of the loop."""
        self._ready.append(work)
        if self._asleep:
            os.eventfd_write(self._bell, 1)

    def _run(self, work: Work) -> None:
        value, work.value = work.value, None
        self._advance(work, work.coroutine.send, value)

    def _advance(self, work: Work, advance: Callable[[Any], object], value: object) -> None:
        """Let the coroutine of *work* go on by *advance* until it waits or ends."""
        waiting.running = work
        try:
            wanted = advance(value)
            while wanted is not waiting.PARKED:
                mistake = RuntimeError("a handler may wait by throttlefs.waiting only")
                wanted = work.coroutine.throw(mistake)
        except StopIteration as stop:
            self._waiting.pop(work.reply.unique, None)
            work.reply.done(stop.value)
        except Exception as exc:
            self._waiting.pop(work.reply.unique, None)
            work.reply.failed(exc)
        except waiting.Withdrawn as exc:
            self._waiting.pop(work.reply.unique, None)
            work.reply.failed(OSError(exc.errno, os.strerror(exc.errno)))
        else:
            self._waiting[work.reply.unique] = work
            if work.abort is not waiting.when_done:
                self._may_be_withdrawn(work)
        finally:
            waiting.running = None

    def _may_be_withdrawn(self, work: Work) -> None:
        interrupts = self.interrupts
        interrupts.begins_to_wait(work)
        if interrupts.doomed and work.reply.owner in interrupts.doomed:
            self.withdraw(work)

    def withdraw_all(self, number: int) -> None:
        """Let all requests end with the errno *number* that wait for what they need not."""
        for work in list(self._waiting.values()):
            self.withdraw(work, number)

    def withdraw(self, work: Work, number: int = errno.EINTR) -> None:
        """Let *work* end without a result, if it waits for what need not be waited for."""
        if work.abort is None or work.abort(_never) is not trio.lowlevel.Abort.SUCCEEDED:
            return
        work.abort = None
        self._advance(work, work.coroutine.throw, waiting.Withdrawn(number))
        if self._asleep:  # there may be room for another request now
            os.eventfd_write(self._bell, 1)

    # -- the loop --------------------------------------------------------------------------

    async def serve(self, channel: Channel) -> None:
        """Serve *channel* until the kernel has ended it and all waiting handlers have ended too."""
        self._epoll.register(channel.fd, 0)
        try:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(self._look_at_cpus)
                nursery.start_soon(self.interrupts.run, channel.refuse_doomed)
                await self._serve(channel)
                nursery.cancel_scope.cancel()
        except BaseException:
            self._wind_down()
            raise

    async def _serve(self, channel: Channel) -> None:
        ready, sleepers, run = self._ready, self._waiting, self._run
        polls, pacing = self._polls, self._pacing
        has_room, take, now_ns = self._has_room, channel.take, time.monotonic_ns
        while not self._ended or sleepers:
            worked = False
            if sleepers:  # else no source can have anything to do
                for poll in polls:
                    poll()
            while ready:
                run(ready.popleft())
                worked = True
            if not self._ended and has_room() and take():
                worked = True
                if channel.ended:
                    self._ended = True
                    self._epoll.unregister(channel.fd)
                    self._on_end()
            if not worked:
                await self._rest(channel)
                continue
            self._tidy = False
            if pacing.turn_is_over(now_ns()):
                await self._give_turn()

    async def _give_turn(self) -> None:
        """Let trio's other tasks run, which takes it some 30 us."""
        await trio.lowlevel.checkpoint()
        self._pacing.turn_was_given(time.monotonic_ns())

    async def _look_at_cpus(self) -> None:
        """Notice when the number of usable CPUs changes."""
        while True:
            await trio.sleep(_LOOK_AT_CPUS_S)
            cpus = self._cpus()
            if cpus != self._known_cpus:
                self._known_cpus = cpus
                self._pacing.set_cpus(cpus)
                self._limiter.lead_alarm(self._pacing.lead_ns)

    async def _rest(self, channel: Channel) -> None:
        """Return when something may have happened."""
        for prepare in self._before_sleep:
            prepare()
        if self._ready:
            return
        wants_request = self._has_room()
        if wants_request is not self._watching and not self._ended:
            self._watching = wants_request
            self.interrupts.set_deaf(not wants_request)
            self._epoll.modify(channel.fd, select.EPOLLIN if wants_request else 0)
        pacing, now_ns = self._pacing, time.monotonic_ns
        step = pacing.next_step(now_ns(), self._limiter.next_due(), self._threads_work())
        if step is Step.TURN:
            await self._give_turn()
            return
        if step is Step.SLEEP:
            if not await self._sleep_in_trio(channel):
                return
        elif step is Step.WATCH:
            self._look(pacing.look_until)
        elif not (step is Step.LOOK and self._look(pacing.look_until)) and not self._nap():
            return
        pacing.woke(now_ns())

    def _nap(self) -> bool:
        """Sleep for up to 1 ms without trio, whose wake-up takes 20 us, as long as two requests.

        Whether there was an event.
        """
        return bool(self._epoll.poll(MAX_TURN_NS / 1e9, _EVENTS))

    def _look(self, until: int) -> bool:
        """Look for an event until the instant *until*; whether there was one."""
        poll, now_ns = self._epoll.poll, time.monotonic_ns
        # If nothing waits here, the client causes the next event, and its thread may be waiting for
        # this very CPU: with iops=3000 at queue depth 1, 2 % of requests came 200 us late for that.
        is_the_clients_turn = not self._waiting
        while now_ns() < until:
            if poll(0, _EVENTS):
                return True
            if is_the_clients_turn:
                os.sched_yield()
        return False

    async def _sleep_in_trio(self, channel: Channel) -> bool:
        """Returns whether there was an event."""
        self._asleep = True
        try:
            if self._tidy:
                await trio.lowlevel.wait_readable(self._epoll.fileno())
            else:
                with trio.move_on_after(_TIDY_AFTER_S) as scope:
                    await trio.lowlevel.wait_readable(self._epoll.fileno())
                if scope.cancelled_caught:
                    channel.tidy()
                    memory.give_back()
                    self._tidy = True
                    return False
        finally:
            self._asleep = False
        self._epoll.poll(0, _EVENTS)  # takes the edge-triggered events off the list
        self._pacing.turn_was_given(time.monotonic_ns())
        return True

    def _wind_down(self) -> None:
        """After a cancellation, end all handlers that can be ended, and wait for the others."""
        deadline = time.monotonic() + _WIND_DOWN_S
        for unique, work in list(self._waiting.items()):
            if work.abort is not None and work.abort(_never) is trio.lowlevel.Abort.SUCCEEDED:
                del self._waiting[unique]
                work.coroutine.close()
        while self._waiting and time.monotonic() < deadline:
            for step in (*self._before_sleep, *self._polls):
                step()
            while self._ready:
                self._run(self._ready.popleft())
            time.sleep(0.001)


def _never() -> Any:
    raise AssertionError("a handler's coroutine is closed, not cancelled")
