"""Mounts whose daemon is gone or does not answer, and the daemon's own at its end."""

from __future__ import annotations

import ctypes
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support import MountFactory, clear_away, needs_root, run_throttlefs, wait_for
from throttlefs.host import runtime
from throttlefs.host.liveness import is_dead
from throttlefs.host.mountinfo import mounted_at

_PIDFD_GETFD = 438  # the same number on every architecture (pidfd_getfd(2), Linux 5.6)


def kill_daemon(pid: int) -> None:
    os.kill(pid, signal.SIGKILL)
    wait_for(lambda: runtime.process_start_time(pid) is None)


def test_list_marks_a_dead_mount_only(make_mount: MountFactory, tmp_path: Path) -> None:
    alive = make_mount()
    dead = make_mount(target=tmp_path / "dead")
    kill_daemon(dead.pid)
    listed = json.loads(run_throttlefs("list", "--json").stdout)
    found = {mount["target"]: mount["dead"] for mount in listed}
    assert (found[str(alive.path)], found[str(dead.path)]) == (False, True)
    record_of(dead.path).unlink()
    record_of(dead.path, "sock").unlink()
    listed = json.loads(run_throttlefs("list", "--json").stdout)
    assert {"source": str(dead.source), "target": str(dead.path), "dead": True} in listed
    assert run_throttlefs("umount", dead.path).returncode == 0


def record_of(point: Path, extension: str = "json") -> Path:
    entry = mounted_at(os.fsencode(point))
    assert entry is not None
    return Path(runtime.runtime_directory()) / f"{entry.major}-{entry.minor}.{extension}"


def test_a_dead_mount_without_a_record_is_found_out_by_asking_it(make_mount: MountFactory) -> None:
    mounted = make_mount()
    file = os.open(mounted.path / "f", os.O_WRONLY | os.O_CREAT)  # else a plain umount would do
    kill_daemon(mounted.pid)
    record_of(mounted.path).unlink()
    try:
        # The kernel ends the connection when the daemon's last thread has ended.
        wait_for(lambda: is_dead(mounted.entry))
        assert run_throttlefs("umount", mounted.path).returncode == 0
        assert not mounted.is_mounted()
    finally:
        close(file)


def close(file: int) -> None:
    """close(2), which may say that the daemon is gone."""
    try:
        os.close(file)
    except OSError:
        pass


def test_a_mount_that_does_not_answer_is_asked_for_a_while_only(make_mount: MountFactory) -> None:
    mounted = make_mount()
    record_of(mounted.path).unlink()
    os.kill(mounted.pid, signal.SIGSTOP)
    try:
        began = time.monotonic()
        assert not is_dead(mounted.entry, within_s=0.2)
        assert time.monotonic() - began < 20
        # Whoever waits for the end of its output does not wait for what is left behind.
        assert run_throttlefs("list", timeout=30).returncode == 0
    finally:
        os.kill(mounted.pid, signal.SIGCONT)


_WITHOUT_FUSECTL = """
import throttlefs.host.fusectl as fusectl
fusectl.open_connection = lambda _mount: None
"""

_MAIN = """
from throttlefs.cli.main import main
main()
"""

_FAILING = """
import sys, trio
import throttlefs.daemon.mount as mount

async def fail(*_arguments):
    await trio.to_thread.run_sync(sys.stdin.readline)
    raise RuntimeError("fails on purpose")

mount.let_go_of_deleted = fail
"""


@needs_root("take the descriptor of another process")
@pytest.mark.parametrize("before", ["", _WITHOUT_FUSECTL], ids=["fusectl", "no fusectl"])
def test_a_daemon_that_fails_does_not_ask_its_own_mount(
    directories: tuple[Path, Path], before: str
) -> None:
    """Not even if somebody else has its end of the connection, so that nobody would answer."""
    source, target = directories
    command = [sys.executable, "-c", before + _FAILING + _MAIN, "mount", "-f", source, target]
    with subprocess.Popen(
        command, stdin=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as daemon:
        kept: list[int] = []
        try:
            wait_for(lambda: mounted_at(os.fsencode(target)) is not None, 20)
            os.listdir(target)
            kept = copies_of(daemon.pid, "/dev/fuse")
            _, message = daemon.communicate("go on\n", timeout=30)
            assert "fails on purpose" in message
            assert daemon.returncode != 0
            assert mounted_at(os.fsencode(target)) is None
        finally:
            if daemon.poll() is None:
                daemon.kill()
            for descriptor in kept:
                os.close(descriptor)


@pytest.mark.parametrize("server", ["own", "pyfuse3"])
def test_a_second_signal_ends_it_at_once_without_fusectl(
    directories: tuple[Path, Path], server: str
) -> None:
    source, target = directories
    script = _WITHOUT_FUSECTL + _MAIN
    command = [sys.executable, "-c", script, "mount", "-f", source, target, "-o"]
    with subprocess.Popen(
        [*command, f"server={server}"], stderr=subprocess.PIPE, text=True
    ) as daemon:
        wait_for(lambda: mounted_at(os.fsencode(target)) is not None, 20)
        file = os.open(target / "f", os.O_WRONLY | os.O_CREAT)
        daemon.send_signal(signal.SIGTERM)
        assert daemon.stderr is not None
        while "SIGTERM" not in daemon.stderr.readline():
            pass
        daemon.send_signal(signal.SIGTERM)
        daemon.communicate(timeout=8)  # before the grace is over
        assert daemon.returncode == 1
        assert mounted_at(os.fsencode(target)) is None
        with pytest.raises(OSError, match=r"not connected|abort"):
            os.write(file, b"x")
        close(file)


@pytest.fixture
def directories(tmp_path: Path) -> Iterator[tuple[Path, Path]]:
    source, target = tmp_path / "src", tmp_path / "mnt"
    source.mkdir()
    target.mkdir()
    yield source, target
    clear_away(target)


def copies_of(pid: int, path: str) -> list[int]:
    """Copies of the descriptors of *path* that the process *pid* has."""
    pidfd = os.pidfd_open(pid)
    copies = []
    for link in Path(f"/proc/{pid}/fd").iterdir():
        try:
            if os.readlink(link) != path:
                continue
        except FileNotFoundError:
            continue  # closed meanwhile
        copy = ctypes.CDLL(None, use_errno=True).syscall(_PIDFD_GETFD, pidfd, int(link.name), 0)
        assert copy >= 0, os.strerror(ctypes.get_errno())
        copies.append(int(copy))
    os.close(pidfd)
    assert copies
    return copies
