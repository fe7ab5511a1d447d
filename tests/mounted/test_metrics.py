"""The Prometheus metrics of a real mount, read by prometheus-client's own parser."""

from __future__ import annotations

import http.client
import os
import socket
import threading
import time
from contextlib import suppress
from pathlib import Path

import pytest
from prometheus_client.metrics_core import Metric
from prometheus_client.parser import text_string_to_metric_families

from tests.mounted.test_control import image, load, moved
from tests.pace import goes_at
from tests.qmp import RawClient, socket_of
from tests.support import Mounted, MountFactory, run_throttlefs, wait_for

MIB = 1 << 20


@pytest.fixture
def port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@pytest.fixture
def mount(make_mount: MountFactory, port: int) -> Mounted:
    mounted = make_mount(f"bps=4M,metrics=127.0.0.1:{port}")
    image(mounted)
    return mounted


def get(port: int, path: str = "/metrics", method: str = "GET") -> tuple[int, str, str]:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=20)
    connection.request(method, path)
    response = connection.getresponse()
    body = response.read().decode()
    connection.close()
    return response.status, response.getheader("Content-Type", ""), body


def families(port: int) -> dict[str, Metric]:
    status, content_type, body = get(port)
    assert status == 200
    assert content_type.startswith("text/plain; version=")
    found = {family.name: family for family in text_string_to_metric_families(body)}
    assert len(found) == body.count("# TYPE ") == body.count("# HELP "), "one header for each"
    return found


def value(families: dict[str, Metric], family: str, sample: str, **labels: str) -> float:
    (found,) = [
        one.value
        for one in families[family].samples
        if one.name == sample and one.labels.items() >= labels.items()
    ]
    return float(found)


def test_the_figures_are_those_of_the_image(mount: Mounted, port: int) -> None:
    with (mount.path / "disk.img").open("r+b", buffering=0) as file:
        for _ in range(4):
            file.write(bytes(65536))
    found = families(port)
    write = {"image": "disk.img", "operation": "write"}
    assert value(found, "throttlefs_requests", "throttlefs_requests_total", **write) == 4
    moved = value(
        found, "throttlefs_transferred_bytes", "throttlefs_transferred_bytes_total", **write
    )
    assert moved == 4 * 65536
    for name, least in (("wait", 0.01), ("service", 1e-6)):
        family = f"throttlefs_{name}_seconds"
        assert value(found, family, f"{family}_count", **write) == 4
        assert value(found, family, f"{family}_sum", **write) > least
        buckets = [s for s in found[family].samples if s.labels.items() >= write.items()]
        counts = [s.value for s in buckets if s.name == f"{family}_bucket"]
        assert counts == sorted(counts)
        assert counts[-1] == 4
    limit = value(
        found,
        "throttlefs_limit_bytes_per_second",
        "throttlefs_limit_bytes_per_second",
        image="disk.img",
        operation="total",
    )
    assert limit == 4 * MIB
    (info,) = found["throttlefs_mount_info"].samples
    assert info.labels["target"] == str(mount.path)
    assert all(family.documentation.endswith(".") for family in found.values())


def test_many_images_and_any_name_make_one_valid_text(make_mount: MountFactory, port: int) -> None:
    mounted = make_mount(f"metrics=127.0.0.1:{port}")
    names = [f"{number}.img" for number in range(30)] + ['odd "\\ \n ü', os.fsdecode(b"\xff")]
    for name in names:
        (mounted.source / name).write_bytes(b"x")
        (mounted.path / name).read_bytes()
    found = families(port)
    images = {
        sample.labels["image"]
        for sample in found["throttlefs_requests"].samples
        if sample.labels["operation"] == "read" and sample.value >= 1
    }
    assert images == {*names[:-1], "%FF"}


def test_scrapes_do_not_hold_up_the_io(mount: Mounted, port: int) -> None:
    for number in range(200):
        (mount.source / f"{number}.img").write_bytes(b"x")
        (mount.path / f"{number}.img").read_bytes()
    with load(mount.path / "disk.img"), RawClient(socket_of(mount.entry)) as client:

        def through() -> float:
            before, began = moved(client), time.monotonic()
            while time.monotonic() < began + 2:
                get(port)
            return (moved(client) - before) / (time.monotonic() - began)

        wait_for(lambda: moved(client) > 0)
        goes_at(4 * MIB, through)


def test_what_is_no_scrape_is_refused(mount: Mounted, port: int) -> None:
    assert get(port, "/nope")[0] == 404
    assert get(port, method="POST")[0] == 405
    assert get(port, method="HEAD")[::2] == (200, "")
    for garbage in (b"\xff" * 20_000, b"\r\n\r\n", b"GET"):
        with (
            socket.create_connection(("127.0.0.1", port), timeout=20) as client,
            suppress(OSError),  # it may hang up at any time
        ):
            client.sendall(garbage)
            client.shutdown(socket.SHUT_WR)
            assert b" 200 " not in client.recv(100)
    assert get(port)[0] == 200
    assert "Traceback" not in mount.log


def test_hanging_clients_keep_nobody_out(mount: Mounted, port: int) -> None:
    hanging = [socket.create_connection(("127.0.0.1", port), timeout=20) for _ in range(100)]
    try:
        assert get(port)[0] == 200
    finally:
        for client in hanging:
            client.close()


def test_many_scrapers_are_all_served_from_few_texts(mount: Mounted, port: int) -> None:
    (mount.path / "disk.img").read_bytes()
    bodies: list[str] = []
    scrapers = [
        threading.Thread(target=lambda: bodies.append(get(port)[2]), daemon=True) for _ in range(80)
    ]
    for scraper in scrapers:
        scraper.start()
    for scraper in scrapers:
        scraper.join(60)
    assert len(bodies) == 80, "nobody was turned away"
    assert all('image="disk.img"' in body for body in bodies)


def test_an_address_in_use_is_one_line(mount: Mounted, port: int, tmp_path: Path) -> None:
    other = tmp_path / "other"
    other.mkdir()
    result = run_throttlefs("mount", mount.source, other, "-o", f"metrics=127.0.0.1:{port}")
    assert result.returncode == 1
    assert result.stderr == (
        f"throttlefs: cannot serve metrics at 127.0.0.1:{port}: Address already in use;"
        " choose another metrics=\n"
    )
    assert not os.path.ismount(other)


def test_without_the_option_nothing_listens(mounted: Mounted) -> None:
    inodes = set()
    for fd in os.listdir(f"/proc/{mounted.pid}/fd"):
        link = os.readlink(f"/proc/{mounted.pid}/fd/{fd}")
        if link.startswith("socket:["):
            inodes.add(link[8:-1])
    for table in ("tcp", "tcp6"):
        lines = Path(f"/proc/{mounted.pid}/net/{table}").read_text().splitlines()[1:]
        assert inodes.isdisjoint(line.split()[9] for line in lines)
