"""The pytest plugin: the fixture ``slow_disk``, its marker, and ``--slow-disk`` for a whole run.

pytest loads this module into every run where throttlefs is installed. So it imports nothing of
the project before something is used.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from .disk import Disk

_MARKER = (
    "slow_disk(**options): how the disk of the fixture slow_disk is mounted;"
    " what throttlefs.mounted takes, e.g. slow_disk(bps='1M')"
)


def pytest_addoption(parser: pytest.Parser) -> None:
    """The command line's options and those of the ini file."""
    group = parser.getgroup("slow_disk", "slow disks (throttlefs)")
    group.addoption(
        "--slow-disk",
        metavar="OPTS",
        help="put tmp_path and all temporary files of this run on a slow disk;"
        " OPTS are those of throttlefs mount -o, e.g. bps=10M,iops=500",
    )
    group.addoption(
        "--slow-disk-seed",
        metavar="N",
        type=int,
        help="the seed of every slow disk that has none; otherwise each test has one of its own,"
        " the same in every run",
    )
    parser.addini(
        "slow_disk_options",
        "options of every slow_disk, as for throttlefs mount -o; the marker's are added",
        default="",
    )
    parser.addini(
        "slow_disk_required",
        "fail, instead of skipping, where slow_disk cannot mount",
        type="bool",
        default=False,
    )


def pytest_configure(config: pytest.Config) -> None:
    """Make the marker known, and put the run on a disk if that is asked for."""
    config.addinivalue_line("markers", _MARKER)
    options = config.getoption("slow_disk")
    # A worker of xdist gets its place from the controller.
    if options is not None and not hasattr(config, "workerinput"):
        from .whole_run import put_on_disk

        put_on_disk(config, options)


@pytest.fixture
def slow_disk(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Disk]:
    """A `throttlefs.Disk`: a directory of tmp_path, mounted as the marker slow_disk says."""
    from .fixture import disk_of_test

    yield from disk_of_test(request, tmp_path)


@pytest.hookimpl(optionalhook=True)
def pytest_testnodedown(node: object, error: object) -> None:
    """Sweep in xdist's controller what a worker that crashed has left (a hook of xdist)."""
    if error:
        from .sweeping import sweep

        sweep()
