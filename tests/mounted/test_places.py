"""Places that a command is given: on a mount, hidden by it, hung, or gone."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

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
from throttlefs.host.mountinfo import mounted_at


@pytest.fixture
def directories(tmp_path: Path) -> Iterator[tuple[Path, Path]]:
    source, target = tmp_path / "src", tmp_path / "mnt"
    source.mkdir()
    target.mkdir()
    yield source, target
    clear_away(target)


# -- on the mount -----------------------------------------------------------------------------


def test_umount_of_the_working_directory_does_not_keep_it_busy(mounted: Mounted) -> None:
    """Only the command itself is there."""
    result = run_throttlefs("umount", ".", cwd=mounted.path)
    assert (result.returncode, result.stderr) == (0, "")
    assert not mounted.is_mounted()


def test_umount_of_the_working_directory_names_others_in_it(mounted: Mounted) -> None:
    with subprocess.Popen(["sleep", "60"], cwd=mounted.path) as sleeper:
        result = run_throttlefs("umount", ".", cwd=mounted.path)
        sleeper.kill()
    assert result.returncode == 1
    assert result.stderr == (
        f"throttlefs: {mounted.path} is busy: in use by sleep[{sleeper.pid}] (working directory);"
        f" close that, or detach the mount now with: throttlefs umount --lazy {mounted.path}\n"
    )


@pytest.mark.parametrize("below", ["f", "no/such/file", "link"])
def test_umount_of_what_lies_on_a_mount_names_the_mount(mounted: Mounted, below: str) -> None:
    (mounted.source / "f").touch()
    (mounted.source / "link").symlink_to("/nowhere")
    line = fails("umount", mounted.path / below)
    assert line == (
        f"throttlefs: {mounted.path / below} lies on the mount at {mounted.path};"
        f" to end that: throttlefs umount {mounted.path}"
    )


def test_umount_does_not_wait_for_a_daemon_to_find_the_mount(mounted: Mounted) -> None:
    """What lies on the mount is named without a look at it."""
    os.kill(mounted.pid, signal.SIGSTOP)
    try:
        assert "lies on the mount" in fails("umount", mounted.path / "a" / "b")
    finally:
        os.kill(mounted.pid, signal.SIGCONT)


def test_a_mount_is_ended_through_a_link(mounted: Mounted, tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to(mounted.path)
    assert run_throttlefs("umount", tmp_path / "link").returncode == 0
    assert not mounted.is_mounted()


# -- hidden by the mount ----------------------------------------------------------------------


@pytest.mark.parametrize("name", ["log", "no/such/log", "../link/log"])
def test_a_log_file_that_the_mount_would_hide(
    directories: tuple[Path, Path], name: str, tmp_path: Path
) -> None:
    source, target = directories
    (tmp_path / "link").symlink_to(target)
    log = target / name
    line = fails("mount", source, target, "--log-file", log)
    assert line == (
        f"throttlefs: the log file {os.path.abspath(log)} lies in DST {target} and would be hidden"
        " by the mount; choose a place outside of it"
    )
    assert os.listdir(target) == []
    assert mounted_at(os.fsencode(target)) is None


def test_a_log_file_beside_the_images_is_fine(directories: tuple[Path, Path]) -> None:
    """SRC may hold the log: it shows in the mount, and is written past it."""
    source, target = directories
    result = run_throttlefs("mount", source, target, "--log-file", source / "log", "-v")
    assert (result.returncode, result.stderr) == (0, "")
    assert "mounted" in (target / "log").read_text()


def test_a_log_file_that_is_the_image(tmp_path: Path) -> None:
    """Nothing is written to it."""
    image, target = tmp_path / "disk.img", tmp_path / "slow.img"
    image.write_bytes(b"data")
    target.touch()
    (tmp_path / "same.img").hardlink_to(image)
    for log in (image, tmp_path / "same.img"):
        line = fails("mount", image, target, "--log-file", log)
        assert line == f"throttlefs: the log file {log} is SRC itself; choose another file"
    assert "lies in DST" in fails("mount", image, target, "--log-file", target)
    assert image.read_bytes() == b"data"
    assert target.read_bytes() == b""


def test_a_socket_that_the_mount_would_hide(directories: tuple[Path, Path]) -> None:
    source, target = directories
    line = fails("mount", source, target, "--qmp", f"unix:{target}/socket")
    assert f"the socket {target}/socket lies in DST {target}" in line
    assert os.listdir(target) == []


def test_a_runtime_directory_that_the_mount_would_hide(tmp_path: Path) -> None:
    """The daemon would wait for itself to make its socket there."""
    source, target = tmp_path / "src", tmp_path / "mnt"
    source.mkdir()
    target.mkdir(mode=0o700)
    script = "import throttlefs.host.runtime as runtime\n" + (
        f"runtime.directories_of = lambda _uid: [{str(target / 'run')!r}]\n"
        "from throttlefs.cli.main import main\nmain()"
    )
    result = subprocess.run(
        [sys.executable, "-c", script, "mount", source, target],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert result.returncode == 1
    assert result.stderr == (
        f"throttlefs: the runtime directory {target}/run lies in DST {target} and would be hidden"
        " by the mount; set XDG_RUNTIME_DIR to another place\n"
    )
    assert mounted_at(os.fsencode(target)) is None


def test_a_runtime_directory_whose_name_leads_through_the_mount(tmp_path: Path) -> None:
    """The daemon reaches it past the mount."""
    source, target, run = tmp_path / "src", tmp_path / "mnt", tmp_path / "run"
    for directory in (source, target, run):
        directory.mkdir(mode=0o700)
    script = "import throttlefs.host.runtime as runtime\n" + (
        f"runtime.directories_of = lambda _uid: [{str(target / '..' / 'run')!r}]\n"
        "from throttlefs.cli.main import main\nmain()"
    )
    try:
        subprocess.run(
            [sys.executable, "-c", script, "mount", source, target], timeout=30, check=True
        )
        assert sorted(path.suffix for path in run.iterdir()) == [".json", ".sock"]
    finally:
        subprocess.run(["umount", "-l", target], check=False)
        wait_for(lambda: not os.listdir(run))


def test_a_config_file_on_the_mount_itself(make_mount: MountFactory, tmp_path: Path) -> None:
    """SRC mounted over itself: the daemon, which is to read the file, has to serve it, too."""
    images = tmp_path / "images"
    images.mkdir()
    config = images / "limits.toml"
    config.write_text('[defaults]\nbps = "1M"\n')
    (images / "f").touch()
    mounted = make_mount("nonempty", "--config", str(config), source=images, target=images)
    for limit in ("2M", "3M"):
        config.write_text(f'[defaults]\nbps = "{limit}"\n')
        os.kill(mounted.pid, signal.SIGHUP)
        wait_for(lambda limit=limit: f"bps={limit}" in run_throttlefs("show", images).stdout)  # type: ignore[misc]
    config.write_text("broken")
    os.kill(mounted.pid, signal.SIGHUP)
    wait_for(lambda: "not reloaded" in mounted.log)
    mounted.umount()


# -- hung, or gone ----------------------------------------------------------------------------


@needs_root("mount beside a mount that hangs")
@pytest.mark.parametrize("which", ["SRC", "DST"])
def test_a_place_on_a_mount_that_does_not_answer(tmp_path: Path, which: str) -> None:
    """Whatever looks at it waits for ever, and cannot be killed."""
    hung, other = tmp_path / "hung", tmp_path / "other"
    other.mkdir()
    with ForeignMount(hung, tmp_path) as pid:
        os.kill(pid, signal.SIGSTOP)
        try:
            paths = (hung / "a", other) if which == "SRC" else (other, hung / "a")
            began = time.monotonic()
            line = fails("mount", *paths)
            assert time.monotonic() - began < 40
        finally:
            os.kill(pid, signal.SIGCONT)
        assert line == (
            f"throttlefs: {which} {hung}/a lies on a mount that does not answer, {hung}"
            f" (fuse.other); see to its daemon, or take it away with: umount --lazy {hung}"
        )
    assert mounted_at(os.fsencode(other)) is None


class ForeignMount:
    """A FUSE mount of another program's: ours by another name."""

    def __init__(self, target: Path, tmp_path: Path) -> None:
        self.target = target
        self.source = tmp_path / "foreign"

    def __enter__(self) -> int:
        self.source.mkdir()
        self.target.mkdir()
        (self.source / "a").mkdir()
        script = "import throttlefs\nthrottlefs.FUSE_SUBTYPE = 'other'\n" + (
            "from throttlefs.cli.main import main\nmain()"
        )
        command = [sys.executable, "-c", script, "mount", "-f", self.source, self.target]
        self.process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
        assert self.process.stderr is not None
        while "mounted" not in self.process.stderr.readline():
            pass
        return self.process.pid

    def __exit__(self, *_: object) -> None:
        self.process.kill()
        self.process.communicate()
        subprocess.run(["umount", "-l", self.target], check=False)


