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
from collections.abc import Awaitable, Callable
from dataclasses import dataclass

import trio

from throttlefs.backing import BackingFile, BlockingPool, create_engine, uring
from throttlefs.backing import file as file_module
from throttlefs.settings.cachemode import CacheMode

KIB, MIB = 1 << 10, 1 << 20
SIZES = (4 * KIB, 16 * KIB, 64 * KIB, 128 * KIB, 256 * KIB, 1 * MIB)

log = logging.getLogger("backing_io")

Operation = Callable[[int], Awaitable[object]]


@dataclass
class Options:
    path: str
    file_size: int
    seconds: float


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
            if begin > end:
                break
            await operation(place)
            latencies.append(time.perf_counter() - begin)

    wall, loop, total = time.perf_counter(), time.thread_time(), time.process_time()
    async with trio.open_nursery() as nursery:
        for _ in range(depth):
            nursery.start_soon(client)
    count = len(latencies)
    wall = (time.perf_counter() - wall) / count * 1e6
    loop = (time.thread_time() - loop) / count * 1e6
    total = (time.process_time() - total) / count * 1e6
    p99 = sorted(latencies)[count * 99 // 100] * 1e6
    print(
        f"{label:44} {1e6 / wall:9.0f}/s {wall:8.1f} us {loop:8.1f} us loop "
        f"{total:8.1f} us CPU  p99 {p99:8.0f} us",
        flush=True,
    )


def places(options: Options, size: int, *, unique: bool = False) -> list[int]:
    slots = options.file_size // size
    if unique:  # each once, or it would not be cold
        chosen = list(range(slots))
        random.shuffle(chosen)
    else:
        chosen = random.choices(range(slots), k=400_000)
    return [slot * size for slot in chosen]


async def with_file(
    options: Options,
    engine_name: str,
    cache: CacheMode,
    body: Callable[[BackingFile], Awaitable[None]],
) -> None:
    engine = create_engine(engine_name, log)  # type: ignore[arg-type]
    fd = os.open(options.path, os.O_RDWR | cache.open_flags)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(engine.run)
        file = BackingFile(fd, engine, cache)
        await body(file)
        file.close()
        nursery.cancel_scope.cancel()
    engine.close()


async def random_reads(options: Options) -> None:
    """Random 4 KiB reads: cold page cache, O_DIRECT and warm, at queue depths 1 and 32."""
    for engine in ("uring", "threads"):
        for kind in ("cold", "direct", "warm"):
            for depth in (1, 32):
                (warm_cache if kind == "warm" else drop_cache)(options.path)
                cache = CacheMode.NONE if kind == "direct" else CacheMode.WRITEBACK

                async def body(file: BackingFile) -> None:
                    async def read(offset: int) -> None:
                        if file.read_now(offset, 4096) is None:
                            await file.read(offset, 4096)

                    where = places(options, 4096, unique=kind == "cold")  # noqa: B023
                    label = f"read 4k {kind} qd{depth} {engine}"  # noqa: B023
                    await measure(label, read, depth, where, options.seconds)  # noqa: B023

                await with_file(options, engine, cache, body)


async def ways(options: Options) -> None:
    """Cached reads and writes of all sizes: on the loop, or by the engine, alone and four."""
    warm_cache(options.path)
    file_module.INLINE_READ_MAX = file_module.INLINE_WRITE_MAX = 4 * MIB
    for size in SIZES:
        data = random.randbytes(size)
        where = places(options, size)[:100_000]

        async def body(file: BackingFile) -> None:
            engine = file._engine

            async def read_now(offset: int) -> None:
                if file.read_now(offset, size) is None:  # noqa: B023
                    await file.read(offset, size)  # noqa: B023

            async def read_engine(offset: int) -> None:
                await engine.read(file.fd, offset, size)  # noqa: B023

            async def read_offload(offset: int) -> None:
                await engine.read(file.fd, offset, size, offload=True)  # noqa: B023

            async def write_now(offset: int) -> None:
                if file.write_now(offset, data) is None:  # noqa: B023
                    await file.write(offset, data)  # noqa: B023

            async def write_offload(offset: int) -> None:
                await file.write(offset, data)  # noqa: B023

            label = f"{size // KIB}k"  # noqa: B023
            for name, operation in (
                ("read on the loop", read_now),
                ("read by engine", read_engine),
                ("read by engine, offloaded", read_offload),
                ("write on the loop", write_now),
                ("write by engine", write_offload),
            ):
                for depth in (1, 4):
                    await measure(
                        f"{label} {name} qd{depth} {engine.name}",
                        operation,
                        depth,
                        where,  # noqa: B023
                        options.seconds,
                    )

        for engine_name in ("uring", "threads"):
            await with_file(options, engine_name, CacheMode.WRITEBACK, body)


async def direct_sizes(options: Options) -> None:
    """O_DIRECT reads and writes of all sizes at queue depth 4, aligned and not."""
    for size in SIZES:
        data = random.randbytes(size)
        where = places(options, size)[:50_000]

        async def body(file: BackingFile) -> None:
            async def read(offset: int) -> None:
                await file.read(offset, size)  # noqa: B023

            async def write(offset: int) -> None:
                await file.write(offset, data)  # noqa: B023

            async def read_unaligned(offset: int) -> None:
                await file.read(offset + 100, size - 100)  # noqa: B023

            async def write_unaligned(offset: int) -> None:
                await file.write(offset + 100, data[100:])  # noqa: B023

            for operation in (read, write, read_unaligned, write_unaligned):
                name = operation.__name__.replace("_", " ")
                label = f"{size // KIB}k direct {name} qd4"  # noqa: B023
                await measure(label, operation, 4, where, options.seconds)  # noqa: B023

        await with_file(options, "uring", CacheMode.NONE, body)


async def batches(options: Options) -> None:
    """How many requests to collect before one io_uring_enter: random 4 KiB reads, qd 32."""
    usual = uring.SUBMIT_BATCH
    for cache in (CacheMode.NONE, CacheMode.WRITEBACK):
        for batch in (1, 2, 4, 8, 16, 64):
            uring.SUBMIT_BATCH = batch
            drop_cache(options.path)

            async def body(file: BackingFile) -> None:
                async def read(offset: int) -> None:
                    await file.read(offset, 4096)

                where = places(options, 4096, unique=True)
                label = f"read 4k cold {cache.value} qd32, batches of {batch}"  # noqa: B023
                await measure(label, read, 32, where, options.seconds)

            await with_file(options, "uring", cache, body)
    uring.SUBMIT_BATCH = usual


async def pools(options: Options) -> None:
    """A trivial call in a thread: BlockingPool against trio.to_thread."""
    pool = BlockingPool(8, "bench")

    async def ours(_: int) -> None:
        await pool.run(os.getppid)

    async def trios(_: int) -> None:
        await trio.to_thread.run_sync(os.getppid)

    numbers = list(range(400_000))
    for depth in (1, 8, 32):
        await measure(f"BlockingPool qd{depth}", ours, depth, numbers, options.seconds)
        await measure(f"trio.to_thread qd{depth}", trios, depth, numbers, options.seconds)
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


GROUPS = {f.__name__: f for f in (random_reads, ways, direct_sizes, batches, pools, stalls)}


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
            trio.run(GROUPS[name], options)
    finally:
        if os.path.exists(path):
            os.unlink(path)


if __name__ == "__main__":
    main()
