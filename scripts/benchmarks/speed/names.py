"""Operations on names through a mount, beside bindfs and the filesystem itself."""

from __future__ import annotations

import os
import random
import shutil
import subprocess
import time
from collections.abc import Callable, Iterable, Sequence
from functools import partial
from pathlib import Path

from rich.console import RenderableType

from benchmarks import formats
from benchmarks.bench import Bench
from benchmarks.errors import BenchmarkError
from benchmarks.fio import Job
from benchmarks.measures import median, percentile
from benchmarks.peers import Image, Setup, shows_directories
from benchmarks.processes import memory, wait
from benchmarks.results import Figures, Result, Row, Section, Step, cases, in_turn, of, peers

FILES = 5_000
ENTRIES = 10_000
CLONED = 3_000
CLIENTS = (1, 8)
READERS = 32
SETTLING = 1.0
"""Seconds that a mount is left alone before its memory is read, and readers have to start."""
INTERVAL = 0.001
PATIENCE = 600

REMEMBERED = ("attr_timeout=3600", "entry_timeout=3600")
"""The kernel asks only for what it has not been told, so each operation is its own requests."""
ASKED = ("attr_timeout=0", "entry_timeout=3600")
"""The kernel knows the names, and asks for attributes each time."""

LABELS = {
    "create": "create, close",
    "lookup": "stat of a name not yet known",
    "open": "open, close",
    "stat": "stat, attr_timeout=0",
    "rename": "rename",
    "unlink": "unlink",
    "readdir": f"list {ENTRIES:,} entries",
    "clone": f"git clone of {CLONED:,} files",
    "fsync": "fsync after writing 4 KiB",
    "fsync_clean": "fsync of nothing",
    "stat_p50": f"stat beside {READERS} readers, p50",
    "stat_p99": f"stat beside {READERS} readers, p99",
}
MEMORY = {"pss": "PSS", "rss": "RSS"}


def _setup(bench: Bench, options: Sequence[str] = REMEMBERED) -> Setup:
    return Setup([Image(bench.image("small", 16))], options=options)


def measure_files(bench: Bench, peer: str, clients: int) -> Figures:
    """Make files, look them up, open, stat, rename and remove them; return ns of each."""
    directory = bench.scratch.images / "names"
    for number in range(clients):
        (directory / str(number)).mkdir(parents=True)
    figures: Figures = {}

    def run(options: Sequence[str], *operations: str) -> None:
        with bench.serve(peer, _setup(bench, options)) as served:
            for operation in operations:
                arguments = (operation, served.directory / "names", FILES, clients)
                with bench.probe("names", *arguments) as probe:
                    figures[operation] = probe.result(PATIENCE)["ns"]

    try:
        run(REMEMBERED, "create")
        # A mount that has just been made knows no name. Of the two times for lookup the one
        # that is the first name's alone stays.
        run(ASKED, "lookup", "stat")
        run(REMEMBERED, "lookup", "open", "rename", "unlink")
    finally:
        shutil.rmtree(directory)
    return figures


def measure_listing(bench: Bench, peer: str, clients: int) -> Figures:
    """List one large directory of a fresh mount; return ns of a listing."""
    directory = bench.scratch.images / "listed"
    if not directory.exists():
        directory.mkdir()
        for number in range(ENTRIES):
            (directory / f"{number:05}").touch()
    with (
        bench.serve(peer, _setup(bench)) as served,
        bench.probe("names", "readdir", served.directory / "listed", clients, clients) as probe,
    ):
        found = probe.result(PATIENCE)
    if found["results"] != [ENTRIES] * clients:
        raise BenchmarkError(f"{found['results']} of {ENTRIES} entries were listed")
    return {"readdir": found["ns"]}


