"""Sums, windows and curves over answered requests."""

import pytest
from benchmarks.completions import (
    Completion,
    cumulative_curve,
    most_in_window,
    span,
    total,
)
from hypothesis import given
from hypothesis import strategies as st

MS = 1_000_000


def read(at_ms: float, size: int = 4096) -> Completion:
    return Completion(round(at_ms * MS), False, size)


def size_of(completion: Completion) -> float:
    return completion.size


completions = st.lists(st.builds(read, st.integers(0, 200), st.integers(1, 1000)), max_size=40).map(
    sorted
)


@given(completions, st.integers(1, 100))
def test_the_fullest_window_is_that_of_a_search_over_all_of_them(
    listed: list[Completion], window_ms: int
) -> None:
    width = window_ms * MS
    expected = max(
        (
            sum(other.size for other in listed if end - width < other.time <= end)
            for end in {completion.time for completion in listed}
        ),
        default=0,
    )
    assert most_in_window(listed, size_of, window_ms / 1000) == pytest.approx(expected)


def test_requests_paced_one_window_apart_are_one_in_each() -> None:
    assert most_in_window([read(10 * n, 1) for n in range(20)], size_of, 0.01) == 1


def test_a_span_begins_with_the_first_answer_whatever_the_order() -> None:
    listed = [read(1500), read(1001), read(500), read(1500.001)]
    assert span(listed, 1.0) == [read(500), read(1001), read(1500)]
    assert span([], 1.0) == []


@given(completions, st.integers(2, 10))
def test_a_curve_is_short_rises_and_ends_with_the_total(
    listed: list[Completion], points: int
) -> None:
    curve = cumulative_curve(listed, size_of, points)
    assert len(curve) <= points
    if listed:
        assert curve[-1] == (
            (listed[-1].time - listed[0].time) / 1e9,
            total(listed, size_of),
        )
    assert [units for _, units in curve] == sorted(units for _, units in curve)
