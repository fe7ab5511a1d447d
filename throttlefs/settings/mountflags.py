"""The options without a value that FUSE and mount(8) know, and how each is treated.

Every option was tried with libfuse 3.14, 3.17 and 3.18 and their fusermount3, as root and as a
user, to find which ones libfuse takes.

The kernel keeps no access times for FUSE (``S_NOATIME`` in its ``fs/fuse/inode.c``). They are those
of SRC: when the daemon reads there, the filesystem of SRC moves them. So mount(8)'s options about
them are treated like this:

- ``noatime`` and ``nodiratime``: the daemon reads with O_NOATIME (open(2)), where it may.
- ``atime``, ``diratime``, ``relatime``, ``norelatime``, ``nostrictatime`` and ``nolazytime``
  change nothing: this is how it works anyway.
- ``strictatime`` and ``lazytime`` are refused: only the filesystem of SRC can do them.

Among all these, libfuse takes only ``noatime``.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import Final

# Each flag has a kind and the word that stands for it, if any. Of one kind the last flag holds.
_FLAGS: Final = {
    "ro": ("writing", "ro"),
    "rw": ("writing", "rw"),
    "dev": ("devices", "dev"),
    "nodev": ("devices", "nodev"),
    "suid": ("setuid", "suid"),
    "nosuid": ("setuid", "nosuid"),
    "exec": ("programs", "exec"),
    "noexec": ("programs", "noexec"),
    "sync": ("synchrony", "sync"),
    "async": ("synchrony", "async"),
    "dirsync": ("directories", "dirsync"),
    "noatime": ("atime", "noatime"),
    "atime": ("atime", ""),
    "relatime": ("atime", ""),
    "nodiratime": ("directories' atime", "nodiratime"),
    "diratime": ("directories' atime", ""),
    "allow_other": ("audience", "allow_other"),
    "allow_root": ("audience", "allow_root"),
    "auto_unmount": ("ending", "auto_unmount"),
}

# These say who may mount, which was decided before throttlefs started. They imply others.
_IMPLIED: Final = {
    "user": ("noexec", "nosuid", "nodev"),
    "users": ("noexec", "nosuid", "nodev"),
    "owner": ("nosuid", "nodev"),
    "group": ("nosuid", "nodev"),
}

# Options that only mount(8), fstab(5) or systemd use, or that hold anyway.
_DROPPED: Final = (
    *("defaults", "auto", "noauto", "nofail", "nouser", "nousers", "noowner", "nogroup"),
    *("_netdev", "_rnetdev", "silent", "loud", "nomand", "noiversion", "default_permissions"),
    *("norelatime", "nostrictatime", "nolazytime"),
)
_DROPPED_WITH_VALUE: Final = frozenset(("comment", "helper", "uhelper", "user"))

_UNKNOWN_TO_LIBFUSE: Final = ("nodiratime",)

_REFUSED: Final = {
    "remount": "'throttlefs set' changes limits in flight; for the rest unmount and mount again",
    "nosymfollow": "libfuse cannot set it",
    **dict.fromkeys(
        ("strictatime", "lazytime"),
        "access times are kept by the filesystem of SRC: give it to that one's mount",
    ),
    "kernel_cache": "SRC may change underneath; auto_cache uses the page cache and notices that",
    "direct_io": "it is how throttlefs works unless auto_cache is given; leave it out",
    # libfuse ends the session unless init() repeats the size, and pyfuse3 cannot do that.
    "max_read": "it cannot be agreed with the kernel through pyfuse3; leave it out",
    **dict.fromkeys(
        ("fd", "rootmode", "user_id", "group_id"), "the mount sets it by itself; leave it out"
    ),
    **dict.fromkeys(("uid", "gid", "umask"), "owners and modes are those of SRC"),
    **dict.fromkeys(("blkdev", "blksize"), "it is for filesystems on block devices"),
}

FLAG_NAMES: Final = (*_FLAGS, *_IMPLIED, *_DROPPED)
"""All options without a value, except those of throttlefs itself."""


class MountFlags:
    """The flags given so far; of one kind the last one holds."""

    def __init__(self) -> None:
        self._by_kind: dict[str, str] = {}

    def add(self, name: str) -> None:
        """Note *name*, one of `FLAG_NAMES`, and what it implies."""
        if name in _FLAGS:
            kind, word = _FLAGS[name]
            self._by_kind.pop(kind, None)  # a flag stands where it was given last
            self._by_kind[kind] = word
        for implied in _IMPLIED.get(name, ()):
            self.add(implied)

    def words(self) -> tuple[str, ...]:
        """The words of all flags that hold, in the order given; none contradicts another."""
        return tuple(word for word in self._by_kind.values() if word)


def for_libfuse(words: Sequence[str]) -> list[str]:
    """Those of *words*, from `MountFlags.words`, that libfuse takes."""
    return [word for word in words if word not in _UNKNOWN_TO_LIBFUSE]


def drops_value(name: str) -> bool:
    """Whether an option *name* that has a value is ignored."""
    return name in _DROPPED_WITH_VALUE


def is_comment(name: str) -> bool:
    """Whether *name* is one of the ``x-*`` and ``X-*`` that mount(8) leaves to others.

    The limits of QEMU's ``throttle-group`` begin with ``x-`` as well. A mistyped one must not pass
    for a comment, because then nothing would be limited.
    """
    return name.startswith(("x-", "X-")) and not name.startswith(("x-bps", "x-iops"))


def why_refused(name: str) -> str | None:
    """Why an option of mount(8) or of other FUSE filesystems is refused; None if it is unknown."""
    return _REFUSED.get(name)


def as_strict_as(source_fd: int, words: Sequence[str]) -> list[str]:
    """*words* for libfuse, without what is forbidden in SRC itself, such as setuid programs."""
    try:
        flags = os.fstatvfs(source_fd).f_flag
    except OSError:
        flags = 0  # the filesystem cannot tell, or is broken just now
    strict = list(words)
    for flag, word, opposite in (
        (os.ST_NOSUID, "nosuid", "suid"),
        (os.ST_NODEV, "nodev", "dev"),
        (os.ST_NOEXEC, "noexec", "exec"),
    ):
        if flags & flag and word not in strict:
            strict = [*(other for other in strict if other != opposite), word]
    return strict
