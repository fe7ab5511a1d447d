"""A request whose handler waits: its coroutine, how to abort the wait, and its reply."""

from __future__ import annotations

from collections.abc import Callable, Coroutine
from typing import Any

from throttlefs import waiting

from .channel import Reply


class Work:
    """A handler that the session loop runs, a `throttlefs.waiting.Waiter`.

    *make_ready* is called with the work when it may go on.
    """

    __slots__ = ("_make_ready", "abort", "coroutine", "reply", "value")

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
        self.value: object = None

    def resume(self, value: object) -> None:
        """See `waiting.Waiter.resume`."""
        self.abort = None
        self.value = value
        self._make_ready(self)
