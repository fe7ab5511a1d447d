"""Which blocking calls may be under way, on a virtual clock."""

from __future__ import annotations

import copy
from collections import Counter

from hypothesis import given, settings
from hypothesis import strategies as st

from throttlefs.backing.fair_queue import FairQueue

ANNA, BERT, CARL, ROOT = 1001, 1002, 1003, 0

Call = tuple[int | None, int]
"""The owner, and a number."""


class Calls:
    """A queue of 8 places, 64 at most, whose calls are stuck after 100 ms; and a clock."""

    def __init__(self, places: int = 8, most: int = 64) -> None:
        self.queue: FairQueue[Call] = FairQueue(places, most, 0.1)
        self.now = 1000.0
        self.numbers = 0
        self.running: dict[Call, float] = {}

    def put(self, owner: int | None, count: int = 1) -> None:
        for _ in range(count):
            self.queue.put((owner, self.numbers), owner)
            self.numbers += 1

    def begin(self) -> list[Call]:
        """All that may begin now."""
        begun = []
        while (call := self.queue.take(self.now)) is not None:
            assert call not in self.running
            self.running[call] = self.now
            begun.append(call)
        return begun

    def end(self, call: Call) -> None:
        del self.running[call]
        self.queue.done(call)

    def stuck(self) -> int:
        return sum(began <= self.now - 0.1 for began in self.running.values())

    def of(self, owner: int | None) -> int:
        return sum(call[0] == owner for call in self.running)

    def pass_time(self) -> None:
        """Go on to where the queue wants to be looked at, until it does not any more."""
        self.begin()
        while (instant := self.queue.next_look(self.now)) is not None:
            self.now = max(self.now, instant) + 1e-6
            self.begin()


def owners(calls: list[Call]) -> list[int | None]:
    return [owner for owner, _ in calls]


def test_one_user_takes_all_places_but_one() -> None:
    calls = Calls()
    calls.put(ANNA, 100)
    assert owners(calls.begin()) == [ANNA] * 7
    calls.put(BERT)
    assert owners(calls.begin()) == [BERT]


def test_owners_take_turns() -> None:
    calls = Calls()
    calls.put(None, 8)
    first = calls.begin()
    for owner in (ANNA, BERT, CARL):
        calls.put(owner, 20)
    order = []
    for call in first:
        calls.end(call)
        order += owners(calls.begin())
    assert order == [ANNA, BERT, CARL] * 2 + [ANNA]  # one place is kept for somebody else
    for _ in range(20):
        calls.end(next(iter(calls.running)))
        order += owners(calls.begin())
    assert order == ([ANNA, BERT, CARL] * 20)[: len(order)]


def test_calls_of_an_owner_keep_their_order() -> None:
    calls = Calls()
    for _ in range(20):
        for owner in (ANNA, BERT, None):
            calls.put(owner)
    order = calls.begin()
    while calls.running:
        calls.end(next(iter(calls.running)))
        order += calls.begin()
    for owner in (ANNA, BERT, None):
        numbers = [number for of, number in order if of == owner]
        assert numbers == sorted(numbers)
        assert len(numbers) == 20


def test_one_users_stuck_calls_leave_as_many_places_to_others() -> None:
    calls = Calls()
    calls.put(ANNA, 1000)
    calls.pass_time()
    assert calls.of(ANNA) == 28
    calls.put(BERT, 1000)
    assert owners(calls.begin())[:1] == [BERT]  # without waiting at all
    calls.pass_time()
    assert (calls.of(ANNA), calls.of(BERT)) == (28, 14)
    calls.put(CARL)
    assert owners(calls.begin()) == [CARL]


def test_however_many_users_a_person_is_root_goes_on() -> None:
    calls = Calls()
    for uid in range(2000, 3000):
        calls.put(uid, 3)
    calls.pass_time()
    assert len(calls.running) == 56
    calls.put(ROOT, 3)
    calls.put(None, 3)
    assert sorted(map(str, owners(calls.begin()))) == sorted(["0", "None"] * 3)


