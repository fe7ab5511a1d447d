"""The session loop: takes requests from the kernel and runs the handlers that wait.

A trio task for each request would cost more than the request itself. Here a handler that waits (for
its limit, its I/O, a thread) is a coroutine, a `Work`. It waits through `throttlefs.waiting`, and
this loop resumes it when the wait is over.

One epoll set holds everything that can wake the loop: the FUSE descriptor and each `Source`. For
trio the loop is a single task that waits for that set. While many requests come, the loop sleeps
without trio, for up to `pacing.MAX_NAP_NS` at a time; `Pacing` decides.
"""

from __future__ import annotations

import errno
import os
import select
import time
from collections import deque
from collections.abc import Callable, Coroutine, Sequence
from typing import Any

import trio

from throttlefs import waiting
from throttlefs.host import memory
from throttlefs.host.cpus import usable_cpus

from .channel import Channel
from .interrupts import Interrupts
from .pacing import MAX_NAP_NS, Pacing, Step
from .replies import Reply
from .sources import Limiter, Plan, QueueingSource, Source
from .trio_turns import TrioTurns
from .work import Work

_EVENTS = 8
"""Room for the descriptors in the epoll set; more would be allocated for each call."""

_Events = Sequence[tuple[int, int]]
"""What epoll returns: descriptors and what happened to them."""

_MAY_BE_ANY: _Events = ((-1, select.EPOLLIN),)

_REQUEST = 1
_SOURCE = 2
"""What may have something to do when the loop has rested, beside the limiter."""

_TURN_AT_LEAST_NS = 10_000_000
"""After so long trio gets a turn even if it seems to have nothing to do."""

_TIDY_AFTER_S = 1.0
"""Seconds without any event after which memory is given back."""

_LOOK_AT_CPUS_S = 5.0
"""Seconds between two looks at how many CPUs the loop may use."""

