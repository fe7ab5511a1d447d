"""SRC changes beneath a mount under load: made read-only, removed, or taken out of sight."""

from __future__ import annotations

import errno
import os
import random
import shutil
import time
from pathlib import Path

import pytest

from tests.soak import Soak, Tally
from tests.support import MountFactory, wait_for
from tests.trust.sources import (
    MakeSource,
    Source,
    run,
    skip_unless_known,
)
from tests.trust.writers import (
    Writer,
    assert_nothing_lost,
    path_of,
    start_mixed,
    wait_until_written,
)

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="only root can mount filesystems")

MODES = [
    "engine=uring,cache=none",
    "engine=threads,cache=writeback",
    "engine=uring,cache=writeback",
    "engine=threads,cache=none",
]


def assert_refused(mount: Path, number: int) -> None:
    """Each way to change something says so."""
    for action in (
        lambda: open(mount / "other", "r+b"),
        lambda: open(mount / "new", "xb"),
        lambda: os.mkdir(mount / "new"),
        lambda: os.unlink(mount / "other"),
        lambda: os.rename(mount / "other", mount / "new"),
        lambda: os.truncate(mount / "other", 1),
        lambda: os.chmod(mount / "other", 0o600),
        lambda: os.setxattr(mount / "other", "user.x", b"1"),
    ):
        with pytest.raises(OSError) as info:
            action()
        assert info.value.errno == number


# -- read-only ----------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["ext4", "xfs", "tmpfs"])
def test_src_is_made_read_only_and_writable_again(
    make_source: MakeSource,
    make_mount: MountFactory,
    writers: list[Writer],
    tmp_path: Path,
    soak: Soak,
    tally: Tally,
    kind: str,
) -> None:
    """Writers that open their file anew get EROFS meanwhile; readers notice nothing."""
    source = make_source(kind)
    contents = random.Random(1).randbytes(50_000)
    for round_, mode in enumerate(MODES * 3 if soak.long else [MODES[len(kind) % 2]]):
        mounted = make_mount(mode, source=source.path)
        other = mounted.path / "other"
        other.write_bytes(contents)
        now = [
            Writer(
                mounted.path / f"w{i}",
                tmp_path / f"ledger{round_}-{i}",
                i,
                how="sync",
                reopen=1,
                rest=0.01,
                go_on=True,
                direct=bool(i),
            )
            for i in range(2)
        ]
        writers += now
        wait_until_written(now, 20)
        wait_for(lambda: source.remount("ro"), 60)  # in a moment when no file is open
        assert_refused(mounted.path, errno.EROFS)
        assert other.read_bytes() == contents
        assert "other" in os.listdir(mounted.path)
        time.sleep(0.2)
        assert source.remount("rw")
        wait_until_written(now, 20)
        for writer in now:
            assert writer.end().errors.keys() == {"EROFS"}, writer.errors
        mounted.umount()
        tally.note(assert_nothing_lost(now, source.path, tally))
        for writer in now:
            os.unlink(source.path / writer.file.name)


def trigger_error(source: Source) -> None:
    """Make ext4 believe that it found itself corrupt."""
    device = run("losetup", "-nO", "NAME", "-j", source.image).strip()
    Path(f"/sys/fs/ext4/{Path(device).name}/trigger_fs_error").write_text("a test")


def test_ext4_turns_read_only_by_itself(
    make_source: MakeSource,
    make_mount: MountFactory,
    writers: list[Writer],
    soak: Soak,
    tally: Tally,
) -> None:
    """errors=remount-ro, with files open for writing: no hang, reads go on, nothing acknowledged
    and synced is lost, and a new mount of the repaired SRC works."""
    source = make_source("ext4", "-e", "remount-ro")
    for seed, mode in enumerate(MODES * 3 if soak.long else MODES[:1]):
        mounted = make_mount(mode, source=source.path)
        contents = random.Random(seed).randbytes(50_000)
        (mounted.path / "other").write_bytes(contents)
        os.sync()
        now = start_mixed(mounted.path, 4, seed, go_on=True, reopen=0)
        writers += now
        wait_until_written(now, 12)
        for writer in now:
            writer.promise()
        trigger_error(source)
        time.sleep(0.3)
        assert_refused(mounted.path, errno.EROFS)
        assert (mounted.path / "other").read_bytes() == contents
        for writer in now:
            assert writer.end().errors.keys() <= {"EROFS", "EIO"}, writer.errors
        assert any("EROFS" in writer.errors for writer in now)
        mounted.umount()
        source.unmount()
        source.wait_until_free()
        run("e2fsck", "-fy", source.image, check=False)
        source.mount()
        for writer in now:
            tally.note(assert_nothing_lost([writer], source.path, tally, synced_only=True))
        again = make_mount(mode, source=source.path)
        assert (again.path / "other").read_bytes() == contents
        for writer in now:
            (again.path / writer.file.name).unlink(missing_ok=True)
        again.umount()


