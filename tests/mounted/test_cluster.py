"""Daemons that share one limit through a real server: the smallest cluster, on one machine."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.qmp import RawClient, socket_of
from tests.store_server import StoreServer
from tests.support import Mounted, MountFactory, fails, run_throttlefs, wait_for

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "scripts"))

from benchmarks.cluster.proxy import Proxy

KIB, MIB = 1 << 10, 1 << 20


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[StoreServer]:
    store = StoreServer(tmp_path_factory.mktemp("store"))
    yield store
    store.stop()


@pytest.fixture
def store(server: StoreServer) -> StoreServer:
    """The server, up and empty."""
    if server.process.poll() is not None:
        server.start()
    with server.client() as client:
        client.flushall()
    return server


def ask(mounted: Mounted, command: str) -> Any:
    """What the daemon answers to *command*; an event may come before that."""
    with RawClient(socket_of(mounted.entry)) as client:
        message = client.run(command)
        while "event" in message:
            message = client.receive()
        return message["return"]


def limits_of(mounted: Mounted) -> dict[str, Any]:
    limits: dict[str, Any] = ask(mounted, "x-throttlefs-query")["groups"][0]["limits"]
    return limits


def image(mounted: Mounted, name: str = "disk.img") -> Path:
    with open(mounted.source / name, "wb") as file:
        file.truncate(64 * MIB)
    return mounted.path / name


def share_of(mounted: Mounted) -> dict[str, Any]:
    """How the share of the group stands, as show asks for it."""
    share: dict[str, Any] = ask(mounted, "x-throttlefs-query")["groups"][0]["shared"]
    return share


def is_in(mounted: Mounted, *states: str) -> Callable[[], bool]:
    return lambda: share_of(mounted)["state"] in states


def holds(mounted: Mounted, low: float, high: float) -> Callable[[], bool]:
    return lambda: low <= share_of(mounted)["held"].get("bps", 0) <= high


def settled(mounted: Mounted) -> Callable[[], bool]:
    """Whether the beginning of the key is over."""

    def is_settled() -> bool:
        share = share_of(mounted)
        return share["state"] == "idle" and not share["recovering"]

    return is_settled


def pair(make_mount: MountFactory, first: str, second: str = "") -> tuple[Mounted, Mounted]:
    """Two mounts with these options, each of a directory of its own."""
    one = make_mount(first)
    above = one.path.parent
    return one, make_mount(second or first, source=above / "src2", target=above / "mnt2")


class Reader:
    """Reads an image for ever, in a thread."""

    def __init__(self, path: Path, size: int = 64 * KIB) -> None:
        self.bytes = 0
        self._path, self._size = path, size
        self._ended = False
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def _run(self) -> None:
        fd = os.open(self._path, os.O_RDONLY)
        try:
            while not self._ended:
                self.bytes += len(os.pread(fd, self._size, 0))
        except OSError:
            pass
        finally:
            os.close(fd)

    def goes_on(self) -> None:
        before = self.bytes
        wait_for(lambda: self.bytes > before)

    def end(self) -> None:
        self._ended = True
        self._thread.join(20)


@pytest.fixture
def read() -> Iterator[Callable[..., Reader]]:
    readers: list[Reader] = []

    def start(*args: Any) -> Reader:
        readers.append(Reader(*args))
        return readers[-1]

    yield start
    for reader in readers:
        reader.end()


@pytest.fixture
def fio() -> Iterator[Callable[[Path], None]]:
    """Starts fio, which reads an image 64 KiB at a time, 16 under way, until the test ends."""
    jobs: list[subprocess.Popen[bytes]] = []

    def start(path: Path) -> None:
        command = [
            *("fio", "--name=read", f"--filename={path}", "--rw=randread", "--bs=64k"),
            *("--size=64M", "--iodepth=16", "--ioengine=libaio", "--direct=1"),
            *("--runtime=600", "--time_based"),
        ]
        jobs.append(subprocess.Popen(command, stdout=subprocess.DEVNULL, cwd=path.parents[1]))

    yield start
    for job in jobs:
        job.terminate()
    for job in jobs:
        job.wait(60)


def read_so_far(mounted: Mounted) -> tuple[int, int]:
    """The bytes that were read, and when that was (ns)."""
    figures = ask(mounted, "x-throttlefs-query-stats")
    return figures["images"][0]["read"]["bytes"], figures["clock-ns"]


def rates_of(*mounts: Mounted, volume: int) -> list[float]:
    """What each gets (bytes/s) while all of them together get *volume*."""
    before = [read_so_far(mounted) for mounted in mounts]
    enough = sum(amount for amount, _ in before) + volume
    wait_for(lambda: sum(read_so_far(mounted)[0] for mounted in mounts) >= enough, 60)
    after = [read_so_far(mounted) for mounted in mounts]
    return [
        (end - begin) / ((ended - began) / 1e9)
        for (begin, began), (end, ended) in zip(before, after, strict=True)
    ]


def test_two_daemons_share_a_limit_by_weight(
    make_mount: MountFactory, store: StoreServer, fio: Callable[[Path], None]
) -> None:
    one, two = pair(make_mount, f"group=tenant,bps=8M,shared={store.url()}")
    images = image(one), image(two)
    fio(images[0])
    wait_for(holds(one, 7.9 * MIB, 8 * MIB))
    alone = rates_of(one, volume=12 * MIB)
    assert 6 * MIB < alone[0] < 8 * MIB * 1.04
    fio(images[1])
    for mounted in (one, two):
        wait_for(holds(mounted, 3.9 * MIB, 4 * MIB))
    rates = rates_of(one, two, volume=12 * MIB)
    # What both have in common holds on a busy machine, too.
    assert rates[0] / rates[1] == pytest.approx(1, rel=0.15)
    assert sum(rates) == pytest.approx(alone[0], rel=0.2)
    assert sum(rates) < 8 * MIB * 1.04
    assert run_throttlefs("set", images[1], "weight=300").returncode == 0
    wait_for(holds(two, 5.9 * MIB, 6 * MIB))
    wait_for(holds(one, 1.9 * MIB, 2 * MIB))
    weighted = rates_of(one, two, volume=12 * MIB)
    assert weighted[1] / weighted[0] == pytest.approx(3, rel=0.15)
    assert sum(weighted) < 8 * MIB * 1.04


def test_what_is_seen_and_a_change_for_all(
    make_mount: MountFactory, store: StoreServer, read: Callable[..., Reader]
) -> None:
    options = f"group=tenant,bps=8M,shared={store.url()}"
    one, two = pair(make_mount, options, f"group=tenant,bps=2M,shared={store.url()}")
    wait_for(settled(two))
    assert "group tenant: bps=8M hold, which another host has set; bps=2M are not used" in two.log
    reader = read(image(one))
    wait_for(holds(one, 7 * MIB, 8 * MIB))
    shown = run_throttlefs("show", one.path).stdout
    assert "group tenant: shared by 2 hosts, 1 of them at work" in shown
    assert "this one holds bps=" in shown
    hosts = run_throttlefs("cluster", one.path).stdout
    assert hosts.count(f":{one.pid} ") == hosts.count(f":{two.pid} ") == 1
    details = json.loads(run_throttlefs("cluster", "--json", "--group", "tenant", two.path).stdout)
    assert details[0]["limits"] == {"bps": 8 * MIB}
    assert len(details[0]["hosts"]) == 2
    top = run_throttlefs("top", "--count", "1", "--interval", "0.2", one.path).stdout
    assert "group tenant: shared by 2 hosts" in top
    assert run_throttlefs("set", "--group", "tenant", two.path, "bps=4M").returncode == 0
    wait_for(lambda: limits_of(one) == {"bps": 4 * MIB})
    wait_for(holds(one, 3 * MIB, 4 * MIB))
    toml = run_throttlefs("show", "--toml", one.path).stdout
    assert f'shared = "{store.url()}"' in toml
    os.kill(one.pid, signal.SIGHUP)
    wait_for(lambda: "reloaded the limits" in one.log)
    assert share_of(one)["version"] == 2
    assert 'bps = "4M"' in run_throttlefs("show", "--toml", one.path).stdout
    reader.goes_on()
    reader.end()
    two.umount()
    wait_for(lambda: len(cluster_of(one)) == 1)  # it says good-bye


def cluster_of(mounted: Mounted) -> list[dict[str, Any]]:
    hosts: list[dict[str, Any]] = ask(mounted, "x-throttlefs-query-cluster")[0]["hosts"]
    return hosts


def test_the_share_of_a_killed_daemon_is_the_other_s(
    make_mount: MountFactory, store: StoreServer, read: Callable[..., Reader]
) -> None:
    options = f"group=tenant,bps=8M,shared={store.url()}"
    one, two = pair(make_mount, options)
    read(image(one))
    read(image(two))
    wait_for(holds(one, 3.5 * MIB, 4.5 * MIB))
    wait_for(holds(two, 3.5 * MIB, 4.5 * MIB))
    os.kill(two.pid, signal.SIGSTOP)
    try:
        wait_for(holds(one, 7.5 * MIB, 8 * MIB))
    finally:
        os.kill(two.pid, signal.SIGCONT)
    wait_for(holds(one, 3.5 * MIB, 4.5 * MIB))
    os.kill(two.pid, signal.SIGKILL)
    wait_for(holds(one, 7.5 * MIB, 8 * MIB))


def test_a_store_that_is_lost_and_found(
    make_mount: MountFactory, store: StoreServer, read: Callable[..., Reader]
) -> None:
    options = f"group=tenant,bps=8M,shared={store.url()}"
    one, two = pair(make_mount, options, f"{options},on_lost=closed")
    wait_for(lambda: 0.4 < share_of(one)["fallback"] < 0.6)
    first, second = read(image(one)), read(image(two))
    for mounted in (one, two):
        wait_for(holds(mounted, 3.5 * MIB, 4.5 * MIB))
    with RawClient(socket_of(one.entry)) as client:
        store.stop()
        for mounted in (one, two):
            wait_for(is_in(mounted, "lost"))
        event = client.receive()
        assert event["event"] == "X_THROTTLEFS_STORE_LOST"
        assert event["data"]["group"] == "tenant"
        assert "cannot be reached" in event["data"]["reason"]
        assert share_of(one)["held"]["bps"] == pytest.approx(8 * MIB * 0.495, rel=0.1)
        assert share_of(two)["held"] == {}
        assert "the store is lost for " in run_throttlefs("show", one.path).stdout
        assert "group tenant: the store is lost: " in two.log
        first.goes_on()
        store.start()
        for mounted in (one, two):
            wait_for(is_in(mounted, "leased", "idle"))
        assert client.receive()["event"] == "X_THROTTLEFS_STORE_FOUND"
    second.goes_on()
    assert "group tenant: the store is back" in one.log


def test_a_store_that_is_far_away_hangs_or_drops_connections(
    make_mount: MountFactory, store: StoreServer, read: Callable[..., Reader]
) -> None:
    proxy = Proxy(store.socket)
    proxy.delay = 0.02
    try:
        one = make_mount(f"group=tenant,bps=8M,shared={proxy.url()}")
        free = image(one, "free.img")
        assert run_throttlefs("set", free, "group=").returncode == 0
        wait_for(settled(one))
        reader = read(image(one))
        wait_for(holds(one, 7.5 * MIB, 8 * MIB))
        proxy.cut()
        wait_for(holds(one, 7.5 * MIB, 8 * MIB))
        reader.goes_on()
        proxy.silent = True
        wait_for(is_in(one, "lost"))
        assert "does not answer in time" in share_of(one)["error"]
        # Who has other limits does not notice.
        other = read(free)
        other.goes_on()
        reader.goes_on()
        proxy.silent = False
        wait_for(is_in(one, "leased"))
    finally:
        proxy.close()


def test_a_mount_made_while_the_store_is_away(make_mount: MountFactory, tmp_path: Path) -> None:
    one = make_mount(f"group=tenant,bps=8M,shared=unix://{tmp_path}/none?key=k")
    assert "cannot be reached" in one.log
    wait_for(is_in(one, "lost"))
    assert share_of(one)["held"]["bps"] == pytest.approx(8 * MIB / 100, rel=0.01)
    with open(image(one), "rb") as file:
        assert len(file.read(4096)) == 4096
    hosts = run_throttlefs("cluster", one.path)
    assert hosts.returncode == 0
    assert "the store is lost for" in hosts.stdout


def test_mistakes_leave_nothing_mounted(store: StoreServer, tmp_path: Path) -> None:
    source, target = tmp_path / "src", tmp_path / "dst"
    source.mkdir()
    target.mkdir()
    mount = ("mount", source, target, "-o")
    with store.client() as client:
        client.set("taken", "x")
    said = fails(*mount, f"group=g,shared={store.url('taken')}")
    assert "group 'g': the key taken at" in said
    said = fails(*mount, f"group=g,shared={store.url()},password_file=none")
    assert said.endswith("none cannot be read: No such file or directory")
    assert "shared needs group" in fails(*mount, f"shared={store.url()}", status=2)
    said = fails(*mount, "group=g,shared=valkey://me:SECRET@store/0/k", status=2)
    assert "password_file" in said
    assert "SECRET" not in said
    assert os.listdir(target) == []


def test_the_daemon_shows_what_it_cannot_share(make_mount: MountFactory) -> None:
    plain = make_mount("group=tenant,bps=8M")
    assert "shares its limits with other hosts" in fails("cluster", plain.path)
    assert "'tenant' shares its limits" in fails("cluster", "--group", "tenant", plain.path)
