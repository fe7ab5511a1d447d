"""Latencies at depth 1 by quantile, of the mount beside its profile's."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from rich.console import RenderableType

from benchmarks import formats
from benchmarks.bench import Bench
from benchmarks.errors import BenchmarkError, NotMeasurableError
from benchmarks.fio import Job
from benchmarks.peers import Image, Setup
from benchmarks.profiles import model
from benchmarks.profiles.section import IMAGE_MIB, ProfileSection
from benchmarks.results import Figures, Result, Row, cases, of, peers

PERCENT = (1, 5, 10, 20, 30, 40, 50, 60, 70, 80, 90, 95, 98, 99, 99.5, 99.9)
"""What fio is asked for; it takes 20 at most."""

SHOWN = (50, 99, 99.9)
KINDS = {"reads": (model.READ, "randread"), "writes": (model.WRITE, "randwrite")}
KINDS |= {"fsync": (model.FLUSH, "randwrite")}


class Quantiles(ProfileSection):
    name = "quantiles"
    title = "Latency at queue depth 1"
    kinds = KINDS
    engine = "psync"
    beside = "fio's percentiles beside those that"

    def measure(self, bench: Bench, peer: str, profile: str, kind: str, seconds: float) -> Figures:
        """Return the quantiles (ns) that fio saw, and those of the model."""
        number, rw = KINDS[kind]
        _, device = model.settings(profile)
        if kind == "fsync" and not device.latency_of("latency_flush"):
            raise NotMeasurableError("its flushes cost nothing")
        image = Image(bench.image("image", IMAGE_MIB))
        extra = {"percentile_list": ":".join(map(str, PERCENT))}
        if number == model.FLUSH:
            extra["fsync"] = "1"
        setup = Setup([image], options=[f"profile={profile}"])
        with (
            bench.serve(peer, setup) as served,
            bench.load([Job(served.file, rw, extra=extra)], seconds) as fio,
        ):
            fio.wait()
            found = fio.percentiles("sync" if number == model.FLUSH else rw.removeprefix("rand"))
        if not found:
            raise BenchmarkError(f"no request was answered within {seconds:g} s")
        expected = model.expected(profile, number, size=IMAGE_MIB << 20)
        return {
            "measured": {f"{percent:g}": ns for percent, ns in found.items()},
            "expected": {f"{percent:g}": expected.quantile(percent) for percent in found},
        }

    def rows(self, result: Result) -> Iterable[Row]:
        for percent in SHOWN:
            ours, theirs = (result[name].get(f"{percent:g}") for name in ("measured", "expected"))
            if ours and theirs:
                yield Row(f"p{percent:g} off, %", abs(ours / theirs - 1) * 100, "nearer")

    def report(self, results: Sequence[Result]) -> Iterable[RenderableType]:
        columns = [
            f"p{percent:g}{what}" for percent in SHOWN for what in ("", " of profile", " off")
        ]
        table = formats.table(self.title, "case", "peer", *columns)
        for case in cases(results):
            for peer in peers(results):
                for result in of(results, peer, case):
                    table.add_row(case, peer, *self._cells(result))
        yield table

    @staticmethod
    def _cells(result: Result) -> Iterable[str]:
        for percent in SHOWN:
            ours, theirs = (result[name].get(f"{percent:g}") for name in ("measured", "expected"))
            yield formats.micros(ours) if ours else "-"
            yield formats.micros(theirs) if theirs else "-"
            yield formats.percent(ours / theirs - 1, 1) if ours and theirs else "-"
