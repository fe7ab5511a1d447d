"""Keeps a process that has loaded everything and forks a command when one is asked for.

Most of the time of a mount is spent on loading modules. A program that mounts again and again, as
a run of tests does, pays that once. `Warm` is the end of the program, `serve` runs in the process
that is kept. That has one thread, so it may fork, and it ends with its owner. It is no child of
its owner, who may wait for all of his children.
"""

from __future__ import annotations

import array
import contextlib
import errno
import json
import os
import select
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Sequence
from typing import Final, NoReturn

_LONGEST: Final = 16 << 20  # bytes of a request: arguments and environment
_LENGTH: Final = 4
_DESCRIPTORS: Final = array.array("i", (0, 0)).itemsize * 2


class Warm:
    """The process that is kept for this one, which *program* starts; see `serve`."""

    def __init__(self, program: Sequence[str], environment: dict[str, str]) -> None:
        """Start it. Raises `OSError`."""
        self._identity = _identity()
        self._socket, theirs = socket.socketpair()
        with theirs:
            subprocess.run(
                [*program, str(theirs.fileno()), str(os.getpid())],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
                env=environment,
                pass_fds=[theirs.fileno()],
                start_new_session=True,  # what the terminal sends is for its owner
                check=False,
            )

    def close(self) -> None:
        """Let it end."""
        self._socket.close()

    def is_ours(self) -> bool:
        """Whether this process may ask it: not one that was forked off, or is another user now."""
        return self._identity == _identity()

    def run(
        self, arguments: Sequence[str], environment: dict[str, str], within_s: float
    ) -> tuple[int, bytes]:
        """The status of ``throttlefs`` with *arguments*, and what it says on stderr.

        Raises `OSError`: `TimeoutError` if it takes longer than *within_s* seconds, and
        `ConnectionError` if the process that is kept is gone, and the command has not begun.
        """
        request = {"arguments": list(arguments), "environment": environment, "cwd": _directory()}
        data = json.dumps(request).encode("ascii")
        said, saying = os.pipe()
        ended, ending = os.pipe()
        try:
            try:
                header = len(data).to_bytes(_LENGTH, "big")
                descriptors = array.array("i", (saying, ending))
                self._socket.sendmsg(
                    [header], [(socket.SOL_SOCKET, socket.SCM_RIGHTS, descriptors)]
                )
                self._socket.sendall(data)
            finally:
                os.close(saying)
                os.close(ending)
            try:
                text = _read_to_end(said, time.monotonic() + within_s)
                status = _read_to_end(ended, time.monotonic() + within_s)
            except BaseException:
                # An interrupt must not leave a mount that is just being made.
                with contextlib.suppress(TimeoutError):
                    _read_to_end(ended, time.monotonic() + _AFTER_INTERRUPT_S)
                raise
        finally:
            os.close(said)
            os.close(ended)
        if not status:
            raise ConnectionResetError(errno.ECONNRESET, "it ended before it began the command")
        return (status[1] if len(status) > 1 else _DIED), text


_BEGUN: Final = b"\0"  # what comes before the status
_DIED: Final = 255
_AFTER_INTERRUPT_S: Final = 10.0
_LOOK_EVERY_S: Final = 1.0


def _identity() -> tuple[int, ...]:
    """Who this process is: its id, its user, and where it sees its mounts."""
    return (os.getpid(), *os.getresuid(), *os.getresgid(), os.stat("/proc/self/ns/mnt").st_ino)


def _directory() -> str | None:
    try:
        return os.getcwd()
    except OSError:
        return None  # it is gone


def _read_to_end(descriptor: int, deadline: float) -> bytes:
    """All that comes from *descriptor* until its end. Raises `TimeoutError`."""
    poller = select.poll()
    poller.register(descriptor, select.POLLIN)
    read = bytearray()
    while True:
        left = max(0.0, deadline - time.monotonic())
        # A signal does not end poll() if it comes just before it, or to another thread.
        if not poller.poll(min(left, _LOOK_EVERY_S) * 1000):
            if left > _LOOK_EVERY_S:
                continue
            raise TimeoutError
        data = os.read(descriptor, 1 << 16)
        if not data:
            return bytes(read)
        read += data


# -- in the process that is kept -----------------------------------------------------------


def serve() -> None:
    """Fork a command for each request on the socket that argv names, until its owner ends."""
    if os.fork():
        os._exit(0)
    connection = socket.socket(fileno=int(sys.argv[1]))
    connection.set_inheritable(False)
    try:
        owner = os.pidfd_open(int(sys.argv[2]))
    except OSError:
        return
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # commands are not waited for
    from throttlefs.cli import main  # noqa: F401
    from throttlefs.daemon import mount  # noqa: F401

    os.chdir("/")  # or it would keep a mount busy that its owner is on
    poller = select.poll()
    poller.register(connection, select.POLLIN)
    poller.register(owner, select.POLLIN)
    while True:
        ready = [descriptor for descriptor, _ in poller.poll()]
        if owner in ready:
            return
        request = _receive(connection)
        if request is None:
            return
        data, descriptors = request
        if os.fork() == 0:
            os.close(owner)
            connection.close()
            # The daemon closes *ending*: it keeps nothing that its command was started with.
            _run(data, *descriptors)
        for descriptor in descriptors:
            os.close(descriptor)


def _receive(connection: socket.socket) -> tuple[bytes, list[int]] | None:
    """A request and its two descriptors; None at the end."""
    header, ancillary, _, _ = connection.recvmsg(_LENGTH, socket.CMSG_SPACE(_DESCRIPTORS))
    descriptors = array.array("i")
    for level, kind, data in ancillary:
        if (level, kind) == (socket.SOL_SOCKET, socket.SCM_RIGHTS):
            descriptors.frombytes(data)
    length = int.from_bytes(header, "big")
    if len(header) != _LENGTH or len(descriptors) != 2 or length > _LONGEST:
        return None
    request = bytearray()
    while len(request) < length:
        more = connection.recv(length - len(request))
        if not more:
            return None
        request += more
    return bytes(request), list(descriptors)


def _run(data: bytes, saying: int, ending: int) -> NoReturn:
    """Be the command: say on *saying* what stderr gets, and on *ending* that it began and ended."""
    status = 1
    try:
        os.write(ending, _BEGUN)
        request = json.loads(data)
        os.dup2(saying, 2)
        os.close(saying)
        sys.stderr = open(2, "w", closefd=False)  # noqa: SIM115  # the old one is one of a file
        os.environ.clear()
        os.environ.update(request["environment"])
        if request["cwd"] is not None:
            os.chdir(request["cwd"])
        sys.argv = ["throttlefs", *request["arguments"]]
        from throttlefs.cli.main import main

        main()
    except SystemExit as exc:
        status = exc.code if isinstance(exc.code, int) else 0
    except BaseException:
        sys.excepthook(*sys.exc_info())  # its last line becomes the message
    finally:
        sys.stderr.flush()
        os.write(ending, bytes([status & 0xFF]))
        os._exit(0)
