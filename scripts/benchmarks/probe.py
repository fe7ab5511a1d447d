"""A client in a process of its own: what it finds is one line of JSON on stdout.

Run by the benchmarks, beside their load: a client that a mount holds up must hold up nobody else,
and Python's own threads must not disturb its clock.
"""

from __future__ import annotations

import gc
import json
import mmap
import multiprocessing
import os
import resource
import sys
import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any

BLOCK = 4096
_barrier: Any = None


def _timed(action: Callable[[], object]) -> int:
    start = time.perf_counter_ns()
    action()
    return time.perf_counter_ns() - start


def _repeat(action: Callable[[], object], seconds: float, interval: float) -> list[int]:
    """Call ``action`` every ``interval`` seconds; return how long (ns) each call took."""
    taken = []
    begun = time.monotonic()
    due = begun
    while time.monotonic() < begun + seconds:
        taken.append(_timed(action))
        # What took longer than the interval is not made up for by a volley.
        due = max(due + interval, time.monotonic())
        time.sleep(max(0.0, due - time.monotonic()))
    return taken


def metadata(directory: str, seconds: str) -> dict[str, Any]:
    """stat every file of a directory in turn, and list it, every 2 ms."""
    names = os.listdir(directory)
    paths = [os.path.join(directory, name) for name in names]
    number = 0

    def stat_next() -> None:
        nonlocal number
        os.stat(paths[number % len(paths)])
        number += 1

    half = float(seconds) / 2
    return {
        "stat": _repeat(stat_next, half, 0.002),
        "list": _repeat(lambda: os.listdir(directory), half, 0.002),
        "entries": len(names),
    }


def reads(file: str, seconds: str, interval: str, direct: str) -> dict[str, Any]:
    """Read the first block of a file again and again; ``direct``: past the page cache."""
    # O_DIRECT wants aligned memory, which an anonymous mapping is.
    buffer = mmap.mmap(-1, BLOCK)
    descriptor = os.open(file, os.O_RDONLY | (os.O_DIRECT if int(direct) else 0))
    return {
        "read": _repeat(lambda: os.preadv(descriptor, [buffer], 0), float(seconds), float(interval))
    }


def open_files(directory: str, daemon: str) -> dict[str, Any]:
    """Open every file of a directory and read of each while all are open.

    ``daemon`` is the process whose memory (bytes) is read then; 0 for none.
    """
    names = sorted(os.listdir(directory))
    wanted = len(names) + 64
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = max(wanted, soft)
    resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, max(wanted, hard)))
    start = time.perf_counter()
    descriptors = [os.open(os.path.join(directory, name), os.O_RDONLY) for name in names]
    opened = time.perf_counter()
    wrong = sum(
        os.pread(descriptor, BLOCK, 0)[: len(name)] != name.encode()
        for name, descriptor in zip(names, descriptors, strict=True)
    )
    done = time.perf_counter()
    return {
        "files": len(names),
        "open_seconds": opened - start,
        "read_seconds": done - opened,
        "wrong": wrong,
        "daemon_memory": _resident(daemon) if int(daemon) else None,
    }


def _resident(pid: str) -> int:
    pages = int(Path(f"/proc/{pid}/statm").read_text().split()[1])
    return pages * resource.getpagesize()


def listing(directory: str) -> dict[str, Any]:
    """List a directory: names only, then once more, then with a stat of every entry."""
    first = _timed(lambda: os.listdir(directory))
    again = _timed(lambda: os.listdir(directory))

    def with_stat() -> None:
        with os.scandir(directory) as entries:
            for entry in entries:
                entry.stat(follow_symlinks=False)

    return {
        "entries": len(os.listdir(directory)),
        "first": first,
        "again": again,
        "with_stat": _timed(with_stat),
    }


def stats(file: str, seconds: str, interval: str) -> dict[str, Any]:
    """Stat a file again and again."""
    return {"stat": _repeat(lambda: os.stat(file), float(seconds), float(interval))}


def fsyncs(file: str, seconds: str) -> dict[str, Any]:
    """Time fsync, each after a block was written at another place, and when nothing was."""
    block = os.urandom(BLOCK)
    descriptor = os.open(file, os.O_RDWR)
    blocks = os.fstat(descriptor).st_size // BLOCK
    taken: dict[str, list[int]] = {"fsync": [], "fsync_clean": []}
    end = time.monotonic() + 2 * float(seconds)
    while time.monotonic() < end:
        place = len(taken["fsync"]) * 7 % blocks
        os.pwrite(descriptor, block, place * BLOCK)
        for when in taken.values():
            when.append(_timed(lambda: os.fsync(descriptor)))
    return taken


def _create(name: bytes) -> None:
    os.close(os.open(name, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o644))


def _open(name: bytes) -> None:
    os.close(os.open(name, os.O_RDONLY))


NAME_OPERATIONS: dict[str, Callable[[bytes], object]] = {
    "create": _create,
    "lookup": os.stat,
    "stat": os.stat,
    "open": _open,
    "rename": lambda name: os.rename(name, b"r" + name),
    "unlink": lambda name: os.unlink(b"r" + name),
    "readdir": lambda _: len(os.listdir(b".")),
}


def names(operation: str, directory: str, count: str, clients: str) -> dict[str, Any]:
    """Do one operation on so many names, by several clients at once; return ns of each.

    Processes, not threads: those would wait for each other in Python. Client N works in the
    subdirectory N; a listing is of the directory itself, for all of them.
    """
    number = int(clients)
    context = multiprocessing.get_context("fork")
    barrier = context.Barrier(number, timeout=60)
    places = [directory if operation == "readdir" else f"{directory}/{n}" for n in range(number)]
    for place in places:
        os.stat(place)  # a client that fails alone would leave the others waiting
    with ProcessPoolExecutor(number, context, _remember, (barrier,)) as pool:
        each = int(count) // number
        done = list(pool.map(_client, [operation] * number, places, [each] * number))
    begun, ended, results = zip(*done, strict=True)
    return {"ns": (max(ended) - min(begun)) / (each * number), "results": results}


def _remember(barrier: Any) -> None:
    global _barrier
    _barrier = barrier


def _client(operation: str, directory: str, count: int) -> tuple[int, int, object]:
    """Do all of one client; return when it began and ended, and what the last call returned."""
    os.chdir(directory)
    names = [b"%05d" % number for number in range(count)]
    call = NAME_OPERATIONS[operation]
    result = None
    gc.disable()
    _barrier.wait()
    begun = time.perf_counter_ns()
    for name in names:
        result = call(name)
    ended = time.perf_counter_ns()
    return begun, ended, result if operation == "readdir" else None


def main() -> None:
    name, *arguments = sys.argv[1:]
    probes: dict[str, Callable[..., dict[str, Any]]] = {
        "metadata": metadata,
        "reads": reads,
        "open_files": open_files,
        "listing": listing,
        "stats": stats,
        "fsyncs": fsyncs,
        "names": names,
    }
    print(json.dumps(probes[name](*arguments)))


if __name__ == "__main__":
    main()
