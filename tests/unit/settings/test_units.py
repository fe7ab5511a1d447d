import json
import math
from fractions import Fraction

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from throttlefs.settings import units
from throttlefs.settings.units import (
    MAX_VALUE,
    RATE_STEPS,
    WHOLE_RATES_FROM,
    UnitError,
    is_rate,
    parse_byte_rate,
    parse_bytes,
    parse_request_rate,
    round_rate,
)

rates = st.integers(0, MAX_VALUE) | st.integers(1000, WHOLE_RATES_FROM * RATE_STEPS).map(
    lambda steps: round_rate(Fraction(steps, RATE_STEPS))
)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("0", 0),
        ("3000", 3000),
        ("0007", 7),
        ("10k", 10 << 10),
        ("10K", 10 << 10),
        ("1m", 1 << 20),
        ("1.5M", 1572864),
        (".5M", 1 << 19),
        ("2.G", 2 << 30),
        ("1T", 1 << 40),
        ("0.1M", 104858),  # 104857.6
        ("0.5", 1),  # halves go up
        ("2.5", 3),
        ("1.4999999999999999999999999999", 1),
        ("0.0", 0),
        ("0.000T", 0),
        ("1000000000000000", MAX_VALUE),
        ("909T", 909 << 40),
    ],
)
def test_bytes(text, expected):
    assert parse_bytes(text) == expected


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("3000", 3000),
        ("10k", 10_000),
        ("1.5M", 1_500_000),
        ("0.0015K", Fraction(3, 2)),
        ("1000T", MAX_VALUE),
        ("0.5", Fraction(1, 2)),
        ("0.25", Fraction(1, 4)),
        (".001", Fraction(1, 1000)),
        ("0.0", 0),
        ("2.000", 2),
        ("0.3333333333", Fraction(333_333, 1_000_000)),
        ("0.0000005K", None),
        ("0.0010005", Fraction(1001, 1_000_000)),  # halves go up
        ("999999999.9999999", 10**9),
        ("1000000000.5", 1_000_000_001),
    ],
)
def test_request_rates_count_in_thousands_and_may_be_fractions(text, expected):
    if expected is None:
        with pytest.raises(UnitError, match=r"smallest rate is 0\.001"):
            parse_request_rate(text)
        return
    assert parse_request_rate(text) == expected
    assert isinstance(parse_request_rate(text), type(expected))


@pytest.mark.parametrize(
    ("text", "expected"),
    [("0.1K", Fraction(1024, 10)), ("1.5M", 1572864), ("0.5", Fraction(1, 2)), ("0.5K", 512)],
)
def test_byte_rates_count_in_powers_of_1024(text, expected):
    assert parse_byte_rate(text) == expected


@pytest.mark.parametrize("value", ["0.0009", "0.0000001", ".0009999999", 0.0005, 1e-300])
def test_a_rate_that_is_too_small_is_refused(value):
    for parse in (parse_byte_rate, parse_request_rate):
        with pytest.raises(UnitError, match=r"is too small; the smallest rate is 0\.001 a second$"):
            parse(value)


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("", "missing"),
        ("banana", "not a number"),
        ("nan", "not a number"),
        ("inf", "not a number"),
        ("1_000", "not a number"),
        ("1e6", "not a number"),
        ("+5", "not a number"),
        (" 5", "not a number"),
        ("5 ", "not a number"),
        ("5\n", "not a number"),
        ("1,5", "not a number"),
        ("1.2.3", "not a number"),
        (".", "not a number"),
        ("K", "not a number"),
        ("10MB", "suffixes K, M, G, T"),
        ("1P", "suffixes K, M, G, T"),
        ("\N{ARABIC-INDIC DIGIT THREE}", "not a number"),
        ("\N{FULLWIDTH DIGIT ONE}", "not a number"),
        ("0x10", "not a number"),
        ("-1", "negative"),
        ("-1.5M", "negative"),
        ("-", "not a number"),
        ("1000000000000001", "too large"),
        ("1000000000000000.1", "too large"),
        ("910T", "909T"),
        ("9" * 60, "too large"),
        ("9" * 5000, "not a number"),
        ("0.4", "less than a half"),
        ("0.0001K", "less than a half"),
    ],
)
def test_what_is_no_size_is_refused_in_one_line(text, why):
    with pytest.raises(UnitError, match=why) as caught:
        parse_bytes(text)
    assert "\n" not in str(caught.value)
    assert str(caught.value).isprintable()


