"""Counters and histograms: exact buckets, bounded quantiles, bounded memory."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from throttlefs.stats import (
    BUCKET_COUNT,
    BUCKETS_PER_OCTAVE,
    DirectionStatistics,
    Statistics,
    bucket_of,
    quantile_ns,
    since,
    upper_bound_ns,
)

DURATIONS = st.integers(0, 2**64 - 1)
SPREAD = st.integers(0, 2**40)


@given(DURATIONS)
def test_a_duration_lies_within_its_bucket(duration: int) -> None:
    bucket = bucket_of(duration)
    assert 0 <= bucket < BUCKET_COUNT
    # Exactly, in integers: 2^((b-1)/4) <= d < 2^(b/4).
    assert duration**BUCKETS_PER_OCTAVE < 2**bucket
    if bucket:
        assert duration**BUCKETS_PER_OCTAVE >= 2 ** (bucket - 1)


@given(DURATIONS, DURATIONS)
def test_longer_durations_are_in_no_lower_bucket(one: int, other: int) -> None:
    if one <= other:
        assert bucket_of(one) <= bucket_of(other)


def test_bounds_double_every_four_buckets() -> None:
    for bucket in range(BUCKET_COUNT - 4):
        assert upper_bound_ns(bucket + 4) == pytest.approx(2 * upper_bound_ns(bucket))


def filled(durations: list[int]) -> list[int]:
    histogram = [0] * BUCKET_COUNT
    for duration in durations:
        histogram[bucket_of(duration)] += 1
    return histogram


@given(st.lists(SPREAD, min_size=1, max_size=200), st.floats(0.001, 1))
def test_a_quantile_is_within_a_bucket_of_the_exact_one(
    durations: list[int], fraction: float
) -> None:
    exact = sorted(durations)[max(0, math.ceil(fraction * len(durations)) - 1)]
    found = quantile_ns(filled(durations), fraction)
    assert found is not None
    ratio = 2 ** (1 / BUCKETS_PER_OCTAVE)
    assert exact / ratio * 0.999 <= found <= max(exact, 1) * ratio * 1.001


@given(st.lists(SPREAD, min_size=1, max_size=100))
def test_quantiles_grow_with_their_fraction(durations: list[int]) -> None:
    histogram = filled(durations)
    found = [quantile_ns(histogram, part) or 0.0 for part in (0.1, 0.5, 0.9, 0.99, 1.0)]
    assert found == sorted(found)


def test_there_is_no_quantile_of_nothing() -> None:
    assert quantile_ns([0] * BUCKET_COUNT, 0.5) is None


@given(st.lists(st.tuples(st.integers(0, 2**20), SPREAD)))
def test_what_was_served_adds_up(requests: list[tuple[int, int]]) -> None:
    statistics = DirectionStatistics()
    for nbytes, duration in requests:
        statistics.served(nbytes, duration)
    assert statistics.requests == len(requests)
    assert statistics.bytes == sum(nbytes for nbytes, _ in requests)
    assert statistics.service_ns == sum(duration for _, duration in requests)
    assert statistics.service == filled([duration for _, duration in requests])


@given(st.lists(SPREAD))
def test_waits_count_every_request(waits: list[int]) -> None:
    statistics = DirectionStatistics()
    for wait in waits:
        statistics.waited(wait, 3)
        statistics.served(1, 1)
    assert sum(statistics.wait) == len(waits)
    assert statistics.wait == filled(waits)
    assert statistics.delayed == sum(1 for wait in waits if wait)
    assert statistics.wait_ns == sum(waits)
    assert statistics.waiting_most == (3 if any(waits) else 0)


def test_the_difference_of_two_histograms() -> None:
    before, now = filled([5, 100]), filled([5, 100, 100, 7000])
    assert since(now, before) == filled([100, 7000])
    assert since(now, []) == now


def test_figures_outlive_the_handles() -> None:
    statistics = Statistics()
    first = statistics.opened("key", b"a")
    assert statistics.opened("key", b"b") is first
    assert (first.handles, first.path) == (2, b"b")
    first.read.served(10, 10)
    statistics.closed("key")
    statistics.closed("key")
    assert statistics.get("key") is first
    assert first.handles == 0
    assert statistics.opened("key", b"c") is first


def test_an_image_that_was_never_used_leaves_nothing() -> None:
    statistics = Statistics()
    statistics.opened("key", b"a")
    statistics.closed("key")
    assert statistics.get("key") is None


def test_a_removed_file_leaves_nothing_for_the_next_of_its_number() -> None:
    statistics = Statistics()
    statistics.opened("key", b"a").read.served(1, 1)
    statistics.closed("key")
    statistics.removed("key")
    assert statistics.get("key") is None


def test_closed_images_are_kept_within_bounds() -> None:
    statistics = Statistics()
    for key in range(3000):
        statistics.opened(key, b"x").write.served(1, 1)
        statistics.closed(key)
    kept = [image.key for image in statistics.images()]
    assert kept == list(range(2000, 3000))
