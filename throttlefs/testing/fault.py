"""Fault rules of a disk in the hands of a program."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from types import TracebackType
from typing import Any

from throttlefs.errors import ThrottlefsError

Ask = Callable[..., Any]
"""`Disk.qmp`."""


@dataclass(frozen=True, slots=True)
class FaultCounts:
    """What a fault rule has done so far."""

    matched: int
    """Requests that it matched."""
    fired: int
    """Requests to which it did something."""
    waiting: int
    """Requests that hang in it now, or are delayed."""


class Fault:
    """A fault rule; made by `Disk.fault`. It holds at once, until `remove` or its block's end."""

    def __init__(self, ask: Ask, number: int) -> None:
        self.number = number
        """Its number, as ``throttlefs fault list`` has it."""
        self._ask = ask
        self._last: FaultCounts | None = None

    def __enter__(self) -> Fault:
        return self

    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        try:
            self.remove()
        except ThrottlefsError:
            pass  # somebody has removed it, or the disk is gone

    def __repr__(self) -> str:
        return f"<throttlefs fault {self.number}>"

    @property
    def counts(self) -> FaultCounts:
        """What it has done so far, or until it was removed. Raises `ThrottlefsError`."""
        return self._last or self._count()

    @property
    def matched(self) -> int:
        """`counts.matched`."""
        return self.counts.matched

    @property
    def fired(self) -> int:
        """`counts.fired`."""
        return self.counts.fired

    @property
    def waiting(self) -> int:
        """`counts.waiting`."""
        return self.counts.waiting

    def remove(self) -> None:
        """Remove it; what hangs in it goes on. Once removed it stays so.

        Raises `ThrottlefsError` if it is gone already.
        """
        if self._last is None:
            self._last = self._count()
            self._ask("x-throttlefs-fault-remove", rule=self.number)

    def _count(self) -> FaultCounts:
        for rule in self._ask("x-throttlefs-fault-list"):
            if rule["rule"] == self.number:
                return FaultCounts(rule["matched"], rule["fired"], rule["waiting"])
        raise ThrottlefsError(f"there is no fault rule {self.number}: somebody has removed it")


class AsyncFault:
    """A fault rule in trio; made by `AsyncDisk.fault`. It holds while its block runs."""

    def __init__(self, make: Callable[[], Fault]) -> None:
        self._make = make
        self._fault: Fault | None = None

    async def __aenter__(self) -> AsyncFault:
        import trio

        # Not to be abandoned: the rule would stay.
        self._fault = await trio.to_thread.run_sync(self._make)
        return self

    async def __aexit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        import trio

        with trio.CancelScope(shield=True):
            await trio.to_thread.run_sync(self._made.__exit__, exc_type, exc, traceback)

    @property
    def _made(self) -> Fault:
        if self._fault is None:
            raise ThrottlefsError("the rule begins with: async with disk.fault(...) as fault")
        return self._fault

    @property
    def number(self) -> int:
        """`Fault.number`."""
        return self._made.number

    async def counts(self) -> FaultCounts:
        """`Fault.counts`."""
        import trio

        return await trio.to_thread.run_sync(lambda: self._made.counts, abandon_on_cancel=True)
