"""Rates that are no whole numbers on a real mount: they are held, and shown alike everywhere."""

from __future__ import annotations

import json
import os
import socket
import time
from pathlib import Path

from prometheus_client.parser import text_string_to_metric_families

from tests.mounted.test_metrics import get
from tests.support import Mounted, MountFactory, fails, run_throttlefs


def image(mounted: Mounted) -> Path:
    (mounted.source / "disk.img").write_bytes(bytes(64 << 10))
    return mounted.path / "disk.img"


def test_half_a_request_a_second_lets_one_through_in_two_seconds(make_mount: MountFactory) -> None:
    path = image(make_mount("iops=0.5"))
    fd = os.open(path, os.O_RDONLY)
    try:
        began = time.monotonic()
        for number in range(3):
            assert os.pread(fd, 4096, number * 4096) == bytes(4096)
        # The first goes at once. An upper bound would be a test of the machine.
        assert time.monotonic() - began > 3.9
    finally:
        os.close(fd)
    (row,) = [json.loads(line) for line in shown("stats", "--json", path).splitlines()]
    assert row["read"]["requests"] == 3


def test_every_way_to_tune_shows_the_same_fraction(make_mount: MountFactory) -> None:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    mounted = make_mount(f"iops=0.25,bps=0.1K,metrics=127.0.0.1:{port}")
    path = image(mounted)
    assert os.getxattr(path, "user.throttlefs.iops") == b"0.25"
    assert os.getxattr(path, "user.throttlefs.bps") == b"102.4"
    os.setxattr(path, "user.throttlefs.iops_rd", b"0.002")
    assert shown("set", path, "iops=1.5") == "disk.img: iops 0.25 -> 1.5\n"
    limits = json.loads(shown("show", "--json", path))["limits"]
    assert limits == {"bps": 102.4, "iops": 1.5, "iops_rd": 0.002}
    assert "bps=102.4,iops=1.5,iops_rd=0.002" in shown("show", path)
    toml = shown("show", "--toml", mounted.path)
    assert "iops = 0.25" in toml
    assert "iops_rd = 0.002" in toml
    samples = [
        (sample.name, sample.labels["operation"], sample.value)
        for family in text_string_to_metric_families(get(port)[2])
        for sample in family.samples
        if "limit" in sample.name
    ]
    assert ("throttlefs_limit_bytes_per_second", "total", 102.4) in samples
    assert ("throttlefs_limit_requests_per_second", "total", 1.5) in samples
    assert ("throttlefs_limit_requests_per_second", "read", 0.002) in samples


def test_what_show_writes_can_be_mounted_again(make_mount: MountFactory, tmp_path: Path) -> None:
    mounted = make_mount("iops=0.25")
    shown("set", image(mounted), "bps_wr=0.5", "bps_wr_max=1.000001")
    config = tmp_path / "limits.toml"
    config.write_text(shown("show", "--toml", mounted.path))
    mounted.umount()
    again = make_mount(f"config={config}")
    limits = json.loads(shown("show", "--json", image(again)))["limits"]
    assert limits == {"iops": 0.25, "bps_wr": 0.5, "bps_wr_max": 1.000001}


def test_a_rate_that_is_too_small_is_one_clear_line(
    make_mount: MountFactory, tmp_path: Path
) -> None:
    message = fails("mount", tmp_path, tmp_path, "-o", "iops=0.0001", status=2)
    assert message == (
        "throttlefs: iops: '0.0001' is too small; the smallest rate is 0.001 a second"
    )
    path = image(make_mount("iops=0.5"))
    assert "smallest rate is 0.001" in fails("set", path, "bps=0.0001", status=2)


def shown(*args: object) -> str:
    result = run_throttlefs(*args)
    assert result.returncode == 0, result.stderr
    return result.stdout
