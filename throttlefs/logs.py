"""Where the log goes: stderr in the foreground, else a file or the system's log."""

from __future__ import annotations

import logging
import logging.handlers
import os

from .errors import ThrottlefsError

_SYSLOG_SOCKET = "/dev/log"


def set_up_logging(foreground: bool, log_file: str | None, verbose: bool) -> None:
    """Send the log of throttlefs and pyfuse3 where it belongs.

    Raises `ThrottlefsError` if *log_file* cannot be written. Without a system log (containers
    have none) the log of a background mount is dropped.
    """
    handler: logging.Handler
    if log_file is not None:
        try:
            handler = logging.FileHandler(log_file)
        except OSError as exc:
            raise ThrottlefsError(f"cannot write the log file {log_file}: {exc.strerror}") from None
        handler.setFormatter(
            logging.Formatter("%(asctime)s %(name)s[%(process)d] %(levelname)s: %(message)s")
        )
    elif foreground:
        handler = logging.StreamHandler()
        handler.setFormatter(logging.Formatter("%(name)s: %(levelname)s: %(message)s"))
    elif os.path.exists(_SYSLOG_SOCKET):
        handler = logging.handlers.SysLogHandler(
            _SYSLOG_SOCKET, logging.handlers.SysLogHandler.LOG_DAEMON
        )
        handler.setFormatter(logging.Formatter("%(name)s[%(process)d]: %(levelname)s: %(message)s"))
    else:
        handler = logging.NullHandler()
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(logging.WARNING)
    logging.getLogger("throttlefs").setLevel(logging.DEBUG if verbose else logging.INFO)
