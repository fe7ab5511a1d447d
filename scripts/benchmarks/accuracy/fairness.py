"""How a group's images share its limit, by request size, queue depth and weight."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import partial

from rich.console import RenderableType

from benchmarks import formats
from benchmarks.accuracy.grid import STARTING
from benchmarks.bench import Bench
from benchmarks.completions import Completion
from benchmarks.errors import BenchmarkError
from benchmarks.fio import Job
from benchmarks.measures import jain_index, share_errors, worst
from benchmarks.peers import Image, Setup
from benchmarks.results import Figures, Result, Row, Section, Step, cases, in_turn, of, peers

MIB = 1024 * 1024
SETTLING = 0.5
"""Seconds left out from the moment at which every image has had its first answer."""
STARTING_MANY = 1.5
"""Seconds that fio may take to bring all its clients to work."""


@dataclass(frozen=True)
class Client:
    """One image of a group and who uses it."""

    rw: str
    block: str
    depth: int
    weight: int = 100


@dataclass(frozen=True)
class Sharing:
    """A group: its limit in bytes/s, and its clients."""

    name: str
    bps: int
    clients: Sequence[Client]
    image_mib: int = 64


def _mixed(count: int) -> list[Client]:
    """Sizes and depths in combinations that each can use a share: small requests go deeper."""
    shapes = [
        Client("randread", "4k", 16),
        Client("randread", "64k", 4),
        Client("randwrite", "16k", 8),
        Client("randread", "256k", 2),
        Client("randwrite", "64k", 32),
        Client("randread", "16k", 32),
        Client("randwrite", "4k", 32),
        Client("randread", "64k", 16),
    ]
    return [shapes[number % len(shapes)] for number in range(count)]


SHARINGS = (
    Sharing(
        "pair-64k-qd16-64k-qd16",
        20 * MIB,
        [Client("randread", "64k", 16), Client("randread", "64k", 16)],
    ),
    Sharing(
        "pair-256k-qd16-4k-qd16",
        20 * MIB,
        [Client("randread", "256k", 16), Client("randread", "4k", 16)],
    ),
    Sharing(
        "pair-64k-qd32-64k-qd4",
        20 * MIB,
        [Client("randread", "64k", 32), Client("randread", "64k", 4)],
    ),
    Sharing("group-of-8-mixed", 40 * MIB, _mixed(8)),
    Sharing("group-of-64-mixed", 100 * MIB, _mixed(64), image_mib=16),
    Sharing(
        "weights-1-2-4",
        21 * MIB,
        [
            Client("randread", "256k", 8, weight=100),
            Client("randwrite", "16k", 8, weight=200),
            Client("randread", "64k", 8, weight=400),
        ],
    ),
)


def rate_within(completions: Sequence[Completion], start: int, end: int) -> float:
    """Return bytes/s between a client's own first and last answer of a stretch (ns).

    So that where a stretch cuts between two requests makes no difference; 0 for one answer.
    """
    inside = [completion for completion in completions if start <= completion.time <= end]
    if len(inside) < 2 or inside[-1].time == inside[0].time:
        return 0.0
    transferred = sum(completion.size for completion in inside[1:])
    return transferred * 1e9 / (inside[-1].time - inside[0].time)


def shares(logs: Sequence[Sequence[Completion]], seconds: float) -> list[float]:
    """Return every client's bytes/s over a common stretch. Raises BenchmarkError without one."""
    idle = [number for number, log in enumerate(logs, start=1) if not log]
    if idle:
        raise BenchmarkError(f"clients {', '.join(map(str, idle))} were not answered at all")
    start = max(log[0].time for log in logs) + round(SETTLING * 1e9)
    end = start + round(seconds * 1e9)
    return [rate_within(log, start, end) for log in logs]


def measure(bench: Bench, peer: str, sharing: Sharing, seconds: float) -> Figures:
    """Run all clients of a group at once; return what each got and how fair that is."""
    images = [
        Image(
            bench.image(f"{sharing.image_mib}m-{number:02}", sharing.image_mib),
            group="shared",
            weight=client.weight,
        )
        for number, client in enumerate(sharing.clients)
    ]
    setup = Setup(images, {"shared": {"bps": sharing.bps}})
    with bench.serve(peer, setup) as served:
        jobs = [
            Job(file, client.rw, client.block, client.depth)
            for file, client in zip(served.files, sharing.clients, strict=True)
        ]
        with bench.load(jobs, seconds + SETTLING + STARTING_MANY, logged=True) as fio:
            ended = fio.wait(seconds + SETTLING + STARTING_MANY + 2)
            if ended:
                fio.summaries()
    fio.stop()
    logs = [[entry.completion for entry in log] for log in fio.logs()]
    got = shares(logs, seconds)
    weights = [client.weight for client in sharing.clients]
    errors = share_errors(got, weights)
    return {
        "bytes_per_second": got,
        "total_ratio": sum(got) / sharing.bps,
        "worst": worst(errors),
        "jain": jain_index([rate / weight for rate, weight in zip(got, weights, strict=True)]),
    }


class Fairness(Section):
    name = "fairness"
    title = "Sharing a group's limit"

    def __init__(self, peers: Sequence[str], seconds: float, rounds: int) -> None:
        self._peers = peers
        self._seconds = seconds
        self._rounds = rounds
        self.method = (
            f"{seconds:g} s, all clients at once; bytes/s of each between its first and last "
            f"completion (fio's log) of the stretch that begins {SETTLING:g} s after all of them "
            "have begun. Worst: the image that is farthest off its (weighted) share of what all "
            "got. Jain's index: 1 is equal shares, 1/n is everything to one of n."
        )

    def steps(self) -> Iterable[Step]:
        for sharing in SHARINGS:
            yield from in_turn(
                self.name,
                sharing.name,
                self._peers,
                self._rounds,
                self._seconds + SETTLING + STARTING_MANY + STARTING,
                partial(measure, sharing=sharing, seconds=self._seconds),
            )

    def rows(self, result: Result) -> Iterable[Row]:
        yield Row("worst off its share, %", 100 * abs(result["worst"]), "nearer")
        yield Row("all off the limit, %", 100 * abs(result["total_ratio"] - 1), "nearer")

    def report(self, results: Sequence[Result]) -> Iterable[RenderableType]:
        table = formats.table(
            self.title, "case", "peer", "MiB/s of each", "worst", "Jain", "total / limit"
        )
        for case in cases(results):
            for peer in peers(results):
                for result in of(results, peer, case):
                    table.add_row(
                        case,
                        peer,
                        _listed(result["bytes_per_second"]),
                        formats.percent(result["worst"], 1),
                        f"{result['jain']:.4f}",
                        f"{result['total_ratio']:.3f}",
                    )
        yield table


def _listed(rates: Sequence[float]) -> str:
    if len(rates) > 8:
        return f"{min(rates) / MIB:.2f} to {max(rates) / MIB:.2f}"
    return " : ".join(f"{rate / MIB:.2f}" for rate in rates)
