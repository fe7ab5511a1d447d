"""show, set, stats, list and top at a shell, on real mounts."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.mounted.test_control import image, load
from tests.pace import goes_at
from tests.qmp import RawClient, socket_of
from tests.support import THROTTLEFS, Mounted, MountFactory, run_throttlefs, wait_for
from tests.terminal import Terminal
from throttlefs.settings.config import parse_config

MIB = 1 << 20


def shown(*args: object) -> str:
    result = run_throttlefs(*args)
    assert result.returncode == 0, result.stderr
    assert result.stderr == ""
    return result.stdout


def fails(*args: object, status: int = 1) -> str:
    result = run_throttlefs(*args)
    assert result.returncode == status, result.stderr
    assert result.stdout == ""
    (line,) = result.stderr.splitlines()
    return line.removeprefix("throttlefs: ")


@pytest.fixture
def mount(make_mount: MountFactory) -> Mounted:
    mounted = make_mount("bps=4M")
    image(mounted)
    image(mounted, "other.img")
    return mounted


def test_set_says_what_it_changed_and_show_has_it(mount: Mounted) -> None:
    disk = mount.path / "disk.img"
    assert shown("set", disk, "bps=2M", "iops_wr=500") == (
        "disk.img: bps 4M -> 2M\ndisk.img: iops_wr off -> 500\n"
    )
    assert shown("set", disk, "bps=2M") == "nothing has changed\n"
    assert shown("set", disk, "bps=0") == "disk.img: bps 2M -> off\n"
    assert shown("set", mount.path, "bps=6M") == f"{mount.path}: bps 4M -> 6M\n"
    assert shown("set", disk, "group=db", "bps=9M", "weight=200") == (
        "group db: bps off -> 9M\ndisk.img: iops_wr 500 -> off\n"
        "disk.img: weight 100 -> 200\ndisk.img: group none -> db\n"
    )
    assert shown("set", "--group", "db", mount.path, "iops=90") == "group db: iops off -> 90\n"
    assert shown("set", "--group", "host", "--create", mount.path, "iops=5000") == (
        "group host: iops off -> 5000\n"
    )
    table = [line.split() for line in shown("show", mount.path).splitlines()]
    assert table[0] == [str(mount.source), "on", str(mount.path)]
    assert ["(default)", "bps=6M", "-", "100"] in table
    assert ["(group", "db)", "bps=9M,iops=90", "-", "100", "1", "member"] in table
    assert ["disk.img", "-", "db", "200", "0", "0", "0", "B", "0", "B"] in table
    one = json.loads(shown("show", "--json", disk))
    assert (one["group"], one["weight"], one["limits"]) == ("db", 200, {})
    assert shown("set", disk, "off").endswith("disk.img: group db -> none\n")


def test_nothing_of_an_invalid_command_is_applied(mount: Mounted) -> None:
    def all_said() -> dict[str, object]:
        status = json.loads(shown("show", "--json", mount.path))
        del status["counts"]  # which change by themselves
        return status

    before = all_said()
    disk = mount.path / "disk.img"
    line = fails("set", disk, "bps=1M", "bsp=2M", status=2)
    assert line == "unknown limit 'bsp'; did you mean 'bps'?"
    assert fails("set", disk, "iops=5", "bps_max=1M").startswith("bps_max=1M is below bps=4M")
    assert fails("set", disk, "bps=fast", status=2).startswith("bps: 'fast' is not a number")
    assert fails("set", "--group", "db", mount.path, "bps=1M").startswith(
        "there is no group 'db', nor any other. To make one: throttlefs set --group NAME --create"
    )
    assert fails("set", disk, "group=db").startswith("there is no group 'db'")
    assert "neither NAME=VALUE" in fails("set", disk, "fast", status=2)
    assert "needs a mount point" in fails("set", "--all", disk, "off", status=2)
    assert "give one of them" in fails("show", "--json", "--toml", mount.path, status=2)
    assert fails("set", mount.path / "nope.img", "bps=1").endswith(
        "nope.img: there is no such file in the mount"
    )
    assert all_said() == before


def test_what_is_no_mount_is_one_line(tmp_path: Path) -> None:
    for command in (["show"], ["set", "bps=1"], ["stats"], ["top"]):
        line = fails(command[0], tmp_path, *command[1:])
        assert line == (
            f"{tmp_path} does not lie on a throttlefs mount; see yours with: throttlefs list"
        )


def test_a_socket_that_is_gone_is_one_line(mount: Mounted) -> None:
    path = socket_of(mount.entry)
    os.rename(path, path + ".away")
    try:
        assert "the control socket of" in fails("show", mount.path)
        with socket.socket(socket.AF_UNIX) as dead:
            dead.bind(path)
        assert "is gone; clear the mount" in fails("show", mount.path)
        os.unlink(path)
    finally:
        os.rename(path + ".away", path)
    assert "disk.img" not in shown("show", mount.path)


def test_a_dead_daemon_is_one_line(mount: Mounted) -> None:
    os.kill(mount.pid, signal.SIGKILL)
    wait_for(lambda: not os.path.exists(f"/proc/{mount.pid}/fd"))
    assert f"throttlefs umount {mount.path}" in fails("show", mount.path / "disk.img")


def test_a_dead_mount_does_not_hide_the_others_from_top(
    mount: Mounted, make_mount: MountFactory, tmp_path: Path
) -> None:
    os.kill(mount.pid, signal.SIGKILL)
    wait_for(lambda: not os.path.exists(f"/proc/{mount.pid}/fd"))
    other = make_mount(target=tmp_path / "other")
    with open(other.path / "disk.img", "rb"):
        result = run_throttlefs("top", "--count", "1", "--interval", "0.1")
    assert result.returncode == 0
    assert f"throttlefs umount {mount.path}" in result.stderr
    assert f"{other.path}/disk.img" in result.stdout


@pytest.mark.skipif(os.geteuid() != 0, reason="takes another user's part, as root alone can")
def test_another_users_mount_is_refused(mount: Mounted) -> None:
    # All of it is imported while still root: the checkout may be closed to others.
    script = (
        "import importlib, os, pkgutil, sys, throttlefs\n"
        "for module in pkgutil.walk_packages(throttlefs.__path__, 'throttlefs.'):\n"
        "    module.name.endswith('__main__') or importlib.import_module(module.name)\n"
        "os.setgid(65534); os.setuid(65534); os.environ.pop('XDG_RUNTIME_DIR', 0)\n"
        "from throttlefs.cli.main import main; sys.argv[0] = 'throttlefs'; main()"
    )
    for command in ("show", "set", "stats"):
        more = ["bps=1"] if command == "set" else []
        result = subprocess.run(
            [sys.executable, "-c", script, command, mount.path / "disk.img", *more],
            capture_output=True,
            text=True,
            check=False,
        )
        assert result.returncode == 1
        assert result.stderr == (
            f"throttlefs: {mount.path} is another user's mount; only that user and root may"
            " control it\n"
        )


def test_what_is_in_force_can_be_mounted_again(make_mount: MountFactory, tmp_path: Path) -> None:
    mounted = make_mount("bps=4M")
    image(mounted)
    shown("set", mounted.path / "disk.img", "group=db", "bps=9M")
    shown("set", mounted.path, "iops=77")
    text = shown("show", "--toml", mounted.path)
    parse_config(text, "saved.toml")
    before = json.loads(shown("show", "--json", mounted.path / "disk.img"))
    mounted.umount()
    (tmp_path / "saved.toml").write_text(text)
    again = make_mount("", "--config", str(tmp_path / "saved.toml"))
    after = json.loads(shown("show", "--json", again.path / "disk.img"))
    for key in ("limits", "group", "weight"):
        assert after[key] == before[key]
    assert json.loads(shown("show", "--json", again.path))["default"]["limits"] == {
        "bps": 4 * MIB,
        "iops": 77,
    }


def test_reload_restores_what_was_mounted(mount: Mounted) -> None:
    shown("set", mount.path / "disk.img", "bps=1")
    shown("set", mount.path, "bps=2")
    with RawClient(socket_of(mount.entry)) as client:
        assert client.run("x-throttlefs-reload") == {"return": {}}
    for path in (mount.path / "disk.img", mount.path / "other.img"):
        assert json.loads(shown("show", "--json", path))["limits"] == {"bps": 4 * MIB}


def test_stats_cannot_count_intervals_without_a_length(mount: Mounted) -> None:
    result = run_throttlefs("stats", "--count", "2", mount.path)
    assert result.returncode == 2
    assert result.stderr.startswith("throttlefs: --count counts intervals: give their ")


def test_stats_count_what_was_done(mount: Mounted) -> None:
    disk = mount.path / "disk.img"
    with disk.open("r+b", buffering=0) as file:
        for _ in range(4):
            file.write(bytes(MIB // 2))
        os.fsync(file.fileno())
        file.seek(0)
        file.read(4096)
    (one,) = [json.loads(line) for line in shown("stats", "--json", mount.path).splitlines()]
    assert (one["write"]["requests"], one["write"]["bytes"]) == (4, 2 * MIB)
    assert (one["read"]["requests"], one["read"]["bytes"]) == (1, 4096)
    assert one["write"]["delayed"] == 3
    assert one["write"]["wait_quantiles_ns"]["p99"] > 1e6
    assert sum(one["write"]["service_histogram_ns"].values()) == 4
    lines = shown("stats", disk).splitlines()
    assert lines[1].split()[:3] == ["disk.img", "read", "1"]
    assert lines[2].split()[:2] == ["write", "4"]


def test_stats_of_intervals(mount: Mounted) -> None:
    path = mount.path / "disk.img"

    def lowest() -> float:
        output = shown("stats", "--json", "--interval", 0.5, "--count", 2, path)
        every = [json.loads(line) for line in output.splitlines()]
        through = [(one["read"]["bytes"] + one["write"]["bytes"]) / one["seconds"] for one in every]
        assert len(through) == 2
        assert max(through) < 4 * MIB * 1.3
        return min(through)

    with load(path):
        goes_at(4 * MIB, lowest, rel=0.3)


def test_list_has_the_mounts(mount: Mounted) -> None:
    assert f"{mount.source} on {mount.path}" in shown("list").splitlines()
    mount.umount()
    assert f"{mount.source} on {mount.path}" not in shown("list").splitlines()


def test_list_marks_a_dead_mount(mount: Mounted, make_mount: MountFactory, tmp_path: Path) -> None:
    other = make_mount(target=tmp_path / "other")
    os.kill(mount.pid, signal.SIGKILL)
    wait_for(lambda: not os.path.exists(f"/proc/{mount.pid}/fd"))
    lines = shown("list").splitlines()
    assert f"{mount.source} on {mount.path} (dead: clear it away with throttlefs umount)" in lines
    assert f"{other.source} on {other.path}" in lines
    dead = {one["target"]: one["dead"] for one in json.loads(shown("list", "--json"))}
    assert (dead[str(mount.path)], dead[str(other.path)]) == (True, False)


def test_a_path_with_any_name(make_mount: MountFactory, tmp_path: Path) -> None:
    mounted = make_mount("bps=4M", target=tmp_path / "m \\ü\n")
    for name in (b"\xff\xfe", b"a b%41\n", "ü".encode()):
        path = os.path.join(os.fsencode(mounted.path), name)
        with open(path, "wb"):
            pass
        result = subprocess.run(
            [*THROTTLEFS, "set", path, "bps=5M"], capture_output=True, check=False
        )
        assert result.returncode == 0, result.stderr
        assert os.getxattr(path, "user.throttlefs.bps") == b"5M"


def test_symlinks_in_the_mount_lead_to_the_image(mount: Mounted) -> None:
    (mount.source / "link.img").symlink_to("disk.img")
    assert shown("set", mount.path / "link.img", "bps=1M") == "disk.img: bps 4M -> 1M\n"


# -- top -------------------------------------------------------------------------------------


@pytest.fixture
def busy(make_mount: MountFactory) -> Iterator[Mounted]:
    mounted = make_mount("bps=4M")
    path = image(mounted)
    image(mounted, "a-idle.img")
    with (mounted.path / "a-idle.img").open("rb"), load(path):
        yield mounted


def test_top_shows_sorts_pauses_and_quits(busy: Mounted) -> None:
    terminal = Terminal("top", "--interval", 0.3, busy.path)
    terminal.wait_for("bps=4M")
    terminal.wait_for("MiB/s")

    def rate() -> float:
        return float(terminal.text().splitlines()[2].split()[1])

    wait_for(lambda: "████" in terminal.text() and 2.0 < rate() < 6.0)
    lines = terminal.text().splitlines()
    assert lines[0].startswith(f"throttlefs top  {busy.path}"[:90])
    assert [line.split()[0] for line in lines[2:4]] == ["disk.img", "a-idle.img"]
    assert "ms" in lines[2].split()
    terminal.press("n")
    terminal.wait_for("sorted by name")
    assert [line.split()[0] for line in terminal.text().splitlines()[2:4]] == [
        "a-idle.img",
        "disk.img",
    ]
    terminal.press(" ")
    terminal.wait_for("paused")
    frozen = terminal.text()
    time.sleep(1)
    assert terminal.text() == frozen
    terminal.press(" ")
    wait_for(lambda: terminal.text() != frozen)
    terminal.press("q")
    assert terminal.end() == 0


def test_top_ends_with_a_clear_line_when_the_mount_does(mount: Mounted) -> None:
    terminal = Terminal("top", "--interval", 0.2, mount.path)
    terminal.wait_for("sorted by rate")
    mount.umount()
    assert terminal.end() == 1
    assert "the mount has just ended" in terminal.text().replace("\n", "")


def test_top_without_a_terminal_is_plain_text(busy: Mounted) -> None:
    output = shown("top", "--interval", 0.5, "--count", 2, busy.path)
    lines = [line for line in output.splitlines() if line.startswith(f"{busy.path}/disk.img: ")]
    assert len(lines) == 2
    assert "of bps=4M, " in lines[1]
    assert "\x1b" not in output
