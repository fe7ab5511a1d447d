"""Where a throttlefs that is measured comes from: this checkout, or another one."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

from benchmarks.errors import BenchmarkError


@dataclass(frozen=True)
class Installation:
    """A checkout (or a virtual environment) and the Python that runs its throttlefs."""

    directory: Path
    python: Path

    @property
    def command(self) -> list[str]:
        """The command ``throttlefs``. With -P, or what lies in the working directory would run."""
        return [str(self.python), "-P", "-m", "throttlefs"]

    @property
    def scripts(self) -> Path:
        """Its own benchmarks, which know its modules; not there if it is no checkout."""
        return self.directory / "scripts"

    def version(self) -> str:
        """Return its version and commit. Raises BenchmarkError if it does not start."""
        done = subprocess.run(
            [*self.command, "--version"], check=False, capture_output=True, text=True
        )
        if done.returncode:
            said = done.stderr.strip().splitlines()
            raise BenchmarkError(
                f"throttlefs of {self.directory} does not start: {said[-1] if said else 'no word'}"
            )
        version, commit = done.stdout.strip().replace(", version", ""), self._commit()
        return f"{version} ({commit})" if commit else version

    def _commit(self) -> str:
        """Return the commit that is checked out, "-dirty" if files differ; "" if there is none."""
        try:
            return subprocess.run(
                ["git", "-C", self.directory, "describe", "--always", "--dirty", "--exclude=*"],
                check=True,
                capture_output=True,
                text=True,
            ).stdout.strip()
        except (OSError, subprocess.CalledProcessError):
            return ""


OWN = Installation(Path(__file__).resolve().parents[3], Path(sys.executable))


def installation_in(directory: Path) -> Installation:
    """Return the throttlefs that a checkout, or a virtual environment, brings.

    Raises BenchmarkError if there is none, or if what starts there is another one.
    """
    directory = directory.resolve()
    for python in (directory / ".venv/bin/python", directory / "bin/python"):
        if python.exists():
            break
    else:
        raise BenchmarkError(
            f"{directory} has no .venv: run scripts/throttlefs --version there once"
        )
    done = subprocess.run(
        [python, "-P", "-c", "import throttlefs; print(throttlefs.__file__)"],
        check=False,
        capture_output=True,
        text=True,
    )
    if done.returncode:
        raise BenchmarkError(f"{python} has no throttlefs: {done.stderr.strip().splitlines()[-1]}")
    if not Path(done.stdout.strip()).resolve().is_relative_to(directory):
        raise BenchmarkError(f"{python} runs {done.stdout.strip()}, which is not in {directory}")
    return Installation(directory, python)
