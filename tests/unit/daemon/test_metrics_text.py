"""The text of the metrics, read by prometheus-client's parser."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType, SimpleNamespace
from typing import Any

import pytest
import trio
from prometheus_client.metrics_core import Metric
from prometheus_client.parser import text_string_to_metric_families

from throttlefs.cluster.keeper import Standing, State
from throttlefs.cluster.member import ShareStatus
from throttlefs.control.images import KnownImage
from throttlefs.daemon.metrics import MountMetrics
from throttlefs.settings.limits import Limits
from throttlefs.settings.shared import SharedStore, parse_store_address
from throttlefs.stats import ImageStatistics


def known(path: str, **limits: int) -> KnownImage:
    statistics = ImageStatistics((1, hash(path)), path.encode())
    meter = SimpleNamespace(limits=Limits(**limits))
    image: Any = SimpleNamespace(waiting=[3, 0], meter=meter, device=None)
    return KnownImage(statistics.key, statistics.path, image, statistics)  # type: ignore[arg-type]


def families(
    *images: KnownImage, shares: Mapping[str, ShareStatus] = MappingProxyType({})
) -> tuple[str, dict[str, Metric]]:
    meter = SimpleNamespace(limits=Limits(iops_rd=7))
    groups = [SimpleNamespace(name='g"1', meter=meter, device=None)]
    metrics = MountMetrics(
        SimpleNamespace(known=lambda: list(images)),  # type: ignore[arg-type]
        SimpleNamespace(  # type: ignore[arg-type]
            groups=lambda: groups, group=lambda name: groups[0], lease_clock=lambda: 5_000_000_000
        ),
        "/srv/a\\b",
        "/mnt/\udcff",
        lambda: shares,
    )
    text = trio.run(metrics.text).decode()
    found = {family.name: family for family in text_string_to_metric_families(text)}
    assert len(found) == text.count("# TYPE ") == text.count("# HELP "), "one header for each"
    return text, found


def value(family: Metric, sample: str, **labels: str) -> float:
    (found,) = [
        one.value
        for one in family.samples
        if one.name == sample and one.labels.items() >= labels.items()
    ]
    return float(found)


def test_what_a_shared_group_holds() -> None:
    store = SharedStore(parse_store_address("valkey://store/0/k"))
    standing = Standing(State.LOST, using=(0, 0, 0, 0, 2.5, 0), hosts=3, heard=4_500_000_000)
    _, found = families(shares={'g"1': ShareStatus('g"1', store, standing, None)})
    name = "throttlefs_shared_held_requests_per_second"
    assert value(found[name], name, group='g"1', operation="read") == 2.5
    for name, expected in (
        ("throttlefs_shared_store_lost", 1),
        ("throttlefs_shared_hosts", 3),
        ("throttlefs_shared_answer_age_seconds", 0.5),
    ):
        assert value(found[name], name, group='g"1') == expected
    assert not any("shared" in name for name in families()[1])


def test_a_histogram_adds_up() -> None:
    image = known("a.img")
    assert image.statistics is not None
    for service_ns in (0, 1023, 1024, 5_000_000, 1 << 40):
        image.statistics.read.served(4096, service_ns)
    image.statistics.read.waited(2_000_000, 4)
    _, found = families(image)
    family = found["throttlefs_service_seconds"]
    read = {"image": "a.img", "operation": "read"}
    buckets = {
        one.labels["le"]: one.value
        for one in family.samples
        if one.name.endswith("_bucket") and one.labels.items() >= read.items()
    }
    assert list(buckets) == [*(repr(2**octave / 1e9) for octave in range(10, 36, 2)), "+Inf"]
    assert buckets["1.024e-06"] == 2
    assert buckets["4.096e-06"] == 3
    assert buckets["0.004194304"] == 3
    assert buckets["0.016777216"] == 4
    assert buckets["17.179869184"] == 4
    assert buckets["+Inf"] == value(family, family.name + "_count", **read) == 5
    assert value(family, family.name + "_sum", **read) == pytest.approx(
        (1023 + 1024 + 5_000_000 + (1 << 40)) / 1e9
    )
    waits = found["throttlefs_wait_seconds"]
    assert value(waits, "throttlefs_wait_seconds_sum", **read) == 0.002
    assert value(waits, "throttlefs_wait_seconds_bucket", le="1.024e-06", **read) == 4
    assert value(waits, "throttlefs_wait_seconds_bucket", le="0.004194304", **read) == 5


def test_limits_are_there_if_they_hold_and_waiting_requests_by_operation() -> None:
    _, found = families(known("a.img", bps=5, iops_wr=9), known("b.img"))
    (limit,) = found["throttlefs_limit_bytes_per_second"].samples
    assert (limit.labels, limit.value) == ({"image": "a.img", "operation": "total"}, 5)
    (limit,) = found["throttlefs_limit_requests_per_second"].samples
    assert (limit.labels, limit.value) == ({"image": "a.img", "operation": "write"}, 9)
    (limit,) = found["throttlefs_group_limit_requests_per_second"].samples
    assert (limit.labels, limit.value) == ({"group": 'g"1', "operation": "read"}, 7)
    for name in ("throttlefs_waiting_requests", "throttlefs_waiting_requests_max"):
        assert value(found[name], name, image="a.img", operation="read") == 3


def test_names_are_escaped() -> None:
    name = 'odd "\\ \n ü'
    _, found = families(known(name))
    labels = {one.labels["image"] for one in found["throttlefs_requests"].samples}
    assert labels == {name}
    (info,) = found["throttlefs_mount_info"].samples
    assert info.value == 1
    assert info.labels["source"] == "/srv/a\\b"
    assert info.labels["target"] == "/mnt/?"


def test_an_image_without_figures_has_zeros() -> None:
    text, found = families(
        KnownImage((1, 2), b"a.img", None, None), KnownImage((1, 3), b"", None, None)
    )
    assert {one.value for one in found["throttlefs_wait_seconds"].samples} == {0}
    assert 'image=""' not in text, "what has no name is left out"
