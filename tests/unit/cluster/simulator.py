"""Hosts that share a limit, on a virtual clock: real limiters and keepers, a model store."""

from __future__ import annotations

import heapq
import random
from collections.abc import Callable, Iterator
from itertools import count, repeat

from tests.unit.cluster.store_model import StoreModel
from throttlefs.cluster.keeper import CALL_NS, Keeper, State
from throttlefs.cluster.messages import Answer, Call, decode_answer, whole_rates
from throttlefs.cluster.share import GroupShare
from throttlefs.settings.limits import NO_LIMITS, Limits
from throttlefs.settings.shared import OnLost
from throttlefs.throttle import READ, Image, Override, Rates, Throttle
from throttlefs.throttle.request import Request

SECOND = 1_000_000_000
MS = 1_000_000
START = 1000 * SECOND
SERVER_TIME = 1_700_000_000_000_000
"""µs of the server's clock at the beginning."""

KIB, MIB = 1 << 10, 1 << 20


class SimAlarm:
    def __init__(self, host: SimHost) -> None:
        self._host = host
        self._number = 0

    def set(self, instant: int | None) -> None:
        self._number += 1
        if instant is not None:
            number = self._number
            late = self._host.world.lateness
            self._host.at(instant + late, lambda: self._ring(number))

    def _ring(self, number: int) -> None:
        if number == self._number:
            self._host.throttle.dispatcher._alarm_at = -1  # as its own task does
            self._host.throttle.dispatcher.poll()
            self._host.throttle.dispatcher._set_alarm()

    async def wait(self) -> None:
        raise AssertionError

    def fileno(self) -> int:
        raise AssertionError

    def close(self) -> None:
        raise AssertionError


class Client:
    """Keeps *depth* requests waiting; its ``owner`` role is that of a handler that waits."""

    abort = None

    def __init__(
        self, host: SimHost, image: Image, sizes: Iterator[int], direction: int, pause: int
    ) -> None:
        self.host, self.image, self.sizes = host, image, sizes
        self.direction, self.pause = direction, pause
        self.stopped = False
        self.bytes = 0
        self.waits: list[int] = []
        self._size = 0

    def ask(self) -> None:
        if self.stopped:
            return
        size = next(self.sizes)
        if self.image.try_admit(self.direction, size):
            self._went(size, 0)
            return
        dispatcher = self.host.throttle.dispatcher
        owner = _Waiting(self, size)
        request = Request(self.direction, size, owner)
        self.image.settle()
        dispatcher.enqueue(self.image, request)
        if not request.waits:
            self._went(size, 0)

    def _went(self, size: int, waited: int) -> None:
        self.bytes += size
        self.waits.append(waited)
        self.host.world.note(self, size)
        self.host.at(self.host.world.now + self.pause, self.ask)


class _Waiting:
    """One request of a client."""

    abort = None

    def __init__(self, client: Client, size: int) -> None:
        self._client, self._size = client, size

    def resume(self, value: object) -> None:
        assert isinstance(value, int)
        self._client._went(self._size, value)


class SimHost:
    def __init__(self, world: World, name: str, limits: Limits, on_lost: OnLost) -> None:
        self.world = world
        self.name = name
        self.alive = True
        self.paused_until = 0
        self.cut_off = False
        self.throttle = Throttle(
            clock=lambda: world.now, alarm=SimAlarm(self), lease_clock=lambda: world.now
        )
        self.group = self.throttle.create_group("tenant", limits, shared=True)
        self.changes: list[tuple[int, State]] = []
        self.calls = 0
        self.keeper = Keeper(
            GroupShare(self.throttle, self.group),
            name,
            name,
            on_lost,
            world.now,
            lambda _, after: self.changes.append((world.now, after)),
        )
        self.group.on_demand = self._wanted
        self.group.on_change = self._poke
        self._woken_for = -1
        self._call: Call | None = None
        self._poke()

    # Events.

    def at(self, instant: int, action: Callable[[], None]) -> None:
        """Do *action* at *instant*, or when the host runs again."""

        def run() -> None:
            if not self.alive:
                return
            if self.world.now < self.paused_until:
                self.world.at(self.paused_until, run)
            else:
                action()

        self.world.at(instant, run)

    def _wanted(self, direction: int) -> None:
        self.keeper.wanted(direction)
        self._poke()

    def _poke(self) -> None:
        self.at(self.world.now, self.step)

    def step(self) -> None:
        keeper, now = self.keeper, self.world.now
        keeper.tick(now)
        call = keeper.next_call(now)
        if call is not None:
            self._call = call
            self.calls += 1
            self.at(now + CALL_NS + 1, lambda: self._timed_out(call))
            self.world.send(self, call)
        wake = keeper.wake_at(now)
        if wake != self._woken_for:
            self._woken_for = wake
            self.at(max(wake, now + 1), lambda: self._wake(wake))
        self.world.check()

    def _wake(self, wake: int) -> None:
        if wake == self._woken_for:
            self._woken_for = -1
            self.step()

    def _timed_out(self, call: Call) -> None:
        if self._call is call:
            self._call = None
            self.keeper.failed(self.world.now)
            self.step()

    def read(self, call: Call, answer: Answer | None) -> None:
        if self._call is not call:
            return
        self._call = None
        if answer is None:
            self.keeper.failed(self.world.now)
        else:
            self.keeper.answered(answer, self.world.now)
        self.step()

    def refused(self, call: Call) -> None:
        if self._call is call:
            self._call = None
            self.keeper.failed(self.world.now)
            self.step()

    def hint(self) -> None:
        self.keeper.hinted()
        self.step()

    # What a test does.

    def image(self, key: str, limits: Limits = NO_LIMITS, weight: int = 100) -> Image:
        image = self.throttle.image(key)
        self.throttle.set_override(image, Override(limits, "tenant", weight))
        return image

    def client(
        self,
        key: str,
        size: int | Iterator[int] = 256 * KIB,
        depth: int = 16,
        *,
        direction: int = READ,
        weight: int = 100,
        limits: Limits = NO_LIMITS,
        pause: int = 0,
    ) -> Client:
        sizes = repeat(size) if isinstance(size, int) else size
        client = Client(self, self.image(key, limits, weight), sizes, direction, pause)
        for _ in range(depth):
            self.at(self.world.now, client.ask)
        return client

    def kill(self) -> None:
        self.alive = False

    def pause(self, ns: int) -> None:
        self.paused_until = self.world.now + ns

    def in_force(self) -> Rates:
        """What it may use at this instant."""
        meter = self.group.meter
        if not self.alive or meter.leases[0].until <= self.world.now:
            return (0.0,) * 6
        return meter.held


