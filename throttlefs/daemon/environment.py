"""Checks what the system must have before anything can be mounted."""

from __future__ import annotations

import os
import resource

from throttlefs.errors import ThrottlefsError
from throttlefs.host import prerequisites, runtime
from throttlefs.host.paths import check_may_allow_others
from throttlefs.settings.options import MountOptions


def check_environment(options: MountOptions) -> None:
    """Raise `ThrottlefsError` if FUSE does not work here for this user.

    Makes the runtime directory, and removes the files of dead daemons there.
    """
    by_fusermount = os.geteuid() != 0 or options.auto_unmount
    problem = prerequisites.device_problem() or prerequisites.mount_problem(by_fusermount)
    if problem is not None:
        raise ThrottlefsError(problem)
    for option in ("allow_other", "allow_root"):
        if getattr(options, option):
            check_may_allow_others(option)
    runtime.clear_dead_records()


def raise_descriptor_limit() -> int:
    """Raise RLIMIT_NOFILE as far as possible; returns how many descriptors inodes may hold."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    for wanted in (max(hard, 1 << 17), hard):
        try:
            resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, wanted))
            soft = wanted
            break
        except (ValueError, OSError):
            continue
    return max(64, soft // 3)  # the rest is for open files
