"""throttlefs run: one command on a mount of its own, which never outlives it."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support import THROTTLEFS, clear_away, run_throttlefs, wait_for
from tests.terminal import Terminal
from throttlefs.host import runtime
from throttlefs.host.mountinfo import MountEntry, read_mounts


@pytest.fixture
def source(tmp_path: Path) -> Iterator[Path]:
    """SRC with a file in it. In the end nothing of it is mounted, and its daemons are gone."""
    path = tmp_path / "images"
    path.mkdir()
    (path / "disk.img").write_text("contents")
    places = tmp_path / "places"
    places.mkdir()
    yield path
    left = mounts_of(path)
    for mount in left:
        clear_away(Path(os.fsdecode(mount.point)))
    assert not left
    assert not list(places.iterdir()), "a temporary directory is left"


def mounts_of(source: Path) -> list[MountEntry]:
    return [mount for mount in read_mounts() if mount.source.startswith(os.fsencode(source))]


def environment(source: Path) -> dict[str, str]:
    return {**os.environ, "TMPDIR": str(source.parent / "places")}


def run(source: Path, *args: object) -> subprocess.CompletedProcess[str]:
    return run_throttlefs("run", *args, cwd=source.parent, env=environment(source))


def start(source: Path, *args: object) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [*THROTTLEFS, "run", *map(str, args)],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        cwd=source.parent,
        env=environment(source),
    )


def line_of(process: subprocess.Popen[str]) -> str:
    assert process.stdout is not None
    return process.stdout.readline().rstrip("\n")


def test_without_dst_a_temporary_place_is_named(source: Path) -> None:
    script = 'echo "$THROTTLEFS_MOUNT"; printf "%s\\n" "$@"; cat "$1"; echo new >"$2/new"'
    words = ["{}/disk.img", "{}", "a{}", "{}b", "--", "{}/x {}"]
    result = run(source, source, "-o", "bps=1M", "--", "sh", "-ec", script, "sh", *words)
    assert (result.returncode, result.stderr) == (0, "")
    place, *shown = result.stdout.splitlines()
    assert shown == [f"{place}/disk.img", place, "a{}", "{}b", "--", f"{place}/x {{}}", "contents"]
    assert not os.path.exists(place)
    assert (source / "new").read_text() == "new\n"


def test_with_dst_the_command_is_taken_as_it_is(source: Path) -> None:
    target = source.parent / "mnt"
    target.mkdir()
    show = [*THROTTLEFS, "show", "--json", "mnt"]
    result = run(
        source, source, "mnt", "-o", "iops=7", "--", "sh", "-c", "echo {}; cat mnt/disk.img"
    )
    assert (result.returncode, result.stdout) == (0, "{}\ncontents")
    result = run(source, source, "mnt", "-o", "iops=7", "--", *show)
    assert '"iops": 7' in result.stdout
    assert target.is_dir()


def test_one_file(source: Path) -> None:
    result = run(source, source / "disk.img", "--", "sh", "-c", 'cat "$0"; echo "$0"', "{}")
    assert result.returncode == 0, result.stderr
    contents, place = result.stdout[:8], result.stdout[8:].strip()
    assert (contents, os.path.basename(place)) == ("contents", "disk.img")


def test_statuses_are_those_of_env(source: Path) -> None:
    plain = source / "disk.img"
    for command, status, said in (
        (["sh", "-c", "exit 7"], 7, ""),
        (["sh", "-c", "kill -TERM $$"], 128 + signal.SIGTERM, ""),
        (["./no-such-command"], 127, "cannot run ./no-such-command: No such file or directory"),
        ([plain], 126, f"cannot run {plain}: Permission denied"),
    ):
        result = run(source, source, "--", *command)
        line = f"throttlefs: {said}\n" if said else ""
        assert (result.returncode, result.stderr) == (status, line), command


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["images", "-o", "bsp=1M", "--", "true"], "unknown option 'bsp'; did you mean 'bps'?"),
        (["images", "--bps=1M", "--", "true"], "no such option: --bps; limits and mount options"),
        (["no-such", "--", "true"], "SRC no-such does not exist"),
        (["images", "no-such", "--", "true"], "DST no-such does not exist"),
        (["images", "true"], "the command is missing: it follows --, as in: throttlefs run"),
        (["images", "--"], "the command is missing after --"),
        (["--", "true"], "Missing argument 'SRC'"),
    ],
)
def test_its_own_failures_have_status_125(source: Path, words: list[str], said: str) -> None:
    result = run(source, *words)
    assert (result.returncode, result.stdout) == (125, "")
    assert result.stderr.startswith(f"throttlefs: {said}")
    assert len(result.stderr.splitlines()) == 1


TELLS = """
import signal, sys
awaited = {signal.SIGINT, signal.SIGTERM, signal.SIGUSR1, signal.SIGHUP}
signal.pthread_sigmask(signal.SIG_BLOCK, awaited)
print("ready", flush=True)
for _ in range(int(sys.argv[1])):
    print(signal.Signals(signal.sigwait(awaited)).name, flush=True)
