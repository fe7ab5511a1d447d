"""What sharing a limit costs a request, and what a store that hangs does to others."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from functools import partial

from rich.console import RenderableType

from benchmarks import formats
from benchmarks.bench import Bench
from benchmarks.cluster.hosts import IMAGE_MIB, Member, Plan, cluster
from benchmarks.cluster.proxy import Proxy
from benchmarks.cluster.store import store
from benchmarks.cluster.windows import SETTLING
from benchmarks.fio import OVERHEAD, Job
from benchmarks.measures import median
from benchmarks.peers import Image, Setup
from benchmarks.results import Figures, Result, Row, Section, Step, in_turn, of
from benchmarks.speed.variants import UNREACHABLE, run

LOCAL_IOPS = 1000
SLOW = 5.0
"""Seconds that the store takes to answer."""
TURNS = 3
WAYS = ("own limits", "a group", "a shared group")
STORES = ("answers at once", "answers after 5 s")


def cost(bench: Bench, peer: str, seconds: float) -> Figures:
    """Return requests a second, and the daemon's CPU time (us) for each, for all three ways."""
    image = bench.image("image", IMAGE_MIB)
    job_of = partial(Job, rw="randread", block="4k", depth=32)
    found: Figures = {way: [] for way in WAYS}
    plan = Plan([Member()])
    with store(bench) as server:
        for turn in range(TURNS):
            for way in WAYS if turn % 2 == 0 else reversed(WAYS):
                if way == "a shared group":
                    with cluster(bench, UNREACHABLE, [plan], [server.url(f"key{turn}")]) as hosts:
                        served = hosts[0].served()
                        found[way].append(run(bench, served, job_of(served.file), seconds))
                    continue
                limits = UNREACHABLE
                setup = Setup([Image(image, limits)])
                if way == "a group":
                    setup = Setup([Image(image, {}, "g")], groups={"g": limits})
                with bench.serve(peer, setup) as served:
                    found[way].append(run(bench, served, job_of(served.file), seconds))
    return {
        way: {
            name: median(figures[name] for figures in several) for name in ("per_second", "cpu_us")
        }
        for way, several in found.items()
    }


def neighbours(bench: Bench, peer: str, seconds: float) -> Figures:
    """Return the latencies (ns) of reads under a limit of their own, by how the store answers."""
    members = [Member(), Member("randread", "4k", 1, {"iops": LOCAL_IOPS}, outside=True)]
    found: dict[str, list[dict[float, int]]] = {way: [] for way in STORES}
    extra = {"percentile_list": "50:99:99.9"}
    with (
        store(bench) as server,
        Proxy(server.socket) as proxy,
        cluster(bench, {"bps": 50_000_000}, [Plan(members)], [proxy.url()]) as (host,),
        bench.load(host.jobs()[:1], 2 * TURNS * (seconds + 3) + 60),
    ):
        for _ in range(TURNS):
            for way, delay in zip(STORES, (0.0, SLOW), strict=True):
                proxy.delay = delay
                job = Job(host.files[1], "randread", extra=extra)
                with bench.load([job], seconds) as fio:
                    fio.wait()
                    found[way].append(fio.percentiles("read"))
    return {
        way: {f"{percent:g}": median(one[percent] for one in several) for percent in several[0]}
        for way, several in found.items()
    }


class Path(Section):
    name = "path"
    title = "What sharing costs a request"

    def __init__(self, peers: Sequence[str], seconds: float, rounds: int) -> None:
        self._peers = peers
        self._rounds = rounds
        self._seconds = min(seconds, 3.0)
        self.method = (
            f"Medians of {TURNS} runs of {self._seconds:g} s by turns. Above: cached reads of "
            "4 KiB at depth 32, limits that are not reached. Below: reads of 4 KiB at depth 1 of "
            f"an image with iops={LOCAL_IOPS} of its own, in no group, while a member of a shared "
            "group of the same mount is busy."
        )

    def steps(self) -> Iterable[Step]:
        each = self._seconds + OVERHEAD
        takes = TURNS * (3 * each + SETTLING)
        yield from in_turn(
            self.name,
            "cost",
            self._peers,
            self._rounds,
            takes,
            partial(cost, seconds=self._seconds),
        )
        yield from in_turn(
            self.name,
            "local-limit",
            self._peers,
            self._rounds,
            SETTLING + TURNS * 2 * each,
            partial(neighbours, seconds=self._seconds),
        )

    def rows(self, result: Result) -> Iterable[Row]:
        if result.case == "cost":
            yield Row("us of CPU a request, shared", result["a shared group"]["cpu_us"])
        else:
            yield Row("p99 beside a store that hangs, us", result[STORES[1]]["99"] / 1e3)

    def report(self, results: Sequence[Result]) -> Iterable[RenderableType]:
        for result in of(results, case="cost"):
            table = formats.table(self.title, "an image with", "requests/s", "us of CPU each")
            for way in WAYS:
                figures = result[way]
                table.add_row(
                    way, formats.per_second(figures["per_second"]), f"{figures['cpu_us']:.1f}"
                )
            yield table
        for result in of(results, case="local-limit"):
            table = formats.table(
                "Reads under a limit of their own", "the store", "p50", "p99", "p99.9"
            )
            for way in STORES:
                figures = result[way]
                table.add_row(
                    way, *(formats.micros(figures[name]) for name in ("50", "99", "99.9"))
                )
            yield table
