"""Whose requests are withdrawn, whatever processes do."""

from __future__ import annotations

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from tests.unit.fuse.owners_world import Process, World
from throttlefs.fuse.owners import KEEP_NS, LONG_NS, MS, NEVER, SCAN_NS

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
