"""Periods: when something holds, and when that changes next."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from throttlefs.settings.timeline import Period, PeriodError

SECOND = 10**9


def test_a_period_begins_lasts_and_comes_again() -> None:
    period = Period.parse({"at": "10s", "lasting": "5s", "repeat": "30s"})
    assert period == Period(10 * SECOND, 5 * SECOND, 30 * SECOND)
    on = [second for second in range(100) if period.is_on(second * SECOND)]
    assert on == [*range(10, 15), *range(40, 45), *range(70, 75)]
    changes = []
    now: int | None = 0
    while now is not None and len(changes) < 6:
        now = period.next_change(now)
        changes.append(now and now // SECOND)
    assert changes == [10, 15, 40, 45, 70, 75]


def test_without_an_end_or_a_beginning() -> None:
    assert Period.parse({"error": "EIO"}) is None
    for_ever = Period.parse({"at": "1s"})
    assert for_ever is not None
    assert [for_ever.is_on(n * SECOND) for n in (0, 1, 10**6)] == [False, True, True]
    assert (for_ever.next_change(0), for_ever.next_change(SECOND)) == (SECOND, None)
    once = Period.parse({"lasting": "2s"})
    assert once is not None
    assert [once.is_on(n * SECOND) for n in range(4)] == [True, True, False, False]
    assert (once.next_change(0), once.next_change(2 * SECOND)) == (2 * SECOND, None)


@pytest.mark.parametrize("values", [{"lasting": "0s"}, {"repeat": "1s"}, {"at": 5}, {"at": None}])
def test_a_period_that_cannot_be(values: dict[str, object]) -> None:
    with pytest.raises(PeriodError):
        Period.parse(values)


small = st.integers(0, 20)


@given(small, st.none() | st.integers(1, 10), st.none() | st.integers(1, 10))
def test_changes_are_exactly_where_it_begins_and_ends(
    at: int, lasting: int | None, pause: int | None
) -> None:
    repeat = None if lasting is None or pause is None else lasting + pause
    period = Period(at, lasting, repeat)
    states = [period.is_on(now) for now in range(80)]
    expected = [now for now in range(1, 80) if states[now] != states[now - 1]]
    found = []
    now: int | None = 0
    while (now := period.next_change(now)) is not None and now < 80:
        found.append(now)
    assert found == expected
    assert Period.parse(period.as_dict()) == period
