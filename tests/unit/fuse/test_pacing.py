"""When the loop sleeps, looks and watches, on a virtual clock."""

from __future__ import annotations

import random
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from throttlefs.fuse.pacing import MAX_NAP_NS, MAX_TURN_NS, NEAR_NS, SPIN_NS, Lateness, Pacing, Step

FAR = 1 << 62
US = 1000


def next_step(pacing: Pacing, now: int, due: int, *, alone: bool = True, **known: Any) -> Step:
    """The next step, with the alarm where the limiter sets it."""
    wake_at = due - pacing.lead_ns if alone and due < FAR else due
    return pacing.next_step(now, due, wake_at, **known)


def rested(cpus: float, now: int = 10**12) -> Pacing:
    """A pacing whose turn has just begun, after an event *now*."""
    pacing = Pacing(cpus)
    next_step(pacing, now, FAR)
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
        step = next_step(pacing, now, now + 50 * US)
        assert step in (Step.NAP, Step.TURN)
        if step is Step.TURN:
            pacing.turn_was_given(now)
        else:
            pacing.woke(now + US)


@pytest.mark.parametrize("cpus", [2, 2.5, 64])
def test_while_events_come_fast_it_looks_before_it_sleeps(cpus: float) -> None:
    pacing = rested(cpus)
    now = 10**12
    next_step(pacing, now, FAR)
    pacing.woke(now + 20 * US)
    assert next_step(pacing, now + 30 * US, FAR) is Step.LOOK
    assert pacing.look_until == now + 30 * US + SPIN_NS
    pacing.woke(now + 330 * US)  # that was too long to look
    assert next_step(pacing, now + 340 * US, FAR) is Step.NAP


def test_it_sleeps_while_a_thread_is_at_work_which_needs_the_interpreters_lock() -> None:
    pacing = rested(2)
    now = 10**12
    next_step(pacing, now, FAR)
    pacing.woke(now + 20 * US)
    assert next_step(pacing, now + 30 * US, FAR, threads_work=lambda: True) is Step.NAP
    assert next_step(pacing, now + 30 * US, FAR) is Step.LOOK
    assert next_step(pacing, now, now + pacing.lead_ns, threads_work=lambda: True) is Step.WATCH


def test_the_limiters_alarm_does_not_count_as_an_event_that_comes_fast() -> None:
    pacing = rested(2)
    now = 10**12
    for _ in range(3):  # of iops=3000 at queue depth 1 only the alarm ever comes
        due = now + 300 * US
        assert next_step(pacing, now, due) is Step.NAP
        woke = due - pacing.lead_ns
        pacing.woke(woke)
        assert next_step(pacing, woke, due) is Step.WATCH
        assert pacing.look_until == due
        pacing.woke(due)
        pacing.turn_was_given(due)
        now = due


def test_what_is_about_to_be_due_is_watched_for() -> None:
    pacing = rested(2)
    now = 10**12
    before = pacing.lead_ns + NEAR_NS
    assert next_step(pacing, now, now + before + 1) is not Step.WATCH
    assert next_step(pacing, now, now + before) is Step.WATCH
    assert next_step(pacing, now, now - 5 * US) is Step.WATCH


def test_nothing_is_watched_for_that_others_wait_behind() -> None:
    pacing = rested(2)
    now = 10**12
    assert next_step(pacing, now, now + NEAR_NS + 1, alone=False) is not Step.WATCH
    assert next_step(pacing, now, now + NEAR_NS, alone=False) is Step.WATCH
    assert next_step(pacing, now, now - 5 * US, alone=False) is Step.WATCH


def test_it_looks_for_no_more_requests_that_turn_out_to_have_to_wait() -> None:
    pacing = rested(2)
    now = 10**12
    arrivals = 0

    def request(waits: bool) -> Step:
        """What the loop does before a request that comes 20 us later."""
        nonlocal now, arrivals
        step = next_step(pacing, now, FAR, arrivals=arrivals)
        now += 20 * US
        pacing.woke(now)
        arrivals += waits
        return step

    request(waits=False)
    assert request(waits=False) is Step.LOOK
    assert request(waits=True) is Step.LOOK
    assert request(waits=True) is Step.NAP
    assert request(waits=False) is Step.NAP
    assert request(waits=False) is Step.LOOK


def test_the_alarm_goes_off_as_early_as_it_is_usually_late() -> None:
    pacing = rested(2)
    now = 10**12
    for _ in range(1000):
        due = now + 300 * US
        next_step(pacing, now, due)
        now = due - pacing.lead_ns + 20 * US  # always 20 us late
        pacing.woke(now)
        now = max(now, due)
        pacing.turn_was_given(now)
    assert abs(pacing.lead_ns - 20 * US) <= 3 * US
    pacing.set_cpus(1)
    assert pacing.lead_ns == 0
    pacing.set_cpus(2)
    assert abs(pacing.lead_ns - 20 * US) <= 3 * US  # it was not forgotten


def test_only_the_alarm_teaches_how_late_it_is() -> None:
    pacing = rested(2)
    now = 10**12
    lead = pacing.lead_ns
    next_step(pacing, now, now + 300 * US)
    pacing.woke(now + 100 * US)  # a request
    next_step(pacing, now, now + lead)
    pacing.woke(now + lead)  # it had watched the clock
    next_step(pacing, now, FAR)
    pacing.woke(now + 400 * US)  # nothing was due
    assert pacing.lead_ns == lead


