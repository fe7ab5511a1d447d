"""The command line of ./scripts/bench."""

from __future__ import annotations

import os
import sys
import tempfile
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

import click
from rich.console import Console

from benchmarks import (
    accuracy,
    cluster,
    compare,
    fio,
    machine,
    plots,
    profiles,
    report,
    scale,
    speed,
)
from benchmarks.bench import Bench
from benchmarks.cluster.store import versions
from benchmarks.errors import BenchmarkError, InterruptedRunError
from benchmarks.peers import CHECKOUT, PEERS, Peer, peer_named
from benchmarks.results import Result, Section, Step, peer_of
from benchmarks.runner import chosen, duration, run_steps
from throttlefs.settings.profiles import shipped

Plot = Callable[[Sequence[Result], Path], None]
Function = TypeVar("Function", bound=Callable[..., Any])
QUICK_RUNS = (4.0, 3.0, 2.0, 1.5, 1.0)
"""Seconds of a run: the longest that fits is taken, the shortest if none does."""


@dataclass(frozen=True)
class Benchmark:
    """What the benchmarks differ in."""

    name: str
    sections: Callable[[Sequence[str], float, int], list[Section]]
    """Of the names of peers, the seconds of a run, and the rounds."""
    plot: Plot | None
    """None: there is no picture of it."""
    seconds: float
    """Of a run, if nothing else is said."""
    rounds: int
    quick_seconds: float
    """How long all of a quick one may take."""
    settings: Mapping[str, Any] = field(default_factory=dict)
    """What else is to be known of it."""
    tools: Callable[[], Mapping[str, str]] = dict
    """The versions of what else takes part; raises BenchmarkError if it is missing."""


@dataclass(frozen=True)
class Choices:
    """What the options that all benchmarks have in common say."""

    peers: tuple[Peer, ...]
    peers_only: bool
    seconds: float | None
    rounds: int | None
    quick: bool
    only: tuple[str, ...]
    listing: bool
    directory: Path
    json: Path | None
    plot: Path | None


class PeerType(click.ParamType):  # type: ignore[type-arg] # not in older ones
    """The name of a peer, or ``checkout:DIRECTORY``."""

    name = "peer"

    def __init__(self, *names: str) -> None:
        self.names = [*names, f"{CHECKOUT}DIR"]

    def get_metavar(self, param: click.Parameter, ctx: click.Context) -> str:
        return f"[{'|'.join(self.names)}]"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Peer:
        if value not in self.names and not value.startswith(CHECKOUT):
            self.fail(f"{value!r} is none of {', '.join(self.names)}", param, ctx)
        try:
            return peer_named(value)
        except BenchmarkError as error:
            self.fail(str(error), param, ctx)


def _common(
    *names: str, default: Sequence[str] = (), plotted: bool = True
) -> Callable[[Function], Function]:
    """Add the options that all benchmarks have; ``names`` are the peers to choose from."""
    file = click.Path(dir_okay=False, path_type=Path)
    options = [
        click.option(
            "--peer",
            "peers",
            type=PeerType(*names),
            multiple=True,
            default=default,
            show_default=", ".join(default) or False,
            help="Measure this peer in turn: qsd is qemu-storage-daemon's FUSE export, qsd-threads "
            "the same with two iothreads (from QEMU 10.1 on), bindfs shows the files (names only), "
            "blkio is the kernel's blk-throttle on a loop device (cgroup v1), native the "
            "filesystem without anything before it, checkout:DIR another checkout of throttlefs, "
            "with a table of what is worse here.",
        ),
        click.option("--peers-only", is_flag=True, help="Leave throttlefs itself out."),
        click.option("--seconds", type=click.FloatRange(0.5, 600), help="Of one run."),
        click.option(
            "--rounds",
            type=click.IntRange(1, 100),
            help="Runs of each case and peer in turn; the median counts.",
        ),
        click.option(
            "--quick",
            is_flag=True,
            help="One round, by runs so short that all takes about 5 minutes (speed: 11).",
        ),
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
        click.option("--json", type=file, help="Write all figures to this file."),
    ]
    if plotted:
        described = "Draw a picture into this .png, .svg or .pdf."
        options.append(click.option("--plot", type=file, help=described))

    def decorate(function: Function) -> Function:
        for option in reversed(options):
            function = option(function)
        return function

    return decorate


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
def main() -> None:
    """Measure how exactly throttlefs limits and how fast it is, beside its peers.

    Tables go to stdout, progress to stderr. Ctrl-C prints what was measured so far; nothing is
    left behind.
    """


@main.command("accuracy")
@_common("qsd", "qsd-threads", "blkio")
def accuracy_command(**common: Any) -> None:
    """Hold limits against what they let through.

    Sections: grid (measured/limit), and further figures of how even, how fair and how prompt the
    limiter is; --list names them all. 4 seconds a run, one round; beside a checkout 3.
    """
    _run(Benchmark("accuracy", accuracy.sections, plots.accuracy, 4, 1, 300), Choices(**common))


@main.command("speed")
@_common(*("qsd", "qsd-threads", "bindfs", "blkio", "native"), default=["qsd", "bindfs", "native"])
@click.option(
    "--image-size",
    type=click.IntRange(64, 65536),
    default=1024,
    show_default=True,
    metavar="MIB",
    help="Size of the image in MiB.",
)
def speed_command(image_size: int, **common: Any) -> None:
    """Hold requests a second, operations on names, and what they cost, against the peers.

    2 seconds a run, 3 rounds.
    """
    sections = partial(speed.sections, image_mib=image_size)
    settings = {"image_mib": image_size}
    _run(Benchmark("speed", sections, plots.speed, 2, 3, 690, settings), Choices(**common))


