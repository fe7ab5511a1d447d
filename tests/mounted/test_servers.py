"""Our own server beside pyfuse3's: the same operations on two mounts, the same outcome.

What they differ in, on purpose: pyfuse3 turns the time "now" into a number, passes no XATTR_CREATE
and XATTR_REPLACE on (it asks before it sets), and hands no INTERRUPT on.
"""

from __future__ import annotations

import errno
import os
import random
import stat
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.support import Mounted, MountFactory, needs_root, wait_for
from tests.trust.daemon_counts import count

NAMES = [b"a", b"b", b"c", b"d\xff", "ä".encode(), b"x" * 255]
SIZES = [0, 1, 511, 4096, 4097, 70_000, 1 << 20, (1 << 20) + 1]

Pair = tuple[Mounted, Mounted]


@pytest.fixture
def pair(make_mount: MountFactory, tmp_path: Path) -> Pair:
    """A mount served by ourselves and one served by pyfuse3."""
    mounts = []
    for server in ("own", "pyfuse3"):
        mounts.append(
            make_mount(
                f"server={server}", source=tmp_path / f"src-{server}", target=tmp_path / server
            )
        )
    return mounts[0], mounts[1]


def outcome(operation: Callable[[bytes], object], mounted: Mounted) -> object:
    try:
        return operation(os.fsencode(mounted.path))
    except OSError as exc:
        return errno.errorcode[exc.errno or 0]


def same(pair: Pair, operation: Callable[[bytes], object]) -> object:
    """What *operation* comes to, given the mount's path; it must be the same on both."""
    own, reference = (outcome(operation, mounted) for mounted in pair)
    assert own == reference
    return own


def look(path: bytes) -> tuple[object, ...]:
    st = os.lstat(path)
    is_file = stat.S_ISREG(st.st_mode)
    size = st.st_size if is_file or stat.S_ISLNK(st.st_mode) else 0
    return st.st_mode, st.st_nlink, st.st_uid, st.st_gid, size, st.st_rdev, st.st_blksize


def tree(top: bytes) -> dict[bytes, object]:
    """All that lies below *top*: attributes, contents, targets."""
    found: dict[bytes, object] = {}
    for directory, _, names in os.walk(top):
        for name in [b".", *names]:
            path = os.path.join(directory, name)
            extra: object = None
            if os.path.islink(path):
                extra = os.readlink(path)
            elif os.path.isfile(path):
                with open(path, "rb") as file:
                    extra = file.read()
            attributes = {
                n: os.getxattr(path, n, follow_symlinks=False)
                for n in sorted(os.listxattr(path, follow_symlinks=False))
            }
            found[os.path.relpath(path, top)] = (look(path), attributes, extra)
    return found


