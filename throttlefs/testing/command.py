"""Runs the command of throttlefs in a process of its own, and turns its failure into an exception.

The filesystem must not be served by the process that uses it: Python's lock would be held by a
thread that waits for the filesystem, which waits for the lock.
"""

from __future__ import annotations

import os
import sys
import threading
from collections.abc import Sequence
from typing import Final

from throttlefs.errors import ThrottlefsError, UsageError

from .warm import Warm

_PARENT: Final = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
"""Where this package lies. The command finds it there if it finds it nowhere else."""

_SERVE: Final = (
    "import sys; sys.path.append(sys.argv.pop(1));"
    " from throttlefs.testing.warm import serve; serve()"
)
_PREFIX: Final = "throttlefs: "
_MOST_S: Final = 120.0
_MEASURING: Final = ("COV_CORE_", "COVERAGE_PROCESS_")
"""Variables that make a Python measure its coverage, which would slow the daemon."""

_lock = threading.Lock()
_kept: list[Warm] = []
"""The process that forks commands, if there is one."""


def _forget() -> None:
    """Let a forked child begin anew: the lock may be held, and what is kept is its parent's."""
    global _lock
    _lock = threading.Lock()
    while _kept:
        _kept.pop().close()


os.register_at_fork(after_in_child=_forget)


def run_command(*arguments: str) -> None:
    """Run ``throttlefs`` with *arguments* to its end.

    Raises `ThrottlefsError` with its one line if it fails, `UsageError` for a wrong argument.
    """
    environment = {
        name: value for name, value in os.environ.items() if not name.startswith(_MEASURING)
    }
    try:
        with _lock:
            status, said = _run(arguments, environment)
    except TimeoutError:
        raise ThrottlefsError(
            f"throttlefs {arguments[0]} takes longer than {_MOST_S:.0f} s"
        ) from None
    except OSError as exc:
        raise ThrottlefsError(f"cannot start {sys.executable}: {exc.strerror}") from None
    if status:
        raise _error(arguments[0], status, said.decode(errors="backslashreplace"))


def _run(arguments: Sequence[str], environment: dict[str, str]) -> tuple[int, bytes]:
    """The command's status, and what it said. Raises `OSError`."""
    while _kept:
        warm = _kept.pop()
        if warm.is_ours():
            try:
                result = warm.run(arguments, environment, _MOST_S)
            except ConnectionError:
                pass  # it was killed
            else:
                _kept.append(warm)
                return result
        warm.close()
    # -P: the working directory may have modules with the names of ours.
    program = [sys.executable, "-P", "-W", "ignore", "-c", _SERVE, _PARENT]
    warm = Warm(program, environment)
    result = warm.run(arguments, environment, _MOST_S)
    _kept.append(warm)
    return result


def _error(command: str, status: int, said: str) -> ThrottlefsError:
    lines = said.strip().splitlines()
    line = lines[-1].removeprefix(_PREFIX) if lines else f"{command} ended with status {status}"
    return (UsageError if status == UsageError.exit_status else ThrottlefsError)(line)