@main.command("profiles")
@_common()
@click.option(
    "--profile",
    "names",
    metavar="NAME",
    type=click.Choice(shipped().names),
    multiple=True,
    default=profiles.PROFILES,
    show_default=", ".join(profiles.PROFILES),
    help="Measure this profile; repeatable.",
)
def profiles_command(names: tuple[str, ...], **common: Any) -> None:
    """Hold mounts with profiles of real disks against what these promise.

    Sections: quantiles (latency of reads, writes and fsync), depths (reads a second by queue
    depth). 5 seconds a run, one round.
    """
    sections = partial(profiles.sections, profiles=names)
    settings = {"profiles": list(names)}
    _run(Benchmark("profiles", sections, plots.profiles, 5, 1, 300, settings), Choices(**common))


@main.command("scale")
@_common()
def scale_command(**common: Any) -> None:
    """Ask for the same requests from more images, deeper queues, groups and mounts.

    Sections: images, depths, groups, mounts. 5 seconds a run, one round; a quick run has fewer.
    """
    sections = partial(scale.sections, quick=common["quick"])
    _run(Benchmark("scale", sections, plots.scale, 5, 1, 120), Choices(**common))


@main.command("cluster")
@_common(plotted=False)
def cluster_command(**common: Any) -> None:
    """Hold daemons that share one limit against what docs/cluster.md says of them.

    Sections: windows (what all let through together), shifts (how soon shares follow), shares (who
    gets what), failures (of the store and of daemons), path (what sharing costs a request), store
    (calls of many hosts, and their cost). 5 seconds a run, one round. Needs root.
    """
    benchmark = Benchmark("cluster", cluster.sections, None, 5, 1, 300, tools=versions)
    _run(benchmark, Choices(plot=None, **common))


def _peers(choices: Choices) -> dict[str, Peer]:
    """Return the peers to be measured, by name."""
    named = [*([] if choices.peers_only else [PEERS["throttlefs"]]), *choices.peers]
    if not named:
        raise click.UsageError("--peers-only leaves nothing to measure: name a --peer")
    peers: dict[str, Peer] = {}
    for peer in named:
        if peers.setdefault(peer.name, peer) != peer:
            raise click.UsageError(f"two checkouts have the name {peer.name}: rename one")
    return peers


def _plan(
    benchmark: Benchmark, choices: Choices, peers: Sequence[str]
) -> tuple[float, int, list[Section]]:
    """Return the seconds of a run, the rounds, and the sections."""
    compared = bool(compare.other_versions(peers))
    usual = 1 if choices.quick else max(benchmark.rounds, 3 if compared else 1)
    rounds = choices.rounds or usual
    if choices.seconds:
        lengths: Sequence[float] = [choices.seconds]
    else:
        lengths = QUICK_RUNS if choices.quick else [benchmark.seconds]
    for seconds in lengths:
        sections = benchmark.sections(peers, seconds, rounds)
        if sum(step.seconds for step in _steps(sections, choices)) <= benchmark.quick_seconds:
            break
    return seconds, rounds, sections


def _steps(sections: Iterable[Section], choices: Choices) -> list[Step]:
    return chosen((step for section in sections for step in section.steps()), choices.only)


def _run(benchmark: Benchmark, choices: Choices) -> None:
    """Run what was chosen; print the tables, write the files, and exit with the right status."""
    peers = _peers(choices)
    seconds, rounds, sections = _plan(benchmark, choices, list(peers))
    steps = _steps(sections, choices)
    if not steps:
        raise click.UsageError(f"nothing of --list matches --only {' '.join(choices.only)}")
    if choices.listing:
        for listed in dict.fromkeys(step.name for step in steps):
            click.echo(listed)
        return
    results: list[Result] = []
    try:
        _check_files(choices)
        wanted = {peer_of(step.peer) for step in steps}
        versions = _check_tools([peer for name, peer in peers.items() if name in wanted])
        versions |= benchmark.tools()
        settings = {"seconds": seconds, "rounds": rounds, **benchmark.settings}
        head = {"machine": machine.describe(), "settings": settings, "versions": versions}
        _say(f"Takes {duration(sum(step.seconds for step in steps))}.")
        interrupted, clock = _measure(choices.directory, peers, steps, results)
        if interrupted:
            _say("Interrupted: this is what was measured so far.")
        report.print_headline(head)
        report.print_tables(sections, results, clock)
        if choices.json:
            written = report.document(benchmark.name, head, sections, results)
            report.write_json(choices.json, written)
        if choices.plot and benchmark.plot:
            benchmark.plot(report.middle_results(sections, results), choices.plot)
    except BenchmarkError as error:
        raise click.ClickException(" ".join(str(error).split())) from None
    if interrupted:
        sys.exit(128 + interrupted)
    if any(result.failed for result in results):
        sys.exit(1)


def _measure(
    directory: Path, peers: Mapping[str, Peer], steps: Sequence[Step], results: list[Result]
) -> tuple[int, str]:
    """Run the steps; return the signal that ended them early (0: none), and by which clock."""
    clock = ""
    bench = Bench(directory, peers)
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


def _check_tools(peers: Collection[Peer]) -> dict[str, str]:
    """Return the versions of everything that takes part. Raises BenchmarkError if it is missing."""
    versions = {"fio": fio.version(), **{peer.name: peer.version() for peer in peers}}
    if {*versions} != {"fio", "native"}:
        try:
            os.close(os.open("/dev/fuse", os.O_RDWR))
        except OSError as error:
            raise BenchmarkError(
                f"/dev/fuse: {error.strerror}; modprobe fuse, or give the container the device"
            ) from None
    return versions


def _say(line: str) -> None:
    Console(stderr=True, highlight=False).print(line)
