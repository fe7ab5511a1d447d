"""Writes a second of a mount that can lose power, beside the same mount without that."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path

from rich.console import RenderableType

from benchmarks import formats
from benchmarks.bench import Bench
from benchmarks.fio import OVERHEAD, Job
from benchmarks.measures import median
from benchmarks.peers import is_throttlefs
from benchmarks.results import Figures, Result, Row, Section, Step, cases, in_turn, of, peer_of
from benchmarks.scratch import drop_cache
from benchmarks.speed.variants import NO_LIMITS, run, setup

VOLATILE = ", volatile"
WORKLOADS: Mapping[str, Job] = {
    "randwrite-4k-qd1": Job(Path(), "randwrite", "4k", 1),
    "randwrite-4k-qd32": Job(Path(), "randwrite", "4k", 32),
    "write-1m-qd4": Job(Path(), "write", "1m", 4),
}
MODES = ("writeback", "none")
STARTING = 2.5
"""Seconds that mounting, writing the image back and unmounting take beside a run (an estimate)."""


def measure(
    bench: Bench, way: str, mode: str, workload: str, seconds: float, mebibytes: int
) -> Figures:
    """Run one workload through a fresh mount; the image is full of data, so all of it is saved."""
    image = bench.image("image", mebibytes)
    direct = mode == "none"
    made = setup(peer_of(way) + NO_LIMITS, [image], direct)
    if way.endswith(VOLATILE):
        made = replace(made, options=["volatile", f"volatile_dir={bench.scratch.root}"])
    with bench.serve(way, made) as served:
        if direct:
            drop_cache(image)
        return run(bench, served, replace(WORKLOADS[workload], file=served.file), seconds)


class Volatile(Section):
    name = "volatile"
    title = "Writes a second of a mount that can lose power"

    def __init__(self, peers: Sequence[str], seconds: float, rounds: int, mebibytes: int) -> None:
        own = [peer for peer in peers if is_throttlefs(peer)]
        self._ways = [peer + kind for peer in own for kind in (NO_LIMITS, VOLATILE)]
        self._seconds = seconds
        self._rounds = rounds
        self._mebibytes = mebibytes
        self.method = (
            f"fio on one image of {mebibytes} MiB that is full of data, {seconds:g} s a run on a "
            f"fresh mount, median of {formats.rounds(rounds)} in turn; nothing is flushed. The "
            "undo log is on the same filesystem. Writeback: the image is in the page cache."
        )

    def steps(self) -> Iterable[Step]:
        for mode in MODES:
            for workload in WORKLOADS:
                yield from in_turn(
                    self.name,
                    f"{mode}/{workload}",
                    self._ways,
                    self._rounds,
                    self._seconds + OVERHEAD + STARTING,
                    partial(
                        measure,
                        mode=mode,
                        workload=workload,
                        seconds=self._seconds,
                        mebibytes=self._mebibytes,
                    ),
                )

    def rows(self, result: Result) -> Iterable[Row]:
        yield Row("writes/s", result["per_second"], "higher")
        if "cpu_us" in result.figures:
            yield Row("CPU of the daemon, us", result["cpu_us"])

    def report(self, results: Sequence[Result]) -> Iterable[RenderableType]:
        owners = list(dict.fromkeys(peer_of(way) for way in self._ways))
        columns = [f"{owner}{kind}" for owner in owners for kind in ("", VOLATILE, ", ratio")]
        table = formats.table(self.title, "workload", *columns)
        for case in cases(results):
            cells = []
            for owner in owners:
                plain, volatile = (
                    _rate(results, owner + kind, case) for kind in (NO_LIMITS, VOLATILE)
                )
                ratio = f"{volatile / plain:.2f}" if plain > 0 else "-"
                cells += [formats.per_second(plain), formats.per_second(volatile), ratio]
            table.add_row(case, *cells)
        yield table


def _rate(results: Sequence[Result], way: str, case: str) -> float:
    found = [result["per_second"] for result in of(results, way, case)]
    return median(found) if found else math.nan
