"""Two versions of throttlefs, row by row: which is better, by how much, and in how many rounds."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass

from rich.console import RenderableType

from benchmarks import formats
from benchmarks.measures import median
from benchmarks.peers import CHECKOUT
from benchmarks.results import Result, Row, Section, cases, of, peer_of, peers

TOLERANCE = 0.05
"""A row is worse if it is worse by more than this part; distances: by so much of a hundred %."""


@dataclass(frozen=True)
class Comparison:
    """One figure of both versions: medians, and what one round after the other said."""

    name: str
    what: str
    ours: float
    theirs: float
    changes: Sequence[float]
    """For each round how much worse this version was, as a part; negative: better."""
    ratio: float | None
    """Median of the rounds' quotients; None for distances, whose difference counts."""

    @property
    def change(self) -> float:
        """The median of the rounds' changes."""
        return median(self.changes)

    @property
    def is_worse(self) -> bool:
        """Whether this version is worse by more than what is tolerated."""
        return self.change > TOLERANCE

    @property
    def in_every_round(self) -> bool:
        """Whether it was worse in each of them: one that was not puts it in doubt."""
        return min(self.changes) > TOLERANCE


def compare(section: Section, results: Sequence[Result], other: str) -> Iterator[Comparison]:
    """Compare what was measured of this version with another one's, rounds in pairs."""
    for case in cases(results):
        for way in peers(results):
            if not way.startswith("throttlefs"):
                continue
            suffix = way.removeprefix("throttlefs")
            ours = {result.round: result for result in of(results, way, case)}
            theirs = {result.round: result for result in of(results, other + suffix, case)}
            pairs = [
                (mine, its)
                for number in sorted(ours.keys() & theirs.keys())
                for mine, its in zip(
                    section.rows(ours[number]), section.rows(theirs[number]), strict=True
                )
            ]
            for what in dict.fromkeys(mine.what for mine, _ in pairs):
                own = [(mine, its) for mine, its in pairs if mine.what == what]
                yield _comparison(f"{section.name}/{case}{suffix}", own)


def _comparison(name: str, pairs: Sequence[tuple[Row, Row]]) -> Comparison:
    first = pairs[0][0]
    values = [(mine.value, its.value) for mine, its in pairs]
    ratios = [mine / its if its else float(mine != its) + 1 for mine, its in values]
    if first.better == "nearer":
        changes = [(mine - its) / 100 for mine, its in values]
    elif first.better == "lower":
        changes = [ratio - 1 for ratio in ratios]
    else:
        changes = [1 / ratio - 1 if ratio else 1.0 for ratio in ratios]
    return Comparison(
        name,
        first.what,
        median(mine for mine, _ in values),
        median(its for _, its in values),
        changes,
        None if first.better == "nearer" else median(ratios),
    )


def compare_all(
    sections: Sequence[Section], results: Sequence[Result]
) -> dict[str, list[Comparison]]:
    """Return for each other version that was measured all rows that it has with this one."""
    return {
        other: [
            row
            for section in sections
            for row in compare(section, [r for r in results if r.section == section.name], other)
        ]
        for other in other_versions(peers(results))
    }


def tables(sections: Sequence[Section], results: Sequence[Result]) -> Iterator[RenderableType]:
    """Return a table and a last line for each other version that was measured beside this one."""
    for other, rows in compare_all(sections, results).items():
        columns = ("case", "figure", "throttlefs", other, "ratio", "worse by, %", "in rounds", "")
        table = formats.table(f"throttlefs beside {other}", *columns)
        for column in table.columns:
            column.no_wrap = True
        table.columns[1].justify = "left"
        for row in rows:
            table.add_row(
                row.name,
                row.what,
                f"{row.ours:,.4g}",
                f"{row.theirs:,.4g}",
                "" if row.ratio is None else f"{row.ratio:.3f}",
                _points(row.change),
                f"{_points(min(row.changes))} to {_points(max(row.changes))}",
                verdict(row),
            )
        yield table
        yield conclusion(rows, other)


def document(sections: Sequence[Section], results: Sequence[Result]) -> dict[str, object]:
    """Return the same for the JSON file."""
    return {
        other: [{**asdict(row), "change": row.change, "verdict": verdict(row)} for row in rows]
        for other, rows in compare_all(sections, results).items()
    }


def verdict(row: Comparison) -> str:
    """Return what the last column says of a row."""
    if not row.is_worse:
        return ""
    return "worse" if row.in_every_round else "worse?"


def conclusion(rows: Sequence[Comparison], other: str) -> str:
    """Return how many rows are worse, in words."""
    worse = [row for row in rows if row.is_worse]
    sure = sum(row.in_every_round for row in worse)
    return (
        f"Worse than {other} by over {TOLERANCE * 100:g} %: {len(worse)} of {len(rows)} rows, "
        f"{sure} of them in every round (worse), {len(worse) - sure} not (worse?). Figures are "
        "medians of all rounds; ratio and worse by are medians of what each round's pair says."
    )


def other_versions(names: Sequence[str]) -> list[str]:
    """Return the peers that are other versions; none if this one is not measured."""
    others = dict.fromkeys(peer_of(name) for name in names if name.startswith(CHECKOUT))
    return list(others) if "throttlefs" in map(peer_of, names) else []


def _points(change: float) -> str:
    return f"{change * 100:+.1f}"
