"""Many processes, each with one request under way, that can be killed at once.

A program of its own: ``python -S -E waiters.py DIRECTORY COUNT read|write``. It forks COUNT
children into one process group. Each opens one of ten images in DIRECTORY, or a file of its own
to write to. Once all have, it prints the group's number; once its input has ended each child reads
or writes a block, and then sleeps. When all are gone it prints how many were killed, and ends.
"""

import os
import subprocess
import sys
import time
from pathlib import Path

BLOCK = 4096
WRITTEN = 64 << 10
IMAGES = 10


class Waiters:
    """*count* processes that read or write; `kill` kills them all at once."""

    def __init__(self, directory: Path, count: int, what: str) -> None:
        self._count = count
        self._parent = subprocess.Popen(
            [sys.executable, "-S", "-E", __file__, str(directory), str(count), what],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        assert self._parent.stdout is not None
        self._group = int(self._parent.stdout.readline())

    def __enter__(self) -> "Waiters":
        return self

    def __exit__(self, *_: object) -> None:
        """Leave none behind, whatever became of the test."""
        if self._parent.poll() is None:
            self.kill()
            self._parent.kill()
            self._parent.wait()

    def go(self) -> None:
        """Let each of them ask for its block."""
        assert self._parent.stdin is not None
        self._parent.stdin.close()
        self._parent.stdin = None

    def kill(self) -> None:
        os.killpg(self._group, 9)

    def wait_until_gone(self, seconds: float) -> None:
        """All of them must end within *seconds*, killed; none by itself."""
        output, _ = self._parent.communicate(timeout=seconds)
        assert int(output) == self._count, f"{output} of {self._count} were killed"


def _request(directory: str, number: int, what: str, opened: int, go: int) -> None:
    if what == "read":
        fd = os.open(f"{directory}/image-{number % IMAGES}", os.O_RDONLY)
    else:
        fd = os.open(f"{directory}/own-{number}", os.O_WRONLY | os.O_CREAT)
    os.write(opened, b"x")
    os.read(go, 1)  # the end of it
    if what == "read":
        os.pread(fd, BLOCK, number % 64 * BLOCK)
    else:
        os.pwrite(fd, bytes(WRITTEN), 0)
    time.sleep(600)  # not for ever, should nobody be left to kill it


def _main(directory: str, count: int, what: str) -> None:
    opened, open_end = os.pipe()
    go, go_end = os.pipe()
    children: list[int] = []
    for number in range(count):
        pid = os.fork()
        if not pid:
            try:
                os.close(go_end)
                _request(directory, number, what, open_end, go)
            finally:
                os._exit(1)
        children.append(pid)
        os.setpgid(pid, children[0])
    for _ in range(count):
        os.read(opened, 1)
    print(children[0], flush=True)
    sys.stdin.read()
    os.close(go_end)
    statuses = [os.waitpid(pid, 0)[1] for pid in children]
    print(sum(os.WIFSIGNALED(status) and os.WTERMSIG(status) == 9 for status in statuses))


if __name__ == "__main__":
    _main(sys.argv[1], int(sys.argv[2]), sys.argv[3])
