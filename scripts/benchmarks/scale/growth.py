"""Measures one kind of load at several sizes: CPU, memory, and how late requests are answered."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterable, Sequence
from contextlib import ExitStack
from functools import partial
from pathlib import Path

from rich.console import RenderableType

from benchmarks import crowd, formats
from benchmarks.bench import Bench
from benchmarks.errors import BenchmarkError, NotMeasurableError
from benchmarks.measures import median
from benchmarks.peers import Served, is_throttlefs
from benchmarks.peers.throttlefs import Throttlefs
from benchmarks.processes import memory
from benchmarks.results import Figures, Result, Row, Section, Step, cases, in_turn, of, peers
from benchmarks.scale.loads import TOTAL, Kind, Load

SETTLING = 1.5
"""Seconds that the load runs before the measured time."""
PATIENCE = 60.0
"""Seconds that opening the files, and the last answers, may take beside the measured time."""


def measure(bench: Bench, peer: str, load: Load, seconds: float) -> Figures:
    """Return what so many seconds of a load cost."""
    served_by = bench.peers[peer]
    if not isinstance(served_by, Throttlefs):
        raise NotMeasurableError("it has no limits by path")
    _make_files(bench.scratch.images, load.files)
    with ExitStack() as stack:
        mounts = [
            stack.enter_context(
                served_by.serve_config(bench.processes, bench.scratch, load.config, f"mnt{number}")
            )
            for number in range(load.mounts)
        ]
        plan = _plan(load, mounts, seconds)
        path = bench.scratch.root / "plan.json"
        path.write_text(json.dumps(plan))
        with bench.client([sys.executable, crowd.__file__, path]) as client:
            found = client.result(seconds + SETTLING + PATIENCE)
        used = sum(memory(pid, "Pss") for pid in plan["pids"])
    if found["open"] != len(load.files) * load.mounts:
        raise BenchmarkError(f"{found['open']} files were opened")
    if not found["requests"]:
        raise BenchmarkError("no request was answered")
    return {
        "images": found["open"],
        "waiting": load.waiting,
        "per_second": found["requests"] / found["seconds"],
        "off": found["requests"] / found["seconds"] / TOTAL - 1,
        "cpu": found["cpu_seconds"] / found["seconds"],
        "cpu_us": found["cpu_seconds"] / found["requests"] * 1e6,
        "memory": used,
        "late_p50": found["late_p50"],
        "late_p99": found["late_p99"],
    }


def _make_files(images: Path, names: Iterable[str]) -> None:
    for name in names:
        path = images / name
        if path.exists():
            continue
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(bytes(crowd.BLOCK))


def _plan(load: Load, mounts: Sequence[Served], seconds: float) -> dict[str, object]:
    read = {name for limit in load.limited for name in limit["files"]}
    return {
        "limited": [
            {**limit, "files": [str(mount.directory / name) for name in limit["files"]]}
            for mount in mounts
            for limit in load.limited
        ],
        "idle": [
            str(mount.directory / name)
            for mount in mounts
            for name in load.files
            if name not in read
        ],
        "pids": [mount.pid for mount in mounts],
        "settling": SETTLING,
        "seconds": seconds,
    }


class Growth(Section):
    """One kind of load at several sizes."""

    takes_medians = True

    def __init__(
        self, kind: Kind, peers: Sequence[str], seconds: float, rounds: int, most: int | None
    ) -> None:
        self._kind = kind
        self._peers = [peer for peer in peers if is_throttlefs(peer)]
        self._seconds = seconds
        self._rounds = rounds
        sizes = [size for size in kind.sizes if most is None or kind.make(size).mounts <= 16]
        self._sizes = [size for size in sizes if most is None or size <= most]
        self.name = kind.name  # type: ignore[misc]
        self.title = kind.title  # type: ignore[misc]
        self.method = (
            f"{kind.method}. {TOTAL:,.0f} requests/s in all, reads of 4 KiB of the page cache by"
            f" one client (Linux AIO); {seconds:g} s, median of {formats.rounds(rounds)}. CPU: user"
            " and system time of all daemons, 100 % is one CPU. Memory: their PSS. Late: how much"
            " more than a period passes between two answers under one limit."
        )

    def steps(self) -> Iterable[Step]:
        for size in self._sizes:
            load = self._kind.make(size)
            estimate = self._seconds + SETTLING + 1.5 + load.mounts * 0.8 + len(load.files) / 2000
            yield from in_turn(
                self.name,
                str(size),
                self._peers,
                self._rounds,
                estimate,
                partial(measure, load=load, seconds=self._seconds),
            )

    def rows(self, result: Result) -> Iterable[Row]:
        yield Row("CPU per request, us", result["cpu_us"])
        yield Row("memory, MiB", result["memory"] / 2**20)
        yield Row("late, p99, us", max(1.0, result["late_p99"] / 1e3))

    def report(self, results: Sequence[Result]) -> Iterable[RenderableType]:
        table = formats.table(
            self.title,
            self.title.partition(" ")[0].lower(),
            "peer",
            "requests/s",
            "off",
            "CPU",
            "CPU us/request",
            "memory",
            "late p50",
            "late p99",
        )
        for case in cases(results):
            for peer in peers(results):
                found = of(results, peer, case)
                if not found:
                    continue
                figures = {name: median(one[name] for one in found) for name in found[0].figures}
                table.add_row(
                    f"{int(case):,}",
                    peer,
                    formats.per_second(figures["per_second"]),
                    formats.percent(figures["off"]),
                    formats.percent(figures["cpu"], 0, sign=False),
                    f"{figures['cpu_us']:.0f}",
                    formats.mebibytes(figures["memory"]),
                    formats.micros(figures["late_p50"]),
                    formats.micros(figures["late_p99"]),
                )
        yield table
