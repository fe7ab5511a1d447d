"""From whatever goes wrong in a handler to the errno that the program gets."""

from __future__ import annotations

import errno
import logging

import pyfuse3

log = logging.getLogger("throttlefs")

_MOST = 511
"""The kernel takes no reply with a larger errno (``fuse_dev_do_write``): those are its own."""


def errno_of(exc: Exception, request: str) -> int:
    """The errno to reply with to *request*: an `OSError`'s own, EIO for what nobody expected.

    The unexpected is logged with its traceback. ENOSYS becomes EOPNOTSUPP: the kernel would
    remember it for the whole mount, and every later request of its kind would not be sent.
    """
    if not isinstance(exc, OSError | pyfuse3.FUSEError) or not exc.errno:
        log.error("internal error in %s; the program gets EIO", request, exc_info=exc)
        return errno.EIO
    if exc.errno == errno.ENOSYS:
        return errno.EOPNOTSUPP
    return exc.errno if 0 < exc.errno <= _MOST else errno.EIO
