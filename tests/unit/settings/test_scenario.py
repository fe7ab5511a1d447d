"""Scenarios as they are written, and what is refused."""

from __future__ import annotations

import pytest

from throttlefs.settings.config import parse_config
from throttlefs.settings.config_table import ConfigError
from throttlefs.settings.scenario import ScenarioError, parse_scenario

SECOND = 10**9


def test_a_scenario_has_changes_and_faults() -> None:
    scenario = parse_scenario(
        """
        [[change]]
        path = "db/*.img"
        bps = "100K"
        at = "10s"
        lasting = "5s"

        [[change]]
        group = "vms"
        iops = 50
        lasting = "2s"

        [[fault]]
        error = "EIO"
        at = "1s"
        lasting = "1s"
        """
    )
    assert [str(change) for change in scenario.changes] == [
        "bps=100K of db/*.img",
        "iops=50 of group vms",
    ]
    assert len(scenario.faults) == 1
    assert scenario.length == 15 * SECOND


@pytest.mark.parametrize(
    "text",
    [
        '[[fault]]\nerror = "EIO"\n',
        '[[change]]\nbps = 5\nat = "1s"\n',
        '[[change]]\nbps = 5\nlasting = "1s"\nrepeat = "2s"\n',
    ],
)
def test_a_scenario_may_have_no_end(text: str) -> None:
    assert parse_scenario(text).length is None


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "nothing happens in it: add a table [[fault]] or [[change]]"),
        ("x = ", "is not valid TOML: "),
        ("[[image]]\nbps = 5\n", "unknown table 'image'"),
        ("[change]\nbps = 5\n", "change is not an array of tables: write [[change]]"),
        ("[[change]]\nat = '1s'\n", "[[change]] number 1: it changes nothing: add a limit"),
        ("[[change]]\nbps = 5\nat = 1\n", "[[change]] number 1: at: '1' has no unit"),
        ("[[change]]\nbps = 5\npath = ''\n", "[[change]] number 1: path: the pattern is empty"),
        ("[[change]]\nbps = 5\ngroup = ''\n", "[[change]] number 1: group: '' is not the name"),
        ("[[change]]\nbps = 5\ngroup = 'a'\npath = 'b'\n", "[[change]] number 1: path and group:"),
        ("[[fault]]\nnth = 1\n", "[[fault]] number 1: the rule does nothing"),
    ],
)
def test_what_cannot_be_is_refused(text: str, message: str) -> None:
    with pytest.raises(ScenarioError) as caught:
        parse_scenario(text)
    assert str(caught.value).startswith(message)
    assert "\n" not in str(caught.value)


def test_a_config_file_may_have_changes() -> None:
    config = parse_config('[[change]]\nbps = "1M"\nat = "1s"\n', "limits.toml")
    assert [str(change) for change in config.changes] == ["bps=1M"]
    with pytest.raises(ConfigError) as caught:
        parse_config("[[change]]\nat = '1s'\n", "limits.toml")
    assert str(caught.value).startswith("limits.toml: [[change]] number 1: it changes nothing")
