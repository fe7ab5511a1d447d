"""What ext4 keeps for root, and quotas: a user gets as much through root's daemon as by himself."""

from __future__ import annotations

import ctypes
import errno
import os
import struct
import subprocess
from pathlib import Path

import pytest
import trio

from tests.support import MountFactory
from tests.trust.sources import ENVIRONMENT, MIB, MakeSource, Source, run
from tests.trust.users import ANNA, ROOT, Person, workers
from tests.unit.backing.conftest import running
from throttlefs.backing import BackingFile, room
from throttlefs.host.credentials import Credentials, call_for
from throttlefs.settings.cachemode import CacheMode

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="only root can mount filesystems")

STEP = 64 << 10
"""Bytes of one write."""

CLOSE = 512 << 10
"""Bytes by which the end may differ: ext4 sets some aside for what it notes of a file."""


def prepared(source: Source, person: Person) -> Path:
    """A file of *person*'s own, and nothing else."""
    path = source.path / "file"
    path.unlink(missing_ok=True)
    path.touch()
    os.chown(path, person.uid, person.gid)
    os.sync()
    return path


def is_full(error: OSError) -> bool:
    return error.errno in (errno.ENOSPC, errno.EDQUOT)


def fill(fd: int) -> int:
    """Write until there is no room; how many bytes went in."""
    done = 0
    while True:
        try:
            done += os.pwrite(fd, bytes(STEP), done)
        except OSError as error:
            if is_full(error):
                return done
            raise


def fill_in(directory: int) -> int:
    fd = os.open("file", os.O_WRONLY, dir_fd=directory)
    try:
        return fill(fd)
    finally:
        os.close(fd)


def natively(source: Source, person: Person) -> int:
    fd = os.open(prepared(source, person), os.O_WRONLY)
    try:
        with workers([person]) as (worker,):
            return int(worker.run(fill, fd))
    finally:
        os.close(fd)


async def through_backing(
    kind: str,
    cache: CacheMode,
    path: Path,
    credentials: Credentials | None,
    at_once: list[bool] | None = None,
) -> int:
    """Write as a mount does, until there is no room; how many bytes went in.

    *at_once* gets for each write whether the loop did it.
    """
    done = 0
    async with running(kind) as engine:
        backing = BackingFile(
            os.open(path, os.O_RDWR | cache.open_flags), engine, cache, credentials
        )
        while True:
            try:
                written = backing.write_now(done, bytes(STEP))
                if at_once is not None:
                    at_once.append(written is not None)
                if written is None:
                    written = await backing.write(done, bytes(STEP))
                done += written
            except OSError as error:
                if not is_full(error):
                    raise
                break
        backing.close()
    return done


WAYS = [(kind, cache) for kind in ("uring", "threads") for cache in CacheMode]


def test_a_user_stops_where_he_would_natively(make_source: MakeSource) -> None:
    source = make_source("ext4", "-m", "30")
    expected, reserve = natively(source, ANNA), natively(source, ROOT) - natively(source, ANNA)
    assert reserve > 10 * MIB
    user = Credentials(ANNA.uid, ANNA.gid)
    for kind, cache in WAYS:
        got = trio.run(through_backing, kind, cache, prepared(source, ANNA), user)
        assert abs(got - expected) < CLOSE, (kind, cache, got, expected)


