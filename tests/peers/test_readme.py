"""The README's examples, run as they stand: each ```console block, command by command.

Outputs are compared with what the README shows, numbers within 15 %, since they come from another
machine.
"""

from __future__ import annotations

import os
import re
import shlex
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from tests.support import THROTTLEFS, clear_away
from throttlefs.host.mountinfo import read_mounts

README = Path(__file__).resolve().parents[2] / "README.md"
TOLERANCE = 0.15
_NUMBER = re.compile(r"\d+(?:\.\d+)?")
_BLOCK = re.compile(r"^```console\n(.*?)^```$", re.MULTILINE | re.DOTALL)


@dataclass
class Example:
    """A command as the README has it and the lines that it shows as its output."""

    command: str
    output: list[str] = field(default_factory=list)


def examples(text: str) -> list[list[Example]]:
    """The examples of every block; a line that ends in a backslash goes on in the next."""
    blocks = []
    for block in _BLOCK.findall(text):
        found: list[Example] = []
        for line in block.splitlines():
            if line.startswith("$ "):
                found.append(Example(line[2:]))
            elif found and not found[-1].output and found[-1].command.endswith("\\"):
                found[-1].command += "\n" + line
            else:
                found[-1].output.append(line)
        blocks.append(found)
    return blocks


def differences(shown: list[str], printed: list[str]) -> list[str]:
    """Where *printed* is not what was *shown*, numbers being nearly equal."""
    if len(shown) != len(printed):
        return [f"{len(shown)} lines are shown, {len(printed)} were printed: {printed}"]
    found = []
    for left, right in zip(shown, printed, strict=True):
        if _words(left) != _words(right):
            found.append(f"{left!r} became {right!r}")
            continue
        for a, b in zip(_NUMBER.findall(left), _NUMBER.findall(right), strict=True):
            if abs(float(a) - float(b)) > TOLERANCE * max(float(a), float(b)):
                found.append(f"{a} of {left!r} became {b}")
    return found


def _words(line: str) -> list[str]:
    return _NUMBER.sub("0", line).split()


@pytest.fixture
def place(tmp_path: Path) -> Iterator[Path]:
    for name in ("images", "mnt", "bin"):
        (tmp_path / name).mkdir()
    command = tmp_path / "bin" / "throttlefs"
    command.write_text(f'#!/bin/sh\nexec {" ".join(map(shlex.quote, THROTTLEFS))} "$@"\n')
    command.chmod(0o755)
    yield tmp_path
    for entry in read_mounts():
        if entry.point.startswith(os.fsencode(tmp_path)):
            clear_away(Path(os.fsdecode(entry.point)))


def run(command: str, place: Path) -> list[str]:
    result = subprocess.run(
        ["bash", "-c", command],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        stdin=subprocess.DEVNULL,
        text=True,
        timeout=60,
        cwd=place,
        check=False,
        env={
            **os.environ,
            "PATH": f"{place / 'bin'}:/usr/sbin:/sbin:{os.environ['PATH']}",
            "LC_ALL": "C.UTF-8",
            "COLUMNS": "100",
        },
    )
    return result.stdout.splitlines()


def test_every_example_prints_what_the_readme_shows(place: Path) -> None:
    blocks = examples(README.read_text())
    assert sum(map(len, blocks)) >= 10, "the blocks were not found"
    wrong = []
    for block in blocks:
        for example in block:
            found = differences(example.output, run(example.command, place))
            wrong += [f"$ {example.command}: {line}" for line in found]
    assert not wrong, "\n".join(wrong)
    mounted = [e.point for e in read_mounts() if e.point.startswith(os.fsencode(place))]
    assert not mounted, "an example left its mount behind"


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
