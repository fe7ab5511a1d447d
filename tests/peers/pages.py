"""The examples of a page, run as they stand: each ```console block, command by command.

Outputs are compared with what the page shows, numbers within 15 %, since they come from another
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

CHECKOUT = Path(__file__).resolve().parents[2]
TOLERANCE = 0.15
NUMBER = re.compile(r"\d+(?:\.\d+)?")
_BLOCK = re.compile(r"^```(\w+)\n(.*?)^```$", re.MULTILINE | re.DOTALL)


@dataclass
class Example:
    """A command as the page has it and the lines that it shows as its output."""

    command: str
    output: list[str] = field(default_factory=list)


def blocks_of(kind: str, text: str) -> list[str]:
    """What is in the blocks ```KIND of a page."""
    return [block for found, block in _BLOCK.findall(text) if found == kind]


def examples(text: str) -> list[list[Example]]:
    """The examples of every block; a line that ends in a backslash goes on in the next."""
    blocks = []
    for block in blocks_of("console", text):
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
        for a, b in zip(NUMBER.findall(left), NUMBER.findall(right), strict=True):
            if abs(float(a) - float(b)) > TOLERANCE * max(float(a), float(b)):
                found.append(f"{a} of {left!r} became {b}")
    return found


def _words(line: str) -> list[str]:
    return NUMBER.sub("0", line).split()


@pytest.fixture
def place(tmp_path: Path) -> Iterator[Path]:
    """A directory with what the examples find around them: images, mnt and the command."""
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
    """The lines that *command* prints, run in *place*."""
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


def assert_as_shown(block: list[Example], place: Path) -> None:
    """Run the examples of *block*: each prints what the page shows, and no mount is left."""
    wrong = []
    for example in block:
        found = differences(example.output, run(example.command, place))
        wrong += [f"$ {example.command}: {line}" for line in found]
    assert not wrong, "\n".join(wrong)
    assert_nothing_mounted(place)


def assert_nothing_mounted(place: Path) -> None:
    """No example has left its mount behind."""
    mounted = [e.point for e in read_mounts() if e.point.startswith(os.fsencode(place))]
    assert not mounted, "an example left its mount behind"
