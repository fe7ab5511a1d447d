"""The settings of slow devices, and rates that grow, in ``-o`` and in the configuration file."""

from __future__ import annotations

import textwrap
from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st

from throttlefs.settings.config import parse_config
from throttlefs.settings.config_table import ConfigError
from throttlefs.settings.device import DEVICE_NAMES, Device, example_of
from throttlefs.settings.limits import NO_LIMITS, RATES, SMALLEST_DISK, Limits, LimitsError
from throttlefs.settings.option_values import OptionError
from throttlefs.settings.options import MountOptions, as_option, parse_options, why_not_in_flight

GIB = 1 << 30


# -o


def test_a_device_in_o():
    options = parse_options(["latency=200us/2ms,latency-write=5ms", "queue_depth=4,seed=7"])
    assert options.device == Device.parse(
        {"latency": "200us/2ms", "latency_wr": "5ms", "queue_depth": 4, "seed": 7}
    )
    assert options.device_given
    assert not options.limits_given
    assert parse_options([str(options)]) == options


def test_the_later_wins_and_nothing_is_something_said():
    options = parse_options(["latency=5ms,latency=0"])
    assert options.device == Device()
    assert options.device_given
    assert str(options) == "latency=0"
    assert not parse_options(["bps=1M"]).device_given
    assert MountOptions(device=Device(rpm=1)).device_given


@pytest.mark.parametrize("name", DEVICE_NAMES)
def test_every_setting_needs_a_value_and_has_an_example(name):
    for string in (name, f"{name}="):
        with pytest.raises(OptionError) as caught:
            parse_options([string])
        assert str(caught.value) == f"{name} needs a value, e.g. {name}={example_of(name)}"
    assert as_option(name) == as_option(name.replace("_", "-")).replace("-", "_") == name
    assert why_not_in_flight(name) is None


@pytest.mark.parametrize(
    ("string", "message"),
    [
        ("latency=5", "latency: '5' has no unit; write e.g. 5ms (units ns, us, ms, s, min, h)"),
        ("latency=2ms/1ms", "latency: '2ms/1ms': percentiles must not fall"),
        ("latncy=5ms", "unknown option 'latncy'; did you mean 'latency'?"),
        ("seek=1ms,group=disk", "seek needs size, that of the disk on which all images of the "),
        ("iops_per_gib=3,group=disk", "iops_per_gib needs size, that of the disk on which all "),
        ("iops_at_least=100", "iops_at_least=100 needs iops_per_gib, the rate that grows with the"),
        ("iops_per_gib=1,iops_at_least=9,iops_at_most=5", "iops_at_least=9 is above iops_at_most"),
        ("iops_per_gib=1,iops_max=5,bps_max=9", "bps_max=9 needs bps, the rate that bursts may"),
    ],
)
def test_what_cannot_be_used_is_named_in_one_line(string, message):
    with pytest.raises(OptionError) as caught:
        parse_options([string])
    assert str(caught.value).startswith(message)
    assert "\n" not in str(caught.value)


# The configuration file.


def test_a_device_in_every_table():
    config = parse_config(
        textwrap.dedent(
            """
            [defaults]
            latency = "5ms"

            [[image]]
            path = "db/*.img"
            latency_flush = "8ms"
            queue-depth = 4
            iops_per_gib = 0.75

            [[image]]
            path = "*"

            [group.disk]
            seek = "1ms/18ms"
            rpm = 7200
            size = "1T"
            """
        ),
        "limits.toml",
    )
    assert config.defaults.device == Device(latency=(5_000_000,))
    assert config.images[0].device == Device(latency_flush=(8_000_000,), queue_depth=4)
    assert config.images[0].limits == Limits(iops_per_gib=Fraction(3, 4))
    assert config.images[1].device is None
    assert config.groups["disk"].device == Device(seek=(10**6, 18 * 10**6), rpm=7200, size=1 << 40)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("[defaults]\nlatency = 5", "c.toml: [defaults]: latency: '5' has no unit"),
        ("[group.a]\nlatancy = 5", "c.toml: [group.a]: unknown key 'latancy'; did you mean 'late"),
        ("latency = '5ms'", "c.toml: latency stands outside a table"),
        (
            "[group.a]\nlatency = '5ms'\nlatency-rd = '5ms'\nlatency_read = '5ms'",
            "c.toml: [group.a]: latency_read and latency-rd are the same setting",
        ),
    ],
)
def test_mistakes_in_the_file(text, message):
    with pytest.raises(ConfigError) as caught:
        parse_config(text, "c.toml")
    assert str(caught.value).startswith(message)


def test_a_wrong_setting_of_a_device_is_a_wrong_use():
    with pytest.raises(ConfigError) as caught:
        parse_config("[defaults]\nlatency = '2ms/1ms'", "c.toml")
    assert caught.value.exit_status == 2


# Rates that grow with the size.


def test_rates_by_size():
    gp2 = Limits(
        iops_per_gib=3, iops_at_least=100, iops_at_most=16000, iops_max=3000, iops_max_length=1800
    )
    assert gp2.grows
    assert not gp2.unlimited
    assert gp2.at(20 * GIB) == Limits(iops=100, iops_max=3000, iops_max_length=1800)
    assert gp2.at(100 * GIB) == Limits(iops=300, iops_max=3000, iops_max_length=1800)
    assert gp2.at(1000 * GIB) == Limits(iops=3000, iops_max=3000, iops_max_length=1800)
    # From there on the rate is above the burst's.
    assert gp2.at(1100 * GIB) == Limits(iops=3300)
    assert gp2.at(9000 * GIB) == Limits(iops=16000)


def test_a_rate_has_the_growth_beside_its_base():
    balanced = Limits(iops=3000, iops_per_gib=6, bps_per_gib=Fraction(1, 2))
    assert balanced.at(100 * GIB) == Limits(iops=3600, bps=50)
    assert Limits(iops=5).at(GIB) == Limits(iops=5)


def test_fractions_of_a_gib_and_of_a_rate_count():
    assert Limits(iops_per_gib=Fraction(3, 4)).at(3 * GIB // 2) == Limits(iops=Fraction(9, 8))
    assert Limits(bps_per_gib=1).at(1) == Limits(bps=Fraction(1, 1000))
    assert SMALLEST_DISK == GIB


@given(
    st.sampled_from(RATES),
    st.integers(1, 10**6),
    st.integers(0, 10**6),
    st.integers(0, 10**6),
    st.lists(st.integers(0, 10**15), min_size=2, max_size=5),
)
def test_a_larger_disk_is_never_slower_and_bounds_hold(rate, more, least, most, sizes):
    fields = {f"{rate}_per_gib": more, f"{rate}_at_least": least, f"{rate}_at_most": most}
    try:
        limits = Limits(**fields)
    except LimitsError:
        assert 0 < most < least
        return
    rates = [getattr(limits.at(size), rate) for size in sorted(sizes)]
    assert rates == sorted(rates)
    assert min(rates) >= least
    assert not most or max(rates) <= most
    assert Limits.parse({name: str(value) for name, value in limits.as_dict().items()}) == limits
    assert all(not limits.at(size).grows for size in sizes)


def test_no_limits_do_not_grow():
    assert NO_LIMITS.at(0) is NO_LIMITS
