"""Ends the mounts whose owner was killed, and whose daemon was, too, or has not noticed yet."""

from __future__ import annotations

import os

from throttlefs.errors import ThrottlefsError
from throttlefs.host.runtime import read_record
from throttlefs.host.unmounting import end_at_any_rate, mounts_of_this_user


def sweep() -> list[str]:
    """End the mounts of this user whose owner has ended; returns where they were.

    A mount without an owner, or with one that this process cannot judge (of another PID namespace,
    another boot), is left alone.
    """
    swept = []
    for mount in mounts_of_this_user():
        record = read_record(mount)
        if record is None or not record.owner_has_ended():
            continue
        try:
            end_at_any_rate(mount)
        except ThrottlefsError:
            continue  # its daemon has ended it meanwhile
        swept.append(os.fsdecode(mount.point))
    return swept
