"""A request whose handler waits: its coroutine, how to abort the wait, and its reply."""

from __future__ import annotations

from collections.abc import Callable, Coroutine
from typing import Any

from throttlefs import waiting

from .replies import Reply


class Work:
    """A handler that the session loop runs, a `throttlefs.waiting.Waiter`.

    *make_ready* is called with the work when it may go on. ``since`` is the instant (ns since boot)
    at which it began to wait in such a way that it can be withdrawn.
    """

    __slots__ = ("_make_ready", "abort", "coroutine", "reply", "since", "value")

    def __init__(
        self,
        make_ready: Callable[[Work], None],
        coroutine: Coroutine[Any, Any, Any],
        reply: Reply,
    ) -> None:
        self._make_ready = make_ready
        self.coroutine = coroutine
        self.reply = reply
        self.abort: waiting.AbortFunction | None = None  # set while its handler waits
        self.since = 0
        self.value: object = None

    @property
    def owner(self) -> int:
        """The thread that asked, 0 if it is not known."""
        return self.reply.owner

    @property
    def is_withdrawable(self) -> bool:
        """Whether the handler waits in such a way that it can be withdrawn."""
        return self.abort is not None and self.abort is not waiting.when_done

    def resume(self, value: object) -> None:
        """See `waiting.Waiter.resume`."""
        self.abort = None
        self.value = value
        self._make_ready(self)
