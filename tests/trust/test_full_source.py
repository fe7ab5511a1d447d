"""SRC's filesystem goes full, or over a quota, under load, and has room again afterwards."""

from __future__ import annotations

import errno
import os
import random
import subprocess
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.soak import Soak, Tally
from tests.support import MountFactory, wait_for
from tests.trust.kernel_aio import KernelAio, aligned_memory
from tests.trust.sources import (
    MIB,
    MakeSource,
    run,
    skip_unless_known,
)
from tests.trust.writers import Writer, assert_nothing_lost, wait_until_written

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="only root can mount filesystems")

MODES = [
    "engine=uring,cache=none",
    "engine=threads,cache=writeback",
    "engine=uring,cache=writeback",
    "engine=threads,cache=none",
    "engine=uring,cache=writethrough",
    "engine=threads,cache=directsync",
]


def growing_and_steady(
    growing: Path, steady: Path, ledgers: Path
) -> tuple[list[Writer], list[Writer]]:
    """Writers that need more and more room and go on after errors, and such that need none."""
    kinds = [
        {"how": "aio", "direct": True, "depth": 6},
        {"how": "sync", "fsync": 30},
        {"how": "threads", "depth": 3, "layout": "aligned"},
    ]
    grow = [
        Writer(growing / f"grow{i}", ledgers / f"grow{i}", i, **{"go_on": True, **kind})  # type: ignore[arg-type]
        for i, kind in enumerate(kinds)
    ]
    stay = [
        Writer(steady / f"stay{i}", ledgers / f"stay{i}", 50 + i, layout="small:64", **kind)  # type: ignore[arg-type]
        for i, kind in enumerate(({"how": "aio", "direct": True}, {"how": "sync"}))
    ]
    return grow, stay


def assert_alive(mount: Path, other: Path, contents: bytes) -> None:
    """What needs no room works on: names, attributes, and other files' contents."""
    assert other.name in os.listdir(other.parent)
    assert os.stat(other).st_size == len(contents)
    assert other.read_bytes() == contents
    assert os.statvfs(mount).f_blocks
    result = subprocess.run(["ls", "-lR", mount], capture_output=True, text=True, check=False)
    assert (result.returncode, result.stderr) == (0, "")


@pytest.mark.parametrize("kind", ["ext4", "xfs", "tmpfs"])
def test_a_source_goes_full_under_load(
    make_source: MakeSource,
    make_mount: MountFactory,
    writers: list[Writer],
    tmp_path: Path,
    soak: Soak,
    tally: Tally,
    kind: str,
) -> None:
    """ENOSPC for who needs room, nothing at all for others; with room again, all go on."""
    skip_unless_known(kind)
    source = make_source(kind)
    modes = MODES * 2 if soak.long else [MODES[["ext4", "xfs", "tmpfs"].index(kind) % 2]]
    for mode in modes:
        mounted = make_mount(f"{mode},bps=200M", source=source.path)
        contents = random.Random(1).randbytes(100_000)
        other = mounted.path / "other"
        other.write_bytes(contents)
        for i in range(2):  # what is overwritten in place needs no room
            (mounted.path / f"stay{i}").write_bytes(bytes(64 * 4096))
        os.sync()
        source.fill(6 * MIB)
        grow, stay = growing_and_steady(mounted.path, mounted.path, tmp_path)
        writers += [*grow, *stay]
        wait_until_written(stay, 20)
        wait_for(lambda: source.free() < MIB, 60)
        time.sleep(soak.choose(0.3, 1))
        assert_alive(mounted.path, other, contents)
        wait_until_written(stay, 20)
        source.make_room()
        wait_until_written([*grow, *stay], 60)
        for writer in grow:
            assert writer.end().errors.keys() <= {"ENOSPC", "SHORT"}, writer.errors
        assert any("ENOSPC" in writer.errors for writer in grow)
        for writer in stay:
            assert not writer.end().errors
        assert "ERROR" not in mounted.log
        mounted.umount()
        tally.note(assert_nothing_lost([*grow, *stay], source.path, tally))
        assert (source.path / "other").read_bytes() == contents
        for writer in [*grow, *stay]:
            os.unlink(source.path / writer.file.name)
            os.unlink(writer.ledger)


def test_a_quota_is_reached_under_load(
    make_source: MakeSource,
    make_mount: MountFactory,
    writers: list[Writer],
    tmp_path: Path,
    soak: Soak,
    tally: Tally,
) -> None:
    """EDQUOT where the quota holds, nothing elsewhere. (Of ext4's and XFS's root is free.)"""
    skip_unless_known("btrfs")
    source = make_source("btrfs")
    run("btrfs", "quota", "enable", source.path)
    run("btrfs", "subvolume", "create", source.path / "held")
    run("btrfs", "qgroup", "limit", "24M", source.path / "held")
    for mode in MODES[: soak.choose(1, len(MODES))]:
        (source.path / "held" / "filler").write_bytes(bytes(20 * MIB))
        mounted = make_mount(mode, source=source.path)
        contents = random.Random(2).randbytes(100_000)
        other = mounted.path / "other"
        other.write_bytes(contents)
        grow, stay = growing_and_steady(mounted.path / "held", mounted.path, tmp_path)
        writers += [*grow, *stay]
        wait_until_written(stay, 20)
        time.sleep(soak.choose(1, 3))
        assert_alive(mounted.path, other, contents)
        wait_until_written(stay, 20)
        os.unlink(source.path / "held" / "filler")
        run("btrfs", "filesystem", "sync", source.path)
        wait_until_written(grow, 40)
        for writer in grow:
            assert writer.end().errors.keys() <= {"EDQUOT", "SHORT"}, writer.errors
        assert any("EDQUOT" in writer.errors for writer in grow)
        for writer in stay:
            assert not writer.end().errors
        mounted.umount()
        tally.note(
            assert_nothing_lost(grow, source.path / "held", tally)
            + assert_nothing_lost(stay, source.path, tally)
        )
        for writer in grow:
            os.unlink(source.path / "held" / writer.file.name)
            os.unlink(writer.ledger)
        for writer in stay:
            os.unlink(source.path / writer.file.name)
            os.unlink(writer.ledger)
        run("btrfs", "filesystem", "sync", source.path)


