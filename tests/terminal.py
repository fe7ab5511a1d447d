"""A terminal for tests, and what is on its screen."""

from __future__ import annotations

import fcntl
import os
import pty
import select
import struct
import sys
import termios

import pyte

from tests.support import THROTTLEFS, wait_for


class Terminal:
    """A pseudo-terminal of *width* columns with a command of throttlefs in it, and its screen."""

    def __init__(self, *args: object, width: int = 110, term: str = "xterm-256color") -> None:
        self.screen = pyte.Screen(width, 24)
        self._stream = pyte.ByteStream(self.screen)
        self.pid, self.fd = pty.fork()
        if self.pid == 0:
            fcntl.ioctl(0, termios.TIOCSWINSZ, struct.pack("HHHH", 24, width, 0, 0))
            # An environment of its own: readline puts COLUMNS and LINES behind os.environ's back.
            environment = {**os.environ, "TERM": term}
            command = [*THROTTLEFS, *map(str, args)]
            os.execve(sys.executable, command, environment)

    def text(self) -> str:
        while select.select([self.fd], [], [], 0)[0]:
            try:
                data = os.read(self.fd, 65536)
            except OSError:  # EIO: the other side is closed
                break
            if not data:
                break
            self._stream.feed(data)
        return "\n".join(line.rstrip() for line in self.screen.display)

    def press(self, key: str) -> None:
        os.write(self.fd, key.encode())

    def wait_for(self, text: str) -> None:
        try:
            wait_for(lambda: text in self.text())
        except AssertionError:
            raise AssertionError(f"no {text!r} on the screen:\n{self.text()}") from None

    def end(self) -> int:
        wait_for(lambda: self.text() is not None and self._reap())
        return self.status

    def _reap(self) -> bool:
        pid, status = os.waitpid(self.pid, os.WNOHANG)
        self.status = os.waitstatus_to_exitcode(status) if pid else -1
        return bool(pid)
