"""The longest stalls of a daemon's loop, as a client beside heavy writers sees them."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from functools import partial

from rich.console import RenderableType

from benchmarks import formats
from benchmarks.bench import Bench
from benchmarks.fio import OVERHEAD, Job
from benchmarks.measures import percentile
from benchmarks.results import Figures, Result, Row, Section, Step, cases, in_turn, of, peers
from benchmarks.speed.variants import fitted, limited_ways, setup

INTERVAL = 0.001
LOADS = {
    "idle": None,
    "mixed-4k-to-1m-writes-qd16": ("randwrite", "4k/50:64k/30:1m/20", 16),
    "64k-writes-qd32": ("randwrite", "64k", 32),
}
QUANTILES = {"p50": 50, "p99": 99, "max": 100}


def measure(bench: Bench, way: str, load: str, seconds: float) -> Figures:
    """Return what reading one cached block every ms takes (ns) beside a load."""
    quiet, busy = bench.image("quiet", 16), bench.image("busy", 512)
    with bench.serve(way, setup(way, [quiet, busy])) as served:
        shape = LOADS[load]
        if shape is None:
            found = _probe(bench, way, served.files[0], seconds)
        else:
            job = fitted(Job(served.files[1], *shape), way, direct=False)
            with bench.load([job], seconds + 2) as fio:
                found = _probe(bench, way, served.files[0], seconds)
                # A load that has failed has disturbed nobody.
                if not fio.running:
                    fio.summaries()
    return {name: percentile(found, percent) for name, percent in QUANTILES.items()}


def _probe(bench: Bench, way: str, file: object, seconds: float) -> list[int]:
    direct = int(way != "native")
    with bench.probe("reads", file, seconds, INTERVAL, direct) as probe:
        found: list[int] = probe.result(seconds + 30)["read"]
    return found


class Stalls(Section):
    name = "stalls"
    title = "A cached 4 KiB read every ms, beside writers of another image"

    def __init__(self, peers: Sequence[str], seconds: float, rounds: int) -> None:
        self._ways = limited_ways(peers)
        self._rounds = rounds
        self._seconds = max(seconds, 2.0)
        self.method = (
            f"{self._seconds:g} s; a process of its own reads one block of an image in the page "
            "cache while fio writes another of the same mount as fast as it can. The longest "
            "latency bounds the longest stall of the daemon's loop; the native file shows what "
            "the machine's scheduling adds by itself."
        )

    def steps(self) -> Iterable[Step]:
        for load in LOADS:
            yield from in_turn(
                self.name,
                load,
                self._ways,
                self._rounds,
                self._seconds + OVERHEAD + 3,
                partial(measure, load=load, seconds=self._seconds),
            )

    def rows(self, result: Result) -> Iterable[Row]:
        return [Row(f"{name}, us", result[name] / 1e3) for name in ("p99", "p50")]

    def report(self, results: Sequence[Result]) -> Iterable[RenderableType]:
        table = formats.table(self.title, "load", "peer", *QUANTILES)
        for case in cases(results):
            for peer in peers(results):
                for result in of(results, peer, case):
                    table.add_row(case, peer, *(formats.micros(result[name]) for name in QUANTILES))
        yield table
