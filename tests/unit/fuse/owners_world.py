"""A world of processes that come and go, on a virtual clock, for the tests of `Owners`."""

from __future__ import annotations

from dataclasses import dataclass, field

from throttlefs.fuse.owners import MOST_LOOKS, MS, Owners
from throttlefs.host.task_reader import Look, Sight
from throttlefs.host.tasks import Task

START = 1_000_000 * MS
SIGKILL = 1 << 8
SIGALRM = 1 << 13


@dataclass(eq=False)
class Process:
    """``threads`` by their ids, with the instants at which they began."""

    group: int
    started: int
    threads: dict[int, int] = field(default_factory=dict)
    dying: bool = False
    alarmed: bool = False


@dataclass(eq=False)
class Request:
    """A request that waits, as `Owners` knows it, and who made it in truth."""

    process: Process
    owner: int
    since: int
    is_withdrawable: bool = True
    is_asynchronous: bool = False
    was_there: bool = False
    """Whether its thread was there for a while afterwards."""


class World:
    """Processes, what waits, and /proc."""

    def __init__(self) -> None:
        self.now = START
        self.processes: list[Process] = []
        self.waiting: dict[int, Request] = {}
        self.owners = Owners(self.waiting)
        self.count = 0
        self.withdrawn: list[Request] = []
        self.looks = 0
        self.under_way: list[Look] = []

    def process(self, group: int) -> Process:
        process = Process(group, self.now, {group: self.now})
        self.processes.append(process)
        return process

    def ask(self, process: Process, thread: int = 0, *, asynchronous: bool = False) -> int:
        self.count += 1
        thread = thread or process.group
        self.waiting[self.count] = Request(process, thread, self.now, is_asynchronous=asynchronous)
        self.owners.begins_to_wait(thread, self.now)
        return self.count

    def interrupt(self, unique: int) -> None:
        self.owners.interrupted(unique, self.now)

    def kill(self, process: Process) -> None:
        process.dying = True
        for unique, request in list(self.waiting.items()):
            if request.process is process and not request.is_asynchronous:
                self.interrupt(unique)

    def task(self, number: int) -> Task | None:
        for process in self.processes:
            if number in process.threads:
                return Task(
                    number=number,
                    group=process.group,
                    started=process.threads[number],
                    traced=False,
                    pending=0,
                    group_pending=SIGKILL * process.dying | SIGALRM * process.alarmed,
                    blocked=0,
                    ignored=0,
                    caught=SIGALRM,
                    exits=False,
                    exit_signal=0,
                )
        return None

    def asked(self, look: Look) -> Look:
        """*look*, with the process that its thread belongs to now."""
        thread = None if look.group else self.task(look.thread)
        return look if thread is None else look._replace(group=thread.group)

    def see(self, look: Look) -> Sight:
        thread = self.task(look.thread)
        group = look.group if thread is None else thread.group
        return Sight(look, thread, self.task(group) if group else None)

    def answer(self) -> None:
        """Answer all looks that are under way."""
        sights = [self.see(look) for look in self.under_way]
        self.under_way.clear()
        for sight in sights:
            self.withdraw(self.owners.saw(sight, self.now))

    def act(self) -> None:
        self.withdraw(self.owners.sweep(self.now))
        looks = [self.asked(look) for look in self.owners.looks(self.now)]
        self.looks += len(looks)
        self.under_way += looks
        assert len(self.under_way) <= MOST_LOOKS

    def withdraw(self, uniques: list[int]) -> None:
        for unique in uniques:
            request = self.waiting.pop(unique)
            assert request.is_withdrawable
            self.withdrawn.append(request)

    def run(self, ns: int) -> None:
        """Let so much time pass, and every look be answered 1 ms later."""
        end = self.now + ns
        for request in self.waiting.values():
            request.was_there |= ns > 2 * MS and request.owner in request.process.threads
        while self.now < end:
            self.act()
            if self.under_way:
                self.now += MS
                self.answer()
                continue
            self.now = min(end, max(self.now + MS, self.owners.next_look()))
        self.act()
