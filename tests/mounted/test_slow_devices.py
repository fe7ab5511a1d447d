"""A slow device behind a real mount: what waits, what is free, and how it ends."""

from __future__ import annotations

import json
import os
import signal
import socket
import sqlite3
import subprocess
import sys
import threading
import time
import urllib.request
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.pace import takes, takes_less_than
from tests.support import Mounted, MountFactory, fails, run_throttlefs, wait_for

KIB, MIB = 1 << 10, 1 << 20
HOUR = "1h"


def image(mounted: Mounted, name: str = "disk.img", size: int = 8 * MIB) -> Path:
    with open(mounted.source / name, "wb") as file:
        file.truncate(size)
    return mounted.path / name


class Opened:
    """An open file; it is closed when the test's own list goes."""

    def __init__(self, path: Path, flags: int = os.O_RDWR) -> None:
        self.fd = os.open(path, flags)

    def __del__(self) -> None:
        os.close(self.fd)


def in_background(call: Callable[[], object]) -> tuple[threading.Thread, list[object]]:
    """Start *call* in a thread; its result, or its error, will be in the list."""
    results: list[object] = []

    def run() -> None:
        try:
            results.append(call())
        except OSError as exc:
            results.append(exc)

    thread = threading.Thread(target=run, daemon=True)
    thread.start()
    return thread, results


def serving(path: Path) -> int:
    shown = run_throttlefs("show", "--json", path)
    assert shown.returncode == 0, shown.stderr
    return int(json.loads(shown.stdout)["serving"])


def waiting(path: Path) -> int:
    shown = run_throttlefs("show", "--json", path)
    assert shown.returncode == 0, shown.stderr
    return sum(json.loads(shown.stdout)["waiting"].values())


@pytest.mark.parametrize("server", ["own", "pyfuse3"])
def test_each_request_takes_its_latency(make_mount: MountFactory, server: str) -> None:
    mounted = make_mount(f"latency_rd=40ms,latency_wr=80ms,server={server}")
    file = Opened(image(mounted))
    takes(0.4, lambda: [os.pread(file.fd, 4 * KIB, n * MIB) for n in range(5)] * 2, rel=1.0)
    takes(0.2, lambda: [os.pread(file.fd, 4 * KIB, n * MIB) for n in range(5)], rel=0.3)
    takes(0.4, lambda: [os.pwrite(file.fd, b"x" * 4 * KIB, n * MIB) for n in range(5)], rel=0.3)


def test_fsync_costs_a_flush_after_a_write_and_nothing_else(make_mount: MountFactory) -> None:
    mounted = make_mount("latency_flush=300ms")
    file = Opened(image(mounted))

    def write_and(sync: Callable[[int], None]) -> None:
        os.pwrite(file.fd, b"x", 0)
        sync(file.fd)

    takes(0.3, lambda: write_and(os.fsync), rel=0.4)
    takes(0.3, lambda: write_and(os.fdatasync), rel=0.4)
    takes_less_than(0.15, lambda: os.fsync(file.fd))
    takes_less_than(0.15, lambda: os.pwrite(file.fd, b"x", 0))


def test_durable_writes_cost_a_flush_each_however_large(make_mount: MountFactory) -> None:
    mounted = make_mount("latency_flush=300ms")
    path = image(mounted)
    plain, durable = Opened(path), Opened(path, os.O_RDWR | os.O_DSYNC)
    large = bytes(4 * MIB)
    takes(0.3, lambda: os.pwrite(durable.fd, b"x", 0), rel=0.4)
    takes(0.3, lambda: os.pwritev(plain.fd, [b"x"], 0, os.RWF_DSYNC), rel=0.4)
    takes(0.6, lambda: [os.pwrite(durable.fd, b"x" * KIB, n * KIB) for n in range(2)], rel=0.4)
    # The kernel sends it in pieces of 1 MiB.
    takes(0.3, lambda: os.pwrite(durable.fd, large, 0), rel=0.9)
    os.fsync(plain.fd)
    os.pwrite(durable.fd, b"x", 0)
    takes_less_than(0.15, lambda: os.fsync(plain.fd))


