"""Daemons that share one limit: what they let through together, how soon, and what it costs."""

from __future__ import annotations

from collections.abc import Sequence

from benchmarks.cluster.failures import Failures
from benchmarks.cluster.path import Path
from benchmarks.cluster.server import Server
from benchmarks.cluster.shares import Shares
from benchmarks.cluster.shifts import Shifts
from benchmarks.cluster.windows import Windows
from benchmarks.results import Section


def sections(peers: Sequence[str], seconds: float, rounds: int = 1) -> list[Section]:
    """Return all sections in the order in which they are run.

    With runs of less than 2 s it is the short form: fewer cases, and fewer turns of each.
    """
    kinds = (Windows, Shifts, Shares, Failures, Path, Server)
    return [kind(peers, seconds, rounds) for kind in kinds]
