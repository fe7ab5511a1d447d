"""Mounts that more than one mount or PID namespace sees, or that are mounted twice."""

from __future__ import annotations

import os
import signal
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.namespaces import Namespace, namespace
from tests.support import (
    THROTTLEFS,
    Mounted,
    MountFactory,
    needs_root,
    run_throttlefs,
    wait_for,
)
from throttlefs.host import runtime
from throttlefs.host.busy import mounted_elsewhere
from throttlefs.host.mountinfo import mounted_at

pytestmark = needs_root("make namespaces at will")


@pytest.fixture
def outer() -> Iterator[Namespace]:
    """A mount namespace whose /run is its own, so that no other test's mounts are there."""
    with namespace("mount") as made:
        yield made


@pytest.fixture
def paths(tmp_path: Path) -> tuple[Path, Path, Path]:
    """SRC and two places to mount it at."""
    made = tmp_path / "src", tmp_path / "one", tmp_path / "two"
    for path in made:
        path.mkdir()
    (made[0] / "f").write_text("seen")
    return made


def write_slowly(path: Path, *enter: str) -> float:
    """How long three writes of 256 KiB to *path* take, in s: at 1 MiB/s two pay 0.25 s each."""
    script = (
        "import sys, time\n"
        "with open(sys.argv[1], 'wb', buffering=0) as file:\n"
        "    began = time.monotonic()\n"
        "    for _ in range(3): file.write(bytes(256 << 10))\n"
        "    print(time.monotonic() - began)"
    )
    result = subprocess.run(
        [*enter, THROTTLEFS[0], "-c", script, str(path)],
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
    )
    return float(result.stdout)


def test_namespaces_that_share_run_leave_each_others_mounts_alone(
    outer: Namespace, paths: tuple[Path, Path, Path]
) -> None:
    """Each mount command clears away what is dead; a process id of elsewhere is not."""
    source, one, two = paths
    with namespace("mount", "pid", inside=outer) as inner:
        assert inner.throttlefs("mount", source, one).returncode == 0
        assert outer.throttlefs("mount", source, two).returncode == 0
        assert outer.points() == [str(two)]
        for there, point in ((inner, one), (outer, two)):
            assert there.throttlefs("show", point).returncode == 0
            changed = there.throttlefs("set", point / "f", "bps=100K")
            assert changed.stdout == "f: bps off -> 100K\n", changed.stderr
        # The daemon is told of the end, so what waits goes through.
        with subprocess.Popen(
            [*inner.enter(), "dd", "if=/dev/zero", f"of={one}/f", "bs=1M", "count=20"],
            stderr=subprocess.DEVNULL,
        ) as writer:
            wait_for(lambda: (source / "f").stat().st_size > 4)
            umount = inner.throttlefs("umount", one)
            assert (umount.returncode, umount.stderr) == (0, "")
            assert writer.wait(10) == 0
        assert inner.points() == []
        assert outer.throttlefs("umount", two).returncode == 0


def test_umount_of_a_copy_names_the_namespace_that_holds_the_mount(
    outer: Namespace, paths: tuple[Path, Path, Path]
) -> None:
    source, one, _ = paths
    assert outer.throttlefs("mount", source, one, "-o", "bps=1M").returncode == 0
    with namespace("mount", inside=outer) as inner:
        result = inner.throttlefs("umount", one)
        assert (result.returncode, result.stdout) == (1, "")
        assert len(result.stderr.splitlines()) == 1
        assert f"{one} is unmounted, but the same mount is still served at {one}" in result.stderr
        (daemon,) = daemons(outer)
        assert f"in the mount namespace of python[{daemon}]" in result.stderr
        assert f"nsenter --target {daemon} --mount umount {one}" in result.stderr
        assert inner.points() == []
    assert outer.points() == [str(one)]
    assert write_slowly(one / "f", *outer.enter()) > 0.4, "the limits hold again"
    assert outer.throttlefs("umount", one).returncode == 0


def daemons(where: Namespace) -> list[int]:
    """The processes in there that serve a mount."""
    own = os.stat(f"/proc/{where.pid}/ns/mnt").st_ino
    found = []
    for pid in filter(str.isdigit, os.listdir("/proc")):
        try:
            command = Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0")
            if b"mount" in command and os.stat(f"/proc/{pid}/ns/mnt").st_ino == own:
                found.append(int(pid))
        except OSError:
            continue
    return found


def test_a_daemon_of_another_pid_namespace_is_told_of_the_end(
    outer: Namespace, paths: tuple[Path, Path, Path]
) -> None:
    """Its process id there says nothing here, and is another process's; its socket tells."""
    source, one, _ = paths
    with namespace("pid", inside=outer) as inner:
        result = inner.throttlefs("mount", source, one, "-o", "bps=100K")
        assert (result.returncode, result.stderr) == (0, "")
        with subprocess.Popen(
            [*outer.enter(), "dd", "if=/dev/zero", f"of={one}/f", "bs=1M", "count=20"],
            stderr=subprocess.DEVNULL,
        ) as writer:
            wait_for(lambda: (source / "f").stat().st_size > 4)
            umount = outer.throttlefs("umount", one)
            assert (umount.returncode, umount.stderr) == (0, "")
            assert writer.wait(10) == 0
        assert outer.points() == []


