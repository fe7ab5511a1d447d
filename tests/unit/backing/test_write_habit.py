"""When writes on the event loop give way to the engine, on a virtual clock."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from throttlefs.backing import inline
from throttlefs.backing.inline import (
    PAUSE_MAX,
    PAUSE_MIN,
    STALL_CREDIT,
    STALL_SHARE,
    WriteHabit,
)


def test_small_stalls_are_borne() -> None:
    """A tenth of the time may go by in stalls of a few ms: a busy host looks like that."""
    habit, now = WriteHabit(), 1000.0
    for _ in range(1000):
        now += 0.045
        habit.stalled(now, now + 0.004)
        now += 0.004
    assert habit.resume_at == 0


def test_one_long_stall_is_enough() -> None:
    habit = WriteHabit()
    habit.stalled(1000.0, 1000.0 + STALL_CREDIT)
    assert habit.resume_at == 0
    habit.stalled(1000.0, 1000.0 + STALL_CREDIT)
    assert habit.resume_at >= 1000.0 + STALL_CREDIT + PAUSE_MIN


@pytest.mark.parametrize("stall", [0.03, 0.3, 2.96, 45.0])
def test_a_pause_grows_with_the_stall(stall: float) -> None:
    """However long a write takes, no more than a part of the time goes by in such writes."""
    habit, now, waited = WriteHabit(), 1000.0, 0.0
    for _ in range(20):
        habit.stalled(now, now + stall)
        waited += stall
        now = max(habit.resume_at, now + stall)
        assert waited <= STALL_SHARE * (now - 1000.0) + stall


def test_many_stalls_in_a_row_are_enough() -> None:
    habit, now = WriteHabit(), 1000.0
    for _ in range(6):
        habit.stalled(now, now + 0.004)
        now += 0.005
    assert habit.resume_at > now


def test_pauses_grow_while_it_goes_on_and_are_short_again_later() -> None:
    habit, now = WriteHabit(), 1000.0

    def storm() -> float:
        """Stalls of 4 ms until writes pause; for how long."""
        nonlocal now
        while habit.resume_at <= now:
            now += 0.004
            habit.stalled(now - 0.004, now)
        pause, now = habit.resume_at - now, habit.resume_at
        return pause

    pauses = [storm() for _ in range(9)]
    assert [round(pause / PAUSE_MIN) for pause in pauses] == [1, 2, 4, 8, 16, 32, 64, 64, 64]
    now += 2 * PAUSE_MAX
    assert round(storm() / PAUSE_MIN) == 1


@given(st.lists(st.tuples(st.floats(0, 1), st.floats(0.0003, 0.05)), max_size=200))
def test_stalls_are_bounded(events: list[tuple[float, float]]) -> None:
    """Up to the first pause: a tenth of the time, the credit and the last stall."""
    habit, start, now, total, last = WriteHabit(), 1000.0, 1000.0, 0.0, 0.0
    for gap, stall in events:
        now += gap
        last = stall
        total += stall
        habit.stalled(now, now + stall)
        now += stall
        if habit.resume_at:
            break
    tolerated = (now - start) * inline.STALL_SHARE + STALL_CREDIT
    assert total <= tolerated + last + 1e-9
