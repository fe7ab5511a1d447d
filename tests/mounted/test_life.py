"""A mount's beginning and end, as a user at a shell meets them."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import time
from pathlib import Path

import pytest

from tests.support import (
    THROTTLEFS,
    Mounted,
    MountFactory,
    clear_away,
    fails,
    run_throttlefs,
    wait_for,
)
from throttlefs.host import runtime
from throttlefs.host.mountinfo import mounted_at

MIB = 1 << 20


@pytest.fixture
def directories(tmp_path: Path) -> tuple[Path, Path]:
    source, target = tmp_path / "src", tmp_path / "mnt"
    source.mkdir()
    target.mkdir()
    return source, target


def test_mount_shows_source_and_type(mounted: Mounted) -> None:
    line = next(
        line
        for line in subprocess.run(
            ["mount", "-t", "fuse.throttlefs"], capture_output=True, text=True, check=True
        ).stdout.splitlines()
        if f" on {mounted.path} " in line
    )
    assert line.startswith(f"{mounted.source} on {mounted.path} type fuse.throttlefs (")
    assert "default_permissions" in line
    assert "nosuid" in line
    assert "nodev" in line


@pytest.mark.parametrize("name", ["with space", "comma,and\\backslash", "übel", "tab\there"])
def test_any_name_of_src_can_be_mounted(
    make_mount: MountFactory, tmp_path: Path, name: str
) -> None:
    source = tmp_path / name
    source.mkdir()
    (source / "f").write_text("x")
    mounted = make_mount(source=source)
    assert (mounted.path / "f").read_text() == "x"
    shown = os.fsdecode(mounted.entry.source)
    assert shown == re.sub(
        "[^ -~]", lambda m: "".join(f"%{b:02X}" for b in m[0].encode()), str(source)
    )


def test_mount_options_reach_the_kernel(make_mount: MountFactory) -> None:
    mounted = make_mount("ro,noatime,fsname=my images")
    assert os.fsdecode(mounted.entry.source) == "my images"
    assert {"ro", "noatime", "nodev", "nosuid"} <= set(mounted.entry.options.split(","))
    with pytest.raises(OSError, match="Read-only"):
        (mounted.path / "f").touch()


def test_umount_ends_daemon_and_mount(mounted: Mounted) -> None:
    (mounted.path / "f").write_text("x")
    mounted.umount()
    assert (mounted.source / "f").read_text() == "x"
    assert "unmounted" in mounted.log
    assert not list(Path("/run/throttlefs").glob(f"*{mounted.entry.minor}.json"))


@pytest.mark.parametrize("command", [["umount"], ["fusermount3", "-u"]])
def test_the_systems_own_commands_end_an_idle_mount(mounted: Mounted, command: list[str]) -> None:
    subprocess.run([*command, mounted.path], check=True)
    mounted.wait_until_ended()


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_signals_end_an_idle_mount(mounted: Mounted, number: signal.Signals) -> None:
    os.kill(mounted.pid, number)
    mounted.wait_until_ended()


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_the_foreground_ends_with_status_0(
    directories: tuple[Path, Path], number: signal.Signals
) -> None:
    """Even if the signal comes the moment that the mount shows."""
    source, target = directories
    with subprocess.Popen(
        [*THROTTLEFS, "mount", source, target, "-f"], stderr=subprocess.PIPE, text=True
    ) as process:
        try:
            wait_for(lambda: mounted_at(os.fsencode(target)) is not None)
            process.send_signal(number)
            _, log = process.communicate(timeout=20)
        finally:
            clear_away(target)
    assert process.returncode == 0
    assert "INFO: mounted" in log
    assert "INFO: unmounted" in log
    assert mounted_at(os.fsencode(target)) is None


def start_writer(mounted: Mounted, name: str, mebibytes: int) -> subprocess.Popen[bytes]:
    """Write random data with 32 writes under way at once, and say nothing until all is done."""
    return subprocess.Popen(
        [
            "fio",
            "--name=w",
            f"--filename={mounted.path}/{name}",
            "--rw=write",
            "--bs=256k",
            f"--size={mebibytes}M",
            "--ioengine=libaio",
            "--iodepth=32",
            "--direct=1",
            "--verify=crc32c",
            "--do_verify=0",
            "--end_fsync=0",
        ],
        stdout=subprocess.DEVNULL,
        cwd=mounted.path.parent,
    )


def verify_written(path: Path, mebibytes: int) -> None:
    subprocess.run(
        [
            "fio",
            "--name=w",
            f"--filename={path}",
            "--rw=write",
            "--bs=256k",
            f"--size={mebibytes}M",
            "--verify=crc32c",
            "--verify_only",
            "--verify_fatal=1",
        ],
        check=True,
        capture_output=True,
        cwd=path.parent,
    )


@pytest.mark.parametrize("how", ["umount", "SIGTERM", "SIGINT"])
def test_waiting_writes_go_through_at_the_end(make_mount: MountFactory, how: str) -> None:
    """64 MiB at 1 MiB/s would take a minute; unmounting lets all of it through, none is lost."""
    mounted = make_mount("bps=1M")
    writer = start_writer(mounted, "f", 64)
    wait_for(lambda: (mounted.source / "f").exists())
    time.sleep(0.5)
    began = time.monotonic()
    if how == "umount":
        mounted.umount()
    else:
        os.kill(mounted.pid, getattr(signal, how))
        mounted.wait_until_ended()
    assert time.monotonic() - began < 30
    assert writer.wait(10) == 0, "the writer saw an error"
    verify_written(mounted.source / "f", 64)


def test_a_busy_mount_stays_and_names_who_keeps_it(make_mount: MountFactory) -> None:
    mounted = make_mount()
    with open(mounted.path / "f", "wb", buffering=0) as file:
        from throttlefs.host.unmounting import BusyError, umount_command

        with pytest.raises(BusyError) as info:
            umount_command(str(mounted.path), lazy=False, grace_s=0.3)
        message = str(info.value)
        assert f"[{os.getpid()}] (open file)" in message
        assert f"throttlefs umount --lazy {mounted.path}" in message
        file.write(b"still served")
    with subprocess.Popen(["sleep", "60"], cwd=mounted.path) as sleeper:
        with pytest.raises(BusyError, match=rf"sleep\[{sleeper.pid}\] \(working directory\)"):
            umount_command(str(mounted.path), lazy=False, grace_s=0.3)
        sleeper.kill()
    mounted.umount()


def test_after_a_failed_umount_the_limits_hold_again(make_mount: MountFactory) -> None:
    mounted = make_mount("bps=1M")
    from throttlefs.host.unmounting import BusyError, umount_command

    with open(mounted.path / "f", "wb", buffering=0) as file:
        with pytest.raises(BusyError):
            umount_command(str(mounted.path), lazy=False, grace_s=0.3)

        def takes_its_time() -> bool:
            began = time.monotonic()
            for _ in range(4):
                file.write(bytes(256 * 1024))
            return time.monotonic() - began > 0.5  # 3 of the 4 pay 0.25 s each

        wait_for(takes_its_time)


def test_umount_lazy_serves_what_is_open(make_mount: MountFactory) -> None:
    mounted = make_mount()
    with open(mounted.path / "f", "w+b", buffering=0) as file:
        result = run_throttlefs("umount", "--lazy", mounted.path)
        assert result.returncode == 0, result.stderr
        assert not mounted.is_mounted()
        file.write(b"late")
        assert os.pread(file.fileno(), 4, 0) == b"late"
        assert runtime.process_start_time(mounted.pid) is not None
    mounted.wait_until_ended()
    assert (mounted.source / "f").read_bytes() == b"late"


def test_sigterm_of_a_busy_mount_detaches_and_serves_to_the_end(make_mount: MountFactory) -> None:
    mounted = make_mount("bps=1M")
    with open(mounted.path / "f", "wb", buffering=0) as file:
        os.kill(mounted.pid, signal.SIGTERM)
        time.sleep(1)
        assert mounted.is_mounted(), "the grace is not over yet"
        wait_for(lambda: not mounted.is_mounted(), 15)

        def take_s() -> float:
            began = time.monotonic()
            for _ in range(4):
                file.write(bytes(256 * 1024))
            return time.monotonic() - began

        wait_for(lambda: take_s() > 0.5)  # under its limits 3 of the 4 pay 0.25 s each
        file.write(b"late")
    mounted.wait_until_ended()
    assert (mounted.source / "f").read_bytes().endswith(b"late")
    assert "stays in use by" in mounted.log


def test_a_second_signal_ends_it_at_once(make_mount: MountFactory) -> None:
    mounted = make_mount()
    fd = os.open(mounted.path / "f", os.O_WRONLY | os.O_CREAT)
    os.kill(mounted.pid, signal.SIGTERM)
    wait_for(lambda: "SIGTERM" in mounted.log)
    os.kill(mounted.pid, signal.SIGTERM)
    mounted.wait_until_ended()
    with pytest.raises(OSError, match=r"not connected|abort"):
        os.write(fd, b"x")
    os.close(fd)  # which asks nobody


def test_a_killed_daemon_is_cleared_by_umount(make_mount: MountFactory) -> None:
    mounted = make_mount()
    (mounted.path / "f").write_text("x")
    os.kill(mounted.pid, signal.SIGKILL)
    wait_for(lambda: runtime.process_start_time(mounted.pid) is None)
    line = fails("mount", mounted.source, mounted.path)
    assert "throttlefs umount" in line
    assert run_throttlefs("umount", mounted.path).returncode == 0
    assert not mounted.is_mounted()
    record = Path(runtime.runtime_directory()) / f"0-{mounted.entry.minor}.json"
    assert record.exists(), "it died without a word"
    again = make_mount()
    assert (again.path / "f").read_text() == "x"
    assert runtime.read_record(again.entry) is not None
    # Whoever mounts next may get the same number, here or beside this test.
    assert not record.exists() or json.loads(record.read_bytes())["pid"] != mounted.pid


def test_a_daemon_killed_while_starting_leaves_nothing(directories: tuple[Path, Path]) -> None:
    """SIGKILL at every stage of the start: the command fails, nothing stays mounted."""
    source, target = directories
    for delay in (0.05, 0.12, 0.16, 0.2, 0.24, 0.3):
        with subprocess.Popen(
            [*THROTTLEFS, "mount", source, target], stderr=subprocess.PIPE, text=True
        ) as process:
            time.sleep(delay)
            for child in children(process.pid):
                os.kill(child, signal.SIGKILL)
            _, message = process.communicate(timeout=20)
        if process.returncode:
            assert message.startswith("throttlefs: the daemon was killed"), message
            assert mounted_at(os.fsencode(target)) is None
        clear_away(target)


def children(pid: int) -> list[int]:
    try:
        return [int(c) for c in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]
    except FileNotFoundError:
        return []


def test_two_mounts_side_by_side(make_mount: MountFactory, tmp_path: Path) -> None:
    one = make_mount()
    two = make_mount(target=tmp_path / "mnt2")
    (one.path / "f").write_text("one")
    assert (two.path / "f").read_text() == "one"
    one.umount()
    assert (two.path / "f").read_text() == "one"


def test_the_command_holds_no_terminal_or_pipe(directories: tuple[Path, Path]) -> None:
    """`throttlefs mount ... | cat` must come back: the daemon lets go of stdout and stderr."""
    source, target = directories
    try:
        subprocess.run(
            f"{' '.join(THROTTLEFS)} mount {source} {target} 2>&1 | cat",
            shell=True,
            timeout=20,
            check=True,
        )
        assert mounted_at(os.fsencode(target)) is not None
    finally:
        clear_away(target)
