"""Finds whether a mount is still served, and comes back even if nobody answers."""

from __future__ import annotations

import errno
import os
import select
import signal

from . import descriptors, runtime
from .mountinfo import MountEntry

_ANSWER_WITHIN_S = 2.0


def is_dead(mount: MountEntry, within_s: float = _ANSWER_WITHIN_S) -> bool:
    """Whether the mount's daemon is gone, so that every access fails with ENOTCONN.

    A mount that does not answer within *within_s* seconds is not dead. A daemon must not ask this
    of its own mount.
    """
    record = runtime.read_record(mount)
    if record is not None and record.can_be_judged():
        return not record.is_alive()
    return _ask(mount.point, within_s) == errno.ENOTCONN


def answers(mount: MountEntry, within_s: float) -> bool:
    """Whether the mount answers within *within_s* seconds, even if only with an error."""
    return _ask(mount.point, within_s) != errno.ETIMEDOUT


def _ask(point: bytes, within_s: float) -> int:
    """The errno of a statvfs(2) of *point*, 0 if it succeeds; ETIMEDOUT if there is no answer.

    A process cannot be killed while a daemon has read its request and does not answer. So a child
    process asks, and it is left behind if necessary.
    """
    # Not stat, which the kernel answers from its cache for attr_timeout.
    child = os.fork()
    if child == 0:
        number = errno.EIO
        try:
            # A reader that waits for the end of our output must not wait for this child.
            descriptors.let_go_of((0, 1, 2))
            descriptors.close_all(descriptors.beside_standard())
            os.statvfs(point)
            number = 0
        except OSError as exc:
            number = exc.errno or errno.EIO
        finally:
            os._exit(number)
    pidfd = os.pidfd_open(child)
    try:
        poller = select.poll()
        poller.register(pidfd, select.POLLIN)
        if not poller.poll(within_s * 1000):
            os.kill(child, signal.SIGKILL)
            return errno.ETIMEDOUT
        _, status = os.waitpid(child, 0)
        return max(os.waitstatus_to_exitcode(status), 0)
    finally:
        os.close(pidfd)
