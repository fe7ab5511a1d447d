"""Whose requests are withdrawn: on a virtual clock, in a world of processes that come and go."""

from __future__ import annotations

import pytest

from tests.unit.fuse.owners_world import World
from throttlefs.fuse.owners import LONG_NS, LOOK_NS, MOST_LOOKS, MS, NEVER, SCAN_NS


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


def test_a_thread_that_ends_before_it_is_seen_leaves_its_requests_to_its_process() -> None:
    """The machine is busy: the kill comes before the answer to the first look."""
    world = World()
    process, other = world.process(10), world.process(20)
    process.threads[11] = world.now
    unique = world.ask(process, 11, asynchronous=True)
    world.ask(other, asynchronous=True)
    world.act()
    process.dying = True
    del process.threads[11]
    world.run(LONG_NS + SCAN_NS + 10 * MS)
    assert unique not in world.waiting
    assert [request.process for request in world.waiting.values()] == [other]


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
