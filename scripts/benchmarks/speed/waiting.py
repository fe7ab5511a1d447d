"""What it costs to let requests wait: the CPU time of daemons that hold clients to a limit."""

from __future__ import annotations

import time
from collections.abc import Iterable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial

from rich.console import RenderableType

from benchmarks import formats
from benchmarks.bench import Bench
from benchmarks.errors import BenchmarkError
from benchmarks.fio import OVERHEAD, Job
from benchmarks.measures import median
from benchmarks.peers import Image, Setup
from benchmarks.processes import cpu_seconds
from benchmarks.results import Figures, Result, Row, Section, Step, cases, in_turn, of, peers

IMAGE_MIB = 64
SETTLING = 0.5
"""Seconds left out from the start of the load: QEMU's first 100 ms are free."""
MOUNTING = 0.3
"""Seconds that it takes to mount and to unmount (an estimate)."""
STARTING = 10.0
"""Seconds in which each client must have had an answer."""


@dataclass(frozen=True)
class Load:
    """So many mounts of one image each, each with its limit and one client of this depth."""

    mounts: int
    iops: int
    depth: int


LOADS = {
    "iops-3000-4k-qd1": Load(1, 3000, 1),
    "iops-3000-4k-qd16": Load(1, 3000, 16),
    "16-mounts-iops-1000-4k-qd4": Load(16, 1000, 4),
}


def measure(bench: Bench, peer: str, load: Load, seconds: float) -> Figures:
    """Hold each client to its limit; return the CPU that all daemons took, and the latencies."""
    with ExitStack() as stack:
        served = []
        for number in range(load.mounts):
            image = Image(bench.image(f"waiting-{number:02}", IMAGE_MIB), {"iops": load.iops})
            apart = f"-{number}" if number else ""
            served.append(stack.enter_context(bench.serve(peer, Setup([image], apart=apart))))
        pids = [one.pid for one in served if one.pid is not None]
        jobs = [Job(one.file, "randread", depth=load.depth) for one in served]
        fio = stack.enter_context(bench.load(jobs, SETTLING + seconds + MOUNTING))
        idle = sum(map(cpu_seconds, pids))
        end = time.monotonic() + STARTING
        # A daemon takes no time before its client asks: then the load has begun.
        while sum(map(cpu_seconds, pids)) - idle < 0.02 * load.mounts:
            if time.monotonic() > end or not fio.running:
                raise BenchmarkError("the clients did not begin")
            time.sleep(0.02)
        time.sleep(SETTLING)
        begun, before = time.monotonic(), sum(map(cpu_seconds, pids))
        time.sleep(seconds)
        used = sum(map(cpu_seconds, pids)) - before
        lasted = time.monotonic() - begun
        fio.wait()
        summaries = fio.summaries()
        latencies = fio.percentiles("read")
    return {
        "cpu": used / lasted,
        "per_second": sum(summary.per_second for summary in summaries),
        "p50": latencies[50.0],
        "p99": latencies[99.0],
    }


class Waiting(Section):
    name = "waiting"
    title = "Requests that wait for their limit: CPU of all daemons together"
    takes_medians = True

    def __init__(self, peers: Sequence[str], seconds: float, rounds: int) -> None:
        # Those that have limits, and a daemon that takes CPU for them.
        self._peers = [peer for peer in peers if peer not in ("bindfs", "blkio", "native")]
        self._seconds = seconds
        self._rounds = rounds
        self.method = (
            "fio reads 4 KiB at random, page cache warm, through mounts of one image each; the "
            f"limit is reached. CPU: user and system time of the daemons in {seconds:g} s, in % of "
            f"one CPU, the first {SETTLING:g} s left out; latencies of the first client, by fio. "
            f"Median of {formats.rounds(rounds)} in turn."
        )

    def steps(self) -> Iterable[Step]:
        for case, load in LOADS.items():
            yield from in_turn(
                self.name,
                case,
                self._peers,
                self._rounds,
                self._seconds + SETTLING + OVERHEAD + (1 + load.mounts) * MOUNTING,
                partial(measure, load=load, seconds=self._seconds),
            )

    def rows(self, result: Result) -> Iterable[Row]:
        yield Row("CPU, %", 100 * result["cpu"])
        yield Row("p99, us", result["p99"] / 1e3)

    def report(self, results: Sequence[Result]) -> Iterable[RenderableType]:
        table = formats.table(self.title, "load", "peer", "CPU", "requests/s", "p50", "p99")
        for case, row in self.summary(results).items():
            for peer, figures in row.items():
                table.add_row(
                    case,
                    peer,
                    formats.percent(figures["cpu"], 1, sign=False),
                    formats.per_second(figures["per_second"]),
                    formats.micros(figures["p50"]),
                    formats.micros(figures["p99"]),
                )
        if table.row_count:
            yield table

    def summary(self, results: Sequence[Result]) -> Figures:
        names = ("cpu", "per_second", "p50", "p99")
        return {
            case: {
                peer: {name: median(result[name] for result in found) for name in names}
                for peer in peers(results)
                if (found := of(results, peer, case))
            }
            for case in cases(of(results))
        }
