"""Limits and settings of devices as extended attributes: ``user.throttlefs.bps`` and so on.

Reading one gives the value that holds for the file; the mount's root has the default. Setting one
is a live change. They exist only in the mount: the file behind never gets them, and they are not
listed, so that nothing copies them along with a file.
"""

from __future__ import annotations

import errno
import os
import stat
from typing import Final

from throttlefs.policy.change import Change, TuningError
from throttlefs.policy.state import State, limits_of
from throttlefs.policy.tuning import Tuner
from throttlefs.settings.device import DEVICE_NAMES, option_key
from throttlefs.settings.limits import DEFAULT_WEIGHT, LIMIT_NAMES, Limits, format_limit
from throttlefs.throttle import NO_GROUP

from .inode import Inode
from .inodes import InodeTable

LIMIT_PREFIX: Final = b"user.throttlefs."

_UNSET: Final = {"group": NO_GROUP, "weight": str(DEFAULT_WEIGHT)}
"""The values that removing an attribute sets; a limit is lifted."""


class LimitAttributes:
    """Reads and sets the limits of *inodes* by the names of attributes, `LIMIT_PREFIX` included.

    All methods raise `OSError`: ENODATA for a missing attribute, EINVAL for a wrong value, EPERM if
    the caller is neither root nor the user who mounted.
    """

    def __init__(self, inodes: InodeTable, tuner: Tuner) -> None:
        self._inodes = inodes
        self._tuner = tuner
        self._allowed = {0, os.geteuid()}

    def get(self, inode: Inode, name: bytes) -> bytes:
        """The value as `set` takes it, e.g. b"1.5M"; b"0" for a limit that is not set."""
        self._check_kind(inode)
        key = _key(name)
        state = self._state(inode)
        if key in LIMIT_NAMES:
            value = limits_of(state).get(key, getattr(_DEFAULTS, key))
            return format_limit(key, value).encode()
        if key in DEVICE_NAMES and key != "seed":
            return str(state.get(key, "0")).encode()
        if (key not in _UNSET and key != "seed") or key not in state:
            raise _error(errno.ENODATA)
        return str(state[key]).encode()

    def set(self, inode: Inode, name: bytes, value: bytes, uid: int) -> None:
        """Change one limit or setting, the group or the weight, for the caller *uid*."""
        self._check_kind(inode)
        if uid not in self._allowed:
            raise _error(errno.EPERM)
        try:
            change = Change.parse([(_key(name), value.decode().strip("\0\n"))])
            if self._is_mount(inode):
                self._tuner.change_default(change)
            else:
                self._tuner.change_image(inode.key, inode.path, change)
        except (TuningError, UnicodeDecodeError):
            raise _error(errno.EINVAL) from None

    def remove(self, inode: Inode, name: bytes, uid: int) -> None:
        """Lift one limit, reset one setting, leave the group, or return to the default weight."""
        key = _key(name)
        if key not in LIMIT_NAMES and key not in DEVICE_NAMES and key not in _UNSET:
            raise _error(errno.ENODATA)
        value = "1" if key.endswith("_max_length") else _UNSET.get(key, "0")
        self.set(inode, name, value.encode(), uid)

    def _check_kind(self, inode: Inode) -> None:
        """Raise ENODATA unless the file can have limits."""
        if inode is not self._inodes.root:
            mode = os.fstat(self._inodes.fd(inode)).st_mode
            if not stat.S_ISREG(mode):
                raise _error(errno.ENODATA)

    def _is_mount(self, inode: Inode) -> bool:
        """Whether *inode* stands for the whole mount, not for an image."""
        return inode is self._inodes.root and not self._inodes.is_one_file

    def _state(self, inode: Inode) -> State:
        if self._is_mount(inode):
            return self._tuner.default_state()
        return self._tuner.state_of(inode.key, inode.path)


_DEFAULTS: Final = Limits()


def _key(name: bytes) -> str:
    return option_key(os.fsdecode(name.removeprefix(LIMIT_PREFIX)))


def _error(number: int) -> OSError:
    return OSError(number, os.strerror(number))
