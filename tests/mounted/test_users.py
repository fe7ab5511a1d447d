"""Users without root: what they may do, and what they are told of the rest."""

from __future__ import annotations

import contextlib
import os
import shutil
import stat
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support import THROTTLEFS, MountFactory, clear_away, wait_for
from throttlefs.host.mountinfo import mounted_at

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="only root can become somebody else")


@pytest.fixture
def user_directories() -> Iterator[Path]:
    """Directories that an ordinary user can reach and owns."""
    directory = Path(tempfile.mkdtemp(prefix="throttlefs-user-", dir="/tmp"))
    os.chmod(directory, 0o755)
    for name in ("src", "mnt", "run"):
        (directory / name).mkdir()
        os.chown(directory / name, 65534, 65534)
        os.chmod(directory / name, 0o700)
    yield directory
    clear_away(directory / "mnt")
    wait_for(lambda: is_removed(directory))


def is_removed(directory: Path) -> bool:
    """Remove all of it; a daemon that is just ending may remove its own files meanwhile."""
    with contextlib.suppress(FileNotFoundError):
        shutil.rmtree(directory)
    return not directory.exists()


# The one right beside a user's own is to read this Python, which may lie below /root.
AS_NOBODY = [
    "/usr/bin/setpriv",
    "--reuid=65534",
    "--regid=65534",
    "--clear-groups",
    "--inh-caps=+dac_read_search",
    "--ambient-caps=+dac_read_search",
]


def as_user(
    directory: Path, *command: object, **environment: str
) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [*AS_NOBODY, *map(str, command)],
        capture_output=True,
        text=True,
        timeout=60,
        cwd=directory,
        check=False,
        env={
            **os.environ,
            "XDG_RUNTIME_DIR": str(directory / "run"),
            "HOME": "/nonexistent",
            **environment,
        },
    )


@pytest.fixture(autouse=True)
def dev_fuse_as_udev_has_it() -> Iterator[None]:
    """Open to everybody, which it is not in every container."""
    mode = stat.S_IMODE(os.stat("/dev/fuse").st_mode)
    os.chmod("/dev/fuse", 0o666)
    yield
    os.chmod("/dev/fuse", mode)


def allows_others() -> bool:
    lines = Path("/etc/fuse.conf").read_text().split("\n")
    return "user_allow_other" in [line.strip() for line in lines]


def test_a_user_mounts_tunes_and_unmounts(user_directories: Path) -> None:
    directory = user_directories

    def throttlefs(*arguments: object) -> str:
        result = as_user(directory, *THROTTLEFS, *arguments)
        assert (result.returncode, result.stderr) == (0, "")
        return result.stdout

    throttlefs("mount", "src", "mnt", "-o", "bps=1G")
    result = as_user(directory, "sh", "-ec", "echo hello > mnt/f; cat mnt/f src/f")
    assert result.stdout == "hello\nhello\n"
    with pytest.raises(PermissionError):
        os.stat(directory / "mnt" / "f")

    throttlefs("set", "mnt/f", "bps=1M")
    assert "bps=1M" in throttlefs("show", "mnt/f")
    assert "src on " in throttlefs("list")
    began = time.monotonic()
    result = as_user(directory, "dd", "if=/dev/zero", "of=mnt/f", "bs=128k", "count=4")
    assert result.returncode == 0, result.stderr
    assert time.monotonic() - began > 0.3, "3 of the 4 pay 0.125 s each"
    assert "f " in throttlefs("stats", "mnt")

    throttlefs("umount", "mnt")
    assert mounted_at(os.fsencode(directory / "mnt")) is None


def test_a_user_mounts_one_file(user_directories: Path) -> None:
    directory = user_directories
    (directory / "src" / "disk.img").write_bytes(b"data")
    os.chown(directory / "src" / "disk.img", 65534, 65534)
    slow = directory / "run" / "slow.img"
    slow.touch()
    os.chown(slow, 65534, 65534)
    try:
        result = as_user(directory, *THROTTLEFS, "mount", "src/disk.img", slow, "-o", "bps=1M")
        assert (result.returncode, result.stderr) == (0, "")
        assert as_user(directory, "cat", slow).stdout == "data"
        result = as_user(directory, *THROTTLEFS, "umount", slow)
        assert (result.returncode, result.stderr) == (0, "")
    finally:
        clear_away(slow)


