"""Names and attributes through a real mount: what is done there is done in SRC, and seen."""

from __future__ import annotations

import errno
import os
import socket
import stat
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.support import (
    IS_ROOT,
    Mounted,
    MountFactory,
    clear_away,
    needs_root,
    wait_for,
)
from throttlefs.host import syscalls

NOBODY = 65534

OTHER_OWNER = (1234, 4321) if IS_ROOT else (os.getuid(), os.getgid())
"""Owner and group to give to a file; only root can give to others."""


def rename2(old: Path, new: Path, flags: int) -> None:
    syscalls.renameat2(-100, os.fsencode(old), -100, os.fsencode(new), flags)


def test_listing_and_attributes_are_those_of_src(mounted: Mounted) -> None:
    (mounted.source / "a").write_bytes(b"12345")
    (mounted.source / "d").mkdir()
    os.chmod(mounted.source / "a", 0o640)
    os.utime(mounted.source / "a", ns=(1_000_000_001, 2_000_000_003))
    assert sorted(os.listdir(mounted.path)) == ["a", "d"]
    src, dst = os.stat(mounted.source / "a"), os.stat(mounted.path / "a")
    for field in ("st_mode", "st_size", "st_uid", "st_gid", "st_nlink", "st_ino", "st_blocks"):
        assert getattr(src, field) == getattr(dst, field), field
    assert (dst.st_atime_ns, dst.st_mtime_ns) == (1_000_000_001, 2_000_000_003)
    assert src.st_ctime_ns == dst.st_ctime_ns


def test_dot_and_dotdot_are_listed(mounted: Mounted) -> None:
    (mounted.path / "d").mkdir()
    out = subprocess.run(
        ["ls", "-ai", mounted.path / "d"], capture_output=True, text=True, check=True
    )
    numbers = dict(reversed(line.split()) for line in out.stdout.splitlines())
    assert int(numbers["."]) == os.stat(mounted.path / "d").st_ino
    assert set(numbers) == {".", ".."}


def test_setattr_changes_src(mounted: Mounted) -> None:
    path = mounted.path / "f"
    path.write_bytes(b"x" * 1000)
    os.chmod(path, 0o4711)
    os.chown(path, *OTHER_OWNER)
    os.truncate(path, 17)
    os.utime(path, ns=(1_234_567_890_123_456_789, 987_654_321_000_000_001))
    st = os.stat(mounted.source / "f")
    assert (st.st_uid, st.st_gid, st.st_size) == (*OTHER_OWNER, 17)
    assert (st.st_atime_ns, st.st_mtime_ns) == (1_234_567_890_123_456_789, 987_654_321_000_000_001)
    os.chmod(path, 0o600)
    assert stat.S_IMODE(os.stat(mounted.source / "f").st_mode) == 0o600


def test_one_time_is_set_without_the_other(mounted: Mounted) -> None:
    path = mounted.path / "f"
    path.touch()
    os.utime(path, ns=(5_000_000_001, 7_000_000_001))
    syscalls.utimens(os.fsencode(path), None, 9_000_000_009)
    st = os.stat(mounted.source / "f")
    assert (st.st_atime_ns, st.st_mtime_ns) == (5_000_000_001, 9_000_000_009)


def test_ftruncate_by_handle_of_an_unlinked_file(mounted: Mounted) -> None:
    with open(mounted.path / "f", "w+b") as file:
        os.unlink(mounted.path / "f")
        file.write(b"abcdef")
        file.flush()
        os.ftruncate(file.fileno(), 3)
        assert os.fstat(file.fileno()).st_size == 3
        file.seek(0)
        assert file.read() == b"abc"
        assert os.listdir(mounted.source) == []


