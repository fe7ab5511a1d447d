"""From a path to the mount it lies on, by a table of mounts and without touching one."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from throttlefs.control import locate as module
from throttlefs.control.locate import locate, own_mounts
from throttlefs.errors import ThrottlefsError
from throttlefs.host.mountinfo import MountEntry


def entry(
    point: str | Path, fstype: str = "fuse.throttlefs", user: int = os.geteuid(), root: str = "/"
) -> MountEntry:
    minor = abs(hash(str(point))) % 1000
    return MountEntry(
        mount_id=1,
        major=0,
        minor=minor,
        point=os.fsencode(point),
        fstype=fstype,
        source=b"/src",
        options="rw",
        user_id=user,
        root=root.encode(),
    )


@pytest.fixture
def mnt(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A directory that the table says is a mount; whatever looks into it fails the test."""
    point = tmp_path / "mnt"
    point.mkdir()
    table = [entry("/", "ext4"), entry(point), entry(point / "over", "tmpfs")]
    monkeypatch.setattr(module, "read_mounts", lambda: table)
    touched = os.readlink

    def readlink(path: bytes) -> bytes:
        assert os.fsencode(point) not in (path, os.path.dirname(path)), "looked into the mount"
        return touched(path)

    monkeypatch.setattr(os, "readlink", readlink)
    return point


@pytest.mark.parametrize(
    ("below", "device"),
    [
        ("", None),
        ("/", None),
        ("/.", None),
        ("/disk.img", "disk.img"),
        ("//a/./b/../disk.img", "a/disk.img"),
        ("/a/../../mnt/disk.img", "disk.img"),
        ("/üx.img", "üx.img"),
        ("/overlay.img", "overlay.img"),
    ],
)
def test_a_path_in_the_mount_is_a_device(mnt: Path, below: str, device: str | None) -> None:
    found = locate(f"{mnt}{below}")
    assert found.point == str(mnt)
    assert found.device == device


def test_relative_paths_and_symlinks_outside(mnt: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(mnt.parent)
    (mnt.parent / "link").symlink_to("mnt")
    (mnt.parent / "far").symlink_to(mnt / "dir")
    assert locate("mnt/x").device == "x"
    assert locate("link/x").device == "x"
    assert locate("far/../x").device == "x"
    assert locate("nope/../mnt/x").device == "x"


def test_a_name_that_is_no_utf8_is_encoded(mnt: Path) -> None:
    assert locate(os.fsdecode(os.fsencode(mnt) + b"/\xff.img")).device == "%FF.img"


@pytest.mark.parametrize("path", ["/", "/nope", "mnt/over/x", "mnt/../x", "mntx"])
def test_what_lies_elsewhere_is_refused(
    mnt: Path, monkeypatch: pytest.MonkeyPatch, path: str
) -> None:
    monkeypatch.chdir(mnt.parent)
    with pytest.raises(ThrottlefsError, match="does not lie on a throttlefs mount"):
        locate(path)


def test_symlinks_in_a_circle(mnt: Path) -> None:
    (mnt.parent / "loop").symlink_to("loop")
    with pytest.raises(ThrottlefsError, match="too many symbolic links"):
        locate(str(mnt.parent / "loop" / "x"))


def test_a_part_bound_elsewhere_is_the_same_image(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    table = [entry("/", "ext4"), entry(tmp_path, root="/sub/dir")]
    monkeypatch.setattr(module, "read_mounts", lambda: table)
    assert locate(f"{tmp_path}/x").device == "sub/dir/x"
    assert locate(str(tmp_path)).device == "sub/dir"


def test_of_two_mounts_at_one_point_the_later_is_on_top(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "read_mounts", lambda: [entry(tmp_path), entry(tmp_path, "tmpfs")])
    with pytest.raises(ThrottlefsError):
        locate(f"{tmp_path}/x")


def test_another_users_mount_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "read_mounts", lambda: [entry(tmp_path, user=4711)])
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    found = locate(f"{tmp_path}/x")
    with pytest.raises(ThrottlefsError, match="is another user's mount"), found.session():
        pass
    assert own_mounts() == []


def test_a_missing_socket_is_one_clear_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "read_mounts", lambda: [entry(tmp_path)])
    with pytest.raises(ThrottlefsError, match=r"the control socket of .* is not found"):
        locate(f"{tmp_path}/x")._connect()
