"""Judging what a limiter let go, with limiters whose faults are known."""

import math
from collections.abc import Callable

import pytest
from benchmarks.allowance import (
    Rate,
    judge,
    judge_throughout,
    window_excess,
    worst_verdict,
)
from benchmarks.completions import Completion, span
from hypothesis import given
from hypothesis import strategies as st

SECOND = 1_000_000_000
MIB = 1024 * 1024


def paced(
    rate: Rate, size: int, seconds: float, write: bool = False, free: float = 0.0
) -> list[Completion]:
    """What a limiter lets go that makes requests pay afterwards; ``free`` units cost nothing."""
    answers = []
    paid = -free
    moment = 0.0
    while moment <= seconds:
        completion = Completion(round(moment * SECOND), write, size)
        answers.append(completion)
        paid += rate.cost(completion)
        moment = max(moment, _earliest(rate.allows, paid))
    return answers


def _earliest(allows: Callable[[float], float], units: float) -> float:
    """When so many units are allowed, by bisection: knows nothing of how they are."""
    low, high = 0.0, 1000.0
    for _ in range(80):
        middle = (low + high) / 2
        low, high = (low, middle) if allows(middle) >= units else (middle, high)
    return high


@pytest.mark.parametrize("size", [4096, 65536])
@pytest.mark.parametrize("bps", [MIB, 10 * MIB])
def test_an_exact_limiter_is_right_whatever_its_requests(size: int, bps: int) -> None:
    rate = Rate.of({"bps": bps}, "bps")
    verdict = judge(rate, paced(rate, size, 4), 4)
    assert verdict.ratio == pytest.approx(1, abs=1e-6)
    assert 0 <= verdict.requests_over <= 1.001


def test_free_first_100_ms_are_two_and_a_half_percent_of_four_seconds() -> None:
    rate = Rate.of({"iops": 1000}, "iops")
    answers = span(paced(rate, 4096, 4, free=100), 4)
    verdict = judge(rate, answers, 4)
    assert verdict.ratio == pytest.approx(1.025, abs=1e-3)
    assert verdict.requests_over == pytest.approx(101, abs=1)
    assert not verdict.coarse
    assert window_excess(rate.cost, 1000, answers, 0.1) == pytest.approx(0.99)
    assert window_excess(rate.cost, 1000, answers, 0.01) == pytest.approx(9.9)


def test_windows_of_an_exact_limiter_hold_no_more_than_one_request_beyond() -> None:
    rate = Rate.of({"iops": 1000}, "iops")
    answers = paced(rate, 4096, 1)
    assert window_excess(rate.cost, 1000, answers, 0.01) <= 0.001
    assert window_excess(rate.cost, 1000, [], 0.01) == 0


def test_a_limiter_that_is_too_slow_is_found_out() -> None:
    rate = Rate.of({"iops": 1000}, "iops")
    slow = Rate.of({"iops": 950}, "iops")
    assert judge(rate, paced(slow, 4096, 4), 4).ratio == pytest.approx(0.95, abs=1e-3)


def test_a_case_is_coarse_when_one_request_is_over_a_hundredth_of_the_allowance() -> None:
    rate = Rate.of({"bps": MIB}, "bps")
    assert judge(rate, paced(rate, 64 * 1024, 4), 4).coarse
    assert not judge(rate, paced(rate, 32 * 1024, 4), 4).coarse


def test_a_single_request_has_no_ratio_but_is_counted() -> None:
    rate = Rate.of({"bps": 1024}, "bps")
    verdict = judge(rate, [Completion(0, False, MIB)], 4)
    assert math.isnan(verdict.ratio)
    assert verdict.coarse
    assert verdict.requests_over == pytest.approx(1 - 4 * 1024 / MIB)


def test_a_run_without_a_request_of_the_limit_cannot_be_judged() -> None:
    with pytest.raises(ValueError, match="iops_wr"):
        judge(Rate.of({"iops_wr": 10}, "iops_wr"), [Completion(0, False, 1)], 4)


def test_a_direction_counts_its_own_requests_only() -> None:
    read, write = Completion(0, False, 4096), Completion(0, True, 4096)
    assert [Rate.of({"bps_rd": 1}, "bps_rd").cost(c) for c in (read, write)] == [4096, 0]
    assert [Rate.of({"iops_wr": 1}, "iops_wr").cost(c) for c in (read, write)] == [0, 1]
    assert [Rate.of({"iops": 1}, "iops").cost(c) for c in (read, write)] == [1, 1]


def test_iops_size_counts_a_large_request_by_its_size_and_bytes_not_at_all() -> None:
    limits = {"iops": 1000, "bps": 1000, "iops_size": 16384}
    iops, bps = Rate.of(limits, "iops"), Rate.of(limits, "bps")
    assert iops.cost(Completion(0, False, 24576)) == 1.5
    assert iops.cost(Completion(0, False, 4096)) == 1
    assert bps.cost(Completion(0, False, 24576)) == 24576


BURST = {"iops": 500, "iops_max": 2000, "iops_max_length": 2}


@given(st.floats(0, 20))
def test_a_burst_allows_its_volume_at_its_rate_and_the_rate_from_then_on(seconds: float) -> None:
    rate = Rate.of(BURST, "iops")
    assert rate.burst_lasts == pytest.approx(4000 / 1500)
    if seconds <= rate.burst_lasts:
        assert rate.allows(seconds) == pytest.approx(2000 * seconds)
    else:
        assert rate.allows(seconds) == pytest.approx(4000 + 500 * seconds)


def test_an_exact_burst_is_right_in_the_whole_and_in_its_first_part() -> None:
    rate = Rate.of(BURST, "iops")
    verdicts = judge_throughout(rate, paced(rate, 4096, 4), 4)
    assert [verdict.ratio for verdict in verdicts] == pytest.approx([1, 1], abs=1e-3)


def test_a_burst_that_starts_too_fast_is_found_out_though_the_whole_run_is_right() -> None:
    rate = Rate.of(BURST, "iops")
    faster = Rate.of({**BURST, "iops_max": 2500, "iops_max_length": 1.6}, "iops")  # type: ignore[dict-item]
    verdicts = judge_throughout(rate, paced(faster, 4096, 4), 4)
    assert verdicts[0].ratio == pytest.approx(1, abs=1e-3)
    assert verdicts[1].ratio == pytest.approx(1.25, abs=1e-2)
    assert worst_verdict(verdicts) is verdicts[1]


def test_without_a_burst_only_the_whole_run_is_judged() -> None:
    rate = Rate.of({"iops": 100}, "iops")
    assert len(judge_throughout(rate, paced(rate, 4096, 4), 4)) == 1