@given(
    lates=st.lists(st.integers(0, 20_000_000), max_size=300),
)
def test_no_machine_is_so_late_that_more_is_watched_than_the_most(lates: list[int]) -> None:
    lateness = Lateness()
    for late in lates:
        before = lateness.usual_ns
        lateness.note(late)
        assert 0 <= lateness.usual_ns <= Lateness.MOST_NS
        assert abs(lateness.usual_ns - before) <= US


def test_the_usual_lateness_is_a_quantile_of_what_was_seen() -> None:
    generator = random.Random(1)
    lateness = Lateness()
    seen = []
    for number in range(20_000):
        late = 10_000 + round(generator.expovariate(1 / 15_000))
        if number % 50 == 0:
            late += 5_000_000  # others had the CPU
        lateness.note(late)
        seen.append((late, lateness.usual_ns))
    settled = seen[5000:]
    below = sum(late <= usual for late, usual in settled) / len(settled)
    assert abs(below - Lateness.PERCENT / 100) < 0.03


@pytest.mark.parametrize("cpus", [1, 2])
def test_trio_gets_its_turn_even_if_something_due_cannot_go(cpus: float) -> None:
    pacing = rested(cpus)
    now = 10**12
    due = now
    now += MAX_TURN_NS + 1
    assert now > pacing.turn_ends
    assert next_step(pacing, now, due) is Step.TURN
    pacing.turn_was_given(now)
    assert next_step(pacing, now + 1, due) is Step.WATCH


def test_a_turn_that_is_over_does_not_come_between_the_alarm_and_what_it_was_for() -> None:
    pacing = rested(2)
    now = 10**12 + MAX_TURN_NS + 1
    assert next_step(pacing, now, now + pacing.lead_ns) is Step.WATCH
    assert next_step(pacing, now, FAR) is Step.TURN


@pytest.mark.parametrize("cpus", [1, 2])
def test_after_a_millisecond_of_nothing_it_sleeps_in_trio(cpus: float) -> None:
    pacing = rested(cpus)
    now = 10**12 + MAX_TURN_NS + 1
    pacing.turn_was_given(now)
    assert next_step(pacing, now, FAR) is Step.SLEEP


def test_the_cpus_may_change() -> None:
    pacing = rested(2)
    pacing.set_cpus(1)
    assert pacing.lead_ns == 0
    pacing.set_cpus(4)
    assert pacing.lead_ns == Lateness.FIRST_NS


class Machine:
    """A loop, its limiter's alarm and an edge-triggered epoll on a virtual clock.

    Requests are due at *instants*, and each is alone or not. The alarm goes off once. It is set
    before the loop rests, to `Pacing.lead_ns` before the next request if that is alone. It wakes a
    sleeper *lateness* late, one after the other.
    """

    def __init__(
        self, instants: list[tuple[int, bool]], cpus: list[float], lateness: list[int]
    ) -> None:
        self.now = 1
        self.pending = sorted(instants)
        self.cpus = cpus
        self.lateness = lateness
        self.pacing = Pacing(cpus[0])
        self.served: list[tuple[int, int]] = []
        self.alarm = FAR  # when it will go off
        self.alarm_set = FAR

    def before_sleep(self) -> None:
        due, alone = self.pending[0]
        instant = due - (self.pacing.lead_ns if alone else 0)
        if instant != self.alarm_set:  # as the dispatcher does
            self.alarm = self.alarm_set = instant

    def serve(self) -> bool:
        served = False
        while self.pending and self.pending[0][0] <= self.now:
            self.served.append((self.pending.pop(0)[0], self.now))
            served = True
        return served

    def sleep(self, most: int) -> bool:
        """Sleep until the alarm, at the most *most* ns; whether it has gone off."""
        if self.alarm <= self.now + most:
            self.lateness.append(self.lateness.pop(0))
            self.now = max(self.now, self.alarm) + self.lateness[0]
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
                self.pacing.set_cpus(self.cpus[turn % len(self.cpus)])
            if self.serve():
                continue
            self.now += US
            self.before_sleep()
            due, alone = self.pending[0]
            step = next_step(self.pacing, self.now, due, alone=alone)
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
                MAX_NAP_NS
            ):
                continue
            self.pacing.woke(self.now)
        raise AssertionError("makes no progress")


@given(
    gaps=st.lists(st.tuples(st.integers(0, 5_000_000), st.booleans()), min_size=1, max_size=60),
    cpus=st.lists(st.sampled_from([0.5, 1, 2, 4]), min_size=1, max_size=3),
    lateness=st.lists(st.integers(0, 150 * US), min_size=1, max_size=5),
)
def test_nothing_due_is_slept_through(
    gaps: list[tuple[int, bool]], cpus: list[float], lateness: list[int]
) -> None:
    """On one CPU, iops=200 let 22 reads through in 5 s: the alarm's lead had two owners."""
    instants = []
    at = 1
    for gap, alone in gaps:
        at += gap
        instants.append((at, alone))
    most = max(lateness)
    machine = Machine(instants, cpus, lateness)
    machine.run()
    assert [due for due, _ in machine.served] == sorted(due for due, _ in instants)
    for due, served in machine.served:
        # A sleep too many would be at least as long as the time to the next alarm, or for ever.
        assert 0 <= served - due <= most + 200 * US
