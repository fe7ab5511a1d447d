"""The examples of docs/faults.md, run as they stand with real programs."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.peers.pages import CHECKOUT, Example, assert_as_shown, examples
from tests.peers.pages import place as place

PAGE = CHECKOUT / "docs" / "faults.md"
BLOCKS = examples(PAGE.read_text())


def test_there_are_at_least_six() -> None:
    assert len(BLOCKS) >= 6
    assert all(len(block) >= 5 for block in BLOCKS)


@pytest.mark.parametrize("block", BLOCKS, ids=lambda block: block[1].command.split()[0])
def test_an_example_prints_what_the_page_shows(block: list[Example], place: Path) -> None:
    assert_as_shown(block, place)
