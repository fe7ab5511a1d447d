"""Requests a second by queue depth, of the mount beside its profile's."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from rich.console import RenderableType

from benchmarks import formats
from benchmarks.bench import Bench
from benchmarks.fio import Job
from benchmarks.peers import Image, Setup
from benchmarks.profiles import model
from benchmarks.profiles.section import IMAGE_MIB, ProfileSection
from benchmarks.results import Figures, Result, Row, cases, of, peers

DEPTHS = (1, 2, 4, 8, 16, 32, 64)


class Depths(ProfileSection):
    name = "depths"
    title = "Reads a second by queue depth"
    kinds = DEPTHS
    engine = "libaio (psync at depth 1)"
    beside = "beside what"

    def measure(self, bench: Bench, peer: str, profile: str, kind: int, seconds: float) -> Figures:
        """Return the reads a second that fio saw, and those of the model."""
        image = Image(bench.image("image", IMAGE_MIB))
        setup = Setup([image], options=[f"profile={profile}"])
        with (
            bench.serve(peer, setup) as served,
            bench.load([Job(served.file, "randread", depth=kind)], seconds) as fio,
        ):
            fio.wait()
            (summary,) = fio.summaries()
        expected = model.expected(profile, model.READ, kind, IMAGE_MIB << 20)
        return {"measured": summary.per_second, "expected": expected.per_second}

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
