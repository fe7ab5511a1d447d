"""Suggests a name ("did you mean ...?") for one that is mistyped or known from another tool."""

from __future__ import annotations

import difflib
from collections.abc import Iterable
from typing import Final

from .limits import LIMIT_NAMES, QEMU_DASHED_NAMES
from .units import quoted

LIMIT_CANDIDATES: Final = (*LIMIT_NAMES, *QEMU_DASHED_NAMES)
"""The names of limits that are worth suggesting."""

# Names that a comparison of letters would not find; "-" counts as "_".
_ELSEWHERE: Final = {
    # common words
    **dict.fromkeys(
        ("rate", "rate_limit", "ratelimit", "limit", "bandwidth", "bw", "throughput", "speed"),
        "bps",
    ),
    **dict.fromkeys(("bytes", "bytes_per_second", "max_rate", "max_bandwidth"), "bps"),
    **dict.fromkeys(("ops", "requests", "rps", "requests_per_second", "rate_iops"), "iops"),
    **dict.fromkeys(
        ("read_rate", "read_limit", "read_bandwidth", "read_bps", "rate_read"), "bps_rd"
    ),
    **dict.fromkeys(
        ("write_rate", "write_limit", "write_bandwidth", "write_bps", "rate_write"), "bps_wr"
    ),
    **dict.fromkeys(("read_iops", "read_ops"), "iops_rd"),
    **dict.fromkeys(("write_iops", "write_ops"), "iops_wr"),
    **dict.fromkeys(("burst", "burst_rate"), "bps_max"),
    # cgroup v2, io.max
    "rbps": "bps_rd",
    "wbps": "bps_wr",
    "riops": "iops_rd",
    "wiops": "iops_wr",
    # libvirt, <iotune>
    "total_bytes_sec": "bps",
    "read_bytes_sec": "bps_rd",
    "write_bytes_sec": "bps_wr",
    "total_iops_sec": "iops",
    "read_iops_sec": "iops_rd",
    "write_iops_sec": "iops_wr",
    "size_iops_sec": "iops_size",
    "group_name": "group",
    # Docker and Podman
    "device_read_bps": "bps_rd",
    "device_write_bps": "bps_wr",
    "device_read_iops": "iops_rd",
    "device_write_iops": "iops_wr",
    # systemd.resource-control(5)
    "ioreadbandwidthmax": "bps_rd",
    "iowritebandwidthmax": "bps_wr",
    "ioreadiopsmax": "iops_rd",
    "iowriteiopsmax": "iops_wr",
}


def of_another_tool(name: str) -> str | None:
    """The limit that another tool calls *name*, None if there is none."""
    return _ELSEWHERE.get(name.lower().replace("-", "_"))


def nearest(name: str, candidates: Iterable[str]) -> str | None:
    """The candidate that is nearest to *name*, or None if none is near."""
    names = list(candidates)
    plain = name.strip().lower()
    foreign = of_another_tool(plain)
    if foreign in names:
        return foreign
    # A mistyped name is short; comparing is quadratic.
    close = difflib.get_close_matches(plain[:64], names, n=1)
    return close[0] if close else None


def unknown(kind: str, name: str, candidates: Iterable[str]) -> str:
    """The message for an unknown *name*: "unknown option 'bsp'; did you mean 'bps'?"."""
    best = nearest(name, candidates)
    return f"unknown {kind} {quoted(name)}" + (f"; did you mean {quoted(best)}?" if best else "")