def measure_clone(bench: Bench, peer: str, clients: int) -> Figures:
    """Clone a repository of the mount into the mount; return ns of a clone."""
    repository = bench.scratch.images / "repository"
    if not repository.exists():
        make_repository(repository, CLONED)
    clones = bench.scratch.images / "clones"
    clones.mkdir()
    try:
        with bench.serve(peer, _setup(bench)) as served:
            source = served.directory / repository.name
            log = bench.scratch.root / "git.log"
            begun = time.perf_counter_ns()
            with log.open("wb") as output:
                children = [
                    bench.processes.start(
                        ["git", "clone", "--quiet", source, served.directory / f"clones/{number}"],
                        output,
                    )
                    for number in range(clients)
                ]
                ended = [wait(child, PATIENCE) for child in children]
            taken = time.perf_counter_ns() - begun
            if not all(ended) or any(child.returncode for child in children):
                raise BenchmarkError(f"git clone failed: {log.read_text(errors='replace')[-500:]}")
        checked_out = sum(len(files) for _, _, files in os.walk(clones / "0/files"))
        if checked_out != CLONED:
            raise BenchmarkError(f"git clone made {checked_out} of {CLONED} files")
    finally:
        shutil.rmtree(clones)
    return {"clone": taken / clients}


def make_repository(path: Path, files: int) -> None:
    """Make a bare repository of one commit: files of 1 to 8 KiB, thirty to a directory."""
    chance = random.Random(1)
    parts = [b"commit refs/heads/main\ncommitter A <a@example.org> 0 +0000\ndata 0\n"]
    for number in range(files):
        content = chance.randbytes(chance.randrange(512, 4096)).hex().encode()
        name = f"files/{number // 30:03}/{number:05}.txt"
        parts.append(f"M 100644 inline {name}\ndata {len(content)}\n".encode() + content + b"\n")
    try:
        subprocess.run(
            ["git", "init", "--quiet", "--bare", "--initial-branch=main", path],
            check=True,
            capture_output=True,
        )
        subprocess.run(
            ["git", "-C", path, "fast-import", "--quiet"],
            check=True,
            input=b"".join(parts),
            capture_output=True,
        )
    except FileNotFoundError:
        raise BenchmarkError("git is not installed: apt-get install git") from None
    except subprocess.CalledProcessError as error:
        raise BenchmarkError(error.stderr.decode(errors="replace")) from None


def measure_fsync(bench: Bench, peer: str, seconds: float) -> Figures:
    """Return the median (ns) of fsync after a write of 4 KiB, and after none."""
    with (
        bench.serve(peer, _setup(bench)) as served,
        bench.probe("fsyncs", served.file, seconds) as probe,
    ):
        found = probe.result(seconds + PATIENCE)
    return {name: median(found[name]) for name in ("fsync", "fsync_clean")}


def measure_beside(bench: Bench, peer: str, seconds: float) -> Figures:
    """Return how long stat takes (ns) while others read what is in the page cache."""
    setup = _setup(bench, ASKED)
    with bench.serve(peer, setup) as served:
        job = Job(served.file, "randread", direct=peer != "native", extra={"numjobs": READERS})
        with bench.load([job], seconds + SETTLING + 60) as fio:
            time.sleep(SETTLING)
            with bench.probe("stats", served.file, seconds, INTERVAL) as probe:
                found = probe.result(seconds + PATIENCE)["stat"]
            # Readers that have failed have disturbed nobody.
            if not fio.running:
                fio.summaries()
                raise BenchmarkError("the readers ended early")
    return {"stat_p50": percentile(found, 50), "stat_p99": percentile(found, 99)}


def measure_memory(bench: Bench, peer: str) -> Figures:
    """Return the memory (bytes) of a mount that nobody has used."""
    with bench.serve(peer, _setup(bench, ())) as served:
        if served.pid is None:
            return {}
        time.sleep(SETTLING)
        return {"pss": memory(served.pid, "Pss"), "rss": memory(served.pid)}


