"""PostgreSQL, etcd and Redis on a disk that loses power.

In the long form (--soak) PostgreSQL meets 200 cuts as it is made for, and loses nothing.
"""

from __future__ import annotations

import os
import random
import re
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

import throttlefs
from tests.peers.cut_postgres import Cluster, Damaged
from tests.support import clear_away, needs_root, wait_for


@pytest.fixture
def cuts(request: pytest.FixtureRequest) -> int:
    """How many cuts PostgreSQL meets as it is made for."""
    return 200 if request.config.getoption("--soak") else 3


# -- PostgreSQL -----------------------------------------------------------------------------


@pytest.fixture
def place() -> Iterator[Path]:
    """A directory that the user postgres can reach, with src and mnt of his own."""
    directory = Path(tempfile.mkdtemp(prefix="throttlefs-postgres-", dir="/tmp"))
    os.chmod(directory, 0o755)
    shutil.chown(directory, "postgres", "postgres")
    for name in ("src", "mnt", "src/data"):
        (directory / name).mkdir()
        shutil.chown(directory / name, "postgres", "postgres")
    yield directory
    clear_away(directory / "mnt")
    shutil.rmtree(directory)


@contextmanager
def postgres(
    place: Path, *settings: str, **options: str
) -> Iterator[tuple[throttlefs.Disk, Cluster]]:
    """A disk with a cluster on it, whose server runs."""
    Cluster(place, place / "src" / "data", *settings).make()
    with throttlefs.mounted(
        place / "src", place / "mnt", volatile=True, allow_other=True, **options
    ) as disk:
        cluster = Cluster(place, disk / "data", *settings)
        try:
            cluster.start()
            yield disk, cluster
        finally:
            cluster.kill()


def cut_amid_commits(
    disk: throttlefs.Disk, cluster: Cluster, rng: random.Random, commits: int
) -> tuple[int, int]:
    """Cut the power after so many commits, amid the next, and start again.

    Returns the last commit, and the seed of the cut.
    """
    first = cluster.committed() + 1
    last = first - 1
    with cluster.committing(first, checkpoint_every=rng.randrange(10, 1000)) as client:
        assert client.stdout is not None
        for _ in range(commits):
            last = int(client.stdout.readline())
        time.sleep(rng.uniform(0, 0.01))
        report = disk.power_cut(seed=rng.getrandbits(32))
        cluster.kill()
        last = max([last, *map(int, client.stdout.read().split())])
    disk.power_on()
    try:
        cluster.start()
    except Damaged as exc:
        raise Damaged(f"seed {report.seed}: {exc}") from None
    return last, report.seed


@needs_root("become the user postgres")
@pytest.mark.timeout(2400)
@pytest.mark.parametrize("sector", ["4096", "512"])
def test_postgresql_loses_nothing(place: Path, rng: random.Random, cuts: int, sector: str) -> None:
    with postgres(place, sector=sector) as (disk, cluster):
        for number in range(cuts):
            committed, seed = cut_amid_commits(disk, cluster, rng, rng.randrange(1, 150))
            found = cluster.committed()
            assert committed <= found <= committed + 1, f"cut {number}, seed {seed}"


@needs_root("become the user postgres")
@pytest.mark.timeout(600)
@pytest.mark.parametrize("setting", ["full_page_writes=off", "fsync=off"])
def test_postgresql_is_damaged_with_unsafe_settings(
    place: Path, rng: random.Random, setting: str
) -> None:
    """Pages are torn, for a sector is smaller than a page; or nothing is flushed."""

    def is_whole(disk: throttlefs.Disk, cluster: Cluster) -> bool:
        try:
            committed, _ = cut_amid_commits(disk, cluster, rng, 300)
            return cluster.committed() >= committed
        except Damaged:
            return False

    with postgres(place, setting, sector="512") as (disk, cluster):
        assert not all(is_whole(disk, cluster) for _ in range(30))


# -- etcd -----------------------------------------------------------------------------------


def free_ports(number: int) -> list[int]:
    """Ports of 127.0.0.1 that nobody listens on."""
    sockets = [socket.socket() for _ in range(number)]
    try:
        for one in sockets:
            one.bind(("127.0.0.1", 0))
        return [one.getsockname()[1] for one in sockets]
    finally:
        for one in sockets:
            one.close()


