#!/usr/bin/env python3
"""What the limiter costs a request that goes at once, by what limits its image.

Run by pyperf: `--fast` takes a minute, `-o FILE` keeps the figures, and `python -m pyperf
compare_to` holds two files against each other. `scripts/bench accuracy --only release` measures
what a request costs that has to wait.
"""

import time

import pyperf

from throttlefs.settings.limits import NO_LIMITS, Limits
from throttlefs.throttle import READ, Image, Override, Throttle

LARGE = 10**14
"""A rate that is never reached: limited, but always due."""

DAY_NS = 86_400 * 10**9


class NoAlarm:
    """Nothing waits, so nothing has to wake."""

    def set(self, instant: int | None) -> None:
        pass

    async def wait(self) -> None:
        raise NotImplementedError

    def fileno(self) -> int:
        raise NotImplementedError

    def close(self) -> None:
        pass


def prepare_images() -> dict[str, Image]:
    """One image for each kind of limits, all of them never reached."""
    throttle = Throttle(alarm=NoAlarm())
    throttle.create_group("tenant", Limits(bps=LARGE))
    throttle.create_group("vm", Limits(bps=LARGE), parent="tenant")
    throttle.create_group("group", Limits(bps=LARGE))
    shared = throttle.create_group("shared", Limits(bps=LARGE), shared=True)
    throttle.hold_group(shared, (LARGE, 0, 0, 0, 0, 0), throttle.lease_clock() + DAY_NS)
    kinds: dict[str, tuple[Limits, str | None]] = {
        "unlimited": (NO_LIMITS, None),
        "bps": (Limits(bps=LARGE), None),
        "bps with a burst": (Limits(bps=LARGE, bps_max=2 * LARGE), None),
        "bps and iops": (Limits(bps=LARGE, iops=LARGE), None),
        "in a group": (NO_LIMITS, "group"),
        "in a group shared by hosts": (NO_LIMITS, "shared"),
        "in a group, bps of its own": (Limits(bps=LARGE), "group"),
        "in a VM in a tenant, bps of its own": (Limits(bps=LARGE), "vm"),
    }
    images = {}
    for name, (limits, group) in kinds.items():
        images[name] = image = throttle.image(name)
        throttle.set_override(image, Override(limits, group))
    return images


def time_admissions(loops: int, image: Image) -> float:
    """Seconds of CPU of so many calls of `try_admit` that succeed."""
    admit = image.try_admit
    begun = time.process_time()
    for _ in range(loops):
        admit(READ, 4096)
    return time.process_time() - begun


if __name__ == "__main__":
    runner = pyperf.Runner()
    for name, image in prepare_images().items():
        runner.bench_time_func(name, time_admissions, image)
