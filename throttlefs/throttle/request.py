"""A request that waits in the limiter."""

from __future__ import annotations

from typing import Any


class Request:
    """A read or write of ``nbytes`` that waits.

    The caller finds by ``owner`` who asked. ``arrived`` is the instant (ns) at which it began to
    wait, ``number`` its place in the order of arrival.
    """

    __slots__ = ("arrived", "direction", "leaf", "nbytes", "number", "owner")

    def __init__(self, direction: int, nbytes: int, owner: Any = None) -> None:
        self.direction = direction
        self.nbytes = nbytes
        self.owner = owner
        self.arrived = 0
        self.number = 0
        self.leaf: Any = None  # the `Leaf` in which it waits

    @property
    def waits(self) -> bool:
        """Whether the request is still in a queue: neither released nor withdrawn."""
        return self.leaf is not None
