"""Single rules of a daemon; test_sharing.py and test_failures.py have them all at work."""

from __future__ import annotations

from throttlefs.cluster.keeper import CALL_NS, LEASE_NS, Keeper, State
from throttlefs.cluster.messages import Answer
from throttlefs.cluster.server_clock import ServerClock
from throttlefs.settings.limits import Limits
from throttlefs.settings.shared import OnLost
from throttlefs.throttle import NO_DEMAND, NOTHING, Demand, Flow, Rates

SECOND = 1_000_000_000
MS = 1_000_000
BUSY: Demand = (Flow(growing=(1000.0, 1.0)), Flow())
GRANTED: Rates = (500.0, *NOTHING[1:])


class FakeGroup:
    def __init__(self) -> None:
        self.limits = Limits(bps=1000)
        self.used = [0.0] * 4
        self.demand = BUSY
        self.held: list[tuple[Rates, int]] = []

    def set_limits(self, limits: Limits) -> None:
        self.limits = limits

    def hold(self, rates: Rates, until: int) -> None:
        self.held.append((rates, until))

    def measure(self) -> Demand:
        return self.demand

    def weight(self) -> int:
        return 100

    def is_idle(self, after_ns: int) -> bool:
        return self.demand == NO_DEMAND

    def is_held_up(self) -> bool:
        return self.demand == BUSY


def answer(**changes: object) -> Answer:
    fields: dict[str, object] = {
        **{"now": 10**15, "serial": 1, "version": 1, "limits": None, "fallback": 0.5},
        **{"hosts": 1, "active": 1, "period_us": 200_000, "must_give": False},
        **{"recovering_us": 0, "granted": GRANTED},
    }
    return Answer(**(fields | changes))  # type: ignore[arg-type]


def keeper_of(group: FakeGroup, on_lost: OnLost = OnLost.SHARE) -> Keeper:
    return Keeper(group, "id", "name", on_lost, 0)


def test_a_lease_begins_when_the_call_is_sent():
    group = FakeGroup()
    keeper = keeper_of(group)
    assert keeper.next_call(SECOND) is not None
    assert keeper.next_call(SECOND + 1) is None, "one call at a time"
    keeper.answered(answer(), SECOND + 100 * MS)
    assert group.held[-1] == (GRANTED, SECOND + LEASE_NS)


def test_an_answer_that_comes_too_late_is_not_used():
    group = FakeGroup()
    keeper = keeper_of(group)
    keeper.next_call(SECOND)
    keeper.answered(answer(), SECOND + CALL_NS + 1)
    assert GRANTED not in [rates for rates, _ in group.held]


def test_calls_come_in_order_and_confirm_what_was_granted():
    keeper = keeper_of(FakeGroup())
    first = keeper.next_call(SECOND)
    keeper.answered(answer(must_give=True), SECOND + MS)
    second = keeper.next_call(SECOND + MS)
    assert first is not None
    assert second is not None
    assert (first.sequence, second.sequence) == (1, 2)
    assert (first.using, second.using) == (NOTHING, GRANTED)
    assert (first.serial, second.serial) == (0, 1)
    assert (first.clock, second.version) == (None, 1)
    assert second.clock is not None


def test_early_calls_are_few():
    keeper = keeper_of(FakeGroup())
    now, calls = SECOND, 0
    while now < 11 * SECOND:
        keeper.hinted()
        if keeper.next_call(now) is not None:
            calls += 1
            keeper.answered(answer(must_give=True, period_us=10**9), now + 1)
        now += MS
    assert 100 <= calls <= 125


def test_a_lost_store_is_one_that_failed_for_as_long_as_a_lease():
    group = FakeGroup()
    keeper = keeper_of(group)
    keeper.next_call(SECOND)
    keeper.answered(answer(), SECOND + MS)
    now = SECOND + 200 * MS
    failed_first = now
    while keeper.standing.state is not State.LOST:
        keeper.tick(now)
        if keeper.next_call(now) is not None:
            keeper.failed(now + MS)
        now += 10 * MS
        assert now < 5 * SECOND
    assert now >= failed_first + LEASE_NS
    rates, until = group.held[-1]
    assert rates[0] == 500
    assert until < now + LEASE_NS
    assert keeper.standing.fallback == 0.5


def test_a_process_that_was_stopped_does_not_take_the_store_for_lost():
    group = FakeGroup()
    keeper = keeper_of(group)
    keeper.next_call(SECOND)
    keeper.answered(answer(), SECOND + MS)
    keeper.tick(SECOND + 200 * MS)
    assert keeper.next_call(SECOND + 200 * MS) is not None
    keeper.tick(60 * SECOND)
    keeper.failed(60 * SECOND)
    keeper.tick(60 * SECOND)
    assert keeper.standing.state is State.OVER
    call = keeper.next_call(60 * SECOND)
    assert call is not None
    assert call.using == NOTHING


def test_limits_set_here_are_told_and_those_of_others_are_taken():
    group = FakeGroup()
    keeper = keeper_of(group)
    call = keeper.next_call(SECOND)
    assert call is not None
    assert not call.changes
    keeper.answered(answer(version=3, limits=Limits(bps=7)), SECOND + MS)
    assert group.limits == Limits(bps=7)
    group.limits = Limits(bps=9)
    keeper.tick(SECOND + 2 * MS)
    call = keeper.next_call(SECOND + 2 * MS)
    assert call is not None
    assert (call.changes, call.limits, call.version) == (True, Limits(bps=9), 3)
    keeper.answered(answer(version=4, limits=Limits(bps=9)), SECOND + 3 * MS)
    call = keeper.next_call(2 * SECOND)
    assert call is not None
    assert not call.changes


# The server's clock.


def test_answers_narrow_down_what_the_servers_clock_says():
    clock = ServerClock()
    assert clock.view(SECOND) is None
    clock.note(5_000_000, SECOND, SECOND + 40 * MS)
    view = clock.view(SECOND + 40 * MS)
    assert view is not None
    assert (view.low, view.high, view.since) == (5_000_000, 5_040_000, 5_000_000)
    clock.note(5_100_000, SECOND + 110 * MS, SECOND + 112 * MS)
    view = clock.view(SECOND + 112 * MS)
    assert view is not None
    assert view.high - view.low < 3000
    assert view.since == 5_000_000


def test_a_jump_of_either_clock_ends_what_was_known():
    clock = ServerClock()
    clock.note(5_000_000, SECOND, SECOND + MS)
    clock.note(9_000_000, 2 * SECOND, 2 * SECOND + MS)
    view = clock.view(2 * SECOND + MS)
    assert view is not None
    assert view.since == 9_000_000


def test_nothing_is_known_after_long_silence():
    clock = ServerClock()
    clock.note(5_000_000, SECOND, SECOND + MS)
    assert clock.view(100 * SECOND) is not None
    assert clock.view(300 * SECOND) is None
