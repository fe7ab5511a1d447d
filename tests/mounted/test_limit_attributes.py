"""Limits as extended attributes of the files of a real mount."""

from __future__ import annotations

import errno
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support import Mounted, MountFactory, let_others_in, run_throttlefs, wait_for

BPS = "user.throttlefs.bps"


def get(path: Path, name: str) -> str:
    return os.getxattr(path, f"user.throttlefs.{name}").decode()


def put(path: Path, name: str, value: str) -> None:
    os.setxattr(path, f"user.throttlefs.{name}", value.encode())


@pytest.fixture
def mount(make_mount: MountFactory) -> Mounted:
    mounted = make_mount("bps=4M")
    (mounted.source / "disk.img").write_bytes(bytes(4096))
    return mounted


def test_a_limit_is_read_and_set(mount: Mounted) -> None:
    path = mount.path / "disk.img"
    assert get(path, "bps") == "4M"
    assert get(path, "iops") == "0"
    assert get(path, "weight") == "100"
    put(path, "bps", "1.5M")
    put(path, "iops-write", "500")
    put(path, "bps_max", "3M\n")
    assert [get(path, name) for name in ("bps", "iops_wr", "bps_max")] == ["1.5M", "500", "3M"]
    shown = run_throttlefs("show", "--json", path).stdout
    assert '"bps": 1572864' in shown


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can make the kernel forget a file")
@pytest.mark.parametrize("removal", ["unlink", "replace"])
def test_a_new_file_of_the_same_number_is_another_file(mount: Mounted, removal: str) -> None:
    """Even if the kernel knew the old one from nothing but a listing."""
    old, other = mount.path / "disk.img", mount.path / "other.img"
    other.touch()
    number = old.stat().st_ino
    old.read_bytes()
    put(old, "bps", "1M")
    Path("/proc/sys/vm/drop_caches").write_text("2")
    assert len(list(os.scandir(mount.path))) == 2
    if removal == "unlink":
        old.unlink()
    else:
        other.rename(old)
    wait_for(lambda: known_images(mount) == [])
    for _ in range(10):
        new = mount.path / "new.img"
        new.write_bytes(b"x")
        assert get(new, "bps") == "4M"
        if new.stat().st_ino == number:
            return  # as ext4 and xfs do at once; others may have no such danger
        new.unlink()


def known_images(mount: Mounted) -> list[str]:
    result = run_throttlefs("show", "--json", mount.path)
    return [image["device"] for image in json.loads(result.stdout)["images"]]


def test_what_is_set_by_one_way_is_shown_by_all(mount: Mounted) -> None:
    path = mount.path / "disk.img"
    assert run_throttlefs("set", path, "group=db", "iops=70", "weight=7").returncode == 0
    assert (get(path, "group"), get(path, "weight")) == ("db", "7")
    put(path, "group", "")
    with pytest.raises(OSError, match=os.strerror(errno.ENODATA)):
        get(path, "group")


def test_the_root_has_the_default(mount: Mounted) -> None:
    assert get(mount.path, "bps") == "4M"
    put(mount.path, "bps", "6M")
    assert get(mount.path / "disk.img", "bps") == "6M"


def test_removing_one_lifts_it(mount: Mounted) -> None:
    path = mount.path / "disk.img"
    put(path, "iops", "10")
    os.removexattr(path, BPS)
    assert (get(path, "bps"), get(path, "iops")) == ("0", "10")
    os.removexattr(path, "user.throttlefs.iops")
    assert get(path, "iops") == "0"


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("bps", "2X"),
        ("bps", "-1"),
        ("bps", ""),
        ("bps", "\xff"),
        ("nope", "1"),
        ("bps_max", "1K"),
        ("group", "nope"),
        ("weight", "0"),
    ],
)
def test_what_cannot_be_is_refused(mount: Mounted, name: str, value: str) -> None:
    path = mount.path / "disk.img"
    before = run_throttlefs("show", "--json", path).stdout
    with pytest.raises(OSError) as caught:
        os.setxattr(path, f"user.throttlefs.{name}", value.encode("latin-1"))
    assert caught.value.errno == errno.EINVAL
    assert run_throttlefs("show", "--json", path).stdout == before


def test_they_never_reach_the_file_behind(mount: Mounted, tmp_path: Path) -> None:
    path = mount.path / "disk.img"
    put(path, "bps", "1M")
    os.setxattr(path, "user.mine", b"kept")
    assert os.listxattr(path) == ["user.mine"]
    assert os.listxattr(mount.source / "disk.img") == ["user.mine"]
    subprocess.run(["cp", "-a", path, tmp_path / "copy"], check=True)
    assert os.listxattr(tmp_path / "copy") == ["user.mine"]


def test_only_files_have_them(mount: Mounted) -> None:
    (mount.source / "dir").mkdir()
    with pytest.raises(OSError) as caught:
        get(mount.path / "dir", "bps")
    assert caught.value.errno == errno.ENODATA
    with pytest.raises(OSError) as caught:
        get(mount.path / "disk.img", "nope")
    assert caught.value.errno == errno.ENODATA


@pytest.mark.skipif(os.geteuid() != 0, reason="takes another user's part, as root alone can")
def test_the_owner_of_an_image_does_not_own_its_limits(make_mount: MountFactory) -> None:
    mounted = make_mount("bps=4M,allow_other")
    path = mounted.source / "disk.img"
    path.write_bytes(b"")
    os.chown(path, 65534, 65534)
    let_others_in(mounted.path)
    script = (
        "import os, sys\n"
        "os.setgid(65534); os.setuid(65534)\n"
        "path = sys.argv[1]\n"
        f"assert os.getxattr(path, {BPS!r}) == b'4M'\n"
        "for change in (lambda: os.setxattr(path, 'user.throttlefs.bps', b'0'),\n"
        "               lambda: os.removexattr(path, 'user.throttlefs.bps')):\n"
        "    try:\n"
        "        change()\n"
        "    except PermissionError:\n"
        "        continue\n"
        "    sys.exit('was let')\n"
    )
    result = subprocess.run(
        [sys.executable, "-I", "-c", script, mounted.path / "disk.img"],
        capture_output=True,
        text=True,
        check=False,
    )
    assert result.returncode == 0, result.stderr
    assert get(mounted.path / "disk.img", "bps") == "4M"


def test_a_new_file_of_a_reused_number_inherits_nothing(mount: Mounted) -> None:
    for _ in range(20):
        path = mount.path / "fresh.img"
        path.write_bytes(b"x")
        assert get(path, "bps") == "4M"
        put(path, "bps", "1G")
        path.unlink()
