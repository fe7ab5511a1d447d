"""What the tests share: running the command, waiting, and clearing mounts away."""

from __future__ import annotations

import json
import os
import signal
import stat
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest

from throttlefs.host import runtime
from throttlefs.host.files import clock_of_files
from throttlefs.host.mountinfo import MountEntry, mounted_at

THROTTLEFS = [sys.executable, "-m", "throttlefs"]

IS_ROOT = os.geteuid() == 0


def needs_root(what: str) -> pytest.MarkDecorator:
    """Skip the test for ordinary users; *what* only root can do is what they read."""
    return pytest.mark.skipif(not IS_ROOT, reason=f"only root can {what}")


def run_throttlefs(
    *args: object, timeout: float = 60, **kwargs: object
) -> subprocess.CompletedProcess[str]:
    """Run the command to its end; its output is captured."""
    return subprocess.run(
        [*THROTTLEFS, *map(str, args)],
        capture_output=True,
        text=True,
        timeout=timeout,
        stdin=subprocess.DEVNULL,
        **kwargs,  # type: ignore[call-overload]
    )


@dataclass
class Mounted:
    """A live mount of the test's own."""

    source: Path
    path: Path
    entry: MountEntry
    pid: int
    log_file: Path

    @property
    def log(self) -> str:
        return self.log_file.read_text(errors="replace")

    def umount(self) -> None:
        """Unmount as a user would; must succeed and leave neither mount nor daemon."""
        result = run_throttlefs("umount", self.path)
        assert result.returncode == 0, result.stderr
        assert not self.is_mounted()
        assert runtime.process_start_time(self.pid) is None

    def is_mounted(self) -> bool:
        return mounted_at(os.fsencode(self.path)) is not None

    def wait_until_ended(self, seconds: float = 60) -> None:
        """Wait until neither mount nor daemon is left."""
        wait_for(lambda: runtime.process_start_time(self.pid) is None, seconds)
        assert not self.is_mounted()


def needs_feature(mounted: Mounted, name: str) -> None:
    """Skip the test if the kernel does not give the mount what `features` calls *name*."""
    if not features(mounted)[name]:
        pytest.skip(f"this kernel has no {name} (docs/mounting.md)")


def features(mounted: Mounted) -> dict[str, bool]:
    """What the kernel allows programs on the mount."""
    shown = json.loads(run_throttlefs("show", "--json", mounted.path).stdout)
    found: dict[str, bool] = shown["features"]
    return found


def wait_for(condition: Callable[[], bool], seconds: float = 30) -> None:
    """Poll until *condition*; fail if it does not come within *seconds*."""
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "waited in vain"
        time.sleep(0.01)


def let_the_clock_go_on() -> None:
    """A change of a file is somebody else's if it comes later than a tick of 10 ms after ours."""
    began = clock_of_files()
    wait_for(lambda: clock_of_files() > began + 30_000_000)


def clear_away(path: Path) -> None:
    """Leave nothing of a mount behind, whatever state the test left it in."""
    while (entry := mounted_at(os.fsencode(path))) is not None:
        record = runtime.read_record(entry)
        if record is not None and record.is_alive():
            os.kill(record.pid, signal.SIGKILL)
            wait_for(lambda: not record.is_alive())  # noqa: B023
        detach(path)


def detach(path: Path) -> None:
    """Unmount *path* lazily; without root this works for FUSE mounts of one's own."""
    command = ["umount", "-l"] if IS_ROOT else ["fusermount3", "-u", "-z"]
    subprocess.run([*command, str(path)], check=True)


def let_others_in(path: Path) -> None:
    """Let other users pass through pytest's private directories to *path*."""
    for directory in (path, *path.parents):
        if directory == Path(tempfile.gettempdir()) or directory.stat().st_uid != os.geteuid():
            break
        mode = stat.S_IMODE(directory.stat().st_mode)
        if mode & 0o011 != 0o011:
            directory.chmod(mode | 0o011)


def fails(*args: object, status: int = 1) -> str:
    """Run the command, which must fail with one clear line; returns the line."""
    result = run_throttlefs(*args)
    assert result.returncode == status, result.stderr
    assert result.stdout == ""
    lines = result.stderr.splitlines()
    assert len(lines) == 1, result.stderr
    assert lines[0].startswith("throttlefs: ")
    assert "Traceback" not in result.stderr
    return lines[0]


MountFactory = Callable[..., Mounted]
