#!/usr/bin/env python3
"""What reads and writes of the image behind cost, by engine, way and size.

Prints for each case: microseconds of wall time per operation, microseconds of the event
loop's own CPU, microseconds of CPU of all threads (kernel workers too), and how long the
99th percentile of the operations took. `--help` lists the groups; a group prints in seconds.

Run it on the filesystem in question: --directory. The page cache is emptied of the file (not
of the system) before each cold case.
"""

import argparse
import logging
import os
import random
import resource
import sys
import time
from collections.abc import Awaitable, Callable, Iterator
from dataclasses import dataclass
from functools import partial
from itertools import product

import trio

from throttlefs.backing import BackingFile, BlockingPool, create_engine, uring
from throttlefs.backing import file as file_module
from throttlefs.settings.cachemode import CacheMode

KIB, MIB = 1 << 10, 1 << 20
SIZES = (4 * KIB, 16 * KIB, 64 * KIB, 128 * KIB, 256 * KIB, 1 * MIB)
ENGINES = ("uring", "threads")

Operation = Callable[[int], Awaitable[object]]


@dataclass
class Options:
    path: str
    file_size: int
    seconds: float

    def places(self, size: int, *, unique: bool = False) -> list[int]:
        slots = self.file_size // size
        if unique:  # each once, or it would not be cold
            chosen = random.sample(range(slots), slots)
        else:
            chosen = random.choices(range(slots), k=400_000)
        return [slot * size for slot in chosen]


@dataclass
class Case:
    label: str
    bind: Callable[[BackingFile], Operation]
    """Gives the operation on an open file, which is handed an offset."""
    places: list[int]
    depth: int
    engine: str = "uring"
    cache: CacheMode = CacheMode.WRITEBACK


def drop_cache(path: str) -> None:
    fd = os.open(path, os.O_RDONLY)
    os.fsync(fd)
    os.posix_fadvise(fd, 0, 0, os.POSIX_FADV_DONTNEED)
    os.close(fd)


def warm_cache(path: str) -> None:
    with open(path, "rb", buffering=0) as file:
        while file.read(MIB):
            pass


