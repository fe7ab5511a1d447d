"""The control socket of a real mount: decent clients, bad ones, and fio in the meantime."""

from __future__ import annotations

import asyncio
import os
import random
import signal
import socket
import stat
import struct
import subprocess
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from qemu.qmp import ExecuteError, QMPClient

from tests.pace import goes_at
from tests.qmp import RawClient, socket_of, with_qemus_client
from tests.support import Mounted, MountFactory, run_throttlefs, wait_for
from throttlefs.settings.limits import RATES

MIB = 1 << 20
NO_LIMIT = dict.fromkeys(RATES, 0)


def image(mounted: Mounted, name: str = "disk.img", size: int = 64 * MIB) -> Path:
    with open(mounted.source / name, "wb") as file:
        file.truncate(size)
    return mounted.path / name


@contextmanager
def load(path: Path, *options: str) -> Iterator[subprocess.Popen[bytes]]:
    """fio on *path* until the block ends."""
    command = [
        "fio",
        "--name=load",
        f"--filename={path}",
        "--rw=randrw",
        "--bs=16k",
        "--iodepth=8",
        "--ioengine=libaio",
        "--direct=1",
        "--runtime=60",
        "--time_based",
        *options,
    ]
    with subprocess.Popen(command, stdout=subprocess.DEVNULL, cwd=path.parents[1]) as process:
        try:
            yield process
            assert process.poll() is None, "fio has failed"
        finally:
            process.send_signal(signal.SIGINT)
            process.wait(30)


def moved(client: RawClient, device: str = "disk.img") -> int:
    (one,) = client.run("x-throttlefs-query-stats", device=device)["return"]["images"]
    return int(one["read"]["bytes"] + one["write"]["bytes"])


def waiting(client: RawClient) -> int:
    """The requests that wait now."""
    images = client.run("x-throttlefs-query")["return"]["images"]
    return sum(image["waiting"]["read"] + image["waiting"]["write"] for image in images)


def rate(client: RawClient, seconds: float = 1.5, device: str = "disk.img") -> float:
    """Bytes a second that go through now."""
    before, began = moved(client, device), time.monotonic()
    time.sleep(seconds)
    return (moved(client, device) - before) / (time.monotonic() - began)


# -- the client that others wrote ------------------------------------------------------------


def test_qemus_client_tunes_a_drive(make_mount: MountFactory) -> None:
    mounted = make_mount("bps=4M")
    path = image(mounted)

    async def work(client: QMPClient) -> None:
        assert client.greeting is not None
        assert client.greeting.QMP.version["package"].startswith("throttlefs ")
        with path.open("rb"):
            limits = NO_LIMIT | {"bps": 2 * MIB, "bps_max": 8 * MIB, "bps_max_length": 2}
            await client.execute("block_set_io_throttle", {"device": "disk.img", **limits})
            (drive,) = await client.execute("query-block")
            inserted = drive["inserted"]
            assert {name: inserted[name] for name in limits} == limits
            (stats,) = await client.execute("query-blockstats")
            assert stats["device"] == "disk.img"
            with pytest.raises(ExecuteError, match="Device 'nope' not found") as caught:
                await client.execute("block_set_io_throttle", {"id": "nope", **NO_LIMIT})
            assert caught.value.error_class == "DeviceNotFound"
            with pytest.raises(ExecuteError, match="has not been found") as caught:
                await client.execute("nope")
            assert caught.value.error_class == "CommandNotFound"

    with_qemus_client(socket_of(mounted.entry), work)


