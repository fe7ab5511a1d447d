"""How handlers have calls made that may block."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any, Protocol


class RunInThread(Protocol):
    """Runs a function that may block and returns what it returns."""

    def __call__(
        self, fn: Callable[..., Any], /, *args: Any, owner: int | None = None
    ) -> Awaitable[Any]:
        """Await the result of ``fn(*args)``; its exceptions pass through.

        *owner* is the user who asks, who cannot take all threads; None for the daemon itself.
        """
