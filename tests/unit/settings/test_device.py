import dataclasses

import pytest
from hypothesis import given
from hypothesis import strategies as st

from throttlefs.settings.device import (
    DEVICE_HELP,
    DEVICE_NAMES,
    LATENCIES,
    LONGEST_LATENCY,
    NO_DEVICE,
    Device,
    DeviceError,
    check_group_device,
    device_name,
    example_of,
    format_setting,
    option_key,
    parse_setting,
)
from throttlefs.settings.limits import NO_LIMITS, Limits

MS = 10**6


def durations(most):
    times = st.lists(st.integers(1, LONGEST_LATENCY), min_size=0, max_size=most)
    return times.map(lambda values: tuple(sorted(values)))


devices = st.builds(
    Device,
    **{name: durations(3) for name in LATENCIES},
    queue_depth=st.integers(0, 65_535),
    seek=durations(2),
    rpm=st.integers(0, 1_000_000),
    size=st.integers(0, 10**15),
    seed=st.none() | st.integers(0, 10**15),
)


def test_the_fields_are_the_names():
    assert tuple(field.name for field in dataclasses.fields(Device)) == DEVICE_NAMES
    assert tuple(DEVICE_HELP) == DEVICE_NAMES
    assert all(device_name(name) == name for name in DEVICE_NAMES)


def test_every_example_is_a_value():
    for name in DEVICE_NAMES:
        assert format_setting(name, parse_setting(name, example_of(name))) == example_of(name)


@pytest.mark.parametrize(
    ("name", "canonical"),
    [
        ("latency-rd", "latency_rd"),
        ("latency_read", "latency_rd"),
        ("latency-write", "latency_wr"),
        ("queue-depth", "queue_depth"),
        ("bps", None),
        ("Latency", None),
    ],
)
def test_synonyms(name, canonical):
    assert device_name(name) == canonical
    assert option_key(name) == canonical or name in ("bps", "Latency")


@pytest.mark.parametrize(
    ("name", "value", "parsed"),
    [
        ("latency", "5ms", (5 * MS,)),
        ("latency_rd", "200us/2ms", (200_000, 2 * MS)),
        ("latency_wr", "200us/2ms/10ms", (200_000, 2 * MS, 10 * MS)),
        ("latency_flush", "0/0/1s", (0, 0, 1000 * MS)),
        ("latency", "0", ()),
        ("latency", 0, ()),
        ("seek", "1ms/18ms", (MS, 18 * MS)),
        ("seek", "8.5ms", (8_500_000,)),
        ("queue_depth", "4", 4),
        ("queue_depth", 4, 4),
        ("rpm", 7200.0, 7200),
        ("size", "1.5G", 3 << 29),
        ("seed", "0", 0),
    ],
)
def test_values(name, value, parsed):
    assert parse_setting(name, value) == parsed


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("latency", "5", "latency: '5' has no unit; write e.g. 5ms (units ns, us, ms, s, min, h)"),
        ("latency", 5, "latency: '5' has no unit; write e.g. 5ms (units ns, us, ms, s, min, h)"),
        ("latency_rd", "2ms/1ms", "latency_rd: '2ms/1ms': percentiles must not fall"),
        ("latency-rd", "1ms/2ms/3ms/4ms", "latency-rd: '1ms/2ms/3ms/4ms' has more than 3 times"),
        ("latency", "2h", "latency: '2h' is too long; the longest time is 1h"),
        ("latency", "", "latency: the value is missing; write e.g. 5ms (units ns, us, ms, s, "),
        ("latency", "1ms/", "latency: the value is missing; write e.g. 5ms (units ns, us, ms, s, "),
        ("latency", "5m", "latency: '5m' is not a time; write e.g. 5ms (units ns, us, ms, s, "),
        ("latency", True, "latency: 'True' is not a time; write e.g. 5ms (units ns, us, ms, s, "),
        ("seek", "18ms/1ms", "seek: '18ms/1ms': a longer way must not take less time"),
        ("seek", "1ms/2ms/3ms", "seek: '1ms/2ms/3ms' has more than 2 times"),
        ("queue_depth", "65536", "queue_depth: '65536' is not a whole number from 0 to 65535"),
        ("queue_depth", "4.5", "queue_depth: '4.5' is not a whole number from 0 to 65535"),
        ("queue_depth", True, "queue_depth: 'True' is not a whole number from 0 to 65535"),
        ("rpm", "-1", "rpm: '-1' is not a whole number from 0 to 1000000"),
        ("size", "10X", "size: '10X' is not a number; write e.g. 3000, 10K or 1.5M (suffixes K, "),
        ("bps", "1M", "'bps' is not the name of a setting of a device"),
    ],
)
def test_wrong_values_name_the_setting_and_the_cure(name, value, message):
    with pytest.raises(DeviceError) as caught:
        parse_setting(name, value)
    assert str(caught.value).startswith(message)
    assert caught.value.option == name
    assert "\n" not in str(caught.value)


@given(devices)
def test_a_device_is_read_back_from_its_text(device):
    assert Device.parse(device.as_text()) == device
    items = str(device).split(",") if str(device) else []
    assert Device.parse(dict(item.split("=") for item in items)) == device
    assert Device(**device.as_dict()) == device


def test_one_setting_under_two_names_is_refused():
    with pytest.raises(DeviceError, match="latency-read and latency_rd are the same setting"):
        Device.parse({"latency_rd": "1ms", "latency-read": "2ms"})


def test_latency_holds_for_what_has_none_of_its_own():
    device = Device.parse({"latency": "5ms", "latency_wr": "1ms"})
    assert device.latency_of("latency_rd") == device.latency_of("latency_flush") == (5 * MS,)
    assert device.latency_of("latency_wr") == (MS,)


@pytest.mark.parametrize(
    ("text", "is_slow", "has_head"),
    [
        ({}, False, False),
        ({"size": "100G", "seed": "1"}, False, False),
        ({"latency_flush": "1ms"}, True, False),
        ({"queue_depth": "1"}, True, False),
        ({"seek": "1ms/18ms"}, True, True),
        ({"rpm": "7200"}, True, True),
    ],
)
def test_what_makes_a_device(text, is_slow, has_head):
    device = Device.parse(text)
    assert (device.is_slow, device.has_head) == (is_slow, has_head)
    assert (device == NO_DEVICE) == (not text)


def test_a_group_with_a_head_needs_a_size():
    for name in ("seek", "rpm"):
        with pytest.raises(DeviceError, match=f"^{name} needs size, .* add e.g. size=100G$"):
            check_group_device(NO_LIMITS, Device.parse({name: example_of(name)}))
    with pytest.raises(DeviceError, match=r"^bps_rd_per_gib needs size"):
        check_group_device(Limits(bps_rd_per_gib=1), NO_DEVICE)
    check_group_device(Limits(iops_per_gib=1), Device.parse({"seek": "1ms/18ms", "size": "1G"}))
    check_group_device(Limits(iops=1), Device.parse({"latency": "1ms"}))
