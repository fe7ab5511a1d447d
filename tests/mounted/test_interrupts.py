"""Signals to programs whose requests wait: who dies leaves the queue, who lives notices nothing.

What is to happen at once happens in milliseconds, or in a second or two for asynchronous requests.
Here it gets `SOON_S`. What waits would wait for hours.
"""

from __future__ import annotations

import ctypes
import os
import signal
import subprocess
import time
from contextlib import ExitStack
from pathlib import Path

import pytest

from tests import support
from tests.mounted.asker import FILL, Asker
from tests.support import Mounted, MountFactory, run_throttlefs, wait_for
from tests.trust.daemon_counts import count
from tests.unit.host.test_tasks import SAYS_EXIT

SOON_S = 20
KIB, MIB = 1 << 10, 1 << 20
PTRACE_ATTACH, PTRACE_CONT, PTRACE_DETACH = 16, 7, 17  # ptrace(2)


def filled(mounted: Mounted, name: str, size: int = 4 * MIB) -> Path:
    (mounted.source / name).write_bytes(b"o" * size)
    return mounted.path / name


def waits(mounted: Mounted, requests: int = 1) -> None:
    """Return when so many requests wait for their limit."""
    wait_for(lambda: count(mounted).waiting >= requests, SOON_S)


def is_gone(process: subprocess.Popen[str], number: signal.Signals) -> None:
    """The process must be dead of *number* soon."""
    assert process.wait(SOON_S) == -number


def change(path: Path, *limits: str) -> None:
    result = run_throttlefs("set", path, *limits)
    assert result.returncode == 0, result.stderr


@pytest.fixture
def stuck(make_mount: MountFactory) -> Mounted:
    """The second request of each image waits for longer than anybody."""
    return make_mount("bps=1")


@pytest.mark.parametrize("what", ["read", "write"])
@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM])
def test_a_killed_program_leaves_the_queue_at_once(
    stuck: Mounted, what: str, number: signal.Signals
) -> None:
    with Asker(filled(stuck, "f"), what, 4096, 2) as asker:
        assert [asker.line(), asker.line()] == ["ready", "4096"]
        waits(stuck)
        asker.send_signal(number)
        is_gone(asker, number)
    wait_for(lambda: count(stuck).requests == 0, SOON_S)
    assert count(stuck).held_bytes == 0
    written = {"read": b"o" * 8192, "write": FILL * 4096 + b"o" * 4096}[what]
    assert (stuck.source / "f").read_bytes()[:8192] == written


def test_what_is_withdrawn_is_not_charged(stuck: Mounted) -> None:
    """The request of another program gets its place."""
    file = filled(stuck, "f")
    with Asker(file, "write", 4096) as first:
        assert [first.line(), first.line()] == ["ready", "4096"]
        with Asker(file, "write", MIB) as killed:
            waits(stuck)
            with Asker(file, "read", 4096) as other:
                waits(stuck, 2)
                killed.kill()
                is_gone(killed, signal.SIGKILL)
                began = time.monotonic()
                change(file, "bps=8K")  # 0.5 s for what the first owes, two minutes for the MiB
                assert [other.line(), other.line()] == ["ready", "4096"]
                assert time.monotonic() - began < 60
    assert (stuck.source / "f").read_bytes() == FILL * 4096 + b"o" * (4 * MIB - 4096)


def test_a_copy_that_is_withdrawn_owes_nothing_for_what_it_read(stuck: Mounted) -> None:
    source, target = filled(stuck, "source"), filled(stuck, "target")
    change(source, "bps=0", "bps_rd=8K")
    with Asker(target, "write", 4096) as first:
        assert [first.line(), first.line()] == ["ready", "4096"]
    with Asker(target, "copy", MIB, 1, f"from={source}") as copier:
        waits(stuck)
        copier.kill()
        is_gone(copier, signal.SIGKILL)
    wait_for(lambda: count(stuck).requests == 0, SOON_S)
    with Asker(source, "read", 4096, 2) as reader:
        began = time.monotonic()
        assert [reader.line() for _ in range(3)] == ["ready", "4096", "4096"]
        assert time.monotonic() - began < 60, "the copied MiB would take two minutes"


