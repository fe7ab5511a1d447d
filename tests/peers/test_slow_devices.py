"""fio on a slow device: its percentiles and its places, through a real mount."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path
from typing import Any

from tests.pace import TRIES, goes_at
from tests.support import Mounted, MountFactory

MIB = 1 << 20


def fio(mounted: Mounted, rw: str, depth: int, seconds: float, *more: str) -> dict[str, Any]:
    """Run fio on an image of the mount; what it says of reads, writes and syncs."""
    path = mounted.source / "disk.img"
    with open(path, "ab") as file:
        file.truncate(64 * MIB)
    engine = "libaio" if depth > 1 else "psync"
    output = subprocess.run(
        [
            "fio",
            "--name=x",
            f"--filename={mounted.path / 'disk.img'}",
            f"--rw={rw}",
            "--bs=4k",
            "--size=64M",
            f"--iodepth={depth}",
            f"--ioengine={engine}",
            "--direct=1",
            f"--runtime={seconds}",
            "--time_based",
            "--output-format=json",
            *more,
        ],
        check=True,
        capture_output=True,
        text=True,
        cwd=mounted.source.parent,
        timeout=60,
    ).stdout
    job: dict[str, Any] = json.loads(output[output.index("{") :])["jobs"][0]
    return job


def test_places_serve_so_many_in_each_latency(make_mount: MountFactory) -> None:
    mounted = make_mount("latency=20ms,queue_depth=4")
    goes_at(200, lambda: fio(mounted, "randread", 16, 2)["read"]["iops"])


def test_a_disk_of_credits_bursts_and_then_has_the_rate_of_its_size(
    make_mount: MountFactory,
) -> None:
    """aws-gp2 with smaller figures: 30 a second for 10 GiB, and bursts of 300 from 300 credits."""
    rates = "iops_per_gib=3,iops_at_least=10,iops_at_most=160,iops_max=300,iops_max_length=1"
    options = f"{rates},size=10G,latency=2ms,queue_depth=32"
    for _ in range(TRIES):
        mounted = make_mount(options)
        total = fio(mounted, "randread", 16, 4)["read"]["total_ios"]
        mounted.umount()
        # The credits, and what came in meanwhile; a few more may be under way at the end.
        expected = 300 + 4 * 30
        assert total < 1.25 * expected
        if total > 0.75 * expected:
            return
    raise AssertionError(f"{total} requests instead of {expected}")


def test_percentiles_are_those_of_the_device(make_mount: MountFactory) -> None:
    mounted = make_mount("latency_wr=10ms/40ms,seed=1")
    for _ in range(TRIES):
        found = fio(mounted, "randwrite", 16, 2)["write"]["clat_ns"]["percentile"]
        median, slow = (found[name] / 1e6 for name in ("50.000000", "99.000000"))
        # Nothing may be faster than the device, ever.
        assert median >= 9.5
        assert slow >= 30
        if median < 13 and slow < 55:
            return
    raise AssertionError(f"{median:.1f} and {slow:.1f} ms instead of 10 and 40")


def test_a_head_reads_on_faster_than_it_seeks(make_mount: MountFactory, tmp_path: Path) -> None:
    mounted = make_mount("seek=5ms/10ms,rpm=7200,latency=1ms")
    rates = {rw: fio(mounted, rw, 1, 2)["read"]["iops"] for rw in ("read", "randread")}
    assert rates["randread"] < 1 / 0.006
    assert rates["read"] > 2 * rates["randread"]


def test_each_sync_after_a_write_takes_the_flush(make_mount: MountFactory) -> None:
    mounted = make_mount("latency_flush=30ms")
    found = fio(mounted, "randwrite", 1, 2, "--fsync=1")
    assert found["sync"]["lat_ns"]["min"] >= 29.9e6
    assert found["sync"]["total_ios"] <= 2.5 / 0.030
