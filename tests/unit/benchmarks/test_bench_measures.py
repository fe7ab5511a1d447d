"""Statistics of the benchmarks."""

import math

import pytest
from benchmarks.measures import jain_index, mean, median, percentile, share_errors, worst
from hypothesis import given
from hypothesis import strategies as st

values = st.lists(st.floats(0, 1e9), min_size=1, max_size=50)


@given(values, st.floats(0, 100))
def test_percentile_is_the_smallest_value_that_so_many_do_not_exceed(
    listed: list[float], percent: float
) -> None:
    found = percentile(listed, percent)
    assert found in listed
    wanted = percent / 100 * len(listed)
    assert sum(value <= found for value in listed) >= wanted
    assert sum(value < found for value in listed) < max(wanted, 1)


@pytest.mark.parametrize(
    ("percent", "expected"), [(0, 1), (1, 1), (50, 50), (50.1, 51), (99, 99), (100, 100)]
)
def test_percentile_of_the_first_hundred_numbers(percent: float, expected: int) -> None:
    assert percentile(list(range(100, 0, -1)), percent) == expected


def test_percentile_outside_its_range_is_an_error() -> None:
    with pytest.raises(ValueError, match="0 to 100"):
        percentile([1.0], 101)


def test_nothing_measured_is_not_a_number() -> None:
    assert math.isnan(percentile([], 50))
    assert math.isnan(median([]))
    assert math.isnan(mean([]))
    assert math.isnan(worst([]))
    assert math.isnan(jain_index([0.0, 0.0]))


def test_jain_index_of_equal_shares_and_of_everything_to_one() -> None:
    assert jain_index([3.0] * 7) == pytest.approx(1)
    assert jain_index([0.0, 0.0, 0.0, 5.0]) == pytest.approx(1 / 4)


@given(st.lists(st.floats(1, 1e9), min_size=1, max_size=50))
def test_jain_index_lies_between_one_in_n_and_one(shares: list[float]) -> None:
    assert 1 / len(shares) - 1e-9 <= jain_index(shares) <= 1 + 1e-9


def test_share_errors_follow_the_weights() -> None:
    assert share_errors([3.0, 6.0, 12.0], [100, 200, 400]) == pytest.approx([0, 0, 0])
    assert share_errors([1.5, 0.5], [1, 1]) == pytest.approx([0.5, -0.5])
    assert share_errors([0.0, 0.0], [1, 1]) == [-1.0, -1.0]


def test_worst_keeps_the_sign_and_passes_over_what_is_no_number() -> None:
    assert worst([0.01, -0.05, 0.02, math.nan]) == -0.05