def test_symlink_and_readlink(mounted: Mounted) -> None:
    target = "relative/\udcff\udcfe target"
    os.symlink(target, mounted.path / "l")
    assert os.readlink(mounted.source / "l") == os.readlink(mounted.path / "l") == target
    os.lchown(mounted.path / "l", *OTHER_OWNER)
    assert os.lstat(mounted.source / "l").st_uid == OTHER_OWNER[0]
    os.utime(mounted.path / "l", ns=(1, 2), follow_symlinks=False)
    assert os.lstat(mounted.source / "l").st_mtime_ns == 2


def test_mknod_makes_every_kind(mounted: Mounted) -> None:
    os.mkfifo(mounted.path / "fifo", 0o640)
    assert stat.S_ISFIFO(os.lstat(mounted.source / "fifo").st_mode)
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(str(mounted.path / "s"))
        assert stat.S_ISSOCK(os.lstat(mounted.source / "s").st_mode)
    os.mknod(mounted.path / "plain", 0o644)
    assert stat.S_ISREG(os.lstat(mounted.source / "plain").st_mode)


@needs_root("make devices")
def test_mknod_makes_devices(mounted: Mounted) -> None:
    os.mknod(mounted.path / "dev", 0o600 | stat.S_IFCHR, os.makedev(1, 3))
    assert os.lstat(mounted.source / "dev").st_rdev == os.makedev(1, 3)


def test_umask_of_the_caller_applies_and_not_the_daemons(mounted: Mounted) -> None:
    subprocess.run(
        ["sh", "-c", "umask 0; touch a; mkdir b; umask 027; touch c"], cwd=mounted.path, check=True
    )
    modes = {name: stat.S_IMODE(os.stat(mounted.source / name).st_mode) for name in "abc"}
    assert modes == {"a": 0o666, "b": 0o777, "c": 0o640}


def test_directories(mounted: Mounted) -> None:
    os.makedirs(mounted.path / "a/b/c")
    with pytest.raises(OSError) as info:
        os.rmdir(mounted.path / "a")
    assert info.value.errno == errno.ENOTEMPTY
    os.removedirs(mounted.path / "a/b/c")
    assert os.listdir(mounted.source) == []


def test_rename_plain_noreplace_exchange(mounted: Mounted) -> None:
    a, b, c = (mounted.path / name for name in "abc")
    a.write_text("A")
    b.write_text("B")
    with pytest.raises(FileExistsError):
        rename2(a, b, syscalls.RENAME_NOREPLACE)
    rename2(a, b, syscalls.RENAME_EXCHANGE)
    assert (a.read_text(), b.read_text()) == ("B", "A")
    rename2(a, c, syscalls.RENAME_NOREPLACE)
    os.rename(b, c)
    assert os.listdir(mounted.source) == ["c"]
    assert (mounted.source / "c").read_text() == "A"


def test_a_handle_follows_its_file_through_renames_below(mounted: Mounted) -> None:
    path = mounted.path / "f"
    path.write_bytes(b"mine")
    with open(path, "r+b", buffering=0) as file:
        os.rename(mounted.source / "f", mounted.source / "g")
        (mounted.source / "f").write_bytes(b"other")
        file.write(b"MINE")
        assert os.fstat(file.fileno()).st_ino == os.stat(mounted.source / "g").st_ino
    assert (mounted.source / "g").read_bytes() == b"MINE"
    assert (mounted.source / "f").read_bytes() == b"other"


def test_hard_links_are_one_file(mounted: Mounted) -> None:
    (mounted.path / "a").write_text("x")
    os.link(mounted.path / "a", mounted.path / "b")
    a, b = os.stat(mounted.path / "a"), os.stat(mounted.path / "b")
    assert (a.st_ino, b.st_nlink) == (b.st_ino, 2)
    assert os.path.samefile(mounted.source / "a", mounted.source / "b")
    os.symlink("nowhere", mounted.path / "l")
    os.link(mounted.path / "l", mounted.path / "m", follow_symlinks=False)
    assert os.readlink(mounted.source / "m") == "nowhere"


