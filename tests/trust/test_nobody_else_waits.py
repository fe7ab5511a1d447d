"""One user's or one filesystem's trouble is not everybody's: what may wait does so alone."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TypeVar

import pytest

from tests import support
from tests.failing_fs import failing_process
from tests.support import Mounted, MountFactory, wait_for
from tests.trust.daemon_counts import count
from throttlefs.host.fusectl import connection_directory
from throttlefs.host.mountinfo import mounted_at

T = TypeVar("T")

MIB = 1 << 20

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="mounts a filesystem below SRC")


def in_background(call: Callable[[], T]) -> tuple[threading.Thread, list[T]]:
    """*call* in a thread, and a list that will have its result."""
    result: list[T] = []
    thread = threading.Thread(target=lambda: result.append(call()), daemon=True)
    thread.start()
    return thread, result


def is_served(mounted: Mounted, name: str) -> None:
    """Others get their answers, within seconds on any machine, while something hangs."""
    thread, result = in_background(
        lambda: (
            os.stat(mounted.path / name),
            sorted(os.listdir(mounted.path)),
            (mounted.path / name).read_bytes(),
        )
    )
    thread.join(20)
    assert result, "others wait, too"


@contextmanager
def lease(path: Path) -> Iterator[None]:
    """A process that holds a lease on *path* and does not give it up when it is asked to."""
    script = (
        "import fcntl, os, signal, sys, time\n"
        "signal.signal(signal.SIGIO, lambda *_: None)\n"
        "fd = os.open(sys.argv[1], os.O_RDONLY)\n"
        "fcntl.fcntl(fd, fcntl.F_SETLEASE, fcntl.F_RDLCK)\n"
        "print('held', flush=True)\n"
        "while True: time.sleep(60)\n"
    )
    with subprocess.Popen(
        [sys.executable, "-c", script, path], stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "held\n"
        try:
            yield
        finally:
            process.kill()


@pytest.mark.parametrize("flags", [os.O_RDWR, os.O_WRONLY | os.O_TRUNC])
def test_opening_a_leased_file_waits_alone(make_mount: MountFactory, flags: int) -> None:
    mounted = make_mount()
    for name in ("leased", "other"):
        (mounted.source / name).write_bytes(b"x")
    with lease(mounted.source / "leased"):
        thread, opened = in_background(lambda: os.open(mounted.path / "leased", flags))
        is_served(mounted, "other")
        assert not opened
    thread.join(60)
    fd = opened[0]
    assert os.pwrite(fd, b"y", 0) == 1
    # What the daemon opened without waiting goes on to wait for the disk as any other file.
    assert not fcntl.fcntl(fd, fcntl.F_GETFL) & os.O_NONBLOCK
    os.close(fd)


def test_a_hung_filesystem_below_src_hangs_alone(make_mount: MountFactory) -> None:
    mounted = make_mount("attr_timeout=0,entry_timeout=0")
    (mounted.source / "other").write_bytes(b"x")
    (mounted.source / "below").mkdir()
    with failing_process(mounted.source / "below", 4096) as (_, _, process):
        below = mounted.path / "below/src"
        handle = os.open(below / "f", os.O_RDWR)
        assert os.pwrite(handle, b"well", 0) == 4
        process.send_signal(signal.SIGSTOP)
        try:
            calls = (
                lambda: os.stat(below),
                lambda: os.stat(below / "g"),
                lambda: os.close(os.open(below / "g", os.O_RDONLY)),
                lambda: os.pread(handle, 10, 0),
                lambda: os.pwrite(handle, b"more", 0),
                lambda: os.fsync(handle),
            )
            threads = [in_background(call)[0] for call in calls]
            is_served(mounted, "other")
        finally:
            process.send_signal(signal.SIGCONT)
        for thread in threads:
            thread.join(60)
            assert not thread.is_alive()
        os.close(handle)
        mounted.umount()


def test_files_of_a_source_that_has_died_are_let_go(
    make_mount: MountFactory, tmp_path: Path
) -> None:
    """Closing them used to leave their descriptors and images: fstat(2) failed first."""
    with failing_process(tmp_path, 4096) as (source, _, _):
        mounted = make_mount(source=source)
        handles = [os.open(mounted.path / "f", os.O_RDWR) for _ in range(50)]
        entry = mounted_at(os.fsencode(source))
        assert entry is not None
        Path(connection_directory(entry), "abort").write_text("1")
        for handle in handles:
            with contextlib.suppress(OSError):  # which says that SRC is gone
                os.close(handle)
        wait_for(lambda: count(mounted).handles == 0)
        descriptors = os.listdir(f"/proc/{mounted.pid}/fd")
        assert len(descriptors) < 50
        mounted.umount()


def test_a_file_that_cannot_be_opened_is_not_made(
    make_mount: MountFactory, monkeypatch: pytest.MonkeyPatch
) -> None:
    """At the bound on descriptors; the file used to stay, and EBADF came once."""
    limited = ["prlimit", "--nofile=256:256", *support.THROTTLEFS]
    with monkeypatch.context() as patch:
        patch.setattr(support, "THROTTLEFS", limited)
        mounted = make_mount()
    held = []
    errors = set()
    for number in range(600):
        try:
            held.append(os.open(mounted.path / f"{number}", os.O_RDWR | os.O_CREAT | os.O_EXCL))
        except OSError as exc:
            errors.add(exc.errno)
            assert not (mounted.source / f"{number}").exists()
    assert errors == {errno.EMFILE}
    assert len(os.listdir(mounted.source)) == len(held) > 50
    for fd in held:
        os.close(fd)
    wait_for(lambda: count(mounted).handles == 0)
    (mounted.path / "again").write_bytes(b"x")
    assert "internal error" not in mounted.log


def test_open_directories_hold_little(make_mount: MountFactory) -> None:
    """Each used to keep all of its names."""
    mounted = make_mount()
    directory = mounted.source / "large"
    directory.mkdir()
    for number in range(5000):
        os.mknod(directory / f"{number:04}{'n' * 240}")
    before = count(mounted).memory_kib
    handles = []
    for _ in range(200):
        fd = os.open(mounted.path / "large", os.O_RDONLY | os.O_DIRECTORY)
        handles.append(fd)
        with os.scandir(fd) as entries:  # the kernel reads on in the same open directory
            assert next(entries).name
    seen = len(os.listdir(mounted.path / "large"))
    after = count(mounted).memory_kib
    for fd in handles:
        os.close(fd)
    assert seen == 5000
    assert after - before < 100 << 10  # all names of all of them would be 250 MB and more


def test_many_forgotten_inodes_at_once_end_nothing(make_mount: MountFactory) -> None:
    """A holder of 9,000 files that are unlinked is killed while the daemon stands still."""
    mounted = make_mount()
    for number in range(9000):
        os.mknod(mounted.source / f"{number}")
    script = (
        "import os, sys, time\n"
        "held = [os.open(f'{sys.argv[1]}/{n}', os.O_PATH) for n in range(9000)]\n"
        "for n in range(9000): os.unlink(f'{sys.argv[1]}/{n}')\n"
        "print('held', flush=True)\n"
        "time.sleep(60)\n"
    )
    with subprocess.Popen(
        ["prlimit", "--nofile=10000:", sys.executable, "-c", script, mounted.path],
        stdout=subprocess.PIPE,
        text=True,
    ) as holder:
        assert holder.stdout is not None
        assert holder.stdout.readline() == "held\n"
        os.kill(mounted.pid, signal.SIGSTOP)
        holder.kill()
        time.sleep(0.5)  # for the kernel to queue what it forgets; fewer at once is no failure
        os.kill(mounted.pid, signal.SIGCONT)
    wait_for(lambda: count(mounted).inodes < 100, 60)
    (mounted.path / "still").write_bytes(b"served")
    assert (mounted.source / "still").read_bytes() == b"served"


def asking_by_aio(mounted: Mounted, name: str, count: int, size: int, *, writes: bool) -> str:
    """A program that has *count* requests of *size* bytes under way, and waits for them."""
    return (
        "import os, time\n"
        "from tests.trust.kernel_aio import KernelAio\n"
        f"fd = os.open({str(mounted.path / name)!r}, os.O_RDWR | os.O_DIRECT)\n"
        f"aio = KernelAio({count})\n"
        "print('started', flush=True)\n"
        f"for number in range({count}):\n"
        + (
            f"    aio.write(number, fd, number * {size}, bytes([number % 251]) * {size})\n"
            if writes
            else f"    aio.read(number, fd, number * {size}, {size})\n"
        )
        + "print('asked', flush=True)\n"
        "while len(aio): aio.wait()\n"
        "print('done', flush=True)\n"
    )


@contextmanager
def running(script: str) -> Iterator[subprocess.Popen[str]]:
    with subprocess.Popen(
        [sys.executable, "-c", script],
        stdout=subprocess.PIPE,
        text=True,
        cwd=Path(__file__).parents[2],
    ) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "started\n"
        try:
            yield process
        finally:
            process.kill()


def two_images(make_mount: MountFactory, tmp_path: Path, limit: str, options: str = "") -> Mounted:
    """``slow`` is held to *limit*, ``fast`` to nothing."""
    config = tmp_path / "limits.toml"
    config.write_text(f'[[image]]\npath = "slow"\n{limit}\n')
    mounted = make_mount(options, "--config", str(config))
    for name in ("slow", "fast"):
        with open(mounted.source / name, "wb") as file:
            file.write(bytes(64 << 10))
            file.truncate(512 << 20)
    return mounted


def test_thousands_of_waiting_reads_keep_nobody(make_mount: MountFactory, tmp_path: Path) -> None:
    """9,998 used to take every place that there was."""
    mounted = two_images(make_mount, tmp_path, "iops = 1")
    with running(asking_by_aio(mounted, "slow", 12_000, 4096, writes=False)):
        wait_for(lambda: (count(mounted).requests or 0) >= 9_000, 60)
        for _ in range(5):
            with open(mounted.path / "fast", "rb") as file:
                assert file.read(4096) == bytes(4096)
            assert sorted(os.listdir(mounted.path)) == ["fast", "slow"]
        (mounted.path / "new").write_bytes(b"x")
        subprocess.run(
            [*support.THROTTLEFS, "set", mounted.path / "slow", "off"], check=True, timeout=60
        )


def test_waiting_writes_beyond_what_memory_may_hold_keep_nobody(
    make_mount: MountFactory, tmp_path: Path
) -> None:
    """Their data wait in a file, and every byte of them arrives."""
    mounted = two_images(make_mount, tmp_path, 'bps = "200K"', "max_inflight=32M")
    with running(asking_by_aio(mounted, "slow", 200, MIB, writes=True)) as process:
        wait_for(lambda: count(mounted).spilled_bytes > 100 * MIB, 60)
        for number in range(5):
            with open(mounted.path / "fast", "r+b") as file:
                assert file.read(4096) == bytes(4096)
                file.seek(1 << 20)
                assert file.write(bytes(200_000)) == 200_000
            assert "fast" in os.listdir(mounted.path)
            (mounted.path / f"new{number}").write_bytes(b"x")
        assert count(mounted).held_bytes <= 32 * MIB
        subprocess.run(
            [*support.THROTTLEFS, "set", mounted.path / "slow", "off"], check=True, timeout=60
        )
        assert process.stdout is not None
        assert process.stdout.readline() == "asked\n"
        assert process.stdout.readline() == "done\n"
    with open(mounted.source / "slow", "rb") as file:
        for number in range(200):
            assert file.read(MIB) == bytes([number % 251]) * MIB
    wait_for(lambda: count(mounted).spilled_bytes == count(mounted).held_bytes == 0)
    mounted.umount()


def test_one_user_whose_calls_block_leaves_threads_for_others(make_mount: MountFactory) -> None:
    """Eight truncates of leased files used to fill the pool of eight threads."""
    mounted = make_mount("allow_other")
    os.chmod(mounted.source, 0o777)
    names = [f"leased{number}" for number in range(20)]
    for name in (*names, "other"):
        (mounted.source / name).write_bytes(b"x")
        os.chmod(mounted.source / name, 0o666)
    with contextlib.ExitStack() as stack:
        for name in names:
            stack.enter_context(lease(mounted.source / name))
        threads = [
            in_background(lambda name=name: os.open(mounted.path / name, os.O_WRONLY | os.O_TRUNC))
            for name in names
        ]
        for number in range(3):
            is_served(mounted, "other")
            done = in_background(lambda: (mounted.path / f"new{number}").write_bytes(b"x"))  # noqa: B023
            done[0].join(20)
            assert done[1], "making a file waits, too"
    for thread, opened in threads:
        thread.join(60)
        os.close(opened[0])
