"""A program that reads or writes a file in plain system calls, and says what came of each.

``python -S -E asker.py FILE read|write|copy|aio-read|aio-write SIZE COUNT [OPTION...]``. It asks
COUNT times for SIZE bytes, each after those before, and prints a line for each: the result, or
-errno. EINTR is not hidden, as Python would. Options:

``alarm``, ``restart``: SIGALRM comes every 20 ms and is handled, without or with SA_RESTART.
``from=FILE``: what a copy reads. ``thread``: another thread asks, and ends when all is submitted.
``exit``: call exit(0) when all is submitted. ``core``: allow a core file.
"""

import ctypes
import os
import resource
import signal
import subprocess
import sys
import threading
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[2]))

from tests.trust.kernel_aio import KernelAio, aligned_memory

FILL = b"w"

_libc = ctypes.CDLL(None, use_errno=True)
for _name in ("pread", "pwrite"):
    getattr(_libc, _name).restype = ctypes.c_ssize_t
    getattr(_libc, _name).argtypes = [
        ctypes.c_int,
        ctypes.c_void_p,
        ctypes.c_size_t,
        ctypes.c_int64,
    ]
_libc.copy_file_range.restype = ctypes.c_ssize_t
_libc.copy_file_range.argtypes = [
    ctypes.c_int,
    ctypes.c_void_p,
    ctypes.c_int,
    ctypes.c_void_p,
    ctypes.c_size_t,
    ctypes.c_uint,
]


class Asker(subprocess.Popen[str]):
    """The program, as a test starts it."""

    def __init__(self, file: Path, what: str, size: int, count: int = 1, *options: str) -> None:
        super().__init__(
            [
                sys.executable,
                "-S",
                "-E",
                __file__,
                str(file),
                what,
                str(size),
                str(count),
                *options,
            ],
            stdout=subprocess.PIPE,
            text=True,
            cwd=file.parents[1],
        )

    def __exit__(self, *details: object) -> None:
        """Leave none behind; one whose request waits ends with its mount."""
        self.kill()
        assert self.stdout is not None
        self.stdout.close()

    def line(self) -> str:
        """The next line that it prints."""
        assert self.stdout is not None
        return self.stdout.readline().strip()


def main() -> None:
    file, what, size, count, options = (
        sys.argv[1],
        sys.argv[2],
        int(sys.argv[3]),
        int(sys.argv[4]),
        sys.argv[5:],
    )
    if "core" in options:
        most = resource.getrlimit(resource.RLIMIT_CORE)[1]
        resource.setrlimit(resource.RLIMIT_CORE, (most, most))
    else:
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    if "alarm" in options or "restart" in options:
        signal.signal(signal.SIGALRM, lambda *_: None)
        signal.siginterrupt(signal.SIGALRM, "alarm" in options)
        signal.setitimer(signal.ITIMER_REAL, 0.02, 0.02)
    fd = os.open(file, os.O_RDWR | (os.O_DIRECT if what.startswith("aio") else 0))
    if what.startswith("aio"):
        ask_aio(fd, what == "aio-read", size, count, options)
        return
    source = next((os.open(o[5:], os.O_RDONLY) for o in options if o.startswith("from=")), -1)
    memory = aligned_memory(size)
    memory[:] = FILL * size
    address = ctypes.addressof(ctypes.c_char.from_buffer(memory))
    say("ready")
    for number in range(count):
        if what == "copy":
            place = ctypes.byref(ctypes.c_int64(number * size))
            result = _libc.copy_file_range(source, place, fd, place, size, 0)
        else:
            call = _libc.pread if what == "read" else _libc.pwrite
            result = call(fd, address, size, number * size)
        say(-ctypes.get_errno() if result < 0 else result)


def ask_aio(fd: int, reads: bool, size: int, count: int, options: list[str]) -> None:
    aio = KernelAio(count)

    def submit() -> None:
        for number in range(count):
            if reads:
                aio.read(number, fd, number * size, size)
            else:
                aio.write(number, fd, number * size, FILL * size)

    if "thread" in options:
        thread = threading.Thread(target=submit)
        thread.start()
        thread.join()
    else:
        submit()
    say("submitted")
    if "exit" in options:
        os._exit(0)
    done = 0
    while done < count:
        for one in aio.wait():
            say(one.result)
            done += 1


def say(what: object) -> None:
    print(what, flush=True)


if __name__ == "__main__":
    main()
    signal.setitimer(signal.ITIMER_REAL, 0)  # an interpreter that ends handles no signals
