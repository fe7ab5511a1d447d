"""What the session loop runs: a coroutine, and what it waits for."""

from __future__ import annotations

from collections.abc import Callable, Coroutine
from typing import Any

from throttlefs import waiting

from .channel import Reply


class Session:
    """One of pyfuse3's session coroutines, a `throttlefs.waiting.Waiter`.

    *make_ready* is called with it when it may go on.
    """

    __slots__ = ("_make_ready", "abort", "coroutine", "value")

    def __init__(
        self, make_ready: Callable[[Session], None], coroutine: Coroutine[Any, Any, Any]
    ) -> None:
        self._make_ready = make_ready
        self.coroutine = coroutine
        self.abort: waiting.AbortFunction | None = None  # set while its handler waits
        self.value: object = None

    def resume(self, value: object) -> None:
        """See `waiting.Waiter.resume`."""
        self.abort = None
        self.value = value
        self._make_ready(self)


class Transfer(Session):
    """A read or write that waits."""

    __slots__ = ("reply",)

    def __init__(
        self,
        make_ready: Callable[[Session], None],
        coroutine: Coroutine[Any, Any, Any],
        reply: Reply,
    ) -> None:
        super().__init__(make_ready, coroutine)
        self.reply = reply
