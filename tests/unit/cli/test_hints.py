"""Limits in the wrong place on the command line: each line says where they belong."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.unit.cli.conftest import Mistake

INTO_O = "limits and mount options go into -o: "


@pytest.mark.parametrize(
    ("words", "line"),
    [
        (["--bps=1M"], f"no such option: --bps; {INTO_O}-o bps=1M"),
        (["--bps", "1M"], f"no such option: --bps; {INTO_O}-o bps=1M"),
        (["--iops-total-max=5"], f"no such option: --iops-total-max; {INTO_O}-o iops-total-max=5"),
        (["--cache=none", "-f"], f"no such option: --cache; {INTO_O}-o cache=none"),
        (["--allow-other"], f"no such option: --allow-other; {INTO_O}-o allow_other"),
        (["--ro", "-f"], f"no such option: --ro; {INTO_O}-o ro"),
        (["--rate=1M"], f"no such option: --rate; {INTO_O}-o bps=1M"),
        (["bps=1M"], f"bps=1M is no path: {INTO_O}-o bps=1M"),
        (["bps=1M", "iops=5"], f"bps=1M is no path: {INTO_O}-o bps=1M,iops=5"),
        (["-o", "bps=1M,", "iops=5"], f"iops=5 is no path: {INTO_O}-o iops=5"),
        (["ro"], f"ro is no path: {INTO_O}-o ro"),
        (["more"], "SRC and DST are given, and more is one word too many"),
    ],
)
def test_options_of_a_mount_go_into_o(
    mistake: Mistake, tmp_path: Path, words: list[str], line: str
) -> None:
    assert mistake("mount", tmp_path, tmp_path, *words).startswith(line)


def test_an_option_in_the_place_of_dst(mistake: Mistake, tmp_path: Path) -> None:
    assert mistake("mount", tmp_path, "bps=1M") == f"bps=1M is no path: {INTO_O}-o bps=1M"
    assert mistake("mount", tmp_path, "bps=1M", tmp_path).startswith("bps=1M is no path")


def test_what_is_there_is_a_path_whatever_its_name(
    mistake: Mistake, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "src").mkdir()
    (tmp_path / "bps=1M").touch()
    monkeypatch.chdir(tmp_path)
    line = mistake("mount", "src", "bps=1M", status=1)
    assert line.startswith("SRC src is a directory and DST bps=1M is not a directory")


def test_an_option_that_nobody_knows_is_clicks_to_refuse(mistake: Mistake, tmp_path: Path) -> None:
    for words in (["--nope"], ["-b", "1M"]):
        assert mistake("mount", tmp_path, tmp_path, *words).startswith("No such option")
    assert mistake("set", tmp_path, "--nope=3").startswith("No such option")


def test_set_takes_limits_without_dashes(mistake: Mistake) -> None:
    assert mistake("set", "mnt", "--bps=2M") == (
        "no such option: --bps; limits are written without dashes: bps=2M"
    )


@pytest.mark.parametrize(
    ("words", "line"),
    [
        (["bps=fast"], "bps: 'fast' is not a number"),
        (["bsp=1M"], "unknown limit 'bsp'; did you mean 'bps'?"),
        (["rate=1M"], "unknown limit 'rate'; did you mean 'bps'?"),
        (["weight=0"], "weight: '0' is not a whole number from 1 to 10000"),
        (["bps=1", "bps-total=2"], "bps-total is given twice"),
        (["fast"], "'fast' is neither NAME=VALUE"),
        (["cache=none"], "cache cannot change in flight: it is an option of throttlefs mount"),
        (["ro=1"], "ro cannot change in flight"),
        (["parent=db"], "parent is for groups: give it with throttlefs set --group NAME"),
        (["--group", "db", "group=x"], "a group is in no group: its parent is the group around"),
        (["--group", "db", "engine=uring"], "engine cannot change in flight"),
        (["--create", "bps=1"], "--create makes a group: name it with --group NAME"),
        (["--all", "--group", "db", "bps=1"], "--all and --group: give one of them"),
    ],
)
def test_what_set_cannot_be_told_is_a_wrong_command_line(
    mistake: Mistake, words: list[str], line: str
) -> None:
    """Found without asking a daemon: mnt is no mount."""
    assert mistake("set", "mnt", *words).startswith(line)


@pytest.mark.parametrize(
    ("address", "line"),
    [
        ("/tmp/x.sock", "--qmp: '/tmp/x.sock' is not unix:PATH, e.g. unix:/tmp/images.sock"),
        ("unix:", "--qmp: 'unix:' has no path"),
        ("unix:x,server=on,wait=on", "--qmp: 'wait=on' cannot be: a mount never waits"),
        ("unix:x,reconnect=3", "--qmp: 'reconnect=3' is unknown: only server=on and wait=off"),
    ],
)
def test_addresses_of_qmp(mistake: Mistake, tmp_path: Path, address: str, line: str) -> None:
    assert mistake("mount", tmp_path, tmp_path, "--qmp", address).startswith(line)
