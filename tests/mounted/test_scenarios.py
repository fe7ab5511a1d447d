"""Scenarios on a mount: followed by a command, ended at any time, and all is as it was."""

from __future__ import annotations

import json
import signal
import subprocess
from pathlib import Path
from typing import Any

import pytest

from tests.faults import rules_of
from tests.support import THROTTLEFS, Mounted, MountFactory, fails, run_throttlefs, wait_for

ENDLESS = """
[[change]]
path = "*.img"
bps = "100K"

[[change]]
iops = 7
lasting = "1h"

[[fault]]
op = "create"
error = "ENOSPC"
"""


def status(mounted: Mounted) -> Any:
    shown = json.loads(run_throttlefs("show", "--json", mounted.path).stdout)
    return shown["default"], [(one["device"], one["limits"]) for one in shown["images"]]


def start(scenario: Path, mounted: Mounted) -> subprocess.Popen[str]:
    """Start a scenario and wait until its three parts have begun."""
    process = subprocess.Popen(
        [*THROTTLEFS, "scenario", "run", scenario, mounted.path], stdout=subprocess.PIPE, text=True
    )
    assert process.stdout is not None
    lines = [process.stdout.readline() for _ in range(3)]
    assert all("begins" in line for line in lines), lines
    return process


@pytest.fixture
def scenario(tmp_path: Path) -> Path:
    file = tmp_path / "scenario.toml"
    file.write_text(ENDLESS)
    return file


@pytest.fixture
def mounted(make_mount: MountFactory) -> Mounted:
    mounted = make_mount("iops=500")
    (mounted.source / "a.img").write_bytes(b"data")
    return mounted


def test_a_brown_out_is_followed_to_its_end(mounted: Mounted, tmp_path: Path) -> None:
    file = tmp_path / "brown-out.toml"
    file.write_text(
        '[[change]]\nbps = "100K"\nat = "200ms"\nlasting = "300ms"\n'
        '[[fault]]\nop = "create"\nerror = "EIO"\nlasting = "100ms"\n'
    )
    before = status(mounted)
    done = run_throttlefs("scenario", "run", file, mounted.path)
    assert (done.returncode, done.stderr) == (0, "")
    *lines, over, count = done.stdout.splitlines()
    assert [line.split(maxsplit=2)[2] for line in lines] == [
        "begins  op=create error=EIO lasting=100ms",
        "ends    op=create error=EIO lasting=100ms",
        "begins  bps=100K",
        "ends    bps=100K",
    ][: len(lines)]
    assert len(lines) >= 3  # the last end may be told as the end of all
    assert over.endswith(" s  over; all is as it was before")
    assert count == "fired for 0 of 0 requests: op=create error=EIO lasting=100ms"
    assert status(mounted) == before


def test_a_signal_ends_it_and_restores_what_was(mounted: Mounted, scenario: Path) -> None:
    with open(mounted.path / "a.img", "rb"):
        before = status(mounted)
        for number, code in ((signal.SIGINT, 130), (signal.SIGTERM, 143)):
            process = start(scenario, mounted)
            default, images = status(mounted)
            assert default["limits"] == {"iops": 7}
            assert images == [("a.img", {"bps": 100 << 10, "iops": 7})]
            with pytest.raises(OSError):
                (mounted.path / "new").touch()
            process.send_signal(number)
            out, _ = process.communicate(timeout=30)
            assert process.returncode == code
            assert out.splitlines()[0].endswith("over; all is as it was before")
            assert "of 1 requests: op=create error=ENOSPC" in out
            assert status(mounted) == before


def test_it_ends_with_the_command_however_that_ends(mounted: Mounted, scenario: Path) -> None:
    before = status(mounted)
    process = start(scenario, mounted)
    assert "a scenario runs already" in fails("scenario", "run", scenario, mounted.path)
    process.kill()
    process.communicate(timeout=30)
    wait_for(lambda: status(mounted) == before)
    with rules_of(mounted.path) as rules:
        wait_for(lambda: not rules.all())
    (mounted.path / "new").touch()


def test_a_scenario_ends_with_the_mount(mounted: Mounted, scenario: Path) -> None:
    process = start(scenario, mounted)
    mounted.umount()
    process.communicate(timeout=30)
    assert process.returncode == 1


def test_a_mistake_gets_one_line(mounted: Mounted, scenario: Path, tmp_path: Path) -> None:
    run = ("scenario", "run")
    assert "nix: cannot be read: No such file" in fails(*run, tmp_path / "nix", mounted.path)
    inside = fails(*run, scenario, mounted.path / "a.img", status=2)
    assert "a scenario is for a whole mount, and" in inside
    assert "--for: '5' has no unit" in fails(*run, "--for=5", scenario, mounted.path, status=2)
    file = tmp_path / "wrong.toml"
    for text, message, code in (
        ("[[change]]\nbsp = 5\n", "[[change]] number 1: unknown limit 'bsp'; did you", 2),
        ("[[change]]\nbps = 5\ngroup = 'x'\n", "number 1: there is no group 'x'", 1),
        ("[[fault]]\nerror = 'ENOSYS'\n", "[[fault]] number 1: error: ENOSYS cannot be used", 2),
        ("[[change]]\niops_max = 5\n", "iops_max=5 is below iops=500", 1),
        ("", "nothing happens in it", 2),
    ):
        file.write_text(text)
        assert message in fails(*run, file, mounted.path, status=code)


def test_a_config_file_may_have_changes(make_mount: MountFactory, tmp_path: Path) -> None:
    config = tmp_path / "limits.toml"
    config.write_text('[[change]]\niops = 7\nlasting = "1h"\n')
    mounted = make_mount("iops=500", "--config", str(config))
    wait_for(lambda: status(mounted)[0]["limits"] == {"iops": 7})
    assert "begins: iops=7" in mounted.log
    config.write_text('[[change]]\nbsp = 7\nlasting = "1h"\n')
    other = tmp_path / "other"
    other.mkdir()
    assert "unknown limit 'bsp'" in fails("mount", mounted.source, other, "--config", config)
