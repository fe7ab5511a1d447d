"""Short and long forms of the same tests, and the table of what they tried."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.soak import Soak, Tally
from tests.trust.sources import MakeSource, maker_of_sources
from tests.trust.writers import Writer, kill_all

_LONG_TIMEOUT_S = 2 * 3600

_TALLY = pytest.StashKey[list[Tally]]()


def pytest_configure(config: pytest.Config) -> None:
    config.stash[_TALLY] = []


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    if config.getoption("--soak"):
        for item in items:
            item.add_marker(pytest.mark.timeout(_LONG_TIMEOUT_S))


@pytest.fixture
def soak(request: pytest.FixtureRequest) -> Soak:
    """How much to do: little in CI, much for ``scripts/soak``."""
    return Soak(bool(request.config.getoption("--soak")))


@pytest.fixture
def tally(request: pytest.FixtureRequest) -> Iterator[Tally]:
    """Counts for the table at the end: what was tried, how often, what was lost."""
    tally = Tally(request.node.name)
    yield tally
    if tally.runs:
        request.config.stash[_TALLY].append(tally)


def pytest_terminal_summary(
    terminalreporter: pytest.TerminalReporter, config: pytest.Config
) -> None:
    tallies = config.stash[_TALLY]
    if not tallies:
        return
    terminalreporter.section("what was tried")
    width = max(len(tally.scenario) for tally in tallies)
    for tally in tallies:
        counts = f"{tally.runs:>9,} runs  {tally.lost:>3} lost"
        terminalreporter.write_line(f"{tally.scenario:{width}}  {counts}  {tally.checked}")


@pytest.fixture
def make_source(tmp_path: Path) -> Iterator[MakeSource]:
    """Makes filesystems for SRC, which are gone after the test."""
    with maker_of_sources(tmp_path) as make:
        yield make


@pytest.fixture
def writers() -> Iterator[list[Writer]]:
    """Writers that the test started; ended whatever became of it."""
    started: list[Writer] = []
    yield started
    kill_all(started)
