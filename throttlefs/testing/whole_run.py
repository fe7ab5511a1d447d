"""``--slow-disk``: the temporary files of a whole run on one slow disk."""

from __future__ import annotations

import os
import shutil
import tempfile
from contextlib import ExitStack

import pytest

from throttlefs.errors import ThrottlefsError

from .capability import why_not
from .mounting import Mounting

_VARIABLE = "TMPDIR"


def put_on_disk(config: pytest.Config, options: str) -> None:
    """Let tmp_path and tempfile use a slow disk until the end of the run, then remove all of it.

    Raises `pytest.UsageError` if that is not possible.
    """
    if config.option.basetemp is not None:
        raise pytest.UsageError("--slow-disk and --basetemp: give one of them")
    problem = why_not()
    if problem is not None:
        raise pytest.UsageError(f"--slow-disk: {problem}")
    with ExitStack() as stack:
        directory = os.path.realpath(tempfile.mkdtemp(prefix="throttlefs-run-"))
        stack.callback(shutil.rmtree, directory, ignore_errors=True)
        os.chmod(directory, 0o755)
        source, target = os.path.join(directory, "src"), os.path.join(directory, "disk")
        os.mkdir(source)
        os.chmod(source, 0o1777)  # as /tmp is
        os.mkdir(target)
        try:
            stack.enter_context(Mounting(source, target, None, None, {}, options))
        except ThrottlefsError as exc:
            raise pytest.UsageError(f"--slow-disk: {exc}") from None
        stack.callback(_restore, os.environ.get(_VARIABLE), tempfile.tempdir)
        os.environ[_VARIABLE] = target  # for processes, workers of xdist among them
        tempfile.tempdir = target
        config.add_cleanup(stack.pop_all().close)


def _restore(variable: str | None, directory: str | None) -> None:
    tempfile.tempdir = directory
    if variable is None:
        del os.environ[_VARIABLE]
    else:
        os.environ[_VARIABLE] = variable
