"""A thousand large writes waiting: what they hold in memory, and that nothing is lost."""

from __future__ import annotations

import time
from collections.abc import Iterable, Sequence
from functools import partial
from pathlib import Path

from rich.console import RenderableType

from benchmarks import formats, machine
from benchmarks.bench import Bench
from benchmarks.errors import BenchmarkError, NotMeasurableError
from benchmarks.fio import Fio, Job
from benchmarks.mounts import waiting_requests
from benchmarks.peers import Image, Served, Setup, is_throttlefs
from benchmarks.processes import memory, wait_until
from benchmarks.results import Figures, Result, Row, Section, Step, in_turn, of

MIB = 1024 * 1024
WRITES = 1000
MAX_INFLIGHT_MIB = (64, 256)
PATTERN = b"throttle"
"""Divides a block; fio fills every write with it."""
FILLING = 6.0
"""Seconds in which the writes are handed over and the daemon's memory settles."""
PREPARING = 60.0
"""Seconds that fio has to fill its buffers before the first write."""


def measure(bench: Bench, peer: str, bound: int) -> Figures:
    """Have the writes wait under bps=1M, then lift the limit; return the daemon's memory."""
    if machine.available_memory() < 3 * WRITES * MIB:
        raise NotMeasurableError(f"fio needs {WRITES} MiB for its writes: too little memory here")
    path = bench.image("written", WRITES)
    options = [f"max_inflight={bound}M"]
    held = Setup([Image(path, {"bps": MIB})], live=True, options=options)
    lifted = Setup([Image(path)], live=True, options=options)
    with bench.serve(peer, held) as served:
        if served.pid is None or served.reload is None:
            raise NotMeasurableError("its limits cannot be lifted here")
        time.sleep(1)
        idle = memory(served.pid)
        job = Job(
            served.file,
            "write",
            "1m",
            WRITES,
            repeat=False,
            extra={"buffer_pattern": f'"{PATTERN.decode()}"'},
        )
        with bench.load([job], 300) as fio:
            peak, waiting = _watch(served, fio)
            served.reload(lifted)
            if not fio.wait(120):
                raise BenchmarkError("writes were still waiting 120 s after the limit was lifted")
            summary = fio.summaries()[0]
        drained = memory(served.pid, "VmHWM")
        time.sleep(2)
        after = memory(served.pid)
    return {
        "max_inflight": bound * MIB,
        "idle": idle,
        "waiting_peak": peak,
        "waiting": waiting,
        "peak": drained,
        "after": after,
        "lost": WRITES - summary.requests + _wrong_blocks(path),
    }


def _watch(served: Served, fio: Fio) -> tuple[int, int | None]:
    """Return the most the daemon held while the writes came in, and how many waited at the end."""
    assert served.pid is not None
    peak = 0
    wait_until(lambda: bool(waiting_requests(served.connections)), PREPARING)
    end = time.monotonic() + FILLING
    while time.monotonic() < end:
        if not fio.running:
            fio.summaries()
            raise BenchmarkError("the writes did not wait")
        peak = max(peak, memory(served.pid))
        time.sleep(0.02)
    return peak, waiting_requests(served.connections)


def _wrong_blocks(path: Path) -> int:
    """Return how many blocks of the image do not hold what was written."""
    expected = PATTERN * (MIB // len(PATTERN))
    with path.open("rb") as file:
        return sum(file.read(MIB) != expected for _ in range(WRITES))


class Memory(Section):
    name = "memory"
    title = f"{WRITES:,} waiting writes of 1 MiB"
    method = (
        f"fio has {WRITES:,} writes of 1 MiB under way at bps=1M (waiting: as many as the kernel "
        f"has taken, which max_background bounds); after {FILLING:g} s the limit is lifted "
        "(configuration file and SIGHUP). Memory: the daemon's VmRSS before, its most while they "
        "waited and in all, and 2 s after the last was written. Lost: writes without an answer "
        "and blocks that do not hold what was written."
    )

    def __init__(self, peers: Sequence[str], rounds: int) -> None:
        self._peers = list(filter(is_throttlefs, peers))
        self._rounds = rounds

    def steps(self) -> Iterable[Step]:
        for bound in MAX_INFLIGHT_MIB:
            yield from in_turn(
                self.name,
                f"max_inflight-{bound}M",
                self._peers,
                self._rounds,
                FILLING + 12,
                partial(measure, bound=bound),
            )

    def rows(self, result: Result) -> Iterable[Row]:
        for what in ("waiting_peak", "peak", "after"):
            yield Row(f"memory, {what.replace('_', ' ')}, MiB", result[what] / MIB)

    def report(self, results: Sequence[Result]) -> Iterable[RenderableType]:
        table = formats.table(
            self.title,
            "max_inflight",
            "peer",
            "under way",
            "before",
            "most while waiting",
            "beyond max_inflight",
            "most in all",
            "after",
            "after / before",
            "lost",
        )
        for result in of(results):
            waiting = result["waiting"]
            table.add_row(
                formats.mebibytes(result["max_inflight"]),
                result.peer,
                "unknown" if waiting is None else f"{waiting:,}",
                formats.mebibytes(result["idle"]),
                formats.mebibytes(result["waiting_peak"]),
                formats.mebibytes(result["waiting_peak"] - result["max_inflight"]),
                formats.mebibytes(result["peak"]),
                formats.mebibytes(result["after"]),
                f"{result['after'] / result['idle']:.2f}",
                str(result["lost"]),
            )
        if table.row_count:
            yield table
