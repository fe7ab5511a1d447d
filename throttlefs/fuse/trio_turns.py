"""Whether trio's other tasks have anything to do, so that the session loop need not ask trio.

A turn takes trio some 10 to 30 us, and most turns find nothing to do.
"""

from __future__ import annotations

import select
from collections.abc import Callable
from typing import Self

import trio


class TrioTurns(trio.abc.Instrument):
    """Watches trio; use it as a context manager around the session loop."""

    def __init__(self) -> None:
        # Statistics leave out the tasks that are to run in the present round after this one.
        self._runnable: set[trio.lowlevel.Task] = set()
        self._poll: Callable[[int], list[tuple[int, int]]] | None = None

    def __enter__(self) -> Self:
        trio.lowlevel.add_instrument(self)
        self._poll = _poller()
        return self

    def __exit__(self, *_: object) -> None:
        trio.lowlevel.remove_instrument(self)

    def task_scheduled(self, task: trio.lowlevel.Task) -> None:
        """trio calls this when a task may go on."""
        self._runnable.add(task)

    def before_task_step(self, task: trio.lowlevel.Task) -> None:
        """trio calls this when a task goes on."""
        self._runnable.discard(task)

    def is_needed(self) -> bool:
        """Whether a task of trio may run, or will when trio looks at its descriptors and timers."""
        return (
            bool(self._runnable)
            or self._poll is None
            or bool(self._poll(0))
            or trio.lowlevel.current_statistics().seconds_to_next_deadline <= 0
        )


def _poller() -> Callable[[int], list[tuple[int, int]]] | None:
    """Looks whether a descriptor that a task waits for has become readable; None: unknown.

    trio has no name for that. Its epoll set is asked by poll(2), which takes no event off it.
    """
    try:
        from trio._core._run import GLOBAL_RUN_CONTEXT

        descriptor = GLOBAL_RUN_CONTEXT.runner.io_manager._epoll.fileno()
    except (ImportError, AttributeError):
        return None
    poller = select.poll()
    poller.register(descriptor, select.POLLIN)
    return poller.poll
