"""Turns the exceptions of handlers into the errno that the program gets."""

from __future__ import annotations

import errno
import logging

import pyfuse3

log = logging.getLogger("throttlefs")

_MOST = 511
"""The kernel refuses a reply with a larger errno (``fuse_dev_do_write``): those are its own."""


def errno_of(exc: Exception, request: str) -> int:
    """The errno to reply with to *request*: that of an `OSError`, EIO for any other exception.

    Other exceptions are logged with their traceback. ENOSYS becomes EOPNOTSUPP, because the kernel
    remembers ENOSYS for the whole mount and sends no later request of that kind.
    """
    if not isinstance(exc, OSError | pyfuse3.FUSEError) or not exc.errno:
        log.error("internal error in %s; the program gets EIO", request, exc_info=exc)
        return errno.EIO
    if exc.errno == errno.ENOSYS:
        return errno.EOPNOTSUPP
    return exc.errno if 0 < exc.errno <= _MOST else errno.EIO