@pytest.mark.parametrize("engine", ["libaio", "io_uring"])
@pytest.mark.parametrize("what", ["randread", "randwrite"])
def test_a_killed_program_with_asynchronous_requests_is_gone_soon(
    stuck: Mounted, engine: str, what: str
) -> None:
    file = filled(stuck, "f", 16 * MIB)
    command = ["fio", "--name=j", f"--filename={file}", f"--rw={what}", f"--ioengine={engine}"]
    command += [
        "--iodepth=32",
        "--direct=1",
        "--bs=64k",
        "--size=16M",
        "--thread",
        "--allow_file_create=0",
    ]
    with subprocess.Popen(
        command, stdout=subprocess.DEVNULL, text=True, cwd=stuck.path.parent
    ) as fio:
        try:
            waits(stuck, 31)
        finally:
            fio.kill()
        is_gone(fio, signal.SIGKILL)
    if engine == "libaio" or SAYS_EXIT:  # else Linux may have let it go before anybody looked
        wait_for(lambda: count(stuck).requests == 0, SOON_S)
    first = 64 * KIB if what == "randwrite" else 0
    changed = sum(byte != ord("o") for byte in (stuck.source / "f").read_bytes()[:: 4 * KIB])
    assert changed * 4 * KIB <= first, "only the first write went"


def test_also_while_waiting_writes_fill_the_memory(make_mount: MountFactory) -> None:
    mounted = make_mount("bps=1,max_inflight=2M")
    file, other = filled(mounted, "f", 100 * MIB), filled(mounted, "g")
    with (
        Asker(file, "aio-write", MIB, 100) as writer,
        Asker(other, "read", 4096, 2) as reader,
    ):
        assert writer.line() == "submitted"
        assert [reader.line(), reader.line()] == ["ready", "4096"]
        waits(mounted, 100)
        assert count(mounted).spilled_bytes > 90 * MIB
        reader.kill()
        is_gone(reader, signal.SIGKILL)
        writer.kill()
        is_gone(writer, signal.SIGKILL)
    wait_for(lambda: count(mounted).requests == 0, SOON_S)
    left = count(mounted)
    assert (left.held_bytes, left.spilled_bytes) == (0, 0)
    opened = f"/proc/{mounted.pid}/fd"
    # O_TMPFILE: such a file is shown as #NUMBER.
    wait_for(lambda: not any(link.startswith("/var/tmp/#") for link in links(opened)), SOON_S)
    assert (mounted.source / "f").read_bytes() == FILL * MIB + b"o" * 99 * MIB


