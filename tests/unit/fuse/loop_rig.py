"""A session loop with scripted sources, and a socket in the place of the kernel."""

from __future__ import annotations

import os
import socket
from collections.abc import Callable, Coroutine
from itertools import count

import trio

from throttlefs import waiting
from throttlefs.fuse.loop import SessionLoop


class Source:
    """A source that a test can ring from anywhere, a thread included."""

    def __init__(self) -> None:
        self.fd = os.eventfd(0, os.EFD_NONBLOCK)
        self.to_wake: list[tuple[object, object]] = []
        self.sleeps = 0

    def fileno(self) -> int:
        return self.fd

    def poll(self) -> None:
        while self.to_wake:
            waiter, value = self.to_wake.pop(0)
            waiting.wake(waiter, value)  # type: ignore[arg-type]

    def before_sleep(self) -> None:
        self.sleeps += 1

    def wake(self, waiter: object, value: object = None) -> None:
        self.to_wake.append((waiter, value))
        os.eventfd_write(self.fd, 1)


NEVER = 1 << 63


class Limiter(Source):
    """The source that knows when it has something to do."""

    def __init__(self) -> None:
        super().__init__()
        self.due = NEVER
        self.leads: list[int] = []
        self.arrivals = 0
        self.at = NEVER
        self.hushes = False
        self.is_hushed = False
        self.listen_at = 0
        self.times_hushed = 0
        self.slept_ns: list[int] = []

    def plan(self, now: int, taken: int) -> Limiter:
        self.at = self.due - self.leads[-1] if self.due < NEVER else NEVER
        self.is_hushed = self.hushes
        if self.hushes:
            self.at = self.listen_at = now + 100_000  # no event says so: the loop's nap is over
        return self

    def listens_again(self, now: int) -> None:
        self.times_hushed += 1

    def slept(self, wake_ns: int) -> None:
        self.slept_ns.append(wake_ns)

    def pace(self, lead_ns: int, wake_ns: int) -> None:
        self.leads.append(lead_ns)


class Reply:
    """Notes what the kernel would be told."""

    def __init__(self, rig: Rig) -> None:
        self.rig = rig
        self.unique = next(rig.uniques)
        self.owner = rig.owner

    def done(self, result: object) -> None:
        self.rig.replies.append(result)

    def failed(self, error: Exception) -> None:
        self.rig.replies.append(error)


class SocketChannel:
    """What the loop asks of a `Channel`, with a handler for whatever comes."""

    def __init__(self, rig: Rig) -> None:
        self.rig = rig
        self.fd = rig.fuse.fileno()
        self.ended = False
        self.tidied = 0

    def take(self) -> bool:
        try:
            request = self.rig.fuse.recv(100)
        except BlockingIOError:
            return False
        if request:
            self.rig.loop.start(self.rig.handler(request), Reply(self.rig))
        else:
            self.ended = True
        return True

    def tidy(self) -> None:
        self.tidied += 1

    def refuse_doomed(self) -> None:
        pass


class Rig:
    """A loop and the kernel's end of its descriptor."""

    def __init__(self) -> None:
        self.kernel, self.fuse = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self.fuse.setblocking(False)
        self.limiter = Limiter()
        self.source = Source()
        self.room = True
        self.ended = 0
        self.uniques = count(1)
        self.owner = 0
        self.cpus = 2.0
        self.loop = SessionLoop(
            self.limiter, [self.source], lambda: self.room, self._on_end, cpus=lambda: self.cpus
        )
        self.channel = SocketChannel(self)
        self.handled: list[bytes] = []
        self.replies: list[object] = []
        self.handler: Callable[[bytes], Coroutine[object, object, object]] = self.reply

    def _on_end(self) -> None:
        self.ended += 1

    async def reply(self, request: bytes) -> None:
        self.handled.append(request)

    def request(self, data: bytes) -> None:
        self.kernel.send(data)

    def unmount(self) -> None:
        self.kernel.close()

    async def serve(self) -> None:
        await self.loop.serve(self.channel)  # type: ignore[arg-type]


def run(rig: Rig, script: Callable[[Rig], object]) -> None:
    async def main() -> None:
        with trio.fail_after(20):
            async with trio.open_nursery() as nursery:
                nursery.start_soon(rig.serve)
                await script(rig)  # type: ignore[misc]

    trio.run(main)


async def until(condition: Callable[[], bool]) -> None:
    while not condition():
        await trio.sleep(0.001)