class Names(Section):
    name = "names"
    title = "Operations on names, us each"
    takes_medians = True

    def __init__(self, peers: Sequence[str], seconds: float, rounds: int) -> None:
        self._peers = list(filter(shows_directories, peers))
        self._rounds = rounds
        self._seconds = seconds
        self.method = (
            f"Each of {FILES:,} files once, names known to the kernel (attr_timeout and "
            "entry_timeout 3600) unless a row says otherwise, so an operation is its own requests "
            "alone; median of "
            f"{formats.rounds(rounds)} in turn. Clients are processes that begin together, each in "
            "a directory of its own (a listing: in the same), and the time is that of all, divided "
            "by the operations. stat, attr_timeout=0: asks the daemon for the directory and for "
            "the file each time; of a name not yet known: once, for the name. The first listing of "
            f"a fresh mount. git clone: from the mount into it. fsync: {seconds:g} s, median. "
            f"stat beside readers: every ms, {READERS} fio threads read 4 KiB of a cached image. "
            "bindfs runs with direct_io, and single-threaded, as is its default. The client is "
            "Python, the same for all: nothing is subtracted."
        )

    def steps(self) -> Iterable[Step]:
        run, seconds = self._seconds, self._seconds
        trials: list[tuple[str, float, Callable[..., Figures]]] = []
        for clients in CLIENTS:
            trials += [
                (f"files-{clients}", 8.5, partial(measure_files, clients=clients)),
                (f"readdir-{clients}", 2, partial(measure_listing, clients=clients)),
                (f"clone-{clients}", 1.5 + 2 * clients, partial(measure_clone, clients=clients)),
            ]
        trials += [
            ("fsync", run * 2 + 1, partial(measure_fsync, seconds=seconds)),
            ("stat", run + SETTLING + 1.5, partial(measure_beside, seconds=seconds)),
            ("idle-memory", 2, measure_memory),
        ]
        for case, estimate, measure in trials:
            yield from in_turn(self.name, case, self._peers, self._rounds, estimate, measure)

    def rows(self, result: Result) -> Iterable[Row]:
        for figure, value in result.figures.items():
            if figure in MEMORY:
                yield Row(f"{MEMORY[figure]}, MiB", value / 2**20)
            else:
                yield Row(f"{LABELS[figure]}, us", value / 1e3)

    def report(self, results: Sequence[Result]) -> Iterable[RenderableType]:
        names = peers(results)
        against = [name for name in names if name != "bindfs"] if "bindfs" in names else []
        ratios = [f"{name} / bindfs" for name in against]
        times = formats.table(self.title, "operation", "clients", *names, *ratios)
        sizes = formats.table("Memory of an idle mount, MiB", "", *names, *ratios)
        for case, rows in self.summary(results).items():
            clients = case.rpartition("-")[2]
            for figure, values in rows.items():
                quotients = [_ratio(values.get(name), values.get("bindfs")) for name in against]
                found = [values.get(name) for name in names]
                if figure in MEMORY:
                    cells = ["-" if size is None else f"{size / 2**20:.1f}" for size in found]
                    sizes.add_row(MEMORY[figure], *cells, *quotients)
                else:
                    cells = ["-" if ns is None else _micros(ns) for ns in found]
                    many = clients if clients.isdigit() else "1"
                    times.add_row(LABELS[figure], many, *cells, *quotients)
        yield from (table for table in (times, sizes) if table.row_count)

    def summary(self, results: Sequence[Result]) -> Figures:
        return {case: medians(of(results, case=case)) for case in cases(results)}


def medians(results: Sequence[Result]) -> dict[str, dict[str, float]]:
    """Return by figure and peer the medians of the rounds of a case."""
    figures = dict.fromkeys(figure for result in results for figure in result.figures)
    return {
        figure: {
            peer: median(r[figure] for r in of(results, peer) if figure in r.figures)
            for peer in peers(results)
            if any(figure in r.figures for r in of(results, peer))
        }
        for figure in figures
    }


def _micros(nanoseconds: float) -> str:
    micros = nanoseconds / 1e3
    return f"{micros:,.1f}" if micros < 100 else f"{micros:,.0f}"


def _ratio(value: float | None, base: float | None) -> str:
    return f"{value / base:.2f}" if value is not None and base else "-"