@pytest.mark.parametrize(
    "name", [b"\xff\xfe\x80", "grüße 漢字".encode(), b"new\nline", b"a" * 255, b"-o", b"a,b\\c"]
)
def test_names_of_any_bytes(mounted: Mounted, name: bytes) -> None:
    path = os.path.join(os.fsencode(mounted.path), name)
    with open(path, "wb") as file:
        file.write(b"data")
    assert (
        os.listdir(os.fsencode(mounted.source)) == os.listdir(os.fsencode(mounted.path)) == [name]
    )
    os.rename(path, path[:-1] + b"z")
    os.unlink(path[:-1] + b"z")
    assert os.listdir(mounted.source) == []


def test_a_name_too_long_says_so(mounted: Mounted) -> None:
    with pytest.raises(OSError) as info:
        os.stat(mounted.path / ("a" * 256))
    assert info.value.errno == errno.ENAMETOOLONG


def test_extended_attributes(mounted: Mounted) -> None:
    path = mounted.path / "f"
    path.touch()
    os.setxattr(path, "user.one", b"1\x002")
    os.setxattr(path, "user.two", b"", os.XATTR_CREATE)
    assert os.getxattr(mounted.source / "f", "user.one") == b"1\x002"
    assert set(os.listxattr(path)) == {"user.one", "user.two"}
    with pytest.raises(FileExistsError):
        os.setxattr(path, "user.one", b"x", os.XATTR_CREATE)
    os.removexattr(path, "user.two")
    for change in (
        lambda: os.removexattr(path, "user.two"),
        lambda: os.getxattr(path, "user.two"),
        lambda: os.setxattr(path, "user.two", b"x", os.XATTR_REPLACE),
    ):
        with pytest.raises(OSError) as info:
            change()
        assert info.value.errno == errno.ENODATA
    assert os.listxattr(mounted.source / "f") == ["user.one"]


def test_changes_below_show_by_themselves(mounted: Mounted) -> None:
    (mounted.source / "f").write_bytes(b"1")
    assert os.stat(mounted.path / "f").st_size == 1
    (mounted.source / "f").write_bytes(b"22")
    (mounted.source / "new").touch()
    assert (mounted.path / "new").exists()
    wait_for(lambda: os.stat(mounted.path / "f").st_size == 2)
    os.unlink(mounted.source / "f")
    wait_for(lambda: not (mounted.path / "f").exists())


def test_timeouts_are_adjustable(make_mount: MountFactory) -> None:
    mounted = make_mount("attr_timeout=60,entry_timeout=60")
    (mounted.source / "f").write_bytes(b"1")
    assert os.stat(mounted.path / "f").st_size == 1
    (mounted.source / "f").write_bytes(b"22")
    time.sleep(1.2)
    assert os.stat(mounted.path / "f").st_size == 1, "the kernel keeps attributes for a minute"
    other = make_mount(
        "attr_timeout=0,entry_timeout=0", source=mounted.source, target=mounted.path.parent / "m2"
    )
    (mounted.source / "f").write_bytes(b"333")
    assert os.stat(other.path / "f").st_size == 3


def test_a_directory_of_many_entries(mounted: Mounted) -> None:
    count = 20_000
    for number in range(count):
        os.close(os.open(mounted.source / f"file-{number}", os.O_CREAT, 0o600))
    names = os.listdir(mounted.path)
    assert len(names) == len(set(names)) == count
    descriptors = len(os.listdir(f"/proc/{mounted.pid}/fd"))
    assert descriptors < 200, "a listing must not hold a descriptor for each entry"
    with os.scandir(mounted.path) as entries:
        assert sum(entry.stat().st_size for entry in entries) == 0


def test_a_listing_survives_changes_while_it_is_read(mounted: Mounted) -> None:
    for number in range(5000):
        os.close(os.open(mounted.source / f"{number:05}", os.O_CREAT, 0o600))
    seen = []
    with os.scandir(mounted.path) as entries:
        for entry in entries:
            seen.append(entry.name)
            if len(seen) == 100:
                for number in range(0, 5000, 2):
                    os.unlink(mounted.source / f"{number:05}")
    assert len(seen) == len(set(seen)), "nothing twice"
    assert {f"{number:05}" for number in range(1, 5000, 2)} <= set(seen), "nothing skipped"


