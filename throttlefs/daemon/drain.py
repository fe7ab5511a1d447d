"""Acts on the daemon's signals, and ends its mount: opens the gates, drains and unmounts.

This module does not touch the mount itself, because the daemon would wait for its own answer.
mountinfo says where it is mounted, and fusectl whether it still exists.
"""

from __future__ import annotations

import logging
import signal
from collections.abc import Awaitable, Callable
from typing import Protocol

import trio

from throttlefs.errors import ThrottlefsError
from throttlefs.host import fusectl
from throttlefs.host.busy import describe_elsewhere, describe_users
from throttlefs.host.mountinfo import MountEntry, read_mounts
from throttlefs.host.notify import notify
from throttlefs.host.unmounting import GRACE_S, BusyError, unmount

log = logging.getLogger("throttlefs")

HANDLED_SIGNALS = (
    signal.SIGTERM,
    signal.SIGINT,
    signal.SIGHUP,
    signal.SIGUSR1,
    signal.SIGUSR2,
)
"""The signals that a daemon acts on. They must be blocked until `Drain.handle_signals` runs."""

_RETRY_S = 0.05
_LOOK_EVERY_S = 1.0
_SECOND_SIGNAL = "a second signal ends it at once"
_SERVED_ON = f"served under its limits until that is closed ({_SECOND_SIGNAL})"
_GATES_OPEN_AT_MOST_S = GRACE_S + 5.0
OWNER_GRACE_S = 1.0
"""How long what is still open is served when the mount's owner has ended, in seconds."""


class Gates(Protocol):
    """Holds requests back until they are due."""

    def open_gates(self) -> None:
        """Let everything through at once."""

    def close_gates(self) -> None:
        """Hold everything to its limits again."""


