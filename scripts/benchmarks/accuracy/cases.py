"""The grid: which limits are measured under which load."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from benchmarks.allowance import RATES, Limits, Rate
from benchmarks.fio import Job
from benchmarks.peers import Served

KIB = 1024
MIB = 1024 * KIB
GIB = 1024 * MIB


@dataclass(frozen=True)
class Load:
    """One fio job of a case."""

    rw: str
    block: str
    depth: int
    extra: Mapping[str, int] = field(default_factory=dict)

    def job(self, served: Served) -> Job:
        return Job(served.file, self.rw, self.block, self.depth, extra=dict(self.extra))


@dataclass(frozen=True)
class Case:
    """Limits, the load under them, and which of the limits the load runs into."""

    name: str
    limits: Limits
    loads: Sequence[Load]
    judged: Sequence[str] = ()
    """The limits that bind; all rates of the case if none are named."""
    plotted: bool = False

    @property
    def binding(self) -> Sequence[str]:
        return self.judged or [name for name in self.limits if name in RATES]

    @property
    def burst_lasts(self) -> float:
        """Seconds until the longest of the bursts is spent; 0 without one."""
        return max(Rate.of(self.limits, name).burst_lasts for name in self.binding)

    def jobs(self, served: Served) -> list[Job]:
        return [load.job(served) for load in self.loads]

    @property
    def load_text(self) -> str:
        """The load in a few characters, such as "randread 4k qd32"."""
        return " + ".join(f"{load.rw} {load.block} qd{load.depth}" for load in self.loads)


def _case(
    name: str,
    limits: Limits,
    *loads: tuple[str, str, int],
    judged: Sequence[str] = (),
    plotted: bool = False,
) -> Case:
    return Case(name, limits, [Load(*load) for load in loads], judged, plotted)


MIXED_SIZES = "4k/40:64k/30:256k/30"
"""fio's bssplit: 40 % of the requests 4 KiB, 30 % each 64 and 256 KiB."""

GRID = (
    _case("bps-256K-4k-qd1", {"bps": 256 * KIB}, ("randread", "4k", 1)),
    _case("bps-256K-1m-write-qd4", {"bps": 256 * KIB}, ("write", "1m", 4)),
    _case("bps-1M-4k-write-qd1", {"bps": MIB}, ("randwrite", "4k", 1)),
    _case("bps-1M-64k-qd4", {"bps": MIB}, ("randread", "64k", 4)),
    _case("bps-1M-1m-qd1", {"bps": MIB}, ("read", "1m", 1)),
    _case("bps-10M-4k-qd32", {"bps": 10 * MIB}, ("randread", "4k", 32)),
    _case("bps-10M-64k-write-qd16", {"bps": 10 * MIB}, ("randwrite", "64k", 16), plotted=True),
    _case("bps-10M-1m-qd4", {"bps": 10 * MIB}, ("read", "1m", 4)),
    _case("bps-20M-sizes-mixed-qd16", {"bps": 20 * MIB}, ("randrw", MIXED_SIZES, 16)),
    _case("bps-64M-4k-qd32", {"bps": 64 * MIB}, ("randread", "4k", 32)),
    _case("bps-100M-64k-qd16", {"bps": 100 * MIB}, ("randread", "64k", 16)),
    _case("bps-100M-1m-write-qd4", {"bps": 100 * MIB}, ("write", "1m", 4)),
    _case("bps-512M-256k-write-qd8", {"bps": 512 * MIB}, ("write", "256k", 8)),
    _case("bps-1G-256k-qd16", {"bps": GIB}, ("randread", "256k", 16)),
    _case("bps-1G-1m-qd4", {"bps": GIB}, ("read", "1m", 4)),
    _case("iops-10-4k-qd1", {"iops": 10}, ("randread", "4k", 1)),
    _case("iops-100-4k-qd1", {"iops": 100}, ("randread", "4k", 1)),
    _case("iops-100-64k-write-qd64", {"iops": 100}, ("randwrite", "64k", 64)),
    _case("iops-1000-4k-qd8", {"iops": 1000}, ("randread", "4k", 8), plotted=True),
    _case("iops-3000-4k-qd1", {"iops": 3000}, ("randread", "4k", 1)),
    _case("iops-3000-4k-mixed-qd32", {"iops": 3000}, ("randrw", "4k", 32)),
    _case("iops-10000-4k-qd32", {"iops": 10000}, ("randread", "4k", 32)),
    _case("iops-20000-4k-qd64", {"iops": 20000}, ("randread", "4k", 64)),
    _case("iops_rd-1000-4k-mixed-qd16", {"iops_rd": 1000}, ("randrw", "4k", 16)),
    _case("iops_wr-500-4k-write-qd1", {"iops_wr": 500}, ("randwrite", "4k", 1)),
    _case("iops_wr-10000-4k-write-qd32", {"iops_wr": 10000}, ("randwrite", "4k", 32)),
    _case(
        "iops_rd-2000-iops_wr-1000-4k",
        {"iops_rd": 2000, "iops_wr": 1000},
        ("randread", "4k", 16),
        ("randwrite", "4k", 16),
    ),
    _case("bps_rd-10M-64k-mixed-qd16", {"bps_rd": 10 * MIB}, ("randrw", "64k", 16)),
    _case("bps_wr-10M-16k-write-qd16", {"bps_wr": 10 * MIB}, ("randwrite", "16k", 16)),
    _case(
        "bps_rd-20M-bps_wr-10M-64k",
        {"bps_rd": 20 * MIB, "bps_wr": 10 * MIB},
        ("randread", "64k", 16),
        ("randwrite", "64k", 16),
    ),
    _case(
        "bps-50M-iops-2000-32k-qd16",
        {"bps": 50 * MIB, "iops": 2000},
        ("randread", "32k", 16),
        judged=["bps"],
    ),
    _case(
        "iops-1000-size-16K-64k-qd16",
        {"iops": 1000, "iops_size": 16 * KIB},
        ("randread", "64k", 16),
    ),
    _case(
        "burst-bps-10M-40M-2s-64k-qd16",
        {"bps": 10 * MIB, "bps_max": 40 * MIB, "bps_max_length": 2},
        ("randread", "64k", 16),
        plotted=True,
    ),
    _case(
        "burst-iops-500-2000-1s-4k-qd8",
        {"iops": 500, "iops_max": 2000},
        ("randread", "4k", 8),
        plotted=True,
    ),
    _case(
        "burst-bps_wr-5M-20M-1s-16k-qd8",
        {"bps_wr": 5 * MIB, "bps_wr_max": 20 * MIB, "bps_wr_max_length": 1},
        ("randwrite", "16k", 8),
    ),
)
"""Six limits, 10 to 20,000 requests/s, 256 KiB/s to 1 GiB/s, 4 KiB to 1 MiB, depth 1 to 64."""

WINDOWS = (
    _case("bps-20M-64k-qd16", {"bps": 20 * MIB}, ("randread", "64k", 16)),
    _case("bps-100M-64k-qd16", {"bps": 100 * MIB}, ("randread", "64k", 16)),
    _case("bps_wr-20M-16k-qd8", {"bps_wr": 20 * MIB}, ("randwrite", "16k", 8)),
    _case("iops-1000-4k-qd16", {"iops": 1000}, ("randread", "4k", 16)),
    _case("iops-10000-4k-qd32", {"iops": 10000}, ("randread", "4k", 32)),
)
"""One limit each, for the excess in short windows."""
