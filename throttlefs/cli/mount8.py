"""Understands the form in which mount(8) runs a filesystem: ``throttlefs SRC DST -o OPTIONS``.

For ``mount -t fuse.throttlefs SRC DST`` and for lines of fstab(5) mount(8) runs mount.fuse3. That
runs throttlefs without a subcommand, with the default PATH of sh. ``rw`` or ``ro`` comes first
among the options. ``dev`` and ``suid`` come last unless the options say otherwise: mount(8) calls
these the defaults.
"""

from __future__ import annotations

import os
from collections.abc import Collection, Sequence


def with_subcommand(arguments: Sequence[str], commands: Collection[str]) -> list[str]:
    """*arguments* as the command line wants them: ``mount`` before mount(8)'s form.

    A mistyped name of one of *commands* stays as it is, and the command line refuses it.
    """
    arguments = list(arguments)
    if len(arguments) < 2 or arguments[0] in commands or arguments[0].startswith("-"):
        return arguments
    source, target = arguments[:2]
    # mount(8) makes DST absolute. If SRC does not exist, it may be any word.
    from_mount8 = arguments[2:3] == ["-o"] and target.startswith("/")
    if not (from_mount8 or "/" in source or os.path.exists(source)):
        return arguments
    return ["mount", *_without_defaults_of_root(arguments)]


def _without_defaults_of_root(arguments: list[str]) -> list[str]:
    """Drop the ``dev,suid`` that mount.fuse3 appends, which only root may have."""
    if os.geteuid() == 0 or arguments[2:3] != ["-o"] or len(arguments) < 4:
        return arguments
    options = arguments[3].split(",")
    for appended in ("suid", "dev"):
        if options[-1:] == [appended]:
            options.pop()
    return [*arguments[:3], ",".join(options), *arguments[4:]]
