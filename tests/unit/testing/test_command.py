"""The command, run by the process that is kept for it."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support import wait_for
from throttlefs.errors import ThrottlefsError, UsageError
from throttlefs.testing import command, warm
from throttlefs.testing.command import run_command


@pytest.fixture(autouse=True)
def own_process() -> Iterator[None]:
    """No process is kept before the test, nor after it."""
    let_go()
    yield
    let_go()


def let_go() -> None:
    while command._kept:
        command._kept.pop().close()
    wait_for(lambda: not kept_by(os.getpid()))


def kept_by(pid: int) -> list[int]:
    """The processes that are kept for *pid*."""
    found = []
    for name in filter(str.isdigit, os.listdir("/proc")):
        try:
            arguments = Path(f"/proc/{name}/cmdline").read_bytes().split(b"\0")
        except OSError:
            continue
        is_kept = b"throttlefs.testing.warm" in b" ".join(arguments)
        if is_kept and arguments[-2] == str(pid).encode():
            found.append(int(name))
    return found


def only_one_kept_by(pid: int) -> int:
    """The one that is left when those that it has forked have ended."""
    wait_for(lambda: len(kept_by(pid)) == 1)
    return kept_by(pid)[0]


def test_it_runs_and_is_kept() -> None:
    run_command("list")
    first = only_one_kept_by(os.getpid())
    run_command("list")
    assert only_one_kept_by(os.getpid()) == first
    assert os.readlink(f"/proc/{first}/cwd") == "/", "it would keep a mount busy"


@pytest.mark.parametrize(
    ("arguments", "kind", "said"),
    [
        (["umount", "/no-such"], ThrottlefsError, "/no-such is not a mount point; see the mounts"),
        (["mount", "/", "/", "-o", "bsp=1"], UsageError, "unknown option 'bsp'; did you mean"),
        (["no-such-command"], UsageError, "No such command 'no-such-command'"),
    ],
)
def test_its_failure_is_an_exception(
    arguments: list[str], kind: type[ThrottlefsError], said: str
) -> None:
    for _ in range(2):
        with pytest.raises(kind) as failed:
            run_command(*arguments)
        assert str(failed.value).startswith(said)
        assert "\n" not in str(failed.value)


def test_it_sees_the_environment_and_the_directory_of_now(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run_command("list")
    (tmp_path / "src").mkdir()
    (tmp_path / "mnt").mkdir()
    (tmp_path / "mnt" / "file").touch()
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ThrottlefsError, match="DST mnt is not empty"):
        run_command("mount", "src", "mnt")
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(tmp_path / "mnt"))
    (tmp_path / "mnt" / "file").unlink()
    if os.geteuid() != 0:
        with pytest.raises(ThrottlefsError, match="the runtime directory"):
            run_command("mount", "src", "mnt")
        assert not list((tmp_path / "mnt").iterdir())
    monkeypatch.setenv("PATH", "/no-such")
    if os.geteuid() != 0:
        with pytest.raises(ThrottlefsError, match="fusermount3 is missing"):
            run_command("mount", "src", "mnt")


def test_a_process_that_was_killed_is_started_again() -> None:
    run_command("list")
    first = only_one_kept_by(os.getpid())
    os.kill(first, signal.SIGKILL)
    wait_for(lambda: not kept_by(os.getpid()))
    run_command("list")
    assert only_one_kept_by(os.getpid()) != first


def test_a_request_that_nobody_took_is_made_again() -> None:
    run_command("list")
    first = only_one_kept_by(os.getpid())
    os.kill(first, signal.SIGSTOP)
    errors: list[BaseException] = []

    def ask() -> None:
        try:
            run_command("list")
        except BaseException as exc:
            errors.append(exc)

    thread = threading.Thread(target=ask)
    thread.start()
    wait_for(command._lock.locked)
    os.kill(first, signal.SIGKILL)
    thread.join(60)
    assert not thread.is_alive()
    assert errors == []


def test_an_interrupt_stays_one_when_the_command_goes_on(monkeypatch: pytest.MonkeyPatch) -> None:
    """Even if it does not end the system call: another thread takes the signal."""
    run_command("list")
    kept = only_one_kept_by(os.getpid())
    reading: list[int] = []  # no Event: an interrupt in one leaves its lock held
    read_to_end = warm._read_to_end

    def read(descriptor: int, deadline: float) -> bytes:
        reading.append(descriptor)
        return read_to_end(descriptor, deadline)

    monkeypatch.setattr(warm, "_read_to_end", read)
    monkeypatch.setattr(warm, "_AFTER_INTERRUPT_S", 0.0)

    def interrupt() -> None:
        wait_for(lambda: bool(reading), 60)
        signal.pthread_kill(threading.get_ident(), signal.SIGINT)

    os.kill(kept, signal.SIGSTOP)
    thread = threading.Thread(target=interrupt)
    began = time.monotonic()
    thread.start()
    try:
        with pytest.raises(KeyboardInterrupt):
            run_command("list")
    finally:
        os.kill(kept, signal.SIGKILL)
        thread.join()
    assert time.monotonic() - began < command._MOST_S / 2, "it waited for the command"


def test_a_forked_child_has_its_own() -> None:
    run_command("list")
    before = only_one_kept_by(os.getpid())
    child = os.fork()
    if child == 0:
        try:
            run_command("list")
            only_one_kept_by(os.getpid())
            os._exit(0)
        finally:
            os._exit(2)
    assert os.waitpid(child, 0)[1] == 0
    wait_for(lambda: not kept_by(child))
    assert only_one_kept_by(os.getpid()) == before


PROGRAM = """
import os, sys, time
from throttlefs.testing.command import run_command
run_command("list")
try:
    os.waitpid(-1, os.WNOHANG)
except ChildProcessError:
    print("no children", flush=True)
if sys.argv[1] == "fork" and os.fork() == 0:
    time.sleep(1000)  # holds the socket
print("ready", flush=True)
sys.stdin.read()
"""


@pytest.mark.parametrize("how", ["end", "kill", "fork"])
def test_it_ends_with_its_owner_and_is_no_child_of_it(how: str) -> None:
    with subprocess.Popen(
        [sys.executable, "-c", PROGRAM, how],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        start_new_session=True,
        text=True,
    ) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        assert process.stdout.readline() == "no children\n"
        assert process.stdout.readline() == "ready\n"
        only_one_kept_by(process.pid)
        if how == "end":
            process.stdin.close()
        else:
            process.kill()
        process.wait()
        wait_for(lambda: not kept_by(process.pid))
        if how == "fork":
            os.killpg(process.pid, signal.SIGKILL)
