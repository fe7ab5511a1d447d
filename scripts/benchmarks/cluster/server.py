"""What the calls of many hosts cost the store."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from functools import partial

from rich.console import RenderableType

from benchmarks import formats
from benchmarks.bench import Bench
from benchmarks.cluster.callers import LOADS, Callers
from benchmarks.cluster.store import store
from benchmarks.results import Figures, Result, Row, Section, Step, cases, in_turn, of
from throttlefs.settings.limits import Limits

HOSTS = (20, 100)
LIMITS = Limits(bps=500_000_000)
HURRY = 0.5
"""Seconds of calls back to back."""
WARM = 2.5
"""Seconds that pass before it is measured; nothing is granted in the first."""


def measure(bench: Bench, peer: str, hosts: int, load: str, seconds: float) -> Figures:
    """Return how often the hosts called, and what that cost the server."""
    with store(bench) as server:
        callers = Callers(server.url(), hosts, load, LIMITS)
        try:
            warm = callers.run(WARM)
            cpu, (calls, script) = server.cpu_seconds(), server.calls()
            outcome = callers.run(seconds)
            cpu_after, (calls_after, script_after) = server.cpu_seconds(), server.calls()
            hurried = callers.hurry(HURRY)
            _, script_hurried = server.calls()
        finally:
            callers.close()
    made = max(1, calls_after - calls)
    return {
        "calls_per_second": outcome.calls / outcome.seconds,
        "script_us": (script_after - script) / made,
        "hurried_us": (script_hurried - script_after) / hurried,
        "cpu_us": (cpu_after - cpu) / made * 1e6,
        "cpu": (cpu_after - cpu) / outcome.seconds,
        "highest": max(warm.highest, outcome.highest),
        "late": outcome.late,
        "failed": callers.failed,
    }


class Server(Section):
    name = "store"
    title = "What many hosts cost the store"

    def __init__(self, peers: Sequence[str], seconds: float, rounds: int) -> None:
        self._peers = peers
        self._seconds = seconds
        self._rounds = rounds
        self.method = (
            "Simulated hosts, with the daemon's own rules and made-up demand (host n: seed n), at "
            f"a real server for {seconds:g} s: busy ones ask for more than there is, of mixed ones "
            "reads and writes have parts that are steady, restless ones work and rest for 0.1 to "
            "2 s by turns. Script: what the server says that a call took (commandstats), at that "
            f"pace and back to back, when all of it is in the CPU's caches ({HURRY:g} s). CPU: all "
            "of its process. Highest: the largest sum of rates in force / the limit."
        )

    def steps(self) -> Iterable[Step]:
        for hosts in HOSTS:
            for load in LOADS:
                yield from in_turn(
                    self.name,
                    f"{hosts}-{load}",
                    self._peers,
                    self._rounds,
                    WARM + self._seconds + 0.5,
                    partial(measure, hosts=hosts, load=load, seconds=self._seconds),
                )

    def rows(self, result: Result) -> Iterable[Row]:
        yield Row("us of script a call", result["script_us"])

    def report(self, results: Sequence[Result]) -> Iterable[RenderableType]:
        columns = (
            "calls/s",
            "script, us",
            "back to back",
            "server's CPU, us",
            "server's CPU",
            "highest",
        )
        table = formats.table(self.title, "hosts", *columns)
        for case in cases(results):
            for result in of(results, case=case):
                table.add_row(
                    case,
                    f"{result['calls_per_second']:.0f}",
                    f"{result['script_us']:.0f}",
                    f"{result['hurried_us']:.0f}",
                    f"{result['cpu_us']:.0f}",
                    formats.percent(result["cpu"], 1, sign=False),
                    f"{result['highest']:.4f}",
                )
        yield table
