"""How even the pace is: what a client at queue depth 1 waits for each request."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from functools import partial

from rich.console import RenderableType

from benchmarks import formats
from benchmarks.bench import Bench
from benchmarks.fio import OVERHEAD, Job
from benchmarks.measures import percentile
from benchmarks.peers import Image, Setup
from benchmarks.results import Figures, Result, Row, Section, Step, cases, in_turn, of, peers

IOPS = 3000
SETTLING = 0.5
"""Seconds left out at the start: QEMU's first 100 ms are free."""
LOADS = {f"iops-{IOPS}-4k-qd1": "randread", f"iops-{IOPS}-4k-write-qd1": "randwrite"}


def measure(bench: Bench, peer: str, rw: str, seconds: float) -> Figures:
    """Return the latencies (ns) that fio saw under iops=3000."""
    image = Image(bench.image("image", 256), {"iops": IOPS})
    with (
        bench.serve(peer, Setup([image])) as served,
        bench.load([Job(served.file, rw)], seconds + SETTLING, logged=True) as fio,
    ):
        fio.wait()
        fio.summaries()
        entries = fio.logs()[0]
    start = entries[0].completion.time + SETTLING * 1e9 if entries else 0
    latencies = [entry.latency for entry in entries if entry.completion.time >= start]
    return {"p50": percentile(latencies, 50), "p99": percentile(latencies, 99)}


class Latency(Section):
    name = "latency"
    title = "Latency at queue depth 1"

    def __init__(self, peers: Sequence[str], seconds: float, rounds: int) -> None:
        self._peers = peers
        self._seconds = seconds
        self._rounds = rounds
        self.method = (
            f"iops={IOPS}, 4 KiB, psync, {seconds:g} s; fio's latency of each request, the first "
            f"{SETTLING:g} s left out. Ideal: {1e6 / IOPS:.0f} us, all alike."
        )

    def steps(self) -> Iterable[Step]:
        for case, rw in LOADS.items():
            yield from in_turn(
                self.name,
                case,
                self._peers,
                self._rounds,
                self._seconds + SETTLING + OVERHEAD + 1,
                partial(measure, rw=rw, seconds=self._seconds),
            )

    def rows(self, result: Result) -> Iterable[Row]:
        return [Row(f"{name}, us", result[name] / 1e3) for name in ("p99", "p50")]

    def report(self, results: Sequence[Result]) -> Iterable[RenderableType]:
        table = formats.table(self.title, "case", "peer", "p50", "p99")
        for case in cases(results):
            for peer in peers(results):
                for result in of(results, peer, case):
                    p50, p99 = formats.micros(result["p50"]), formats.micros(result["p99"])
                    table.add_row(case, peer, p50, p99)
        yield table
