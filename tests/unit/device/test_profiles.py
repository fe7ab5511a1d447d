"""The shipped profiles on a virtual clock: their latencies are those that they say."""

from __future__ import annotations

import random

import pytest

from tests.unit.throttle.simulator import MIB, Simulator
from throttlefs.device import Disk
from throttlefs.settings.device import Device
from throttlefs.settings.profiles import shipped, split_settings

READ, WRITE, FLUSH = range(3)
KINDS = {READ: "latency_rd", WRITE: "latency_wr", FLUSH: "latency_flush"}
BLOCK = 4096
MS = 10**6


def device_of(name: str) -> Device:
    return split_settings(shipped().settings(name))[1].changed(seed=1)


def times(device: Device, kind: int, offsets: list[int]) -> list[int]:
    """How long each of these requests takes, one after the other, in order of length."""
    disk = Disk(device)
    spot = disk.attach("image", "image", device.size or 1 << 30)
    now, found = 0, []
    for offset in offsets:
        _, end = disk.serve(kind, False, spot, offset, BLOCK, now)
        found.append(end - now)
        now = end
    return sorted(found)


def at(found: list[int], fraction: float) -> int:
    return found[round(fraction * len(found)) - 1]


CASES = [
    (name, kind)
    for name in shipped().names
    for kind, latency in KINDS.items()
    if split_settings(shipped().settings(name))[1].latency_of(latency)
]


@pytest.mark.parametrize(("name", "kind"), CASES)
def test_percentiles(name: str, kind: int) -> None:
    device = device_of(name)
    said = device.latency_of(KINDS[kind])
    found = times(device, kind, [0] * 20_000)
    for fraction, latency, rel in zip((0.5, 0.99, 0.999), said, (0.01, 0.02, 0.05), strict=False):
        assert at(found, fraction) == pytest.approx(latency, rel=rel)
    assert found[-1] <= said[-1]


def test_every_profile_with_a_slow_device_is_tried() -> None:
    slow = {name for name in shipped().names if device_of(name).is_slow}
    assert slow == {name for name, _ in CASES} | {"floppy"}


@pytest.mark.parametrize(("name", "seek_ms", "turn_ms"), [
    ("hdd-7200", 7.4, 60_000 / 7200),
    ("floppy", 3 + 197 * 8 / 15, 200),
])  # fmt: skip
def test_a_head_seeks_and_waits_half_a_turn_on_average(
    name: str, seek_ms: float, turn_ms: float
) -> None:
    device = device_of(name)
    offsets = random.Random(1)
    places = [offsets.randrange(device.size // BLOCK) * BLOCK for _ in range(20_000)]
    found = times(device, READ, places)
    assert sum(found) / len(found) / MS == pytest.approx(seek_ms + turn_ms / 2, rel=0.02)
    in_order = times(device, READ, [BLOCK * number for number in range(100)])
    assert in_order[-2] == 0, "what follows on directly costs neither, but the first one does"


def test_a_hard_disk_has_the_latency_of_a_turn_for_each_flush() -> None:
    found = times(device_of("hdd-7200"), FLUSH, [0] * 20_000)
    assert sum(found) / len(found) / MS == pytest.approx(9.22, rel=0.01)


@pytest.mark.parametrize(("name", "per_second"), [("sd-card", 1500), ("usb2-stick", 1010)])
def test_one_place_serves_one_after_the_other(name: str, per_second: int) -> None:
    device = device_of(name)
    assert device.queue_depth == 1
    assert 10**9 / device.latency_rd[0] == pytest.approx(per_second, rel=0.001)


def test_gp2_bursts_for_2000_seconds_at_100_gib() -> None:
    """3,000 a second while the credits last, then 300, on the limiter's own arithmetic."""
    limits, _ = split_settings(shipped().settings("aws-gp2"))
    at_size = limits.at(100 << 30).changed(bps=0)  # which would be the stricter for large requests
    simulator = Simulator(keep=False)
    leaf = simulator.leaf(at_size)
    # Requests that count as 256 each, or there would be millions.
    client = simulator.client(leaf, READ, 64 * MIB)
    rates = []
    for _ in range(6):
        before = client.requests
        simulator.run(500)
        rates.append((client.requests - before) * 256 / 500)
    assert rates[:4] == pytest.approx([3000] * 4, rel=0.01)
    assert rates[4:] == pytest.approx([300] * 2, rel=0.01)