def test_a_daemon_that_is_not_seen_cannot_be_told(
    outer: Namespace, paths: tuple[Path, Path, Path]
) -> None:
    """From a PID namespace below its own; the control socket works all the same."""
    source, one, _ = paths
    assert outer.throttlefs("mount", source, one).returncode == 0
    with namespace("pid", inside=outer) as inner:
        assert inner.throttlefs("set", one / "f", "bps=1M").stdout == "f: bps off -> 1M\n"
        holder = [*outer.enter(), "sh", "-c", f"exec 5>{one}/f; echo; read line"]
        with subprocess.Popen(holder, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
            assert process.stdout is not None
            process.stdout.readline()
            result = inner.throttlefs("umount", one)
            process.communicate(b"\n")
        assert (result.returncode, result.stdout) == (1, "")
        assert f"{one} is busy: in use by sh[{process.pid}] (open file)" in result.stderr
        assert "its daemon is in a PID namespace that is not seen here" in result.stderr
        assert inner.throttlefs("umount", one).returncode == 0
    assert outer.points() == []


def test_umount_names_a_bind_mount_that_keeps_it(make_mount: MountFactory, tmp_path: Path) -> None:
    mounted = make_mount("bps=1M")
    bind = tmp_path / "bind"
    bind.mkdir()
    subprocess.run(["mount", "--bind", mounted.path, bind], check=True)
    try:
        result = run_throttlefs("umount", mounted.path)
        assert (result.returncode, result.stdout) == (1, "")
        assert result.stderr == (
            f"throttlefs: {mounted.path} is unmounted, but the same mount is still served at"
            f" {bind}; unmount it there with: umount {bind}\n"
        )
        assert not mounted.is_mounted()
        assert write_slowly(bind / "f") > 0.4, "the limits hold again"
        assert run_throttlefs("umount", bind).returncode == 0
        mounted.wait_until_ended()
    finally:
        subprocess.run(["umount", "-l", bind], check=False, stderr=subprocess.DEVNULL)


def test_umount_waits_for_a_namespace_that_has_a_copy_for_a_moment(mounted: Mounted) -> None:
    with namespace("mount", keep=[mounted.path]):
        command = [*THROTTLEFS, "umount", mounted.path]
        umount = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
        wait_for(lambda: not mounted.is_mounted())
        time.sleep(1)
    _, message = umount.communicate(timeout=60)
    assert (umount.returncode, message) == (0, "")
    assert runtime.process_start_time(mounted.pid) is None


def test_sigterm_takes_bind_mounts_away_too(make_mount: MountFactory, tmp_path: Path) -> None:
    mounted = make_mount()
    bind = tmp_path / "bind"
    bind.mkdir()
    subprocess.run(["mount", "--bind", mounted.path, bind], check=True)
    try:
        os.kill(mounted.pid, signal.SIGTERM)
        mounted.wait_until_ended()
        assert mounted_at(os.fsencode(bind)) is None
        assert "WARNING" not in mounted.log
    finally:
        subprocess.run(["umount", "-l", bind], check=False, stderr=subprocess.DEVNULL)


def test_sigterm_with_a_mount_namespace_that_holds_it(make_mount: MountFactory) -> None:
    """It is named, and served under its limits; a second signal ends it."""
    mounted = make_mount("bps=1M")
    with namespace("mount", keep=[mounted.path]) as holder:
        assert holder.points() == [str(mounted.path)]
        os.kill(mounted.pid, signal.SIGTERM)
        wait_for(lambda: "WARNING" in mounted.log, 30)
        assert not mounted.is_mounted()
        assert f"served under its limits at {mounted.path} in the mount namespace of" in mounted.log
        wait_for(lambda: write_slowly(mounted.path / "f", *holder.enter()) > 0.4)
        os.kill(mounted.pid, signal.SIGTERM)
        wait_for(lambda: runtime.process_start_time(mounted.pid) is None, 20)


def test_another_filesystem_of_the_same_number_is_not_taken_for_it(
    make_mount: MountFactory, tmp_path: Path
) -> None:
    """Of a mount that is gone; the number alone says nothing then."""
    from dataclasses import replace

    mounted = make_mount()
    gone = replace(mounted.entry, mount_id=0, source=b"/another")
    assert mounted_elsewhere(gone) == []
    (place,) = mounted_elsewhere(replace(mounted.entry, mount_id=0))
    assert place.point == str(mounted.path)
