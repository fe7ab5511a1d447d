"""Makes a place to mount on, for who names none."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def temporary_target(source: str) -> Iterator[str]:
    """A new path to mount *source* on: a directory, or an empty file of its name if it is a file.

    It is removed in the end, with nothing that is in it. Others may reach it, and what they may do
    there is what the mount lets them do.
    """
    directory = os.path.realpath(tempfile.mkdtemp(prefix="throttlefs-"))
    target = directory
    try:
        os.chmod(directory, 0o755)
        if os.path.exists(source) and not os.path.isdir(source):
            target = os.path.join(directory, os.path.basename(os.path.realpath(source)))
            with open(target, "x"):
                pass
        yield target
    finally:
        _remove(target, directory)


def _remove(target: str, directory: str) -> None:
    """Remove both; what is still mounted, or was filled by somebody, stays."""
    try:
        if target != directory:
            os.unlink(target)
        os.rmdir(directory)
    except OSError:
        pass
