"""What a mount is started with: closed streams, locks and pipes of others, ignored signals."""

from __future__ import annotations

import fcntl
import os
import signal
import subprocess
from collections.abc import Iterator
from itertools import product
from pathlib import Path

import pytest

from tests.support import THROTTLEFS, clear_away, run_throttlefs, wait_for
from throttlefs.host import runtime
from throttlefs.host.mountinfo import mounted_at

COMBINATIONS = list(product([False, True], repeat=3))
CLOSED = [" ".join(f"{n}>&-" for n in range(3) if closed[n]) or "none" for closed in COMBINATIONS]
closed_streams = pytest.mark.parametrize("closed", CLOSED)


@pytest.fixture
def directories(tmp_path: Path) -> Iterator[tuple[Path, Path]]:
    source, target = tmp_path / "src", tmp_path / "mnt"
    source.mkdir()
    target.mkdir()
    (source / "f").write_text("seen")
    yield source, target
    clear_away(target)


def with_closed(closed: str, *args: object) -> list[str]:
    """The command, run by a shell that closes the streams that *closed* names."""
    redirections = "" if closed == "none" else closed
    return ["sh", "-c", f'exec "$@" {redirections}', "sh", *THROTTLEFS, *map(str, args)]


def read(path: Path) -> str:
    """What is in the file, read by a process that can be left alone if the mount hangs."""
    result = subprocess.run(
        ["timeout", "-k", "1", "10", "cat", path], capture_output=True, text=True, check=False
    )
    return result.stdout or result.stderr


def pid_of_daemon(target: Path) -> int:
    entry = mounted_at(os.fsencode(target))
    record = entry and runtime.read_record(entry)
    assert record is not None
    return record.pid


@closed_streams
def test_closed_streams_in_the_background(directories: tuple[Path, Path], closed: str) -> None:
    source, target = directories
    command = with_closed(closed, "mount", source, target)
    assert subprocess.run(command, timeout=30, check=False).returncode == 0
    assert read(target / "f") == "seen"
    (target / "g").write_text("written")
    assert (source / "g").read_text() == "written"
    streams = [os.readlink(f"/proc/{pid_of_daemon(target)}/fd/{n}") for n in range(3)]
    assert streams == ["/dev/null"] * 3
    umount = with_closed(closed, "umount", target)
    assert subprocess.run(umount, timeout=30, check=False).returncode == 0
    assert mounted_at(os.fsencode(target)) is None


@closed_streams
def test_closed_streams_in_the_foreground(directories: tuple[Path, Path], closed: str) -> None:
    source, target = directories
    with subprocess.Popen(with_closed(closed, "mount", "-f", source, target)) as process:
        wait_for(lambda: mounted_at(os.fsencode(target)) is not None, 20)
        assert read(target / "f") == "seen"
        process.send_signal(signal.SIGTERM)
        assert process.wait(20) == 0
    assert mounted_at(os.fsencode(target)) is None


@closed_streams
def test_closed_streams_and_a_mistake(directories: tuple[Path, Path], closed: str) -> None:
    """The exit status tells of it, and so does stderr if it is there; nothing else is written."""
    source, target = directories
    command = with_closed(closed, "mount", source, target, "-o", "bsp=1M")
    result = subprocess.run(command, capture_output=True, text=True, timeout=30, check=False)
    line = "throttlefs: unknown option 'bsp'; did you mean 'bps'?\n"
    assert (result.returncode, result.stdout) == (2, "")
    assert result.stderr == ("" if "2>" in closed else line)
    assert mounted_at(os.fsencode(target)) is None


def test_a_background_mount_keeps_no_lock_and_no_pipe(
    directories: tuple[Path, Path], tmp_path: Path
) -> None:
    source, target = directories
    readable, writable = os.pipe()
    with open(tmp_path / "lock", "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        result = run_throttlefs("mount", source, target, pass_fds=(lock.fileno(), writable))
        assert (result.returncode, result.stderr) == (0, "")
    os.close(writable)
    with open(tmp_path / "lock", "w") as again:
        fcntl.flock(again, fcntl.LOCK_EX | fcntl.LOCK_NB)
    with open(readable, "rb") as pipe:
        os.set_blocking(pipe.fileno(), False)
        assert pipe.read() == b"", "nobody has the other end"
    assert read(target / "f") == "seen"


def test_a_log_that_is_given_as_a_descriptor_is_kept(
    directories: tuple[Path, Path], tmp_path: Path
) -> None:
    """As with ``exec 9>log; throttlefs mount ... --log-file /dev/fd/9``."""
    source, target = directories
    with open(tmp_path / "log", "w") as log:
        number = log.fileno()
        result = run_throttlefs(
            "mount", source, target, "--log-file", f"/dev/fd/{number}", pass_fds=(number,)
        )
        assert (result.returncode, result.stderr) == (0, "")
    assert run_throttlefs("umount", target).returncode == 0
    assert "unmounted" in (tmp_path / "log").read_text()


def test_a_foreground_mount_holds_a_lock_that_it_was_given(
    directories: tuple[Path, Path], tmp_path: Path
) -> None:
    """setlock(8) and its like run a program that holds a lock for as long as it lives."""
    source, target = directories
    with open(tmp_path / "lock", "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        command = [*THROTTLEFS, "mount", "-f", str(source), str(target)]
        process = subprocess.Popen(command, pass_fds=(lock.fileno(),), stderr=subprocess.DEVNULL)
    with process, open(tmp_path / "lock", "w") as again:
        wait_for(lambda: mounted_at(os.fsencode(target)) is not None, 20)
        with pytest.raises(BlockingIOError):
            fcntl.flock(again, fcntl.LOCK_EX | fcntl.LOCK_NB)
        process.send_signal(signal.SIGTERM)
        assert process.wait(20) == 0
        fcntl.flock(again, fcntl.LOCK_EX | fcntl.LOCK_NB)


def test_sigchld_ignored_by_who_started_it(directories: tuple[Path, Path]) -> None:
    """The command waits for its daemon all the same, and hands on what that says."""
    source, target = directories
    result = subprocess.run(
        [
            *("env", "--ignore-signal=CHLD", *THROTTLEFS, "mount", source, target),
            *("--qmp", "unix:/no/such/directory/socket"),
        ],
        capture_output=True,
        text=True,
        timeout=30,
        check=False,
    )
    assert result.returncode == 1
    assert len(result.stderr.splitlines()) == 1, result.stderr
    assert "/no/such/directory/socket" in result.stderr
    assert mounted_at(os.fsencode(target)) is None
