"""When the loop sleeps, looks and watches, on a virtual clock."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from throttlefs.fuse.pacing import LEAD_NS, MAX_TURN_NS, SPIN_NS, Pacing, Step

FAR = 1 << 62
US = 1000


def rested(cpus: float, now: int = 10**12) -> Pacing:
    """A pacing whose turn has just begun, after an event *now*."""
    pacing = Pacing(cpus)
    pacing.next_step(now, FAR)
    pacing.woke(now)
    pacing.turn_was_given(now)
    return pacing


@pytest.mark.parametrize("cpus", [0.5, 1, 1.5])
def test_with_less_than_two_cpus_it_never_takes_the_cpu_from_others(cpus: float) -> None:
    pacing = rested(cpus)
    assert pacing.lead_ns == 0
    now = 10**12
    for _ in range(100):
        now += 10 * US
        step = pacing.next_step(now, now + 50 * US)
        assert step in (Step.NAP, Step.TURN)
        if step is Step.TURN:
            pacing.turn_was_given(now)
        else:
            pacing.woke(now + US)


@pytest.mark.parametrize("cpus", [2, 2.5, 64])
def test_while_events_come_fast_it_looks_before_it_sleeps(cpus: float) -> None:
    pacing = rested(cpus)
    now = 10**12
    pacing.next_step(now, FAR)
    pacing.woke(now + 20 * US)
    assert pacing.next_step(now + 30 * US, FAR) is Step.LOOK
    assert pacing.look_until == now + 30 * US + SPIN_NS
    pacing.woke(now + 330 * US)  # that was too long to look
    assert pacing.next_step(now + 340 * US, FAR) is Step.NAP


def test_it_sleeps_while_a_thread_is_at_work_which_needs_the_interpreters_lock() -> None:
    pacing = rested(2)
    now = 10**12
    pacing.next_step(now, FAR)
    pacing.woke(now + 20 * US)
    assert pacing.next_step(now + 30 * US, FAR, threads_work=True) is Step.NAP
    assert pacing.next_step(now + 30 * US, FAR) is Step.LOOK
    assert pacing.next_step(now, now + LEAD_NS, threads_work=True) is Step.WATCH


def test_the_limiters_alarm_does_not_count_as_an_event_that_comes_fast() -> None:
    pacing = rested(2)
    now = 10**12
    for _ in range(3):  # of iops=3000 at queue depth 1 only the alarm ever comes
        due = now + 300 * US
        assert pacing.next_step(now, due) is Step.NAP
        pacing.woke(due - LEAD_NS)
        assert pacing.next_step(due - LEAD_NS, due) is Step.WATCH
        assert pacing.look_until == due
        pacing.woke(due)
        pacing.turn_was_given(due)
        now = due


def test_what_is_about_to_be_due_is_watched_for() -> None:
    pacing = rested(2)
    now = 10**12
    assert pacing.next_step(now, now + LEAD_NS + 1) is not Step.WATCH
    assert pacing.next_step(now, now + LEAD_NS) is Step.WATCH
    assert pacing.next_step(now, now - 5 * US) is Step.WATCH


@pytest.mark.parametrize("cpus", [1, 2])
def test_trio_gets_its_turn_even_if_something_due_cannot_go(cpus: float) -> None:
    pacing = rested(cpus)
    now = 10**12
    due = now
    now += MAX_TURN_NS + 1
    assert pacing.turn_is_over(now)
    assert pacing.next_step(now, due) is Step.TURN
    pacing.turn_was_given(now)
    assert pacing.next_step(now + 1, due) is Step.WATCH


def test_a_turn_that_is_over_does_not_come_between_the_alarm_and_what_it_was_for() -> None:
    pacing = rested(2)
    now = 10**12 + MAX_TURN_NS + 1
    assert pacing.next_step(now, now + LEAD_NS) is Step.WATCH
    assert pacing.next_step(now, FAR) is Step.TURN


@pytest.mark.parametrize("cpus", [1, 2])
def test_after_a_millisecond_of_nothing_it_sleeps_in_trio(cpus: float) -> None:
    pacing = rested(cpus)
    now = 10**12 + MAX_TURN_NS + 1
    pacing.turn_was_given(now)
    assert pacing.next_step(now, FAR) is Step.SLEEP


def test_the_cpus_may_change() -> None:
    pacing = rested(2)
    pacing.set_cpus(1)
    assert pacing.lead_ns == 0
    pacing.set_cpus(4)
    assert pacing.lead_ns == LEAD_NS


class Machine:
    """A loop, its limiter's alarm and an edge-triggered epoll on a virtual clock.

    Requests are due at *instants*. The alarm goes off once, *lead* before the next of them, as
    `Pacing.lead_ns` was when it was set. A timer wakes a sleeper *lateness* late.
    """

    def __init__(self, instants: list[int], cpus: list[float], lateness: int) -> None:
        self.now = 1
        self.pending = sorted(instants)
        self.cpus = cpus
        self.lateness = lateness
        self.pacing = Pacing(cpus[0])
        self.served: list[tuple[int, int]] = []
        self.alarm = self.next_alarm()

    def next_alarm(self) -> int:
        return self.pending[0] - self.pacing.lead_ns if self.pending else FAR

    def change_cpus(self, cpus: float) -> None:
        self.pacing.set_cpus(cpus)
        self.alarm = self.next_alarm()  # as `lead_alarm` sets it anew

    def serve(self) -> bool:
        served = False
        while self.pending and self.pending[0] <= self.now:
            self.served.append((self.pending.pop(0), self.now))
            self.alarm = self.next_alarm()
            served = True
        return served

    def sleep(self, most: int) -> bool:
        """Sleep until the alarm, at the most *most* ns; whether it has gone off."""
        if self.alarm <= self.now + most:
            self.now = max(self.now, self.alarm) + self.lateness
            self.alarm = FAR  # an edge shows once
            return True
        assert most < FAR, "sleeps for ever, though something will be due"
        self.now += most
        return False

    def look(self, until: int) -> bool:
        while self.now < until:
            self.now += US
            if self.alarm <= self.now:
                self.alarm = FAR
                return True
        return False

    def run(self) -> None:
        for turn in range(100_000):
            if not self.pending:
                return
            if turn % 7 == 3 and len(self.cpus) > 1:
                self.change_cpus(self.cpus[turn % len(self.cpus)])
            if self.serve():
                continue
            self.now += US
            step = self.pacing.next_step(self.now, self.pending[0])
            if step is Step.TURN:
                self.now += 30 * US
                self.pacing.turn_was_given(self.now)
                continue
            if step is Step.SLEEP:
                self.sleep(FAR)
                self.pacing.turn_was_given(self.now)
            elif step is Step.WATCH:
                self.look(self.pacing.look_until)
            elif not (step is Step.LOOK and self.look(self.pacing.look_until)) and not self.sleep(
                MAX_TURN_NS
            ):
                continue
            self.pacing.woke(self.now)
        raise AssertionError("makes no progress")


@given(
    gaps=st.lists(st.integers(0, 5_000_000), min_size=1, max_size=60),
    cpus=st.lists(st.sampled_from([0.5, 1, 2, 4]), min_size=1, max_size=3),
    lateness=st.integers(0, 100 * US),
)
def test_nothing_due_is_slept_through(gaps: list[int], cpus: list[float], lateness: int) -> None:
    """On one CPU, iops=200 let 22 reads through in 5 s: the alarm's lead had two owners."""
    instants = []
    at = 1
    for gap in gaps:
        at += gap
        instants.append(at)
    machine = Machine(instants, cpus, lateness)
    machine.run()
    assert [due for due, _ in machine.served] == instants
    for due, served in machine.served:
        # A sleep too many would be at least as long as the time to the next alarm, or for ever.
        assert 0 <= served - due <= lateness + 200 * US
