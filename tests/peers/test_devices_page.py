"""The example of docs/devices.md, run as it stands: what a database sees of a hard disk."""

from __future__ import annotations

import shutil
from pathlib import Path

from tests.peers.pages import CHECKOUT, NUMBER, TOLERANCE, assert_nothing_mounted, examples, run
from tests.peers.pages import place as place

DOCS = CHECKOUT / "docs"


def test_the_example_commits_as_often_as_the_page_says(place: Path) -> None:
    """Or less often, on a machine that has more to do: the disk's time is the least."""
    shutil.copy(DOCS / "examples" / "commits.py", place)
    blocks = examples((DOCS / "devices.md").read_text())
    assert sum(map(len, blocks)) == 3, "the block was not found"
    for block in blocks:
        for example in block:
            said = run(example.command, place)
            assert len(said) == len(example.output), f"$ {example.command}: {said}"
            for shown, printed in zip(example.output, said, strict=True):
                assert NUMBER.sub("0", shown) == NUMBER.sub("0", printed)
                (ours,), (theirs,) = NUMBER.findall(printed), NUMBER.findall(shown)
                assert 5 < float(ours) <= (1 + TOLERANCE) * float(theirs)
    assert_nothing_mounted(place)
