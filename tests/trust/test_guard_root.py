"""Root's commands and daemon in directories of others: no symlink of theirs is followed."""

from __future__ import annotations

import logging
import os
import socket
import stat
import subprocess
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from tests.support import MountFactory, clear_away, fails, run_throttlefs
from throttlefs.daemon import logs
from throttlefs.errors import ThrottlefsError
from throttlefs.host import runtime, trusted, unmounting
from throttlefs.host.mountinfo import mounted_at
from throttlefs.host.paths import MountPaths, check_paths

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="only root is led astray")

ANNA = 1001


@pytest.fixture
def annas(tmp_path: Path) -> Iterator[Path]:
    """A directory of Anna's, with a link to root's directory ``roots``."""
    directory, roots = tmp_path / "annas", tmp_path / "roots"
    for made in (directory, roots, tmp_path / "src"):
        made.mkdir()
    (directory / "link").symlink_to(roots)
    os.lchown(directory / "link", ANNA, ANNA)
    os.chown(directory, ANNA, ANNA)
    yield directory
    for point in (roots, directory / "mnt"):
        clear_away(point)
    assert os.listdir(roots) == []


@pytest.mark.parametrize("link", ["link", "link/", "link/../link", "chain"])
def test_dst(annas: Path, link: str) -> None:
    (annas.parent / "mine").symlink_to(annas / "link")  # a link of root's own to Anna's
    target = annas.parent / "mine" if link == "chain" else f"{annas}/{link}"
    assert "another user's symbolic link" in fails("mount", annas.parent / "src", target)
    assert not os.path.ismount(annas.parent / "roots")


def test_links_of_roots_own_are_followed(annas: Path, tmp_path: Path) -> None:
    (tmp_path / "mnt").mkdir()
    (tmp_path / "mine").symlink_to("mnt")
    (tmp_path / "log").symlink_to(tmp_path / "real.log")
    command = ["mount", tmp_path / "src", tmp_path / "mine", "--log-file", tmp_path / "log"]
    try:
        result = run_throttlefs(*command)
        assert (result.returncode, result.stderr) == (0, "")
        assert mounted_at(os.fsencode(tmp_path / "mnt")) is not None
        assert "mounted" in (tmp_path / "real.log").read_text()
    finally:
        clear_away(tmp_path / "mnt")


def test_dst_that_becomes_a_link_after_the_check(annas: Path, tmp_path: Path) -> None:
    """The mount goes to what was checked, or nowhere."""
    (annas / "mnt").mkdir()
    paths = check_paths(str(tmp_path / "src"), str(annas / "mnt"), nonempty=False)
    (annas / "mnt").rmdir()
    (annas / "mnt").symlink_to(tmp_path / "roots")
    refused(paths)
    (annas / "mnt").unlink()
    annas.rename(tmp_path / "moved")
    annas.symlink_to(tmp_path / "roots")
    (tmp_path / "roots" / "mnt").mkdir()
    refused(paths)
    (tmp_path / "roots" / "mnt").rmdir()
    annas.unlink()
    (tmp_path / "moved").rename(annas)


def refused(paths: MountPaths) -> None:
    with ExitStack() as stack, pytest.raises(ThrottlefsError, match="DST"):
        paths.pinned_target(stack)


def test_src_that_becomes_a_link_after_the_check(annas: Path, tmp_path: Path) -> None:
    (annas / "images").mkdir()
    (tmp_path / "mnt").mkdir()
    paths = check_paths(str(annas / "images"), str(tmp_path / "mnt"), nonempty=False)
    (annas / "images").rmdir()
    (annas / "images").symlink_to(tmp_path / "roots")
    with pytest.raises((ThrottlefsError, OSError)):
        os.close(paths.open_source())


@pytest.mark.parametrize("name", ["link/throttlefs.log", "file"])
def test_log_file(annas: Path, name: str) -> None:
    precious = annas.parent / "precious"
    precious.write_text("precious")
    (annas / "file").symlink_to(precious)
    os.lchown(annas / "file", ANNA, ANNA)
    (annas / "mnt").mkdir()
    command = ["mount", annas.parent / "src", annas / "mnt", "--log-file", annas / name]
    assert "another user's symbolic link" in fails(*command)
    assert precious.read_text() == "precious"


