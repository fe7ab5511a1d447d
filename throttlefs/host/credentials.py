"""Sets the user ids and rights with which a thread uses files (credentials(7), capabilities(7)).

They belong to a thread. Threads that it starts inherit them, those of io_uring too.
"""

from __future__ import annotations

import ctypes
import errno
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from typing import Final, NamedTuple, ParamSpec, TypeVar

P = ParamSpec("P")
T = TypeVar("T")

_DAC_OVERRIDE: Final = 1 << 1
_DAC_READ_SEARCH: Final = 1 << 2
_FSETID: Final = 1 << 4
_MKNOD: Final = 1 << 27

_KEPT: Final = _DAC_OVERRIDE | _DAC_READ_SEARCH | _MKNOD
"""The kernel has checked these with all groups of the caller, which are not known here."""

_VERSION_3: Final = 0x20080522
_NOBODY_NEW: Final = 0xFFFFFFFF

# PyDLL keeps the GIL: none of these calls blocks.
_libc = ctypes.PyDLL(None, use_errno=True)
for _function in (_libc.setfsuid, _libc.setfsgid):
    _function.argtypes = [ctypes.c_uint32]
    _function.restype = ctypes.c_uint32


class Credentials(NamedTuple):
    """A user, with the user's group at the time."""

    uid: int
    gid: int


class _Header(ctypes.Structure):
    _fields_ = [("version", ctypes.c_uint32), ("pid", ctypes.c_int)]


class _Set(ctypes.Structure):
    _fields_ = [
        ("effective", ctypes.c_uint32),
        ("permitted", ctypes.c_uint32),
        ("inheritable", ctypes.c_uint32),
    ]


_Sets = _Set * 2


def _call(function: str, sets: ctypes.Array[_Set]) -> None:
    header = _Header(_VERSION_3, 0)  # this thread
    if getattr(_libc, function)(ctypes.byref(header), ctypes.byref(sets)) < 0:
        number = ctypes.get_errno()
        raise OSError(number, f"{function}: {os.strerror(number)}")


def _rights() -> ctypes.Array[_Set]:
    sets = _Sets()
    _call("capget", sets)
    return sets


def _use_fsetid(wanted: bool) -> bool:
    """Begin or stop to use CAP_FSETID; returns whether it was in use before."""
    sets = _rights()
    was_used = bool(sets[0].effective & _FSETID)
    if wanted != was_used and sets[0].permitted & _FSETID:
        sets[0].effective ^= _FSETID
        _call("capset", sets)
    return was_used


def lay_down() -> None:
    """Stop to use CAP_FSETID and root's groups, in this thread and in those that it will start."""
    _use_fsetid(False)
    if os.geteuid() == 0:
        try:
            os.setgroups([])
        except PermissionError:
            pass  # a user namespace may not change its groups (user_namespaces(7))


@contextmanager
def modes_kept() -> Iterator[None]:
    """Use CAP_FSETID, if this process has it, to set the mode of a file."""
    was_used = _use_fsetid(True)
    try:
        yield
    finally:
        if not was_used:
            _use_fsetid(False)


def acts_as_itself(uid: int, gid: int) -> bool:
    """Whether `acting_for` that user takes no other ids."""
    return os.geteuid() != 0 or (uid == 0 and gid == 0)


@contextmanager
def acting_for(uid: int, gid: int, *, keep_modes: bool = False) -> Iterator[None]:
    """Act as the user *uid* with the group *gid* in this block, if this is root's daemon.

    Permissions of files and directories count as checked. The kernel checks again that only owners
    change modes, and names in a sticky directory. *keep_modes*: use CAP_FSETID.

    Raises `PermissionError` if the daemon may not become that user.
    """
    if acts_as_itself(uid, gid):
        with modes_kept() if keep_modes else nullcontext():
            yield
        return
    with _become(uid, gid, (_KEPT if uid else 0) | (_FSETID if keep_modes else 0)):
        yield


@contextmanager
def in_group(gid: int) -> Iterator[None]:
    """Be in the group *gid* in this block and this thread, if this is root's daemon."""
    if os.geteuid() != 0:
        yield
        return
    _libc.setfsgid(gid)
    try:
        yield
    finally:
        _libc.setfsgid(os.getegid())


def may_differ(credentials: Credentials | None) -> bool:
    """Whether this process could do more than that user with a file that is already open.

    Root's daemon could write into the blocks that a filesystem keeps for root, and past quotas.
    """
    return credentials is not None and credentials.uid != 0 and os.geteuid() == 0


@contextmanager
def writing_for(credentials: Credentials | None) -> Iterator[None]:
    """Write and allocate in this block as that user, without any capability.

    ext4 gives the blocks that it keeps for root (its reserve) to one uid and gid, 0 by default, and
    to CAP_SYS_RESOURCE, which quotas do not hold either. Does nothing if `may_differ` says no.
    Raises `PermissionError` if the daemon may not become that user.
    """
    if credentials is None or not may_differ(credentials):
        yield
        return
    with _become(*credentials, 0):
        yield


def call_for(
    credentials: Credentials | None, function: Callable[P, T], *args: P.args, **kwargs: P.kwargs
) -> T:
    """``function(*args)`` while `writing_for` that user; for a thread that does nothing else."""
    with writing_for(credentials):
        return function(*args, **kwargs)


@contextmanager
def _become(uid: int, gid: int, rights: int) -> Iterator[None]:
    """Take these filesystem ids and use only the capabilities *rights*; root also uses its own."""
    before = _rights()
    try:
        _libc.setfsgid(gid)
        _libc.setfsuid(uid)
        # These report no failure; they return the id in use before the call (setfsuid(2)).
        if _libc.setfsuid(_NOBODY_NEW) != uid or _libc.setfsgid(_NOBODY_NEW) != gid:
            raise PermissionError(errno.EPERM, os.strerror(errno.EPERM))
        now = _rights()
        if uid:
            now[0].effective = now[1].effective = 0
        now[0].effective |= now[0].permitted & rights
        _call("capset", now)
        yield
    finally:
        _libc.setfsuid(0)
        _libc.setfsgid(os.getegid())
        _call("capset", before)  # becoming root again has raised all capabilities
