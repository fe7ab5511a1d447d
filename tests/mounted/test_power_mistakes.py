"""power-cut, power-on and sync on what has no power of its own: one line, and nothing changed."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from tests.support import Mounted, MountFactory, fails, let_others_in, needs_root

COMMANDS = ("power-cut", "power-on", "sync")

AS_ANOTHER = """
import importlib, os, pkgutil, sys, throttlefs
# All of it is imported while still root: the checkout may be closed to others.
for module in pkgutil.walk_packages(throttlefs.__path__, "throttlefs."):
    module.name.endswith("__main__") or importlib.import_module(module.name)
os.setgroups([]); os.setgid(65534); os.setuid(65534); os.environ.pop("XDG_RUNTIME_DIR", 0)
from throttlefs.cli.main import main
sys.argv[0] = "throttlefs"
main()
"""
"""The command as another user gives it."""


@pytest.mark.parametrize("command", COMMANDS)
def test_a_mount_that_is_not_volatile(make_mount: MountFactory, command: str) -> None:
    mounted = make_mount("bps=1M")
    (mounted.path / "file").write_bytes(b"kept")
    assert "mount it again with -o volatile" in fails(command, mounted.path)
    said = fails(command, mounted.path / "file", status=2)
    assert f"{command} is for a whole mount" in said
    assert (mounted.path / "file").read_bytes() == b"kept"


@pytest.mark.parametrize("command", COMMANDS)
def test_what_is_no_mount(tmp_path: Path, command: str) -> None:
    for path in (tmp_path, tmp_path / "nix", "/"):
        assert "does not lie on a throttlefs mount" in fails(command, path)


@needs_root("become another user")
@pytest.mark.parametrize("mode", [0o755, 0o700])
def test_another_users_mount(mounted: Mounted, tmp_path: Path, mode: int) -> None:
    """Whether its mount point can be reached or not."""
    let_others_in(tmp_path)
    mounted.path.parent.chmod(mode)
    for command in COMMANDS:
        ran = subprocess.run(
            [sys.executable, "-c", AS_ANOTHER, command, str(mounted.path)],
            capture_output=True,
            text=True,
            check=False,
        )
        assert (ran.returncode, ran.stdout) == (1, "")
        assert ran.stderr == (
            f"throttlefs: {mounted.path} is another user's mount;"
            " only that user and root may control it\n"
        )
