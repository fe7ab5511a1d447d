"""The directory of the undo log: what is said of one that cannot be used."""

from __future__ import annotations

import errno
import os
from pathlib import Path

import pytest

from throttlefs.errors import ThrottlefsError
from throttlefs.host.paths import MountPaths
from throttlefs.host.undo_directory import check_undo_directory

CURE = "name another directory: -o volatile_dir=DIR"


@pytest.fixture
def paths(tmp_path: Path) -> MountPaths:
    (tmp_path / "src").mkdir()
    (tmp_path / "mnt" / "below").mkdir(parents=True)
    return MountPaths(str(tmp_path / "src"), str(tmp_path / "mnt"))


def refusal(paths: MountPaths, directory: str) -> str:
    with pytest.raises(ThrottlefsError) as caught:
        check_undo_directory(paths, directory)
    return str(caught.value)


def test_a_directory_that_will_do(paths: MountPaths, tmp_path: Path) -> None:
    check_undo_directory(paths, str(tmp_path))
    check_undo_directory(paths, paths.source)
    assert not os.listdir(paths.source)


def test_one_that_is_not_there(paths: MountPaths, tmp_path: Path) -> None:
    assert refusal(paths, f"{tmp_path}/nix") == (
        f"volatile_dir {tmp_path}/nix: the undo log cannot be there: No such file or directory;"
        f" {CURE}"
    )
    (tmp_path / "file").touch()
    assert "Not a directory" in refusal(paths, f"{tmp_path}/file")


def test_one_that_the_mount_would_hide(paths: MountPaths) -> None:
    for directory in (paths.target, f"{paths.target}/below"):
        said = refusal(paths, directory)
        assert said.startswith(f"volatile_dir {directory} lies in DST {paths.target}")
        assert said.endswith(CURE)


@pytest.mark.parametrize("number", [errno.EOPNOTSUPP, errno.EISDIR])
def test_a_filesystem_without_unnamed_files(
    paths: MountPaths, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    def refuse(*_: object) -> int:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(os, "open", refuse)
    said = refusal(paths, str(tmp_path))
    assert "its filesystem has no files without a name (O_TMPFILE)" in said


def test_a_block_device_as_src(paths: MountPaths, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("stat.S_ISBLK", lambda _: True)
    assert f"SRC {paths.source} is a block device" in refusal(paths, "/var/tmp")
