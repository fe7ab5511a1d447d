"""Keeps unaligned writes of an inode apart from all its other writes.

An unaligned write passes through the page cache in the middle of O_DIRECT ones. The kernel
promises nothing when both touch the same page at once (open(2), NOTES). XFS and ext4 do not let
an unaligned O_DIRECT write run beside others either.
"""

from __future__ import annotations

from collections import deque
from weakref import WeakValueDictionary

from trio.lowlevel import Abort, RaiseCancelT, Task

from throttlefs import waiting


class WriteGate:
    """Lets in any number of aligned writes, or one unaligned write; in order of arrival.

    A write that has come in, by `enter` or `try_enter`, leaves by `leave` with the same argument,
    also when it failed.
    """

    __slots__ = ("__weakref__", "_inside", "_unaligned_inside", "_waiting")

    def __init__(self) -> None:
        self._inside = 0
        self._unaligned_inside = False
        self._waiting: deque[tuple[Task | waiting.Waiter, bool]] = deque()

    def try_enter(self, *, unaligned: bool) -> bool:
        """Enter if the write may begin at once; otherwise `enter` has to be awaited."""
        if self._waiting or not self._may_enter(unaligned):
            return False
        self._admit(unaligned)
        return True

    async def enter(self, *, unaligned: bool) -> None:
        """Wait until the write may begin. No checkpoint if it may at once."""
        if self.try_enter(unaligned=unaligned):
            return
        waiter = (waiting.current(), unaligned)
        self._waiting.append(waiter)

        def give_up(_: RaiseCancelT) -> Abort:
            self._waiting.remove(waiter)
            self._open()  # those behind it may have waited for it alone
            return Abort.SUCCEEDED

        await waiting.wait(give_up)

    def leave(self, *, unaligned: bool) -> None:
        """The write is over."""
        self._inside -= 1
        if unaligned:
            self._unaligned_inside = False
        if self._waiting:
            self._open()

    def _may_enter(self, unaligned: bool) -> bool:
        return not self._unaligned_inside and not (unaligned and self._inside)

    def _admit(self, unaligned: bool) -> None:
        self._inside += 1
        self._unaligned_inside = unaligned

    def _open(self) -> None:
        queue = self._waiting
        while queue and self._may_enter(queue[0][1]):
            waiter, unaligned = queue.popleft()
            self._admit(unaligned)
            waiting.wake(waiter)


_gates: WeakValueDictionary[tuple[int, int], WriteGate] = WeakValueDictionary()


def gate_of(device: int, inode: int) -> WriteGate:
    """The gate of an inode, one for all its open files; kept as long as somebody holds it."""
    gate = _gates.get((device, inode))
    if gate is None:
        gate = _gates[device, inode] = WriteGate()
    return gate
