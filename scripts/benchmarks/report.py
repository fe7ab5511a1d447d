"""Results as tables on stdout and as a JSON file."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.padding import Padding
from rich.text import Text

from benchmarks import compare
from benchmarks.errors import BenchmarkError
from benchmarks.results import Result, Section


def print_headline(head: Mapping[str, Any]) -> None:
    """Print what was measured on what."""
    machine = head["machine"]
    versions = ", ".join(head["versions"].values())
    print(
        f"{versions}; Linux {machine['kernel']}, {machine['cpus']} CPUs ({machine['cpu']}), "
        f"{machine['memory_bytes'] / 1024**3:.0f} GiB, load average {machine['load_average']} "
        "at the start"
    )


def middle_results(sections: Sequence[Section], results: Sequence[Result]) -> list[Result]:
    """Return the results that the reports of the sections are about."""
    return [
        result
        for section in sections
        for result in section.for_report([r for r in results if r.section == section.name])
    ]


def print_tables(sections: Sequence[Section], results: Sequence[Result], clock: str) -> None:
    """Print the tables of every section that has results, how they were measured, what failed.

    Then, where two versions were measured, a table that compares them.
    """
    console = Console(highlight=False)
    if not console.is_terminal:
        # In a file or a pipe a table must not be cut to some default width.
        console = Console(highlight=False, width=160)
    for section in sections:
        own = [result for result in results if result.section == section.name]
        if not own:
            continue
        tables = list(section.report(section.for_report(own)))
        if not tables:
            continue
        for table in tables:
            console.print()
            console.print(table)
        method = f"{section.method.replace('{clock}', clock)} {_effort(own)}"
        console.print(Padding(Text(method, style="dim"), (0, 2)))
    for renderable in compare.tables(sections, results):
        console.print()
        console.print(renderable)
    reasons: dict[str, list[str]] = {}
    for result in results:
        if result.reason is not None:
            reasons.setdefault(f"{result.peer}: {result.reason}", []).append(
                f"{result.section}/{result.case}"
            )
    if reasons:
        console.print("\nNot measured:", style="bold")
        for reason, names in reasons.items():
            which = ", ".join(dict.fromkeys(names))
            console.print(Padding(Text(f"{reason} ({which})"), (0, 2)))


def _effort(results: Sequence[Result]) -> str:
    """Return how long a section took, and how busy the machine was meanwhile."""
    loads = [result.load for result in results]
    return (
        f"It took {sum(result.took for result in results):.0f} s; "
        f"load average {min(loads):.1f} to {max(loads):.1f}."
    )


def document(
    benchmark: str,
    head: Mapping[str, Any],
    sections: Sequence[Section],
    results: Sequence[Result],
) -> dict[str, Any]:
    """Return a run as JSON says it; what starts with "_" (curves) is left out, NaN is null."""
    by_section = {
        section.name: [result for result in results if result.section == section.name]
        for section in sections
    }
    return {
        "benchmark": benchmark,
        **head,
        "summary": {
            section.name: _plain(section.summary(section.for_report(by_section[section.name])))
            for section in sections
            if by_section[section.name]
        },
        "comparison": compare.document(sections, results),
        "results": [
            {
                "section": result.section,
                "case": result.case,
                "peer": result.peer,
                "round": result.round,
                "took": round(result.took, 3),
                "load_average": round(result.load, 2),
                **({"reason": result.reason} if result.reason is not None else {}),
                "figures": _plain(result.figures),
            }
            for result in results
        ],
    }


def _plain(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {key: _plain(inner) for key, inner in value.items() if not str(key).startswith("_")}
    if isinstance(value, (list, tuple)):
        return [_plain(inner) for inner in value]
    if isinstance(value, float):
        return round(value, 9) if math.isfinite(value) else None
    return value


def write_json(path: Path, content: Mapping[str, Any]) -> None:
    """Write the JSON file. Raises BenchmarkError if it cannot be written."""
    try:
        path.write_text(json.dumps(content, indent=1) + "\n")
    except OSError as error:
        raise BenchmarkError(f"{path}: {error.strerror}") from None
