"""What several daemons let through together in short windows, beside the bound."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial

from rich.console import RenderableType

from benchmarks import formats
from benchmarks.bench import LEAD, Bench
from benchmarks.cluster.hosts import Host, Member, Plan, cluster
from benchmarks.cluster.proxy import Proxy
from benchmarks.cluster.store import store
from benchmarks.completions import Completion, most_in_window, span
from benchmarks.errors import NotMeasurableError
from benchmarks.results import Figures, Result, Row, Section, Step, cases, in_turn, of

LIMIT = 100_000_000
WINDOWS = {"10 ms": 0.01, "100 ms": 0.1, "1 s": 1.0}
SLACK = 0.002
"""Seconds of its rate that a host may make up for; docs/limiter.md says why."""
SHORT = 2.0
"""Runs of fewer seconds than this are the short form."""
SETTLING = 4.0
"""Seconds that the mounts, and the first second of a key, take (an estimate)."""

STEADY = Member("randread", "64k", 16)
LARGE = Member("randread", "1m", 4, extra={"thinktime": "150ms", "thinktime_blocks": 10})
SELDOM = Member("randread", "256k", 1, extra={"thinktime": "40ms"})
PLANS = (Plan((STEADY, SELDOM)), Plan((LARGE, SELDOM)))
"""Every other host works now and then, so that shares move all the time."""


@dataclass(frozen=True)
class Case:
    hosts: int
    delay_ms: int
    loss: float

    @property
    def name(self) -> str:
        lossy = f"-loss-{self.loss:.0%}".replace("%", "") if self.loss else ""
        return f"{self.hosts}-hosts-{self.delay_ms}ms{lossy}"


CASES = [Case(hosts, delay, loss) for hosts in (2, 5) for delay in (1, 20) for loss in (0, 0.05)]


def bound(window: float, hosts: int, largest: int, limit: float = LIMIT) -> float:
    """Return the most bytes that may go in any window of so many seconds."""
    return limit * (window + SLACK) + hosts * largest


def record(
    bench: Bench, hosts: Sequence[Host], seconds: float, during: Callable[[], None] | None = None
) -> list[Completion]:
    """Load all members of all hosts; return what was answered in ``seconds`` from the first on.

    ``during`` is called when the load has begun. Raises NotMeasurableError without tracepoints.
    """
    if not bench.tracer.works:
        raise NotMeasurableError("needs the kernel's fuse tracepoints: run it as root")
    connections = [host.connection for host in hosts]
    bench.tracer.start(connections)
    with ExitStack() as stack:
        loads = [stack.enter_context(bench.load(host.jobs(), seconds + LEAD)) for host in hosts]
        if during:
            during()
        for load in loads:
            load.wait(seconds + LEAD + 5)
        found = bench.tracer.stop(connections)
    return span(found, seconds)


def measure(bench: Bench, peer: str, case: Case, seconds: float) -> Figures:
    """Return the fullest windows, and how often the daemons called."""
    plans = [PLANS[number % 2] for number in range(case.hosts)]
    with (
        store(bench) as server,
        Proxy(server.socket) as proxy,
        cluster(bench, {"bps": LIMIT}, plans, [proxy.url()] * case.hosts) as hosts,
    ):
        proxy.delay, proxy.loss = case.delay_ms / 1000, case.loss
        calls, script = server.calls()
        completions = record(bench, hosts, seconds)
        calls_after, script_after = server.calls()
        proxy.loss = 0
    largest = max(completion.size for completion in completions)
    most = {
        name: most_in_window(completions, lambda one: one.size, length)
        for name, length in WINDOWS.items()
    }
    return {
        "most": most,
        "bound": {name: bound(length, case.hosts, largest) for name, length in WINDOWS.items()},
        "rate": sum(completion.size for completion in completions) / seconds,
        "calls_per_second": (calls_after - calls) / (seconds + LEAD),
        "script_us": (script_after - script) / max(1, calls_after - calls),
        "lost": proxy.lost,
    }


class Windows(Section):
    name = "windows"
    title = "What all hosts let through together, beside the bound"

    def __init__(self, peers: Sequence[str], seconds: float, rounds: int) -> None:
        self._peers = peers
        self._seconds = seconds
        self._rounds = rounds
        self.method = (
            f"bps={LIMIT}, {seconds:g} s; every other host works now and then, so that shares move "
            "all the time. A proxy delays what goes to the store and back by so many ms each way, "
            "and loses 5 % of the calls and answers, by turns without a word and with the "
            "connection. The most bytes in any window / the bound: limit x (window + 2 ms) + one "
            "largest request a host. Answers: {clock}."
        )

    def steps(self) -> Iterable[Step]:
        for case in CASES if self._seconds >= SHORT else CASES[len(CASES) // 2 :]:
            yield from in_turn(
                self.name,
                case.name,
                self._peers,
                self._rounds,
                self._seconds + LEAD + SETTLING + case.hosts,
                partial(measure, case=case, seconds=self._seconds),
            )

    def rows(self, result: Result) -> Iterable[Row]:
        for name in WINDOWS:
            yield Row(
                f"most in {name} / bound, %", 100 * result["most"][name] / result["bound"][name]
            )

    def report(self, results: Sequence[Result]) -> Iterable[RenderableType]:
        columns = [f"{name}: MB / bound" for name in WINDOWS]
        table = formats.table(self.title, "case", *columns, "rate / limit", "calls/s", "lost")
        for case in cases(results):
            for result in of(results, case=case):
                cells = []
                for name in WINDOWS:
                    most, allowed = result["most"][name], result["bound"][name]
                    part = formats.percent(most / allowed, 0, sign=False)
                    cells.append(f"{most / 1e6:.2f} / {allowed / 1e6:.2f} ({part})")
                table.add_row(
                    case,
                    *cells,
                    f"{result['rate'] / LIMIT:.3f}",
                    f"{result['calls_per_second']:.1f}",
                    str(result["lost"]),
                )
        yield table
