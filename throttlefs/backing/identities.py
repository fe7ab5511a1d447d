"""Registers the users for whom an engine writes, each of them once."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable

from throttlefs.host.credentials import Credentials

OWN = 0
"""The identity of the daemon itself."""


class Identities:
    """Gives credentials a number, which stays the same as long as somebody uses it.

    *register* makes a number for new credentials, and may raise. *unregister* is called when a
    number is not used any more. Both run in the thread that calls `add`.
    """

    def __init__(
        self, register: Callable[[Credentials], int], unregister: Callable[[int], None]
    ) -> None:
        self._register = register
        self._unregister = unregister
        self._numbers: dict[Credentials, int] = {}
        self._credentials: dict[int, Credentials] = {}
        self._uses: dict[int, int] = {}
        self._dropped: deque[int] = deque()

    def add(self, credentials: Credentials) -> int:
        """A number for *credentials*; call `drop` once for each call."""
        self._forget_dropped()
        number = self._numbers.get(credentials)
        if number is None:
            number = self._numbers[credentials] = self._register(credentials)
            self._credentials[number] = credentials
            self._uses[number] = 0
        self._uses[number] += 1
        return number

    def drop(self, number: int) -> None:
        """Note one use of *number* less. Any thread may call this, because threads close files."""
        self._dropped.append(number)

    def credentials(self, number: int) -> Credentials | None:
        """The credentials that *number* stands for; None for `OWN`."""
        return self._credentials.get(number)

    def _forget_dropped(self) -> None:
        while self._dropped:
            number = self._dropped.popleft()
            self._uses[number] -= 1
            if not self._uses[number]:
                del self._uses[number]
                del self._numbers[self._credentials.pop(number)]
                self._unregister(number)
