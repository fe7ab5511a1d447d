"""What letting a request go costs in a group of many images: the limiter alone, no mount."""

from __future__ import annotations

import time
from collections.abc import Iterable, Sequence
from functools import partial

from rich.console import RenderableType

from benchmarks import formats
from benchmarks.bench import Bench
from benchmarks.measures import median
from benchmarks.results import Figures, Result, Section, Step, of

IMAGES = {"1-image": (1, 0), "10000-images-1000-blocked": (10_000, 1_000)}
"""How many images the group has, and how many of them their own limits hold back."""
GROUP_BPS = 100 * 1024 * 1024
BLOCK = 4096
RELEASES = 20_000
ROUNDS = 3


def measure(_bench: Bench, images: int, blocked: int) -> Figures:
    """Return the CPU time (us) of releasing a request, and of queueing the next in its place."""
    from throttlefs.settings.limits import Limits
    from throttlefs.throttle.group import Group
    from throttlefs.throttle.leaf import Leaf, Request
    from throttlefs.throttle.meter import READ
    from throttlefs.throttle.scheduler import Scheduler

    scheduler = Scheduler()
    now = time.monotonic_ns()
    group = Group("shared")
    scheduler.change_parent(group, None, now)
    scheduler.change_limits(group, Limits(bps=GROUP_BPS), now)
    leaves = [Leaf() for _ in range(images)]
    for number, leaf in enumerate(leaves):
        scheduler.change_parent(leaf, group, now)
        # A request every four seconds.
        own = Limits(bps=BLOCK // 4) if number < blocked else Limits()
        scheduler.change_limits(leaf, own, now)
    for _ in range(2):
        for leaf in leaves:
            scheduler.enqueue(leaf, Request(READ, BLOCK, leaf), now)

    def release(count: int) -> tuple[float, float]:
        nonlocal now
        released = releasing = queueing = 0
        while released < count:
            now = max(now, scheduler.next_due)
            begun = time.thread_time_ns()
            gone = scheduler.release_due(now)
            ended = time.thread_time_ns()
            for request in gone:
                scheduler.enqueue(request.owner, Request(READ, BLOCK, request.owner), now)
            queueing += time.thread_time_ns() - ended
            releasing += ended - begun
            released += len(gone)
        return releasing / released / 1e3, queueing / released / 1e3

    release(images)  # everybody's first turn
    rounds = [release(RELEASES) for _ in range(ROUNDS)]
    return {
        "release_us": median(spent for spent, _ in rounds),
        "queue_us": median(spent for _, spent in rounds),
    }


class Release(Section):
    name = "release"
    title = "CPU time of the limiter for each request of a group"
    method = (
        f"The scheduler alone on a virtual clock: bps=100M on the group, 4 KiB requests, every "
        f"image with two waiting at all times; {RELEASES:,} releases, median of {ROUNDS} rounds."
    )

    def __init__(self, peers: Sequence[str], _seconds: float) -> None:
        self._peers = [peer for peer in peers if peer == "throttlefs"]

    def steps(self) -> Iterable[Step]:
        for peer in self._peers:
            for case, (images, blocked) in IMAGES.items():
                yield Step(
                    self.name, case, peer, 4, partial(measure, images=images, blocked=blocked)
                )

    def report(self, results: Sequence[Result]) -> Iterable[RenderableType]:
        table = formats.table(self.title, "group", "releasing one", "queueing one")
        for result in of(results):
            table.add_row(
                result.case, f"{result['release_us']:.1f} us", f"{result['queue_us']:.1f} us"
            )
        if table.row_count:
            yield table
