"""Fixtures for every test: real mounts that are always cleaned up."""

from __future__ import annotations

import os
import random
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import settings

from tests.support import Mounted, MountFactory, clear_away, run_throttlefs
from throttlefs.host import runtime
from throttlefs.host.mountinfo import mounted_at


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--soak", action="store_true", help="run tests in their long form, as scripts/soak does"
    )


def pytest_configure(config: pytest.Config) -> None:
    # Without a seed of one's own each run tries the same; nothing is kept from run to run. How
    # long an example takes says more of the machine than of the code.
    settings.register_profile(
        "repeatable",
        derandomize=_seed(config) is None,
        database=None,
        deadline=None,
        print_blob=True,
    )
    settings.load_profile("repeatable")


def pytest_report_header(config: pytest.Config) -> str:
    return f"seed: {_seed(config) or 'always the same'} (--hypothesis-seed=N takes another)"


def _seed(config: pytest.Config) -> str | None:
    seed: str | None = config.getoption("--hypothesis-seed")
    return seed


@pytest.fixture
def rng(request: pytest.FixtureRequest) -> random.Random:
    """Random numbers, the same in each run for each test unless ``--hypothesis-seed`` is given."""
    return random.Random(f"{_seed(request.config)} {request.node.nodeid}")


@pytest.fixture
def make_mount(tmp_path: Path) -> Iterator[MountFactory]:
    """Mount tmp_path/src at tmp_path/mnt (or what is given) with an option string."""
    targets: list[Path] = []

    def mount(
        options: str = "", *args: str, source: Path | None = None, target: Path | None = None
    ) -> Mounted:
        source = source or tmp_path / "src"
        target = target or tmp_path / "mnt"
        for directory in (source, target):
            if not directory.exists():
                directory.mkdir()
        targets.append(target)
        log_file = tmp_path / f"{target.name}.log"
        command = ["mount", source, target, "--log-file", log_file, *args]
        if options:
            command += ["-o", options]
        result = run_throttlefs(*command)
        assert result.returncode == 0, result.stderr
        assert result.stderr == ""
        entry = mounted_at(os.fsencode(target))
        assert entry is not None
        record = runtime.read_record(entry)
        assert record is not None
        return Mounted(source, target, entry, record.pid, log_file)

    yield mount
    for target in targets:
        clear_away(target)


@pytest.fixture
def mounted(make_mount: MountFactory) -> Mounted:
    """A mount without limits."""
    return make_mount()
