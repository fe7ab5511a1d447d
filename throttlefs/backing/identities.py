"""The users for whom an engine writes, each registered once."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable

from throttlefs.host.credentials import Credentials

OWN = 0
"""The identity of the daemon itself."""


class Identities:
    """Gives credentials a number, the same as long as somebody uses it.

    *register* makes a number for new credentials, and may raise; *unregister* is told when a number
    is used no more. Both run in the thread that calls `add`.
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
        """A number for *credentials*, to be dropped once for each time."""
        self._forget_dropped()
        number = self._numbers.get(credentials)
        if number is None:
            number = self._numbers[credentials] = self._register(credentials)
            self._credentials[number] = credentials
            self._uses[number] = 0
        self._uses[number] += 1
        return number

    def drop(self, number: int) -> None:
        """*number* is used once less; from any thread, for files are closed in threads."""
        self._dropped.append(number)

    def credentials(self, number: int) -> Credentials | None:
        """Whose *number* it is; None: `OWN`."""
        return self._credentials.get(number)

    def _forget_dropped(self) -> None:
        while self._dropped:
            number = self._dropped.popleft()
            self._uses[number] -= 1
            if not self._uses[number]:
                del self._uses[number]
                del self._numbers[self._credentials.pop(number)]
                self._unregister(number)
