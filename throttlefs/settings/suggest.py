"""Answers "did you mean ...?" for names that are mistyped or known from another tool."""

from __future__ import annotations

import difflib
from collections.abc import Iterable
from typing import Final

from .limits import LIMIT_NAMES, QEMU_DASHED_NAMES
from .units import quoted

LIMIT_CANDIDATES: Final = (*LIMIT_NAMES, *QEMU_DASHED_NAMES)
"""The names of limits that are worth suggesting."""

# Spelled too differently for a comparison of letters to find them.
_ELSEWHERE: Final = {
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
}


def nearest(name: str, candidates: Iterable[str]) -> str | None:
    """The candidate that *name* was most likely meant to be, or None if none is near."""
    names = list(candidates)
    plain = name.strip().lower()
    if _ELSEWHERE.get(plain) in names:
        return _ELSEWHERE[plain]
    # A mistyped name is short; comparing is quadratic.
    close = difflib.get_close_matches(plain[:64], names, n=1)
    return close[0] if close else None


def unknown(kind: str, name: str, candidates: Iterable[str]) -> str:
    """The message for an unknown *name*: "unknown option 'bsp'; did you mean 'bps'?"."""
    best = nearest(name, candidates)
    return f"unknown {kind} {quoted(name)}" + (f"; did you mean {quoted(best)}?" if best else "")
