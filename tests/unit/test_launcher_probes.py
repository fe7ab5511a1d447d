"""What the scripts that install ask the real Python, and the versions that they install."""

import os
import re
import subprocess
import sys
import tomllib
from pathlib import Path

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from tests.unit.launcher_world import CHECKOUT


def test_this_python_is_good_enough_for_the_probe() -> None:
    probe = CHECKOUT / "scripts" / "lib" / "probe_python.py"
    result = subprocess.run([sys.executable, probe], capture_output=True, text=True, check=True)
    first, *lacks = result.stdout.splitlines()
    assert os.path.samefile(first, os.path.join(sys.base_prefix, "bin", os.path.basename(first)))
    assert set(lacks) <= {"venv", "dev"}


def test_the_probe_finds_the_libfuse_of_this_pyfuse3() -> None:
    probe = CHECKOUT / "scripts" / "lib" / "probe_fuse.py"
    command = [sys.executable, "-I", probe]
    library = subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()
    assert re.search(r"/libfuse3\.so\.\d+$", library), library
    assert os.path.exists(library)


def test_the_probe_says_why_pyfuse3_cannot_be_loaded(tmp_path: Path) -> None:
    reason = "libfuse3.so.3: cannot open shared object file"
    (tmp_path / "pyfuse3.py").write_text(f"raise ImportError({reason!r})")
    probe = CHECKOUT / "scripts" / "lib" / "probe_fuse.py"
    environment = {**os.environ, "PYTHONPATH": str(tmp_path)}
    command = [sys.executable, probe]
    result = subprocess.run(command, capture_output=True, text=True, check=False, env=environment)
    assert (result.returncode, result.stderr) == (1, f"pyfuse3: {reason}\n")


def test_every_dependency_is_pinned_within_its_bounds() -> None:
    lines = (CHECKOUT / "scripts" / "constraints.txt").read_text().splitlines()
    pins = {}
    for line in lines:
        if not line.startswith("#"):
            name, version = re.fullmatch(r"([\w.-]+)==([\w.]+)", line).groups()  # type: ignore[union-attr]
            pins[canonicalize_name(name)] = version
    project = tomllib.loads((CHECKOUT / "pyproject.toml").read_text())
    wanted = [
        *project["build-system"]["requires"],
        *project["project"]["dependencies"],
        *(each for extra in project["project"]["optional-dependencies"].values() for each in extra),
    ]
    for requirement in map(Requirement, wanted):
        assert requirement.specifier.contains(pins[canonicalize_name(requirement.name)])
