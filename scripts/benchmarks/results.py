"""What a run yields: one result per case and peer, grouped into sections."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, ClassVar, Literal, NamedTuple

from rich.console import RenderableType

if TYPE_CHECKING:
    from benchmarks.bench import Bench

Figures = dict[str, Any]
"""Name to value of what was measured; whatever JSON can say."""

Curve = list[tuple[float, float]]
"""(seconds, units) for the plot."""


@dataclass(frozen=True)
class Step:
    """One measurement of one peer: the smallest thing that is run."""

    section: str
    case: str
    peer: str
    seconds: float
    """How long it takes, roughly; for the estimate and the progress bar."""
    measure: Callable[[Bench], Figures]
    round: int = 1

    @property
    def name(self) -> str:
        """What --only and --list call its case."""
        return f"{self.section}/{self.case}"


@dataclass(frozen=True)
class Result:
    """What a step measured, or why it did not."""

    section: str
    case: str
    peer: str
    round: int = 1
    figures: Figures = field(default_factory=dict)
    reason: str | None = None
    """Why there are no figures; None if there are."""
    failed: bool = False
    """Whether that reason is an error, and not that the peer cannot do it."""
    took: float = 0.0
    """Seconds that it took with everything around it."""
    load: float = 0.0
    """The machine's load average at its end."""

    def __getitem__(self, name: str) -> Any:
        return self.figures[name]


class Row(NamedTuple):
    """A figure by which two versions are compared."""

    what: str
    """What it is, and its unit."""
    value: float
    better: Literal["lower", "higher", "nearer"] = "lower"
    """Nearer: it is a distance from what is right, in percent, so that only differences count."""


class Section(ABC):
    """A group of cases that are measured alike and reported in one table."""

    name: ClassVar[str]
    title: ClassVar[str]
    method: str
    """How it was measured, printed below the table."""
    takes_medians: ClassVar[bool] = False
    """Whether the report wants all rounds; else it gets one for each case and peer."""

    @abstractmethod
    def steps(self) -> Iterable[Step]:
        """Return everything there is to measure, the peers of a case in turn."""

    @abstractmethod
    def report(self, results: Sequence[Result]) -> Iterable[RenderableType]:
        """Return the tables of what was measured; there may be less than was planned."""

    def rows(self, result: Result) -> Iterable[Row]:
        """Return the figures of a result by which versions are compared."""
        return ()

    def for_report(self, results: Sequence[Result]) -> list[Result]:
        """Return the results that the report is about.

        Of several rounds that with the middle value of its first row: one that did happen.
        """
        if self.takes_medians:
            return list(results)
        rounds: dict[tuple[str, str], list[Result]] = {}
        for result in results:
            rounds.setdefault((result.case, result.peer), []).append(result)
        return [self._middle(several) for several in rounds.values()]

    def _middle(self, results: Sequence[Result]) -> Result:
        measured = of(results)
        if not measured:
            return results[0]

        def first(result: Result) -> float:
            return next((row.value for row in self.rows(result)), 0.0)

        return sorted(measured, key=first)[(len(measured) - 1) // 2]

    def summary(self, results: Sequence[Result]) -> Figures:
        """Return the figures over all cases, for the JSON file."""
        return {}


def in_turn(
    section: str,
    case: str,
    peers: Sequence[str],
    rounds: int,
    seconds: float,
    measure: Callable[[Bench, str], Figures],
) -> Iterator[Step]:
    """Return the steps of a case: all peers in each round, in the opposite order in every other.

    So neither a machine that gets slower nor what one peer leaves to the next favours any.
    """
    for number in range(1, rounds + 1):
        for peer in peers if number % 2 else reversed(peers):

            def run(bench: Bench, peer: str = peer) -> Figures:
                return measure(bench, peer)

            yield Step(section, case, peer, seconds, run, number)


def of(results: Iterable[Result], peer: str | None = None, case: str | None = None) -> list[Result]:
    """Return the results with figures of a peer, of a case, or of both."""
    return [
        result
        for result in results
        if result.reason is None and peer in (None, result.peer) and case in (None, result.case)
    ]


def cases(results: Iterable[Result]) -> list[str]:
    """Return the names of the cases in the order in which they were first met."""
    return list(dict.fromkeys(result.case for result in results))


def peer_of(way: str) -> str:
    """Return the peer of a way to it, such as "throttlefs, no limits"."""
    return way.partition(",")[0]


def peers(results: Iterable[Result]) -> list[str]:
    """Return the names of the peers in the order in which they were first met."""
    return list(dict.fromkeys(result.peer for result in results))
