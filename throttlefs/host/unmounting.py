"""Takes a mount away: tries once to unmount it, or does what ``throttlefs umount`` does."""

from __future__ import annotations

import errno
import os
import shutil
import signal
import subprocess
import time

from throttlefs import FILESYSTEM_TYPE
from throttlefs.errors import ThrottlefsError

from . import fusectl, lookup, syscalls
from .busy import describe_elsewhere, describe_users
from .daemons import Daemon, find_daemon
from .liveness import is_dead
from .mountinfo import MountEntry, mounted_at, read_mounts
from .runtime import read_record

GRACE_S = 10.0
"""How long a busy mount is given to become idle, in seconds."""

_RETRY_S = 0.05
_EXIT_WAIT_S = 30.0
_SOON_S = 0.5
"""Seconds for a daemon to end; then the command looks for what else holds the mount."""

_MTAB = "/etc/mtab"

PATIENCE_S = 1.0
"""How long `end_at_any_rate` waits for a mount to become idle, in seconds."""


class BusyError(ThrottlefsError):
    """Somebody still uses the mount."""


def unmount(mount: MountEntry, lazy: bool = False) -> None:
    """Unmount once: root by umount2(2), others by fusermount3, which may be slow.

    Raises `BusyError`, or `ThrottlefsError` if we may not unmount it.
    """
    if os.geteuid() == 0:
        try:
            _unmount_as_root(mount, lazy)
        except OSError as exc:
            if exc.errno == errno.EBUSY:
                raise BusyError(f"{os.fsdecode(mount.point)} is busy") from None
            raise ThrottlefsError(_refused(mount, _why_not_root(exc))) from None
    else:
        _unmount_as_user(mount, lazy)


def _refused(mount: MountEntry, why: str) -> str:
    return f"cannot unmount {os.fsdecode(mount.point)}: {why}"


def _why_not_root(error: OSError) -> str:
    """Why root cannot unmount, if the errno alone would not help (umount(2))."""
    if error.errno == errno.EPERM:
        return "this root lacks the capability SYS_ADMIN; unmount it outside of this container"
    if error.errno == errno.EINVAL:
        return "it was mounted outside of this user namespace; unmount it there"
    return error.strerror or str(error)


def _unmount_as_user(mount: MountEntry, lazy: bool) -> None:
    program = shutil.which("fusermount3")
    if program is None:
        raise ThrottlefsError("fusermount3 is missing; install the package fuse3")
    said = _run(program, "-u", *(["-z"] if lazy else []), "--", mount.point)
    if said is not None and not os.path.exists(_MTAB):
        # fusermount3 looks mounts up there, umount(8) in mountinfo.
        umount = shutil.which("umount", path=os.environ.get("PATH", os.defpath) + ":/bin:/usr/bin")
        if umount is not None:
            said = _run(umount, *(["-l"] if lazy else []), "--", mount.point)
        if said is not None and "busy" not in said:
            said = (
                f"fusermount3 needs {_MTAB}, which is missing;"
                f" as root: ln -s /proc/self/mounts {_MTAB}"
            )
    if said is None:
        return
    if "busy" in said:
        raise BusyError(f"{os.fsdecode(mount.point)} is busy")
    raise ThrottlefsError(_refused(mount, said))


def _run(program: str, *arguments: str | bytes) -> str | None:
    """Run *program*: None if it succeeds, else the last line of its output, in English."""
    result = subprocess.run(
        [program, *arguments],
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        errors="replace",
        env={**os.environ, "LC_ALL": "C"},
        check=False,
    )
    if result.returncode == 0:
        return None
    said = result.stderr.strip().splitlines()
    return said[-1] if said else f"{os.path.basename(program)} failed"


