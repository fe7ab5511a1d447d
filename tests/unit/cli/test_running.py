"""What `run` and `mount` make of their words, without a mount."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.unit.cli.conftest import Mistake
from throttlefs.cli.mounting import held_text
from throttlefs.cli.running import with_place
from throttlefs.settings.options import parse_options


@pytest.mark.parametrize(
    ("word", "becomes"),
    [
        ("{}", "/m"),
        ("{}/", "/m/"),
        ("{}/a {}/b", "/m/a {}/b"),
        ("{}x", "{}x"),
        ("x{}", "x{}"),
        (" {}", " {}"),
        ("{}{}", "{}{}"),
        ("", ""),
        ("--", "--"),
    ],
)
def test_a_place_for_braces(word: str, becomes: str) -> None:
    assert with_place(["{}/tool", word], "/m") == ["/m/tool", becomes]


def test_run_needs_a_command(mistake: Mistake, tmp_path: Path) -> None:
    assert mistake("run", tmp_path, status=125).startswith("the command is missing: it follows --")
    assert mistake("run", tmp_path, "--", status=125) == "the command is missing after --"
    assert "No such option" in mistake("run", tmp_path, "ls", "-l", status=125)


@pytest.mark.parametrize(
    ("options", "held"),
    [
        ("", ""),
        ("ro,noatime,cache=none,engine=threads,fsname=x,nonempty,attr_timeout=0", ""),
        ("no_mmap,auto_cache,nonempty,allow_other", ""),
        ("iops_total=5,bps=1024K", "bps=1M,iops=5"),
        ("latency=5ms,cache=none,queue_depth=2", "latency=5ms,queue_depth=2"),
        ("group=a\\,b,weight=7,bps=1M", "bps=1M,group=a\\,b,weight=7"),
        ("bps=0,config=/etc/x.toml", "bps=0,config=/etc/x.toml"),
    ],
)
def test_what_a_mount_is_held_to(options: str, held: str) -> None:
    assert held_text(parse_options([options])) == held


def test_umount_needs_a_mount(mistake: Mistake) -> None:
    assert "name a mount, or give --all" in mistake("umount")
    assert mistake("umount", "--all", "mnt") == "--all and mnt: give one of them"
