"""How soon shares follow when somebody begins or ends."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Sequence
from contextlib import ExitStack
from functools import partial

from rich.console import RenderableType

from benchmarks import formats
from benchmarks.bench import Bench
from benchmarks.cluster.hosts import Host, Plan, cluster, reader
from benchmarks.cluster.proxy import Proxy
from benchmarks.cluster.store import store
from benchmarks.cluster.windows import LIMIT, SETTLING, SHORT
from benchmarks.errors import BenchmarkError
from benchmarks.measures import median
from benchmarks.results import Figures, Result, Row, Section, Step, cases, in_turn, of

CASES = {f"{hosts}-hosts-{delay}ms": (hosts, delay) for hosts in (2, 5) for delay in (0, 1, 20)}
GRANTED = 0.99
NEAR = 0.05
"""Within this part of its share a host has it."""
PAUSE = 1.0
POLLING = 0.002
"""Seconds between two looks, which the daemons answer: all of their time would slow them down."""
WITHIN = 15.0
TURNS = 5


def until(condition: Callable[[], bool], began: int) -> float:
    """Return how long after the instant ``began`` (ns) the condition was true, in seconds.

    Raises BenchmarkError if it is not in time.
    """
    while not condition():
        time.sleep(POLLING)
        if time.monotonic_ns() - began > WITHIN * 1e9:
            raise BenchmarkError(f"no host got its share within {WITHIN:g} s")
    return (time.monotonic_ns() - began) / 1e9


def have(hosts: Sequence[Host], share: float) -> bool:
    """Return whether each of these holds so many bytes a second, nearly."""
    return all(abs(host.held() - share) <= NEAR * share for host in hosts)


def measure(bench: Bench, peer: str, hosts: int, delay_ms: int, turns: int) -> Figures:
    """Return how long (s) it took until all had their shares: after one began, after one ended."""
    share, whole = GRANTED * LIMIT / hosts, GRANTED * LIMIT / (hosts - 1)
    joined, left = [], []
    with (
        store(bench) as server,
        Proxy(server.socket) as proxy,
        cluster(bench, {"bps": LIMIT}, [Plan()] * hosts, [proxy.url()] * hosts) as found,
        ExitStack() as stack,
    ):
        proxy.delay = delay_ms / 1000
        first, last = found[:-1], found[-1]
        for host in first:
            stack.enter_context(reader(host.files[0])).start()
        for _ in range(turns):
            until(lambda: have(first, whole), time.monotonic_ns())
            time.sleep(PAUSE)
            with reader(last.files[0]) as late:
                began = late.start()
                joined.append(until(lambda: have(found, share), began))
                time.sleep(PAUSE)
                ended = late.kill()
                left.append(until(lambda: have(first, whole), ended))
    return {"joined": joined, "left": left}


class Shifts(Section):
    name = "shifts"
    title = "Time until all hosts are within 5 % of their shares"

    def __init__(self, peers: Sequence[str], seconds: float, rounds: int) -> None:
        self._peers = peers
        self._rounds = rounds
        self._is_short = seconds < SHORT
        self._turns = 2 if self._is_short else TURNS
        self.method = (
            f"bps={LIMIT}; all hosts but one read 256 KiB at depth 16, and that one begins, and is "
            f"killed a second later, {self._turns} times. From its first request, or its end, to "
            "the instant at which all that are at work hold what is theirs, as the control sockets "
            "say. A proxy delays what goes to the store and back by so many ms each way."
        )

    def steps(self) -> Iterable[Step]:
        for name, (hosts, delay) in CASES.items():
            if self._is_short and hosts == 2:
                continue
            yield from in_turn(
                self.name,
                name,
                self._peers,
                self._rounds,
                SETTLING + hosts + self._turns * (2 * PAUSE + 0.6),
                partial(measure, hosts=hosts, delay_ms=delay, turns=self._turns),
            )

    def rows(self, result: Result) -> Iterable[Row]:
        for what in ("joined", "left"):
            yield Row(f"one {what}, ms", 1e3 * median(result[what]))

    def report(self, results: Sequence[Result]) -> Iterable[RenderableType]:
        columns = [
            f"one {what}, {which}" for what in ("joins", "leaves") for which in ("median", "worst")
        ]
        table = formats.table(self.title, "case", *columns)
        for case in cases(results):
            for result in of(results, case=case):
                cells = []
                for what in ("joined", "left"):
                    cells += [f"{1e3 * pick(result[what]):.0f} ms" for pick in (median, max)]
                table.add_row(case, *cells)
        yield table