def test_a_commit_takes_as_long_as_the_flush(make_mount: MountFactory) -> None:
    mounted = make_mount("latency_flush=50ms,bps=1000M,group=disk")
    with sqlite3.connect(mounted.path / "test.db", isolation_level=None) as database:
        database.execute("PRAGMA synchronous = FULL")
        database.execute("CREATE TABLE numbers (number)")
        began = time.monotonic()
        for number in range(5):
            database.execute("INSERT INTO numbers VALUES (?)", (number,))
        took = time.monotonic() - began
    database.close()
    assert took >= 5 * 0.05


def test_the_images_of_a_group_share_its_places(make_mount: MountFactory) -> None:
    mounted = make_mount("latency=100ms,queue_depth=1,group=disk")
    files = [Opened(image(mounted, name)) for name in ("a.img", "b.img", "c.img", "d.img")]

    def read_all() -> None:
        threads = [in_background(lambda fd=file.fd: os.pread(fd, KIB, 0))[0] for file in files]
        for thread in threads:
            thread.join(60)

    takes(0.4, read_all, rel=0.3)
    assert run_throttlefs("set", "--group", "disk", mounted.path, "queue_depth=4").returncode == 0
    takes_less_than(0.3, read_all)


def test_changes_reach_what_the_device_works_on(make_mount: MountFactory) -> None:
    mounted = make_mount(f"latency={HOUR},queue_depth=1,group=disk")
    path = image(mounted)
    file = Opened(path)
    reads = [in_background(lambda: os.pread(file.fd, KIB, 0)) for _ in range(3)]
    group = ("--group", "disk", mounted.path)
    wait_for(lambda: '"serving": 1' in run_throttlefs("show", "--json", mounted.path).stdout)
    assert not any(results for _, results in reads)
    changed = run_throttlefs("set", *group, "latency=10ms")
    assert changed.stdout == "group disk: latency 1h -> 10ms\n"
    for thread, results in reads:
        thread.join(60)
        assert results == [bytes(KIB)]


def test_unmounting_lets_everything_go(make_mount: MountFactory) -> None:
    mounted = make_mount(f"latency={HOUR},queue_depth=1")
    path = image(mounted)
    file = Opened(path)
    fd = file.fd
    write, written = in_background(lambda: os.pwrite(fd, b"x" * KIB, 0))
    wait_for(lambda: serving(path) == 1)
    read, got = in_background(lambda: os.pread(fd, KIB, MIB))
    sync, synced = in_background(lambda: os.fsync(fd))
    ending = threading.Thread(target=run_throttlefs, args=("umount", mounted.path))
    ending.start()
    for thread in (write, read, sync):
        thread.join(60)
    assert (written, got, synced) == ([KIB], [bytes(KIB)], [None])
    del file
    ending.join(60)
    mounted.wait_until_ended()
    assert (mounted.source / "disk.img").read_bytes()[:KIB] == b"x" * KIB


def test_a_killed_program_ends_wherever_its_request_is(make_mount: MountFactory) -> None:
    mounted = make_mount(f"latency={HOUR},queue_depth=1")
    path = image(mounted)
    calls = ("os.pread(fd, 1024, 0)", "os.pread(fd, 1024, 4096)", "os.pwrite(fd, b'x', 0)")
    programs = []
    for number, call in enumerate(calls):
        script = f"import os; fd = os.open({str(path)!r}, os.O_RDWR); {call}"
        programs.append(subprocess.Popen([sys.executable, "-c", script]))
        # The first is served; the others wait for its place.
        wait_for(lambda: serving(path) + waiting(path) == number + 1)  # noqa: B023
    for program in programs:
        program.kill()
        assert program.wait(20) == -signal.SIGKILL
    assert run_throttlefs("set", mounted.path, "latency=10ms").returncode == 0
    file = Opened(path)
    read, got = in_background(lambda: os.pread(file.fd, KIB, 0))
    read.join(60)
    assert got == [bytes(KIB)]
    assert (mounted.source / "disk.img").read_bytes()[:1] == bytes(1), "it was not yet written"


