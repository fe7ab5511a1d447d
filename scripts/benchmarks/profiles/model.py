"""What a profile promises, computed on a virtual clock: latencies, and requests a second."""

from __future__ import annotations

import heapq
from collections.abc import Sequence
from dataclasses import dataclass
from random import Random

from throttlefs.device import Disk
from throttlefs.settings.device import Device
from throttlefs.settings.limits import Limits
from throttlefs.settings.profiles import shipped, split_settings

READ, WRITE, FLUSH = range(3)
BLOCK = 4096
SECOND = 10**9


@dataclass(frozen=True)
class Expected:
    """What is to be measured: latencies (ns) in order of size, and requests a second."""

    latencies: Sequence[int]
    per_second: float

    def quantile(self, percent: float) -> int:
        """Return the latency (ns) that so many percent of the requests do not exceed."""
        rank = -(-round(percent * len(self.latencies) * 10) // 1000)
        return self.latencies[min(max(1, rank), len(self.latencies)) - 1]


def settings(profile: str) -> tuple[Limits, Device]:
    """Return the limits and the device of a shipped profile."""
    return split_settings(shipped().settings(profile))


def expected(
    profile: str, kind: int, depth: int = 1, size: int = 256 << 20, count: int = 10_000
) -> Expected:
    """Return what a client sees that has ``depth`` requests of 4 KiB under way in ``size`` bytes.

    Flushes come one at a time. Limits are taken without their bursts' ends: a run is short.
    """
    limits, device = settings(profile)
    if device.has_head and not device.size:
        device = device.changed(size=size)
    disk = Disk(device.changed(seed=1))
    spot = disk.attach("image", "image", size)
    offsets = Random(1)
    gap = _gap(limits, kind)
    places = min(disk.places or depth, depth)
    free = [0] * places  # when each place is free
    asked = [0] * depth  # when each client asks
    due = 0
    latencies = []
    end = 0
    for _ in range(count):
        came = heapq.heappop(asked)
        start = max(came, heapq.heappop(free), due)
        due = max(due, came) + gap
        offset = offsets.randrange(size // BLOCK) * BLOCK
        _, end = disk.serve(kind, False, spot, offset, 0 if kind == FLUSH else BLOCK, start)
        heapq.heappush(free, end)
        heapq.heappush(asked, end)
        latencies.append(end - came)
    return Expected(sorted(latencies), count * SECOND / max(end, 1))


def _gap(limits: Limits, kind: int) -> int:
    """Return the time (ns) between two requests of 4 KiB that the limits make."""
    if kind == FLUSH:
        return 0
    own = "rd" if kind == READ else "wr"
    seconds = 0.0
    for suffix in ("", f"_{own}"):
        iops = getattr(limits, f"iops{suffix}_max") or getattr(limits, f"iops{suffix}")
        bps = getattr(limits, f"bps{suffix}_max") or getattr(limits, f"bps{suffix}")
        seconds = max(seconds, 1 / iops if iops else 0, BLOCK / bps if bps else 0)
    return round(seconds * SECOND)
