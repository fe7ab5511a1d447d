"""Whose requests are withdrawn: on a virtual clock, in a world of processes that come and go."""

from __future__ import annotations

from dataclasses import dataclass, field

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from throttlefs.fuse.owners import KEEP_NS, LONG_NS, LOOK_NS, MOST_LOOKS, MS, NEVER, SCAN_NS, Owners
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
        looks = self.owners.looks(self.now)
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


def test_a_killed_program_is_withdrawn_at_the_first_look() -> None:
    world = World()
    process, other = world.process(10), world.process(20)
    unique = world.ask(process)
    world.ask(other)
    world.run(100 * MS)
    assert not world.withdrawn
    world.kill(process)
    world.run(3 * MS)
    assert unique not in world.waiting
    assert [request.process for request in world.waiting.values()] == [other]


def test_a_signal_that_is_handled_changes_nothing_and_a_later_kill_is_seen() -> None:
    """The kernel sends one INTERRUPT for a request."""
    world = World()
    process = world.process(10)
    unique = world.ask(process)
    process.alarmed = True
    world.interrupt(unique)
    world.run(30_000 * MS)
    assert unique in world.waiting
    process.dying = True
    world.run(LOOK_NS + 2 * MS)
    assert unique not in world.waiting


def test_one_who_waits_for_long_is_looked_at_each_second() -> None:
    world = World()
    process = world.process(10)
    for _ in range(100):
        world.ask(process, asynchronous=True)
    world.run(10_000 * MS)
    assert 8 <= world.looks <= 12
    process.dying = True
    world.run(LONG_NS + SCAN_NS + 10 * MS)
    assert not world.waiting


@pytest.mark.parametrize("hidden", [False, True])
def test_who_often_waits_shortly_is_looked_at_once_a_second(hidden: bool) -> None:
    world = World()
    process = world.process(10)
    if hidden:
        world.processes.clear()
    unique = world.ask(process)
    for _ in range(10_000):
        del world.waiting[unique]
        unique = world.ask(process)
        world.run(MS)
    assert world.looks <= 11


def test_a_thread_is_known_although_it_ends_soon() -> None:
    """Threads of fio that are killed right after they have asked."""
    world = World()
    process = world.process(10)
    process.threads[11] = world.now
    before = world.ask(process, 11, asynchronous=True)
    world.run(2 * MS)
    after = world.ask(process, 11, asynchronous=True)
    world.run(500 * MS)
    process.dying = True
    del process.threads[11]
    world.run(2 * SCAN_NS)
    assert before not in world.waiting
    assert after not in world.waiting


def test_when_nothing_waits_nothing_is_looked_for() -> None:
    world = World()
    process = world.process(10)
    del world.waiting[world.ask(process)]
    world.run(3 * SCAN_NS)
    assert world.owners.next_look() == NEVER
    assert world.looks == 1
    unique = world.ask(process, asynchronous=True)
    world.run(100 * MS)
    del world.waiting[unique]
    world.run(3 * SCAN_NS)
    unique = world.ask(process, asynchronous=True)
    process.dying = True
    world.run(LONG_NS + 2 * SCAN_NS)
    assert unique not in world.waiting


def test_a_thread_that_has_ended_leaves_its_requests_to_its_process() -> None:
    world = World()
    process = world.process(10)
    process.threads[11] = world.now
    unique = world.ask(process, 11, asynchronous=True)
    world.run(200 * MS)
    del process.threads[11]
    world.run(20_000 * MS)
    assert unique in world.waiting
    process.dying = True
    world.run(SCAN_NS + 10 * MS)
    assert unique not in world.waiting


def test_all_threads_of_who_dies_are_looked_for_at_once() -> None:
    world = World()
    process = world.process(10)
    world.ask(process, asynchronous=True)
    world.run(LONG_NS + SCAN_NS)
    process.threads[11] = world.now
    world.run(MS)
    world.ask(process, 11, asynchronous=True)
    world.ask(process)
    world.kill(process)
    world.run(20 * MS)
    assert not world.waiting


