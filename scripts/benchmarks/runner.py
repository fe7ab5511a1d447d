"""Running the steps one after the other, with progress, until done or interrupted."""

from __future__ import annotations

import fnmatch
import os
import time
import traceback
from collections.abc import Iterable, Sequence

from rich.console import Console
from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeElapsedColumn

from benchmarks.bench import Bench
from benchmarks.errors import BenchmarkError, NotMeasurableError
from benchmarks.results import Figures, Result, Step


def chosen(steps: Iterable[Step], patterns: Sequence[str]) -> list[Step]:
    """Return the steps whose "section/case" matches any of the patterns.

    A pattern without wildcards matches as a part of the name; no pattern matches everything.
    """

    def matches(name: str) -> bool:
        return not patterns or any(
            fnmatch.fnmatchcase(name, pattern if _has_wildcard(pattern) else f"*{pattern}*")
            for pattern in patterns
        )

    return [step for step in steps if matches(step.name)]


def _has_wildcard(pattern: str) -> bool:
    return any(character in pattern for character in "*?[")


def duration(seconds: float) -> str:
    """Return a length of time as people say it, such as "about 3 min"."""
    if seconds < 90:
        return f"about {max(1, round(seconds))} s"
    return f"about {round(seconds / 60)} min"


def run_steps(bench: Bench, steps: Sequence[Step], results: list[Result]) -> None:
    """Run the steps, appending to ``results``.

    A failed measurement becomes a result that says why; the others go on. Raises
    InterruptedRunError.
    """
    console = Console(stderr=True)
    total = sum(step.seconds for step in steps)
    progress = Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        TaskProgressColumn(),
        TimeElapsedColumn(),
        TextColumn("{task.fields[left]}"),
        console=console,
        transient=True,
        refresh_per_second=2,
    )
    with progress:
        task = progress.add_task("", total=total, left="")
        began = time.monotonic()
        done = 0.0
        for step in steps:
            # What is left, scaled by how the estimates have held so far.
            pace = (time.monotonic() - began) / done if done else 1.0
            left = f"{duration((total - done) * pace)} left"
            progress.update(task, description=f"{step.name} ({step.peer})", left=left)
            if not console.is_terminal:
                console.print(f"{step.name} ({step.peer}), {left}", highlight=False)
            results.append(run_step(bench, step))
            done += step.seconds
            progress.update(task, completed=done)


def run_step(bench: Bench, step: Step) -> Result:
    """Run one step; a BenchmarkError becomes the reason for its lack of figures."""
    figures: Figures = {}
    reason, failed = None, False
    begun = time.monotonic()
    try:
        figures = step.measure(bench)
    except NotMeasurableError as error:
        reason = str(error)
    except (BenchmarkError, OSError, ValueError) as error:
        reason, failed = str(error), True
    except Exception as error:
        # A fault of the benchmark itself must not cost what hours of others have measured.
        traceback.print_exc()
        reason, failed = f"{type(error).__name__}: {error}", True
    return Result(
        step.section,
        step.case,
        step.peer,
        step.round,
        figures,
        None if reason is None else " ".join(reason.split()),
        failed,
        took=time.monotonic() - begun,
        load=os.getloadavg()[0],
    )