def test_also_while_nothing_can_be_taken(
    make_mount: MountFactory, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The memory is full, and the file of waiting data cannot be written: no INTERRUPT comes."""
    with monkeypatch.context() as patch:
        patch.setattr(support, "THROTTLEFS", ["prlimit", "--fsize=65536", *support.THROTTLEFS])
        mounted = make_mount("bps=1,max_inflight=4M")
    file, other = filled(mounted, "f", 60 * MIB), filled(mounted, "g")
    with Asker(other, "read", 4096, 2) as reader:
        assert [reader.line(), reader.line()] == ["ready", "4096"]
        waits(mounted)
        with Asker(file, "aio-write", MIB, 60) as writer:
            assert writer.line() == "submitted"
            wait_for(lambda: count(mounted).held_bytes >= 4 * MIB, SOON_S)
            reader.kill()
            is_gone(reader, signal.SIGKILL)
            assert count(mounted).held_bytes >= 4 * MIB
            writer.kill()
            is_gone(writer, signal.SIGKILL)
    assert other.stat().st_size == 4 * MIB
    assert "stay in memory" in mounted.log


def links(directory: str) -> list[str]:
    found = []
    for name in os.listdir(directory):
        try:
            found.append(os.readlink(f"{directory}/{name}"))
        except OSError:
            pass
    return found


def test_sigquit_dumps_core_at_once(stuck: Mounted) -> None:
    with Asker(filled(stuck, "f"), "read", 4096, 2, "core") as asker:
        assert [asker.line(), asker.line()] == ["ready", "4096"]
        waits(stuck)
        os.kill(asker.pid, signal.SIGQUIT)
        deadline = time.monotonic() + SOON_S
        while True:
            pid, status = os.waitpid(asker.pid, os.WNOHANG)
            if pid:
                break
            assert time.monotonic() < deadline
            time.sleep(0.01)
        asker.returncode = -os.WTERMSIG(status)
    assert os.WTERMSIG(status) == signal.SIGQUIT
    if Path("/proc/sys/kernel/core_pattern").read_text().strip() == "core":
        assert os.WCOREDUMP(status)


@pytest.mark.parametrize("before", [signal.SIGALRM, signal.SIGSTOP])
def test_a_kill_after_another_signal_is_seen(stuck: Mounted, before: signal.Signals) -> None:
    """The kernel says only once that a request was interrupted."""
    with Asker(filled(stuck, "f"), "read", 4096, 2, "restart") as asker:
        assert [asker.line(), asker.line()] == ["ready", "4096"]
        waits(stuck)
        asker.send_signal(before)
        time.sleep(0.3)
        assert asker.poll() is None
        asker.kill()
        is_gone(asker, signal.SIGKILL)


def attach_and_detach(pid: int) -> None:
    """Be the debugger of *pid* for a while, and take a SIGQUIT from it (ptrace(2))."""
    ptrace = ctypes.CDLL(None, use_errno=True).ptrace
    ptrace.argtypes = [ctypes.c_long, ctypes.c_long, ctypes.c_void_p, ctypes.c_void_p]
    assert ptrace(PTRACE_ATTACH, pid, None, None) == 0
    os.kill(pid, signal.SIGQUIT)
    stops = set()
    while signal.SIGQUIT not in stops:
        _, status = os.waitpid(pid, 0)  # it stops when its request is answered
        assert os.WIFSTOPPED(status)
        stops.add(os.WSTOPSIG(status))
        if signal.SIGQUIT not in stops:
            assert ptrace(PTRACE_CONT, pid, None, None) == 0
    assert ptrace(PTRACE_DETACH, pid, None, None) == 0


def test_who_lives_notices_nothing(make_mount: MountFactory) -> None:
    """Neither a handled signal nor a debugger nor the end of a thread cuts anything short."""
    mounted = make_mount("bps=128K")
    size = 192 * KIB  # each takes 1.5 s

    with ExitStack() as stack:

        def start(what: str, requests: int, *options: str) -> Asker:
            file = filled(mounted, f"{what}{options}".replace("'", ""))
            return stack.enter_context(Asker(file, what, size, requests, *options))

        alarmed = [
            start(what, 2, option) for what in ("read", "write") for option in ("alarm", "restart")
        ]
        stopped, traced = start("read", 2), start("write", 2)
        asynchronous = [
            start("aio-read", 3, "thread"),
            start("aio-write", 3, "thread", "alarm"),
            start("aio-write", 4),
        ]
        exits = start("aio-write", 3, "thread", "exit")
        for one in (stopped, traced):
            assert [one.line(), one.line()] == ["ready", str(size)]
        stopped.send_signal(signal.SIGSTOP)
        asynchronous[2].send_signal(signal.SIGSTOP)
        attach_and_detach(traced.pid)
        stopped.send_signal(signal.SIGCONT)
        asynchronous[2].send_signal(signal.SIGCONT)
        assert [stopped.line(), traced.line()] == [str(size)] * 2
        for one in alarmed:
            assert [one.line() for _ in range(3)] == ["ready", str(size), str(size)]
        for one, requests in zip(asynchronous, (3, 3, 4), strict=True):
            assert [one.line() for _ in range(requests + 1)] == [
                "submitted",
                *[str(size)] * requests,
            ]
        for one in (*alarmed, stopped, traced, *asynchronous, exits):
            assert one.wait(SOON_S) == 0
    (file,) = (file for file in mounted.source.iterdir() if "exit" in file.name)
    assert file.read_bytes()[: 3 * size] == FILL * 3 * size