@pytest.mark.parametrize(
    "command", [["mount", "a", "b"], ["umount", "m"], ["show", "."], ["set", "f", "bps=1M"]]
)
def test_a_working_directory_that_is_gone(tmp_path: Path, command: list[str]) -> None:
    gone = tmp_path / "gone"
    gone.mkdir()
    result = subprocess.run(
        ["sh", "-c", 'rmdir "$PWD" && exec "$@"', "sh", *THROTTLEFS, *command],
        cwd=gone,
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )
    assert (result.returncode, result.stdout) == (1, "")
    line = "throttlefs: the working directory is gone; change to another with cd\n"
    assert result.stderr == line


# -- a package that cannot be loaded ----------------------------------------------------------


def test_a_libfuse_of_another_name(tmp_path: Path) -> None:
    """As after an upgrade of the system under an installation that stays."""
    reason = "libfuse3.so.3: cannot open shared object file: No such file or directory"
    (tmp_path / "pyfuse3.py").write_text(f"raise ImportError({reason!r}, name='pyfuse3')")
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
    environment = {**os.environ, "PYTHONPATH": str(tmp_path)}
    result = run_throttlefs("mount", "a", "b", cwd=tmp_path, env=environment)
    assert (result.returncode, result.stdout) == (1, "")
    (line,) = result.stderr.splitlines()
    assert line.startswith(f"throttlefs: pyfuse3 cannot be loaded: {reason}; install it anew with:")
    assert line.endswith("-m pip install --force-reinstall --no-cache-dir pyfuse3")
    for command in (["list"], ["show", "a"], ["set", "a", "bps=1M"], ["umount", "a"]):
        result = run_throttlefs(*command, cwd=tmp_path, env=environment)
        assert "pyfuse3" not in result.stderr, "it does without"