@pytest.mark.parametrize(
    ("number", "expected"),
    [(0, 0), (7, 7), (MAX_VALUE, MAX_VALUE), (1.5, 2), (2.5, 3), (1e14, 10**14), (-0.0, 0)],
)
def test_numbers(number, expected):
    result = parse_bytes(number)
    assert result == expected
    assert type(result) is int


@pytest.mark.parametrize(
    "number",
    [True, False, None, b"1", [], -1, -0.5, 0.25, MAX_VALUE + 1, 1e16, math.nan, math.inf],
)
def test_numbers_refused(number):
    with pytest.raises(UnitError):
        parse_bytes(number)


@pytest.mark.parametrize("sign", [1, -1])
def test_numbers_too_long_to_be_printed_are_refused_too(sign):
    with pytest.raises(UnitError, match="a huge number"):
        parse_bytes(sign * 10**6000)


@given(st.integers(0, MAX_VALUE))
def test_what_is_shown_reads_back(value):
    assert parse_bytes(units.format_bytes(value)) == value


@given(rates)
def test_a_rate_that_is_shown_reads_back(rate):
    assert parse_byte_rate(units.format_bytes(rate)) == rate
    assert parse_request_rate(units.format_requests(rate)) == rate


@given(rates)
def test_a_number_of_json_carries_a_rate_exactly(rate):
    number = json.loads(json.dumps(float(rate)))
    assert parse_byte_rate(number) == parse_request_rate(number) == rate


@given(st.fractions(Fraction(1, 1000), MAX_VALUE))
def test_a_rate_is_the_nearest_to_what_was_asked(exact):
    rate = round_rate(exact)
    step = Fraction(1, RATE_STEPS) if exact < WHOLE_RATES_FROM else 1
    assert abs(rate - exact) <= step / 2
    assert round_rate(rate) == rate
    assert isinstance(rate, int) or is_rate(rate)


@pytest.mark.parametrize(
    "fraction",
    [Fraction(2), Fraction(1, 3), Fraction(1, 10**4), Fraction(-1, 2), Fraction(10**15 + 1, 2)],
)
def test_what_is_no_rate(fraction):
    assert not is_rate(fraction)


@given(
    digits=st.integers(0, 10**9),
    decimals=st.integers(0, 9),
    suffix=st.sampled_from(["", "K", "M", "G", "k", "m", "g"]),
    base=st.sampled_from([1000, 1024]),
)
def test_the_arithmetic_is_exact(digits, decimals, suffix, base):
    whole, fraction = divmod(digits, 10**decimals)
    text = f"{whole}.{fraction:0{decimals}d}{suffix}" if decimals else f"{whole}{suffix}"
    exact = Fraction(digits, 10**decimals) * base ** " KMG".index(suffix.upper() or " ")
    assume(exact <= MAX_VALUE)
    parse = parse_byte_rate if base == 1024 else parse_request_rate
    if 0 < exact < Fraction(1, 1000):
        with pytest.raises(UnitError):
            parse(text)
    else:
        assert parse(text) == round_rate(exact)
    if base == 1024 and not 0 < exact < Fraction(1, 2):
        assert parse_bytes(text) == math.floor(exact + Fraction(1, 2))


