"""The examples of docs/power-cuts.md, run as they stand with real programs."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.inner_pytest import Suite
from tests.peers.pages import CHECKOUT, Example, assert_as_shown, blocks_of, examples
from tests.peers.pages import place as place

PAGE = CHECKOUT / "docs" / "power-cuts.md"
BLOCKS = examples(PAGE.read_text())


def test_there_are_at_least_four() -> None:
    assert len(BLOCKS) >= 4
    assert all(len(block) >= 5 for block in BLOCKS)


@pytest.mark.parametrize("block", BLOCKS, ids=lambda block: block[1].command.split()[0])
def test_an_example_prints_what_the_page_shows(block: list[Example], place: Path) -> None:
    assert_as_shown(block, place)


def test_the_suite_runs(tmp_path: Path) -> None:
    (block,) = blocks_of("python", PAGE.read_text())
    suite = Suite(tmp_path / "suite")
    suite.write(test_it=block)
    ran = suite.run("-o", "slow_disk_required=true")
    assert ran.returncode == 0, ran.stdout
    assert "5 passed" in ran.stdout
