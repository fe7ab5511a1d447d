"""Times and rates on machines that may be busy: nothing may go too fast, ever, but it may be slow.

Another program that takes the CPU makes everything late, so what is late is tried again. What is
early was let through by the limiter, and is a fault at once.
"""

from __future__ import annotations

import time
from collections.abc import Callable

TRIES = 10


def takes(seconds: float, work: Callable[[], object], rel: float = 0.2) -> None:
    """*work* takes *seconds*, within *rel* of it: never less, and no more in one of some tries."""
    for _ in range(TRIES):
        began = time.monotonic()
        work()
        took = time.monotonic() - began
        assert took > seconds * (1 - rel), f"{took:.2f} s instead of {seconds:.2f} s"
        if took < seconds * (1 + rel):
            return
    raise AssertionError(f"{took:.2f} s instead of {seconds:.2f} s")


def goes_at(rate: float, measure: Callable[[], float], rel: float = 0.25) -> None:
    """What *measure* returns is *rate*: never more than *rel* above, nor below in all tries."""
    for _ in range(TRIES):
        found = measure()
        assert found < rate * (1 + rel), f"{found:,.0f} instead of {rate:,.0f}"
        if found > rate * (1 - rel):
            return
    raise AssertionError(f"{found:,.0f} instead of {rate:,.0f}")


def takes_less_than(seconds: float, work: Callable[[], object]) -> None:
    """In one of some tries at least."""
    for _ in range(TRIES):
        began = time.monotonic()
        work()
        took = time.monotonic() - began
        if took < seconds:
            return
    raise AssertionError(f"{took:.2f} s, not less than {seconds:.2f} s")