@pytest.mark.parametrize(
    ("how", "reason"), [("quit", "host-qmp-quit"), ("TERM", "host-signal"), ("umount", "host-ui")]
)
def test_clients_hear_of_the_end(mounted: Mounted, how: str, reason: str) -> None:
    async def work(client: QMPClient) -> Any:
        with client.listener("SHUTDOWN") as events:
            if how == "quit":
                assert await client.execute("quit") == {}
            elif how == "TERM":
                os.kill(mounted.pid, signal.SIGTERM)
            else:
                await asyncio.to_thread(mounted.umount)
            return await events.get()

    event = with_qemus_client(socket_of(mounted.entry), work)
    assert event["data"] == {"guest": False, "reason": reason}
    assert abs(event["timestamp"]["seconds"] - time.time()) < 60
    mounted.wait_until_ended()


def test_quit_lets_everything_go(make_mount: MountFactory) -> None:
    mounted = make_mount("bps=64K")
    path = image(mounted)
    writer = subprocess.Popen(
        ["dd", "if=/dev/zero", f"of={path}", "bs=64k", "count=64", "conv=notrunc"],
        stderr=subprocess.DEVNULL,
    )
    with RawClient(socket_of(mounted.entry)) as client:
        wait_for(lambda: waiting(client) > 0)
        assert client.run("quit") == {"return": {}}
        assert writer.wait(20) == 0
    mounted.wait_until_ended()
    assert "quit: opening the gates" in mounted.log
    assert (mounted.source / "disk.img").stat().st_blocks * 512 == 4 * MIB


def test_fifty_clients_at_once(mounted: Mounted) -> None:
    path = socket_of(mounted.entry)
    for number in range(50):
        (mounted.source / f"{number}.img").write_bytes(b"")

    async def one(number: int) -> None:
        client = QMPClient(str(number))
        await client.connect(path)
        device = f"{number}.img"
        for bps in range(1, 11):
            limits = NO_LIMIT | {"bps": bps * 1000 + number}
            await client.execute("block_set_io_throttle", {"device": device, **limits})
            status = await client.execute("x-throttlefs-query", {"device": device})
            assert status["images"][0]["limits"] == {"bps": bps * 1000 + number}
        await client.disconnect()

    async def everyone() -> None:
        await asyncio.gather(*(one(number) for number in range(50)))

    asyncio.run(asyncio.wait_for(everyone(), 60))


# -- retuning under load ---------------------------------------------------------------------


def test_a_retune_acts_on_a_running_fio(make_mount: MountFactory) -> None:
    mounted = make_mount("bps=2M")
    path = image(mounted)
    with load(path), RawClient(socket_of(mounted.entry)) as client:
        wait_for(lambda: moved(client) > 0)
        goes_at(2 * MIB, lambda: rate(client))
        limits = NO_LIMIT | {"bps": 8 * MIB}
        assert client.run("block_set_io_throttle", device="disk.img", **limits) == {"return": {}}
        goes_at(8 * MIB, lambda: rate(client))
        os.setxattr(path, "user.throttlefs.bps", b"4M")
        goes_at(4 * MIB, lambda: rate(client))
        assert run_throttlefs("set", path, "bps=1M").returncode == 0
        goes_at(MIB, lambda: rate(client))
        assert os.getxattr(path, "user.throttlefs.bps") == b"1M"
        (drive,) = client.run("query-block")["return"]
        assert drive["inserted"]["bps"] == MIB


def test_a_retune_does_not_wait_for_synchronous_writes(make_mount: MountFactory) -> None:
    """The kernel holds the inode's lock meanwhile; the socket asks nothing of the kernel."""
    mounted = make_mount("bps=1K")
    path = image(mounted)
    with path.open("r+b", buffering=0) as file:
        file.write(bytes(65536))  # goes at once; the next one is due in 64 s
        writer = threading.Thread(target=file.write, args=(bytes(65536),))
        writer.start()
        with RawClient(socket_of(mounted.entry)) as client:
            wait_for(lambda: waiting(client) == 1)
            began = time.monotonic()
            result = run_throttlefs("set", path, "bps=256M")
            assert result.stdout == "disk.img: bps 1K -> 256M\n"
            writer.join(20)
            assert not writer.is_alive()
            assert time.monotonic() - began < 10
            assert waiting(client) == 0


