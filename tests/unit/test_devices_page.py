"""docs/devices.md says what is so: its profiles, its options, and its configuration files."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from throttlefs.policy.policy import make_policy
from throttlefs.settings.config import NO_CONFIG, parse_config
from throttlefs.settings.options import parse_options
from throttlefs.settings.profiles import SOURCE_KINDS, shipped, split_settings

PAGE = (Path(__file__).resolve().parents[2] / "docs" / "devices.md").read_text()
_BLOCK = re.compile(r"^```(\w+)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
FILES = [text for kind, text in _BLOCK.findall(PAGE) if kind == "toml"]
COMMANDS = [
    line
    for kind, text in _BLOCK.findall(PAGE)
    if kind in ("sh", "console")
    for line in text.splitlines()
    if "throttlefs mount" in line
]


def rows() -> dict[str, list[str]]:
    """The cells of the table of profiles, by name; ``-p15`` stands for another of the family."""
    found = {}
    for line in PAGE.splitlines():
        cells = [cell.strip() for cell in line.strip("|").split("|")]
        names = re.findall(r"`([\w-]+)`", cells[0])
        if len(cells) == 6 and names:
            family = names[0].rpartition("-")[0]
            for name in names:
                found[family + name if name.startswith("-") else name] = cells[1:]
    return found


def test_the_table_has_every_profile() -> None:
    assert set(rows()) == set(shipped().names)


@pytest.mark.parametrize("name", shipped().names)
def test_the_table_has_the_latencies_of_the_profile(name: str) -> None:
    _, device = split_settings(shipped().settings(name))
    texts = device.as_text()
    _, reads, writes, flushes, _ = rows()[name]
    if device.has_head:
        assert reads == f"`{texts['seek']}` to seek, and half a turn"
        assert writes == "the same"
    else:
        assert reads.strip("`") == texts.get("latency_rd", "")
        assert writes.strip("`") == texts.get("latency_wr", "")
    assert flushes.strip("`") == texts.get("latency_flush", "")


def test_the_table_has_every_kind_of_source() -> None:
    for kind in SOURCE_KINDS:
        assert f"\n| `{kind}` | " in PAGE


@pytest.mark.parametrize("text", FILES)
def test_the_files_can_be_read(text: str) -> None:
    assert parse_config(text, "limits.toml") != NO_CONFIG


@pytest.mark.parametrize("line", COMMANDS)
def test_the_options_can_be_read(line: str) -> None:
    config = parse_config(FILES[-1], "cellar.toml")
    (options,) = re.findall(r"-o (\S+)", line)
    policy = make_policy(parse_options([options]), config)
    assert policy.default.device.is_slow or policy.groups
