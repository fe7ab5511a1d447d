"""Knows whose requests wait, when to look at these owners, and which requests to withdraw.

Pure: instants (ns since boot) and what /proc showed go in; looks and requests to withdraw come out.

The kernel sends INTERRUPT for any signal, once for a request, and says neither which signal it was
nor whether the program handles it. A program that gets EINTR for a signal that it handles breaks.
So only requests of owners that are dying are withdrawn:

- A request that was interrupted, and still waits, has its owner looked at every `LOOK_NS`: SIGKILL
  may come after the signal of the INTERRUPT, and no second INTERRUPT comes.
- Asynchronous requests (AIO, io_uring) get no INTERRUPT. So owners of what has waited for `LONG_NS`
  are looked at every `SCAN_NS`.

Who is gone, or cannot be seen, is no proof: his requests go on. Linux may let a program that used
io_uring go before its requests are answered; only since 6.15 it says what such a one died of.

An owner is a process. The kernel names the *thread* that asked, which may have ended since, and
whose id may be given to another. So the process is looked up as soon as the thread begins to wait:
whose thread it is at once, and then what that process does. That is done again after `SCAN_NS` if
the thread still asks. It counts for the requests that were made after the thread began and not much
later than it was seen: it takes the kernel longer to give out all other ids.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final, Protocol

from throttlefs.host.dying import process_is_dying, waiting_thread_is_dying
from throttlefs.host.task_reader import Look, Sight

MS: Final = 1_000_000

LOOK_NS: Final = 50 * MS
"""Between two looks at the owner of an interrupted request, or at one that is dying."""

SCAN_NS: Final = 1000 * MS
"""Between two looks at the owners of what waits for long."""

LONG_NS: Final = 1000 * MS
"""Requests that wait for less are not looked at, unless they were interrupted."""

TRUST_NS: Final = 1000 * MS
"""For how long a process counts as dying without another look: then its ids may be others'."""

SEEN_NS: Final = 2000 * MS
"""For how long after a look a thread's id counts as its own."""

KEEP_NS: Final = 10_000 * MS
"""For how long an owner is remembered of whom nothing waits."""

SWEEP_NS: Final = 10 * MS
"""Between two looks at all requests for those of dying processes: hundreds may die at once."""

MOST_LOOKS: Final = 64
"""Looks under way at a time. One takes some 100 us."""

NEVER: Final = 1 << 63


class Request(Protocol):
    """A request that waits."""

    @property
    def owner(self) -> int:
        """The thread that asked, 0 if it is not known."""

    @property
    def since(self) -> int:
        """The instant (ns since boot) at which it began to wait so that it can be withdrawn."""

    @property
    def is_withdrawable(self) -> bool:
        """Whether it waits now in such a way that it can be withdrawn."""


@dataclass(slots=True)
class _Owner:
    """The process of a thread. Instants are in ns since boot."""

    group: int
    group_started: int
    started: int
    """When the thread began."""
    seen: int
    """When the thread was last known to be this one."""
    dying: int = 0
    """When the process was last seen dying; 0 if it never was."""

    def has_asked(self, request: Request) -> bool:
        """Whether this thread, and no other of its id, made *request*."""
        return self.started <= request.since <= self.seen + SEEN_NS


