"""When the loop that serves the limiter is to wake up, on a virtual clock."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.unit.throttle.simulator import KIB, READ, START, WRITE, Simulator
from tests.unit.throttle.virtual import VirtualAlarm
from throttlefs.settings.limits import Limits
from throttlefs.throttle import ImagePolicy, Throttle
from throttlefs.throttle.leaf import Leaf
from throttlefs.throttle.node import NEVER, SLACK
from throttlefs.throttle.request import Request
from throttlefs.throttle.traffic import QUIET_NS
from throttlefs.throttle.wakeups import MOST_HUSHED_NS, PATIENCE_NS, Wakeups

MS = 1_000_000
US = 1_000
LEAD = 50 * US


class Loop:
    """A scheduler, and the wake-ups of a loop that serves it."""

    def __init__(self, *limits: Limits, grouped: bool = False) -> None:
        self.simulator = Simulator()
        self.scheduler = self.simulator.scheduler
        if grouped:
            group = self.simulator.group(limits[0])
            self.leaves = [self.simulator.leaf(parent=group) for _ in range(3)]
        else:
            self.leaves = [self.simulator.leaf(each) for each in limits]
        self.wakeups = Wakeups(self.scheduler)
        self.wakeups.lead_ns = LEAD
        self.now = START
        self.strangers = 0

    def ask(self, leaf: Leaf | None = None, direction: int = READ) -> bool:
        """Whether the request goes at once; else it waits."""
        leaf = leaf or self.leaves[0]
        if self.scheduler.try_pass(leaf, direction, 4 * KIB, self.now):
            return True
        self.scheduler.enqueue(leaf, Request(direction, 4 * KIB, leaf), self.now)
        return False

    def plan(self) -> Wakeups:
        return self.wakeups.plan(self.now, self.strangers + self.scheduler.traffic.requests)

    def release(self) -> int:
        return len(self.scheduler.release_due(self.now))

    def settle(self) -> None:
        """Be asked for nothing else for long enough that the loop may be hushed."""
        self.ask()
        self.now += 2 * QUIET_NS
        self.release()

    def use_up(self) -> None:
        """Let requests of the first image go until it owes for one that has just gone."""
        while self.ask():
            pass
        self.now = self.scheduler.next_due
        self.release()


def test_nothing_waits_and_nothing_is_owed() -> None:
    loop = Loop(Limits(iops=1000))
    assert loop.plan().at == NEVER
    loop.settle()
    assert loop.plan().at == NEVER
    assert not loop.wakeups.is_hushed


def test_it_wakes_early_for_a_request_that_nobody_waits_behind() -> None:
    loop = Loop(Limits(iops=1000))
    assert loop.ask()
    assert not loop.ask()
    assert loop.plan().at == START + MS - LEAD
    loop.wakeups.lead_ns = None  # nobody watches the clock
    assert loop.plan().at == START + MS


def test_a_backlog_is_let_wait_for_a_part_of_what_it_waits_anyway() -> None:
    loop = Loop(Limits(iops=1000))
    for _ in range(40):
        loop.ask()
    assert loop.plan().at == START + MS  # nothing has waited yet
    loop.now = START + MS
    assert loop.release() == 1
    assert loop.plan().at == START + 2 * MS + MS // 4
    for number in range(2, 10):
        loop.now = START + number * MS
        assert loop.release() == 1
    assert loop.plan().at == START + 10 * MS + PATIENCE_NS
    loop.wakeups.is_prompt = True
    assert loop.plan().at == START + 10 * MS
    loop.wakeups.is_prompt = False
    loop.wakeups.lead_ns = None
    assert loop.plan().at == START + 10 * MS


def test_while_the_only_image_owes_nothing_need_be_heard() -> None:
    loop = Loop(Limits(iops=2000))
    loop.settle()
    loop.use_up()  # the next may go after 500 us
    loop.now += 10 * US
    plan = loop.plan()
    assert plan.is_hushed
    assert plan.listen_at == loop.now + 490 * US
    assert plan.at == plan.listen_at - LEAD
    assert not loop.ask()
    plan = loop.plan()
    assert plan.is_hushed
    assert plan.at == plan.listen_at == loop.now - 10 * US + 500 * US - LEAD
    loop.strangers += 1  # a request came that has nothing to do with the limits
    assert not loop.plan().is_hushed
    loop.now += QUIET_NS
    loop.release()
    loop.use_up()
    assert loop.plan().is_hushed


def test_it_listens_to_what_could_go_before_the_alarm() -> None:
    loop = Loop(Limits(iops_rd=2000))
    loop.settle()
    loop.use_up()
    assert not loop.ask()
    assert not loop.plan().is_hushed  # a write may go at once
    loop = Loop(Limits(iops=2000), Limits(iops=2000))
    loop.settle()
    loop.use_up()
    assert not loop.ask()
    assert loop.plan().is_hushed
    loop.ask(loop.leaves[1])
    assert not loop.plan().is_hushed  # another image is in use as well


def test_it_listens_to_the_members_of_a_group() -> None:
    """Who goes next depends on what all of them have asked."""
    loop = Loop(Limits(iops=2000), grouped=True)
    loop.settle()
    loop.use_up()
    assert not loop.plan().is_hushed
    loop.ask()
    assert not loop.plan().is_hushed


def test_it_listens_where_others_measure_how_long_requests_wait() -> None:
    loop = Loop(Limits(iops=2000))
    loop.wakeups.is_prompt = True
    loop.settle()
    loop.use_up()
    assert not loop.plan().is_hushed


@pytest.mark.parametrize("iops", [10, 400])
def test_nobody_is_left_unheard_for_long(iops: int) -> None:
    loop = Loop(Limits(iops=iops))
    loop.settle()
    loop.use_up()
    assert not loop.plan().is_hushed
    assert not loop.ask()
    assert not loop.plan().is_hushed


def test_what_asked_while_the_loop_woke_up_late_loses_none_of_its_rate() -> None:
    loop = Loop(Limits(iops=2000))
    loop.settle()
    loop.use_up()
    due = loop.now + 500 * US
    assert loop.plan().is_hushed
    loop.now = due + 8 * MS
    loop.wakeups.listens_again(loop.now)
    assert loop.scheduler.traffic.unread_ns == 500 * US + 8 * MS
    went = 0
    while loop.ask():
        went += 1
    assert abs(went - 8 * MS // (500 * US) - 1) <= 1
    loop.now = loop.scheduler.next_due
    loop.release()
    loop.plan()
    loop.now += 8 * MS + 1  # from here on it is idle time as any other
    went = 0
    while loop.ask():
        went += 1
    assert went <= SLACK // (500 * US) + 2


@settings(deadline=None)
@given(
    limits=st.lists(
        st.sampled_from(
            [Limits(iops=3000), Limits(iops=500), Limits(bps=40_000_000), Limits(iops_wr=2000)]
        ),
        min_size=1,
        max_size=2,
    ),
    grouped=st.booleans(),
    steps=st.lists(
        st.tuples(st.integers(0, 3 * MS), st.integers(0, 2), st.sampled_from([READ, WRITE])),
        max_size=80,
    ),
    quiet=st.booleans(),
)
def test_no_request_is_missed_while_the_loop_is_hushed(
    limits: list[Limits], grouped: bool, steps: list[tuple[int, int, int]], quiet: bool
) -> None:
    """Whatever the limiter knows of, and whatever comes while it is hushed, would have waited."""
    loop = Loop(*limits, grouped=grouped)
    loop.ask()
    if quiet:
        loop.now += 2 * QUIET_NS
        loop.release()
    for pause, which, direction in steps:
        plan = loop.plan()
        due = loop.scheduler.next_due
        assert plan.at == NEVER or plan.at <= due + PATIENCE_NS
        if plan.is_hushed:
            assert loop.now < plan.at <= loop.now + MOST_HUSHED_NS
            leaf = loop.leaves[which % len(loop.leaves)]
            if leaf.path[-1] is loop.scheduler.traffic.root:
                at = min(loop.now + pause, plan.at - 1)
                passes = all(
                    bucket.paid <= at * bucket.rate + bucket.credit
                    for node in leaf.path
                    for bucket in node.buckets[direction]
                )
                assert not passes or loop.scheduler.next_due <= at
        loop.now += pause
        loop.release()
        loop.ask(loop.leaves[which % len(loop.leaves)], direction)
        loop.release()


def test_what_was_not_heard_counts_as_having_waited() -> None:
    alarm = VirtualAlarm()
    throttle = Throttle(clock=lambda: alarm.now, alarm=alarm)
    throttle.set_default(ImagePolicy(Limits(iops=2000)))
    image = throttle.image("a")
    noted: list[tuple[int, int]] = []
    image.note_wait = lambda direction, waited: noted.append((direction, waited))
    traffic = throttle.dispatcher.scheduler.traffic
    assert image.try_admit(READ, 4096)  # as long as the limit is far away nobody was hushed
    while image.try_admit(READ, 4096):
        pass
    assert noted == []
    alarm.now += 500 * US
    traffic.unread_ns = 30 * US  # to wake up is not to wait for a limit
    assert image.try_admit(WRITE, 4096)
    assert noted == []
    alarm.now += 500 * US
    traffic.unread_ns = traffic.hushed_ns = 470 * US
    assert image.try_admit(WRITE, 4096)
    assert noted == [(WRITE, 470 * US)]
    request = Request(READ, 4096)
    throttle.dispatcher.scheduler.enqueue(image, request, alarm.now)
    assert request.arrived == alarm.now - 470 * US
    throttle.dispatcher.scheduler.withdraw(request, alarm.now)
    traffic.unread_ns = traffic.hushed_ns = 0
    alarm.now += 100 * MS
    assert image.try_admit(READ, 4096)
    assert len(noted) == 1
