"""Workers of pytest-xdist that are killed with a slow disk in their hands leave nothing behind."""

from __future__ import annotations

import os
import random
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.inner_pytest import Suite
from tests.soak import Soak, Tally
from tests.support import clear_away, wait_for
from throttlefs.host import runtime
from throttlefs.host.mountinfo import MountEntry, read_mounts

SUITE = """
    import os, signal, sqlite3
    import pytest

    @pytest.mark.parametrize("number", range(int(os.environ["CYCLES"])))
    @pytest.mark.slow_disk(bps="100M")
    def test_cycle(slow_disk, number):
        with open(os.environ["PROCESSES"], "a") as file:
            file.write(f"{slow_disk.pid} {os.getpid()}\\n")
        database = sqlite3.connect(slow_disk / "data.db")
        database.execute("CREATE TABLE t (id INTEGER)")
        database.commit()
        if number % 6 == 3 and "SUICIDE" in os.environ:
            os.kill(os.getpid(), signal.SIGKILL)
        database.close()
"""


@pytest.fixture
def suite(tmp_path: Path) -> Iterator[Suite]:
    made = Suite(tmp_path / "suite")
    yield made
    for mount in mounts_below(made.temporary):
        clear_away(Path(os.fsdecode(mount.point)))


def mounts_below(directory: Path) -> list[MountEntry]:
    return [one for one in read_mounts() if one.point.startswith(os.fsencode(directory) + b"/")]


def test_killed_workers(
    suite: Suite,
    monkeypatch: pytest.MonkeyPatch,
    rng: random.Random,
    soak: Soak,
    tally: Tally,
) -> None:
    """In the short form workers kill themselves; in the long one they are killed at any moment."""
    cycles, workers = soak.choose(12, 1000), soak.choose("2", "8")
    noted = suite.directory / "processes"
    noted.touch()
    monkeypatch.setenv("CYCLES", str(cycles))
    monkeypatch.setenv("PROCESSES", str(noted))
    if not soak.long:
        monkeypatch.setenv("SUICIDE", "1")
    suite.write(test_it=SUITE)
    with killing(noted, rng, often=soak.long):
        result = suite.run("-q", "-n", workers, "--max-worker-restart=1000", timeout=7000)
    processes = [tuple(map(int, line.split())) for line in noted.read_text().splitlines()]
    daemons = {daemon for daemon, _ in processes}
    if soak.long:
        assert "passed" in result.stdout
        assert len(daemons) > cycles * 0.8, "hardly any cycle went to its end"
    else:
        assert "2 failed, 10 passed" in result.stdout, result.stdout
        assert len(daemons) == cycles
    wait_for(lambda: not mounts_below(suite.temporary))
    wait_for(lambda: not any(map(runtime.process_start_time, daemons)))
    tally.note(len(daemons), checked="no mount and no daemon is left")


def kill_worker(pid: int, directory: Path) -> None:
    """Kill the worker *pid*, unless it is dead already, and its id another's."""
    try:
        pidfd = os.pidfd_open(pid)
    except ProcessLookupError:
        return
    try:
        if os.readlink(f"/proc/{pid}/cwd") == str(directory):
            signal.pidfd_send_signal(pidfd, signal.SIGKILL)
    except OSError:
        pass  # it has just ended
    finally:
        os.close(pidfd)


@contextmanager
def killing(noted: Path, rng: random.Random, *, often: bool) -> Iterator[None]:
    """Kill one of the newest workers in *noted* every few seconds, if *often*."""
    ended = threading.Event()

    def kill() -> None:
        while not ended.wait(rng.uniform(1, 4)):
            newest = noted.read_text().split()[1::2][-8:]
            if newest:
                kill_worker(int(rng.choice(newest)), noted.parent)

    killer = threading.Thread(target=kill)
    if often:
        killer.start()
    try:
        yield
    finally:
        ended.set()
        if often:
            killer.join()
