"""The examples of docs/python.md, run as they stand."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.peers.pages import CHECKOUT, blocks_of
from tests.support import clear_away, let_others_in
from throttlefs.host.mountinfo import read_mounts

PAGE = CHECKOUT / "docs" / "python.md"
BLOCKS = blocks_of("python", PAGE.read_text())

CONTAINERS = '''
"""Stands for testcontainers, which needs Docker: a server of another user on the volume."""
import os, pathlib

class PostgresContainer:
    def __init__(self, image):
        assert image.startswith("postgres:")

    def with_volume_mapping(self, host, container, mode):
        assert (container, mode) == ("/var/lib/postgresql/data", "rw")
        self.host = host

    def __enter__(self):
        child = os.fork()
        if child == 0:
            try:
                if os.geteuid() == 0:
                    os.setgroups([])
                    os.setresgid(999, 999, 999)
                    os.setresuid(999, 999, 999)
                pathlib.Path(self.host, "PG_VERSION").write_text("17")
                os._exit(0)
            finally:
                os._exit(1)
        assert os.waitpid(child, 0)[1] == 0, "the server's user cannot write to its volume"
        return self

    def __exit__(self, *_):
        pass

    def get_connection_url(self):
        return "postgresql://test:test@localhost/test"
'''


@pytest.fixture
def place(tmp_path: Path) -> Iterator[Path]:
    (tmp_path / "data").mkdir()
    package = tmp_path / "fakes" / "testcontainers"
    package.mkdir(parents=True)
    (package / "__init__.py").touch()
    (package / "postgres.py").write_text(CONTAINERS)
    (tmp_path / "tmp").mkdir(mode=0o755)
    let_others_in(tmp_path / "tmp")
    yield tmp_path
    left = [mount for mount in read_mounts() if os.fsencode(tmp_path) in mount.source]
    for mount in left:
        clear_away(Path(os.fsdecode(mount.point)))
    assert not left


def run(place: Path, *command: object) -> str:
    """Run *command* with what the examples find around them; returns what it printed."""
    path = os.pathsep.join(filter(None, (str(place / "fakes"), os.environ.get("PYTHONPATH"))))
    ran = subprocess.run(
        list(map(str, command)),
        cwd=place,
        env={**os.environ, "PYTHONPATH": path, "TMPDIR": str(place / "tmp")},
        capture_output=True,
        text=True,
        timeout=100,
        check=False,
    )
    assert ran.returncode == 0, ran.stdout + ran.stderr
    return ran.stdout


PROGRAMS = {
    "the first": "with throttlefs.mounted",
    "faults": "disk.fault(",
    "trio": "trio.run(main)",
    "SQLite": "PRAGMA journal_mode=wal",
    "PostgreSQL": "PostgresContainer",
}


@pytest.mark.parametrize("name", PROGRAMS)
def test_an_example_runs(place: Path, name: str) -> None:
    block = next(block for block in BLOCKS if PROGRAMS[name] in block)
    if name == "SQLite":
        block += '\nassert "0 ms" != f"{(time.monotonic() - began) / 20 * 1000:.0f} ms"\n'
    if name == "PostgreSQL" and os.geteuid() != 0 and not others_are_allowed():
        pytest.skip("user_allow_other is not in /etc/fuse.conf")
    (place / "example.py").write_text(block)
    run(place, sys.executable, "example.py")
    assert list((place / "data").iterdir())


def test_the_suite_runs(place: Path) -> None:
    (block,) = [block for block in BLOCKS if "def test_" in block]
    (place / "test_it.py").write_text(block)
    (ini,) = blocks_of("ini", PAGE.read_text())
    (place / "pytest.ini").write_text(ini)
    printed = run(place, sys.executable, "-m", "pytest", "-p", "no:cacheprovider", "test_it.py")
    assert "1 passed" in printed


def others_are_allowed() -> bool:
    lines = Path("/etc/fuse.conf").read_text().splitlines()
    return "user_allow_other" in [line.strip() for line in lines]


def test_no_example_is_left_out() -> None:
    known = (*PROGRAMS.values(), "def test_")
    assert all(any(part in block for part in known) for block in BLOCKS)
