import copy
import dataclasses
import math
import pickle
from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st

from throttlefs.settings.limits import (
    LIMIT_HELP,
    LIMIT_NAMES,
    NO_LIMITS,
    QEMU_LIMIT_NAMES,
    RATES,
    Limits,
    LimitsError,
    canonical_name,
    format_limit,
    parse_limit,
)
from throttlefs.settings.units import round_rate

MAX = 10**15


some_rates = st.integers(1, MAX) | st.integers(1000, 10**12).map(
    lambda millionths: round_rate(Fraction(millionths, 10**6))
)


@st.composite
def valid_limits(draw):
    """Limits that keep QEMU's rules by construction, not by asking `Limits`."""
    fields = {}
    for rate in draw(st.sets(st.sampled_from(RATES))):
        fields[rate] = draw(some_rates)
        if draw(st.booleans()):
            burst = max(fields[rate], draw(some_rates))
            fields[f"{rate}_max"] = burst
            fields[f"{rate}_max_length"] = draw(st.integers(1, MAX // math.ceil(burst)))
    if any(fields.get(rate) for rate in ("iops", "iops_rd", "iops_wr")):
        fields["iops_size"] = draw(st.integers(0, MAX))
    return Limits(**fields)


def test_the_fields_are_the_names():
    assert tuple(field.name for field in dataclasses.fields(Limits)) == LIMIT_NAMES
    assert tuple(LIMIT_HELP) == LIMIT_NAMES
    assert len(QEMU_LIMIT_NAMES) == 19
    assert LIMIT_NAMES[:19] == QEMU_LIMIT_NAMES
    assert len(LIMIT_NAMES) == 19 + 3 * len(RATES)
    assert all(canonical_name(name) == name for name in LIMIT_NAMES)


@pytest.mark.parametrize(
    ("name", "canonical"),
    [
        ("bps-total", "bps"),
        ("bps-read", "bps_rd"),
        ("bps-write", "bps_wr"),
        ("iops-total", "iops"),
        ("iops-read", "iops_rd"),
        ("iops-write", "iops_wr"),
        ("bps-total-max", "bps_max"),
        ("iops-write-max", "iops_wr_max"),
        ("bps-read-max-length", "bps_rd_max_length"),
        ("iops-size", "iops_size"),
        ("bps-rd-max", "bps_rd_max"),
        ("throttling.bps-total", "bps"),
        ("throttling.bps_rd", "bps_rd"),
        ("throttling.iops-total-max-length", "iops_max_length"),
        ("throttling.iops-size", "iops_size"),
        ("x-bps-write-max-length", "bps_wr_max_length"),
        ("x-iops-size", "iops_size"),
    ],
)
def test_synonyms(name, canonical):
    assert canonical_name(name) == canonical


@pytest.mark.parametrize(
    "name",
    [
        "",
        "BPS",
        "bps_",
        "-bps",
        "bsp",
        "bps.total",
        "throttling.",
        "throttling.x-bps",
        "throttling.throttling.bps",
        "x-",
        "x-systemd.automount",
        "iops_size_max",
        "iops-total-size",
    ],
)
def test_what_is_no_limit(name):
    assert canonical_name(name) is None


def test_parse_reads_suffixes_by_the_kind_of_limit():
    limits = Limits.parse(
        {
            "bps": "1.5M",
            "bps_max": "2M",
            "bps_max_length": "60",
            "throttling.iops-total": "3k",
            "iops-read": 10,
            "iops_size": "4k",
            "bps_wr": 1.5,
            "iops_wr": "0.25",
        }
    )
    assert limits == Limits(
        bps=1572864,
        bps_max=2 << 20,
        bps_max_length=60,
        iops=3000,
        iops_rd=10,
        iops_size=4096,
        bps_wr=Fraction(3, 2),
        iops_wr=Fraction(1, 4),
    )


@pytest.mark.parametrize(
    ("values", "culprit", "message"),
    [
        ({"bps": "banana"}, "bps", "bps: 'banana' is not a number"),
        ({"bps": "-1"}, "bps", "bps: '-1' is negative"),
        ({"bps": ""}, "bps", "bps: the value is missing"),
        ({"bps-read": "2000T"}, "bps-read", "bps-read: '2000T' is too large"),
        ({"bps": True}, "bps", "bps: 'True' is not a number"),
        ({"bsp": "1"}, "bsp", "'bsp' is not the name of a limit"),
        ({"bps_max": "1M"}, "bps_max", "bps_max=1M needs bps"),
        (
            {"iops-total-max": 5, "iops_rd": 1},
            "iops-total-max",
            "iops-total-max=5 needs iops",
        ),
        (
            {"bps": "2M", "bps-total-max": "1M"},
            "bps-total-max",
            "bps-total-max=1M is below bps=2M",
        ),
        ({"bps_rd_max_length": 5}, "bps_rd_max_length", "needs bps_rd_max"),
        ({"bps": 1, "bps_max_length": 2}, "bps_max_length", "needs bps_max"),
        ({"bps_max_length": 0}, "bps_max_length", "at least 1 second"),
        ({"bps": 1, "bps_max": 2, "bps_max_length": 0}, "bps_max_length", "at least 1 second"),
        ({"bps_max_length": "1.5"}, "bps_max_length", "whole number of seconds"),
        ({"bps_max_length": 1.5}, "bps_max_length", "whole number of seconds"),
        ({"bps_max_length": True}, "bps_max_length", "whole number of seconds"),
        (
            {"bps_max_length": "\N{ARABIC-INDIC DIGIT THREE}"},
            "bps_max_length",
            "whole number of seconds",
        ),
        ({"bps_max_length": -1}, "bps_max_length", "negative"),
        (
            {"bps": 1, "bps_max": MAX // 10, "bps_max_length": 11},
            "bps_max_length",
            r"product must not exceed 10\^15",
        ),
        ({"iops_size": "4K", "bps": 1}, "iops_size", "iops_size=4K .*add iops"),
        ({"iops": "0.0001"}, "iops", r"iops: '0\.0001' is too small; the smallest rate is 0\.001"),
        ({"iops": "0.5", "iops_max": 0.25}, "iops_max", r"iops_max=0\.25 is below iops=0\.5"),
        ({"iops": "0.5", "iops_size": "0.25"}, "iops_size", "less than a half"),
        ({"bps": 1, "bps-total": 2}, "bps-total", "bps-total and bps are the same limit"),
    ],
)
def test_what_qemu_refuses_is_refused_by_name(values, culprit, message):
    with pytest.raises(LimitsError, match=message) as caught:
        Limits.parse(values)
    assert caught.value.option == culprit
    assert culprit in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "value", [True, 1.0, "1", None, -1, MAX + 1, Fraction(1, 3), Fraction(2), Fraction(-1, 2)]
)
@pytest.mark.parametrize("name", ["bps", "iops_wr_max", "iops_size", "bps_max_length"])
def test_the_constructor_takes_plain_numbers_only(name, value):
    with pytest.raises(LimitsError) as caught:
        Limits(**{name: value})
    assert caught.value.option == name


@pytest.mark.parametrize(
    "fields",
    [
        {"bps": 5, "bps_rd": 3, "bps_wr": 2},  # an error in QEMU; here both hold
        {"bps": 5, "bps_max": 5},
        {"bps": 5, "bps_max": MAX, "bps_max_length": 1},
        {"bps": 1, "bps_max": MAX // 10, "bps_max_length": 10},
        {"bps_max_length": 1},
        {"iops_wr": 1, "iops_size": MAX},
        dict.fromkeys(RATES, MAX),
        {"iops": Fraction(1, 2), "iops_max": Fraction(3, 2), "iops_max_length": 60},
    ],
)
def test_what_is_allowed(fields):
    limits = Limits(**fields)
    assert all(getattr(limits, name) == value for name, value in fields.items())


def test_unlimited():
    assert Limits().unlimited
    assert Limits() == NO_LIMITS
    for rate in RATES:
        assert not Limits(**{rate: 1}).unlimited


def test_changed_is_checked_too():
    limits = Limits(bps=10, bps_max=20)
    assert limits.changed(bps=20, iops=5) == Limits(bps=20, bps_max=20, iops=5)
    assert limits == Limits(bps=10, bps_max=20)
    with pytest.raises(LimitsError, match="bps_max=20 needs bps"):
        limits.changed(bps=0)


@pytest.mark.parametrize("name", ["iops_size", "bps_max_length"])
def test_only_rates_may_be_fractions(name):
    with pytest.raises(LimitsError, match="not a whole number"):
        Limits(**{name: Fraction(3, 2)})


def test_the_form_of_what_json_carries():
    assert format_limit("iops", 0.5) == "0.5"
    assert format_limit("bps", 1572864.0) == "1.5M"
    assert format_limit("bps_max_length", 3.0) == "3"


def test_text_form():
    assert str(Limits()) == ""
    limits = Limits(bps=3 << 19, bps_max=2 << 20, bps_max_length=9, iops=3000, iops_size=4096)
    assert str(limits) == "bps=1.5M,iops=3000,bps_max=2M,bps_max_length=9,iops_size=4K"


@given(valid_limits())
def test_round_trips(limits):
    assert Limits(**limits.as_dict()) == limits
    shown = {name: format_limit(name, value) for name, value in limits.as_dict().items()}
    assert Limits.parse(shown) == limits
    assert Limits.parse(dict(item.split("=") for item in str(limits).split(",") if item)) == limits
    assert limits.unlimited == (str(limits) == "")
    assert copy.copy(limits) == limits
    assert pickle.loads(pickle.dumps(limits)) == limits


@given(valid_limits())
def test_a_burst_never_outlives_its_rate(limits):
    for rate in RATES:
        if getattr(limits, f"{rate}_max"):
            with pytest.raises(LimitsError) as caught:
                limits.changed(**{rate: 0})
            assert caught.value.option in (f"{rate}_max", "iops_size")


@given(
    st.dictionaries(
        st.sampled_from(LIMIT_NAMES) | st.text(max_size=8),
        st.text(max_size=8) | st.integers() | st.floats(),
        max_size=4,
    )
)
def test_anything_is_limits_or_a_limits_error(values):
    try:
        option, message = None, str(Limits.parse(values))
    except LimitsError as error:
        option, message = error.option, str(error)
    assert option is None or option in values
    assert message.isprintable()


def test_a_limits_error_survives_pickling():
    with pytest.raises(LimitsError) as caught:
        parse_limit("bps", "x")
    error = pickle.loads(pickle.dumps(caught.value))
    assert (error.option, str(error)) == (caught.value.option, str(caught.value))
