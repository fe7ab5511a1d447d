"""How much a short stretch of a saturated run has beyond its share, the first one included."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from functools import partial

from rich.console import RenderableType

from benchmarks import formats
from benchmarks.accuracy.cases import WINDOWS, Case
from benchmarks.accuracy.grid import IMAGE_MIB, STARTING
from benchmarks.allowance import Rate, window_excess
from benchmarks.bench import LEAD, Bench
from benchmarks.peers import Image, Setup
from benchmarks.results import Figures, Result, Row, Section, Step, cases, in_turn, of, peers

LENGTHS = {"100 ms": 0.1, "10 ms": 0.01}


def measure(bench: Bench, peer: str, case: Case, seconds: float) -> Figures:
    """Return the excess of the fullest window of each length, as a fraction of its allowance."""
    image = Image(bench.image("image", IMAGE_MIB), case.limits)
    completions = bench.record(peer, Setup([image]), case.jobs, seconds).completions
    rate = Rate.of(case.limits, case.binding[0])
    return {
        name: window_excess(rate.cost, rate.per_second, completions, length)
        for name, length in LENGTHS.items()
    }


class Windows(Section):
    name = "windows"
    title = "Excess in the fullest window, one request aside"

    def __init__(self, peers: Sequence[str], seconds: float, rounds: int) -> None:
        self._peers = peers
        self._seconds = seconds
        self._rounds = rounds
        self.method = (
            f"{seconds:g} s a case; any window of the run, the first included: what was answered "
            "in it less one request / what the limit allows in it, less 1. Answers: {clock}."
        )

    def steps(self) -> Iterable[Step]:
        for case in WINDOWS:
            yield from in_turn(
                self.name,
                case.name,
                self._peers,
                self._rounds,
                self._seconds + LEAD + STARTING,
                partial(measure, case=case, seconds=self._seconds),
            )

    def rows(self, result: Result) -> Iterable[Row]:
        for length in LENGTHS:
            yield Row(f"excess in {length}, %", 100 * max(0.0, result[length]), "nearer")

    def report(self, results: Sequence[Result]) -> Iterable[RenderableType]:
        names = peers(results)
        table = formats.table(
            self.title, "case", *(f"{peer} {length}" for length in LENGTHS for peer in names)
        )
        for case in cases(results):
            found = {peer: of(results, peer, case) for peer in names}
            table.add_row(
                case,
                *(
                    formats.percent(found[peer][0][length], 1) if found[peer] else "-"
                    for length in LENGTHS
                    for peer in names
                ),
            )
        yield table

    def summary(self, results: Sequence[Result]) -> Figures:
        return {
            peer: {
                length: max((result[length] for result in of(results, peer)), default=None)
                for length in LENGTHS
            }
            for peer in peers(results)
        }