class Owners:
    """The owners of requests.

    *waiting* are all requests that are under way and wait for something, by their unique numbers;
    the caller keeps it up to date.
    """

    def __init__(self, waiting: Mapping[int, Request]) -> None:
        self._waiting = waiting
        self._interrupted: dict[int, dict[int, Request]] = {}  # by thread and unique number
        self._owners: dict[int, _Owner] = {}
        self._due: dict[int, int] = {}  # the instant of the next look at a thread
        self._looked: dict[int, int] = {}  # the instant of the last look at a thread
        self._under_way: set[int] = set()  # threads that are being looked at
        self._next_scan = NEVER
        self._next_sweep = NEVER
        self._swept = 0
        self.doomed: dict[int, int] = {}
        """The threads of dying processes, and until when (ns since boot) that counts."""

    def begins_to_wait(self, thread: int, now: int) -> bool:
        """Note that a request of *thread* begins to wait; returns whether `looks` is to be called.

        The thread may end before its request is due, and be hard to find then.
        """
        if not thread:
            return False
        was_idle = self._next_scan == NEVER
        if was_idle:
            self._next_scan = now + SCAN_NS
        if now - self._looked.get(thread, -SCAN_NS) < SCAN_NS:
            return was_idle
        return self._due.setdefault(thread, now) == now or was_idle

    def interrupted(self, unique: int, now: int) -> None:
        """Note that the kernel has sent INTERRUPT for the request *unique*."""
        request = self._waiting.get(unique)
        if request is not None and request.owner:
            self._interrupted.setdefault(request.owner, {})[unique] = request
            self._due[request.owner] = now
            self._next_scan = min(self._next_scan, now + SCAN_NS)

    def suspect_all(self, now: int) -> None:
        """Look at the owners of all requests: INTERRUPTs cannot come now."""
        suspects = {
            request.owner
            for request in self._waiting.values()
            if request.owner and request.is_withdrawable
        }
        pause = _pause_for(len(suspects))
        for thread in suspects:
            looked = self._looked.get(thread, -pause)
            self._due.setdefault(thread, max(now, looked + pause))
        self._next_scan = min(self._next_scan, now + SCAN_NS)

    # -- looks -----------------------------------------------------------------------------

    def next_look(self) -> int:
        """The instant at which to call `looks` and `sweep`."""
        instant = min(self._next_scan, self._next_sweep)
        if len(self._under_way) >= MOST_LOOKS:
            return instant
        due = (at for thread, at in self._due.items() if thread not in self._under_way)
        return min(instant, min(due, default=NEVER))

    def looks(self, now: int) -> list[Look]:
        """The looks to take now."""
        if now >= self._next_scan:
            self._scan(now)
        for thread in [thread for thread, until in self.doomed.items() if until <= now]:
            del self.doomed[thread]
        found: list[Look] = []
        room = MOST_LOOKS - len(self._under_way)
        for thread, at in self._due.items():
            if len(found) >= room:
                break
            if at <= now and thread not in self._under_way:
                owner = self._owners.get(thread)
                found.append(Look(thread, 0 if owner is None else owner.group, now))
                self._looked[thread] = now
        self._under_way.update(look.thread for look in found)
        return found

    def _scan(self, now: int) -> None:
        """Find owners to look at, and forget those of whom nothing waits."""
        present = set()
        for request in self._waiting.values():
            thread = request.owner
            if not thread or not request.is_withdrawable:
                continue
            present.add(thread)
            if thread not in self._due and (
                now - request.since >= LONG_NS or thread not in self._owners
            ):
                self._due[thread] = now
        for thread, looked in list(self._looked.items()):
            if thread not in present and now - looked > KEEP_NS:
                del self._looked[thread]
                self._owners.pop(thread, None)
        busy = present or self._due or self._interrupted or self.doomed
        self._next_scan = now + SCAN_NS if busy else NEVER

    # -- what was seen ---------------------------------------------------------------------

    def saw(self, sight: Sight, now: int) -> list[int]:
        """Take in what was seen; returns the unique numbers of interrupted requests to withdraw.

        What else is to be withdrawn is found by `sweep`.
        """
        look, thread, leader = sight
        self._under_way.discard(look.thread)
        self._due.pop(look.thread, None)
        owner = self._know(sight)
        dying = owner is not None and leader is not None and process_is_dying(leader)
        if owner is not None and dying:
            self._dies(owner, look, now)
            self._due[look.thread] = look.asked + LOOK_NS
        elif owner is not None:
            owner.dying = 0
            self.doomed.pop(look.thread, None)
        interrupted = self._interrupted.get(look.thread)
        if not interrupted:
            return []
        for unique in [u for u, request in interrupted.items() if not self._waits(u, request)]:
            del interrupted[unique]
        if not interrupted:
            del self._interrupted[look.thread]
            return []
        self._due[look.thread] = look.asked + _pause_for(len(self._interrupted))
        if owner is None or thread is None or not (dying or waiting_thread_is_dying(thread)):
            return []
        return [
            unique
            for unique, request in interrupted.items()
            if request.is_withdrawable and owner.has_asked(request)
        ]

    def sweep(self, now: int) -> list[int]:
        """The unique numbers of all requests to withdraw of processes that are dying."""
        if now < self._next_sweep:
            return []
        self._next_sweep = NEVER
        self._swept = now
        return [unique for unique, request in self._waiting.items() if self._is_doomed(request)]

    def _know(self, sight: Sight) -> _Owner | None:
        """The owner that was seen; None if it is gone, or was never seen."""
        look, thread, leader = sight
        owner = self._owners.get(look.thread)
        if thread is not None and leader is not None and leader.group == thread.group:
            if (
                owner is None
                or owner.group != thread.group
                or owner.started != thread.started
                or owner.group_started != leader.started
            ):
                owner = _Owner(thread.group, leader.started, thread.started, look.asked)
                self._owners[look.thread] = owner
            owner.seen = look.asked
        elif owner is None and leader is not None and leader.group == look.group:
            # It ended before it was seen. It was of this process when the look was asked for.
            if leader.started <= look.asked:
                owner = _Owner(look.group, leader.started, leader.started, look.asked)
                self._owners[look.thread] = owner
        elif owner is not None and (leader is None or leader.started != owner.group_started):
            del self._owners[look.thread]
            self.doomed.pop(look.thread, None)
            owner = None
        return owner

    def _dies(self, owner: _Owner, look: Look, now: int) -> None:
        """Note that the process of *owner* is dying, for all of its threads."""
        if self._next_sweep == NEVER:
            self._next_sweep = max(now, self._swept + SWEEP_NS)
        until = look.asked + TRUST_NS
        for thread, other in self._owners.items():
            if other.group == owner.group and other.group_started == owner.group_started:
                if not other.dying and thread != look.thread:
                    self._due.setdefault(thread, now)  # it may have asked since it was seen
                other.dying = look.asked
                if until > now:
                    self.doomed[thread] = until
        for request in self._waiting.values():
            if request.owner and request.is_withdrawable and request.owner not in self._owners:
                self._due.setdefault(request.owner, now)  # it may be of the same process

    def _is_doomed(self, request: Request) -> bool:
        owner = self._owners.get(request.owner)
        return (
            owner is not None
            and owner.dying > 0
            and request.is_withdrawable
            and owner.has_asked(request)
        )

    def _waits(self, unique: int, request: Request) -> bool:
        return self._waiting.get(unique) is request


def _pause_for(threads: int) -> int:
    """Between two looks (ns) at each of so many *threads*; more of them get longer pauses."""
    return LOOK_NS * max(1, threads // MOST_LOOKS)
