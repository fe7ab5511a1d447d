"""Forks the daemon, and tells the command that waits how it started."""

from __future__ import annotations

import logging
import os
import signal
from collections.abc import Callable, Collection
from typing import NoReturn

from throttlefs.errors import ThrottlefsError
from throttlefs.host import descriptors

log = logging.getLogger("throttlefs")

_READY = b"ready"
_MAX_MESSAGE = 4096


class DaemonDiedError(ThrottlefsError):
    """The daemon ended before it could report."""


def run_in_background(
    serve: Callable[[Callable[[], None]], int], inherited: Collection[int] = ()
) -> int:
    """Fork a daemon that runs ``serve(ready)``; return its id once it called *ready*.

    The daemon closes the descriptors *inherited*: a lock or a pipe of the command's caller must not
    live as long as the mount. It points stdin and stdout at /dev/null at once, and stderr when it
    is ready. stdin, stdout and stderr must be open.

    The daemon exits with the status that *serve* returns. If *serve* raises `ThrottlefsError`
    before *ready*, this function raises it in the command that waits. Raises `DaemonDiedError` if
    the daemon dies without a report; it has then cleaned nothing up.
    """
    read_end, write_end = os.pipe()
    pid = os.fork()
    if pid == 0:
        os.close(read_end)
        _be_daemon(serve, write_end, inherited)
    os.close(write_end)
    with os.fdopen(read_end, "rb") as pipe:
        message = pipe.read(_MAX_MESSAGE)
    if message == _READY:
        return pid
    _, status = os.waitpid(pid, 0)
    if message:
        raise ThrottlefsError(message.decode("utf-8", "surrogateescape"))
    code = os.waitstatus_to_exitcode(status)
    how = f"was killed by {signal.Signals(-code).name}" if code < 0 else f"ended with status {code}"
    raise DaemonDiedError(f"the daemon {how} while it started; run with -f to see why")


def _be_daemon(
    serve: Callable[[Callable[[], None]], int], write_end: int, inherited: Collection[int]
) -> NoReturn:
    status = 1
    report_open = True

    def ready() -> None:
        nonlocal report_open
        descriptors.let_go_of((2,))
        os.write(write_end, _READY)
        os.close(write_end)
        report_open = False

    try:
        os.setsid()
        os.chdir("/")
        descriptors.close_all(inherited)
        # Before the mount: with auto_unmount fusermount3 keeps running and keeps these open.
        descriptors.let_go_of((0, 1))
        status = serve(ready)
    except ThrottlefsError as exc:
        if report_open:
            os.write(write_end, str(exc).encode("utf-8", "surrogateescape")[:_MAX_MESSAGE])
    except BaseException as exc:
        log.critical("the daemon failed", exc_info=True)
        if report_open:
            reason = f"internal error: {type(exc).__name__}: {exc}; run with -f to see more"
            os.write(write_end, reason.encode("utf-8", "surrogateescape")[:_MAX_MESSAGE])
    finally:
        # Not sys.exit: the buffers and exit handlers of the forked command must not run twice.
        logging.shutdown()
        os._exit(status)