class World:
    """All hosts, the store and the network between them."""

    def __init__(self, limits: Limits, seed: int = 1) -> None:
        self.now = START
        self.limits = limits
        self.random = random.Random(seed)
        self.store = StoreModel()
        self.store_is_up = True
        self.store_clock = 0  # µs that the server's clock is off
        self.loss = 0.0
        self.lateness = 0  # ns by which every alarm of a host rings too late
        self.delay: Callable[[], int] = lambda: self.random.randint(250_000, 750_000)
        self.hosts: list[SimHost] = []
        self.went: list[tuple[int, Client, int]] = []
        self.keep = True
        self.excused = False
        """Whether the sum may pass the limit at present: a named exception."""
        self.highest = 0.0
        self.tolerated = 1.0
        """By how much the sum may pass the limit at any time."""
        self._names = count()
        self._events: list[tuple[int, int, Callable[[], None]]] = []
        self._count = count()

    def host(self, on_lost: OnLost = OnLost.SHARE) -> SimHost:
        host = SimHost(self, f"host{next(self._names):03}", self.limits, on_lost)
        self.hosts.append(host)
        return host

    def at(self, instant: int, action: Callable[[], None]) -> None:
        heapq.heappush(self._events, (instant, next(self._count), action))

    def run(self, seconds: float) -> None:
        end = self.now + round(seconds * SECOND)
        events = self._events
        while events and events[0][0] <= end:
            instant, _, action = heapq.heappop(events)
            self.now = max(self.now, instant)
            action()
        self.now = end

    # The network and the store.

    def _lost(self, host: SimHost) -> bool:
        return host.cut_off or self.random.random() < self.loss

    def send(self, host: SimHost, call: Call) -> None:
        if not self._lost(host):
            arguments = call.arguments()
            self.at(self.now + self.delay(), lambda: self._arrive(host, call, arguments))

    def _arrive(self, host: SimHost, call: Call, arguments: list[str]) -> None:
        if not self.store_is_up:
            host.at(self.now + self.delay(), lambda: host.refused(call))
            return
        self.store.now = SERVER_TIME + self.now // 1000 + self.store_clock
        reply = self.store.call(arguments)
        for message in self.store.published:
            for other in self.hosts:
                if (message == "*" or other.name in message.split()) and not self._lost(other):
                    other.at(self.now + self.delay(), other.hint)
        self.store.published.clear()
        if not self._lost(host):
            answer = decode_answer(reply)
            host.at(self.now + self.delay(), lambda: host.read(call, answer))

    # What is looked at.

    def note(self, client: Client, size: int) -> None:
        if self.keep:
            self.went.append((self.now, client, size))

    def check(self) -> None:
        """The sum of the rates in force never passes the limit."""
        whole = whole_rates(self.limits)
        sums = [0.0] * 6
        for host in self.hosts:
            for d, rate in enumerate(host.in_force()):
                sums[d] += rate
        for total, rate in zip(sums, whole, strict=True):
            if rate:
                self.highest = max(self.highest, total / rate)
                within = total <= rate * (self.tolerated + 1e-9)
                assert self.excused or within, (self.now - START, sums)

    def rates(self, seconds: float) -> dict[Client, float]:
        """What each client got (bytes/s) in the last *seconds*."""
        since = self.now - seconds * SECOND
        found: dict[Client, float] = {}
        for instant, client, size in reversed(self.went):
            if instant < since:
                break
            found[client] = found.get(client, 0) + size / seconds
        return found

    def total(self, since: float, until: float) -> float:
        """Bytes a second between two instants (s since START)."""
        low, high = START + since * SECOND, START + until * SECOND
        return sum(size for instant, _, size in self.went if low <= instant < high) / (
            until - since
        )

    def largest_window(self, seconds: float) -> int:
        """The most bytes that went in any window of *seconds*."""
        window, low, total, most = round(seconds * SECOND), 0, 0, 0
        for instant, _, size in self.went:
            total += size
            while self.went[low][0] <= instant - window:
                total -= self.went[low][2]
                low += 1
            most = max(most, total)
        return most
