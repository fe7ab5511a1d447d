#!/usr/bin/env python3
"""What the limiter costs a request that goes at once, by what limits its image.

Prints nanoseconds of CPU of `Image.try_admit`, the best of several runs. `scripts/bench accuracy
--only release` measures what a request costs that has to wait.
"""

import argparse
import sys
import time
import timeit
from collections.abc import Callable, Sequence

from throttlefs.settings.limits import NO_LIMITS, Limits
from throttlefs.throttle import READ, Image, Override, Throttle

LARGE = 10**14
"""A rate that is never reached: limited, but always due."""


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
    kinds: dict[str, tuple[Limits, str | None]] = {
        "unlimited": (NO_LIMITS, None),
        "bps": (Limits(bps=LARGE), None),
        "bps with a burst": (Limits(bps=LARGE, bps_max=2 * LARGE), None),
        "bps and iops": (Limits(bps=LARGE, iops=LARGE), None),
        "in a group": (NO_LIMITS, "group"),
        "in a group, bps of its own": (Limits(bps=LARGE), "group"),
        "in a VM in a tenant, bps of its own": (Limits(bps=LARGE), "vm"),
    }
    images = {}
    for name, (limits, group) in kinds.items():
        images[name] = image = throttle.image(name)
        throttle.set_override(image, Override(limits, group))
    return images


def time_admission(image: Image, repeats: int) -> float:
    """Nanoseconds of CPU of one `try_admit` that succeeds."""
    admit: Callable[[int, int], bool] = image.try_admit
    number = 20_000
    best = min(
        timeit.repeat(
            lambda: admit(READ, 4096), number=number, repeat=repeats, timer=time.process_time
        )
    )
    return best / number * 1e9


def main(arguments: Sequence[str]) -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n\n", maxsplit=1)[0])
    parser.add_argument("--repeats", type=int, default=5, help="runs, of which the best counts")
    options = parser.parse_args(arguments)
    for name, image in prepare_images().items():
        print(f"{name:38}{time_admission(image, options.repeats):8.0f} ns")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
