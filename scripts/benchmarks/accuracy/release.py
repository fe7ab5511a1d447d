"""What letting a request go costs in a group of many images: the limiter alone, no mount."""

from __future__ import annotations

import time
from collections.abc import Iterable, Sequence
from functools import partial

from rich.console import RenderableType

from benchmarks import formats
from benchmarks.bench import Bench
from benchmarks.errors import NotMeasurableError
from benchmarks.measures import median
from benchmarks.peers import Throttlefs, is_throttlefs
from benchmarks.results import Figures, Result, Row, Section, Step, in_turn, of

IMAGES = {"1-image": (1, 0), "10000-images-1000-blocked": (10_000, 1_000)}
"""How many images the group has, and how many of them their own limits hold back."""
GROUP_BPS = 100 * 1024 * 1024
BLOCK = 4096
RELEASES = 20_000
ROUNDS = 3


_CODE = """
import json, sys
from benchmarks.accuracy.release import measure
print(json.dumps(measure(None, *map(int, sys.argv[1:]))))
"""


def measure_of(bench: Bench, peer: str, images: int, blocked: int) -> Figures:
    """Have a version of throttlefs measured by its own benchmarks, which know its modules."""
    throttlefs = bench.peers[peer]
    assert isinstance(throttlefs, Throttlefs)
    installation = throttlefs.installation
    if not (installation.scripts / "benchmarks").is_dir():
        raise NotMeasurableError(f"{installation.directory} has no scripts/benchmarks")
    path = f"PYTHONPATH={installation.scripts}"
    command = ["env", path, str(installation.python), "-P", "-c", _CODE, str(images), str(blocked)]
    with bench.client(command) as client:
        return client.result(120)


def measure(_bench: object, images: int, blocked: int) -> Figures:
    """Return the CPU time (us) of releasing a request, and of queueing the next in its place.

    Other versions are asked by this name, with these arguments.
    """
    from throttlefs.settings.limits import Limits
    from throttlefs.throttle.group import Group
    from throttlefs.throttle.leaf import Leaf
    from throttlefs.throttle.meter import READ
    from throttlefs.throttle.request import Request
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

    def __init__(self, peers: Sequence[str], _seconds: float, rounds: int) -> None:
        self._peers = list(filter(is_throttlefs, peers))
        self._rounds = rounds

    def steps(self) -> Iterable[Step]:
        for case, (images, blocked) in IMAGES.items():
            measure = partial(measure_of, images=images, blocked=blocked)
            yield from in_turn(self.name, case, self._peers, self._rounds, 4, measure)

    def rows(self, result: Result) -> Iterable[Row]:
        yield Row("releasing one, us", result["release_us"])
        yield Row("queueing one, us", result["queue_us"])

    def report(self, results: Sequence[Result]) -> Iterable[RenderableType]:
        table = formats.table(self.title, "group", "peer", "releasing one", "queueing one")
        for result in of(results):
            spent = (f"{result[what]:.1f} us" for what in ("release_us", "queue_us"))
            table.add_row(result.case, result.peer, *spent)
        if table.row_count:
            yield table
