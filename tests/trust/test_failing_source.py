"""SRC's disk or filesystem fails under load: errors to whom they belong, and a mount that lives."""

from __future__ import annotations

import errno
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.failing_fs import failing_filesystem
from tests.soak import Soak, Tally
from tests.support import Mounted, MountFactory, run_throttlefs
from tests.trust.kernel_aio import aligned_memory
from tests.trust.sources import (
    MIB,
    MakeSource,
    run,
    skip_unless_known,
)
from tests.trust.writers import (
    Writer,
    assert_nothing_lost,
    start_mixed,
    wait_until_written,
)

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="only root can mount filesystems")

MODES = [
    "engine=uring,cache=writeback",
    "engine=threads,cache=none",
    "engine=uring,cache=none",
    "engine=threads,cache=writeback",
]


# -- one file that fails ------------------------------------------------------------------------


STORMS = [errno.EIO, errno.EDQUOT, errno.ENOSPC, errno.EROFS, errno.ENODATA]


def test_errors_of_one_file_under_load_are_that_files_alone(
    make_mount: MountFactory, writers: list[Writer], tmp_path: Path, soak: Soak, tally: Tally
) -> None:
    """Storms of errors come and go; its program sees them, its neighbour's nothing, ever."""
    for round_, mode in enumerate(MODES * 5 if soak.long else MODES[1:3]):
        with failing_filesystem(tmp_path, 0) as (source, switch):
            mounted = make_mount(f"{mode},bps=100M", source=source)
            ways = {"how": "aio", "direct": True}, {"how": "threads", "fsync": 5}
            bad, good = (
                Writer(
                    mounted.path / name,
                    tmp_path / f"ledger{round_}{name}",
                    round_,
                    "aligned" if round_ % 2 else "small:100",
                    go_on=True,
                    **ways[(round_ + (name == "g")) % 2],  # type: ignore[arg-type]
                )
                for name in ("f", "g")
            )
            writers += [bad, good]
            for number in STORMS[: soak.choose(2, 5)]:
                wait_until_written([bad, good], 20)
                switch.write_text(str(number))
                wait_until_written([good], 40)
                assert sorted(os.listdir(mounted.path)) == ["f", "g"]
                with pytest.raises(OSError) as info:
                    (mounted.path / "f").read_bytes()
                assert info.value.errno == number
                assert (mounted.path / "g").read_bytes()
                switch.write_text("")
            wait_until_written([bad, good], 20)
            asked = {errno.errorcode[number] for number in STORMS}
            assert bad.end().errors
            assert bad.errors.keys() <= asked
            assert not good.end().errors
            tally.note(assert_nothing_lost([bad, good], source, tally))
            assert "Traceback" not in mounted.log
            mounted.umount()


# -- a filesystem that is lost ------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["ext4", "xfs"])
def test_a_filesystem_that_breaks_down_under_load(
    make_source: MakeSource,
    make_mount: MountFactory,
    writers: list[Writer],
    soak: Soak,
    tally: Tally,
    kind: str,
) -> None:
    """As after a power cut: EIO at once, no hang; what fsync had promised is on the disk."""
    skip_unless_known(kind)
    source = make_source(kind)
    for seed, mode in enumerate(MODES * 3 if soak.long else [MODES[kind == "xfs"]]):
        mounted = make_mount(mode, source=source.path)
        now = start_mixed(mounted.path, 4, seed, go_on=True)
        writers += now
        synced = [
            Writer(
                mounted.path / f"s{seed}-{i}",
                mounted.path.parent / f"ledger-s{seed}-{i}",
                100 * seed + 90 + i,
                "any" if i else "small:40",
                how="sync",
                fsync=5,
                go_on=True,
            )
            for i in range(2)
        ]
        writers += synced
        wait_until_written([*now, *synced], 12)
        # An fsync in the very moment may succeed on ext4 although its transaction is aborted.
        for writer in synced:
            writer.promise()
        source.shut_down()
        time.sleep(0.3)
        assert mounted.is_mounted()
        assert run_throttlefs("show", mounted.path).returncode == 0
        for writer in (*now, *synced):
            assert writer.end().errors.keys() == {"EIO"}, writer.errors
        umount_of_what_is_lost(mounted)
        source.mount_again()
        for writer in synced:
            tally.note(
                assert_nothing_lost([writer], source.path, tally, synced_only=True),
                checked="what fsync promised compared with SRC mounted anew",
            )
        again = make_mount(mode, source=source.path)
        (again.path / "f").write_bytes(b"well again")
        for name in os.listdir(again.path):
            if name != "lost+found":
                os.unlink(again.path / name)
        again.umount()


