"""Requests a second by queue depth, of the mount beside its profile's."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from functools import partial

from rich.console import RenderableType

from benchmarks import formats
from benchmarks.bench import Bench
from benchmarks.fio import OVERHEAD, Job
from benchmarks.peers import Image, Setup
from benchmarks.profiles import model
from benchmarks.results import Figures, Result, Row, Section, Step, cases, in_turn, of, peers

DEPTHS = (1, 2, 4, 8, 16, 32, 64)
IMAGE_MIB = 256


def measure(bench: Bench, peer: str, profile: str, depth: int, seconds: float) -> Figures:
    """Return the reads a second that fio saw, and those of the model."""
    image = Image(bench.image("image", IMAGE_MIB))
    setup = Setup([image], options=[f"profile={profile}"])
    with (
        bench.serve(peer, setup) as served,
        bench.load([Job(served.file, "randread", depth=depth)], seconds) as fio,
    ):
        fio.wait()
        (summary,) = fio.summaries()
    expected = model.expected(profile, model.READ, depth, IMAGE_MIB << 20)
    return {"measured": summary.per_second, "expected": expected.per_second}


class Depths(Section):
    name = "depths"
    title = "Reads a second by queue depth"

    def __init__(
        self, peers: Sequence[str], seconds: float, rounds: int, profiles: Sequence[str]
    ) -> None:
        self._peers = peers
        self._seconds = seconds
        self._rounds = rounds
        self._profiles = profiles
        self.method = (
            f"4 KiB, libaio (psync at depth 1), an image of {IMAGE_MIB} MiB, {seconds:g} s each; "
            "beside what the profile has on a virtual clock."
        )

    def steps(self) -> Iterable[Step]:
        for profile in self._profiles:
            for depth in DEPTHS:
                yield from in_turn(
                    self.name,
                    f"{profile}/{depth}",
                    self._peers,
                    self._rounds,
                    self._seconds + OVERHEAD + 1,
                    partial(measure, profile=profile, depth=depth, seconds=self._seconds),
                )

    def rows(self, result: Result) -> Iterable[Row]:
        off = abs(result["measured"] / result["expected"] - 1) * 100
        return [Row("reads a second off, %", off, "nearer")]

    def report(self, results: Sequence[Result]) -> Iterable[RenderableType]:
        table = formats.table(self.title, "case", "peer", "reads/s", "of profile", "off")
        for case in cases(results):
            for peer in peers(results):
                for result in of(results, peer, case):
                    ours, theirs = result["measured"], result["expected"]
                    table.add_row(
                        case,
                        peer,
                        formats.per_second(ours),
                        formats.per_second(theirs),
                        formats.percent(ours / theirs - 1, 1),
                    )
        yield table