def _unmount_as_root(mount: MountEntry, lazy: bool) -> None:
    """Unmount *mount*, and no other that its path may lead to: others may own its parents.

    Raises `OSError`.
    """
    head, name = os.path.split(mount.point)
    parent = os.open(head, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        # This does not ask the daemon behind the mount.
        found = os.open(name or b".", os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=parent)
        try:
            with open(f"/proc/self/fdinfo/{found}", "rb") as file:
                is_it = b"mnt_id:\t%d\n" % mount.mount_id in file.read()
        finally:
            os.close(found)
        if not is_it:
            raise OSError(errno.ESTALE, "another mount has come in its place")
        syscalls.umount(b"/proc/self/fd/%d/%s" % (parent, name or b"."), lazy)
    finally:
        os.close(parent)


def clear_dead_mount(target: str) -> None:
    """Unmount what a daemon may have left at *target* if it died while it started."""
    mount = mounted_at(os.fsencode(target))
    if mount is not None and mount.fstype == FILESYSTEM_TYPE and is_dead(mount):
        unmount(mount, lazy=True)


def busy_message(mount: MountEntry) -> str:
    """One line that says who keeps *mount* busy, and the cure."""
    point = os.fsdecode(mount.point)
    return (
        f"{point} is busy: in use by {describe_users(mount)};"
        f" close that, or detach the mount now with: throttlefs umount --lazy {point}"
    )


def umount_command(target: str, lazy: bool, grace_s: float = GRACE_S) -> None:
    """Do `mount_to_end`, then `end_mount`."""
    end_mount(mount_to_end(target), lazy, grace_s)


def mount_to_end(target: str) -> MountEntry:
    """The throttlefs mount at *target*. Raises `ThrottlefsError` if this user may not end it."""
    mounts = read_mounts()
    resolved = lookup.resolve(os.fsencode(target), mounts)
    mount = lookup.mount_of(resolved, mounts)
    if mount is None or (mount.point != resolved and not lookup.is_ours(mount)):
        raise ThrottlefsError(
            f"{target} is not a mount point; see the mounts with: mount -t {FILESYSTEM_TYPE}"
        )
    point = os.fsdecode(mount.point)
    if not lookup.is_ours(mount):
        raise ThrottlefsError(
            f"{target} is a mount of type {mount.fstype}, not of throttlefs; use umount"
        )
    if mount.point != resolved:
        raise ThrottlefsError(
            f"{target} lies on the mount at {point}; to end that: throttlefs umount {point}"
        )
    if mount.user_id is not None and os.geteuid() not in (0, mount.user_id):
        raise ThrottlefsError(
            f"{point} is another user's mount; only that user and root may unmount it"
        )
    return mount


def mounts_of_this_user() -> list[MountEntry]:
    """The throttlefs mounts that this user has made, the last one first, each once."""
    found: dict[tuple[int, int], MountEntry] = {}
    for mount in read_mounts():
        if lookup.is_ours(mount) and mount.user_id == os.geteuid():
            found.setdefault((mount.major, mount.minor), mount)
    return list(found.values())[::-1]


def end_mount(mount: MountEntry, lazy: bool, grace_s: float = GRACE_S) -> None:
    """``throttlefs umount``: let all requests go, unmount, and wait until the daemon has ended.

    A mount that stays busy for *grace_s* seconds is left as it was. Raises `ThrottlefsError`.
    """
    daemon = find_daemon(mount)
    if daemon is None:
        try:
            # If it was killed, every access fails with ENOTCONN, so nothing can be lost.
            _unmount_within(mount, lazy or is_dead(mount), grace_s)
        except BusyError as exc:
            record = read_record(mount)
            if record is None or record.can_be_judged():
                raise
            raise BusyError(
                f"{exc}; its daemon is in a PID namespace that is not seen here, and lets through"
                " what waits only if the mount is ended there"
            ) from None
        return
    try:
        _unmount_served(mount, daemon, lazy, grace_s)
    finally:
        daemon.close()


def _unmount_served(mount: MountEntry, daemon: Daemon, lazy: bool, grace_s: float) -> None:
    daemon.send(signal.SIGUSR1)  # opens the gates
    try:
        _unmount_within(mount, lazy, grace_s)
        if not lazy:
            _see_off(mount, daemon, grace_s)
    except ThrottlefsError:
        daemon.send(signal.SIGUSR2)  # closes them
        raise


def _unmount_within(mount: MountEntry, lazy: bool, grace_s: float) -> None:
    deadline = time.monotonic() + grace_s
    while True:
        try:
            unmount(mount, lazy)
            return
        except BusyError:
            if time.monotonic() >= deadline:
                raise BusyError(busy_message(mount)) from None
        time.sleep(_RETRY_S)


def _see_off(mount: MountEntry, daemon: Daemon, grace_s: float) -> None:
    """Return when the daemon has written back and ended.

    Raises `ThrottlefsError` if it does not: after *grace_s* seconds if its mount is also mounted
    elsewhere, else after a longer time. Many programs have a copy of all mounts for a moment
    (unshare(1)).
    """
    point = os.fsdecode(mount.point)
    deadline = time.monotonic() + grace_s
    while not daemon.has_ended(_SOON_S):
        is_late = time.monotonic() >= deadline
        elsewhere = describe_elsewhere(mount, daemon.pid)
        if elsewhere is None:
            if is_late:
                break
            continue
        daemon.send(signal.SIGUSR2)  # programs that use it there must be held to the limits
        # While the daemon writes back, the kernel may give the number of its mount to another one.
        if is_late and not daemon.has_ended(_SOON_S):
            raise ThrottlefsError(
                f"{point} is unmounted, but the same mount is still served {elsewhere}"
            )
    if not daemon.has_ended(_EXIT_WAIT_S):
        raise ThrottlefsError(
            f"{point} is unmounted, but the daemon (process {daemon.pid}) has not ended;"
            " another mount namespace may hold the mount"
        )


def end_at_any_rate(
    mount: MountEntry, daemon: Daemon | None = None, patience_s: float = PATIENCE_S
) -> str | None:
    """End *mount* and its *daemon*, which is found if it is not given, also if somebody uses it.

    What waits for a limit goes through. What is still open after *patience_s* seconds fails from
    then on, wherever it is mounted. Returns who kept it busy; None if nobody did.

    Raises `ThrottlefsError` if it cannot be unmounted: it is another user's, say.
    """
    found = find_daemon(mount) if daemon is None else None
    daemon = daemon or found
    connection = fusectl.open_connection(mount)
    try:
        if daemon is None or daemon.has_ended():
            unmount(mount, lazy=True)
            if connection is not None:
                connection.abort()
            return None
        daemon.send(signal.SIGUSR1)  # opens the gates
        users = _detach_within(mount, patience_s)
        # Unmounted here it may be mounted in another namespace.
        if users is not None or not daemon.has_ended(patience_s):
            if connection is None:
                daemon.send(signal.SIGKILL)
            elif not connection.is_gone():
                connection.abort()
        if not daemon.has_ended(_EXIT_WAIT_S):
            daemon.send(signal.SIGKILL)
            daemon.has_ended(_EXIT_WAIT_S)
        return users
    finally:
        if found is not None:
            found.close()
        if connection is not None:
            connection.close()


def _detach_within(mount: MountEntry, patience_s: float) -> str | None:
    """Unmount *mount*; if it stays busy for *patience_s* seconds, detach it and say who uses it."""
    deadline = time.monotonic() + patience_s
    while True:
        try:
            unmount(mount)
            return None
        except BusyError:
            if time.monotonic() >= deadline:
                break
        time.sleep(_RETRY_S)
    users = describe_users(mount)
    unmount(mount, lazy=True)
    return users
