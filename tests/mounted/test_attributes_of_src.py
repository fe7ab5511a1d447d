"""Times and set-id bits of SRC's files, as a program on the mount and one in SRC see them."""

from __future__ import annotations

import os
import shutil
import stat
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support import IS_ROOT, Mounted, MountFactory, clear_away, needs_feature

LONG_AGO = 10**18


@pytest.fixture
def reachable() -> Iterator[Path]:
    """A directory that every user may enter."""
    directory = Path(tempfile.mkdtemp(prefix="throttlefs-"))
    directory.chmod(0o755)
    if os.statvfs(directory).f_flag & os.ST_NOSUID:
        directory.rmdir()
        pytest.skip("the temporary directory forbids setuid programs: set TMPDIR")
    yield directory
    clear_away(directory / "mnt")
    shutil.rmtree(directory)


def access_time(mounted: Mounted, name: str) -> int:
    return os.stat(mounted.source / name).st_atime_ns


@pytest.mark.parametrize("options", ["noatime", "noatime,cache=none", "noatime,engine=threads"])
def test_noatime_leaves_the_access_times_of_src(make_mount: MountFactory, options: str) -> None:
    mounted = make_mount(options)
    (mounted.source / "d").mkdir()
    (mounted.source / "f").write_bytes(bytes(10_000))
    for name in ("f", "d"):
        os.utime(mounted.source / name, ns=(LONG_AGO, LONG_AGO))
    assert (mounted.path / "f").read_bytes() == bytes(10_000)
    assert os.listdir(mounted.path / "d") == []
    assert access_time(mounted, "f") == access_time(mounted, "d") == LONG_AGO


def test_nodiratime_is_for_directories_alone(make_mount: MountFactory) -> None:
    mounted = make_mount("nodiratime")
    (mounted.source / "d").mkdir()
    (mounted.source / "f").write_bytes(b"x")
    for name in ("f", "d"):
        os.utime(mounted.source / name, ns=(LONG_AGO, LONG_AGO))
    (mounted.source / "control").write_bytes(b"x")
    os.utime(mounted.source / "control", ns=(LONG_AGO, LONG_AGO))
    (mounted.source / "control").read_bytes()
    (mounted.path / "f").read_bytes()
    os.listdir(mounted.path / "d")
    assert access_time(mounted, "d") == LONG_AGO
    moves = access_time(mounted, "control") != LONG_AGO  # unless SRC itself has noatime
    assert (access_time(mounted, "f") != LONG_AGO) == moves


@pytest.mark.skipif(os.geteuid() != 0, reason="only root mounts with suid")
def test_a_setuid_program_that_was_written_to_runs_with_no_ones_rights(
    make_mount: MountFactory, reachable: Path
) -> None:
    """The kernel used to remember the bit for attr_timeout (xfstests generic/355)."""
    mounted = make_mount(
        "allow_other,suid,attr_timeout=60", source=reachable / "src", target=reachable / "mnt"
    )
    program = mounted.source / "whoami"
    shutil.copy(shutil.which("id") or "/usr/bin/id", program)
    os.chmod(program, 0o4777)
    shown = mounted.path / "whoami"

    def run() -> str:
        return subprocess.run(
            ["setpriv", "--reuid=65534", "--regid=65534", "--clear-groups", shown, "-u"],
            capture_output=True,
            text=True,
            check=True,
        ).stdout.strip()

    assert run() == "0"
    append = ["/bin/sh", "-c", 'printf more >> "$0"', shown]
    subprocess.run(
        ["setpriv", "--reuid=65534", "--regid=65534", "--clear-groups", *append], check=True
    )
    assert os.stat(program).st_mode & 0o7777 == 0o777
    assert run() == "65534"


def test_a_renamed_file_is_held_to_the_limits_of_its_new_name(
    make_mount: MountFactory, tmp_path: Path
) -> None:
    """Downloaded as ``x.part`` and renamed, kept open all the while; its directory, too."""
    config = tmp_path / "limits.toml"
    config.write_text(
        '[[image]]\npath = "**/*.img"\nbps = "5M"\n[[image]]\npath = "old/**"\niops = 7\n'
    )
    mounted = make_mount("", "--config", str(config))
    (mounted.path / "d").mkdir()

    def limit(name: str, attribute: str) -> bytes:
        return os.getxattr(mounted.path / name, f"user.throttlefs.{attribute}")

    with open(mounted.path / "d/disk.part", "wb"):
        assert limit("d/disk.part", "bps") == b"0"
        os.rename(mounted.path / "d/disk.part", mounted.path / "d/disk.img")
        assert limit("d/disk.img", "bps") == b"5M"
        os.rename(mounted.path / "d/disk.img", mounted.path / "d/disk")
        assert limit("d/disk", "bps") == b"0"
        os.rename(mounted.path / "d", mounted.path / "old")
        assert limit("old/disk", "iops") == b"7"


@pytest.mark.skipif(os.geteuid() != 0, reason="gives files to groups of others")
@pytest.mark.parametrize(("mode", "left"), [(0o2644, 0o2644), (0o2755, 0o755), (0o6755, 0o755)])
def test_a_setgid_bit_that_marks_no_program_outlasts_a_truncate(
    make_mount: MountFactory, reachable: Path, mode: int, left: int
) -> None:
    """As on ext4 (xfstests generic/193), for somebody in the file's group."""
    mounted = make_mount("allow_other", source=reachable / "src", target=reachable / "mnt")
    mounted.source.chmod(0o777)
    file = mounted.source / "f"
    file.write_bytes(b"0123456789")
    os.chown(file, 65534, 1234)
    os.chmod(file, mode)
    plain = reachable / "plain"
    shutil.copy(file, plain)
    os.chown(plain, 65534, 1234)
    os.chmod(plain, mode)
    for path in (mounted.path / "f", plain):
        subprocess.run(
            ["setpriv", "--reuid=65534", "--regid=1234", "--clear-groups", "truncate", "-s5", path],
            check=True,
        )
    assert os.stat(plain).st_mode & 0o7777 == left
    assert os.stat(file).st_mode & 0o7777 == left
    assert os.stat(mounted.path / "f").st_mode & 0o7777 == left


def all_times(path: Path) -> str:
    """Birth, access, modification and change, as stat(1) asks for them (statx(2))."""
    command = ["stat", "--format=%w %x %y %z %s %b %h %a %u %g %t %T %F", path]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout


def test_birth_times_are_those_of_src(mounted: Mounted) -> None:
    needs_feature(mounted, "birth-times")
    (mounted.source / "f").write_bytes(b"data")
    (mounted.source / "d").mkdir()
    (mounted.source / "link").symlink_to("f")
    if IS_ROOT:
        os.mknod(mounted.source / "null", stat.S_IFCHR | 0o666, os.makedev(1, 3))
    for name in os.listdir(mounted.source):
        for _ in range(2):  # once as it is asked for, once as the kernel remembers it
            assert all_times(mounted.path / name) == all_times(mounted.source / name)
    os.utime(mounted.path / "f", (5, 5))
    assert all_times(mounted.path / "f") == all_times(mounted.source / "f")
