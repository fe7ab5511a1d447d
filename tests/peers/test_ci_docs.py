"""The jobs of docs/ci.md: their steps are run one by one, with nothing installed meanwhile."""

from __future__ import annotations

import os
import re
import shlex
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml

from tests.support import THROTTLEFS, clear_away
from throttlefs.host import prerequisites
from throttlefs.host.mountinfo import read_mounts

PAGE = Path(__file__).resolve().parents[2] / "docs" / "ci.md"
CHECKOUT = PAGE.parents[1]
_BLOCK = re.compile(r"^```(\w+)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
BLOCKS = _BLOCK.findall(PAGE.read_text())

SUITE = """
import pytest

@pytest.mark.slow_disk(bps="10M")
def test_it(slow_disk):
    (slow_disk / "ran").write_text("x")
    print("ran on a slow disk")
"""


@pytest.fixture
def place(tmp_path: Path) -> Iterator[Path]:
    """A project with data and a suite, and a PATH on which nothing is installed for good."""
    data = tmp_path / "data"
    data.mkdir()
    (data / "db.img").write_text("contents of db.img\n")
    (data / "check.mk").write_text("check:\n\t@echo checked in $(CURDIR)\n")
    (tmp_path / "test_it.py").write_text(SUITE)
    programs = tmp_path / "bin"
    programs.mkdir()
    python = shlex.quote(sys.executable)
    for name, line in (
        ("throttlefs", f'exec {shlex.join(THROTTLEFS)} "$@"'),
        ("pytest", f'exec {python} -m pytest -s -p no:cacheprovider "$@"'),
        ("sudo", 'exec "$@"'),
        ("apt-get", 'echo "apt-get $*" >>installed'),
        ("pip", 'echo "pip $*" >>installed'),
        ("make", f'exec {python} {tmp_path / "bin" / "make.py"} "$@"'),
    ):
        (programs / name).write_text(f"#!/bin/sh\n{line}\n")
        (programs / name).chmod(0o755)
    (programs / "make.py").write_text(
        "import os, sys\nassert sys.argv[1:4] == ['-f', 'check.mk', '-C'], sys.argv\n"
        "os.chdir(sys.argv[4])\nopen('check.mk').close()\nprint('checked in', os.getcwd())\n"
    )
    yield tmp_path
    left = [mount for mount in read_mounts() if mount.source.startswith(os.fsencode(tmp_path))]
    for mount in left:
        clear_away(Path(os.fsdecode(mount.point)))
    assert not left


def run(place: Path, step: str) -> str:
    """Run *step* as CI does; returns what it printed."""
    ran = subprocess.run(
        ["bash", "-e", "-o", "pipefail", "-c", step],
        cwd=place,
        env={
            **{name: value for name, value in os.environ.items() if "PYTEST" not in name},
            "PATH": f"{place / 'bin'}:{os.environ['PATH']}",
        },
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=100,
        check=False,
    )
    assert ran.returncode == 0, f"{step}: {ran.stdout}"
    return ran.stdout


def jobs() -> dict[str, list[str]]:
    """The commands of each job."""
    github, gitlab = (yaml.safe_load(text) for kind, text in BLOCKS if kind == "yaml")
    steps = github["jobs"]["slow-disk"]["steps"]
    assert any("checkout" in step.get("uses", "") for step in steps)
    return {
        "GitHub": [step["run"] for step in steps if "run" in step],
        "GitLab": gitlab["slow-disk"]["script"],
    }


@pytest.mark.parametrize("name", ["GitHub", "GitLab"])
def test_the_steps_of_a_job(place: Path, name: str) -> None:
    printed = "".join(run(place, step) for step in jobs()[name])
    assert "ran on a slow disk" in printed
    assert "1 passed" in printed
    if name == "GitHub":
        assert re.search(r"^checked in .*/throttlefs-\w+$", printed, re.MULTILINE)
    installed = (place / "installed").read_text().splitlines()
    assert [line for line in installed if line.startswith("pip ")] == [
        "pip install throttlefs pytest"
    ]
    (packages,) = [line for line in installed if line.startswith("apt-get install")]
    # What scripts/lib/install.sh installs for pyfuse3.
    needed = {"libfuse3-dev", "pkg-config"}
    assert {"fuse3", *needed} <= set(packages.split())
    installer = (CHECKOUT / "scripts" / "lib" / "install.sh").read_text()
    assert all(package in installer for package in needed)


def test_the_commands(place: Path) -> None:
    plain, container = (text for kind, text in BLOCKS if kind == "sh")
    assert "db.img" in run(place, plain)
    _, _, inside = container.partition("with-throttlefs \\\n")
    assert run(place, inside.strip()) == "contents of db.img\n"


def test_a_container_gets_what_the_messages_ask_for() -> None:
    """`throttlefs` names the options that a container lacks; the page has the same ones."""
    wanted = prerequisites._DEVICE.partition("with ")[2]
    assert wanted.startswith("--device")
    (container,) = [text for kind, text in BLOCKS if kind == "sh" and "docker" in text]
    assert wanted in container
    (runner,) = [tomllib.loads(text) for kind, text in BLOCKS if kind == "toml"]
    docker = runner["runners"]["docker"]
    for option, values in (
        ("--device", docker["devices"]),
        ("--cap-add", docker["cap_add"]),
        ("--security-opt", [one.replace(":", "=") for one in docker["security_opt"]]),
    ):
        assert all(f"{option} {value}" in container for value in values)
