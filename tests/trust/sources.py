"""Filesystems of the tests' own for SRC: small, and with faults that can be switched on."""

from __future__ import annotations

import fcntl
import os
import struct
import subprocess
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from tests.support import wait_for

MIB = 1 << 20

ENVIRONMENT = {**os.environ, "PATH": f"/usr/sbin:/sbin:{os.environ['PATH']}"}

# _IOR('X', 125, __u32): FS_IOC_SHUTDOWN, which ext4 and XFS know, and "without flushing the log".
_SHUTDOWN, _WITHOUT_LOG = 0x8004587D, 2


def run(*command: object, check: bool = True) -> str:
    """Run a command of the system's; returns what it says."""
    result = subprocess.run(
        list(map(str, command)),
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        stdin=subprocess.DEVNULL,
        text=True,
        timeout=60,
        check=False,
        env=ENVIRONMENT,
    )
    assert result.returncode == 0 or not check, f"{command}: {result.stdout}"
    return result.stdout


# Each with its smallest size (MiB) and how to make it.
_KINDS: dict[str, tuple[int, list[str]]] = {
    "ext4": (48, ["mkfs.ext4", "-q", "-F", "-m", "0"]),
    "xfs": (320, ["mkfs.xfs", "-q", "-f"]),
    "btrfs": (128, ["mkfs.btrfs", "-q", "-f"]),
}


def skip_unless_known(kind: str) -> None:
    """Skip the test if this kernel does not have the kind of filesystem."""
    if kind not in Path("/proc/filesystems").read_text().split():
        pytest.skip(f"this kernel has no {kind}")


@dataclass
class Source:
    """A filesystem, mounted at *path*."""

    kind: str
    path: Path
    image: Path
    _fillers: list[Path] = field(default_factory=list)

    def free(self) -> int:
        st = os.statvfs(self.path)
        return st.f_bavail * st.f_frsize

    def fill(self, left: int) -> None:
        """Take up all but about *left* bytes."""
        path = self.path / "filler"
        self._fillers.append(path)
        smallest = 1 << 16
        with open(path, "wb") as file:
            step = self.free() - left
            while step >= smallest and (size := self.free() - left) >= smallest:
                end = os.fstat(file.fileno()).st_size
                try:
                    os.posix_fallocate(file.fileno(), end, min(step, size))
                except OSError:
                    step //= 2  # it needs some room for what it notes of the filler itself

    def make_room(self) -> None:
        while self._fillers:
            path = self._fillers.pop()
            os.truncate(path, 0)  # at once, even if a mount still looks at the file
            os.unlink(path)

    def remount(self, option: str) -> bool:
        """Whether the kernel did; it does not make read-only what is open for writing."""
        command = ["mount", "-o", f"remount,{option}", str(self.path)]
        return subprocess.run(command, capture_output=True, check=False).returncode == 0

    def shut_down(self) -> None:
        """Make the filesystem as good as lost, as it would be if the machine lost power."""
        fd = os.open(self.path, os.O_RDONLY)
        try:
            fcntl.ioctl(fd, _SHUTDOWN, struct.pack("I", _WITHOUT_LOG))
        finally:
            os.close(fd)

    def mount(self) -> None:
        options = ["-o", "size=48M"] if self.kind == "tmpfs" else ["-o", "loop"]
        what = "tmpfs" if self.kind == "tmpfs" else self.image
        run("mount", "-t", self.kind, *options, what, self.path)

    def unmount(self) -> None:
        run("umount", self.path)

    def mount_again(self) -> None:
        """After which only what was durable is there, if it had been shut down."""
        self.unmount()
        self.wait_until_free()
        self.mount()

    def wait_until_free(self) -> None:
        """Wait until nobody holds the filesystem, or a new mount would only show it again.

        Somebody may for a while: a mount namespace that was made meanwhile has copies of all.
        """
        wait_for(lambda: not run("losetup", "-j", self.image), 90)


@contextmanager
def filesystem(kind: str, directory: Path, *mkfs_options: str) -> Iterator[Source]:
    """A filesystem of its own at DIRECTORY/src."""
    path, image = directory / "src", directory / f"{kind}.img"
    path.mkdir(exist_ok=True)
    if kind != "tmpfs":
        size, command = _KINDS[kind]
        with open(image, "wb") as file:
            file.truncate(size * MIB)
        run(*command, *mkfs_options, image)
    source = Source(kind, path, image)
    source.mount()
    try:
        yield source
    finally:
        # Lazily, so that a test that failed with something open leaves nothing either.
        run("umount", "-l", path, check=False)


MakeSource = Callable[..., Source]


@contextmanager
def maker_of_sources(directory: Path) -> Iterator[MakeSource]:
    """Makes filesystems that are gone at the end."""
    with ExitStack() as stack:

        def make(kind: str, *mkfs_options: str) -> Source:
            return stack.enter_context(filesystem(kind, directory, *mkfs_options))

        yield make
