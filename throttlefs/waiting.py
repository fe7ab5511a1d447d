"""Waiting inside the handler of a request, whoever runs the handler.

Behind a mount the session loop runs the handlers itself, because a trio task for each would
cost more than the request; in tests, and should the session loop not fit a later pyfuse3, a
handler runs in a trio task. Code that makes a request wait uses `current`, `wait` and `wake`
and need not know which. They mean what trio's ``current_task``, ``wait_task_rescheduled`` and
``reschedule`` mean.
"""

from __future__ import annotations

import types
from collections.abc import Callable, Generator
from typing import Any, Final, Protocol

import outcome
import trio
from trio.lowlevel import Abort, RaiseCancelT

AbortFunction = Callable[[RaiseCancelT], Abort]
"""Called when what waits is to be cancelled: SUCCEEDED if nobody will `wake` it any more."""


class Waiter(Protocol):
    """A handler that is run by a session loop, and may be waiting."""

    abort: AbortFunction | None
    """Set while it waits."""

    def resume(self, value: object) -> None:
        """Let it go on; `wait` returns *value*."""


running: Waiter | None = None
"""The handler that is being run right now, if not by trio; set by the session loop alone."""


PARKED: Final = object()
"""What a handler that waits yields to its session loop."""


@types.coroutine
def _yield_to_loop() -> Generator[object, Any, Any]:
    return (yield PARKED)


def current() -> Waiter | trio.lowlevel.Task:
    """What to hand to `wake` later on."""
    return running or trio.lowlevel.current_task()


async def wait(abort: AbortFunction) -> Any:
    """Wait until somebody calls `wake`; returns the value given there."""
    if running is not None:
        running.abort = abort
        return await _yield_to_loop()
    return await trio.lowlevel.wait_task_rescheduled(abort)


def wake(waiter: Waiter | trio.lowlevel.Task, value: object = None) -> None:
    """Let what waits go on; only once for each `wait`, and in the thread of its loop."""
    if isinstance(waiter, trio.lowlevel.Task):
        trio.lowlevel.reschedule(waiter, outcome.Value(value))
    else:
        waiter.resume(value)
