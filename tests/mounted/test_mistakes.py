"""What users get wrong: each mistake is one clear line, and nothing is mounted or changed."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest

from tests.support import THROTTLEFS, Mounted, clear_away, fails, run_throttlefs
from throttlefs.host.mountinfo import mounted_at


@pytest.fixture
def directories(tmp_path: Path) -> tuple[Path, Path]:
    source, target = tmp_path / "src", tmp_path / "mnt"
    source.mkdir()
    target.mkdir()
    return source, target


@pytest.mark.parametrize(
    ("option", "named"),
    [
        ("bsp=1M", "'bps'"),
        ("bps=banana", "banana"),
        ("bps=-1", "-1"),
        ("bps=", "bps"),
        ("bps", "bps"),
        ("iops=2000000000000000", "10^15"),
        ("noatim", "noatime"),
        ("attr_timeout=x", "attr_timeout"),
        ("bps_max=2M", "bps_max"),
        ("cache=nun", "cache"),
    ],
)
def test_mistaken_options(directories: tuple[Path, Path], option: str, named: str) -> None:
    source, target = directories
    line = fails("mount", source, target, "-o", option, status=2)
    assert option.partition("=")[0] in line
    assert named in line
    assert mounted_at(os.fsencode(target)) is None


def test_mistaken_commands(directories: tuple[Path, Path]) -> None:
    source, target = directories
    assert "--forground" in fails("mount", source, target, "--forground", status=2)
    assert "DST" in fails("mount", source, status=2)
    assert "mont" in fails("mont", source, target, status=2)
    assert "'nan'" in fails("stats", "--interval", "nan", target, status=2)


def test_a_terminal_does_not_act_on_what_a_message_names(tmp_path: Path) -> None:
    assert fails("show", f"{tmp_path}/\x1b[31m\x07").isprintable()


def test_mistaken_paths(directories: tuple[Path, Path], tmp_path: Path) -> None:
    source, target = directories
    file = tmp_path / "file"
    file.touch()
    (source / "inside").mkdir()
    full = tmp_path / "full"
    full.mkdir()
    (full / "x").touch()
    cases = [
        ([tmp_path / "no", target], ["SRC", "does not exist"]),
        ([source, tmp_path / "no"], ["DST", "does not exist", "mkdir"]),
        ([file, target], ["SRC", "DST", "not a regular file", "touch"]),
        ([source, file], ["SRC", "DST", "not a directory", "mkdir"]),
        ([source, full], ["DST", "not empty", "nonempty"]),
        ([source, source / "inside"], ["inside"]),
        ([source / "inside", source], ["inside", "hidden"]),
        ([source, source], ["itself", "nonempty"]),
        ([source, file / "x"], ["DST", "Not a directory"]),
    ]
    for paths, words in cases:
        line = fails("mount", *paths)
        for word in words:
            assert word in line, line
    assert mounted_at(os.fsencode(target)) is None


def test_a_log_file_that_cannot_be_written(directories: tuple[Path, Path]) -> None:
    source, target = directories
    assert "/no/such/log" in fails("mount", source, target, "--log-file", "/no/such/log")
    assert mounted_at(os.fsencode(target)) is None


def test_mounting_twice(mounted: Mounted) -> None:
    line = fails("mount", mounted.source, mounted.path)
    assert "already a throttlefs mount" in line
    assert f"throttlefs umount {mounted.path}" in line


def test_umount_of_what_is_no_mount(directories: tuple[Path, Path], tmp_path: Path) -> None:
    assert "not a mount point" in fails("umount", directories[1])
    assert "not a mount point" in fails("umount", tmp_path / "no")
    assert "type proc" in fails("umount", "/proc")


@pytest.mark.parametrize("command", [["list", "--json"], ["--help"], ["mount", "--help"]])
def test_output_that_cannot_be_written(command: list[str]) -> None:
    with open("/dev/full", "w") as full:
        result = subprocess.run(
            [*THROTTLEFS, *command], stdout=full, stderr=subprocess.PIPE, text=True, check=False
        )
    assert result.returncode == 1
    assert result.stderr == "throttlefs: cannot write the output: No space left on device\n"


def test_closed_output_is_no_mistake() -> None:
    result = subprocess.run(
        ["sh", "-c", 'exec "$@" >&-', "sh", *THROTTLEFS, "list"],
        stderr=subprocess.PIPE,
        text=True,
        check=False,
    )
    assert (result.returncode, result.stderr) == (0, "")


def test_a_full_disk_of_the_log_stops_nothing(directories: tuple[Path, Path]) -> None:
    source, target = directories
    result = run_throttlefs("mount", source, target, "--log-file", "/dev/full")
    try:
        assert (result.returncode, result.stderr) == (0, "")
    finally:
        clear_away(target)