def test_stuck_calls_get_company_when_the_time_has_come() -> None:
    calls = Calls()
    calls.put(None, 12)
    assert len(calls.begin()) == 8
    instant = calls.queue.next_look(calls.now)
    assert instant is not None
    assert abs(instant - calls.now - 0.1) < 1e-9
    calls.now = instant - 0.001
    assert not calls.begin()
    calls.now = instant + 0.001
    assert len(calls.begin()) == 4
    assert calls.queue.next_look(calls.now) is None


def test_what_is_quick_needs_no_more_places() -> None:
    calls = Calls()
    calls.put(None, 500)
    while calls.running or calls.queue.any_waiting:
        calls.begin()
        assert len(calls.running) <= 8
        calls.now += 0.01
        calls.end(next(iter(calls.running)))


steps = st.lists(
    st.tuples(st.just("put"), st.sampled_from([None, ROOT, ANNA, BERT, CARL]), st.integers(1, 12))
    | st.tuples(st.just("end"), st.integers(0, 100), st.just(0))
    | st.tuples(st.just("wait"), st.sampled_from([1, 30, 99, 101, 5000]), st.just(0)),
    max_size=60,
)


@settings(max_examples=300, deadline=None)
@given(steps, st.sampled_from([(1, 1), (1, 4), (3, 3), (3, 16), (8, 64)]))
def test_invariants(plan: list[tuple[str, int | None, int]], sizes: tuple[int, int]) -> None:
    places, most = sizes
    calls = Calls(places, most)
    for_users = most - most // 8
    passed_over: dict[int | None, Counter[int | None]] = {}
    waiting: Counter[int | None] = Counter()
    for what, first, second in plan:
        if what == "put":
            calls.put(first, second)
            waiting[first] += second
        elif what == "wait":
            assert first is not None
            calls.now += first / 1000
        elif calls.running:
            assert first is not None
            calls.end(list(calls.running)[first % len(calls.running)])
        for owner in waiting:
            if waiting[owner] and not calls.of(owner):
                passed_over.setdefault(owner, Counter())
        before = {owner: calls.of(owner) for owner in waiting}
        for owner in owners(calls.begin()):
            waiting[owner] -= 1
            before[owner] += 1
            passed_over.pop(owner, None)
            for others in passed_over.values():
                others[owner] += 1
        waiting = +waiting
        busy = len(calls.running) - calls.stuck()
        users = sum(calls.of(owner) for owner in (ANNA, BERT, CARL))
        assert busy <= places
        assert len(calls.running) <= most
        assert users <= for_users
        full = busy == places or len(calls.running) == most
        for owner in waiting:
            if owner in (None, ROOT):
                assert full
            elif not calls.of(owner):
                assert full or users == for_users
                others = passed_over[owner]
                assert all(others[user] <= 1 for user in (ANNA, BERT, CARL)), others
        if (instant := calls.queue.next_look(calls.now)) is not None:
            assert copy.deepcopy(calls.queue).take(instant - 0.002) is None
        assert calls.queue.any_waiting == bool(waiting)


def test_all_that_waits_may_be_taken() -> None:
    calls = Calls(1, 1)
    for owner in (ANNA, BERT, ANNA, None):
        calls.put(owner)
    (first,) = calls.begin()
    rest = list(calls.queue.take_all())
    assert owners([first, *rest]) == [ANNA, BERT, None, ANNA]
    assert not calls.queue.any_waiting
    for call in (first, *rest):
        calls.queue.done(call)
    assert calls.queue.running == 0


def test_a_call_is_stuck_after_a_while_until_it_ends() -> None:
    calls = Calls()
    assert not calls.queue.any_stuck(calls.now)
    calls.put(ANNA)
    (first,) = calls.begin()
    calls.now += 0.05
    calls.put(BERT)
    (second,) = calls.begin()
    assert not calls.queue.any_stuck(calls.now)
    calls.now += 0.06
    assert calls.queue.any_stuck(calls.now)
    calls.end(first)
    assert not calls.queue.any_stuck(calls.now)
    calls.now += 0.05
    assert calls.queue.any_stuck(calls.now)
    calls.end(second)
    assert not calls.queue.any_stuck(calls.now)
