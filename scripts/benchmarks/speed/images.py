"""Many images at once against one: what the number of images costs."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from functools import partial

from rich.console import RenderableType

from benchmarks import formats
from benchmarks.bench import Bench
from benchmarks.fio import OVERHEAD, Job
from benchmarks.measures import median
from benchmarks.results import Figures, Result, Row, Section, Step, in_turn, of, peers
from benchmarks.speed.variants import fitted, limited_ways, run, setup
from benchmarks.speed.workloads import STARTING

COUNT = 64
TOTAL_MIB = 512
DEPTH = 32
CASES = {"1-image": 1, f"{COUNT}-images": COUNT}


def measure(bench: Bench, way: str, count: int, seconds: float) -> Figures:
    """Read at random from so many images, DEPTH requests under way in all."""
    paths = [
        bench.image(f"{TOTAL_MIB // count}m-{number:02}", TOTAL_MIB // count)
        for number in range(count)
    ]
    with bench.serve(way, setup(way, paths)) as served:
        job = Job(served.files, "randread", "4k", DEPTH, extra={"file_service_type": "random"})
        return run(bench, served, fitted(job, way, direct=False), seconds)


class Images(Section):
    name = "images"
    title = f"{COUNT} images read at once against one, requests/s in all"
    takes_medians = True

    def __init__(self, peers: Sequence[str], seconds: float, rounds: int) -> None:
        self._ways = limited_ways(peers)
        self._seconds = seconds
        self._rounds = rounds
        self.method = (
            f"randread 4 KiB by one fio job with {DEPTH} requests under way over all its files, "
            f"{TOTAL_MIB} MiB in all, page cache warm; {seconds:g} s, median of "
            f"{formats.rounds(rounds)} in turn, limits that are never reached."
        )

    def steps(self) -> Iterable[Step]:
        for case, count in CASES.items():
            yield from in_turn(
                self.name,
                case,
                self._ways,
                self._rounds,
                self._seconds + OVERHEAD + STARTING,
                partial(measure, count=count, seconds=self._seconds),
            )

    def rows(self, result: Result) -> Iterable[Row]:
        yield Row("requests/s", result["per_second"], "higher")

    def report(self, results: Sequence[Result]) -> Iterable[RenderableType]:
        table = formats.table(self.title, "peer", *CASES, "ratio")
        for peer, row in self.summary(results).items():
            rates = [row.get(case, float("nan")) for case in CASES]
            table.add_row(peer, *map(formats.per_second, rates), f"{rates[1] / rates[0]:.2f}")
        yield table

    def summary(self, results: Sequence[Result]) -> Figures:
        return {
            peer: {
                case: median(result["per_second"] for result in of(results, peer, case))
                for case in CASES
                if of(results, peer, case)
            }
            for peer in peers(results)
            if of(results, peer)
        }