def test_a_users_disk_loses_power_and_gets_files_of_others_back(user_directories: Path) -> None:
    """fs.protected_hardlinks keeps a user from linking them (proc(5)), so they are moved."""
    directory = user_directories

    def throttlefs(*arguments: object) -> str:
        result = as_user(directory, *THROTTLEFS, *arguments)
        assert (result.returncode, result.stderr) == (0, "")
        return result.stdout

    foreign = directory / "src" / "foreign"
    foreign.write_bytes(b"root's")
    foreign.chmod(0o600)
    (directory / "src" / "read-only").write_bytes(b"old" * 3000)
    os.chown(directory / "src" / "read-only", 65534, 65534)
    closed = directory / "src" / "closed"
    closed.mkdir(mode=0o555)
    os.chown(closed, 65534, 65534)
    throttlefs("mount", "src", "mnt", "-o", "volatile")
    script = "cd mnt; rm -f foreign; rmdir closed; printf new >read-only; chmod 400 read-only"
    result = as_user(directory, "sh", "-ec", script)
    assert result.stderr == ""
    assert not foreign.exists()
    seed = next(
        seed
        for seed in range(100)
        if "unlink foreign" in throttlefs("power-cut", "mnt", "--dry-run", "--seed", seed)
    )
    throttlefs("power-cut", "mnt", "--seed", seed)
    assert foreign.read_bytes() == b"root's"
    assert stat.S_IMODE(closed.stat().st_mode) == 0o555
    assert (directory / "src" / "read-only").read_bytes() == b"old" * 3000
    throttlefs("umount", "mnt")
    assert sorted(os.listdir(directory / "src")) == ["closed", "foreign", "read-only"]


def test_mount_fuse3_appends_what_only_root_may_have(user_directories: Path) -> None:
    """A user's own mount.fuse3 asks for dev and suid as well; he gets neither, and no error."""
    directory = user_directories
    result = as_user(directory, *THROTTLEFS, "src", "mnt", "-o", "rw,bps=1M,dev,suid")
    assert (result.returncode, result.stderr) == (0, "")
    entry = mounted_at(os.fsencode(directory / "mnt"))
    assert entry is not None
    assert {"nodev", "nosuid"} <= set(entry.options.split(","))


def fails(result: subprocess.CompletedProcess[str]) -> str:
    assert result.returncode == 1
    assert len(result.stderr.splitlines()) == 1, result.stderr
    return result.stderr


def test_allow_other_is_for_fuse_conf_to_say(user_directories: Path) -> None:
    directory = user_directories
    result = as_user(directory, *THROTTLEFS, "mount", "src", "mnt", "-o", "allow_other")
    if not allows_others():
        assert "user_allow_other" in fails(result)
        return
    assert (result.returncode, result.stderr) == (0, "")
    assert os.listdir(directory / "mnt") == []


def test_where_fuse_conf_allows_it_others_see_the_mount(user_directories: Path) -> None:
    """In a mount namespace with an fuse.conf of its own."""
    directory = user_directories
    conf = directory / "fuse.conf"
    conf.write_text("user_allow_other\n")
    command = " ".join([*AS_NOBODY, *THROTTLEFS, "mount", "src", "mnt", "-o", "allow_other"])
    script = (
        f"mount --bind {conf} /etc/fuse.conf && XDG_RUNTIME_DIR={directory}/run {command}"
        " && ls mnt && umount mnt"
    )
    (directory / "src" / "seen").touch()
    result = in_namespace(directory, script)
    assert (result.returncode, result.stdout, result.stderr) == (0, "seen\n", "")


def in_namespace(directory: Path, script: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        ["unshare", "--mount", "--propagation", "private", "sh", "-c", script],
        capture_output=True,
        text=True,
        timeout=60,
        cwd=directory,
        check=False,
    )


def test_a_user_without_the_right_to_dev_fuse(user_directories: Path) -> None:
    command = " ".join([*AS_NOBODY, *THROTTLEFS, "mount", "src", "mnt"])
    result = in_namespace(
        user_directories,
        "mount -t tmpfs tmpfs /dev && mknod -m 666 /dev/null c 1 3"
        f" && mknod -m 600 /dev/fuse c 10 229 && {command}",
    )
    assert fails(result) == (
        "throttlefs: no permission to open /dev/fuse; as root: chmod 666 /dev/fuse\n"
    )


def test_roots_mount_is_not_a_users_to_unmount(
    make_mount: MountFactory, user_directories: Path
) -> None:
    mounted = make_mount("allow_other", target=user_directories / "mnt")
    line = fails(as_user(user_directories, *THROTTLEFS, "umount", "mnt"))
    assert "another user's mount" in line
    assert mounted.is_mounted()


