"""How pyfuse3 is made to run in our loop.

pyfuse3 looks ``trio`` up in its module's namespace (its ``pyfuse3.asyncio`` relies on the same),
so a small namespace of ours can take its place: a nursery that hands the session coroutines to
our loop, a lock that is no lock, and a wait for readability that is the loop's.
"""

from __future__ import annotations

from collections.abc import Callable, Coroutine
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import pyfuse3
import trio

if TYPE_CHECKING:
    from .loop import SessionLoop


class SessionEndedError(Exception):
    """Stands for trio.ClosedResourceError in pyfuse3: ends one idle session."""


def seam_is_there() -> bool:
    """Whether this pyfuse3 still looks ``trio`` up in its namespace, as this needs."""
    return getattr(pyfuse3, "trio", None) is trio


def namespace(loop: SessionLoop) -> SimpleNamespace:
    """What pyfuse3 is to see as the module ``trio``."""
    task = SimpleNamespace(name="session")
    return SimpleNamespace(
        Lock=_NoLock,
        ClosedResourceError=SessionEndedError,
        open_nursery=lambda: _Nursery(loop),
        lowlevel=SimpleNamespace(
            wait_readable=loop.wait_readable,
            notify_closing=loop.notify_closing,
            current_task=lambda: task,
            current_trio_token=trio.lowlevel.current_trio_token,
        ),
    )


class _NoLock:
    """pyfuse3's read lock: sessions run one at a time and need none."""

    async def __aenter__(self) -> None:
        pass

    async def __aexit__(self, *_exc_info: object) -> None:
        pass


class _Nursery:
    """pyfuse3's nursery, whose tasks are the loop's sessions."""

    def __init__(self, loop: SessionLoop) -> None:
        self._loop = loop

    async def __aenter__(self) -> _Nursery:
        return self

    async def __aexit__(self, exc_type: type[BaseException] | None, *_exc_info: object) -> None:
        if exc_type is None:
            await self._loop.serve()

    def start_soon(
        self, function: Callable[..., Coroutine[Any, Any, None]], *args: Any, name: str
    ) -> None:
        self._loop.start(function, *args)
