"""Says what programs may do on a mount because its kernel allows it (docs/control.md)."""

from __future__ import annotations

from throttlefs.fuse.handshake import Agreement


def features_of(agreement: Agreement, auto_cache: bool) -> dict[str, bool]:
    """Each feature, and whether a mount with this *agreement* has it.

    With *auto_cache* files are opened through the page cache: then all can be mapped, and the
    kernel makes the writes of a file wait for each other.
    """
    return {
        "shared-mmap": auto_cache or agreement.shared_mmap,
        "birth-times": agreement.birth_times,
        "parallel-writes": not auto_cache and agreement.parallel_writes,
    }


def listed(features: dict[str, bool]) -> str:
    """The line of the log about *features*: "shared-mmap, no parallel-writes"."""
    return ", ".join(name if has else f"no {name}" for name, has in features.items())
