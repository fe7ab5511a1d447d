"""The README's examples, run as they stand."""

from __future__ import annotations

from pathlib import Path

from tests.peers.pages import CHECKOUT, assert_as_shown, differences, examples
from tests.peers.pages import place as place


def test_every_example_prints_what_the_readme_shows(place: Path) -> None:
    blocks = examples((CHECKOUT / "README.md").read_text())
    assert sum(map(len, blocks)) >= 10, "the blocks were not found"
    for block in blocks:
        assert_as_shown(block, place)


def test_differences_are_seen() -> None:
    assert differences(["copied, 4.94 s"], ["copied, 5.20 s"]) == []
    assert differences(["copied, 4.94 s"], ["copied, 6.20 s"])
    assert differences(["copied, 4.94 s"], ["written, 4.94 s"])
    assert differences(["one"], [])
    assert differences([], ["throttlefs: one"])


def test_commands_and_outputs_are_told_apart() -> None:
    text = "```console\n$ a \\\n    b\nout\n$ c\n```\n\n```sh\nnot run\n```\n"
    ((first, second),) = examples(text)
    assert (first.command, first.output) == ("a \\\n    b", ["out"])
    assert (second.command, second.output) == ("c", [])