sys.exit(9)
"""
"""Names as many signals as it is told."""


def test_signals_go_to_the_command(source: Path) -> None:
    with start(source, source, "--", sys.executable, "-c", TELLS, "4") as process:
        assert line_of(process) == "ready"
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1, signal.SIGHUP):
            process.send_signal(number)
            assert line_of(process) == number.name
        assert process.wait(30) == 9


def test_an_interrupt_at_the_terminal_reaches_the_command_once(source: Path) -> None:
    terminal = Terminal("run", source, "--", sys.executable, "-c", TELLS, "2")
    terminal.wait_for("ready")
    terminal.press("\x03")
    terminal.wait_for("SIGINT")
    (child,) = [pid for pid in children(terminal.pid) if arguments(pid)[1] == b"-c"]
    os.kill(child, signal.SIGUSR1)
    assert terminal.end() == 9, "one interrupt and one SIGUSR1 are two signals"
    assert terminal.text().count("SIGINT") == 1


def children(pid: int) -> list[int]:
    return [int(one) for one in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


def arguments(pid: int) -> list[bytes]:
    return Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0")


def test_the_command_starts_with_usual_signals(source: Path) -> None:
    """Python ignores SIGPIPE, and `run` blocks signals; the command must inherit neither."""
    look = ["grep", "-E", "^(SigBlk|SigIgn)", "/proc/self/status"]

    def usual(printed: str) -> list[int]:
        # Above 31 are signals that glibc has for itself.
        return [int(line.split()[1], 16) & 0x7FFFFFFF for line in printed.splitlines()]

    directly = subprocess.run(look, capture_output=True, text=True, check=True)
    result = run(source, source, "--", *look)
    assert len(usual(result.stdout)) == 2
    assert usual(result.stdout) == usual(directly.stdout)


def test_what_still_uses_the_mount_is_cut_off_and_named(source: Path) -> None:
    script = 'exec 3<"$1"; sleep 100 >/dev/null 2>&1 & echo $!; exit 3'
    result = run(source, source, "--", "sh", "-c", script, "sh", "{}/disk.img")
    sleeper = int(result.stdout)
    try:
        assert result.returncode == 3
        (line,) = result.stderr.splitlines()
        assert f"was still in use by sleep[{sleeper}] (open file); it is detached" in line
    finally:
        os.kill(sleeper, signal.SIGKILL)


def test_the_mount_ends_with_run_itself(source: Path) -> None:
    """Nobody can clean up after SIGKILL, so the daemon sees to it."""
    target = source.parent / "mnt"
    target.mkdir()
    with start(source, source, target, "--", "sh", "-c", "echo $$; exec sleep 100") as process:
        sleeper = int(line_of(process))
        try:
            (mount,) = mounts_of(source)
            record = runtime.read_record(mount)
            assert record is not None
            assert record.owner_pid == process.pid
            process.kill()
            process.wait()
            wait_for(lambda: not mounts_of(source) and not record.is_alive())
        finally:
            os.kill(sleeper, signal.SIGKILL)
    assert record.owner_has_ended()


def test_a_daemon_that_dies_is_named(source: Path) -> None:
    target = source.parent / "mnt"
    target.mkdir()
    script = 'pid=$("$@" | tr -dc 0-9); kill -KILL $pid; ls mnt; exit 4'
    query = (
        "import json, subprocess, sys;"
        "print(json.loads(subprocess.check_output(sys.argv[1:]))['pid'])"
    )
    ask = [sys.executable, "-c", query, *THROTTLEFS, "show", "--json", "mnt"]
    result = run(source, source, "mnt", "--", "sh", "-c", script, "sh", *ask)
    assert result.returncode == 4
    assert result.stderr.splitlines()[-1].startswith(f"throttlefs: the daemon of {target} died")


def test_the_command_may_end_the_mount_itself(source: Path) -> None:
    result = run(source, source, "--", *THROTTLEFS, "umount", "{}")
    assert (result.returncode, result.stderr) == (0, "")