def umount_of_what_is_lost(mounted: Mounted) -> None:
    result = run_throttlefs("umount", mounted.path)
    assert (result.returncode, result.stderr) == (0, "")
    mounted.wait_until_ended()


@pytest.mark.parametrize("kind", ["ext4", "xfs"])
def test_what_was_durable_outlives_a_power_cut(
    make_source: MakeSource,
    make_mount: MountFactory,
    writers: list[Writer],
    soak: Soak,
    tally: Tally,
    kind: str,
) -> None:
    """With writethrough and directsync every acknowledged write is durable, without any fsync."""
    skip_unless_known(kind)
    source = make_source(kind)
    modes = [
        f"engine={e},cache={c}"
        for c in ("writethrough", "directsync")
        for e in ("uring", "threads")
    ]
    for seed, mode in enumerate(modes * 3 if soak.long else modes[::2][kind == "xfs" :][:1]):
        mounted = make_mount(mode, source=source.path)
        now = start_mixed(mounted.path, 3, seed, go_on=True, fsync=0, reopen=0)
        writers += now
        wait_until_written(now, 12)
        for writer in now:
            writer.promise()
        source.shut_down()
        for writer in now:
            assert writer.end().errors.keys() <= {"EIO", "EROFS"}, writer.errors
        umount_of_what_is_lost(mounted)
        source.mount_again()
        tally.note(assert_nothing_lost(now, source.path, tally))
        for writer in now:
            (source.path / writer.file.name).unlink(missing_ok=True)


# -- a disk that fails --------------------------------------------------------------------------


@contextmanager
def thin_device(tmp_path: Path) -> Iterator[tuple[Path, Path]]:
    """A block device of 16 MiB with 4 MiB behind it, and the tmpfs where its blocks come from."""
    pool = tmp_path / "pool"
    pool.mkdir(parents=True)
    run("mount", "-t", "tmpfs", "-o", "size=4M", "tmpfs", pool)
    try:
        with open(pool / "disk", "wb") as file:
            file.truncate(16 * MIB)
        device = Path(run("losetup", "-f", "--show", pool / "disk").strip())
        try:
            yield device, pool
        finally:
            run("losetup", "-d", device)
    finally:
        run("umount", "-l", pool)


def outcomes_of_a_lost_write_back(path: Path) -> list[object]:
    """Three descriptors of a device, of which one writes more than the disk can take."""
    fds = [os.open(path, os.O_RDWR) for _ in range(3)]
    said: list[object] = []
    said.append(os.pwrite(fds[0], b"\1" * MIB, 0))
    said.append(outcome_of_fsync(fds[0]))
    for place in range(2, 12):
        said.append(os.pwrite(fds[0], bytes([place]) * MIB, place * MIB))
    for _ in range(2):
        said.append([outcome_of_fsync(fd) for fd in fds])
    late = os.open(path, os.O_RDWR)
    said.append(outcome_of_fsync(late))
    for fd in (*fds, late):
        os.close(fd)
    return said


def outcome_of_fsync(fd: int) -> str:
    try:
        os.fsync(fd)
    except OSError as error:
        return errno.errorcode[error.errno or 0]
    return "ok"


