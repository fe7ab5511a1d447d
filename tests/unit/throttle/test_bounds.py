"""One image on a virtual clock: never over its limits, never idle while something is due."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from throttlefs.limits import Limits
from throttlefs.throttle.leaf import Leaf, Request
from throttlefs.throttle.meter import READ, WRITE
from throttlefs.throttle.scheduler import Scheduler

SECOND = 1_000_000_000
SLACK = 2_000_000
START = 90 * 24 * 3600 * SECOND
"""Months of uptime."""


def saturate(limits: Limits, requests: list[tuple[int, int]]) -> list[tuple[int, Request]]:
    """Let all *requests* (direction, bytes) wait at once; when each of them went."""
    scheduler, leaf = Scheduler(), Leaf()
    scheduler.change_limits(leaf, limits, START)
    for direction, nbytes in requests:
        scheduler.enqueue(leaf, Request(direction, nbytes), START)
    went: list[tuple[int, Request]] = []
    while len(went) < len(requests):
        now = max(START, scheduler.next_due)
        released = list(scheduler.release_due(now))
        went += [(now, request) for request in released]
        assert released or scheduler.next_due > now
    return went


sizes = st.lists(st.integers(1, 1 << 20), min_size=2, max_size=30)


@settings(max_examples=50, deadline=None)
@given(st.integers(1, 10**15), sizes)
def test_one_limit_holds_in_every_window_and_nothing_is_lost(rate: int, nbytes: list[int]) -> None:
    went = saturate(Limits(bps=rate), [(READ, n) for n in nbytes])
    assert [request.nbytes for _, request in went] == nbytes
    for first, (begin, _) in enumerate(went):
        total = 0
        for end, request in went[first:]:
            total += request.nbytes
            assert (total - max(nbytes)) * SECOND <= rate * (end - begin + SLACK)


@settings(max_examples=50, deadline=None)
@given(st.integers(1, 10**15), sizes)
def test_a_saturated_image_gets_its_whole_rate(rate: int, nbytes: list[int]) -> None:
    went = saturate(Limits(bps=rate), [(READ, n) for n in nbytes])
    paid = 0
    for instant, request in went:
        assert (instant - START - 1) * rate < paid * SECOND or instant == START
        paid += request.nbytes


def test_a_read_limit_does_not_hold_up_writes() -> None:
    went = saturate(Limits(bps_rd=1000), [(READ, 1000)] * 3 + [(WRITE, 1000)] * 3)
    assert [instant for instant, request in went if request.direction == WRITE] == [START] * 3
    reads = [instant - START for instant, request in went if request.direction == READ]
    assert reads == pytest.approx([0, SECOND, 2 * SECOND], abs=SLACK)


def test_under_a_total_reads_and_writes_go_by_arrival() -> None:
    order = [READ, WRITE, WRITE, READ, READ, WRITE, READ]
    went = saturate(Limits(iops=100), [(direction, 4096) for direction in order])
    assert [request.direction for _, request in went] == order
