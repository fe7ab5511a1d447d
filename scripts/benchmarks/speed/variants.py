"""The ways to an image that are measured in turn, and one run of fio through any of them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from benchmarks.allowance import Limits
from benchmarks.bench import Bench
from benchmarks.fio import Job
from benchmarks.peers import Image, Served, Setup
from benchmarks.processes import cpu_seconds
from benchmarks.results import Figures

UNREACHABLE = {"bps": 10**12, "iops": 10**9}
"""Limits that no machine reaches: what the limiter costs when it never says no."""


@dataclass(frozen=True)
class Variant:
    """A peer, and the limits it is given."""

    name: str
    peer: str
    limits: Limits


VARIANTS = (
    Variant("throttlefs", "throttlefs", UNREACHABLE),
    Variant("throttlefs, no limits", "throttlefs", {}),
    Variant("qsd", "qsd", UNREACHABLE),
    Variant("native", "native", {}),
)
LIMITED = tuple(variant for variant in VARIANTS if variant.name != "throttlefs, no limits")


def chosen(variants: Sequence[Variant], peers: Sequence[str]) -> list[Variant]:
    """Return the variants of some peers."""
    return [variant for variant in variants if variant.peer in peers]


def setup(variant: Variant, images: Sequence[Path], direct: bool = False) -> Setup:
    """Return a mount of images that all have the variant's limits."""
    return Setup([Image(path, variant.limits) for path in images], direct=direct)


def io_uring_works() -> bool:
    """Return whether the kernel lets everybody use io_uring (sysctl io_uring_disabled)."""
    try:
        return Path("/proc/sys/kernel/io_uring_disabled").read_text().strip() == "0"
    except OSError:
        return True


def fitted(job: Job, variant: Variant, direct: bool) -> Job:
    """Return the job as this variant has to be loaded.

    A mount is opened with O_DIRECT, so that the client's own page cache is out of the way; the
    native file as the daemons open it: buffered, unless ``direct``. Buffered libaio is not
    asynchronous, io_uring is.
    """
    if variant.peer != "native":
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
