"""Where the requests come to that the limiter has to think about, and how late they are read.

An image that is far from its limits is not counted here: its requests are not charged one by one.
"""

from __future__ import annotations

from typing import Final

from .leaf import Leaf
from .meter import READ, WRITE
from .node import CATCH_UP, NEVER, SLACK, Node

QUIET_NS: Final = 100_000_000
"""For so long all requests must have come to one image or group, before the loop is hushed."""


class Traffic:
    """Which root the requests come to that the limiter has to think about, and how many came."""

    __slots__ = (
        "_late",
        "_late_root",
        "_late_until",
        "hushed_ns",
        "requests",
        "root",
        "since",
        "unread_ns",
    )

    def __init__(self) -> None:
        self.requests = 0
        self.root: Node | None = None
        self.since = 0
        """The instant (ns) from which on all of them came to ``root``."""
        # How late (ns) this program let something of a root go, and until when that matters.
        self._late = 0
        self._late_root: Node | None = None
        self._late_until = 0
        self.unread_ns = 0
        """How long (ns) what is read now has been waiting, because the loop slept or was hushed."""
        self.hushed_ns = 0
        """How long (ns) it has been waiting for its limit, because the loop was hushed."""

    def note(self, root: Node, now: int) -> int:
        """Note a request for something in *root*; how late (ns) it is because this program was."""
        self.requests += 1
        if root is not self.root:
            self.root = root
            self.since = now
        if not self._late:
            return 0
        if now > self._late_until:
            self._late = 0
        return self._late if root is self._late_root else 0

    def was_late(self, root: Node, late_ns: int, now: int) -> None:
        """Note that this program let something of *root* go *late_ns* after it was due, at *now*.

        Then its owners are as much behind, and may catch up in as much time.
        """
        if late_ns > SLACK:
            self._late = min(late_ns, CATCH_UP)
            self._late_root = root
            self._late_until = now + self._late

    def none_before(self, now: int) -> int:
        """The instant (ns) before which nothing may go that comes to ``root``.

        0 if that is not later than *now*, or if not long ago something came to another root. Also
        for a group: which of its members is next depends on what all of them have asked.
        """
        root = self.root
        if now - self.since < QUIET_NS or not isinstance(root, Leaf):
            return 0
        reads, writes = root.buckets
        due = root.own_due_at(READ, now)
        if reads != writes and due > now:
            due = min(due, root.own_due_at(WRITE, now))
        return due if now < due < NEVER else 0
