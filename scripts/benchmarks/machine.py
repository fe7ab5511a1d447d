"""What a run was measured on: figures mean little without it."""

from __future__ import annotations

import os
import platform
from pathlib import Path


def describe() -> dict[str, str | int | float]:
    """Return the machine in a few fields for the report and the JSON file."""
    return {
        "kernel": platform.release(),
        "cpu": _field("/proc/cpuinfo", "model name") or platform.machine(),
        "cpus": len(os.sched_getaffinity(0)),
        "memory_bytes": _kibibytes("MemTotal"),
        "python": platform.python_version(),
        "load_average": round(os.getloadavg()[0], 2),
    }


def available_memory() -> int:
    """Return the bytes of memory that can be had without swapping."""
    return _kibibytes("MemAvailable")


def _kibibytes(name: str) -> int:
    return int((_field("/proc/meminfo", name) or "0").split()[0]) * 1024


def _field(path: str, name: str) -> str | None:
    for line in Path(path).read_text().splitlines():
        key, _, value = line.partition(":")
        if key.strip() == name:
            return value.strip()
    return None
