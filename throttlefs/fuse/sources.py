"""What the session loop asks of the limiter, the I/O engine and the pools of threads."""

from __future__ import annotations

from typing import Protocol, runtime_checkable


class Source(Protocol):
    """Something that lets waiting handlers go on."""

    def fileno(self) -> int:
        """A descriptor that becomes readable when `poll` has something to do."""

    def poll(self) -> None:
        """Wake the handlers that can go on; costs next to nothing if there are none."""


@runtime_checkable
class QueueingSource(Source, Protocol):
    """A source that may have something to do before the loop sleeps."""

    def before_sleep(self) -> None:
        """Called when the loop has nothing left to do."""


class Plan(Protocol):
    """When the limiter would like the loop to wake up."""

    due: int
    """The instant (ns, monotonic) before which the limiter's `poll` has nothing to do."""
    at: int
    """The instant at which its descriptor becomes readable."""
    is_hushed: bool
    """Whether no request that comes before that could go."""
    listen_at: int
    """The instant from which on a loop that was hushed reads requests again."""
    arrivals: int
    """How many requests have begun to wait so far."""


class Limiter(QueueingSource, Protocol):
    """The limiter: a source that knows when it has something to do."""

    def pace(self, lead_ns: int, wake_ns: int) -> None:
        """Let its descriptor become readable *lead_ns* early; to wake up takes *wake_ns*."""

    def plan(self, now: int, taken: int) -> Plan:
        """Plan when to wake up a loop that has *taken* so many requests.

        `before_sleep` sets the alarm for that.
        """

    def listens_again(self, now: int) -> None:
        """The loop did not listen until *now*, as it was planned."""

    def slept(self, wake_ns: int) -> None:
        """What is read now has waited for *wake_ns*, because the loop had to wake up."""
