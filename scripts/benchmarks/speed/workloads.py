"""Requests a second through a mount, warm, cold and past the page cache."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

from rich.console import RenderableType

from benchmarks import formats
from benchmarks.bench import Bench
from benchmarks.fio import OVERHEAD, Job
from benchmarks.measures import median
from benchmarks.results import Figures, Result, Row, Section, Step, cases, in_turn, of, peers
from benchmarks.scratch import drop_cache
from benchmarks.speed.variants import all_ways, fitted, run, setup

WORKLOADS: Mapping[str, Job] = {
    "randread-4k-qd1": Job(Path(), "randread", "4k", 1),
    "randread-4k-qd32": Job(Path(), "randread", "4k", 32),
    "randwrite-4k-qd1": Job(Path(), "randwrite", "4k", 1),
    "randwrite-4k-qd32": Job(Path(), "randwrite", "4k", 32),
    "read-1m-qd4": Job(Path(), "read", "1m", 4),
    "write-1m-qd4": Job(Path(), "write", "1m", 4),
}
MODES = {
    "warm": "the image in the page cache, page by page, as a guest's small requests leave it",
    "folios": "the image in the page cache, in large folios, as copying it leaves it",
    "cold": "the image dropped from the page cache before each run",
    "none": "the image opened past the page cache (cache=none; QSD: cache.direct=on)",
}
PAGE = 4096
STARTING = 1.3
"""Seconds that mounting, preparing the cache and unmounting take beside a run (an estimate)."""


def measure(
    bench: Bench, way: str, mode: str, workload: str, seconds: float, mebibytes: int
) -> Figures:
    """Run one workload through a fresh mount."""
    if mode == "warm":
        image = bench.image("pages", mebibytes, chunk=PAGE)
    else:
        image = bench.image("image", mebibytes)
    direct = mode == "none"
    with bench.serve(way, setup(way, [image], direct)) as served:
        if mode in ("cold", "none"):
            drop_cache(image)
        job = replace(
            fitted(WORKLOADS[workload], way, direct),
            file=served.file,
            # A cold block is cold only once.
            repeat=mode != "cold",
        )
        return run(bench, served, job, seconds)


class Workloads(Section):
    name = "workloads"
    title = "Requests a second"
    takes_medians = True

    def __init__(self, peers: Sequence[str], seconds: float, rounds: int, mebibytes: int) -> None:
        self._ways = all_ways(peers)
        self._seconds = seconds
        self._rounds = rounds
        self._mebibytes = mebibytes
        self.method = (
            f"fio on one image of {mebibytes} MiB, {seconds:g} s a run on a fresh mount, median "
            f"of {formats.rounds(rounds)} in turn; through mounts with direct=1 (psync, from depth "
            "2 on libaio), the native file as the daemons open it (buffered: io_uring). Throttled "
            "peers have limits that are never reached. CPU: user and system time of the daemon, "
            "all its threads."
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
        yield Row("requests/s", result["per_second"], "higher")
        if "cpu_us" in result.figures:
            yield Row("CPU of the daemon, us", result["cpu_us"])

    def report(self, results: Sequence[Result]) -> Iterable[RenderableType]:
        names = [way for way in self._ways if way in peers(results)]
        summary = summarise(results)
        for mode in MODES:
            rows = {
                case.removeprefix(f"{mode}/"): row
                for case, row in summary.items()
                if case.startswith(f"{mode}/")
            }
            if rows:
                yield _speeds(mode, rows, names)
        served = [name for name in names if name != "native"]
        if served:
            yield _cpu_times(summary, served)

    def summary(self, results: Sequence[Result]) -> Figures:
        return summarise(results)


def _speeds(
    mode: str, rows: Mapping[str, Mapping[str, Any]], names: Sequence[str]
) -> RenderableType:
    ratios = _ratio_columns(names)
    table = formats.table(f"Requests a second, {mode}: {MODES[mode]}", "workload", *names, *ratios)
    for workload, row in rows.items():
        rates = row["per_second"]
        table.add_row(
            workload,
            *(formats.per_second(rates.get(name, math.nan)) for name in names),
            *(_ratio(rates, *pair) for pair in ratios.values()),
        )
    return table


def _cpu_times(summary: Mapping[str, Mapping[str, Any]], names: Sequence[str]) -> RenderableType:
    table = formats.table("CPU time of the daemon for each request, us", "workload", *names)
    for case, row in summary.items():
        table.add_row(case, *(_figure(row["cpu_us"].get(name)) for name in names))
    return table


def _ratio_columns(names: Sequence[str]) -> dict[str, tuple[str, str]]:
    wanted = {
        "throttlefs / qsd": ("throttlefs", "qsd"),
        "limits / no limits": ("throttlefs", "throttlefs, no limits"),
    }
    return {title: pair for title, pair in wanted.items() if set(pair) <= set(names)}


def _ratio(figures: Mapping[str, float], over: str, under: str) -> str:
    if over not in figures or not figures.get(under):
        return "-"
    return f"{figures[over] / figures[under]:.2f}"


def _figure(value: float | None) -> str:
    return "-" if value is None else f"{value:.1f}"


def summarise(results: Sequence[Result]) -> dict[str, dict[str, Any]]:
    """Return per case the medians of all rounds, by figure and variant, and the ratios to QSD."""
    summary: dict[str, dict[str, Any]] = {}
    for case in cases(results):
        row: dict[str, Any] = {}
        for figure in ("per_second", "bytes_per_second", "cpu_us"):
            row[figure] = {
                name: median(result[figure] for result in of(results, name, case))
                for name in peers(results)
                if any(figure in result.figures for result in of(results, name, case))
            }
        qsd = row["per_second"].get("qsd")
        row["ratio_to_qsd"] = {
            name: value / qsd for name, value in row["per_second"].items() if qsd
        }
        summary[case] = row
    return summary
