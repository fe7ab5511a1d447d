"""Who gets what of a limit: the cases of members, weights and several limits."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial

from rich.console import RenderableType

from benchmarks import formats
from benchmarks.allowance import Limits
from benchmarks.bench import Bench
from benchmarks.cluster.hosts import Member, Plan, cluster, rates
from benchmarks.cluster.store import store
from benchmarks.cluster.windows import SETTLING
from benchmarks.fio import OVERHEAD
from benchmarks.measures import jain_index, worst
from benchmarks.results import Figures, Result, Row, Section, Step, cases, in_turn, of

MB = 1_000_000
WARM = 1.5
"""Seconds that pass before it is measured."""
DEEP = 16


@dataclass(frozen=True)
class Case:
    """Limits, hosts, and what each member is to get, in MB/s (requests/s where ``in_requests``)."""

    limits: Limits
    plans: Sequence[Plan]
    expected: Sequence[float]
    in_requests: Sequence[int] = ()
    """Which members are counted by requests."""


def _members(*members: Member) -> Plan:
    return Plan(members)


BIG = 200 * MB
WRITES = "randwrite"
CASES: Mapping[str, Case] = {
    "two-hosts": Case({"bps": BIG}, [Plan(), Plan()], [99, 99]),
    "members-10-beside-1": Case(
        {"bps": BIG}, [_members(*[Member(depth=4)] * 10), Plan()], [18] * 11
    ),
    "weights-10x1-1-3-small": Case(
        {"bps": BIG},
        [
            _members(*[Member(depth=4)] * 10),
            Plan(),
            _members(Member(weight=300)),
            _members(Member(block="4k", depth=1)),
        ],
        [13.2] * 11 + [39.6, 13.2],
    ),
    "slopes-2-1-8": Case(
        {"bps": BIG},
        [
            _members(Member(weight=200, limits={"bps": 80 * MB})),
            _members(Member(weight=100)),
            _members(Member(weight=800)),
        ],
        [36, 18, 144],
    ),
    "one-wants-little": Case(
        {"bps": BIG},
        [_members(Member(limits={"bps": 8 * MB})), Plan(), Plan()],
        [8, 95, 95],
    ),
    "reads-inside-a-total": Case(
        {"bps": BIG, "bps_rd": 80 * MB},
        [
            _members(Member(), Member(rw=WRITES)),
            Plan(),
            _members(Member(rw=WRITES)),
        ],
        [39.6, 59.4, 39.6, 59.4],
    ),
    "bytes-and-requests": Case(
        {"bps": BIG, "iops": 4000},
        [_members(Member(block="1m"), Member(block="4k")), _members(Member(block="4k"))],
        [0.49 * 200, 0.49 * 4000, 0.49 * 4000],
        in_requests=(1, 2),
    ),
}


def measure(bench: Bench, peer: str, case: Case, seconds: float) -> Figures:
    """Return what each member got, in the order of hosts and members."""
    with store(bench) as server:
        urls = [server.url()] * len(case.plans)
        with cluster(bench, case.limits, case.plans, urls) as hosts, ExitStack() as stack:
            for host in hosts:
                stack.enter_context(bench.load(host.jobs(), WARM + seconds + OVERHEAD + 5))
            rates(hosts, OVERHEAD + WARM)
            found = rates(hosts, seconds)
    got = []
    for host, shares in zip(hosts, found, strict=True):
        for path in host.files:
            nbytes, requests = shares[path.name]
            got.append(requests if len(got) in case.in_requests else nbytes / MB)
    return {"got": got, "expected": list(case.expected)}


class Shares(Section):
    name = "shares"
    title = "What members get"

    def __init__(self, peers: Sequence[str], seconds: float, rounds: int) -> None:
        self._peers = peers
        self._seconds = seconds
        self._rounds = rounds
        self.method = (
            f"Each daemon is a host; 256 KiB at depth 16 (ten on one host: 4) unless said; "
            f"{WARM:g} s after all began, for {seconds:g} s, by the daemons' own counts. MB/s, and "
            "requests/s of members that use up requests. Jain's index is over got / expected."
        )

    def steps(self) -> Iterable[Step]:
        for name, case in CASES.items():
            yield from in_turn(
                self.name,
                name,
                self._peers,
                self._rounds,
                SETTLING + len(case.plans) + OVERHEAD + WARM + self._seconds,
                partial(measure, case=case, seconds=self._seconds),
            )

    def rows(self, result: Result) -> Iterable[Row]:
        yield Row("farthest off its share, %", 100 * abs(worst(_errors(result))), "nearer")

    def report(self, results: Sequence[Result]) -> Iterable[RenderableType]:
        table = formats.table(self.title, "case", "got", "expected", "worst", "Jain")
        for case in cases(results):
            for result in of(results, case=case):
                parts = [one + 1 for one in _errors(result)]
                table.add_row(
                    case,
                    _listed(result["got"]),
                    _listed(result["expected"]),
                    formats.percent(worst(_errors(result)), 1),
                    f"{jain_index(parts):.4f}",
                )
        yield table


def _errors(result: Result) -> list[float]:
    return [
        got / expected - 1 for got, expected in zip(result["got"], result["expected"], strict=True)
    ]


def _listed(values: Sequence[float]) -> str:
    """Return figures in a row, the same ones together: "10 x 13.2, 39.6"."""
    if len(values) > 6:
        first = values[:10]
        head = f"10 x {min(first):.1f} to {max(first):.1f}"
        return ", ".join([head, *(f"{value:.1f}" for value in values[10:])])
    return ", ".join(f"{value:.1f}" for value in values)
