"""mount(8), fstab(5) and mount.fuse3: they find throttlefs on PATH and use no subcommand."""

from __future__ import annotations

import os
import shlex
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support import THROTTLEFS
from throttlefs.cli.mount8 import with_subcommand
from throttlefs.host.mountinfo import MountEntry, parse_mountinfo

pytestmark = pytest.mark.skipif(
    os.geteuid() != 0 or shutil.which("mount.fuse3", path="/usr/sbin:/sbin") is None,
    reason="not root, or no mount.fuse3",
)

_IN_DIRECTORY = 'cd "$1" && shift && exec "$@"'


class Fstab:
    """An fstab of one line, and mount(8), in a mount namespace where throttlefs is installed.

    mount(8) takes no PATH from its caller: throttlefs has to be where the shell looks by itself.
    """

    def __init__(self, directory: Path) -> None:
        self.source, self.target = directory / "src", directory / "mnt"
        self.source.mkdir()
        self.target.mkdir()
        self._file = directory / "fstab"
        programs = directory / "bin"
        programs.mkdir()
        command = programs / "throttlefs"
        words = " ".join(map(shlex.quote, THROTTLEFS))
        command.write_text(
            f"#!/bin/sh\nPYTHONPATH={shlex.quote(os.environ.get('PYTHONPATH', ''))}"
            f' exec {words} "$@"\n'
        )
        command.chmod(0o755)
        self._holder = subprocess.Popen(
            ["unshare", "--mount", "--propagation", "private", "sh", "-c", "echo; exec sleep 300"],
            stdout=subprocess.PIPE,
        )
        assert self._holder.stdout is not None
        self._holder.stdout.readline()
        result = self.run("mount", "--bind", programs, "/usr/local/sbin")
        assert result.returncode == 0, result.stderr

    def close(self) -> None:
        """Leave nothing mounted or running."""
        for entry in self._mounts():
            if entry.fstype == "fuse.throttlefs" and entry.point.startswith(
                os.fsencode(self.source.parent)
            ):
                self.run("umount", "-l", os.fsdecode(entry.point))
        self._holder.kill()
        self._holder.communicate()

    def run(self, *command: object) -> subprocess.CompletedProcess[str]:
        enter = ["nsenter", "--mount", "--target", str(self._holder.pid)]
        return subprocess.run(
            [*enter, "sh", "-c", _IN_DIRECTORY, "sh", self.source.parent, *map(str, command)],
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )

    def mount(self, options: str, source: object = None) -> subprocess.CompletedProcess[str]:
        source = source or self.source
        return self.run("mount", "-t", "fuse.throttlefs", source, self.target, "-o", options)

    def mount_line(self, options: str) -> subprocess.CompletedProcess[str]:
        line = f"{self.source} {self.target} fuse.throttlefs {options} 0 0\n"
        self._file.write_text(line)
        return self.run("mount", "-T", self._file, self.target)

    @property
    def entry(self) -> MountEntry | None:
        point = os.fsencode(self.target)
        return next((entry for entry in self._mounts() if entry.point == point), None)

    def _mounts(self) -> list[MountEntry]:
        return parse_mountinfo(Path(f"/proc/{self._holder.pid}/mountinfo").read_bytes())


@pytest.fixture
def fstab(tmp_path: Path) -> Iterator[Fstab]:
    made = Fstab(tmp_path)
    yield made
    made.close()


def flags(entry: MountEntry | None) -> set[str]:
    assert entry is not None
    return set(entry.options.split(","))


def test_mount_with_a_type(fstab: Fstab) -> None:
    # What the directory of the tests lies on may forbid both, as /tmp does from Debian 13 on.
    allowing = fstab.run("mount", "-t", "tmpfs", "-o", "suid,dev", "tmpfs", fstab.source)
    assert allowing.returncode == 0, allowing.stderr
    result = fstab.mount("bps=1M")
    assert (result.returncode, result.stderr) == (0, "")
    assert fstab.entry is not None
    assert fstab.entry.fstype == "fuse.throttlefs"
    assert "bps=1M" in fstab.run("throttlefs", "show", fstab.target).stdout
    assert not {"nodev", "nosuid"} & flags(fstab.entry), "as mount(8) has it for root"
    assert fstab.run("umount", fstab.target).returncode == 0


