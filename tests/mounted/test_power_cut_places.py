"""Power cuts where others have a hand in SRC: second mounts, changes in SRC, other places."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest

import throttlefs
from tests.mounted.power_worker import HIDDEN, picture
from tests.support import MountFactory, fails, let_the_clock_go_on, needs_root, run_throttlefs


@pytest.fixture
def source(tmp_path: Path) -> Path:
    path = tmp_path / "src"
    path.mkdir()
    return path


def test_a_second_mount_of_src_is_refused_and_the_first_goes_on(
    source, make_mount: MountFactory, tmp_path
):
    mounted = make_mount("volatile")
    (tmp_path / "second").mkdir()
    for options in ([], ["-o", "volatile"]):
        line = fails("mount", source, tmp_path / "second", *options)
        assert f"SRC {source} is mounted already" in line
    (mounted.path / "file").write_bytes(b"x")
    mounted.umount()
    make_mount(target=tmp_path / "second").umount()


def test_one_file_as_src_has_its_hidden_directory_beside_it(tmp_path, make_mount: MountFactory):
    image, point = tmp_path / "disk.img", tmp_path / "mnt.img"
    image.write_bytes(b"old" * 1000)
    point.touch()
    mounted = make_mount("volatile", source=image, target=point)
    assert (tmp_path / f".disk.img{HIDDEN}").is_dir()
    contents = set()
    for seed in range(6):
        with open(point, "r+b", buffering=0) as file:
            file.write(b"new" * 1000)
        assert run_throttlefs("power-cut", point, "--seed", seed).returncode == 0
        assert run_throttlefs("power-on", point).returncode == 0
        contents.add(image.read_bytes())
        image_now = image.read_bytes()
        assert point.read_bytes() == image_now
        image.write_bytes(b"old" * 1000)
    assert contents == {b"old" * 1000, b"new" * 1000}
    mounted.umount()
    assert sorted(os.listdir(tmp_path)) == ["disk.img", "mnt.img", "mnt.img.log"]


def test_a_file_that_was_changed_in_src_is_named_and_left_alone(source):
    with throttlefs.mounted(source, volatile=True) as disk:
        for name in ("mine", "his"):
            (disk.path / name).write_bytes(b"through the mount")
        let_the_clock_go_on()
        (source / "his").write_bytes(b"in SRC itself")
        seed = next(
            seed for seed in range(100) if disk.power_cut(seed=seed, dry_run=True).not_rolled_back
        )
        report = disk.power_cut(seed=seed)
        assert report.not_rolled_back == ("his",)
        assert (source / "his").read_bytes() == b"in SRC itself"
        disk.power_on()
        assert (disk.path / "his").read_bytes() == b"in SRC itself"


@pytest.mark.parametrize("where", ["in it", "above it"])
def test_no_names_go_back_if_somebody_changed_their_directories_in_src(source, where):
    with throttlefs.mounted(source, volatile=True) as disk:
        for name in ("a", "a/b", "c"):
            (disk.path / name).mkdir()
        disk.sync()
        (disk.path / "a" / "b").rename(disk.path / "b")
        (disk.path / "b" / "mine").touch()
        (disk.path / "c").rmdir()
        let_the_clock_go_on()
        if where == "in it":
            (source / "b" / "his").touch()
        else:
            (source / "b").rename(source / "his")
        seed = next(
            seed
            for seed in range(100)
            if disk.power_cut(seed=seed, dry_run=True).not_rolled_back == ("b",)
        )
        report = disk.power_cut(seed=seed)
        assert (report.not_rolled_back, report.names) == (("b",), ())
        disk.power_on()
        named = {"in it": ["a", "b", "b/his", "b/mine"], "above it": ["a", "his", "his/mine"]}
        assert list(picture(source)) == named[where]
        assert list(picture(disk.path)) == named[where]


@needs_root("mount a directory at another place")
def test_names_on_another_mount_below_src_are_final(source, tmp_path):
    """A bind mount is of the same filesystem, but nothing can be linked or moved across it."""
    (tmp_path / "elsewhere" / "empty").mkdir(parents=True)
    (tmp_path / "elsewhere" / "file").write_bytes(b"x")
    (source / "bound").mkdir()
    subprocess.run(["mount", "--bind", tmp_path / "elsewhere", source / "bound"], check=True)
    try:
        with throttlefs.mounted(source, volatile=True) as disk:
            bound = disk.path / "bound"
            (bound / "file").unlink()
            (bound / "empty").rmdir()
            (bound / "new").write_bytes(b"new")
            (bound / "new").rename(bound / "newer")
            (disk.path / "here").touch()
            seed = next(
                seed
                for seed in range(100)
                if disk.power_cut(seed=seed, dry_run=True).undone_changes == 3
            )
            disk.power_cut(seed=seed)
            disk.power_on()
            assert sorted(os.listdir(disk.path)) == ["bound"]
            assert os.listdir(bound) == ["newer"]
    finally:
        subprocess.run(["umount", source / "bound"], check=True)


def test_the_hidden_directory_of_somebody_else_is_not_touched(make_mount, source, tmp_path):
    (source / HIDDEN).mkdir(mode=0o755)
    (source / HIDDEN / "precious").touch()
    (tmp_path / "mnt").mkdir()
    line = fails("mount", source, tmp_path / "mnt", "-o", "volatile")
    assert "was not made by a mount of yours" in line
    assert os.listdir(source / HIDDEN) == ["precious"]
    mounted = make_mount(source=source)
    assert os.listdir(mounted.path / HIDDEN) == ["precious"]