# -- gone ---------------------------------------------------------------------------------------


def test_src_is_removed_beneath_programs_at_work(
    make_mount: MountFactory, writers: list[Writer], tmp_path: Path, soak: Soak, tally: Tally
) -> None:
    """They go on in files without a name, as they would locally; names are ENOENT."""
    for seed, mode in enumerate(MODES[: soak.choose(2, 4)] * soak.choose(1, 5)):
        mounted = make_mount(mode)
        now = start_mixed(mounted.path, 4, seed)
        writers += now
        wait_until_written(now, 3)
        held = [os.open(writer.file, os.O_RDONLY) for writer in now]
        shutil.rmtree(mounted.source)
        wait_until_written(now, 5)
        assert os.listdir(mounted.path) == []
        assert os.stat(mounted.path).st_nlink == 0
        os.statvfs(mounted.path)
        for action in (os.stat, os.listdir, os.mkdir, Path.touch):
            with pytest.raises(FileNotFoundError):
                action(mounted.path / "new")
        for writer, fd in zip(now, held, strict=True):
            assert not writer.end().errors
            result = writer.audit(path_of(fd))
            assert not result.reasons, result.reasons
            tally.note(result.writes, checked="acknowledged writes compared through the mount")
            os.close(fd)
        assert "ERROR" not in mounted.log
        mounted.umount()


@pytest.mark.parametrize("how", ["unlink", "replace"])
def test_what_is_deleted_in_src_frees_its_space(
    make_source: MakeSource, make_mount: MountFactory, soak: Soak, tally: Tally, how: str
) -> None:
    """Though the mount has shown it; but not what somebody has open, which stays readable."""
    source = make_source("ext4")
    mounted = make_mount(source=source.path)
    for _ in range(soak.choose(1, 10)):
        before = source.free()
        for name in ("gone", "open"):
            (mounted.path / name).write_bytes(name.encode() * (1 << 20))
        os.sync()
        with open(mounted.path / "open", "rb", buffering=0) as held:
            run("ls", "-l", mounted.path)
            assert source.free() < before - (7 << 20)
            for name in ("gone", "open"):
                if how == "replace":
                    (source.path / "new").write_bytes(b"new")
                    os.rename(source.path / "new", source.path / name)
                else:
                    os.unlink(source.path / name)
            wait_for(lambda b=before: source.free() > b - (5 << 20), 30)  # type: ignore[misc]
            assert os.pread(held.fileno(), 4, 4 << 19) == b"open"
            if how == "replace":
                assert (mounted.path / "gone").read_bytes() == b"new"
        wait_for(lambda b=before: source.free() > b - (1 << 20), 30)  # type: ignore[misc]
        tally.note(checked="free space of SRC, data of what is still open")
        for name in os.listdir(source.path):
            if name != "lost+found":
                os.unlink(source.path / name)
    assert "ERROR" not in mounted.log
    mounted.umount()


def test_srcs_filesystem_is_lazily_unmounted_beneath(
    make_source: MakeSource,
    make_mount: MountFactory,
    writers: list[Writer],
    soak: Soak,
    tally: Tally,
) -> None:
    """The mount goes on with what it holds; with its end the filesystem is free and whole."""
    skip_unless_known("ext4")
    source = make_source("ext4")
    for seed, mode in enumerate(MODES * 4 if soak.long else MODES[:1]):
        mounted = make_mount(mode, source=source.path)
        before = start_mixed(mounted.path, 2, seed)
        writers += before
        wait_until_written(before, 5)
        run("umount", "-l", source.path)
        assert "lost+found" not in os.listdir(source.path)
        after = start_mixed(mounted.path, 2, 100 + seed)
        writers += after
        wait_until_written([*before, *after], 5)
        (mounted.path / "new").write_bytes(b"made while SRC had no name")
        for writer in [*before, *after]:
            assert not writer.end().errors
        mounted.umount()
        source.wait_until_free()
        assert run("e2fsck", "-fn", source.image)
        source.mount()
        assert (source.path / "new").read_bytes() == b"made while SRC had no name"
        tally.note(assert_nothing_lost([*before, *after], source.path, tally))
        for writer in [*before, *after]:
            os.unlink(source.path / writer.file.name)
