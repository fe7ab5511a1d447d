"""The file of ``-o fault_log``: a line of JSON for each fault that happened."""

from __future__ import annotations

import json
import logging
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import trio

from throttlefs.errors import ThrottlefsError
from throttlefs.host import trusted

log = logging.getLogger("throttlefs")

_MOST_WAITING = 100_000
"""How many lines may wait to be written; what comes beyond is counted and left out."""


class FaultLog:
    """Appends lines to the file *path*, in a thread, for it may lie on a slow disk.

    Raises `ThrottlefsError` if it cannot be opened.
    """

    def __init__(self, path: str) -> None:
        flags = os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC | os.O_NOCTTY | os.O_NONBLOCK
        try:
            self._fd = trusted.open_file(path, flags)
        except OSError as exc:
            raise ThrottlefsError(f"cannot write the fault log {path}: {exc.strerror}") from None
        self._path = path
        self._lines: list[str] = []
        self._left_out = 0
        self._has_failed = False
        self._news = trio.Event()

    def add(self, record: Mapping[str, Any]) -> None:
        """Append a line for *record*, soon; never waits."""
        if len(self._lines) >= _MOST_WAITING:
            self._left_out += 1
            return
        if self._left_out:
            self._lines.append(json.dumps({"left_out": self._left_out}))
            self._left_out = 0
        self._lines.append(json.dumps(record))
        self._news.set()

    async def run(self) -> None:
        """Write what is added until cancelled; the rest is written by `close`."""
        while True:
            await self._news.wait()
            self._news = trio.Event()
            lines, self._lines = self._lines, []
            await trio.to_thread.run_sync(self._write, lines)

    def _write(self, lines: list[str]) -> None:
        data = "".join(line + "\n" for line in lines).encode()
        try:
            while data:
                data = data[os.write(self._fd, data) :]
        except OSError as exc:
            if not self._has_failed:
                self._has_failed = True
                log.error("cannot write the fault log %s: %s", self._path, exc.strerror)

    def close(self) -> None:
        """Write what is left and close the file."""
        self._write(self._lines)
        os.close(self._fd)


@contextmanager
def opened_fault_log(path: str | None) -> Iterator[FaultLog | None]:
    """The fault log *path*, closed at the end; None without a path. Raises `ThrottlefsError`."""
    if path is None:
        yield None
        return
    opened = FaultLog(path)
    try:
        yield opened
    finally:
        opened.close()
