"""Mounts that are taken away under load: nothing that was asked is dropped."""

from __future__ import annotations

import os
import signal
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from tests.soak import Soak, Tally
from tests.support import THROTTLEFS, Mounted, MountFactory, clear_away, run_throttlefs, wait_for
from tests.trust.writers import (
    Writer,
    assert_nothing_lost,
    start_mixed,
    wait_until_written,
)
from throttlefs.control.client import QmpClient
from throttlefs.host import runtime
from throttlefs.host.mountinfo import mounted_at
from throttlefs.host.unmounting import BusyError, umount_command

ENDED = {"ENOTCONN", "ECONNABORTED", "EIO", "ENOENT"}

MODES = [
    "engine=uring,cache=writeback",
    "engine=threads,cache=none",
    "engine=uring,cache=none",
    "engine=threads,cache=writeback",
    "engine=uring,cache=writethrough",
    "engine=threads,cache=directsync",
]


def modes(soak: Soak, quick: int) -> list[str]:
    return MODES[: soak.choose(quick, len(MODES))]


# -- umount --lazy ------------------------------------------------------------------------------


def test_umount_lazy_under_load(
    make_mount: MountFactory, writers: list[Writer], soak: Soak, tally: Tally
) -> None:
    """Programs go on to their own end, each write of theirs is there, then the daemon ends."""
    for seed, mode in enumerate(modes(soak, 2) * soak.choose(1, 4)):
        mounted = make_mount(f"{mode},bps=200M")
        # No `reopen`: a path leads past the mount once that is detached.
        now = start_mixed(mounted.path, 4, seed)
        writers += now
        wait_until_written(now, 5)
        result = run_throttlefs("umount", "--lazy", mounted.path)
        assert (result.returncode, result.stderr) == (0, "")
        assert not mounted.is_mounted()
        wait_until_written(now, 5)
        assert runtime.process_start_time(mounted.pid) is not None
        for writer in now:
            assert not writer.end().errors
        mounted.wait_until_ended()
        tally.note(assert_nothing_lost(now, mounted.source, tally))
        assert "ERROR" not in mounted.log
        for writer in now:
            os.unlink(mounted.source / writer.file.name)


def test_a_new_mount_beside_a_detached_one(
    make_mount: MountFactory, writers: list[Writer], tally: Tally
) -> None:
    """Both serve SRC at once; each ends by itself."""
    old = make_mount()
    before = start_mixed(old.path, 2, 1)
    writers += before
    wait_until_written(before, 5)
    assert run_throttlefs("umount", "--lazy", old.path).returncode == 0
    new = make_mount()
    after = start_mixed(new.path, 2, 2)
    writers += after
    wait_until_written([*before, *after], 5)
    for writer in before:
        assert not writer.end().errors
    wait_for(lambda: runtime.process_start_time(old.pid) is None)
    wait_until_written(after, 5)
    for writer in after:
        assert not writer.end().errors
    assert (new.path / before[0].file.name).stat().st_size
    new.umount()
    tally.note(assert_nothing_lost([*before, *after], new.source, tally))


# -- SIGTERM with many requests waiting ---------------------------------------------------------


def waiting(socket_path: str) -> int:
    with QmpClient(socket_path, "the mount") as client:
        images = client.run("x-throttlefs-query")["images"]
    return sum(image["waiting"]["read"] + image["waiting"]["write"] for image in images)


