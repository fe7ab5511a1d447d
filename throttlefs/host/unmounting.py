"""Taking a mount away: the plain unmount, and the ``throttlefs umount`` command."""

from __future__ import annotations

import errno
import os
import select
import shutil
import signal
import subprocess
import time

from throttlefs import FILESYSTEM_TYPE
from throttlefs.errors import ThrottlefsError

from . import syscalls
from .busy import describe_users
from .mountinfo import MountEntry, mounted_at, read_mounts, resolve_mount_point
from .runtime import MountRecord, read_record

GRACE_S = 10.0
"""How long a busy mount is given to become idle, in seconds."""

_RETRY_S = 0.05
_EXIT_WAIT_S = 30.0


class BusyError(ThrottlefsError):
    """Somebody still uses the mount."""


def find_mount(device: tuple[int, int]) -> MountEntry | None:
    """The mount with the device number (major, minor), wherever it was moved to."""
    for entry in read_mounts():
        if (entry.major, entry.minor) == device:
            return entry
    return None


def is_dead(mount: MountEntry) -> bool:
    """Whether the mount's daemon is gone, so that every access fails with ENOTCONN."""
    try:
        # Not stat, which the kernel answers from what it remembers for attr_timeout.
        os.statvfs(mount.point)
    except OSError as exc:
        return exc.errno == errno.ENOTCONN
    return False


def unmount(mount: MountEntry, lazy: bool = False) -> None:
    """Unmount once, as root by umount2(2), else by fusermount3, which may take its time.

    Raises `BusyError`, or `ThrottlefsError` if it is not ours to unmount.
    """
    point = os.fsdecode(mount.point)
    if os.geteuid() == 0:
        try:
            _unmount_as_root(mount, lazy)
        except OSError as exc:
            if exc.errno == errno.EBUSY:
                raise BusyError(f"{point} is busy") from None
            raise ThrottlefsError(f"cannot unmount {point}: {exc.strerror}") from None
        return
    program = shutil.which("fusermount3")
    if program is None:
        raise ThrottlefsError("fusermount3 is missing; install the package fuse3")
    result = subprocess.run(
        [program, "-u", *(["-z"] if lazy else []), "--", mount.point],
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        errors="replace",
        env={**os.environ, "LC_ALL": "C"},
        check=False,
    )
    if result.returncode:
        said = result.stderr.strip().splitlines()
        if "busy" in result.stderr:
            raise BusyError(f"{point} is busy")
        raise ThrottlefsError(
            f"cannot unmount {point}: {said[-1] if said else 'fusermount3 failed'}"
        )


def _unmount_as_root(mount: MountEntry, lazy: bool) -> None:
    """Unmount *mount* and no other that its path may lead to by now: others may own its parents.

    Raises `OSError`.
    """
    head, name = os.path.split(mount.point)
    parent = os.open(head, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        # This asks nothing of the daemon behind the mount.
        found = os.open(name or b".", os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=parent)
        try:
            with open(f"/proc/self/fdinfo/{found}", "rb") as file:
                is_it = b"mnt_id:\t%d\n" % mount.mount_id in file.read()
        finally:
            os.close(found)
        if not is_it:
            raise OSError(errno.EINVAL, "another mount has come in its place")
        syscalls.umount(b"/proc/self/fd/%d/%s" % (parent, name or b"."), lazy)
    finally:
        os.close(parent)


def clear_dead_mount(target: str) -> None:
    """Unmount what a daemon that died while it started may have left at *target*."""
    mount = mounted_at(os.fsencode(target))
    if mount is not None and mount.fstype == FILESYSTEM_TYPE and is_dead(mount):
        unmount(mount, lazy=True)


def busy_message(mount: MountEntry) -> str:
    """Who keeps *mount* busy and what to do about it, in one line."""
    point = os.fsdecode(mount.point)
    return (
        f"{point} is busy: in use by {describe_users(mount)};"
        f" close that, or detach the mount now with: throttlefs umount --lazy {point}"
    )


def umount_command(target: str, lazy: bool, grace_s: float = GRACE_S) -> None:
    """``throttlefs umount``: let everything that waits go, unmount, and see the daemon off.

    A mount that stays busy for *grace_s* seconds is left as it was. Raises `ThrottlefsError`.
    """
    point = resolve_mount_point(os.fsencode(target))
    mount = mounted_at(point)
    if mount is None:
        raise ThrottlefsError(
            f"{target} is not a mount point; see the mounts with: mount -t {FILESYSTEM_TYPE}"
        )
    if mount.fstype != FILESYSTEM_TYPE:
        raise ThrottlefsError(
            f"{target} is a mount of type {mount.fstype}, not of throttlefs; use umount"
        )
    if mount.user_id is not None and os.geteuid() not in (0, mount.user_id):
        raise ThrottlefsError(
            f"{os.fsdecode(mount.point)} is another user's mount; only that user and root may"
            " unmount it"
        )
    record = read_record(mount)
    if record is not None and not record.is_alive():
        # The daemon was killed: every access fails with ENOTCONN, so nothing can be lost.
        record, lazy = None, True
    daemon = _Daemon(record)
    daemon.open_gates()
    try:
        _unmount_within(mount, lazy, grace_s)
    except BusyError:
        daemon.close_gates()
        raise BusyError(busy_message(mount)) from None
    if not lazy:
        daemon.wait_until_gone()


def _unmount_within(mount: MountEntry, lazy: bool, grace_s: float) -> None:
    deadline = time.monotonic() + grace_s
    while True:
        try:
            unmount(mount, lazy)
            return
        except BusyError:
            if time.monotonic() >= deadline:
                raise
        time.sleep(_RETRY_S)


class _Daemon:
    """The process behind a mount, as far as this user may talk to it."""

    def __init__(self, record: MountRecord | None) -> None:
        self._record = record
        self._pidfd = -1
        if record is not None:
            try:
                self._pidfd = os.pidfd_open(record.pid)
            except OSError:
                self._record = None

    def _send(self, number: signal.Signals) -> None:
        if self._record is not None:
            try:
                self._record.send(number)
            except OSError:
                pass  # gone, or not ours: then the unmount alone has to do

    def open_gates(self) -> None:
        self._send(signal.SIGUSR1)

    def close_gates(self) -> None:
        self._send(signal.SIGUSR2)

    def wait_until_gone(self) -> None:
        """Return when the daemon has written back and ended."""
        if self._pidfd < 0:
            return
        poller = select.poll()
        poller.register(self._pidfd, select.POLLIN)
        gone = poller.poll(_EXIT_WAIT_S * 1000)
        os.close(self._pidfd)
        if not gone:
            assert self._record is not None
            raise ThrottlefsError(
                f"unmounted, but the daemon (process {self._record.pid}) has not ended"
                f" within {_EXIT_WAIT_S:.0f} s"
            )