def test_a_log_file_may_be_what_dev_stderr_is() -> None:
    """Links of the kernel's own, to a pipe here."""
    reading, writing = os.pipe()
    log = trusted.open_file(f"/dev/fd/{writing}", os.O_WRONLY | os.O_APPEND)
    os.write(log, b"said")
    assert os.read(reading, 10) == b"said"
    for descriptor in (reading, writing, log):
        os.close(descriptor)


def test_config(annas: Path) -> None:
    (annas.parent / "secret").write_text("secret = [[[")
    (annas / "limits.toml").symlink_to(annas.parent / "secret")
    os.lchown(annas / "limits.toml", ANNA, ANNA)
    (annas / "mnt").mkdir()
    command = ["mount", annas.parent / "src", annas / "mnt", "--config", annas / "limits.toml"]
    assert "another user's symbolic link" in fails(*command)


@pytest.mark.parametrize("name", ["link/qmp.sock", "dangling", "socket", "stale"])
def test_qmp(annas: Path, name: str) -> None:
    """Neither is a socket made through Anna's link, nor one of hers taken or removed."""
    (annas / "dangling").symlink_to(annas.parent / "roots" / "made")
    (annas / "mnt").mkdir()
    listening = socket.socket(socket.AF_UNIX)
    listening.bind(str(annas / "socket"))
    listening.listen()
    with socket.socket(socket.AF_UNIX) as stale:
        stale.bind(str(annas / "stale"))
    for made in ("socket", "stale"):
        os.chown(annas / made, ANNA, ANNA)
    command = ["mount", annas.parent / "src", annas / "mnt", "--qmp", f"unix:{annas / name}"]
    assert "cannot make the socket" in fails(*command)
    listening.close()
    assert stat.S_ISSOCK((annas / "stale").lstat().st_mode)
    assert not os.path.ismount(annas / "mnt")


def test_a_qmp_socket_is_removed_where_it_was_made(
    make_mount: MountFactory, annas: Path, tmp_path: Path
) -> None:
    """Anna's directory has another of that name by then."""
    (annas / "run").mkdir()
    mount = make_mount("", "--qmp", f"unix:{annas}/run/qmp.sock")
    assert stat.S_IMODE((annas / "run" / "qmp.sock").stat().st_mode) == 0o600
    (annas / "run").rename(annas / "moved")
    (annas / "run").symlink_to(tmp_path / "other")
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "qmp.sock").touch()
    mount.umount()
    assert os.listdir(annas / "moved") == []
    assert (tmp_path / "other" / "qmp.sock").exists()


# -- the runtime directory --------------------------------------------------------------------

AS_ANNA = ["setpriv", f"--reuid={ANNA}", f"--regid={ANNA}", "--clear-groups"]


@pytest.mark.parametrize("kind", ["another's", "a link", "writable", "a file"])
def test_the_fallback_in_the_temporary_directory(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, kind: str
) -> None:
    """throttlefs-UID, made beforehand by somebody else."""
    monkeypatch.setattr(os, "geteuid", lambda: ANNA)
    monkeypatch.delenv("XDG_RUNTIME_DIR", raising=False)
    assert runtime.directories_of(ANNA)[-1] == f"/tmp/throttlefs-{ANNA}"
    path = tmp_path / f"throttlefs-{ANNA}"
    places = ["/no/such/directory/throttlefs", str(path)]
    monkeypatch.setattr(runtime, "directories_of", lambda _uid: places)
    if kind == "a link":
        (tmp_path / "real").mkdir(mode=0o700)
        os.chown(tmp_path / "real", ANNA, ANNA)
        path.symlink_to(tmp_path / "real")
        os.lchown(path, ANNA, ANNA)
    elif kind == "a file":
        path.touch()
    else:
        path.mkdir(mode=0o700)
        if kind == "writable":
            os.chown(path, ANNA, ANNA)
            os.chmod(path, 0o770)
    with pytest.raises(ThrottlefsError, match="runtime directory"):
        runtime.runtime_directory()