@contextmanager
def foreground(
    source: Path, target: Path, options: str
) -> Iterator[tuple[subprocess.Popen[str], str]]:
    """The daemon as a child, for its exit status, and the path of its control socket."""
    for directory in (source, target):
        directory.mkdir(exist_ok=True)
    with subprocess.Popen(
        [*THROTTLEFS, "mount", source, target, "-f", "-o", options],
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        try:

            def socket_path() -> str | None:
                entry = mounted_at(os.fsencode(target))
                record = entry and runtime.read_record(entry)
                ready = record is not None and record.pid == process.pid
                return runtime.find_socket(entry) if entry and ready else None

            wait_for(lambda: socket_path() is not None, 20)
            path = socket_path()
            assert path is not None
            yield process, path
        finally:
            clear_away(target)


MANY = 1000


def thousand(path: Path, **options: Any) -> list[Writer]:
    """1,000 writes, all submitted at once: 4 KiB by AIO, and 20 larger ones by threads."""
    ledgers = path.parent
    small = {"how": "aio", "depth": MANY, "writes": MANY, "layout": f"small:{MANY}"}
    large = {"how": "aio", "depth": 24, "writes": 24, "layout": "any", "direct": True}
    return [
        Writer(
            path / "small",
            ledgers / "ledger-small",
            1,
            **{**small, **options},
            direct=True,
            allocate=True,
        ),
        Writer(path / "large", ledgers / "ledger-large", 2, **{**large, **options}, allocate=True),
    ]


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_thousand_waiting_requests_go_through_at_sigterm(
    writers: list[Writer], tmp_path: Path, soak: Soak, tally: Tally, number: signal.Signals
) -> None:
    """None fails, all data are right, the daemon ends with status 0 and leaves no mount."""
    chosen = modes(soak, 2) if soak.long else [MODES[number == signal.SIGINT]]
    for mode in chosen * soak.choose(1, 5):
        source, target = tmp_path / "src", tmp_path / "mnt"
        with foreground(source, target, f"{mode},iops=1,max_inflight=64M") as (daemon, socket):
            now = thousand(target)
            writers += now
            wait_for(lambda s=socket: waiting(s) >= MANY, 30)  # type: ignore[misc]
            daemon.send_signal(number)
            for writer in now:
                writer.wait()
                assert not writer.errors, writer.errors
            _, log = daemon.communicate(timeout=30)
            assert daemon.returncode == 0
            assert mounted_at(os.fsencode(target)) is None
            assert "ERROR" not in log
        assert now[0].writes == MANY
        tally.note(assert_nothing_lost(now, source, tally))
        for writer in now:
            os.unlink(source / writer.file.name)
            os.unlink(writer.ledger)


def test_writes_beyond_max_inflight_go_through_at_sigterm(
    writers: list[Writer], tmp_path: Path, soak: Soak, tally: Tally
) -> None:
    """Those that still wait in the kernel's queue, which the daemon has not taken, too."""
    for mode in modes(soak, 1) * soak.choose(1, 5):
        source, target = tmp_path / "src", tmp_path / "mnt"
        with foreground(source, target, f"{mode},bps=100K,max_inflight=4M") as (daemon, socket):
            now = thousand(target)
            writers += now
            wait_for(lambda s=socket: waiting(s) >= 1, 30)  # type: ignore[misc]
            time.sleep(0.5)
            assert waiting(socket) < MANY + 24
            daemon.send_signal(signal.SIGTERM)
            for writer in now:
                assert not writer.wait().errors
            daemon.communicate(timeout=30)
            assert daemon.returncode == 0
            assert mounted_at(os.fsencode(target)) is None
        tally.note(assert_nothing_lost(now, source, tally))
        for writer in now:
            os.unlink(source / writer.file.name)
            os.unlink(writer.ledger)


def test_a_second_sigterm_under_load_loses_nothing_acknowledged(
    writers: list[Writer], tmp_path: Path, soak: Soak, tally: Tally
) -> None:
    """It ends at once with status 1; programs get an error for what is under way, not silence."""
    for seed, mode in enumerate(modes(soak, 1) * soak.choose(1, 5)):
        source, target = tmp_path / "src", tmp_path / "mnt"
        # The attributes that the kernel keeps must not make the dead mount look alive.
        with foreground(source, target, f"{mode},bps=100M,attr_timeout=60") as (daemon, _):
            now = start_mixed(target, 4, seed)
            writers += now
            wait_until_written(now, 5)
            daemon.send_signal(signal.SIGTERM)
            wait_until_written(now, 5)  # in use, so it is served for the grace
            os.stat(target)
            began = time.monotonic()
            daemon.send_signal(signal.SIGTERM)
            daemon.communicate(timeout=20)
            assert time.monotonic() - began < 9, "before the grace is over"
            assert daemon.returncode == 1
            assert mounted_at(os.fsencode(target)) is None
            for writer in now:
                assert writer.wait().errors.keys() <= ENDED, writer.errors
        tally.note(assert_nothing_lost(now, source, tally))


# -- umount, while in use -----------------------------------------------------------------------


def test_umount_of_a_mount_under_load_leaves_it_as_it_was(
    make_mount: MountFactory, writers: list[Writer], soak: Soak, tally: Tally
) -> None:
    """It says who uses it; the gates close again, and no writer notices more than the rush."""
    for seed, mode in enumerate(modes(soak, 1) * soak.choose(1, 3)):
        mounted = make_mount(f"{mode},bps=1M")
        now = start_mixed(mounted.path, 2, seed)
        writers += now
        wait_until_written(now, 2)
        with pytest.raises(BusyError) as info:
            umount_command(str(mounted.path), lazy=False, grace_s=0.5)
        assert f"[{now[0].process.pid}] (open file)" in str(info.value)
        assert mounted.is_mounted()
        assert_limited(mounted)
        wait_until_written(now, 1)
        for writer in now:
            assert not writer.end(90).errors
        mounted.umount()
        tally.note(assert_nothing_lost(now, mounted.source, tally))
        for writer in now:
            os.unlink(mounted.source / writer.file.name)


def assert_limited(mounted: Mounted) -> None:
    """The gates close once the daemon has read the signal, which a busy machine delays."""

    def pays() -> bool:
        began = time.monotonic()
        file.write(bytes(256 << 10))
        return time.monotonic() - began > 0.2  # at 1 MiB/s it pays 0.25 s for the one before it

    with open(mounted.path / "probe", "wb", buffering=0) as file:
        wait_for(lambda: all(pays() for _ in range(3)), 20)