def test_what_a_user_may_not_mount_on(user_directories: Path) -> None:
    directory = user_directories
    os.chmod(directory / "mnt", 0o500)
    fails(as_user(directory, *THROTTLEFS, "mount", "src", "mnt"))
    assert mounted_at(os.fsencode(directory / "mnt")) is None


def test_without_fusermount3_its_package_is_named(user_directories: Path) -> None:
    command = [*THROTTLEFS, "mount", "src", "mnt"]
    result = as_user(user_directories, *command, PATH=os.path.dirname(sys.executable))
    assert "install the package fuse3" in fails(result)


def test_the_kernel_lets_many_requests_wait(
    make_mount: MountFactory, user_directories: Path
) -> None:
    """max_background, which is 12 if nobody raises it; a user gets what the kernel gives users."""

    def max_background(target: Path) -> int:
        entry = mounted_at(os.fsencode(target))
        assert entry is not None
        return int(Path(f"/sys/fs/fuse/connections/{entry.minor}/max_background").read_text())

    assert max_background(make_mount().path) == 10_000
    directory = user_directories
    mount = [
        *THROTTLEFS,
        "mount",
        directory / "src",
        directory / "mnt",
        "-o",
        "max_background=65535",
    ]
    assert as_user(directory, *mount).returncode == 0
    most = int(Path("/sys/module/fuse/parameters/max_user_bgreq").read_text())
    assert max_background(directory / "mnt") == (most or 65_535)


@pytest.mark.parametrize("change", ["echo more >> {}", "truncate -s 1 {}", "echo new > {}"])
def test_who_changes_a_setuid_file_of_another_user_takes_the_bits_away(
    make_mount: MountFactory, user_directories: Path, change: str
) -> None:
    """As on a local filesystem; or whoever may write to a program could become its owner."""
    source, target = user_directories / "src", user_directories / "mnt"
    for directory in (source, target):
        os.chmod(directory, 0o755)
    mount = make_mount("allow_other", source=source, target=target)
    program = mount.source / "program"
    program.write_text("old")
    os.chown(program, 1234, 1234)
    for directory in (mount.source, mount.path):
        os.chmod(program, 0o6777)
        command = change.format(directory / "program")
        subprocess.run([*AS_NOBODY, "sh", "-c", command], check=True, env={"PATH": "/usr/bin:/bin"})
        assert stat.S_IMODE(program.stat().st_mode) == 0o777, directory


def test_no_setgid_of_a_group_that_the_file_has_got_meanwhile(
    make_mount: MountFactory, user_directories: Path
) -> None:
    """The kernel compares the caller's groups with the one that it remembers."""
    source, target = user_directories / "src", user_directories / "mnt"
    for directory in (source, target):
        os.chmod(directory, 0o755)
    mount = make_mount("allow_other,attr_timeout=600", source=source, target=target)
    programs = [mount.source / "given", mount.source / "kept"]
    for program in programs:
        program.write_text("")
        os.chown(program, 65534, 65534)
        os.chmod(program, 0o755)
        os.stat(mount.path / program.name)
    os.chown(programs[0], 65534, 6)
    for program in programs:
        subprocess.run([*AS_NOBODY, "chmod", "2755", mount.path / program.name], check=True)
    assert [stat.S_IMODE(program.stat().st_mode) for program in programs] == [0o755, 0o2755]


def test_setuid_and_setgid_can_be_given(make_mount: MountFactory) -> None:
    mount = make_mount()
    directory, program = mount.path / "directory", mount.path / "program"
    directory.mkdir()
    os.chown(directory, 1234, 1234)
    os.chmod(directory, 0o2770)
    made = os.open(program, os.O_CREAT | os.O_WRONLY, 0o6755)
    os.close(made)
    assert stat.S_IMODE((mount.source / "program").stat().st_mode) == 0o6755
    os.chown(program, 1234, 1234)
    os.chmod(program, 0o6750)
    subprocess.run(["setfacl", "-m", "u:4321:rwx", directory, program], check=True)
    for name, mode in (("directory", 0o2770), ("program", 0o6770)):
        assert stat.S_IMODE((mount.source / name).stat().st_mode) == mode
    (directory / "in it").touch()
    assert (mount.source / "directory" / "in it").stat().st_gid == 1234
