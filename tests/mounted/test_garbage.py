"""What serves requests leaves no circles of garbage, which `throttlefs.host.memory` relies on."""

from __future__ import annotations

import http.client
import os
import socket
import subprocess
import sys
import time
from pathlib import Path

from tests.qmp import RawClient, socket_of
from tests.support import clear_away, run_throttlefs, wait_for
from throttlefs.host.mountinfo import MountEntry, mounted_at

SCRIPT = """
import collections, gc, sys
from throttlefs.cli.main import main
from throttlefs.host import memory

def count():  # in place of giving memory back, a second after the last request
    gc.set_debug(gc.DEBUG_SAVEALL)
    gc.collect()
    names = (f"{type(one).__module__}.{type(one).__qualname__}" for one in gc.garbage)
    found = collections.Counter(names)
    gc.set_debug(0)
    gc.garbage.clear()
    print(f"garbage {dict(found)}", file=sys.stderr, flush=True)
    gc.freeze()

memory.give_back = count
memory.collect_in_steps = lambda: (gc.collect(), gc.freeze(), gc.disable())
main()
"""


class Daemon:
    """A daemon in the foreground that counts its garbage when it is idle."""

    def __init__(self, source: Path, target: Path, *options: str) -> None:
        self.target = target
        self._said = target.with_name("said")
        command = [sys.executable, "-c", SCRIPT, "mount", "-f", source, target, *options]
        with self._said.open("wb") as said:
            self._process = subprocess.Popen(command, stderr=said, stdin=subprocess.DEVNULL)
        wait_for(lambda: b"INFO: mounted " in self._said.read_bytes(), 30)

    @property
    def entry(self) -> MountEntry:
        entry = mounted_at(os.fsencode(self.target))
        assert entry is not None
        return entry

    def garbage(self) -> dict[str, int]:
        """What has been left since it was counted last: what kind, and how many."""
        before = self._said.stat().st_size
        os.statvfs(self.target)

        def counted() -> bool:
            return b"\n" in self._said.read_bytes()[before:].partition(b"garbage {")[2]

        wait_for(counted, 30)
        lines = self._said.read_bytes()[before:].decode().splitlines()
        found = eval(next(line for line in lines if "garbage " in line).partition(" ")[2])
        assert isinstance(found, dict)
        return {name: count for name, count in found.items() if "ctypes" not in name}

    def end(self) -> None:
        run_throttlefs("umount", self.target)
        self._process.wait(30)


def test_nothing_that_is_served_leaves_circles_of_garbage(tmp_path: Path) -> None:
    source, target = tmp_path / "src", tmp_path / "mnt"
    source.mkdir()
    target.mkdir()
    (source / "disk.img").write_bytes(bytes(1 << 20))
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    daemon = Daemon(source, target, "-o", f"bps=200M,metrics=127.0.0.1:{port}")
    disk = target / "disk.img"

    def contents() -> None:
        for _ in range(20):
            with disk.open("r+b", buffering=0) as file:
                file.read(4096)
                file.write(bytes(300_000))
                os.fsync(file.fileno())

    def names() -> None:
        for number in range(20):
            path = target / f"{number}.img"
            path.write_bytes(b"x")
            os.setxattr(path, "user.throttlefs.bps", b"5M")
            path.rename(target / "other.img")
            os.truncate(target / "other.img", 500)
            os.listdir(target)
            (target / "other.img").unlink()
            assert not path.exists()

    def control() -> None:
        for number in range(20):
            with RawClient(socket_of(daemon.entry)) as client:
                client.run("x-throttlefs-query")
                client.run("x-throttlefs-query-stats", histograms=True)
                client.run("nonsense")
                values = {"group": "db", "bps": 10_000_000 + number}
                client.run("x-throttlefs-set", device="disk.img", values=values)
                client.run("x-throttlefs-set", device="disk.img", values={"bsp": 1})
                client.run("x-throttlefs-set", device="disk.img", off=True)
                client.run("x-throttlefs-remove-group", **{"group-name": "db"})
                client.run("x-throttlefs-reload")

    def scrapes() -> None:
        for _ in range(3):
            connection = http.client.HTTPConnection("127.0.0.1", port, timeout=30)
            connection.request("GET", "/metrics")
            assert connection.getresponse().status == 200
            connection.close()

    try:
        daemon.garbage()  # what the start has left
        for work in (contents, names, control, scrapes):
            work()  # the first time something may be made that stays
            daemon.garbage()
            work()
            time.sleep(0)
            left = daemon.garbage()
            assert sum(left.values()) < 15, f"{work.__name__} leaves {left}"
    finally:
        daemon.end()
        clear_away(target)