def test_what_a_mount_leaves_in_the_runtime_directory_is_roots_alone(
    make_mount: MountFactory,
) -> None:
    mount = make_mount("allow_other")
    directory = Path(runtime.runtime_directory())
    assert stat.S_IMODE(directory.stat().st_mode) == 0o700
    for name in (f"{mount.entry.major}-{mount.entry.minor}{end}" for end in (".json", ".sock")):
        st = (directory / name).lstat()
        assert (st.st_uid, stat.S_IMODE(st.st_mode)) == (0, 0o600)
    command = [*AS_ANNA, "ls", directory]
    assert subprocess.run(command, capture_output=True, check=False).returncode != 0


# -- the end ----------------------------------------------------------------------------------


def test_no_other_mount_is_taken_away_than_the_one_meant(annas: Path, tmp_path: Path) -> None:
    """Anna's directories lead to root's mount by the time that hers is to go."""
    (annas / "a" / "mnt").mkdir(parents=True)
    (tmp_path / "mnt").mkdir()
    for point in (annas / "a" / "mnt", tmp_path / "mnt"):
        subprocess.run(["mount", "-t", "tmpfs", "tmpfs", point], check=True)
    try:
        entry = mounted_at(os.fsencode(annas / "a" / "mnt"))
        assert entry is not None
        (annas / "a").rename(annas / "b")
        (annas / "a").symlink_to(tmp_path)
        with pytest.raises(ThrottlefsError, match="another mount"):
            unmounting.unmount(entry)
        assert os.path.ismount(tmp_path / "mnt")
        (annas / "a").unlink()
        (annas / "b").rename(annas / "a")
        unmounting.unmount(entry)
        assert not os.path.ismount(annas / "a" / "mnt")
    finally:
        for point in (annas / "a" / "mnt", annas / "b" / "mnt", tmp_path / "mnt"):
            subprocess.run(["umount", "-q", point], check=False, capture_output=True)


def test_what_src_forbids_stays_forbidden(make_mount: MountFactory, tmp_path: Path) -> None:
    """A stick mounted nosuid,nodev, and -o suid,dev, which mount(8) gives by itself."""
    source = tmp_path / "src"
    source.mkdir()
    both = {"nosuid", "nodev"}
    for of_src, options, forbidden in (
        ("nosuid,nodev", "suid,dev", both),
        ("suid,dev", "suid,dev", set()),
        ("suid,dev", "", both),
    ):
        subprocess.run(["mount", "-t", "tmpfs", "-o", of_src, "tmpfs", source], check=True)
        try:
            mount = make_mount(options)
            assert both & set(mount.entry.options.split(",")) == forbidden
            mount.umount()
        finally:
            subprocess.run(["umount", source], check=True)


def test_no_line_of_the_log_is_made_by_a_name(tmp_path: Path) -> None:
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    try:
        logs.set_up_logging(False, str(tmp_path / "log"), False)
        logging.getLogger("throttlefs").warning("busy: %s", "x\nthrottlefs: ERROR: \x1b]0;y\x07")
    finally:
        root.handlers[:] = handlers
        root.setLevel(level)
    (line,) = (tmp_path / "log").read_text().splitlines()
    assert line.endswith(r"busy: x\nthrottlefs: ERROR: \x1b]0;y\x07")


def test_an_absolute_path_needs_no_working_directory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    gone = tmp_path / "gone"
    gone.mkdir()
    monkeypatch.chdir(gone)
    gone.rmdir()
    os.close(trusted.open_file(str(tmp_path / "f"), os.O_CREAT | os.O_WRONLY))
    assert (tmp_path / "f").exists()


def test_a_path_is_walked_as_the_kernel_does(tmp_path: Path) -> None:
    (tmp_path / "d" / "e").mkdir(parents=True)
    (tmp_path / "d" / "up").symlink_to("..")
    (tmp_path / "loop").symlink_to("loop")
    for path in ("d/e/../f", "d/up/d/f", "d//./f", f"d/up/../{tmp_path.name}/d/f"):
        os.close(trusted.open_file(str(tmp_path / path), os.O_CREAT | os.O_WRONLY))
        (tmp_path / "d" / "f").unlink()
    for path, error in (("loop", OSError), ("nope/f", FileNotFoundError), ("d", IsADirectoryError)):
        with pytest.raises(error):
            trusted.open_file(str(tmp_path / path), os.O_CREAT | os.O_WRONLY)
