"""The ways to an image that are measured in turn, and one run of fio through any of them.

A way is a peer's name, and perhaps what follows a comma: "throttlefs, no limits".
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from benchmarks.bench import Bench
from benchmarks.fio import Job
from benchmarks.peers import Image, Served, Setup, is_throttlefs
from benchmarks.processes import cpu_seconds
from benchmarks.results import Figures

UNREACHABLE = {"bps": 10**12, "iops": 10**9}
"""Limits that no machine reaches: what the limiter costs when it never says no."""
NO_LIMITS = ", no limits"


def limited_ways(peers: Sequence[str]) -> list[str]:
    """Return the ways through each peer that has limits, and to the file itself."""
    return [peer for peer in peers if peer != "bindfs"]


def all_ways(peers: Sequence[str]) -> list[str]:
    """As limited_ways, and through throttlefs without limits too."""
    unlimited = {peer: [peer + NO_LIMITS] for peer in peers if is_throttlefs(peer)}
    return [way for peer in limited_ways(peers) for way in (peer, *unlimited.get(peer, []))]


def setup(way: str, images: Sequence[Path], direct: bool = False) -> Setup:
    """Return a mount of images with the limits that the way has."""
    limits = {} if way.endswith(NO_LIMITS) or way == "native" else UNREACHABLE
    return Setup([Image(path, limits) for path in images], direct=direct)


def io_uring_works() -> bool:
    """Return whether the kernel lets everybody use io_uring (sysctl io_uring_disabled)."""
    try:
        return Path("/proc/sys/kernel/io_uring_disabled").read_text().strip() == "0"
    except OSError:
        return True


def fitted(job: Job, way: str, direct: bool) -> Job:
    """Return the job as this way has to be loaded.

    A mount is opened with O_DIRECT, so that the client's own page cache is out of the way; the
    native file as the daemons open it: buffered, unless ``direct``. Buffered libaio is not
    asynchronous, io_uring is.
    """
    if way != "native":
        return job
    if job.depth > 1 and not direct and io_uring_works():
        return replace(job, direct=False, engine="io_uring")
    return replace(job, direct=direct)


def run(bench: Bench, served: Served, job: Job, seconds: float) -> Figures:
    """Run one job; return its requests/s and the daemon's CPU time (us) for each."""
    before = cpu_seconds(served.pid) if served.pid else 0.0
    with bench.load([job], seconds) as fio:
        fio.wait()
        summary = fio.summaries()[0]
    figures: Figures = {
        "per_second": summary.per_second,
        "bytes_per_second": summary.bytes / summary.seconds if summary.seconds else 0.0,
    }
    if served.pid and summary.requests:
        used = cpu_seconds(served.pid) - before
        figures["cpu_us"] = used * 1e6 / summary.requests
    return figures