def test_all_off_releases_what_waits(make_mount: MountFactory) -> None:
    mounted = make_mount("iops=1,group=slow")
    path = image(mounted)
    reader = subprocess.Popen(
        ["dd", f"if={path}", "of=/dev/null", "bs=4k", "count=500", "iflag=direct"],
        stderr=subprocess.DEVNULL,
    )
    with RawClient(socket_of(mounted.entry)) as client:
        wait_for(lambda: waiting(client) > 0)
    assert reader.poll() is None
    assert run_throttlefs("set", "--all", mounted.path, "off").returncode == 0
    assert reader.wait(10) == 0


# -- clients that are up to no good ----------------------------------------------------------


def hang(path: str) -> None:
    with RawClient(path, negotiate=False) as client:
        time.sleep(2)
        assert client.run("qmp_capabilities") == {"return": {}}


def half_a_line(path: str) -> None:
    with RawClient(path) as client:
        client.send(b'{"execute": "quer')
        time.sleep(1)
        client.send(b'\n{"execute": "query-status"}\n')
        assert client.receive()["error"]["desc"] == "JSON parse error, a string has no end"
        assert client.receive()["return"]["status"] == "running"


def flood(path: str) -> None:
    """Commands by the thousand, and no answer read."""
    with RawClient(path) as client:
        client.socket.settimeout(3)
        deadline = time.monotonic() + 3
        with pytest.raises(OSError):  # noqa: PT012
            while time.monotonic() < deadline:
                client.send(b'{"execute": "query-commands"}\n' * 100)
            raise TimeoutError


def hundred_mebibytes(path: str) -> None:
    with RawClient(path) as client, pytest.raises((BrokenPipeError, ConnectionResetError)):
        client.send(b'{"execute": "' + b"x" * (100 * MIB))


def deep_nesting(path: str) -> None:
    with RawClient(path) as client:
        client.send(b"[" * MIB + b"\n")
        assert client.receive()["error"]["desc"] == "JSON parse error, nested deeper than 64"
        assert "return" in client.run("query-status")


def binary(path: str) -> None:
    """What looks like a command is answered for itself, so there may be several errors."""
    with RawClient(path) as client:
        client.send(random.Random(1).randbytes(300_000).replace(b"\n", b"") + b"\n")
        client.send(b'{"execute": "query-status", "id": "after"}\n')
        answers = [client.receive()]
        while "id" not in answers[-1]:
            answers.append(client.receive())
        assert len(answers) > 1
        assert {answer["error"]["class"] for answer in answers[:-1]} == {"GenericError"}
        assert (answers[-1]["id"], answers[-1]["return"]["status"]) == ("after", "running")


def vanish(path: str) -> None:
    for _ in range(100):
        with RawClient(path, negotiate=False) as client:
            client.send(b'{"execute": "qmp_capabilities"}{"execute": "query-block"}')
            linger = struct.pack("ii", 1, 0)
            client.socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)


@pytest.mark.parametrize(
    "misbehave", [hang, half_a_line, flood, hundred_mebibytes, deep_nesting, binary, vanish]
)
def test_the_io_goes_on_whatever_a_client_does(make_mount: MountFactory, misbehave: Any) -> None:
    mounted = make_mount("bps=4M")
    path = image(mounted)
    with load(path), RawClient(socket_of(mounted.entry)) as client:

        def through() -> float:
            before, began = moved(client), time.monotonic()
            misbehave(socket_of(mounted.entry))
            time.sleep(max(0.0, began + 1.0 - time.monotonic()))
            return (moved(client) - before) / (time.monotonic() - began)

        wait_for(lambda: moved(client) > 0)
        goes_at(4 * MIB, through)
    assert "Traceback" not in mounted.log
    assert "error" not in mounted.log.lower()


