"""The command line of ./scripts/bench."""

from __future__ import annotations

import os
import sys
import tempfile
from collections.abc import Callable, Collection, Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import click
from rich.console import Console

from benchmarks import accuracy, fio, machine, plots, report, speed
from benchmarks.bench import Bench
from benchmarks.errors import BenchmarkError, InterruptedRunError
from benchmarks.peers import PEERS
from benchmarks.results import Result, Section, Step
from benchmarks.runner import chosen, duration, run_steps

Plot = Callable[[Sequence[Result], Path], None]
Function = TypeVar("Function", bound=Callable[..., Any])
QUICK = "Measure each case once, by runs so short that all takes about 5 minutes (speed: 10)."
QUICK_SECONDS = {"accuracy": 300.0, "speed": 630.0}
QUICK_RUNS = (4.0, 3.0, 2.0, 1.5, 1.0)
"""Seconds of a run: the longest that fits is taken, the shortest if none does."""


@dataclass(frozen=True)
class Choices:
    """What the options that both benchmarks have in common say."""

    only: tuple[str, ...]
    listing: bool
    directory: Path
    json: Path | None
    plot: Path | None


def _common(function: Function) -> Function:
    """Add the options that both benchmarks have."""
    options = [
        click.option(
            "--only",
            metavar="PATTERN",
            multiple=True,
            help="Measure only what matches, such as 'grid', 'grid/iops*'; repeatable.",
        ),
        click.option("--list", "listing", is_flag=True, help="List what would be measured."),
        click.option(
            "--dir",
            "directory",
            type=click.Path(file_okay=False, exists=True, path_type=Path),
            default=Path(tempfile.gettempdir()),
            show_default=True,
            help="Where the scratch directory is made (not in memory).",
        ),
        click.option(
            "--json",
            type=click.Path(dir_okay=False, path_type=Path),
            help="Write all figures to this file.",
        ),
        click.option(
            "--plot",
            type=click.Path(dir_okay=False, path_type=Path),
            help="Draw a picture into this file (.png, .svg or .pdf).",
        ),
        click.option("--quick", is_flag=True, help=QUICK),
    ]
    for option in reversed(options):
        function = option(function)
    return function


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
def main() -> None:
    """Measure how exactly throttlefs limits and how fast it is, beside its peers.

    Tables go to stdout, progress to stderr. Ctrl-C prints what was measured so far; nothing is
    left behind.
    """


@main.command("accuracy")
@click.option(
    "--peer",
    "peers",
    type=click.Choice(["qsd"]),
    multiple=True,
    help="Measure this peer on the same cases in turn: qsd is qemu-storage-daemon's FUSE export.",
)
@click.option("--peers-only", is_flag=True, help="Leave throttlefs itself out.")
@click.option("--seconds", type=click.FloatRange(1, 600), show_default="4", help="Per case.")
@_common
def accuracy_command(
    peers: tuple[str, ...], peers_only: bool, seconds: float | None, quick: bool, **common: Any
) -> None:
    """Hold limits against what they let through.

    Sections: grid (measured/limit), and further figures of how even, how fair and how prompt the
    limiter is; --list names them all.
    """
    names = _peers(peers, peers_only)
    choices = Choices(**common)

    def sections(seconds: float) -> list[Section]:
        return accuracy.sections(names, seconds)

    usual = _longest("accuracy", sections, choices) if quick else 4
    seconds = seconds or usual
    _run("accuracy", choices, sections(seconds), {"seconds": seconds}, plots.accuracy)


@main.command("speed")
@click.option(
    "--peer",
    "peers",
    type=click.Choice(["qsd", "bindfs", "native"]),
    multiple=True,
    default=["qsd", "bindfs", "native"],
    show_default=True,
    help="Measure this peer in turn: qemu-storage-daemon (contents of images), bindfs (names), or "
    "the filesystem without anything before it.",
)
@click.option("--peers-only", is_flag=True, help="Leave throttlefs itself out.")
@click.option("--seconds", type=click.FloatRange(0.5, 600), show_default="2", help="Per run.")
@click.option(
    "--rounds",
    type=click.IntRange(1, 100),
    show_default="3",
    help="Runs of each workload and peer; their median counts.",
)
@click.option(
    "--image-size",
    type=click.IntRange(64, 65536),
    default=1024,
    show_default=True,
    metavar="MIB",
    help="Size of the image in MiB.",
)
@_common
def speed_command(
    peers: tuple[str, ...],
    peers_only: bool,
    seconds: float | None,
    rounds: int | None,
    image_size: int,
    quick: bool,
    **common: Any,
) -> None:
    """Hold requests a second, and what they cost, against the peers."""
    names = _peers(peers, peers_only)
    choices = Choices(**common)
    number = rounds or (1 if quick else 3)

    def sections(seconds: float) -> list[Section]:
        return speed.sections(names, seconds, number, image_size)

    usual = _longest("speed", sections, choices) if quick else 2
    seconds = seconds or usual
    settings = {"seconds": seconds, "rounds": number, "image_mib": image_size}
    _run("speed", choices, sections(seconds), settings, plots.speed)