class Drain:
    """Acts on the daemon's signals, and ends its mount at *target*.

    *reload* reads the limits again; it raises `ThrottlefsError` if it cannot, and has changed
    nothing then. *quit_asked* says whether a client of the control socket has ended the mount.
    """

    def __init__(
        self,
        target: str,
        gates: Gates,
        reload: Callable[[], Awaitable[None]],
        quit_asked: Callable[[], bool],
    ) -> None:
        self._target = target
        self._gates = gates
        self._reload_limits = reload
        self._quit_asked = quit_asked
        self._entry: MountEntry | None = None
        self._connection: fusectl.Connection | None = None
        self._stop: Callable[[], None] = lambda: None
        self._gates_scope: trio.CancelScope | None = None
        self._letting_go = False  # whether a drain keeps the gates open
        self._ended_by_kernel = False
        self.draining = False
        """Whether a signal has asked for the end."""
        self.status = 0
        """The exit status of the daemon."""

    def watch(self, entry: MountEntry | None, stop: Callable[[], None]) -> None:
        """Set the mount to *entry*, which must have just been mounted.

        *stop* ends serving at once, if the kernel cannot be told to do it.
        """
        self._stop = stop
        self._entry = entry
        if entry is not None:
            self._connection = fusectl.open_connection(entry)

    # -- signals ---------------------------------------------------------------------------

    async def handle_signals(
        self, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED
    ) -> None:
        """Unblock `HANDLED_SIGNALS` and act on them until cancelled."""
        with trio.open_signal_receiver(*HANDLED_SIGNALS) as signals:
            signal.pthread_sigmask(signal.SIG_UNBLOCK, HANDLED_SIGNALS)
            task_status.started()
            async with trio.open_nursery() as nursery:
                async for number in signals:
                    if number == signal.SIGHUP:
                        nursery.start_soon(self._reload)
                    elif number == signal.SIGUSR1:
                        nursery.start_soon(self._open_gates_for_a_while)
                    elif number == signal.SIGUSR2:
                        self._close_gates()
                    elif self.draining:
                        self._end_at_once("second signal")
                    else:
                        self.draining = True
                        nursery.start_soon(self._drain, signal.Signals(number))

    async def _reload(self) -> None:
        try:
            await self._reload_limits()
        except ThrottlefsError as exc:
            log.error("not reloaded, the limits stay as they are: %s", exc)

    async def _open_gates_for_a_while(self) -> None:
        """Open the gates for ``throttlefs umount``; if that dies, the limits still come back."""
        self._gates.open_gates()
        with trio.CancelScope() as scope:
            self._gates_scope = scope
            await trio.sleep(_GATES_OPEN_AT_MOST_S)
        self._close_gates()

    def _close_gates(self) -> None:
        if self._gates_scope is not None:
            self._gates_scope.cancel()
            self._gates_scope = None
        if not self._letting_go:
            self._gates.close_gates()

    async def end_with(self, owner: int, pidfd: int) -> None:
        """Wait until the process *owner*, held by *pidfd*, has ended, and end its mount.

        Nobody is left to say when it may end, so what is still open after a second fails.
        """
        await trio.lowlevel.wait_readable(pidfd)
        self.draining = True
        log.info("process %d has ended: unmounting %s", owner, self._target)
        self._letting_go = True
        self._gates.open_gates()
        try:
            await self._unmount(OWNER_GRACE_S, "ended, for nobody is left to wait for")
            await trio.sleep(OWNER_GRACE_S)  # this task ends here, unless somebody holds the mount
        except ThrottlefsError as exc:
            log.error("%s", exc)
        self._end_at_once("its owner has ended")

    def _end_at_once(self, why: str) -> None:
        log.warning("%s: ending at once; requests under way fail", why)
        self.status = 1
        if self._connection is not None:
            self._connection.abort()
        else:
            self._stop()

    # -- draining --------------------------------------------------------------------------

    async def _drain(self, number: signal.Signals) -> None:
        """Let all requests go and unmount; it is cancelled when the session has ended.

        If the mount cannot be unmounted, or somebody holds it for an unknown time, it is served on,
        under its limits, until it is closed. No program loses its files, and none gets more than
        its limits in the long run.
        """
        reason = "quit" if self._quit_asked() else number.name
        log.info("%s: opening the gates and unmounting %s", reason, self._target)
        notify("STOPPING=1")
        self._letting_go = True
        self._gates.open_gates()
        try:
            if not await self._unmount():
                await self._name_who_holds_it()
        except ThrottlefsError as exc:
            log.error("%s; served on under its limits (%s)", exc, _SECOND_SIGNAL)
        self._letting_go = False
        self._close_gates()

    async def _unmount(self, grace_s: float = GRACE_S, then: str = _SERVED_ON) -> bool:
        """Unmount wherever we may; returns whether it took a lazy unmount, because it is in use.

        What is in use after *grace_s* seconds is detached; *then* says what becomes of it.

        Raises `ThrottlefsError` if that fails.
        """
        deadline = trio.current_time() + grace_s
        busy = False
        late = False
        while places := self._places():
            late = trio.current_time() >= deadline
            try:
                if late and busy:
                    users = await trio.to_thread.run_sync(describe_users, places[0])
                    log.warning(
                        "%s stays in use by %s: detached, and %s", self._target, users, then
                    )
                for place in places:
                    await trio.to_thread.run_sync(unmount, place, late)
            except ThrottlefsError as exc:
                if late:
                    raise
                busy = isinstance(exc, BusyError)
                await trio.sleep(_RETRY_S)
        return late

    def _places(self) -> list[MountEntry]:
        """Its mounts in our mount namespace, with bind mounts, the latest first."""
        if self._entry is None:
            return []
        found = [entry for entry in read_mounts() if entry.shows_same_as(self._entry)]
        # Ask this last: another mount may get the number of one that is gone.
        if self._connection is not None and self._connection.is_gone():
            return []
        return found[::-1]

    async def _name_who_holds_it(self) -> None:
        """It is unmounted here, so it ends soon, unless another mount namespace holds it."""
        assert self._entry is not None
        deadline = trio.current_time() + GRACE_S
        elsewhere = None
        while elsewhere is None and trio.current_time() < deadline:
            await trio.sleep(_LOOK_EVERY_S)
            elsewhere = await trio.to_thread.run_sync(describe_elsewhere, self._entry)
        log.warning(
            "%s is unmounted, but the same mount is still served under its limits %s (%s)",
            self._target,
            elsewhere or "to somebody, perhaps in another mount namespace",
            _SECOND_SIGNAL,
        )

    # -- after the end ---------------------------------------------------------------------

    def session_ended(self) -> None:
        """Note that the session was served to its end."""
        self._ended_by_kernel = self.status == 0

    def clear_away(self) -> None:
        """Remove a dead mount; the session must be closed.

        A mount that was served to its end is gone. After an abort or an error it is still there.
        """
        connection, self._connection = self._connection, None
        if connection is None:
            is_there = not self._ended_by_kernel
        else:
            is_there = not connection.is_gone()
            # Otherwise programs would wait for an answer if another process has its descriptor.
            connection.abort()
            connection.close()
        for place in self._places() if is_there else ():
            try:
                unmount(place, lazy=True)
            except ThrottlefsError as exc:
                log.error("%s", exc)