@given(st.text())
def test_any_text_is_a_size_or_a_unit_error(text):
    try:
        value, message = parse_bytes(text), ""
        parse_byte_rate(text)
    except UnitError as error:
        value, message = 0, str(error)
    assert 0 <= value <= MAX_VALUE
    assert message.isprintable()


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (0, "0"),
        (1000, "1000"),
        (1024, "1K"),
        (1280, "1.25K"),
        (1 << 20, "1M"),
        (1572864, "1.5M"),
        ((1 << 20) + 1, "1048577"),
        (1500 << 20, "1500M"),
        (1 << 40, "1T"),
        (MAX_VALUE, "1000000000000000"),
    ],
)
def test_bytes_for_people(value, text):
    assert units.format_bytes(value) == text


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (3000, "3000"),
        (999_999, "999999"),
        (1_500_000, "1.5M"),
        (10**15, "1000T"),
        (Fraction(1, 2), "0.5"),
        (Fraction(1_500_001, 1_000_000), "1.500001"),
        (Fraction(3_000_001, 2), "1500000.5"),
    ],
)
def test_requests_for_people(value, text):
    assert units.format_requests(value) == text


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (0, "0 B/s"),
        (0.4, "0 B/s"),
        (512, "512 B/s"),
        (1023.4, "1023 B/s"),
        (1023.6, "1 KiB/s"),
        (1 << 20, "1 MiB/s"),
        ((1 << 20) - 1, "1 MiB/s"),
        (1.2 * (1 << 20), "1.2 MiB/s"),
        (10 << 30, "10 GiB/s"),
        (1 << 50, "1024 TiB/s"),
    ],
)
def test_byte_rates(value, text):
    assert units.format_byte_rate(value) == text


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (0, "0 requests/s"),
        (1, "1 request/s"),
        (0.96, "1 request/s"),
        (2.5, "2.5 requests/s"),
        (2999.6, "3000 requests/s"),
        (1_500_000, "1.5M requests/s"),
    ],
)
def test_request_rates(value, text):
    assert units.format_request_rate(value) == text


def test_quoting_keeps_a_message_on_one_short_line():
    assert units.quoted("a\nb\udc80") == r"'a\nb\udc80'"
    assert units.quoted("x" * 100) == repr("x" * 37 + "...")


def test_what_is_nested_too_deep_to_be_printed_is_quoted_too():
    nested = {}
    for _ in range(100_000):
        nested = {"a": nested}
    assert units.quoted(nested) == "a value nested too deep"


@pytest.mark.parametrize(
    ("value", "nanoseconds"),
    [
        ("5ms", 5_000_000),
        ("5 ms", 5_000_000),
        ("200us", 200_000),
        ("1.5s", 1_500_000_000),
        (".5us", 500),
        ("7\N{MICRO SIGN}s", 7000),
        ("7\N{GREEK SMALL LETTER MU}s", 7000),
        ("3ns", 3),
        ("2min", 120 * 10**9),
        ("1h", 3600 * 10**9),
        ("0.5ns", 1),
        ("0", 0),
        ("0.0", 0),
        ("0ms", 0),
        (0, 0),
        (0.0, 0),
    ],
)
def test_durations(value, nanoseconds):
    assert units.parse_duration(value) == nanoseconds


@pytest.mark.parametrize(
    ("value", "message"),
    [
        ("", "the value is missing; write e.g. 5ms"),
        ("5", "'5' has no unit; write e.g. 5ms (units ns, us, ms, s, min, h)"),
        (5, "'5' has no unit; write e.g. 5ms"),
        (0.25, "'0.25' has no unit; write e.g. 0.25ms"),
        ("5m", "'5m' is not a time; write e.g. 5ms"),
        ("ms", "'ms' is not a time"),
        ("1e3ms", "'1e3ms' is not a time"),
        ("-5ms", "'-5ms' is negative; the smallest value is 0"),
        (-5, "'-5' is negative; the smallest value is 0"),
        ("0.4ns", "'0.4ns' is less than half a nanosecond"),
        ("278h", "'278h' is too long; the longest time is 10^15 ns (277h)"),
        (True, "'True' is not a time"),
        (float("nan"), "'nan' is not a time"),
        (None, "'None' is not a time"),
        ("9" * 100 + "s", "'9999999999999999999999999999999999999...' is not a time"),
    ],
)
def test_wrong_durations(value, message):
    with pytest.raises(UnitError) as caught:
        units.parse_duration(value)
    assert str(caught.value).startswith(message)


@pytest.mark.parametrize(
    ("nanoseconds", "text"),
    [
        (0, "0"),
        (5_000_000, "5ms"),
        (1_500_000, "1.5ms"),
        (200_000, "200us"),
        (1_234_567, "1234.567us"),
        (1_234_567_891, "1234567.891us"),
        (90 * 10**9, "90s"),
        (120 * 10**9, "2min"),
        (3600 * 10**9, "1h"),
    ],
)
def test_durations_are_shown(nanoseconds, text):
    assert units.format_duration(nanoseconds) == text


@given(st.integers(0, MAX_VALUE))
def test_durations_are_read_back(nanoseconds):
    assert units.parse_duration(units.format_duration(nanoseconds)) == nanoseconds