class Names:
    """Random operations on names; the same for the same seed."""

    def __init__(self, seed: int) -> None:
        self.random = random.Random(seed)

    def path(self, top: bytes, parts: list[bytes]) -> bytes:
        return os.path.join(top, *parts)

    def place(self) -> list[bytes]:
        return [self.random.choice(NAMES) for _ in range(self.random.choice([1, 1, 1, 2, 2, 3]))]

    def next(self) -> Callable[[bytes], object]:
        pick = self.random
        one, two = self.place(), self.place()
        mode = pick.choice([0o600, 0o644, 0o4755, 0o2755, 0o1777, 0o000])
        size = pick.choice(SIZES)
        flags = pick.choice([os.O_RDONLY, os.O_RDWR, os.O_WRONLY, os.O_RDWR | os.O_TRUNC])
        flags |= os.O_NONBLOCK  # not to wait for the other end of a FIFO
        when = pick.randrange(-(10**18), 10**18)
        attribute = pick.choice([b"user.a", b"user.b", b"user." + b"n" * 250, b"bad", b"system.x"])
        value = pick.randbytes(pick.choice([0, 1, 100, 4000, 70_000]))
        xattr_flags = pick.choice([0, 0, os.XATTR_CREATE, os.XATTR_REPLACE])
        filling = bytes([pick.randrange(256)])

        def write(top: bytes) -> object:
            fd = os.open(self.path(top, one), os.O_WRONLY | os.O_CREAT | flags, mode & 0o777)
            try:
                written = os.pwrite(fd, filling * size, size // 2)
                os.fsync(fd)
                return written
            finally:
                os.close(fd)

        def read(top: bytes) -> object:
            fd = os.open(self.path(top, one), flags)
            try:
                return os.pread(fd, size + 10, size // 3)
            finally:
                os.close(fd)

        def listing(top: bytes) -> object:
            with os.scandir(self.path(top, one)) as entries:
                return sorted((e.name, e.is_dir(follow_symlinks=False)) for e in entries)

        def times(top: bytes) -> object:
            path = self.path(top, one)
            os.utime(path, ns=(when, when + 5), follow_symlinks=False)
            st = os.lstat(path)
            return st.st_atime_ns, st.st_mtime_ns

        def call(function: Callable[..., object], *more: object) -> Callable[[bytes], object]:
            return lambda top: function(self.path(top, one), *more)

        def call2(function: Callable[..., object]) -> Callable[[bytes], object]:
            return lambda top: function(self.path(top, one), self.path(top, two))

        return pick.choice(
            [
                *(write, write, read, listing, times, call(look), call(look)),
                *(call(os.mkdir, mode), call(os.rmdir), call(os.unlink), call2(os.rename)),
                *(call2(os.rename), call2(os.link), call(os.readlink), call(os.truncate, size)),
                call(os.chmod, mode),
                call(os.mknod, stat.S_IFIFO | (mode & 0o777)),
                call(os.lchown, 1234, -1),
                lambda top: os.symlink(b"/".join(two), self.path(top, one)),
                call(os.setxattr, attribute, value, xattr_flags),
                call(os.getxattr, attribute),
                call(os.removexattr, attribute),
                lambda top: sorted(os.listxattr(self.path(top, one))),
            ]
        )


@needs_root("read whatever its mode is")
@pytest.mark.parametrize("seed", range(4))
def test_random_operations_on_names(pair: Pair, seed: int) -> None:
    names = Names(seed)
    outcomes = {str(same(pair, names.next()))[:20] for _ in range(1500)}
    assert {"ENOENT", "EEXIST", "ENOTDIR", "None"} <= outcomes
    own, reference = (tree(os.fsencode(mounted.source)) for mounted in pair)
    assert own == reference
    for mounted in pair:
        assert "internal error" not in mounted.log
        assert "damaged" not in mounted.log


def test_random_reads_and_writes(pair: Pair) -> None:
    """As fsx does: one file, whatever sizes and offsets, truncated now and then."""
    pick = random.Random(5)
    handles = [os.open(mounted.path / "f", os.O_RDWR | os.O_CREAT) for mounted in pair]
    try:
        for _ in range(1500):
            offset, size = pick.randrange(300_000), pick.choice([1, 100, 4096, 5000, 131_072])
            data = pick.randbytes(size)
            kind = pick.randrange(10)
            results = []
            for fd in handles:
                if kind < 4:
                    results.append((os.pwrite(fd, data, offset), b""))
                elif kind < 9:
                    results.append((0, os.pread(fd, size, offset)))
                else:
                    os.ftruncate(fd, offset)
                    results.append((os.fstat(fd).st_size, b""))
            assert results[0] == results[1]
    finally:
        for fd in handles:
            os.close(fd)
    own, reference = ((mounted.source / "f").read_bytes() for mounted in pair)
    assert own == reference


def test_names_as_long_as_they_may_be_and_longer(pair: Pair) -> None:
    for length in (254, 255, 256, 4000):
        name = b"n" * length
        expected = "ENAMETOOLONG" if length > 255 else None
        assert same(pair, lambda top: os.mkdir(top + b"/" + name)) == expected  # noqa: B023
        assert same(pair, lambda top: os.rmdir(top + b"/" + name)) == expected  # noqa: B023
    target = b"t" * 4094
    same(pair, lambda top: os.symlink(target, top + b"/link"))
    assert same(pair, lambda top: os.readlink(top + b"/link")) == target


def test_odd_arguments(pair: Pair) -> None:
    same(pair, lambda top: os.mkdir(top + b"/d"))
    for operation in (
        lambda top: os.open(top + b"/d", os.O_WRONLY),
        lambda top: os.open(top + b"/d", os.O_RDWR | os.O_CREAT),
        lambda top: os.open(top + b"/none", os.O_RDONLY | os.O_DIRECTORY),
        lambda top: os.rename(top + b"/d", top + b"/d/inside"),
        lambda top: os.link(top + b"/d", top + b"/hard"),
        lambda top: os.rmdir(top + b"/."),
        lambda top: os.truncate(top + b"/d", 5),
        lambda top: os.symlink(b"", top + b"/empty"),
        lambda top: os.setxattr(top + b"/d", b"user.big", bytes(65_537)),
        lambda top: os.getxattr(top + b"/d", b"system.posix_acl_access"),
        lambda top: os.mknod(top + b"/device", stat.S_IFCHR | 0o600, os.makedev(1, 3)),
        lambda top: os.lstat(top + b"/device").st_rdev,
        lambda top: tuple(os.statvfs(top))[9],
    ):
        same(pair, operation)


def test_a_directory_of_100_000_is_listed_whole_by_both(pair: Pair) -> None:
    count = 100_000
    for mounted in pair:
        directory = os.open(mounted.source, os.O_RDONLY)
        try:
            for number in range(count):
                os.mknod(f"{number:06}", 0o600, dir_fd=directory)
        finally:
            os.close(directory)
    listed = same(pair, lambda top: sorted(os.listdir(top)))
    assert isinstance(listed, list)
    assert len(listed) == count


@pytest.mark.skipif(os.geteuid() != 0, reason="root alone can make the kernel forget inodes")
def test_forgets_in_batches_leave_nothing(pair: Pair) -> None:
    for mounted in pair:
        for number in range(20_000):
            os.mknod(mounted.source / f"{number}", 0o600)
        assert sum(os.lstat(entry.path).st_size for entry in os.scandir(mounted.path)) == 0
    Path("/proc/sys/vm/drop_caches").write_text("2")

    for mounted in pair:
        wait_for(lambda: count(mounted).inodes < 100, 30)  # noqa: B023
        assert mounted.is_mounted()
        assert (mounted.path / "7").exists()


def test_requests_while_a_mount_drains(pair: Pair) -> None:
    """Detached with a file open: what is open is served to its end, by both."""
    handles = [os.open(mounted.path / "f", os.O_RDWR | os.O_CREAT) for mounted in pair]
    for mounted in pair:
        subprocess.run(["umount", "-l", mounted.path], check=True)
    for fd in handles:
        assert os.pwrite(fd, b"late", 0) == 4
        os.fsync(fd)
        assert os.pread(fd, 10, 0) == b"late"
        assert os.fstat(fd).st_size == 4
        os.close(fd)
    for mounted in pair:
        mounted.wait_until_ended()
        assert (mounted.source / "f").read_bytes() == b"late"