def test_a_session_survives_malformed_lines(mounted: Mounted) -> None:
    with RawClient(socket_of(mounted.entry), negotiate=False) as client:
        assert client.run("query-status")["error"]["class"] == "CommandNotFound"
        assert client.run("qmp_capabilities") == {"return": {}}
        assert client.run("qmp_capabilities")["error"]["class"] == "CommandNotFound"
        for line in (b"junk\n", b"{]\n", b'{"execute": 5, "id": 3}\n', b"[1, 2]\n"):
            client.send(line)
            assert client.receive()["error"]["class"] == "GenericError"
        client.send(b'{"execute": "query-status", "id": {"a": [1, null]}}')
        answer = client.receive()
        assert answer["id"] == {"a": [1, None]}
        assert answer["return"]["status"] == "running"


def test_a_client_that_does_not_read_is_dropped(mounted: Mounted) -> None:
    path = socket_of(mounted.entry)
    with RawClient(path) as idle:
        idle.socket.settimeout(15)
        with pytest.raises((BrokenPipeError, ConnectionResetError)):  # noqa: PT012
            while True:
                idle.send(b'{"execute": "query-commands"}\n' * 1000)


def test_a_command_of_more_than_a_mebibyte_is_refused(mounted: Mounted) -> None:
    with RawClient(socket_of(mounted.entry)) as client:
        client.send(b'{"execute": "' + b"x" * (MIB - 13))
        client.send(b"x" * 4096)
        assert client.receive()["error"]["desc"] == "QMP input is longer than 1048576 bytes"
        assert client.is_closed()


# -- whose socket ----------------------------------------------------------------------------


def test_the_socket_is_the_users_own(mounted: Mounted) -> None:
    st = os.stat(socket_of(mounted.entry))
    assert stat.S_IMODE(st.st_mode) == 0o600
    assert st.st_uid == os.geteuid()


def test_a_socket_of_ones_choice(make_mount: MountFactory, tmp_path: Path) -> None:
    path = tmp_path / "own.sock"
    mounted = make_mount("", "--qmp", f"unix:{path}")
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    with RawClient(str(path)) as client:
        assert client.run("query-status")["return"]["running"] is True
    mounted.umount()
    assert not path.exists()


def test_a_stale_socket_is_replaced_and_a_live_one_is_not(
    make_mount: MountFactory, tmp_path: Path
) -> None:
    path = tmp_path / "own.sock"
    with socket.socket(socket.AF_UNIX) as stale:
        stale.bind(str(path))
    make_mount("", "--qmp", f"unix:{path}")
    other = tmp_path / "other"
    other.mkdir()
    result = run_throttlefs("mount", tmp_path / "src", other, "--qmp", f"unix:{path}")
    assert result.returncode == 1
    assert result.stderr.splitlines() == [
        f"throttlefs: cannot make the socket {path}: another process listens on it"
    ]
    assert not os.path.ismount(other)


@pytest.mark.parametrize(
    ("value", "status", "message"),
    [
        ("x.sock", 2, "--qmp: 'x.sock' is not unix:PATH"),
        ("unix:", 2, "--qmp: 'unix:' has no path"),
        ("unix:/nope/x.sock", 1, "cannot make the socket /nope/x.sock: No such file or directory"),
        ("unix:/" + "x" * 200, 1, "is longer than 107 bytes"),
        ("unix:/tmp/" + "x" * 95, 1, "x is too long; choose a shorter one"),
    ],
)
def test_a_socket_that_cannot_be(tmp_path: Path, value: str, status: int, message: str) -> None:
    for name in ("src", "mnt"):
        (tmp_path / name).mkdir()
    result = run_throttlefs("mount", tmp_path / "src", tmp_path / "mnt", "--qmp", value)
    assert result.returncode == status
    assert len(result.stderr.splitlines()) == 1
    assert message in result.stderr
    assert not os.path.ismount(tmp_path / "mnt")
