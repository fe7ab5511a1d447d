"""Runs the command of throttlefs in a process of its own, and turns its failure into an exception.

The filesystem must not be served by the process that uses it: Python's lock would be held by a
thread that waits for the filesystem, which waits for the lock.
"""

from __future__ import annotations

import os
import subprocess
import sys
from typing import Final

from throttlefs.errors import ThrottlefsError, UsageError

_PARENT: Final = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
"""Where this package lies. The command finds it there if it finds it nowhere else."""

_START: Final = (
    "import sys; sys.path.append(sys.argv.pop(1)); from throttlefs.cli.main import main; main()"
)
_PREFIX: Final = "throttlefs: "
_MOST_S: Final = 120.0
_MEASURING: Final = ("COV_CORE_", "COVERAGE_PROCESS_")
"""Variables that make a Python measure its coverage, which would slow the daemon."""


def run_command(*arguments: str) -> None:
    """Run ``throttlefs`` with *arguments* to its end.

    Raises `ThrottlefsError` with its one line if it fails, `UsageError` for a wrong argument.
    """
    environment = {
        name: value for name, value in os.environ.items() if not name.startswith(_MEASURING)
    }
    # -P: the working directory may have modules with the names of ours.
    program = [sys.executable, "-P", "-W", "ignore", "-c", _START, _PARENT]
    try:
        done = subprocess.run(
            [*program, *arguments],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            env=environment,
            timeout=_MOST_S,
            check=False,
        )
    except subprocess.TimeoutExpired:
        raise ThrottlefsError(
            f"throttlefs {arguments[0]} takes longer than {_MOST_S:.0f} s"
        ) from None
    except OSError as exc:
        raise ThrottlefsError(f"cannot start {sys.executable}: {exc.strerror}") from None
    if done.returncode:
        raise _error(arguments[0], done.returncode, done.stderr.decode(errors="backslashreplace"))


def _error(command: str, status: int, said: str) -> ThrottlefsError:
    lines = said.strip().splitlines()
    line = lines[-1].removeprefix(_PREFIX) if lines else f"{command} ended with status {status}"
    return (UsageError if status == UsageError.exit_status else ThrottlefsError)(line)
