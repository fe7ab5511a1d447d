"""Ten thousand files open, and a directory of a hundred thousand entries."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path

from rich.console import RenderableType

from benchmarks import formats
from benchmarks.bench import Bench
from benchmarks.errors import NotMeasurableError
from benchmarks.peers import Image, Served, Setup, shows_directories
from benchmarks.processes import memory
from benchmarks.results import Figures, Result, Row, Section, Step, in_turn, of

OPEN_FILES = 10_000
ENTRIES = 100_000


def _directory(bench: Bench, name: str, count: int, with_content: bool) -> Path:
    """Return a directory of ``images`` with so many files, each holding its own name or nothing."""
    path = bench.scratch.images / name
    if not path.exists():
        partial = bench.scratch.images / f"{name}.partial"
        partial.mkdir(exist_ok=True)
        for number in range(count):
            file = partial / f"{number:06}"
            if with_content:
                file.write_text(file.name)
            else:
                file.touch()
        partial.rename(path)
    return path


def _within(served: Served, bench: Bench, path: Path) -> Path:
    """Return where the peer shows a directory of ``images``."""
    return served.directory / path.relative_to(bench.scratch.images)


def measure_open(bench: Bench, peer: str) -> Figures:
    """Open many files at once; return rates (1/s) and the daemon's memory (bytes)."""
    path = _directory(bench, "open", OPEN_FILES, with_content=True)
    with bench.serve(peer, Setup([Image(bench.image("image", 64))])) as served:
        pid = served.pid or 0
        idle = memory(pid) if pid else None
        with bench.probe("open_files", _within(served, bench, path), pid) as probe:
            found = probe.result(120)
        if found["wrong"]:
            raise NotMeasurableError(f"{found['wrong']} of {OPEN_FILES} files read wrong")
        return {
            "open_per_second": found["files"] / found["open_seconds"],
            "read_per_second": found["files"] / found["read_seconds"],
            "memory_idle": idle,
            "memory_open": found["daemon_memory"],
            "memory_after": memory(pid) if pid else None,
        }


def measure_directory(bench: Bench, peer: str) -> Figures:
    """List a large directory; return entries/s: the first time, again, with a stat of each."""
    path = _directory(bench, "many", ENTRIES, with_content=False)
    with bench.serve(peer, Setup([Image(bench.image("image", 64))])) as served:
        with bench.probe("listing", _within(served, bench, path)) as probe:
            found = probe.result(300)
        if found["entries"] != ENTRIES:
            raise NotMeasurableError(f"{found['entries']} of {ENTRIES} entries were listed")
        return {name: ENTRIES * 1e9 / found[name] for name in ("first", "again", "with_stat")}


class Files(Section):
    name = "files"
    title = "Many files"
    method = (
        f"{OPEN_FILES:,} files opened one after the other, then one read of each while all are "
        "open (what it reads is checked); memory is the daemon's VmRSS. A directory of "
        f"{ENTRIES:,} entries: os.listdir on a fresh mount, once more, and os.scandir with a stat "
        "of every entry. One process, one run."
    )

    def __init__(self, peers: Sequence[str], rounds: int) -> None:
        self._rounds = rounds
        # bindfs is there for names.
        self._peers = [peer for peer in peers if shows_directories(peer) and peer != "bindfs"]

    def steps(self) -> Iterable[Step]:
        for case, seconds, measure in (
            ("open", 8, measure_open),
            ("directory", 20, measure_directory),
        ):
            yield from in_turn(self.name, case, self._peers, self._rounds, seconds, measure)

    def rows(self, result: Result) -> Iterable[Row]:
        for name in ("open_per_second", "read_per_second", "first", "again", "with_stat"):
            if name in result.figures:
                what = name.removesuffix("_per_second").replace("_", " ")
                yield Row(f"{what}, 1/s", result[name], "higher")
        if result.figures.get("memory_open"):
            yield Row("memory, all open, MiB", result["memory_open"] / 2**20)

    def report(self, results: Sequence[Result]) -> Iterable[RenderableType]:
        if opened := of(results, case="open"):
            table = formats.table(
                f"{OPEN_FILES:,} files open",
                "peer",
                "opens/s",
                "reads/s",
                "memory before",
                "all open",
                "after",
            )
            for result in opened:
                sizes = [result[f"memory_{when}"] for when in ("idle", "open", "after")]
                table.add_row(
                    result.peer,
                    formats.per_second(result["open_per_second"]),
                    formats.per_second(result["read_per_second"]),
                    *("-" if size is None else formats.mebibytes(size) for size in sizes),
                )
            yield table
        if listed := of(results, case="directory"):
            table = formats.table(
                f"A directory of {ENTRIES:,} entries, entries/s",
                "peer",
                "first",
                "again",
                "with stat",
            )
            for result in listed:
                rates = [result[name] for name in ("first", "again", "with_stat")]
                table.add_row(result.peer, *map(formats.per_second, rates))
            yield table
