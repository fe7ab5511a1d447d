"""Runs pytest on a suite of its own, as somebody who has installed throttlefs would."""

from __future__ import annotations

import os
import subprocess
import sys
import textwrap
from pathlib import Path


class Suite:
    """A suite in *directory*; its plugin is the one that is installed (entry point pytest11)."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.temporary = directory.parent / "temporary"
        for path in (self.directory, self.temporary):
            path.mkdir(parents=True)

    def write(self, **files: str) -> None:
        """Write ``NAME.py`` for each name; ``ini`` is pytest.ini."""
        for name, text in files.items():
            path = self.directory / ("pytest.ini" if name == "ini" else f"{name}.py")
            path.write_text(textwrap.dedent(text))

    def run(self, *args: str, timeout: float = 100) -> subprocess.CompletedProcess[str]:
        """Run it to its end. Its temporary files lie in `temporary`."""
        return subprocess.run(
            [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", "-rs", *args],
            cwd=self.directory,
            env={
                **{name: value for name, value in os.environ.items() if "PYTEST" not in name},
                "TMPDIR": str(self.temporary),
            },
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=timeout,
            check=False,
        )
