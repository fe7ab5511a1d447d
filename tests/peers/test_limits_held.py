"""dd and fio through a real mount: they get what the limits say, no more and hardly less.

Tolerances are wide (10 %), since these machines are shared; ``scripts/bench accuracy`` has the
exact figures.
"""

from __future__ import annotations

import json
import os
import subprocess
import time
from pathlib import Path

import pytest

from tests.pace import goes_at, takes, takes_less_than
from tests.qmp import RawClient, socket_of
from tests.support import Mounted, MountFactory, needs_root, wait_for

KIB, MIB = 1 << 10, 1 << 20
SECONDS = 2.0
TOLERANCE = 0.10


def image(mounted: Mounted, name: str = "disk.img", size: int = 256 * MIB) -> Path:
    with open(mounted.source / name, "wb") as file:
        file.truncate(size)
    return mounted.path / name


def fio(
    path: Path, rw: str, block_size: int, depth: int, seconds: float = SECONDS
) -> dict[str, dict[str, float]]:
    """Run fio for a while; bytes, requests and seconds of each direction."""
    output = subprocess.run(
        [
            "fio",
            "--name=x",
            f"--filename={path}",
            f"--rw={rw}",
            f"--bs={block_size}",
            f"--iodepth={depth}",
            "--ioengine=libaio",
            "--direct=1",
            f"--runtime={seconds}",
            "--time_based",
            "--output-format=json",
        ],
        check=True,
        capture_output=True,
        text=True,
        cwd=path.parents[1],
        timeout=60,
    ).stdout
    job = json.loads(output[output.index("{") :])["jobs"][0]
    return {
        direction: {
            "bytes": job[direction]["io_bytes"],
            "requests": job[direction]["total_ios"],
            "seconds": job[direction]["runtime"] / 1000,
        }
        for direction in ("read", "write")
    }


CASES = [
    # option, workload, block size, depth, unit, limit, direction
    ("bps=8M", "randread", 64 * KIB, 4, "bytes", 8 * MIB),
    ("bps=8M", "write", 64 * KIB, 1, "bytes", 8 * MIB),
    ("bps_rd=20M", "read", 128 * KIB, 8, "bytes", 20 * MIB),
    ("bps_wr=4M", "randwrite", 4 * KIB, 32, "bytes", 4 * MIB),
    ("iops=200", "randread", 4 * KIB, 1, "requests", 200),
    ("iops=500", "randwrite", 16 * KIB, 16, "requests", 500),
    ("iops_rd=1000", "randread", 4 * KIB, 8, "requests", 1000),
    ("iops_wr=3000", "randwrite", 4 * KIB, 32, "requests", 3000),
    ("bps=100M,iops=100", "randread", 4 * KIB, 4, "requests", 100),
    ("bps=1M,iops=5000", "randwrite", 4 * KIB, 4, "bytes", MIB),
]


@pytest.mark.parametrize(("options", "rw", "block_size", "depth", "unit", "limit"), CASES)
def test_fio_gets_the_limit(
    make_mount: MountFactory,
    options: str,
    rw: str,
    block_size: int,
    depth: int,
    unit: str,
    limit: int,
) -> None:
    mounted = make_mount(options)
    path = image(mounted)
    direction = "read" if "read" in rw else "write"
    one = block_size if unit == "bytes" else 1

    def rate() -> float:
        result = fio(path, rw, block_size, depth)[direction]
        return (result[unit] - one) / result["seconds"]

    goes_at(limit, rate, TOLERANCE)


def test_a_total_is_shared_by_reads_and_writes(make_mount: MountFactory) -> None:
    path = image(make_mount("bps=8M"))

    def total() -> float:
        result = fio(path, "randrw", 32 * KIB, 8)
        moved = sum(result[direction]["bytes"] for direction in ("read", "write"))
        return moved / max(result[direction]["seconds"] for direction in ("read", "write"))

    goes_at(8 * MIB, total, TOLERANCE)


def test_a_read_limit_leaves_writes_alone(make_mount: MountFactory) -> None:
    mounted = make_mount("bps_rd=1M")
    path = image(mounted)
    reader = subprocess.Popen(
        ["dd", f"if={path}", "of=/dev/null", "bs=64k", "count=640", "iflag=direct"],
        stderr=subprocess.DEVNULL,
    )
    with open(path, "r+b", buffering=0) as file:
        for _ in range(64):
            file.write(bytes(64 * KIB))
    assert reader.poll() is None, "the reader is held up for 40 s"
    reader.terminate()
    reader.wait(30)