@contextmanager
def etcd(data: Path, log: Path) -> Iterator[subprocess.Popen[bytes]]:
    """An etcd of one member, until the end of the block."""
    program = shutil.which("etcd")
    assert program is not None, "install the package etcd-server"
    client, peer = (f"http://127.0.0.1:{port}" for port in free_ports(2))
    with log.open("wb") as output:
        process = subprocess.Popen(
            [
                *(program, "--data-dir", str(data), "--logger", "zap"),
                *("--listen-client-urls", client, "--advertise-client-urls", client),
                *("--listen-peer-urls", peer, "--initial-advertise-peer-urls", peer),
                *("--initial-cluster", f"default={peer}"),
            ],
            stdout=output,
            stderr=output,
        )
        try:
            yield process
        finally:
            process.kill()
            process.wait(60)


def test_etcd_does_not_start_after_a_cut_amid_its_first_start(
    tmp_path: Path, rng: random.Random
) -> None:
    """Its database is made by one write of four pages, which may be torn before it is flushed."""
    (tmp_path / "src").mkdir()
    log = tmp_path / "log"
    with throttlefs.mounted(tmp_path / "src", volatile=True) as disk:
        for number in range(30):
            data = disk / f"data-{number}"
            with (
                disk.fault(op="flush", path="*/member/snap/db", hang=True) as fault,
                etcd(data, log),
            ):
                wait_for(lambda: fault.waiting == 1, 60)
                disk.power_cut(seed=rng.getrandbits(32))
            disk.power_on()
            with etcd(data, log) as process:

                def has_ended_or_serves(process: subprocess.Popen[bytes] = process) -> bool:
                    return (
                        process.poll() is not None or b"serving client traffic" in log.read_bytes()
                    )

                wait_for(has_ended_or_serves, 60)
                if process.poll() is not None:
                    break
        said = log.read_text()
        assert process.poll() is not None, f"{number + 1} cuts"
        assert "invalid database" in said or "file size too small" in said or "panic" in said, said


# -- Redis ----------------------------------------------------------------------------------


@contextmanager
def redis(directory: Path, log: Path) -> Iterator[subprocess.Popen[bytes]]:
    """A Redis with a file of users, until the end of the block."""
    program = shutil.which("redis-server")
    assert program is not None, "install the package redis-server"
    with log.open("wb") as output:
        process = subprocess.Popen(
            [
                *(program, "--port", "0", "--unixsocket", str(log.parent / "socket")),
                *("--save", "", "--dir", str(log.parent)),
                *("--aclfile", str(directory / "users.acl")),
            ],
            stdout=output,
            stderr=output,
        )
        try:
            wait_for(
                lambda: (
                    b"ready to accept connections" in log.read_bytes().lower()
                    or process.poll() is not None
                ),
                60,
            )
            yield process
        finally:
            process.send_signal(signal.SIGKILL)
            process.wait(60)


def redis_command(log: Path, *words: str) -> str:
    """What Redis answers."""
    import valkey

    path = str(log.parent / "socket")
    with valkey.Valkey(unix_socket_path=path, decode_responses=True) as client:
        return str(client.execute_command(*words))


@pytest.mark.parametrize("auto_da_alloc", ["on", "off"])
def test_redis_forgets_a_user_that_was_saved(
    tmp_path: Path, rng: random.Random, auto_da_alloc: str
) -> None:
    """ACL SAVE renames a new file over the old one, and flushes neither."""
    said = subprocess.run(["redis-server", "--version"], capture_output=True, text=True, check=True)
    version = re.search(r"v=(\d+)", said.stdout)
    if version is not None and int(version[1]) >= 8:
        pytest.skip("from 8 on Redis flushes what ACL SAVE has written")
    (tmp_path / "src").mkdir()
    (tmp_path / "src" / "users.acl").touch()
    log = tmp_path / "log"
    found = set()
    with throttlefs.mounted(tmp_path / "src", volatile=True, auto_da_alloc=auto_da_alloc) as disk:
        for number in range(10):
            with redis(disk.path, log):
                redis_command(log, "ACL", "SETUSER", f"joe{number}", "on", "nopass", "+get")
                assert redis_command(log, "ACL", "SAVE") == "OK"
                disk.power_cut(seed=rng.getrandbits(32))
            disk.power_on()
            with redis(disk.path, log) as process:
                if process.poll() is not None:
                    found.add("does not start")
                    break
                users = redis_command(log, "ACL", "USERS")
                found.add("kept" if f"joe{number}" in users else "lost")
    if auto_da_alloc == "on":
        assert "does not start" not in found, "the old file is there, or the new one"
        assert "lost" in found
    else:
        assert found & {"lost", "does not start"}
