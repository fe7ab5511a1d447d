"""How the handler of a request waits, whether the session loop or trio runs it.

Behind a mount the session loop runs the handlers, because a trio task for each request would cost
more than the request. In tests, and with ``-o server=pyfuse3``, a handler runs in a trio task. Code
that makes a request wait uses `current`, `wait` and `wake`, and need not know who runs it. They do
what trio's ``current_task``, ``wait_task_rescheduled`` and ``reschedule`` do.
"""

from __future__ import annotations

import errno
import types
from collections.abc import Callable, Generator
from typing import Any, Final, Protocol

import outcome
import trio
from trio.lowlevel import Abort, RaiseCancelT

AbortFunction = Callable[[RaiseCancelT], Abort]
"""Called to cancel a handler that waits: SUCCEEDED if nobody will `wake` it any more."""


class Withdrawn(BaseException):
    """Raised where a handler waits when nobody wants its result any more.

    It is no `Exception`, because it is no error of the request. A handler may clean up, and must
    let it pass. The request gets *number* as its errno.
    """

    def __init__(self, number: int = errno.EINTR) -> None:
        self.errno = number


def when_done(_: RaiseCancelT) -> Abort:
    """The `AbortFunction` of a wait that nothing cuts short: memory or a file is in use."""
    return Abort.FAILED


class Waiter(Protocol):
    """A handler that is run by a session loop, and may be waiting."""

    abort: AbortFunction | None
    """Set while the handler waits."""

    def resume(self, value: object) -> None:
        """Let the handler go on; its `wait` returns *value*."""


running: Waiter | None = None
"""The handler that the session loop is running now; None if trio runs it. Only the loop sets it."""


PARKED: Final = object()
"""What a handler that waits yields to its session loop."""


@types.coroutine
def _yield_to_loop() -> Generator[object, Any, Any]:
    return (yield PARKED)


def current() -> Waiter | trio.lowlevel.Task:
    """The running handler or task, to be handed to `wake` later on."""
    return running or trio.lowlevel.current_task()


async def wait(abort: AbortFunction) -> Any:
    """Wait until somebody calls `wake`; returns the value given there."""
    if running is not None:
        running.abort = abort
        return await _yield_to_loop()
    return await trio.lowlevel.wait_task_rescheduled(abort)


def wake(waiter: Waiter | trio.lowlevel.Task, value: object = None) -> None:
    """Let *waiter* go on; only once for each `wait`, and in the thread of its loop."""
    if isinstance(waiter, trio.lowlevel.Task):
        trio.lowlevel.reschedule(waiter, outcome.Value(value))
    else:
        waiter.resume(value)
