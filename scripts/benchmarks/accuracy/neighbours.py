"""What one throttled image costs the others: reads beside it, and the mount's metadata."""

from __future__ import annotations

import time
from collections.abc import Iterable, Sequence
from functools import partial
from pathlib import Path

from rich.console import RenderableType

from benchmarks import formats
from benchmarks.bench import Bench
from benchmarks.fio import OVERHEAD, Job
from benchmarks.measures import median, percentile
from benchmarks.mounts import waiting_requests
from benchmarks.peers import Image, Served, Setup, is_throttlefs
from benchmarks.processes import wait_until
from benchmarks.results import Figures, Result, Row, Section, Step, in_turn, of

MIB = 1024 * 1024
HELD = {"bps": MIB}
WAITING = 64
ROUNDS = 2
SETTLING = 0.5
"""Seconds in which a load fills its queue."""
METADATA_WAITING = 5000
METADATA_FILES = 100


def _read_p99(bench: Bench, file: Path, seconds: float) -> float:
    """Return the p99 (ns) of 4 KiB reads at queue depth 1."""
    with bench.load([Job(file, "randread")], seconds, logged=True) as fio:
        fio.wait()
        fio.summaries()
        return percentile([entry.latency for entry in fio.logs()[0]], 99)


def measure_reads(bench: Bench, peer: str, seconds: float) -> Figures:
    """Return the p99 of an unlimited image, alone and beside one whose requests wait."""
    held = Image(bench.image("held", 64), HELD)
    free = Image(bench.image("free", 64))
    alone, beside = [], []
    each = seconds / ROUNDS
    for _ in range(ROUNDS):
        with bench.serve(peer, Setup([held, free])) as served:
            alone.append(_read_p99(bench, served.files[1], each))
            with bench.load([Job(served.file, "randread", "64k", WAITING)], each + 60):
                time.sleep(SETTLING)
                beside.append(_read_p99(bench, served.files[1], each))
    ratio = median(beside) / median(alone)
    return {"alone": median(alone), "beside": median(beside), "ratio": ratio}


def measure_metadata(bench: Bench, peer: str, seconds: float) -> Figures:
    """Return the p99 of stat and of listing a directory while thousands of reads wait."""
    held = Image(bench.image("held", 64), HELD)
    directory = bench.scratch.images / "small"
    directory.mkdir(exist_ok=True)
    for number in range(METADATA_FILES):
        (directory / f"{number:03}").touch()
    # Without these the kernel would answer from what it remembers.
    setup = Setup([held], options=["attr_timeout=0", "entry_timeout=0"])
    with bench.serve(peer, setup) as served:
        figures = _probe_metadata(bench, served, seconds / 2, "idle")
        with bench.load([Job(served.file, "randread", "4k", METADATA_WAITING)], seconds + 60):
            wait_until(
                lambda: (waiting_requests(served.connections) or 0) >= METADATA_WAITING,
                SETTLING * 6,
            )
            figures["waiting"] = waiting_requests(served.connections)
            figures |= _probe_metadata(bench, served, seconds, "busy")
    return figures


def _probe_metadata(bench: Bench, served: Served, seconds: float, state: str) -> Figures:
    with bench.probe("metadata", served.directory / "small", seconds) as probe:
        found = probe.result(seconds + 20)
    return {f"{state}_{what}": percentile(found[what], 99) for what in ("stat", "list")}


class Neighbours(Section):
    name = "neighbours"
    title = "Beside a throttled image"

    def __init__(self, peers: Sequence[str], seconds: float, rounds: int) -> None:
        self._peers = peers
        self._seconds = seconds
        self._rounds = rounds
        self.method = (
            f"bps=1M on one image. Reads: 4 KiB, queue depth 1, of another image without limits; "
            f"p99 by fio, alone and beside {WAITING} waiting 64 KiB reads, in turn, median of "
            f"{ROUNDS}. Metadata: stat, and listing a directory of {METADATA_FILES} files, every "
            f"2 ms from a process of its own, nothing cached by the kernel, while fio keeps "
            f"{METADATA_WAITING:,} 4 KiB reads waiting (as many as the kernel said there were)."
        )

    def steps(self) -> Iterable[Step]:
        yield from in_turn(
            self.name,
            "reads",
            self._peers,
            self._rounds,
            2 * self._seconds + ROUNDS * (3 * OVERHEAD + SETTLING),
            partial(measure_reads, seconds=self._seconds),
        )
        yield from in_turn(
            self.name,
            "metadata",
            # QSD exports single files: there is no directory to list.
            list(filter(is_throttlefs, self._peers)),
            self._rounds,
            1.5 * self._seconds + 4,
            partial(measure_metadata, seconds=self._seconds),
        )

    def rows(self, result: Result) -> Iterable[Row]:
        reads, metadata = ("beside", "alone"), ("busy_stat", "busy_list", "idle_stat", "idle_list")
        for name in reads if result.case == "reads" else metadata:
            yield Row(f"{name.replace('_', ' ')}, p99, us", result[name] / 1e3)

    def report(self, results: Sequence[Result]) -> Iterable[RenderableType]:
        table = formats.table(
            self.title, "what, p99", "peer", "alone", "beside", "ratio", "waiting"
        )
        for result in of(results, case="reads"):
            table.add_row(
                "4k reads of another image",
                result.peer,
                formats.micros(result["alone"]),
                formats.micros(result["beside"]),
                f"{result['ratio']:.2f}",
                str(WAITING),
            )
        for result in of(results, case="metadata"):
            for what, label in (("stat", "stat"), ("list", f"listing {METADATA_FILES} files")):
                idle, busy = result[f"idle_{what}"], result[f"busy_{what}"]
                table.add_row(
                    label,
                    result.peer,
                    formats.micros(idle),
                    formats.micros(busy),
                    f"{busy / idle:.2f}",
                    "unknown" if result["waiting"] is None else f"{result['waiting']:,}",
                )
        if table.row_count:
            yield table
