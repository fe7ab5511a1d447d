"""Limits on one CPU, and on CPUs that change: affinity of the daemon while it runs."""

from __future__ import annotations

import os
import time
from collections.abc import Callable

import pytest

from tests import support
from tests.support import Mounted, MountFactory, wait_for

RATE = 200


def reads_in(mounted: Mounted, seconds: float) -> float:
    """Reads a second at queue depth 1, over *seconds* or more."""
    fd = os.open(mounted.path / "f", os.O_RDONLY)
    try:
        os.pread(fd, 512, 0)
        began, count = time.monotonic(), 0
        while (elapsed := time.monotonic() - began) < seconds:
            os.pread(fd, 512, 0)
            count += 1
        return count / elapsed
    finally:
        os.close(fd)


@pytest.fixture
def on_one_cpu(make_mount: MountFactory, monkeypatch: pytest.MonkeyPatch) -> Mounted:
    with monkeypatch.context() as patch:
        first = min(os.sched_getaffinity(0))
        patch.setattr(support, "THROTTLEFS", ["taskset", "-c", str(first), *support.THROTTLEFS])
        mounted = make_mount(f"iops={RATE}")
    (mounted.source / "f").write_bytes(bytes(512))
    return mounted


def best_of(tries: int, measure: Callable[[], float]) -> float:
    """The best of some tries: a busy machine takes the CPU away, and with it some of the rate."""
    best = 0.0
    for _ in range(tries):
        best = max(best, measure())
        if best > RATE * 0.9:
            break
    return best


def test_on_one_cpu_a_limit_is_reached(on_one_cpu: Mounted) -> None:
    """Each fifth read used to wait for a second: 22 reads in 5 s instead of 1,000."""
    rate = best_of(3, lambda: reads_in(on_one_cpu, 2))
    assert RATE * 0.5 < rate < RATE * 1.05


@pytest.mark.skipif((os.cpu_count() or 1) < 2, reason="this machine has one CPU")
def test_cpus_may_come_and_go_while_requests_wait(on_one_cpu: Mounted) -> None:
    every = os.sched_getaffinity(0)
    for cpus in (every, {min(every)}, every):
        for thread in os.listdir(f"/proc/{on_one_cpu.pid}/task"):
            os.sched_setaffinity(int(thread), cpus)
        wait_for(lambda: os.sched_getaffinity(on_one_cpu.pid) == cpus)  # noqa: B023
        rate = best_of(3, lambda: reads_in(on_one_cpu, 2))
        assert RATE * 0.5 < rate < RATE * 1.05