def test_the_loop_writes_until_room_gets_scarce(
    make_source: MakeSource, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(room, "AMPLE", 8 * MIB)
    source = make_source("ext4", "-m", "30")
    expected = natively(source, ANNA)
    user, at_once = Credentials(ANNA.uid, ANNA.gid), list[bool]()
    path = prepared(source, ANNA)
    got = trio.run(through_backing, "uring", CacheMode.WRITEBACK, path, user, at_once)
    assert abs(got - expected) < CLOSE
    if Path(room._DQUOTS).exists() and int(Path(room._DQUOTS).read_text()):
        pytest.skip("this machine uses quotas")
    assert any(at_once)
    assert not any(at_once[-(4 * MIB // STEP) :])


@pytest.mark.parametrize("credentials", [None, Credentials(0, 0)], ids=["daemon", "root"])
def test_root_gets_what_is_kept_for_him(
    make_source: MakeSource, credentials: Credentials | None
) -> None:
    source = make_source("ext4", "-m", "30")
    expected = natively(source, ROOT)
    for kind, cache in WAYS[::3]:
        got = trio.run(through_backing, kind, cache, prepared(source, ROOT), credentials)
        assert abs(got - expected) < CLOSE, (kind, cache, got, expected)


def test_a_user_for_whom_it_is_kept(make_source: MakeSource) -> None:
    """resuid= and resgid= give it to others: to them, and not to the daemon's other users."""
    source = make_source("ext4", "-m", "30")
    for option, other in ((f"resuid={ANNA.uid}", 1), (f"resgid={ANNA.gid}", 1)):
        assert source.remount(option)
        user = Credentials(ANNA.uid, ANNA.gid)
        stranger = Credentials(ANNA.uid + other, ANNA.gid + other)
        expected = natively(source, ANNA)
        got = trio.run(through_backing, "uring", CacheMode.NONE, prepared(source, ANNA), user)
        assert abs(got - expected) < CLOSE
        got = trio.run(through_backing, "uring", CacheMode.NONE, prepared(source, ANNA), stranger)
        assert got < expected - 10 * MIB
        assert source.remount("resuid=0,resgid=0")


@pytest.mark.parametrize("options", ["cache=writeback", "cache=none", "engine=threads"])
def test_through_a_mount(make_source: MakeSource, make_mount: MountFactory, options: str) -> None:
    source = make_source("ext4", "-m", "30")
    expected = natively(source, ANNA)
    mounted = make_mount(f"allow_other,{options}", source=source.path)
    prepared(source, ANNA)
    directory = os.open(mounted.path, os.O_PATH)  # where the user could not get by its path
    with workers([ANNA]) as (worker,):
        got = int(worker.run(fill_in, directory))
    os.close(directory)
    assert abs(got - expected) < CLOSE
    mounted.umount()


def test_allocating_ahead(make_source: MakeSource) -> None:
    """What is neither read nor write runs in threads, by `call_for`."""
    source = make_source("ext4", "-m", "30")
    fd = os.open(prepared(source, ANNA), os.O_WRONLY)
    found = os.statvfs(source.path)
    size = found.f_bfree * found.f_frsize * 9 // 10
    with pytest.raises(OSError) as caught:
        call_for(Credentials(ANNA.uid, ANNA.gid), os.posix_fallocate, fd, 0, size)
    assert caught.value.errno == errno.ENOSPC
    os.ftruncate(fd, 0)
    call_for(None, os.posix_fallocate, fd, 0, size)
    os.close(fd)


QUOTA = 8 * MIB

_SETQUOTA, _USRQUOTA, _BLOCK_LIMITS = 0x800008, 0, 1
"""quotactl(2), linux/quota.h."""


def limit_space(source: Source, person: Person) -> None:
    """Give *person* a quota. Skips the test where the kernel has none for ext4."""
    source.unmount()
    source.wait_until_free()
    run("tune2fs", "-O", "quota", "-Q", "usrquota", source.image)
    options = ["-o", "loop,usrquota"]
    command = ["mount", "-t", "ext4", *options, str(source.image), str(source.path)]
    if subprocess.run(command, capture_output=True, check=False, env=ENVIRONMENT).returncode:
        pytest.skip("this kernel has no quotas for ext4 (CONFIG_QUOTA, CONFIG_QFMT_V2)")
    device = run("losetup", "-n", "-O", "NAME", "-j", source.image).strip().encode()
    # struct if_dqblk: limits in KiB.
    limits = struct.pack("=8QI4x", QUOTA >> 10, QUOTA >> 10, 0, 0, 0, 0, 0, 0, _BLOCK_LIMITS)
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.quotactl(_SETQUOTA << 8 | _USRQUOTA, device, person.uid, limits):
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))


def test_a_quota_holds(make_source: MakeSource) -> None:
    source = make_source("ext4")
    limit_space(source, ANNA)
    expected = natively(source, ANNA)
    assert abs(expected - QUOTA) < CLOSE
    user = Credentials(ANNA.uid, ANNA.gid)
    for kind, cache in WAYS:
        got = trio.run(through_backing, kind, cache, prepared(source, ANNA), user)
        assert abs(got - expected) < CLOSE, (kind, cache, got, expected)
    # The daemon's own rights lead past it, or the test would show nothing.
    assert trio.run(through_backing, *WAYS[0], prepared(source, ANNA), None) > expected + CLOSE
