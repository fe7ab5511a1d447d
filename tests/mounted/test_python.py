"""throttlefs.mounted, as a program uses it."""

from __future__ import annotations

import asyncio
import logging
import os
import signal
import sqlite3
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import trio

import throttlefs
from tests.support import clear_away, wait_for
from throttlefs.host import runtime
from throttlefs.host.mountinfo import MountEntry, mounted_at, read_mounts

MIB = 1 << 20


@pytest.fixture
def source(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A directory with a file. In the end nothing of it is mounted, and no place is left."""
    path = tmp_path / "images"
    path.mkdir()
    (path / "disk.img").write_text("contents")
    places = tmp_path / "places"
    places.mkdir()
    monkeypatch.setattr("tempfile.tempdir", str(places))
    yield path
    left = mounts_of(path)
    for mount in left:
        clear_away(Path(os.fsdecode(mount.point)))
    assert not left
    assert not list(places.iterdir()), "a temporary directory is left"


def mounts_of(source: Path) -> list[MountEntry]:
    return [mount for mount in read_mounts() if mount.source.startswith(os.fsencode(source))]


def is_running(pid: int) -> bool:
    return runtime.process_start_time(pid) is not None


def test_a_disk_is_a_path_for_as_long_as_its_block(source: Path) -> None:
    with throttlefs.mounted(source, bps="1M") as disk:
        assert disk.source == source
        assert (disk / "disk.img").read_text() == "contents"
        assert os.listdir(disk) == ["disk.img"]
        (disk.path / "new").write_text("x")
        assert is_running(disk.pid)
        assert disk.show()["default"]["limits"] == {"bps": MIB}
    assert not disk.path.exists()
    assert not is_running(disk.pid)
    assert (source / "new").read_text() == "x"


def test_limits_change_in_flight(source: Path) -> None:
    with throttlefs.mounted(source, bps=4 * MIB) as disk:
        (change,) = disk.set("disk.img", bps="2M", weight=200)
        assert (change.kind, change.name) == ("image", "disk.img")
        assert (change.before["bps"], change.after["bps"]) == (4 * MIB, 2 * MIB)
        assert disk.show(disk / "disk.img")["limits"] == {"bps": 2 * MIB}
        assert disk.set_group("db", create=True, iops=90)[0].after["iops"] == 90
        disk.set("disk.img", group="db")
        assert disk.show("disk.img")["group"] == "db"
        disk.set("disk.img", group=None)
        assert disk.show("disk.img")["group"] is None
        disk.set(bps=None)
        assert disk.show()["default"]["limits"] == {}
        disk.set(all=True, off=True)
        disk.reload()
        assert disk.show()["default"]["limits"] == {"bps": 4 * MIB}
        assert disk.qmp("query-status")["status"] == "running"


def test_figures(source: Path) -> None:
    with throttlefs.mounted(source, iops=50) as disk:
        with open(disk / "disk.img", "r+b", buffering=0) as file:
            for _ in range(4):
                file.write(bytes(100))
            os.fsync(file.fileno())
            stats = disk.stats("disk.img")
            assert (stats.handles, stats.group, stats.limits) == (1, None, {"iops": 50})
        assert (stats.name, stats.flushes) == ("disk.img", 1)
        assert (stats.write.requests, stats.write.bytes, stats.write.errors) == (4, 400, 0)
        assert stats.write.delayed == 3
        assert stats.write.wait.p99 is not None
        assert 0.005 < stats.write.wait.p99 < 60
        assert stats.write.wait_s > 0.03
        assert stats.write.p99 == stats.write.service.p99 is not None
        assert (stats.read.requests, stats.read.p50) == (0, None)
        assert list(disk.stats()) == ["disk.img"]


def test_a_device(source: Path) -> None:
    with throttlefs.mounted(source, latency="20ms", seed=1) as disk:
        assert (disk / "disk.img").read_text() == "contents"
        slow = disk.stats("disk.img").read
        assert slow.p50 is not None
        assert slow.p50 > 0.015  # exact to 19 %
        (change,) = disk.set("disk.img", latency=None)
        assert (change.before["latency"], "latency" in change.after) == ("20ms", False)


def test_one_file(source: Path) -> None:
    with throttlefs.mounted(source / "disk.img") as disk:
        assert disk.path.name == "disk.img"
        assert disk.path.read_text() == "contents"
        disk.set(iops=7)
        for name in ("disk.img", disk.path):
            assert disk.show(name)["limits"] == {"iops": 7}
        assert disk.stats("disk.img").read.bytes == 8


def test_a_target_of_ones_own_and_a_log(source: Path) -> None:
    target, log = source.parent / "mnt", source.parent / "log"
    target.mkdir()
    with throttlefs.mounted(source, target, log_file=log, ro=True) as disk:
        assert disk.path == target
        with pytest.raises(OSError, match="Read-only"):
            (disk / "new").touch()
    assert target.exists()
    assert f"unmounted {target}" in log.read_text()


def test_mistakes_are_the_commands_one_line(source: Path) -> None:
    with pytest.raises(throttlefs.UsageError) as wrong, throttlefs.mounted(source, bsp="1M"):
        pass
    assert str(wrong.value) == "unknown option 'bsp'; did you mean 'bps'?"
    missing = source / "no"
    with pytest.raises(throttlefs.ThrottlefsError) as failed, throttlefs.mounted(missing):
        pass
    assert str(failed.value) == f"SRC {missing} does not exist"
    with throttlefs.mounted(source) as disk:
        with pytest.raises(throttlefs.ThrottlefsError, match="did you mean 'bps'"):
            disk.set(bsp="1M")
        with pytest.raises(
            throttlefs.ThrottlefsError, match="/no: there is no such file in the mount"
        ):
            disk.set("no", bps="1M")
        with pytest.raises(throttlefs.UsageError, match="does not lie in"):
            disk.set("/etc/passwd", bps="1M")
        with pytest.raises(throttlefs.UsageError, match="is the whole mount"):
            disk.stats(disk.path)
        mounting = throttlefs.mounted(source)
        with (
            mounting,
            pytest.raises(throttlefs.UsageError, match="is mounted already"),
            mounting,
        ):
            pass


def test_a_refused_disk_leaves_the_one_that_is_there(source: Path) -> None:
    target = source.parent / "mnt"
    target.mkdir()
    with throttlefs.mounted(source, target) as disk:
        with (
            pytest.raises(throttlefs.ThrottlefsError, match="is already a throttlefs mount"),
            throttlefs.mounted(source, target),
        ):
            pass
        assert (disk / "disk.img").read_text() == "contents"
        assert is_running(disk.pid)


def test_an_open_sqlite_connection_delays_the_end_by_a_second(
    source: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """`throttlefs umount` would wait 10 s for it, and fail."""
    with throttlefs.mounted(source) as disk:
        database = sqlite3.connect(disk / "data.db")
        database.execute("CREATE TABLE t (id INTEGER)")
        database.commit()
        database.execute("INSERT INTO t VALUES (1)")  # a transaction that is not ended
        began = time.monotonic()
    assert 0.9 < time.monotonic() - began < 9
    assert not is_running(disk.pid)
    assert f"was still in use by {disk_user()}" in caplog.text
    with pytest.raises(sqlite3.OperationalError):
        database.commit()
    database.close()
    with sqlite3.connect(source / "data.db") as kept:
        assert kept.execute("SELECT count(*) FROM t").fetchone() == (0,)
    kept.close()


def disk_user() -> str:
    return f"{Path('/proc/self/comm').read_text().strip()}[{os.getpid()}] (open file)"


def test_sqlite_in_wal_mode(source: Path) -> None:
    """It maps a file shared, which the mount allows from Linux 6.6 on."""
    with throttlefs.mounted(source, iops_wr=5000) as disk:
        if not disk.show()["features"]["shared-mmap"]:
            pytest.skip("this kernel has no shared mmap of such files")
        database = sqlite3.connect(disk / "data.db", isolation_level=None)
        assert database.execute("PRAGMA journal_mode=wal").fetchone() == ("wal",)
        database.execute("CREATE TABLE t (id INTEGER)")
        other = sqlite3.connect(disk / "data.db")
        database.execute("INSERT INTO t VALUES (1)")
        assert other.execute("SELECT count(*) FROM t").fetchone() == (1,)
        database.close()
        other.close()
        assert disk.stats("data.db").write.requests > 0


DIES = """
import os, sys, throttlefs
with throttlefs.mounted(sys.argv[1], bps="1M") as disk:
    file = open(disk / "disk.img")
    print(disk.pid, disk.path, flush=True)
    os.kill(os.getpid(), int(sys.argv[2]))
    sys.stdin.read()
"""


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM, signal.SIGINT])
def test_no_mount_and_no_daemon_outlives_its_program(source: Path, number: signal.Signals) -> None:
    ran = subprocess.run(
        [sys.executable, "-c", DIES, str(source), str(int(number))],
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        check=False,
    )
    pid, _, path = ran.stdout.strip().partition(" ")
    assert ran.returncode != 0
    wait_for(lambda: not is_running(int(pid)) and mounted_at(os.fsencode(path)) is None)
    if number != signal.SIGINT:
        Path(path).rmdir()  # nobody was left to remove it


def test_a_forked_child_does_not_end_its_parents_disk(source: Path) -> None:
    mounting = throttlefs.mounted(source)
    with mounting as disk:
        child = os.fork()
        if child == 0:
            mounting.__exit__(None, None, None)
            os._exit(0)
        os.waitpid(child, 0)
        assert (disk / "disk.img").read_text() == "contents"


def test_what_was_unmounted_in_the_block_is_nothing_wrong(source: Path) -> None:
    with throttlefs.mounted(source) as disk:
        subprocess.run([sys.executable, "-m", "throttlefs", "umount", disk.path], check=True)
    assert not is_running(disk.pid)


def test_a_daemon_that_dies_is_named(source: Path, caplog: pytest.LogCaptureFixture) -> None:
    with throttlefs.mounted(source) as disk:
        os.kill(disk.pid, signal.SIGKILL)
        wait_for(lambda: not is_running(disk.pid))
        with pytest.raises(OSError, match="not connected"):
            os.listdir(disk)
        with pytest.raises(throttlefs.ThrottlefsError, match="the daemon of"):
            disk.show()
    assert f"the daemon of {disk.path} has died" in caplog.text
    assert caplog.records[-1].levelno == logging.WARNING


def test_an_environment_that_changes_in_the_block(
    source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with throttlefs.mounted(source, bps="1M") as disk:
        monkeypatch.setenv("XDG_RUNTIME_DIR", str(tmp_path))
        monkeypatch.chdir(tmp_path)
        disk.set("disk.img", bps="2M")
    assert not is_running(disk.pid)


# -- trio and asyncio ----------------------------------------------------------------------


def test_in_trio(source: Path) -> None:
    async def use() -> int:
        async with throttlefs.mounted(source, bps="4M") as disk:
            assert await trio.Path(disk / "disk.img").read_text() == "contents"
            (change,) = await disk.set("disk.img", bps="2M")
            assert change.after["bps"] == 2 * MIB
            assert (await disk.show("disk.img"))["limits"] == {"bps": 2 * MIB}
            await disk.set_group("db", create=True, bps="1M")
            await disk.reload()
            assert (await disk.stats("disk.img")).read.bytes == 8
            assert list(await disk.stats()) == ["disk.img"]
            assert (await disk.qmp("query-status"))["running"]
            assert os.fspath(disk) == str(disk.path) == str(disk.blocking.path)
            return disk.pid

    assert not is_running(trio.run(use))


def test_cancelled_in_trio_it_ends_all_the_same(source: Path) -> None:
    async def use() -> None:
        with trio.CancelScope() as scope:
            async with throttlefs.mounted(source):
                scope.cancel()
                await trio.sleep_forever()
        with trio.CancelScope() as scope:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(_cancel_soon, scope)
                async with throttlefs.mounted(source):
                    await trio.sleep_forever()

    trio.run(use)
    assert not mounts_of(source)


async def _cancel_soon(scope: trio.CancelScope) -> None:
    await trio.sleep(0.05)  # most likely while it mounts
    scope.cancel()


def test_asyncio_is_told_what_to_write(source: Path) -> None:
    async def use() -> None:
        async with throttlefs.mounted(source):
            pass

    with pytest.raises(throttlefs.UsageError, match=r"needs trio.* write with throttlefs\.mounted"):
        asyncio.run(use())
