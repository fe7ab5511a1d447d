"""The form in which mount(8) runs a FUSE filesystem: ``throttlefs SRC DST -o OPTIONS``.

mount(8) runs mount.fuse3 for ``mount -t fuse.throttlefs SRC DST`` and for lines of fstab(5);
that runs throttlefs, from the PATH that sh has by itself, without a subcommand. ``rw`` or ``ro``
comes first among its options, and ``dev`` and ``suid`` last unless they say otherwise: what
mount(8) calls the defaults.
"""

from __future__ import annotations

import os
from collections.abc import Collection, Sequence


def with_subcommand(arguments: Sequence[str], commands: Collection[str]) -> list[str]:
    """*arguments* as the command line wants them: ``mount`` before mount(8)'s form.

    A mistyped name of one of *commands* is left for the command line to complain about.
    """
    arguments = list(arguments)
    if len(arguments) < 2 or arguments[0] in commands or arguments[0].startswith("-"):
        return arguments
    source, target = arguments[:2]
    # mount(8) makes DST absolute; a SRC that is not there may be any word.
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
