"""A daemon is killed, before a power cut or amid it: the next mount finishes what has begun."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from tests.mounted.power_worker import HIDDEN, hidden_files, picture
from tests.support import MountFactory, detach, run_throttlefs, wait_for
from throttlefs.host import runtime


@pytest.fixture
def source(tmp_path: Path) -> Path:
    path = tmp_path / "src"
    path.mkdir()
    return path


@pytest.mark.parametrize("options", ["", "volatile"])
def test_a_daemon_that_is_killed_loses_nothing(source, make_mount: MountFactory, options):
    mounted = make_mount("volatile")
    (mounted.path / "d").mkdir()
    (mounted.path / "file").write_bytes(b"unflushed")
    (mounted.path / "removed").touch()
    (mounted.path / "removed").unlink()
    (mounted.path / "d").rmdir()
    before = picture(source)
    os.kill(mounted.pid, signal.SIGKILL)
    wait_for(lambda: runtime.process_start_time(mounted.pid) is None)
    detach(mounted.path)
    assert len(hidden_files(source)) == 2
    again = make_mount(options)
    assert picture(source) == before
    assert os.listdir(again.path) == ["file"]
    assert (again.path / "file").read_bytes() == b"unflushed"
    again.umount()
    assert os.listdir(source) == ["file"]


def renamed(names: list[str], count: int) -> bool:
    """Whether *names* are those of files of which the first so many have been renamed."""
    new = sorted(name for name in names if name.startswith("new"))
    expected = [f"new{number:04}" for number in range(len(new))]
    old = [f"old{number:04}" for number in range(len(new), count)]
    return sorted(names) == sorted(expected + old)


@pytest.mark.parametrize("options", ["", "volatile"])
def test_a_cut_that_is_killed_is_finished_by_the_next_mount(
    source, make_mount: MountFactory, options, tmp_path
):
    count = 300
    for number in range(count):
        (source / f"old{number:04}").touch()
    mounted = make_mount("volatile")
    for number in range(count):
        (mounted.path / f"old{number:04}").rename(mounted.path / f"new{number:04}")
    seed = next(
        seed for seed in range(100) if f'"undone-changes": {count}' in dry_run(mounted.path, seed)
    )
    cutting = subprocess.Popen(
        [sys.executable, "-m", "throttlefs", "power-cut", mounted.path, "--seed", str(seed)],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    plan = source / HIDDEN / "plan"
    wait_for(lambda: plan.exists() or cutting.poll() is not None)
    os.kill(mounted.pid, signal.SIGKILL)
    cutting.wait(30)
    wait_for(lambda: runtime.process_start_time(mounted.pid) is None)
    detach(mounted.path)
    is_amid = plan.exists()
    again = make_mount(options)
    names = os.listdir(again.path)
    assert renamed(names, count)
    assert not is_amid or "new0000" not in names
    again.umount()
    assert not (source / HIDDEN).exists()
    assert list(Path("/var/tmp").glob(f".throttlefs-undo-{mounted.pid}-*")) == []


def dry_run(mount: Path, seed: int) -> str:
    return run_throttlefs("power-cut", mount, "--dry-run", "--json", "--seed", seed).stdout