def test_the_id_of_a_thread_may_be_given_to_another_process_that_dies() -> None:
    world = World()
    process = world.process(10)
    process.threads[11] = world.now
    unique = world.ask(process, 11, asynchronous=True)
    world.run(200 * MS)
    del process.threads[11]
    world.run(20_000 * MS)
    other = world.process(11)
    other.dying = True
    world.run(20_000 * MS)
    assert unique in world.waiting


def test_later_requests_of_who_dies_are_refused_until_it_is_gone() -> None:
    world = World()
    process = world.process(10)
    world.ask(process, asynchronous=True)
    world.run(LONG_NS + SCAN_NS)
    assert not world.owners.doomed
    process.dying = True
    world.run(SCAN_NS + 10 * MS)
    for _ in range(100):
        world.run(100 * MS)
        assert set(world.owners.doomed) == {10}
    world.processes.remove(process)
    world.run(100 * MS)
    assert not world.owners.doomed


def test_who_dies_is_forgotten_if_nothing_is_seen_any_more() -> None:
    """All threads that read /proc may be stuck."""
    world = World()
    process = world.process(10)
    world.kill(process)
    world.ask(process, asynchronous=True)
    world.run(2 * SCAN_NS)
    assert set(world.owners.doomed) == {10}
    for _ in range(2000):
        world.now += MS
        world.act()
    assert not world.owners.doomed


def test_what_is_busy_now_is_withdrawn_when_it_waits_for_its_limit() -> None:
    """The data of a write are being put into a file, for example."""
    world = World()
    process = world.process(10)
    unique = world.ask(process)
    world.waiting[unique].is_withdrawable = False
    world.kill(process)
    world.run(500 * MS)
    assert unique in world.waiting
    world.waiting[unique].is_withdrawable = True
    world.waiting[unique].since = world.now
    world.run(3 * LOOK_NS)
    assert unique not in world.waiting


def test_while_no_interrupts_come_all_are_looked_at() -> None:
    world = World()
    process = world.process(10)
    unique = world.ask(process)
    world.run(100 * MS)
    process.dying = True
    world.owners.suspect_all(world.now)
    world.run(2 * LOOK_NS)
    assert unique not in world.waiting


