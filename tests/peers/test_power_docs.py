"""The examples of docs/power-cuts.md, run as they stand with real programs."""

from __future__ import annotations

import os
import re
from pathlib import Path

import pytest

from tests.inner_pytest import Suite
from tests.peers.test_readme import Example, differences, examples, run
from tests.peers.test_readme import place as place
from throttlefs.host.mountinfo import read_mounts

PAGE = Path(__file__).resolve().parents[2] / "docs" / "power-cuts.md"
BLOCKS = examples(PAGE.read_text())


def test_there_are_at_least_four() -> None:
    assert len(BLOCKS) >= 4
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


def test_the_suite_runs(tmp_path: Path) -> None:
    (block,) = re.findall(r"^```python\n(.*?)^```$", PAGE.read_text(), re.MULTILINE | re.DOTALL)
    suite = Suite(tmp_path / "suite")
    suite.write(test_it=block)
    ran = suite.run("-o", "slow_disk_required=true")
    assert ran.returncode == 0, ran.stdout
    assert "5 passed" in ran.stdout
