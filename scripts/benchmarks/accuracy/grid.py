"""Measured against allowed, over a grid of limits and loads."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import asdict
from functools import partial

from rich.console import RenderableType
from rich.table import Table

from benchmarks import formats
from benchmarks.accuracy.cases import GRID, Case
from benchmarks.allowance import Rate, judge_throughout, worst_verdict
from benchmarks.bench import LEAD, Bench
from benchmarks.completions import cumulative_curve
from benchmarks.measures import mean, median, worst
from benchmarks.peers import Image, Setup
from benchmarks.results import Figures, Result, Row, Section, Step, cases, in_turn, of, peers

IMAGE_MIB = 256
STARTING = 1.6
"""Seconds that mounting, starting fio and unmounting take beside the run (an estimate)."""
CURVE_POINTS = 400
BURSTS = 1.5
"""How often the time of a burst has to fit into a run, so that its end is seen too."""


def measure(bench: Bench, peer: str, case: Case, seconds: float) -> Figures:
    """Run one case and judge every limit that binds."""
    image = Image(bench.image("image", IMAGE_MIB), case.limits)
    recording = bench.record(peer, Setup([image]), case.jobs, seconds)
    completions = recording.completions
    rates = [Rate.of(case.limits, name) for name in case.binding]
    verdicts = [
        verdict for rate in rates for verdict in judge_throughout(rate, completions, seconds)
    ]
    rate = rates[0]
    counted = [completion for completion in completions if rate.cost(completion)]
    return {
        **asdict(worst_verdict(verdicts)),
        "requests": len(completions),
        "cpu_wait": recording.cpu_wait,
        "verdicts": [asdict(verdict) for verdict in verdicts],
        "_curve": cumulative_curve(counted, rate.cost, CURVE_POINTS),
    }


class Grid(Section):
    name = "grid"
    title = "Measured / limit"

    def __init__(self, peers: Sequence[str], seconds: float, rounds: int) -> None:
        self._peers = peers
        self._seconds = seconds
        self._rounds = rounds
        self._loads = {case.name: case.load_text for case in GRID}
        self.method = (
            f"{seconds:g} s a case (bursts: to well beyond their end) on a fresh mount, page cache "
            "warm, fio with direct=1. From the first answer to the last within the run: what was "
            "answered, that last request not counted (it is paid for afterwards), / what the "
            "limit allows in that time; bursts: "
            "min(max x t, max x length + rate x t), and the first half of the burst too. Of "
            "several limits that bind, the one that is farthest off. Coarse: one request is more "
            "than 1 % of the run's allowance; judged by the requests answered in the whole run "
            "beyond its allowance, 0 to 1 being right. Answers: {clock}. Where the daemon waits "
            "for a CPU for more than a few percent of the time, the machine is too busy for this."
        )

    def steps(self) -> Iterable[Step]:
        for case in GRID:
            seconds = max(self._seconds, BURSTS * case.burst_lasts)
            yield from in_turn(
                self.name,
                case.name,
                self._peers,
                self._rounds,
                seconds + LEAD + STARTING,
                partial(measure, case=case, seconds=seconds),
            )

    def rows(self, result: Result) -> Iterable[Row]:
        if result["coarse"]:
            over = result["requests_over"]
            yield Row("off by, % of a request", 100 * max(0.0, -over, over - 1), "nearer")
        else:
            yield Row("off the limit, %", 100 * abs(result["ratio"] - 1), "nearer")

    def report(self, results: Sequence[Result]) -> Iterable[RenderableType]:
        coarse = {result.case for result in of(results) if result["coarse"]}
        fine = [result for result in results if result.case not in coarse]
        if fine:
            yield self._fine(fine)
        if coarse:
            yield self._coarse([result for result in results if result.case in coarse])

    def summary(self, results: Sequence[Result]) -> Figures:
        return {peer: summarise(of(results, peer)) for peer in peers(results)}

    def _fine(self, results: Sequence[Result]) -> Table:
        names = peers(results)
        table = formats.table("Measured / limit: fine cases", "case", "load", *names)
        table.columns[1].justify = "left"
        for case in cases(results):
            cells = []
            for peer in names:
                found = of(results, peer, case)
                cells.append(f"{found[0]['ratio']:.4f}" if found else _absent(results, peer, case))
            table.add_row(case, self._loads[case], *cells)
        summaries = [summarise(of(results, peer)) for peer in names]
        table.add_section()
        table.add_row("worst", "", *(formats.percent(summary["worst"]) for summary in summaries))
        table.add_row(
            "mean deviation",
            "",
            *(formats.percent(summary["mean"], sign=False) for summary in summaries),
        )
        table.add_row(
            "median deviation",
            "",
            *(formats.percent(summary["median"], sign=False) for summary in summaries),
        )
        table.add_row(
            "daemon waited for a CPU",
            "",
            *(formats.percent(summary["cpu_wait"], sign=False) for summary in summaries),
        )
        return table

    def _coarse(self, results: Sequence[Result]) -> Table:
        names = peers(results)
        columns = [f"{peer}{what}" for peer in names for what in ("", ": requests over")]
        table = formats.table("Measured / limit: coarse cases", "case", "load", *columns)
        table.columns[1].justify = "left"
        for case in cases(results):
            cells = []
            for peer in names:
                found = of(results, peer, case)
                if found:
                    cells += [
                        formats.ratio(found[0]["ratio"]),
                        formats.signed(found[0]["requests_over"]),
                    ]
                else:
                    cells += [_absent(results, peer, case), ""]
            table.add_row(case, self._loads[case], *cells)
        table.add_section()
        table.add_row(
            "most",
            "",
            *(
                cell
                for peer in names
                for cell in (
                    formats.percent(summarise(of(results, peer))["coarse_worst"]),
                    formats.signed(summarise(of(results, peer))["coarse_requests_over"]),
                )
            ),
        )
        return table


def _absent(results: Sequence[Result], peer: str, case: str) -> str:
    found = [result for result in results if (result.peer, result.case) == (peer, case)]
    return formats.absence(found[0] if found else None)


def summarise(results: Sequence[Result]) -> dict[str, float]:
    """Return the worst and the mean deviation over the fine cases and the worst coarse ones.

    As fractions with a sign (the mean without one); NaN where there is no such case.
    """
    fine = [result["ratio"] - 1 for result in results if not result["coarse"]]
    coarse = [result for result in results if result["coarse"]]
    return {
        "cases": len(results),
        "worst": worst(fine),
        "mean": mean(map(abs, fine)),
        "median": median(map(abs, fine)),
        "cpu_wait": mean(result["cpu_wait"] for result in results),
        "coarse_worst": worst(result["ratio"] - 1 for result in coarse),
        "coarse_requests_over": max(
            (result["requests_over"] for result in coarse), default=float("nan")
        ),
    }