# -- one request that fits in part --------------------------------------------------------------


def by_pwrite(fd: int, data: bytes, offset: int) -> int:
    memory = aligned_memory(len(data))
    memory[:] = data
    try:
        return os.pwrite(fd, memory, offset)
    except OSError as error:
        return -(error.errno or 0)


def by_aio(fd: int, data: bytes, offset: int) -> int:
    aio = KernelAio(1)
    aio.write(1, fd, offset, data)
    return aio.wait()[0].result


WAYS = [(by_pwrite, 0), (by_pwrite, os.O_DIRECT), (by_aio, os.O_DIRECT)]


@pytest.mark.parametrize("kind", ["tmpfs", "ext4", "xfs"])
def test_a_request_that_fits_in_part_is_written_in_part(
    make_source: MakeSource, make_mount: MountFactory, soak: Soak, tally: Tally, kind: str
) -> None:
    """The program is told how much, that much is there, and going on from there is ENOSPC."""
    skip_unless_known(kind)
    source = make_source(kind)
    data = random.Random(3).randbytes(MIB)
    shorts = 0
    modes = MODES if soak.long or kind == "tmpfs" else MODES[:2]
    for mode in modes:
        mounted = make_mount(mode, source=source.path)
        for number, (write, flags) in enumerate(WAYS):
            path = mounted.path / f"f{number}"
            fd = os.open(path, os.O_RDWR | os.O_CREAT | flags)
            os.sync()
            source.fill(300_000)
            result = write(fd, data, 0)
            assert result < MIB
            if flags & os.O_DIRECT or result < 0:
                # As with O_DIRECT on ext4 and XFS. (Short AIO would come out of FUSE as EIO.)
                assert result == -errno.ENOSPC, errno.errorcode.get(-result, result)
            else:
                shorts += 1
                assert os.stat(path).st_size == result
                assert path.read_bytes() == data[:result]
                # As locally, the rest may find room that was reserved too generously before.
                begin, tries = result, 0
                while (result := write(fd, data[begin:], begin)) > 0 and tries < 50:
                    begin += result
                    tries += 1
                assert result == -errno.ENOSPC
            source.make_room()
            begin = max(os.stat(path).st_size // 4096 * 4096, 0)
            while begin < MIB:
                result = write(fd, data[begin:], begin)
                assert result > 0, f"with room again: {errno.errorcode[-result]}"
                begin += result
            os.fsync(fd)
            os.close(fd)
            assert (source.path / f"f{number}").read_bytes() == data
            os.truncate(path, 0)  # or the room might come back only after the next `fill`
            os.unlink(path)
            tally.note(checked="what was said to be written compared with SRC")
        mounted.umount()
    assert shorts or kind != "tmpfs"


def test_the_largest_file_size_is_that_of_src(
    make_source: MakeSource, make_mount: MountFactory, soak: Soak, tally: Tally
) -> None:
    """A write across it is short, one behind it EFBIG, just as in SRC itself."""
    source = make_source("ext4")
    largest = largest_file_size(source.path / "probe")
    for mode in MODES[: soak.choose(2, len(MODES))]:
        mounted = make_mount(mode, source=source.path)
        for write, flags in WAYS:
            local, here = (
                outcomes_at_the_end(directory / "f", write, flags, largest)
                for directory in (source.path, mounted.path)
            )
            if flags & os.O_DIRECT:
                assert local[2] == 8192
                local[2] = -errno.EFBIG  # not short: see above
            assert here == local
            assert local[3] == -errno.EFBIG
            tally.note(checked="results compared with those in SRC itself")
        mounted.umount()


def outcomes_at_the_end(
    path: Path, write: Callable[[int, bytes, int], int], flags: int, largest: int
) -> list[int]:
    """What writes and truncates around the largest size that a file can have result in."""
    fd = os.open(path, os.O_RDWR | os.O_CREAT | flags)
    places = ((4096, -8192), (8192, -8192), (MIB, -8192), (4096, 0), (MIB, 4096))
    outcomes = [write(fd, bytes([7]) * size, largest + at) for size, at in places]
    outcomes.append(os.fstat(fd).st_size)
    for size in (largest, largest + 1):
        try:
            os.ftruncate(fd, size)
            outcomes.append(0)
        except OSError as error:
            outcomes.append(-(error.errno or 0))
    os.close(fd)
    os.unlink(path)
    return outcomes


def largest_file_size(path: Path) -> int:
    """By bisection, of a sparse file."""
    low, high = 0, (1 << 63) - 1
    with open(path, "wb") as file:
        while low < high:
            middle = (low + high + 1) // 2
            try:
                os.ftruncate(file.fileno(), middle)
                low = middle
            except OSError:
                high = middle - 1
    os.unlink(path)
    return low