def test_statfs_is_that_of_src(mounted: Mounted) -> None:
    src, dst = os.statvfs(mounted.source), os.statvfs(mounted.path)
    assert (src.f_blocks, src.f_bsize, src.f_namemax) == (dst.f_blocks, dst.f_bsize, dst.f_namemax)


def test_fsync_of_files_and_directories(mounted: Mounted) -> None:
    with open(mounted.path / "f", "wb") as file:
        file.write(b"x")
        file.flush()
        os.fsync(file.fileno())
        os.fdatasync(file.fileno())
    fd = os.open(mounted.path, os.O_RDONLY | os.O_DIRECTORY)
    os.fsync(fd)
    os.close(fd)


@needs_root("mount filesystems")
def test_a_filesystem_mounted_below_src(make_mount: MountFactory, tmp_path: Path) -> None:
    below = tmp_path / "src" / "below"
    below.mkdir(parents=True)
    subprocess.run(["mount", "-t", "tmpfs", "tmpfs", below], check=True)
    try:
        (below / "inside").write_text("tmpfs")
        mounted = make_mount()
        assert (mounted.path / "below" / "inside").read_text() == "tmpfs"
        (mounted.path / "below" / "new").write_text("n")
        assert (below / "new").read_text() == "n"
        numbers = [
            os.stat(p).st_ino
            for p in (mounted.path, mounted.path / "below", mounted.path / "below/inside")
        ]
        assert len(set(numbers)) == 3, "files of two filesystems must not share a number"
        with pytest.raises(OSError) as info:
            os.link(mounted.path / "below" / "new", mounted.path / "l")
        assert info.value.errno == errno.EXDEV
        mounted.umount()
    finally:
        subprocess.run(["umount", below], check=True)


def test_mounting_a_directory_over_itself(make_mount: MountFactory, tmp_path: Path) -> None:
    directory = tmp_path / "src"
    directory.mkdir()
    (directory / "f").write_text("below")
    mounted = make_mount("nonempty", source=directory, target=directory)
    assert (directory / "f").read_text() == "below"
    (directory / "g").write_text("through")
    mounted.umount()
    assert (directory / "g").read_text() == "through"


def test_descriptors_of_inodes_are_bounded(make_mount: MountFactory, tmp_path: Path) -> None:
    source = tmp_path / "src"
    source.mkdir()
    for directory in range(20):
        (source / f"d{directory}").mkdir()
        for number in range(40):
            (source / f"d{directory}" / f"f{number}").write_text(f"{directory} {number}")
    target, log = tmp_path / "mnt", tmp_path / "log"
    target.mkdir()
    mount = f'"{sys.executable}" -m throttlefs mount "{source}" "{target}" --log-file "{log}"'
    # Without CAP_SYS_RESOURCE root may not lift the limit again, as an ordinary user may not.
    drop = ["setpriv", "--bounding-set=-sys_resource", "--inh-caps=-sys_resource"]
    drop = drop if os.geteuid() == 0 else []
    subprocess.run([*drop, "sh", "-c", f"ulimit -n 300; exec {mount}"], check=True, timeout=30)
    try:
        pairs = [(d, n) for d in range(20) for n in range(40)]
        held = [os.open(target / f"d{d}/f{n}", os.O_PATH) for d, n in pairs]
        for fd, (directory, number) in zip(held, pairs, strict=True):
            again = os.open(f"/proc/self/fd/{fd}", os.O_RDONLY)
            assert os.read(again, 100) == f"{directory} {number}".encode()
            os.close(again)
        for fd in held:
            os.close(fd)
    finally:
        clear_away(target)
