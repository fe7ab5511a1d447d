#!/usr/bin/env python3
"""What the limiter itself costs: CPU per request that goes at once, and per one that waits.

Prints nanoseconds of `Image.try_admit` by what limits the image, and microseconds per release
from groups of growing size, a tenth of whose images are held up by limits of their own. The
clock is virtual, so nothing but the limiter is measured; the best of several runs counts.
"""

import argparse
import sys
import time
import timeit
from collections.abc import Callable, Sequence

from throttlefs.limits import NO_LIMITS, Limits
from throttlefs.throttle import READ, Image, Throttle
from throttlefs.throttle.group import Group
from throttlefs.throttle.leaf import Leaf, Request
from throttlefs.throttle.scheduler import Scheduler

SECOND = 1_000_000_000
LARGE = 10**14
"""A rate that is never reached: limited, but always due."""

GROUP_SIZES = (1, 10, 100, 1_000, 10_000)


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
        image.set_limits(limits)
        image.set_group(group)
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


def time_release(images: int, releases: int) -> float:
    """Microseconds of CPU per release from a group of so many images, all of them waiting."""
    scheduler, group = Scheduler(), Group("group")
    now = SECOND
    scheduler.change_limits(group, Limits(bps=1 << 30), now)
    for number in range(images):
        leaf = Leaf()
        scheduler.change_parent(leaf, group, now)
        if number < images // 10:
            scheduler.change_limits(leaf, Limits(bps=10_000), now)
        for _ in range(2):
            scheduler.enqueue(leaf, Request(READ, 4096, leaf), now)
    released = spent = 0
    while released < releases:
        now = max(now, scheduler.next_due)
        before = time.process_time_ns()
        requests = scheduler.release_due(now)
        spent += time.process_time_ns() - before
        released += len(requests)
        for request in requests:
            scheduler.enqueue(request.owner, Request(READ, 4096, request.owner), now)
    return spent / released / 1000


def main(arguments: Sequence[str]) -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n\n", maxsplit=1)[0])
    parser.add_argument("--repeats", type=int, default=5, help="runs, of which the best counts")
    options = parser.parse_args(arguments)
    print("a request that goes at once, ns")
    for name, image in prepare_images().items():
        print(f"  {name:38}{time_admission(image, options.repeats):8.0f}")
    print("a release from a group, a tenth of its images held up by themselves, us")
    for images in GROUP_SIZES:
        best = min(time_release(images, 10_000) for _ in range(options.repeats))
        print(f"  {images:6} images{best:33.1f}")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