@pytest.mark.parametrize("programs", [1, 3000])
def test_while_no_interrupts_come_the_number_of_looks_is_bounded(programs: int) -> None:
    """The loop says so each time that it gets an answer, and asks at once for what is due."""
    world = World()
    for number in range(programs):
        world.ask(world.process(10_000 + number))
    world.run(500 * MS)
    world.looks = 0
    for _ in range(200):
        world.owners.suspect_all(world.now)
        world.run(MS)
    took = 200 * MS
    assert world.looks <= 2 * min(programs, MOST_LOOKS) * (took // LOOK_NS + 1)


def test_hundreds_of_programs_killed_at_once_are_gone_soon() -> None:
    world = World()
    for number in range(500):
        world.ask(world.process(1000 + number))
    world.run(3000 * MS)
    for process in world.processes:
        world.kill(process)
    world.run(200 * MS)
    assert not world.waiting


def test_signals_that_thousands_handle_cost_a_bounded_number_of_looks() -> None:
    world = World()
    for number in range(3000):
        world.ask(world.process(10_000 + number))
    world.run(5000 * MS)
    for unique in list(world.waiting):
        world.interrupt(unique)
    world.run(5000 * MS)
    world.looks = 0
    world.run(5000 * MS)
    assert len(world.waiting) == 3000
    assert world.looks < 5 * (MOST_LOOKS * SCAN_NS // LOOK_NS + 3000)


ids = st.integers(1, 12)


class OwnersMachine(RuleBasedStateMachine):
    """Whatever comes: nobody's request is withdrawn who does not die, and all of those who do."""

    def __init__(self) -> None:
        super().__init__()
        self.world = World()
        self.ended: dict[int, int] = {}  # when a thread's id became free

    def is_free(self, number: int) -> bool:
        """An id is not given out again at once: the kernel goes round through all of them."""
        used = any(number in process.threads for process in self.world.processes)
        return not used and self.world.now - self.ended.get(number, 0) > 2 * SCAN_NS

    def pick(self, number: int) -> Process:
        return self.world.processes[number % len(self.world.processes)]

    @rule(number=ids)
    def process_begins(self, number: int) -> None:
        if self.is_free(number):
            self.world.process(number)

    @precondition(lambda self: self.world.processes)
    @rule(process=ids, number=ids)
    def thread_begins(self, process: int, number: int) -> None:
        if self.is_free(number) and not self.pick(process).dying:
            self.pick(process).threads[number] = self.world.now

    @precondition(lambda self: self.world.processes)
    @rule(process=ids, thread=ids, asynchronous=st.booleans(), count=st.integers(1, 3))
    def asks(self, process: int, thread: int, asynchronous: bool, count: int) -> None:
        asker = self.pick(process)
        threads = sorted(asker.threads)
        number = threads[thread % len(threads)]
        busy = {r.owner for r in self.world.waiting.values() if not r.is_asynchronous}
        if number not in busy and not asker.dying:
            for _ in range(count if asynchronous else 1):
                self.world.ask(asker, number, asynchronous=asynchronous)

    @precondition(lambda self: self.world.waiting)
    @rule(number=st.integers(0, 100))
    def is_served(self, number: int) -> None:
        del self.world.waiting[sorted(self.world.waiting)[number % len(self.world.waiting)]]

    @precondition(lambda self: self.world.waiting)
    @rule(number=st.integers(0, 100))
    def is_interrupted(self, number: int) -> None:
        unique = sorted(self.world.waiting)[number % len(self.world.waiting)]
        request = self.world.waiting[unique]
        if not request.is_asynchronous:
            request.process.alarmed = True
            self.world.interrupt(unique)

    @precondition(lambda self: self.world.processes)
    @rule(number=ids)
    def is_killed(self, number: int) -> None:
        self.world.kill(self.pick(number))

    @precondition(lambda self: self.world.processes)
    @rule(process=ids, thread=ids)
    def thread_ends(self, process: int, thread: int) -> None:
        """A thread cannot end while its request waits, unless that is asynchronous."""
        owner = self.pick(process)
        others = [number for number in sorted(owner.threads) if number != owner.group]
        busy = {r.owner for r in self.world.waiting.values() if not r.is_asynchronous}
        if others and others[thread % len(others)] not in busy:
            self.end(owner, others[thread % len(others)])

    @rule()
    def the_dead_are_gone(self) -> None:
        for process in [process for process in self.world.processes if process.dying]:
            if not any(r.process is process for r in self.world.waiting.values()):
                for number in list(process.threads):
                    self.end(process, number)
                self.world.processes.remove(process)

    def end(self, process: Process, number: int) -> None:
        del process.threads[number]
        self.ended[number] = self.world.now

    @rule(pause=st.integers(1, 100) | st.integers(1, 5000))
    def time_goes_on(self, pause: int) -> None:
        self.world.run(pause * MS)

    @rule()
    def all_is_seen(self) -> None:
        """Of whoever dies nothing waits, if its thread was there when it was looked up."""
        world = self.world
        world.run(LONG_NS + 2 * SCAN_NS)
        for request in world.waiting.values():
            assert not request.process.dying or not request.was_there

    @invariant()
    def only_who_dies_is_withdrawn(self) -> None:
        assert all(request.process.dying for request in self.world.withdrawn)
        self.world.withdrawn.clear()

    @invariant()
    def only_who_dies_is_refused(self) -> None:
        dying = {n for p in self.world.processes if p.dying for n in p.threads}
        ended = {n for n, at in self.ended.items() if self.world.now - at <= 2 * SCAN_NS}
        assert set(self.world.owners.doomed) <= dying | ended

    def teardown(self) -> None:
        """Nothing is remembered of who is gone."""
        self.world.waiting.clear()
        self.world.processes.clear()
        self.world.run(KEEP_NS + 3 * SCAN_NS)
        assert self.world.owners.next_look() == NEVER
        assert not self.world.owners.doomed
        self.world.owners.begins_to_wait(99, self.world.now)
        self.world.run(KEEP_NS + 3 * SCAN_NS)
        assert not self.world.owners._owners
        assert set(self.world.owners._looked) <= {99}
        assert not self.world.owners._interrupted


OwnersMachine.TestCase.settings = settings(max_examples=60, stateful_step_count=40, deadline=None)
TestOwners = OwnersMachine.TestCase