_WIND_DOWN_S = 10.0


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
        limiter: Limiter,
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
        self._alarm_fd = limiter.fileno()
        self._poll_limiter = limiter.poll
        self._polls = [source.poll for source in sources]
        self._before_sleep = [
            source.before_sleep for source in sources if isinstance(source, QueueingSource)
        ]
        self._epoll = select.epoll()
        self._watching = False  # whether the FUSE descriptor is in the epoll set
        self._bell = os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC)
        for fd in (self._bell, *(source.fileno() for source in (limiter, *sources))):
            # They are edge-triggered, so nobody has to read these descriptors.
            self._epoll.register(fd, select.EPOLLIN | select.EPOLLET)
        self._ready: deque[Work] = deque()
        self._waiting: dict[int, Work] = {}  # by the unique number of the request
        self.interrupts = Interrupts(self._waiting, self.withdraw)
        self._trio = TrioTurns()
        self._no_turn_until = 0
        self._ended = False
        self._asleep = False
        self._taken = 0  # requests
        self._had_room = True
        self._lead_ns = -1  # as the limiter knows it
        self._tidy = False  # whether nothing happened since memory was last given back
        self._known_cpus = cpus()
        self._pacing = Pacing(self._known_cpus)
        self._pace_limiter()

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
                with self._trio:
                    await self._serve(channel)
                nursery.cancel_scope.cancel()
        except BaseException:
            self._wind_down()
            raise

    async def _serve(self, channel: Channel) -> None:
        ready, sleepers, run = self._ready, self._waiting, self._run
        poll_limiter, polls, pacing = self._poll_limiter, self._polls, self._pacing
        has_room, take, now_ns = self._has_room, channel.take, time.monotonic_ns
        news = _REQUEST | _SOURCE
        passes = 0  # of this loop since the last rest
        while not self._ended or sleepers:
            worked = False
            if sleepers:  # else no source can have anything to do
                poll_limiter()
                if news & _SOURCE:
                    for poll in polls:
                        poll()
            while ready:
                run(ready.popleft())
                worked = True
            if news & _REQUEST and not self._ended and has_room() and take():
                worked = True
                self._taken += 1
                if channel.ended:
                    self._ended = True
                    self._epoll.unregister(channel.fd)
                    self._on_end()
            if not worked:
                news = await self._rest(channel)
                passes = 0
                continue
            self._tidy = False
            passes += 1
            if passes > 1:  # in the first, what the limiter let go was answered
                news = _REQUEST | _SOURCE
            if now_ns() > pacing.turn_ends:
                await self._give_turn()

    async def _give_turn(self) -> bool:
        """Let trio's other tasks run, if they can; whether they did."""
        now = time.monotonic_ns()
        is_given = now > self._no_turn_until or self._trio.is_needed()
        if is_given:
            await trio.lowlevel.checkpoint()
            now = time.monotonic_ns()
            self._no_turn_until = now + _TURN_AT_LEAST_NS
        self._pacing.turn_was_given(now)
        return is_given

    async def _look_at_cpus(self) -> None:
        """Notice when the number of usable CPUs changes."""
        while True:
            await trio.sleep(_LOOK_AT_CPUS_S)
            cpus = self._cpus()
            if cpus != self._known_cpus:
                self._known_cpus = cpus
                self._pacing.set_cpus(cpus)
                self._pace_limiter()

    def _pace_limiter(self) -> None:
        pacing = self._pacing
        self._lead_ns = pacing.lead_ns
        self._limiter.pace(pacing.lead_ns, pacing.wake_ns)

    async def _rest(self, channel: Channel) -> int:
        """Return when something may have happened: `_REQUEST`, `_SOURCE`, both or neither."""
        for prepare in self._before_sleep:
            prepare()
        if self._ready:
            return _REQUEST | _SOURCE
        pacing, now_ns = self._pacing, time.monotonic_ns
        step, plan = self._next_step()
        if step is Step.TURN:
            if await self._give_turn():
                return _REQUEST | _SOURCE
            step, plan = self._next_step()
        hushed = plan.is_hushed and step is Step.NAP
        slept = False
        if step is Step.WATCH:
            events = self._look(pacing.look_until)
        else:
            self._prepare_sleep(channel, hushed)
            events = self._look(pacing.look_until) if step is Step.LOOK else ()
            if not events:
                slept = True
                if step is not Step.SLEEP:
                    # Without trio, whose wake-up takes 20 us, as long as two requests.
                    events = self._epoll.poll(MAX_NAP_NS / 1e9, _EVENTS)
                elif await self._sleep_in_trio(channel):
                    events = _MAY_BE_ANY
        if not events and step is not Step.WATCH and not hushed:
            return 0
        now = now_ns()
        if events or not hushed:
            pacing.woke(now)
            if pacing.lead_ns != self._lead_ns:
                self._pace_limiter()
        news = self._news(events, channel.fd)
        if hushed and now >= plan.at:
            self._listen_again(plan.listen_at)
            return news | _REQUEST
        if slept and news & _REQUEST:
            self._limiter.slept(pacing.wake_ns)
        return news

    def _listen_again(self, instant: int) -> None:
        """Read requests from *instant* on, which is at hand."""
        now_ns = time.monotonic_ns
        while (now := now_ns()) < instant:
            pass
        self._limiter.listens_again(now)

    def _next_step(self) -> tuple[Step, Plan]:
        now = time.monotonic_ns()
        plan = self._limiter.plan(now, self._taken)
        step = self._pacing.next_step(
            now,
            plan.due,
            plan.at,
            hushed=plan.is_hushed,
            arrivals=plan.arrivals,
            threads_work=self._threads_work,
        )
        return step, plan

    def _prepare_sleep(self, channel: Channel, hushed: bool) -> None:
        """Set the alarm, and see that a request wakes the loop, or none if it is *hushed*."""
        self._limiter.before_sleep()
        room = self._has_room()
        if room is not self._had_room:
            self._had_room = room
            self.interrupts.set_deaf(not room)
        wants_request = room and not hushed
        if wants_request is not self._watching and not self._ended:
            self._watching = wants_request
            self._epoll.modify(channel.fd, select.EPOLLIN if wants_request else 0)

    def _news(self, events: _Events, channel_fd: int) -> int:
        news = 0
        for fd, _ in events:
            if fd == channel_fd:
                news |= _REQUEST
            elif fd != self._alarm_fd:
                news |= _SOURCE if fd >= 0 else _REQUEST | _SOURCE
        return news

    def _look(self, until: int) -> _Events:
        """Look for events until the instant *until*."""
        poll, now_ns = self._epoll.poll, time.monotonic_ns
        # If nothing waits here, the client causes the next event, and its thread may be waiting for
        # this very CPU: with iops=3000 at queue depth 1, 2 % of requests came 200 us late for that.
        is_the_clients_turn = not self._waiting
        while now_ns() < until:
            if events := poll(0, _EVENTS):
                return events
            if is_the_clients_turn:
                os.sched_yield()
        return ()

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
            for step in (*self._before_sleep, self._poll_limiter, *self._polls):
                step()
            while self._ready:
                self._run(self._ready.popleft())
            time.sleep(0.001)


def _never() -> Any:
    raise AssertionError("a handler's coroutine is closed, not cancelled")