@pytest.mark.parametrize(("options", "mebibytes"), [("bps=4M", 8), ("bps_wr=10M", 20)])
def test_dd_takes_as_long_as_the_limit_says(
    make_mount: MountFactory, options: str, mebibytes: int
) -> None:
    mounted = make_mount(options)
    path = image(mounted)
    command = ["dd", "if=/dev/zero", f"of={path}", "bs=256k", f"count={mebibytes * 4}"]
    command += ["conv=notrunc"]
    takes(2.0, lambda: subprocess.run(command, check=True, capture_output=True))


def test_a_request_larger_than_a_second_goes_through(make_mount: MountFactory) -> None:
    """512 KiB at 256 KiB/s: the first goes at once, the second when that is paid, after 2 s."""
    mounted = make_mount("bps=256K")
    path = image(mounted)
    buffer = bytes(512 * KIB)
    with open(path, "r+b", buffering=0) as file:
        began = time.monotonic()
        os.pwrite(file.fileno(), buffer, 0)
        assert time.monotonic() - began < 1.8
        takes(2.0, lambda: os.pwrite(file.fileno(), buffer, 0), rel=0.25)


def test_two_images_have_a_limit_each(make_mount: MountFactory) -> None:
    mounted = make_mount("bps=4M")
    paths = [image(mounted, name) for name in ("a", "b")]
    takes(2.0, lambda: write_at_once(paths, 64))


def write_at_once(paths: list[Path], blocks: int) -> None:
    """So many blocks of 128 KiB to each, side by side."""
    writers = [
        subprocess.Popen(
            ["dd", "if=/dev/zero", f"of={path}", "bs=128k", f"count={blocks}", "conv=notrunc"],
            stderr=subprocess.DEVNULL,
        )
        for path in paths
    ]
    assert [writer.wait(60) for writer in writers] == [0, 0]


def test_hard_links_share_one_limit(make_mount: MountFactory) -> None:
    mounted = make_mount("bps=4M")
    image(mounted, "a")
    os.link(mounted.path / "a", mounted.path / "b")
    takes(2.0, lambda: write_at_once([mounted.path / name for name in "ab"], 32))


@needs_root("make the kernel forget a file")
@pytest.mark.parametrize("loophole", ["close", "rename"])
def test_debt_has_no_loophole(make_mount: MountFactory, loophole: str) -> None:
    """Closing, forgetting or renaming the image does not forgive what it owes."""
    mounted = make_mount("bps=1M,attr_timeout=0,entry_timeout=0")
    path = image(mounted)

    def write() -> None:
        nonlocal path
        for turn in range(5):
            with open(path, "r+b", buffering=0) as file:
                file.write(bytes(512 * KIB))
            if loophole == "rename":
                path = path.rename(mounted.path / f"disk{turn}")
            Path("/proc/sys/vm/drop_caches").write_text("2")

    write()
    takes(2.5, write)


def test_reading_a_small_file_owes_no_more_than_its_size(make_mount: MountFactory) -> None:
    """Programs read 128 KiB at a time; what is not there is not charged."""
    mounted = make_mount("bps=10K")
    (mounted.source / "f").write_bytes(b"x" * 1000)
    began = time.monotonic()
    for _ in range(5):
        assert len((mounted.path / "f").read_bytes()) == 1000
    assert time.monotonic() - began < 10, "5 times 128 KiB would take 51 s, less the first"


def test_metadata_and_fsync_are_free(make_mount: MountFactory) -> None:
    mounted = make_mount("iops=2")
    path = image(mounted)
    began = time.monotonic()
    with open(path, "r+b", buffering=0) as file:
        for _ in range(20):
            os.fsync(file.fileno())
            os.ftruncate(file.fileno(), 1000)
            os.utime(path)
    assert time.monotonic() - began < 15, "60 requests would take half a minute"


def waiting(client: RawClient) -> int:
    """How many writes of the image ``slow`` wait."""
    images = client.run("x-throttlefs-query")["return"]["images"]
    return sum(image["waiting"]["write"] for image in images if image["device"] == "slow")


def test_a_throttled_image_does_not_hold_up_its_neighbour(make_mount: MountFactory) -> None:
    mounted = make_mount("bps=1M")
    slow, other = image(mounted, "slow"), image(mounted, "other")
    flood = subprocess.Popen(
        [
            "fio",
            "--name=flood",
            f"--filename={slow}",
            "--rw=randwrite",
            "--bs=64k",
            "--iodepth=64",
            "--ioengine=libaio",
            "--direct=1",
            "--runtime=60",
            "--time_based",
        ],
        stdout=subprocess.DEVNULL,
        cwd=mounted.path.parent,
    )
    with RawClient(socket_of(mounted.entry)) as client, open(other, "r+b", buffering=0) as file:
        for _ in range(5):
            # With so much before it a write would wait for 2 s or more.
            wait_for(lambda: waiting(client) > 32)
            takes_less_than(1.0, lambda: file.write(bytes(4 * KIB)))
    flood.terminate()
    flood.wait(30)