def test_a_killed_daemon_takes_nothing_with_it_that_was_answered(make_mount: MountFactory) -> None:
    mounted = make_mount("latency_wr=30ms")
    file = Opened(image(mounted))
    assert os.pwrite(file.fd, b"x" * KIB, 0) == KIB
    assert run_throttlefs("set", mounted.path, f"latency_wr={HOUR}").returncode == 0
    write, written = in_background(lambda: os.pwrite(file.fd, b"y" * KIB, MIB))
    wait_for(lambda: serving(mounted.path / "disk.img") == 1)
    os.kill(mounted.pid, 9)
    write.join(60)
    assert isinstance(written[0], OSError)
    assert (mounted.source / "disk.img").read_bytes()[:KIB] == b"x" * KIB


def test_a_copy_within_a_device_with_one_place_ends(make_mount: MountFactory) -> None:
    mounted = make_mount("latency=20ms,queue_depth=1,group=disk")
    one, other = Opened(image(mounted, "a.img")), Opened(image(mounted, "b.img"))
    os.pwrite(one.fd, b"x" * KIB, 0)
    copy, copied = in_background(lambda: os.copy_file_range(one.fd, other.fd, KIB, 0, 0))
    copy.join(60)
    assert copied == [KIB]
    assert os.pread(other.fd, KIB, 0) == b"x" * KIB


def test_rates_follow_the_size_of_the_file(make_mount: MountFactory) -> None:
    mounted = make_mount("iops_per_gib=10,iops_at_least=40")
    path = image(mounted)
    file = Opened(path)

    def in_force() -> object:
        return json.loads(run_throttlefs("show", "--json", path).stdout)["in-force"]

    assert in_force() == {"iops": 40}
    os.ftruncate(file.fd, 8 << 30)
    assert in_force() == {"iops": 80}
    shown = run_throttlefs("show", mounted.path).stdout
    assert "iops_per_gib=10,iops_at_least=40 (iops=80)" in shown


def test_rates_that_are_set_later_know_the_size_of_an_open_file(make_mount: MountFactory) -> None:
    mounted = make_mount()
    path = image(mounted, size=8 << 30)
    with open(path, "rb"):
        run_throttlefs("set", path, "iops_per_gib=10")
        shown = json.loads(run_throttlefs("show", "--json", path).stdout)
    assert shown["in-force"] == {"iops": 80}


def test_attributes_and_metrics_have_the_device(make_mount: MountFactory) -> None:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    mounted = make_mount(f"latency=200us/2ms,metrics=127.0.0.1:{port}")
    path = image(mounted)
    file = Opened(path)
    assert os.getxattr(path, "user.throttlefs.latency") == b"200us/2ms"
    assert os.getxattr(path, "user.throttlefs.queue_depth") == b"0"
    os.setxattr(path, "user.throttlefs.queue-depth", b"4")
    assert os.getxattr(path, "user.throttlefs.queue_depth") == b"4"
    with pytest.raises(OSError, match="Invalid argument"):
        os.setxattr(path, "user.throttlefs.latency", b"5")
    with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=60) as answer:
        text = answer.read().decode()
    labels = 'image="disk.img",operation="read"'
    assert f'throttlefs_device_latency_seconds{{{labels},quantile="0.99"}} 0.002\n' in text
    assert 'throttlefs_device_places{image="disk.img"} 4\n' in text
    assert 'throttlefs_device_serving_requests{image="disk.img"} 0\n' in text
    os.removexattr(path, "user.throttlefs.latency")
    assert os.getxattr(path, "user.throttlefs.latency") == b"0"
    assert os.pread(file.fd, KIB, 0) == bytes(KIB)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ("latency=5", ["latency", "no unit", "5ms"]),
        ("latency_rd=2ms/1ms", ["latency_rd", "2ms/1ms", "must not fall"]),
        ("seek=1ms/18ms,group=disk", ["seek", "needs size", "size=100G"]),
        ("size=1M,seek=1ms/18ms", ["size=1M", "'disk.img'", "8M"]),
    ],
)
def test_mistakes_get_one_line_and_nothing_is_mounted(
    tmp_path: Path, options: str, words: list[str]
) -> None:
    source, target = tmp_path / "src", tmp_path / "mnt"
    source.mkdir()
    target.mkdir()
    with open(source / "disk.img", "wb") as file:
        file.truncate(8 * MIB)
    line = fails("mount", source, target, "-o", options, status=2)
    assert all(word in line for word in words), line
    assert not os.path.ismount(target)
