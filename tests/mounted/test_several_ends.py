"""Several mounts ended by one command, and mounts that end with a process."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.mounted.test_users import AS_NOBODY
from tests.support import (
    THROTTLEFS,
    Mounted,
    MountFactory,
    clear_away,
    fails,
    needs_root,
    run_throttlefs,
    wait_for,
)
from tests.terminal import Terminal
from throttlefs.host import runtime
from throttlefs.host.mountinfo import mounted_at

SOMEBODY = 5
"""games, as every Debian has it (fusermount3 wants a name): no other test mounts as that user."""


@pytest.fixture
def three(make_mount: MountFactory, tmp_path: Path) -> list[Mounted]:
    return [make_mount(target=tmp_path / name) for name in ("one", "two", "three")]


def test_umount_takes_several_mounts(three: list[Mounted]) -> None:
    one, two, three_ = three
    result = run_throttlefs("umount", one.path, two.path)
    assert (result.returncode, result.stdout, result.stderr) == (0, "", "")
    assert [mount.is_mounted() for mount in three] == [False, False, True]
    three_.umount()


def test_one_that_cannot_be_ended_keeps_no_other_from_it(three: list[Mounted]) -> None:
    one, two, three_ = three
    result = run_throttlefs("umount", one.path, "/no-such", two.path, "/proc", three_.path)
    assert result.returncode == 1
    assert result.stderr.splitlines() == [
        "throttlefs: /no-such is not a mount point; see the mounts with: mount -t fuse.throttlefs",
        "throttlefs: /proc is a mount of type proc, not of throttlefs; use umount",
    ]
    assert not any(mount.is_mounted() for mount in three)


def test_umount_without_a_name() -> None:
    assert "name a mount, or give --all" in fails("umount", status=2)
    assert "--all and /x: give one of them" in fails("umount", "--all", "/x", status=2)


@pytest.fixture
def of_somebody() -> Iterator[Path]:
    directory = Path(tempfile.mkdtemp(prefix="throttlefs-user-", dir="/tmp"))
    directory.chmod(0o755)
    for name in ("src", "mnt", "mnt2", "run"):
        (directory / name).mkdir(mode=0o700)
        os.chown(directory / name, SOMEBODY, SOMEBODY)
    mode = os.stat("/dev/fuse").st_mode & 0o7777
    os.chmod("/dev/fuse", 0o666)  # as udev has it
    yield directory
    os.chmod("/dev/fuse", mode)
    for name in ("mnt", "mnt2"):
        clear_away(directory / name)
    shutil.rmtree(directory)


@needs_root("become somebody else")
def test_all_are_those_of_this_user(of_somebody: Path, mounted: Mounted) -> None:
    def throttlefs(*arguments: str) -> None:
        become = [word.replace("65534", str(SOMEBODY)) for word in AS_NOBODY]
        ran = subprocess.run(
            [*become, *THROTTLEFS, *arguments],
            capture_output=True,
            text=True,
            cwd=of_somebody,
            check=False,
            env={**os.environ, "XDG_RUNTIME_DIR": str(of_somebody / "run")},
        )
        assert (ran.returncode, ran.stdout, ran.stderr) == (0, "", "")

    throttlefs("mount", "src", "mnt")
    throttlefs("mount", "src", "mnt2")
    throttlefs("umount", "--all")
    for name in ("mnt", "mnt2"):
        assert mounted_at(os.fsencode(of_somebody / name)) is None
    assert mounted.is_mounted()
    throttlefs("umount", "--all")  # nothing is nothing wrong


def test_on_a_terminal_mount_says_what_it_did(mounted: Mounted, tmp_path: Path) -> None:
    mounted.umount()
    options = "bps=1M,group=db,noatime,cache=none,nonempty"
    source = tmp_path / "a"
    source.mkdir()
    terminal = Terminal("mount", source, mounted.path, "-o", options, width=300)
    assert terminal.end() == 0
    said = f"{source} on {mounted.path}, held to bps=1M,group=db"
    assert terminal.text().strip() == said
    assert run_throttlefs("umount", mounted.path).returncode == 0
    terminal = Terminal("mount", source, mounted.path, width=300)
    assert terminal.end() == 0
    assert terminal.text().strip() == f"{source} on {mounted.path}, without limits"


# -- --end-with ----------------------------------------------------------------------------


@pytest.fixture
def sleeper() -> Iterator[subprocess.Popen[bytes]]:
    with subprocess.Popen(["sleep", "1000"]) as process:
        yield process
        process.kill()


def test_a_mount_ends_with_its_owner(
    make_mount: MountFactory, sleeper: subprocess.Popen[bytes]
) -> None:
    mounted = make_mount("bps=1M", "--end-with", str(sleeper.pid))
    (mounted.path / "f").write_text("x")
    record = runtime.read_record(mounted.entry)
    assert record is not None
    assert record.owner_pid == sleeper.pid
    sleeper.kill()
    mounted.wait_until_ended()
    assert f"process {sleeper.pid} has ended: unmounting" in mounted.log
    assert "ending at once" not in mounted.log


def test_what_outlives_the_owner_is_cut_off(
    make_mount: MountFactory, sleeper: subprocess.Popen[bytes]
) -> None:
    mounted = make_mount("", "--end-with", str(sleeper.pid))
    file = os.open(mounted.path / "f", os.O_WRONLY | os.O_CREAT)
    os.write(file, b"before")
    sleeper.kill()
    mounted.wait_until_ended()
    with pytest.raises(OSError, match=r"not connected|abort"):
        os.write(file, b"after")
    os.close(file)
    assert (mounted.source / "f").read_bytes() == b"before"
    assert "stays in use by" in mounted.log


def test_an_owner_that_is_not_there(tmp_path: Path) -> None:
    with subprocess.Popen(["true"]) as gone:
        pass
    for name in ("src", "mnt"):
        (tmp_path / name).mkdir()
    paths = (tmp_path / "src", tmp_path / "mnt")
    line = fails("mount", *paths, "--end-with", gone.pid)
    assert line == f"throttlefs: --end-with: there is no process {gone.pid}"
    line = fails("mount", *paths, "--end-with", f"{os.getpid()}:1")
    assert f"process {os.getpid()} has ended; nothing is mounted" in line
    assert mounted_at(os.fsencode(paths[1])) is None
    line = fails("mount", *paths, "--end-with", "init", status=2)
    assert "'init' is not the id of a process" in line


def test_a_killed_owner_and_a_killed_daemon_leave_what_can_be_told(
    make_mount: MountFactory, sleeper: subprocess.Popen[bytes]
) -> None:
    mounted = make_mount("", "--end-with", str(sleeper.pid))
    record = runtime.read_record(mounted.entry)
    assert record is not None
    assert not record.owner_has_ended()
    os.kill(mounted.pid, signal.SIGKILL)
    sleeper.kill()
    wait_for(record.owner_has_ended)
    # A pytest with the plugin that starts meanwhile may be the one that unmounts it.
    done = run_throttlefs("umount", mounted.path)
    assert done.returncode == 0 or not mounted.is_mounted()