def make_file(path: str, size: int) -> None:
    with open(path, "wb") as file:
        for _ in range(size // MIB):
            file.write(random.randbytes(MIB))
        file.flush()
        os.fsync(file.fileno())


async def measure(
    label: str, operation: Operation, depth: int, places: list[int], seconds: float
) -> None:
    """Run `operation(offset)` from `depth` tasks over `places`, and print what it took."""
    latencies: list[float] = []
    supply = iter(places)
    end = time.perf_counter() + seconds

    async def client() -> None:
        for place in supply:
            begin = time.perf_counter()
            await operation(place)
            done = time.perf_counter()
            latencies.append(done - begin)
            if done > end:
                break

    clocks = (time.perf_counter, time.thread_time, time.process_time)
    begun = [clock() for clock in clocks]
    async with trio.open_nursery() as nursery:
        for _ in range(depth):
            nursery.start_soon(client)
    count = len(latencies)
    wall, loop, total = (
        (clock() - start) / count * 1e6 for clock, start in zip(clocks, begun, strict=True)
    )
    p99 = sorted(latencies)[count * 99 // 100] * 1e6
    print(
        f"{label:44} {1e6 / wall:9.0f}/s {wall:8.1f} us {loop:8.1f} us loop "
        f"{total:8.1f} us CPU  p99 {p99:8.0f} us",
        flush=True,
    )


async def run(case: Case, options: Options) -> None:
    engine = create_engine(case.engine, logging.getLogger("backing_io"))  # type: ignore[arg-type]
    fd = os.open(options.path, os.O_RDWR | case.cache.open_flags)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(engine.run)
        file = BackingFile(fd, engine, case.cache)
        label = f"{case.label} qd{case.depth} {case.engine}"
        await measure(label, case.bind(file), case.depth, case.places, options.seconds)
        file.close()
        nursery.cancel_scope.cancel()
    engine.close()


def reading(size: int, *, now: bool = True, shift: int = 0) -> Callable[[BackingFile], Operation]:
    """Reads, `now` on the loop if that does not block; `shift` makes them unaligned."""

    def bind(file: BackingFile) -> Operation:
        async def read(offset: int) -> None:
            if not now or file.read_now(offset + shift, size - shift) is None:
                await file.read(offset + shift, size - shift)

        return read

    return bind


def writing(size: int, *, now: bool = True, shift: int = 0) -> Callable[[BackingFile], Operation]:
    """Writes; see `reading`."""
    data = random.randbytes(size - shift)

    def bind(file: BackingFile) -> Operation:
        async def write(offset: int) -> None:
            if not now or file.write_now(offset + shift, data) is None:
                await file.write(offset + shift, data)

        return write

    return bind


def by_engine(size: int, *, offload: bool) -> Callable[[BackingFile], Operation]:
    """Reads by the engine itself, which `offload` has hand them to a worker at once."""

    def bind(file: BackingFile) -> Operation:
        return lambda offset: file._engine.read(file.fd, offset, size, offload=offload)

    return bind


def random_reads(options: Options) -> Iterator[Case]:
    """Random 4 KiB reads: cold page cache, O_DIRECT and warm, at queue depths 1 and 32."""
    for engine, kind, depth in product(ENGINES, ("cold", "direct", "warm"), (1, 32)):
        (warm_cache if kind == "warm" else drop_cache)(options.path)
        cache = CacheMode.NONE if kind == "direct" else CacheMode.WRITEBACK
        where = options.places(4096, unique=kind == "cold")
        yield Case(f"read 4k {kind}", reading(4096), where, depth, engine, cache)


def ways(options: Options) -> Iterator[Case]:
    """Cached reads and writes of all sizes: on the loop, or by the engine, alone and four."""
    warm_cache(options.path)
    file_module.INLINE_READ_MAX = file_module.INLINE_WRITE_MAX = 4 * MIB
    for size, engine in product(SIZES, ENGINES):
        where = options.places(size)
        for (name, bind), depth in product(
            (
                ("read on the loop", reading(size)),
                ("read by engine", by_engine(size, offload=False)),
                ("read by engine, offloaded", by_engine(size, offload=True)),
                ("write on the loop", writing(size)),
                ("write by engine", writing(size, now=False)),
            ),
            (1, 4),
        ):
            yield Case(f"{size // KIB}k {name}", bind, where, depth, engine)


def direct_sizes(options: Options) -> Iterator[Case]:
    """O_DIRECT reads and writes of all sizes at queue depth 4, aligned and not."""
    for size, shift in product(SIZES, (0, 100)):
        for name, make in (("read", reading), ("write", writing)):
            label = f"{size // KIB}k direct {name}{' unaligned' if shift else ''}"
            bind = make(size, now=False, shift=shift)
            yield Case(label, bind, options.places(size), 4, cache=CacheMode.NONE)


def batches(options: Options) -> Iterator[Case]:
    """How many requests to collect before one io_uring_enter: random 4 KiB reads, qd 32."""
    usual = uring.SUBMIT_BATCH
    for cache, batch in product((CacheMode.NONE, CacheMode.WRITEBACK), (1, 2, 4, 8, 16, 64)):
        uring.SUBMIT_BATCH = batch
        drop_cache(options.path)
        label = f"read 4k cold {cache.value}, batches of {batch}"
        where = options.places(4096, unique=True)
        yield Case(label, reading(4096, now=False), where, 32, cache=cache)
    uring.SUBMIT_BATCH = usual


async def in_thread(start: Callable[..., Awaitable[object]], _: int) -> None:
    await start(os.getppid)


async def pools(options: Options) -> None:
    """A trivial call in a thread: BlockingPool against trio.to_thread."""
    pool = BlockingPool(8, "bench")
    starts: dict[str, Callable[..., Awaitable[object]]] = {
        "BlockingPool": pool.run,
        "trio.to_thread": trio.to_thread.run_sync,
    }
    for depth, (name, start) in product((1, 8, 32), starts.items()):
        call = partial(in_thread, start)
        await measure(f"{name} qd{depth}", call, depth, list(range(400_000)), options.seconds)
    pool.close()


async def stalls(options: Options) -> None:
    """Cached writes at random places by plain pwrite(2): how many had to wait, and how long."""
    for size in (4 * KIB, 64 * KIB, 256 * KIB, 1 * MIB):
        warm_cache(options.path)
        fd, data = os.open(options.path, os.O_RDWR), random.randbytes(size)
        count, waits = 0, []
        end = time.perf_counter() + 5 * options.seconds
        while time.perf_counter() < end:
            offset = random.randrange(options.file_size // size) * size
            switches = resource.getrusage(resource.RUSAGE_THREAD).ru_nvcsw
            begin = time.perf_counter()
            os.pwrite(fd, data, offset)
            took = time.perf_counter() - begin
            # A thread that waits gives the CPU up; one that is only preempted does not.
            if resource.getrusage(resource.RUSAGE_THREAD).ru_nvcsw > switches:
                waits.append(took * 1e3)
            count += 1
        os.close(fd)
        waited = f"{sum(waits):.1f} ms in all, {max(waits, default=0):.1f} ms at worst"
        print(f"{size // KIB}k: of {count} writes {len(waits)} waited, {waited}", flush=True)


CASES = {f.__name__: f for f in (random_reads, ways, direct_sizes, batches)}
OTHERS = {f.__name__: f for f in (pools, stalls)}
GROUPS = {**CASES, **OTHERS}


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__,
        epilog="groups: " + "; ".join(f"{n}: {f.__doc__}" for n, f in GROUPS.items()),
    )
    parser.add_argument("groups", nargs="*", metavar="GROUP", help="which to run (all)")
    parser.add_argument(
        "--directory", default=".", help="where the test file is made (%(default)s)"
    )
    parser.add_argument("--file-size", type=int, default=1024, help="in MiB (%(default)s)")
    parser.add_argument("--seconds", type=float, default=1.0, help="per case (%(default)s)")
    arguments = parser.parse_args()
    unknown = set(arguments.groups) - set(GROUPS)
    if unknown:
        parser.error(f"no group {', '.join(sorted(unknown))}; there are {', '.join(GROUPS)}")

    path = os.path.join(arguments.directory, f"backing_io.{os.getpid()}")
    options = Options(path, arguments.file_size * MIB, arguments.seconds)
    print(f"Python {sys.version.split()[0]}, Linux {os.uname().release}, {os.cpu_count()} CPUs")
    try:
        make_file(path, options.file_size)
        for name in arguments.groups or GROUPS:
            print(f"-- {GROUPS[name].__doc__}")
            if name in OTHERS:
                trio.run(OTHERS[name], options)
            else:
                for case in CASES[name](options):
                    trio.run(run, case, options)
    finally:
        if os.path.exists(path):
            os.unlink(path)


if __name__ == "__main__":
    main()
