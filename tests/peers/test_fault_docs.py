"""The examples of docs/faults.md, run as they stand with real programs."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from tests.peers.test_readme import Example, differences, examples, run
from tests.peers.test_readme import place as place
from throttlefs.host.mountinfo import read_mounts

PAGE = Path(__file__).resolve().parents[2] / "docs" / "faults.md"
BLOCKS = examples(PAGE.read_text())


def test_there_are_at_least_six() -> None:
    assert len(BLOCKS) >= 6
    assert all(len(block) >= 5 for block in BLOCKS)


@pytest.mark.parametrize("block", BLOCKS, ids=lambda block: block[1].command.split()[0])
def test_an_example_prints_what_the_page_shows(block: list[Example], place: Path) -> None:
    wrong = []
    for example in block:
        found = differences(example.output, run(example.command, place))
        wrong += [f"$ {example.command}: {line}" for line in found]
    assert not wrong, "\n".join(wrong)
    mounted = [e.point for e in read_mounts() if e.point.startswith(os.fsencode(place))]
    assert not mounted, "an example left its mount behind"
