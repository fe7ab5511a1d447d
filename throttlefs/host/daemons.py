"""Finds the daemon behind a mount, as far as this process can reach it."""

from __future__ import annotations

import os
import re
import select
import signal
import socket
import struct

from . import runtime
from .mountinfo import MountEntry

_CREDENTIALS = struct.Struct("iII")  # struct ucred, unix(7)


class Daemon:
    """A process that is held by a pidfd, so that no later process of its id gets its signals."""

    def __init__(self, pid: int, pidfd: int) -> None:
        self.pid = pid
        self._pidfd = pidfd

    def send(self, number: signal.Signals) -> None:
        """Signal it; does nothing if it is gone or if we may not signal it."""
        try:
            signal.pidfd_send_signal(self._pidfd, number)
        except OSError:
            pass

    def has_ended(self, within_s: float = 0) -> bool:
        """Whether it has ended, or ends within *within_s* seconds."""
        poller = select.poll()
        poller.register(self._pidfd, select.POLLIN)  # pidfd_open(2)
        return bool(poller.poll(within_s * 1000))

    def close(self) -> None:
        """Close the pidfd."""
        os.close(self._pidfd)


def find_daemon(mount: MountEntry) -> Daemon | None:
    """The daemon of *mount*; None if it is gone or in a PID namespace that we do not see."""
    record = runtime.read_record(mount)
    if record is not None and record.can_be_judged():
        daemon = _hold(record.pid, mount.user_id)
        # Check only now, when the process is held: it is the one that gets the signals.
        if daemon is not None and not record.is_alive():
            daemon.close()
            return None
        return daemon
    return _find_by_socket(mount)


def _hold(pid: int, owner: int | None) -> Daemon | None:
    """The process *pid*, if it is *owner*'s: a record must not make us signal others' processes."""
    try:
        pidfd = os.pidfd_open(pid)
    except OSError:
        return None
    if owner is not None and _effective_user(pid) != owner:
        os.close(pidfd)
        return None
    return Daemon(pid, pidfd)


def _effective_user(pid: int) -> int | None:
    """The effective user id of *pid* (proc(5), /proc/PID/status); None if it is gone.

    Files in /proc belong to root if the process has capabilities, or had more rights once.
    """
    try:
        with open(f"/proc/{pid}/status", "rb") as file:
            found = re.search(rb"^Uid:\s+\d+\s+(\d+)", file.read(), re.MULTILINE)
    except OSError:
        return None
    return int(found[1]) if found else None


def _find_by_socket(mount: MountEntry) -> Daemon | None:
    """The process that listens on the control socket of *mount*.

    The kernel gives its id in our PID namespace, 0 if it has none there (SO_PEERCRED, unix(7)).
    """
    path = runtime.find_socket(mount)
    if path is None:
        return None
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_NONBLOCK) as connection:
        try:
            connection.connect(os.fsencode(path))
            credentials = connection.getsockopt(
                socket.SOL_SOCKET, socket.SO_PEERCRED, _CREDENTIALS.size
            )
            pid, uid, _ = _CREDENTIALS.unpack(credentials)
            if pid <= 0 or uid not in (os.geteuid(), mount.user_id):
                return None
            daemon = Daemon(pid, os.pidfd_open(pid))
        except OSError:
            return None  # nobody listens, or too many do already
        # A daemon that ended meanwhile has closed the connection; then its id may be another's.
        poller = select.poll()
        poller.register(connection, select.POLLRDHUP)
        if any(events & (select.POLLHUP | select.POLLRDHUP) for _, events in poller.poll(0)):
            daemon.close()
            return None
        return daemon
