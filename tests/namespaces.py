"""Namespaces for a test (namespaces(7)), with a /run that is theirs."""

from __future__ import annotations

import os
import signal
import subprocess
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from pathlib import Path

from tests.support import THROTTLEFS, wait_for
from throttlefs.host.mountinfo import MountEntry, parse_mountinfo


class Namespace:
    """A process in namespaces of its own, which keeps them, and commands that run beside it."""

    def __init__(self, process: subprocess.Popen[bytes], pid: int, flags: list[str]) -> None:
        self._process = process
        self.pid = pid
        self._flags = flags

    def enter(self) -> list[str]:
        """What a command starts with to run in here."""
        return ["nsenter", f"--target={self.pid}", *self._flags, "--"]

    def run(
        self, *command: object, timeout: float = 60, **kwargs: object
    ) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [*self.enter(), *map(str, command)],
            capture_output=True,
            text=True,
            timeout=timeout,
            check=False,
            **kwargs,  # type: ignore[call-overload]
        )

    def throttlefs(self, *arguments: object) -> subprocess.CompletedProcess[str]:
        return self.run(*THROTTLEFS, *arguments)

    def mounts(self) -> list[MountEntry]:
        """The throttlefs mounts in here."""
        entries = parse_mountinfo(Path(f"/proc/{self.pid}/mountinfo").read_bytes())
        return [entry for entry in entries if entry.fstype == "fuse.throttlefs"]

    def points(self) -> list[str]:
        return [os.fsdecode(entry.point) for entry in self.mounts()]

    def let_go(self, keep: Collection[object] = ()) -> None:
        """Unmount in here all throttlefs mounts but *keep*."""
        for point in set(self.points()) - {*map(str, keep)}:
            self.run("umount", "--lazy", point)

    def end(self) -> None:
        """Unmount what is left, and end it."""
        self.let_go()
        os.kill(self.pid, signal.SIGKILL)
        self._process.wait()


@contextmanager
def namespace(
    *kinds: str, inside: Namespace | None = None, keep: Collection[object] = ()
) -> Iterator[Namespace]:
    """Namespaces of *kinds* (``mount``, ``pid``) beside those of *inside*, or of this process.

    A mount namespace that is not inside another gets a /run of its own, and none of the throttlefs
    mounts outside but *keep*: their daemons would wait for us.
    """
    flags = [f"--{kind}" for kind in kinds]
    command = ["unshare", *flags, "--propagation=private"] if "mount" in kinds else ["unshare"]
    if "pid" in kinds:
        command += ["--fork", "--pid"]
        if "mount" in kinds:
            command.append("--mount-proc")
    before = inside.enter() if inside else []
    process = subprocess.Popen([*before, *command, "sleep", "infinity"])

    def sleeper() -> int | None:
        candidates = [process.pid, *children(process.pid)]
        for pid in candidates:
            try:
                if Path(f"/proc/{pid}/comm").read_text() == "sleep\n":
                    return pid
            except FileNotFoundError:
                pass
        return None

    wait_for(lambda: sleeper() is not None)
    pid = sleeper()
    assert pid is not None
    inherited = inside._flags if inside else []
    found = Namespace(process, pid, sorted({*flags, *inherited}))
    try:
        if "mount" in kinds and inside is None:
            found.let_go(keep)
            assert found.run("mount", "-t", "tmpfs", "tmpfs", "/run").returncode == 0
        yield found
    finally:
        found.end()


def children(pid: int) -> list[int]:
    """The children of *pid*, and theirs."""
    try:
        found = [int(c) for c in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]
    except (FileNotFoundError, ProcessLookupError):
        return []
    return found + [grandchild for child in found for grandchild in children(child)]
