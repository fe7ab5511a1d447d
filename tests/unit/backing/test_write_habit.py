"""When writes on the event loop give way to the engine, on a virtual clock."""

from __future__ import annotations

import gc

from hypothesis import given
from hypothesis import strategies as st

from throttlefs.backing import inline
from throttlefs.backing.inline import PAUSE_MAX, PAUSE_MIN, STALL_CREDIT, WriteHabit, write_habit_of


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
    habit.stalled(1000.0, 1000.0 + 2 * STALL_CREDIT)
    assert habit.resume_at == 1000.0 + 2 * STALL_CREDIT + PAUSE_MIN


def test_many_stalls_in_a_row_are_enough() -> None:
    habit, now = WriteHabit(), 1000.0
    for _ in range(6):
        habit.stalled(now, now + 0.004)
        now += 0.005
    assert habit.resume_at > now


def test_pauses_grow_while_it_goes_on_and_are_short_again_later() -> None:
    habit, now, pauses = WriteHabit(), 1000.0, []
    for _ in range(9):
        habit.stalled(now, now + 0.1)
        pauses.append(habit.resume_at - now - 0.1)
        now = habit.resume_at + 0.01
    assert [round(pause / PAUSE_MIN) for pause in pauses] == [1, 2, 4, 8, 16, 32, 64, 64, 64]
    now += 2 * PAUSE_MAX
    habit.stalled(now, now + 0.1)
    assert round((habit.resume_at - now - 0.1) / PAUSE_MIN) == 1


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


def test_one_habit_for_a_filesystem() -> None:
    habit = write_habit_of(7)
    assert write_habit_of(7) is habit
    assert write_habit_of(8) is not habit
    habit.resume_at = 5.0
    del habit
    gc.collect()
    assert write_habit_of(7).resume_at == 0
