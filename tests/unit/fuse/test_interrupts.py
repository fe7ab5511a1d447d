"""Requests are withdrawn from a session loop: with scripted answers of /proc, and with its own."""

from __future__ import annotations

import dataclasses
import os
from collections import deque
from collections.abc import Callable, Collection

import pytest
import trio
from trio.lowlevel import Abort

from tests.unit.host import recorded
from throttlefs.fuse.interrupts import Interrupts
from throttlefs.fuse.work import Work
from throttlefs.host.task_reader import Look, Sight
from throttlefs.host.tasks import Task, parse_task

KILLED = parse_task(*recorded.READ_KILL)
WAITS = parse_task(*recorded.WAITS)
ONE = 4711


class Reader:
    """Answers every look at once: `ONE` is what a test says, all others live."""

    def __init__(self, usable: bool = True) -> None:
        self.shown: Task | None = WAITS
        self.asked: list[Look] = []
        self._usable = usable
        self._answers: deque[Sight] = deque()
        self._event_fd = os.eventfd(0, os.EFD_NONBLOCK)

    def is_usable(self) -> bool:
        return self._usable

    def fileno(self) -> int:
        return self._event_fd

    def start(self) -> None:
        pass

    def ring(self) -> None:
        os.eventfd_write(self._event_fd, 1)

    def ask(self, look: Look) -> None:
        self.asked.append(look)
        shown = self.shown if look.thread == ONE else WAITS
        if shown is not None:
            shown = dataclasses.replace(
                shown, number=look.thread, group=look.thread, started=WAITS.started
            )
        self._answers.append(Sight(look, shown, shown))
        self.ring()

    def answers(self) -> list[Sight]:
        try:
            os.eventfd_read(self._event_fd)
        except BlockingIOError:
            pass
        found = list(self._answers)
        self._answers.clear()
        return found

    def close(self) -> None:
        os.close(self._event_fd)


class Reply:
    def __init__(self, unique: int, owner: int) -> None:
        self.unique = unique
        self.owner = owner

    def done(self, result: object) -> None:
        raise AssertionError

    def failed(self, error: Exception) -> None:
        raise AssertionError


async def nothing() -> None:
    pass


class Rig:
    def __init__(self, usable: bool = True) -> None:
        self.reader = Reader(usable)
        self.waiting: dict[int, Work] = {}
        self.interrupts = Interrupts(self.waiting, self.withdraw, self.reader)  # type: ignore[arg-type]
        self.withdrawn: list[int] = []
        self.doomed: list[Collection[int]] = []

    def withdraw(self, work: Work) -> None:
        del self.waiting[work.reply.unique]
        self.withdrawn.append(work.reply.unique)

    def wait(self, unique: int, owner: int) -> None:
        coroutine = nothing()
        coroutine.close()
        work = Work(lambda _: None, coroutine, Reply(unique, owner))
        work.abort = lambda _: Abort.SUCCEEDED
        self.waiting[unique] = work
        self.interrupts.begins_to_wait(work)

    def note_doomed(self) -> None:
        self.doomed.append(set(self.interrupts.doomed))

    def run(self, script: Callable[[], object]) -> None:
        async def main() -> None:
            with trio.fail_after(30):
                async with trio.open_nursery() as nursery:
                    nursery.start_soon(self.interrupts.run, self.note_doomed)
                    await script()  # type: ignore[misc]
                    nursery.cancel_scope.cancel()

        trio.run(main)
        self.interrupts.close()


async def until(condition: Callable[[], bool]) -> None:
    while not condition():
        await trio.sleep(0.001)


def test_who_is_killed_is_withdrawn_and_refused_until_gone() -> None:
    rig = Rig()

    async def script() -> None:
        rig.wait(7, ONE)
        rig.wait(8, 1)
        rig.reader.shown = KILLED
        rig.interrupts.interrupted(7)
        await until(lambda: rig.withdrawn == [7])
        assert set(rig.waiting) == {8}
        await until(lambda: {ONE} in rig.doomed)
        rig.reader.shown = None
        await until(lambda: not rig.interrupts.doomed)
        await until(lambda: not rig.doomed[-1])

    rig.run(script)


def test_a_signal_that_is_handled_leads_to_looks_alone() -> None:
    rig = Rig()

    async def script() -> None:
        rig.wait(7, ONE)
        rig.reader.shown = parse_task(*recorded.READ_ALARM)
        rig.interrupts.interrupted(7)
        await until(lambda: len(rig.reader.asked) >= 5)
        assert not rig.withdrawn

    rig.run(script)


def test_nobody_is_looked_at_if_nothing_waits() -> None:
    rig = Rig()

    async def script() -> None:
        rig.interrupts.interrupted(7)
        await trio.sleep(0.2)
        assert not rig.reader.asked

    rig.run(script)


def test_while_no_requests_are_taken_all_owners_are_looked_at() -> None:
    rig = Rig()

    async def script() -> None:
        rig.wait(7, ONE)
        await until(lambda: len(rig.reader.asked) == 1)
        rig.reader.shown = KILLED
        rig.interrupts.set_deaf(True)
        await until(lambda: rig.withdrawn == [7])
        count = len(rig.reader.asked)
        rig.wait(8, 1)
        await until(lambda: len(rig.reader.asked) > count)

    rig.run(script)


def test_with_another_namespaces_proc_nobody_is_looked_at() -> None:
    rig = Rig(usable=False)

    async def script() -> None:
        rig.wait(7, ONE)
        rig.interrupts.interrupted(7)
        rig.interrupts.set_deaf(True)
        await trio.sleep(0.2)
        assert not rig.reader.asked

    rig.run(script)


# With ids of their own: workers that run tests side by side must agree on the names of all tests.
@pytest.mark.parametrize("owner", [0, os.getpid()], ids=["unknown", "this_process"])
def test_who_lives_goes_on_waiting_by_proc_itself(owner: int) -> None:
    """Here with a reader of its own."""
    withdrawn: list[Work] = []
    waits: dict[int, Work] = {}
    interrupts = Interrupts(waits, withdrawn.append)

    async def main() -> None:
        coroutine = nothing()
        coroutine.close()
        work = waits[3] = Work(lambda _: None, coroutine, Reply(3, owner))
        work.abort = lambda _: Abort.SUCCEEDED
        async with trio.open_nursery() as nursery:
            nursery.start_soon(interrupts.run, lambda: None)
            interrupts.begins_to_wait(work)
            interrupts.interrupted(3)
            await trio.sleep(0.3)
            nursery.cancel_scope.cancel()

    trio.run(main)
    interrupts.close()
    assert not withdrawn
