"""Sends the log to stderr in the foreground, else to a file or the system's log."""

from __future__ import annotations

import logging
import os
from typing import Any

from throttlefs.errors import ThrottlefsError
from throttlefs.host import trusted
from throttlefs.settings.units import printable

_SYSLOG_SOCKET = "/dev/log"

_PRIORITIES = (  # from which level on, syslog(3)'s priority
    (logging.CRITICAL, 2),
    (logging.ERROR, 3),
    (logging.WARNING, 4),
    (logging.INFO, 6),
)


class _Formatter(logging.Formatter):
    """Escapes unprintable characters: a name in a message must not make a line of its own."""

    def formatMessage(self, record: logging.LogRecord) -> str:  # noqa: N802
        record.message = printable(record.message)
        return super().formatMessage(record)

    def formatException(self, ei: Any) -> str:  # noqa: N802
        return "\n".join(map(printable, super().formatException(ei).split("\n")))


class _JournalFormatter(_Formatter):
    """Begins each line with its ``<N>`` (sd-daemon(3)); the journal adds time, name and process."""

    def format(self, record: logging.LogRecord) -> str:
        text = super().format(record)
        priority = next((number for level, number in _PRIORITIES if record.levelno >= level), 7)
        return "\n".join(f"<{priority}>{line}" for line in text.splitlines())


def _stderr_is_the_journal() -> bool:
    """Whether systemd connected stderr to its journal: JOURNAL_STREAM, systemd.exec(5)."""
    try:
        st = os.fstat(2)
    except OSError:
        return False
    return os.environ.get("JOURNAL_STREAM") == f"{st.st_dev}:{st.st_ino}"


def _file_handler(path: str) -> logging.Handler:
    # O_NONBLOCK: a FIFO that nobody reads must not make us wait.
    flags = os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC | os.O_NOCTTY | os.O_NONBLOCK
    descriptor = trusted.open_file(path, flags)
    return logging.StreamHandler(open(descriptor, "a", errors="backslashreplace"))


def set_up_logging(foreground: bool, log_file: str | None, verbose: bool) -> None:
    """Choose where the log of throttlefs and pyfuse3 goes.

    Raises `ThrottlefsError` if *log_file* cannot be written. Without a system log (containers
    have none) the log of a background mount is dropped.
    """
    handler: logging.Handler
    if log_file is not None:
        try:
            handler = _file_handler(log_file)
        except OSError as exc:
            raise ThrottlefsError(f"cannot write the log file {log_file}: {exc.strerror}") from None
        handler.setFormatter(
            _Formatter("%(asctime)s %(name)s[%(process)d] %(levelname)s: %(message)s")
        )
    elif foreground:
        handler = logging.StreamHandler()
        handler.setFormatter(
            _JournalFormatter("%(message)s")
            if _stderr_is_the_journal()
            else _Formatter("%(name)s: %(levelname)s: %(message)s")
        )
    elif os.path.exists(_SYSLOG_SOCKET):
        from logging.handlers import SysLogHandler  # late, for it loads much more

        handler = SysLogHandler(_SYSLOG_SOCKET, SysLogHandler.LOG_DAEMON)
        handler.setFormatter(_Formatter("%(name)s[%(process)d]: %(levelname)s: %(message)s"))
    else:
        handler = logging.NullHandler()
    # When the log's disk is full, logging must not write tracebacks to stderr.
    logging.raiseExceptions = False
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(logging.WARNING)
    logging.getLogger("throttlefs").setLevel(logging.DEBUG if verbose else logging.INFO)