def test_a_relative_source_and_options_that_forbid(fstab: Fstab) -> None:
    result = fstab.mount("ro,nodev,nosuid,noexec,noatime", source="src")
    assert (result.returncode, result.stderr) == (0, "")
    assert {"ro", "nodev", "nosuid", "noexec", "noatime"} <= flags(fstab.entry)


def test_one_file(fstab: Fstab, tmp_path: Path) -> None:
    image, slow = tmp_path / "disk.img", tmp_path / "slow.img"
    image.write_bytes(b"data")
    slow.touch()
    result = fstab.run("mount", "-t", "fuse.throttlefs", image, slow, "-o", "bps=1M")
    assert (result.returncode, result.stderr) == (0, "")
    assert fstab.run("cat", slow).stdout == "data"


@pytest.mark.parametrize(
    "options",
    [
        "bps=1M",
        "defaults,iops=100,iops_max=400",
        "noauto,nofail,user,bps_rd=10M",
        "users,x-systemd.automount,x-systemd.requires-mounts-for=/,_netdev,group=g,bps=5M",
        "bps=1M,comment=slow\\040disk,x-gvfs-hide,nofail,bps=2M",
    ],
)
def test_lines_of_fstab(fstab: Fstab, options: str) -> None:
    result = fstab.mount_line(options)
    assert (result.returncode, result.stderr) == (0, "")
    restricted = "user" in options
    assert ({"nodev", "nosuid", "noexec"} <= flags(fstab.entry)) == restricted


@pytest.mark.parametrize(
    ("options", "named"),
    [("bsp=1M", "did you mean 'bps'"), ("nofial", "nofail"), ("bps=fast", "fast")],
)
def test_a_line_with_a_mistake_is_one_line_of_error(fstab: Fstab, options: str, named: str) -> None:
    result = fstab.mount_line(options)
    assert result.returncode != 0
    assert len(result.stderr.splitlines()) == 1, result.stderr
    assert named in result.stderr
    assert fstab.entry is None


def test_a_source_that_is_not_there(fstab: Fstab) -> None:
    for source in ("/no/such/source", "nosuch"):
        result = fstab.mount("bps=1M", source=source)
        assert result.returncode != 0
        assert result.stderr == f"throttlefs: SRC {source} does not exist\n"
    assert fstab.entry is None


def test_remount_is_refused_with_the_cure(fstab: Fstab) -> None:
    assert fstab.mount("bps=1M").returncode == 0
    result = fstab.mount("remount,bps=2M")
    assert result.returncode != 0
    assert "throttlefs set" in result.stderr
    assert fstab.run("umount", fstab.target).returncode == 0


def test_all_lines_twice_mount_once(fstab: Fstab) -> None:
    assert fstab.mount_line("bps=1M").returncode == 0
    result = fstab.run("mount", "-T", fstab.source.parent / "fstab", "-a")
    assert (result.returncode, result.stderr) == (0, "")
    assert fstab.run("umount", fstab.target).returncode == 0
    assert fstab.entry is None


COMMANDS = ["mount", "umount", "show"]


@pytest.mark.parametrize(
    ("given", "wanted"),
    [
        (["/a", "/b", "-o", "rw"], ["mount", "/a", "/b", "-o", "rw"]),
        (["nosuch", "/b", "-o", "rw"], ["mount", "nosuch", "/b", "-o", "rw"]),
        (["/a", "/b"], ["mount", "/a", "/b"]),
        (["mount", "a", "b"], None),
        (["mont", "a", "b"], None),
        (["mont", "a", "-o", "x"], None),
        (["--help"], None),
        (["/a"], None),
        ([], None),
    ],
)
def test_which_command_lines_are_those_of_mount8(
    given: list[str], wanted: list[str] | None
) -> None:
    assert with_subcommand(given, COMMANDS) == (wanted or given)


def test_dev_and_suid_are_for_root_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    given = ["/a", "/b", "-o", "rw,bps=1M,dev,suid"]
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    assert with_subcommand(given, COMMANDS) == ["mount", "/a", "/b", "-o", "rw,bps=1M"]
    monkeypatch.setattr(os, "geteuid", lambda: 0)
    assert with_subcommand(given, COMMANDS) == ["mount", *given]