@pytest.mark.parametrize("engine", ["uring", "threads"])
def test_fsync_tells_each_handle_once_as_the_disk_does(
    make_mount: MountFactory, tmp_path: Path, tally: Tally, engine: str
) -> None:
    """A lost write-back is told by the next fsync of each handle that was open then, once."""
    results = []
    for through in (False, True):
        with thin_device(tmp_path / str(through)) as (device, pool):
            path = device
            if through:
                path = tmp_path / "disk.img"
                path.touch()
                mounted = make_mount(f"engine={engine}", source=device, target=path)
            results.append(outcomes_of_a_lost_write_back(path))
            run("mount", "-o", "remount,size=32M", pool)
            fd = os.open(path, os.O_RDWR)
            for place in range(16):
                assert os.pwrite(fd, bytes([place + 1]) * MIB, place * MIB) == MIB
            os.fsync(fd)
            os.close(fd)
            if through:
                mounted.umount()
            expected = b"".join(bytes([place + 1]) * MIB for place in range(16))
            assert (pool / "disk").read_bytes() == expected
    assert results[0] == results[1]
    first, second = results[0][-3:-1]
    assert "ok" not in first
    assert second == ["ok"] * 3
    tally.note(checked="what fsync said compared with the device itself")


def outcomes_of_o_direct(path: Path, pool: Path) -> list[object]:
    """What a program is told that writes a device full, and on after that got more room."""
    fd = os.open(path, os.O_RDWR | os.O_DIRECT)
    memory = aligned_memory(MIB)
    said: list[object] = []
    written = []
    for place in range(12):
        memory[:] = bytes([place + 1]) * MIB
        try:
            assert os.pwrite(fd, memory, place * MIB) == MIB
            written.append(place)
        except OSError as error:
            said.append(errno.errorcode[error.errno or 0])
    assert 2 <= len(written) < 6
    for place in written:
        assert os.preadv(fd, [memory], place * MIB) == MIB
        assert memory == bytes([place + 1]) * MIB
    said.append(outcome_of_fsync(fd))
    run("mount", "-o", "remount,size=32M", pool)
    for place in range(12):
        memory[:] = bytes([place + 1]) * MIB
        assert os.pwrite(fd, memory, place * MIB) == MIB
    said.append(outcome_of_fsync(fd))
    os.close(fd)
    return said


@pytest.mark.parametrize("mode", MODES[1:3])
def test_o_direct_on_a_disk_that_takes_no_more(
    make_mount: MountFactory, tmp_path: Path, tally: Tally, mode: str
) -> None:
    """With cache=none the write itself fails, as on the disk; what succeeded is there."""
    results = []
    for through in (False, True):
        with thin_device(tmp_path / str(through)) as (device, pool):
            path = device
            if through:
                path = tmp_path / "disk.img"
                path.touch()
                mounted = make_mount(mode, source=device, target=path)
            results.append(outcomes_of_o_direct(path, pool))
            if through:
                mounted.umount()
            data = (pool / "disk").read_bytes()
            assert all(data[p * MIB : (p + 1) * MIB] == bytes([p + 1]) * MIB for p in range(12))
    assert results[0] == results[1]
    tally.note(checked="errors compared with the disk's, data with what was written")


# -- a file that cannot be read -----------------------------------------------------------------


@pytest.mark.parametrize("damage", ["inode", "type"])
def test_a_broken_file_does_not_hide_its_neighbours(
    make_source: MakeSource, make_mount: MountFactory, tally: Tally, damage: str
) -> None:
    """A listing shows all names, as that of SRC does, though one of them cannot be looked at."""
    source = make_source("ext4")
    names = [f"file{i}" for i in range(40)]
    for name in names:
        (source.path / name).write_text(name)
    broken = (source.path / "file20").stat().st_ino
    source.unmount()
    value = {"inode": f"clri <{broken}>", "type": f"sif <{broken}> mode 0"}[damage]
    run("debugfs", "-w", "-R", value, source.image)
    source.mount()
    assert {*names} <= {*os.listdir(source.path)}
    with pytest.raises(OSError) as info:
        os.stat(source.path / "file20")
    number = info.value.errno
    mounted = make_mount(source=source.path)
    assert {*names} <= {*os.listdir(mounted.path)}
    with pytest.raises(OSError) as info:
        os.stat(mounted.path / "file20")
    assert info.value.errno == number
    for name in names:
        if name != "file20":
            assert (mounted.path / name).read_text() == name
    mounted.umount()
    tally.note(checked="names and contents beside a broken inode")
