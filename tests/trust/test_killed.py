"""SIGKILL of the daemon in the middle of writes: what was acknowledged is in SRC, byte for byte."""

from __future__ import annotations

import os
import random
import signal
import time
from pathlib import Path

import pytest

from tests.soak import Soak, Tally
from tests.support import Mounted, MountFactory, fails, run_throttlefs, wait_for
from tests.trust.writers import (
    Writer,
    assert_nothing_lost,
    start_mixed,
    wait_until_written,
)
from throttlefs.host import runtime

DEAD = {"ENOTCONN", "ECONNABORTED", "EIO"}

# For each engine every cache mode, with and without limits; and the mount's own page cache.
CASES = [
    "engine=uring,cache=writeback",
    "engine=threads,cache=none,bps=40M",
    "engine=uring,cache=none,iops=2000,max_inflight=4M",
    "engine=threads,cache=writethrough",
    "engine=uring,cache=writethrough,bps_wr=30M",
    "engine=threads,cache=writeback,bps=30M,iops=1500",
    "engine=uring,cache=directsync",
    "engine=threads,cache=unsafe,bps=20M,group=g",
    "engine=uring,cache=writeback,auto_cache,bps=50M",
    "engine=uring,cache=none",
]
QUICK = 2


def kill(mounted: Mounted) -> None:
    os.kill(mounted.pid, signal.SIGKILL)
    wait_for(lambda: runtime.process_start_time(mounted.pid) is None)


def assert_dead_mount_is_told(mounted: Mounted) -> None:
    """Each command says that the daemon is gone, or copes; none hangs."""
    with pytest.raises(OSError, match="not connected"):
        os.listdir(mounted.path)
    line = fails("mount", mounted.source, mounted.path)
    assert "throttlefs umount" in line
    for command in (["stats", mounted.path], ["set", mounted.path, "bps=1M"]):
        assert run_throttlefs(*command).returncode == 1


@pytest.mark.parametrize("case", range(len(CASES)))
def test_acknowledged_writes_outlive_the_daemon(
    make_mount: MountFactory, writers: list[Writer], soak: Soak, tally: Tally, case: int
) -> None:
    """Writers of all kinds, the daemon killed at some instant, and again after a new mount."""
    if case >= soak.choose(QUICK, len(CASES)):
        pytest.skip("only in the long form")
    options = CASES[case]
    chosen = random.Random(case)
    for seed in range(soak.choose(1, 12)):
        mounted = make_mount(options)
        assert not list(mounted.path.glob("w*")), "cleared away below"
        now = start_mixed(mounted.path, soak.choose(4, 6), seed)
        writers += now
        wait_until_written(now, 3)
        time.sleep(chosen.uniform(0, soak.choose(0.3, 1.0)))
        kill(mounted)
        for writer in now:
            writer.wait()
            assert writer.errors.keys() <= DEAD, writer.errors
        if not seed:
            assert_dead_mount_is_told(mounted)
        result = run_throttlefs("umount", mounted.path)
        assert (result.returncode, result.stdout, result.stderr) == (0, "", "")
        assert not mounted.is_mounted()
        writes = assert_nothing_lost(now, mounted.source, tally)
        assert writes >= 3 * len(now)

        again = make_mount(options)
        assert assert_nothing_lost(now, again.path, tally) == writes
        for writer in now:
            os.unlink(again.path / writer.file.name)
        again.umount()
        tally.note(writes)


def test_the_mount_works_again_while_programs_still_hold_the_dead_one(
    make_mount: MountFactory, tally: Tally
) -> None:
    """Their descriptors fail to the end, and do not keep anybody from mounting anew."""
    for engine in ("uring", "threads"):
        mounted = make_mount(f"engine={engine}")
        held = os.open(mounted.path / "f", os.O_RDWR | os.O_CREAT)
        os.write(held, b"acknowledged")
        kill(mounted)
        assert run_throttlefs("umount", mounted.path).returncode == 0
        again = make_mount(f"engine={engine}")
        assert (again.path / "f").read_bytes() == b"acknowledged"
        (again.path / "f").write_bytes(b"more")
        for action in (
            lambda fd: os.pread(fd, 1, 0),
            lambda fd: os.pwrite(fd, b"stale", 0),
            os.fsync,
        ):
            with pytest.raises(OSError, match=r"not connected|abort"):
                action(held)
        os.close(held)
        assert (again.source / "f").read_bytes() == b"more"
        again.umount()
        tally.note(checked="the new mount's data")


def test_a_mount_of_one_file_is_cleared_and_mounted_again(
    make_mount: MountFactory, writers: list[Writer], tmp_path: Path, tally: Tally
) -> None:
    source, target = tmp_path / "disk.img", tmp_path / "slow.img"
    source.touch()
    target.touch()
    mounted = make_mount("cache=none", source=source, target=target)
    writer = Writer(target, tmp_path / "ledger", 7, how="aio", direct=True, allocate=True)
    writers.append(writer)
    wait_until_written([writer], 20)
    kill(mounted)
    assert writer.wait().errors.keys() <= DEAD
    assert run_throttlefs("umount", target).returncode == 0
    again = make_mount("cache=none", source=source, target=target)
    for path in (source, target):
        result = writer.audit(path)
        tally.note(result.writes, lost=result.lost, checked="writes compared with SRC")
        assert not result.reasons
    again.umount()
