"""The options of ``-o volatile``, the power cut: their values, and what does not go together."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any, Final

SECTORS: Final[tuple[str, ...]] = ("4096", "512")
"""Bytes that a disk writes as a whole."""
ORDERS_OF_NAMES: Final[tuple[str, ...]] = ("ordered", "posix")
FSYNC_FAILURES: Final[tuple[str, ...]] = ("dirty", "clean")
VOLATILE_DIR: Final = "/var/tmp"
"""The default of ``volatile_dir``."""

NEEDING_VOLATILE: Final[tuple[str, ...]] = (
    *("volatile_dir", "sector", "names", "auto_da_alloc", "fsync_failure"),
)
"""The options that mean nothing without ``volatile``."""


def why_not_volatile(fields: Mapping[str, Any], flags: Collection[str]) -> tuple[str, str] | None:
    """The option that cannot be, and why: of *fields* and *flags* that were given.

    Each option is given by its name. None if all can be.
    """
    if not fields.get("volatile"):
        for name in NEEDING_VOLATILE:
            if name in fields:
                return name, f"{name} needs volatile: add it to -o, or leave {name} out"
        return None
    if "ro" in flags:
        return "volatile", "volatile with ro: nothing is written that could be lost; leave one out"
    if fields.get("server") == "pyfuse3":
        return "server", "server=pyfuse3 has no power cut: leave it out, or leave volatile out"
    if fields.get("cache") == "unsafe":
        return "cache", "cache=unsafe with volatile: fsync does nothing there; use another mode"
    return None
