"""Keeps writes through the page cache apart from all other writes of their inode.

Unaligned writes and appends go through the page cache, between writes with O_DIRECT. The kernel
promises nothing if both touch the same page at once (open(2), NOTES). XFS and ext4 too keep an
unaligned O_DIRECT write apart from others.
"""

from __future__ import annotations

from collections import deque
from weakref import WeakValueDictionary

from trio.lowlevel import Abort, RaiseCancelT, Task

from throttlefs import waiting


class WriteGate:
    """Lets in any number of writes, or one that must be alone, in order of arrival.

    A write that has entered, by `enter` or `try_enter`, must call `leave` with the same argument,
    even if it failed.
    """

    __slots__ = ("__weakref__", "_inside", "_someone_alone", "_waiting")

    def __init__(self) -> None:
        self._inside = 0
        self._someone_alone = False
        self._waiting: deque[tuple[Task | waiting.Waiter, bool]] = deque()

    def try_enter(self, *, alone: bool) -> bool:
        """Enter if the write may begin at once; otherwise await `enter`."""
        if self._waiting or not self._may_enter(alone):
            return False
        self._admit(alone)
        return True

    async def enter(self, *, alone: bool) -> None:
        """Wait until the write may begin. There is no checkpoint if it may begin at once."""
        if self.try_enter(alone=alone):
            return
        waiter = (waiting.current(), alone)
        self._waiting.append(waiter)

        def give_up(_: RaiseCancelT) -> Abort:
            self._waiting.remove(waiter)
            self._open()  # writes behind it may have waited for it only
            return Abort.SUCCEEDED

        await waiting.wait(give_up)

    def leave(self, *, alone: bool) -> None:
        """Note that the write is over."""
        self._inside -= 1
        if alone:
            self._someone_alone = False
        if self._waiting:
            self._open()

    def _may_enter(self, alone: bool) -> bool:
        return not self._someone_alone and not (alone and self._inside)

    def _admit(self, alone: bool) -> None:
        self._inside += 1
        self._someone_alone = alone

    def _open(self) -> None:
        queue = self._waiting
        while queue and self._may_enter(queue[0][1]):
            waiter, alone = queue.popleft()
            self._admit(alone)
            waiting.wake(waiter)


_gates: WeakValueDictionary[tuple[int, int], WriteGate] = WeakValueDictionary()


def gate_of(device: int, inode: int) -> WriteGate:
    """The gate of an inode, one for all its open files; kept as long as somebody holds it."""
    gate = _gates.get((device, inode))
    if gate is None:
        gate = _gates[device, inode] = WriteGate()
    return gate