def _peers(peers: Sequence[str], peers_only: bool) -> list[str]:
    if peers_only and not peers:
        raise click.UsageError("--peers-only leaves nothing to measure: name a --peer")
    return [*([] if peers_only else ["throttlefs"]), *dict.fromkeys(peers)]


def _longest(name: str, sections: Callable[[float], Sequence[Section]], choices: Choices) -> float:
    """Return of how many seconds a run can be for all that was chosen to be done in time."""
    for seconds in QUICK_RUNS:
        steps = _chosen(sections(seconds), choices)
        if sum(step.seconds for step in steps) <= QUICK_SECONDS[name]:
            return seconds
    return QUICK_RUNS[-1]


def _chosen(sections: Iterable[Section], choices: Choices) -> list[Step]:
    return chosen((step for section in sections for step in section.steps()), choices.only)


def _run(
    name: str,
    choices: Choices,
    sections: Sequence[Section],
    settings: dict[str, Any],
    plot: Plot,
) -> None:
    """Run what was chosen; print the tables, write the files, and exit with the right status."""
    steps = _chosen(sections, choices)
    if not steps:
        raise click.UsageError(f"nothing of --list matches --only {' '.join(choices.only)}")
    if choices.listing:
        for listed in dict.fromkeys(step.name for step in steps):
            click.echo(listed)
        return
    results: list[Result] = []
    try:
        _check_files(choices)
        versions = _check_tools({step.peer.partition(",")[0] for step in steps})
        head = {"machine": machine.describe(), "settings": settings, "versions": versions}
        _say(f"Takes {duration(sum(step.seconds for step in steps))}.")
        interrupted, clock = _measure(choices.directory, steps, results)
        if interrupted:
            _say("Interrupted: this is what was measured so far.")
        report.print_headline(head)
        report.print_tables(sections, results, clock)
        if choices.json:
            report.write_json(choices.json, report.document(name, head, sections, results))
        if choices.plot:
            plot(results, choices.plot)
    except BenchmarkError as error:
        raise click.ClickException(" ".join(str(error).split())) from None
    if interrupted:
        sys.exit(128 + interrupted)
    if any(result.failed for result in results):
        sys.exit(1)


def _measure(directory: Path, steps: Sequence[Step], results: list[Result]) -> tuple[int, str]:
    """Run the steps; return the signal that ended them early (0: none), and by which clock."""
    clock = ""
    bench = Bench(directory)
    with suppress(InterruptedRunError), bench.interrupts.caught(), bench:
        clock = bench.clock
        if bench.scratch.is_memory():
            _say(
                f"Warning: {directory} is in memory: cold and uncached figures mean nothing "
                "there; --dir chooses another directory."
            )
        run_steps(bench, steps, results)
    return bench.interrupts.number, clock


def _check_files(choices: Choices) -> None:
    """Raise BenchmarkError for what would only be noticed when the run is over."""
    for path in (choices.json, choices.plot):
        if path is not None and not os.access(path.absolute().parent, os.W_OK):
            raise BenchmarkError(f"{path}: its directory does not exist or cannot be written to")
    if choices.plot is not None:
        plots.require(choices.plot)


def _check_tools(peers: Collection[str]) -> dict[str, str]:
    """Return the versions of everything that takes part. Raises BenchmarkError if it is missing."""
    versions = {"fio": fio.version(), **{peer: PEERS[peer].version() for peer in sorted(peers)}}
    if {*peers} != {"native"}:
        try:
            os.close(os.open("/dev/fuse", os.O_RDWR))
        except OSError as error:
            raise BenchmarkError(
                f"/dev/fuse: {error.strerror}; modprobe fuse, or give the container the device"
            ) from None
    return versions


def _say(line: str) -> None:
    Console(stderr=True, highlight=False).print(line)
