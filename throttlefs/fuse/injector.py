"""Where fault rules meet requests: finds the rules for a file, and has them happen.

It is in the way of requests only while there are rules (`Operations.injector`).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Final

from throttlefs.device.faults import Candidates, FaultTable, Firing, Rule
from throttlefs.device.parking import Parking
from throttlefs.settings.fault_words import Effect, Op
from throttlefs.settings.faults import Fault

from .faulty_file import faulty
from .handle import Handle
from .in_thread import RunInThread
from .inode import Inode

# As plain numbers, for operations on the members of an enum take long.
_READ: Final = int(Op.READ)
_WRITE: Final = int(Op.WRITE)
_FLUSH: Final = int(Op.FLUSH)
_DURABLE_WRITE: Final = _WRITE | _FLUSH

Record = Mapping[str, Any]
"""What is told of a firing: rule, count, operation, file (bytes), place and effect."""


class Injector:
    """The fault rules of a mount, on their way to its requests.

    *told* gets a `Record` of each firing, in the order of the requests. *armed* is called with
    whether there is any rule, when that changes.
    """

    def __init__(
        self,
        in_thread: RunInThread,
        told: Callable[[Record], None],
        armed: Callable[[bool], None],
        clock: Callable[[], int],
    ) -> None:
        self._in_thread = in_thread
        self._told = told
        self._armed = armed
        self._clock = clock
        self.table = FaultTable(clock)
        self.parking = Parking(self.table.next_change, self.period_changed, clock)
        self.period_changed_hook: Callable[[], None] = lambda: None

    # -- rules -----------------------------------------------------------------------------

    def add(self, fault: Fault, origin: int | None = None) -> Rule:
        """Add a rule; its period counts from *origin* (ns, monotonic), or from now."""
        rule = self.table.add(fault, origin)
        self._armed(True)
        self.parking.look_again()
        return rule

    def remove(self, number: int) -> Rule:
        """Remove a rule; what hangs in it goes on. Raises `NoSuchRuleError`."""
        rule = self.table.remove(number)
        self._armed(len(self.table) > 0)
        self.parking.release(number)
        return rule

    def period_changed(self) -> None:
        """A period has begun or ended: what hangs in a rule that no longer holds goes on."""
        now = self._clock()
        for rule in self.table.rules():
            if rule.fault.effect is Effect.HANG and not rule.is_on(now):
                self.parking.release(rule.number)
        self.period_changed_hook()

    def names_changed(self) -> None:
        """A file has another path now, so other rules may be for it."""
        self.table.generation += 1

    # -- contents --------------------------------------------------------------------------

    def reading(self, handle: Handle, offset: int, size: int) -> Handle:
        """*handle* for a read: itself, unless a rule fires or an earlier one has damaged it."""
        found = handle.inode.faults
        if found is None or found.generation != self.table.generation:
            found = self.candidates(handle.inode)
        first, end = found.reads
        if offset >= end or offset + size <= first:
            return handle
        table, key = self.table, handle.inode.key
        firing = table.match(found, _READ, offset, size)
        damages = table.damage(found, key, offset, size)
        if firing is not None:
            rule = firing.rule
            self._tell(firing, "read", handle.inode.path, offset, size)
            if rule.fault.effect is Effect.CORRUPT:
                rule.remember(key, offset, size)
                damages = [one for one in damages if one[0] is not rule]
                again = rule.damage(key, offset, size)
                damages.append((rule, again or rule.pieces(offset, size)))
        elif not damages:
            return handle
        return faulty(handle, firing, damages, self.parking, self._in_thread)

    def writing(self, handle: Handle, offset: int, size: int, durable: bool) -> Handle:
        """*handle* for a write: itself, unless a rule fires. *durable*: with O_DSYNC or O_SYNC."""
        found = handle.inode.faults
        if found is None or found.generation != self.table.generation:
            found = self.candidates(handle.inode)
        first, end = found.writes
        if (offset >= end or offset + size <= first) and not durable:
            return handle
        ops = _DURABLE_WRITE if durable else _WRITE
        firing = self.table.match(found, ops, offset, size)
        if firing is None:
            return handle
        self._tell(firing, "write", handle.inode.path, offset, size)
        return faulty(handle, firing, (), self.parking, self._in_thread)

    def flushing(self, handle: Handle) -> Handle:
        """*handle* for an fsync: itself, unless a rule fires."""
        firing = self.table.match(self.candidates(handle.inode), _FLUSH)
        if firing is None:
            return handle
        self._tell(firing, "flush", handle.inode.path)
        return faulty(handle, firing, (), self.parking, self._in_thread)

    def allocating(self, handle: Handle, op: Op, offset: int, length: int) -> Firing | None:
        """The rule that fires for an fallocate (*op*: DISCARD or ALLOCATE)."""
        firing = self.table.match(self.candidates(handle.inode), int(op), offset, length)
        if firing is not None:
            name = "discard" if op is Op.DISCARD else "allocate"
            self._tell(firing, name, handle.inode.path, offset, length)
        return firing

    def may_touch_copy(self, source: Handle, target: Handle) -> bool:
        """Whether a rule may fire for a copy: then it must be made of reads and writes."""
        reads, writes = self.candidates(source.inode), self.candidates(target.inode)
        return bool(reads.ops & _READ or writes.ops & _WRITE)

    def candidates(self, inode: Inode) -> Candidates:
        """The rules that may match requests on *inode*."""
        found = inode.faults
        if found is None or found.generation != self.table.generation:
            found = inode.faults = self.table.candidates(_text(inode.path))
        return found

    # -- names -----------------------------------------------------------------------------

    def named(self, ops: Op, op: str, path: bytes, other: bytes | None) -> Firing | None:
        """The rule that fires for a request on names; *other* is its second path, if any."""
        paths = [path] if other is None else [path, other]
        firing = self.table.match(self.table.candidates(*map(_text, paths)), int(ops))
        if firing is not None:
            self._tell(firing, op, path, other=other)
        return firing

    # -- what has happened -----------------------------------------------------------------

    def _tell(
        self,
        firing: Firing,
        op: str,
        path: bytes,
        offset: int | None = None,
        length: int = 0,
        other: bytes | None = None,
    ) -> None:
        record: dict[str, Any] = {
            "rule": firing.rule.number,
            "count": firing.count,
            "op": op,
            "file": path,
        }
        if other is not None:
            record["to"] = other
        if offset is not None:
            record |= {"offset": offset, "length": length}
        fault = firing.rule.fault
        record |= fault.effect_as_dict()
        if fault.effect is Effect.TORN and offset is not None:
            record["kept"] = firing.torn_length(offset, length)
        self._told(record)


def _text(path: bytes) -> str:
    return path.decode("utf-8", "surrogateescape")
