"""What a daemon knows of the server's clock.

Each answer says what the server's clock was at some instant between sending the call and reading
the answer. So the difference of the two clocks lies between two bounds. As long as the bounds of
all answers have something in common, neither clock has jumped, and the daemon can vouch for the
time that passed: the store lets no lease end by its own clock alone.

Own instants are ns of CLOCK_BOOTTIME, those of the server µs.
"""

from __future__ import annotations

from typing import Final

from .messages import ClockView

_DRIFT: Final = 1 / 2000
"""How much two clocks may run apart: 500 ppm is the most that NTP corrects (adjtimex(2))."""

_SURE_ENOUGH_US: Final = 150_000
"""A difference that is known no better than this says nothing."""


class ServerClock:
    """The bounds of the difference between the server's clock and our own."""

    def __init__(self) -> None:
        self._low = 0.0
        self._high = 0.0
        self._at = 0
        self._since: int | None = None

    def note(self, server_us: int, sent_ns: int, read_ns: int) -> None:
        """Note an answer that was read at *read_ns*, to a call sent at *sent_ns*."""
        low, high = server_us - read_ns / 1000, server_us - sent_ns / 1000
        known_low, known_high = self._bounds(read_ns)
        if self._since is None or low > known_high or high < known_low:
            self._since = server_us  # the first answer, or one of the clocks has jumped
        else:
            low, high = max(low, known_low), min(high, known_high)
        self._low, self._high, self._at = low, high, read_ns

    def view(self, now_ns: int) -> ClockView | None:
        """What the server's clock says at *now_ns*; None if that is not known well enough."""
        if self._since is None:
            return None
        low, high = self._bounds(now_ns)
        if high - low > _SURE_ENOUGH_US:
            self._since = None
            return None
        own = now_ns / 1000
        return ClockView(int(own + low), int(own + high), self._since)

    def _bounds(self, now_ns: int) -> tuple[float, float]:
        drift = (now_ns - self._at) / 1000 * _DRIFT
        return self._low - drift, self._high + drift
