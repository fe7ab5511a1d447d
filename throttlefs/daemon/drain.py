"""How a mount ends: the signals of its daemon, opening the gates, draining and unmounting."""

from __future__ import annotations

import logging
import signal
from collections.abc import Callable
from typing import Protocol

import pyfuse3
import trio

from throttlefs.errors import ThrottlefsError
from throttlefs.host import fusectl
from throttlefs.host.busy import describe_users
from throttlefs.host.mountinfo import MountEntry
from throttlefs.host.notify import notify
from throttlefs.host.unmounting import GRACE_S, BusyError, find_mount, is_dead, unmount

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
_GATES_OPEN_AT_MOST_S = GRACE_S + 5.0


class Gates(Protocol):
    """What holds requests back until they are due."""

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
        reload: Callable[[], None],
        quit_asked: Callable[[], bool],
    ) -> None:
        self._target = target
        self._gates = gates
        self._reload_limits = reload
        self._quit_asked = quit_asked
        self._entry: MountEntry | None = None
        self._gates_scope: trio.CancelScope | None = None
        self.draining = False
        """Whether a signal has asked for the end."""
        self.status = 0
        """What the daemon is to exit with."""

    async def handle_signals(
        self,
        entry: MountEntry | None,
        task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED,
    ) -> None:
        """Unblock `HANDLED_SIGNALS` and act on them until cancelled; *entry* is the mount."""
        self._entry = entry
        with trio.open_signal_receiver(*HANDLED_SIGNALS) as signals:
            signal.pthread_sigmask(signal.SIG_UNBLOCK, HANDLED_SIGNALS)
            task_status.started()
            async with trio.open_nursery() as nursery:
                async for number in signals:
                    if number == signal.SIGHUP:
                        self._reload()
                    elif number == signal.SIGUSR1:
                        nursery.start_soon(self._open_gates_for_a_while)
                    elif number == signal.SIGUSR2:
                        self._close_gates()
                    elif self.draining:
                        self._end_at_once()
                    else:
                        self.draining = True
                        nursery.start_soon(self._drain, signal.Signals(number))

    def _reload(self) -> None:
        try:
            self._reload_limits()
        except ThrottlefsError as exc:
            log.error("not reloaded, the limits stay as they are: %s", exc)

    async def _open_gates_for_a_while(self) -> None:
        """``throttlefs umount`` is about to try; should it die, the limits come back alone."""
        self._gates.open_gates()
        with trio.CancelScope() as scope:
            self._gates_scope = scope
            await trio.sleep(_GATES_OPEN_AT_MOST_S)
        self._close_gates()

    def _close_gates(self) -> None:
        if self._gates_scope is not None:
            self._gates_scope.cancel()
            self._gates_scope = None
        if not self.draining:
            self._gates.close_gates()

    async def _drain(self, number: signal.Signals) -> None:
        """Let everything go, then unmount, lazily if programs stay on it past the grace.

        The session is served to its end, so nothing that was asked is dropped.
        """
        reason = "quit" if self._quit_asked() else number.name
        log.info("%s: opening the gates and unmounting %s", reason, self._target)
        notify("STOPPING=1")
        self._gates.open_gates()
        deadline = trio.current_time() + GRACE_S
        while (entry := _still_mounted(self._entry)) is not None:
            late = trio.current_time() >= deadline
            try:
                if late:
                    users = await trio.to_thread.run_sync(describe_users, entry)
                    log.warning(
                        "%s stays in use by %s: detached, and served until that is closed"
                        " (a second signal ends it at once)",
                        self._target,
                        users,
                    )
                await trio.to_thread.run_sync(unmount, entry, late)
                return
            except BusyError:
                await trio.sleep(_RETRY_S)
            except ThrottlefsError as exc:
                if late:
                    log.error("%s", exc)
                    return
                await trio.sleep(_RETRY_S)

    def _end_at_once(self) -> None:
        log.warning("second signal: ending at once; requests under way fail")
        self.status = 1
        if self._entry is None or not fusectl.abort_connection(self._entry):
            pyfuse3.terminate()


def clear_aborted(entry: MountEntry | None) -> None:
    """Unmount *entry*, whose session is closed: served to its end it is gone, aborted it is not."""
    entry = _still_mounted(entry)
    if entry is not None and is_dead(entry):
        try:
            unmount(entry, lazy=True)
        except ThrottlefsError as exc:
            log.error("%s", exc)


def _still_mounted(entry: MountEntry | None) -> MountEntry | None:
    return None if entry is None else find_mount((entry.major, entry.minor))
