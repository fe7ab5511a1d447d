"""Keyword arguments as the command line and the control socket take them."""

from __future__ import annotations

import os
from fractions import Fraction
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from throttlefs.errors import UsageError
from throttlefs.settings.options import escape, parse_options
from throttlefs.testing.options import changes, option_string


def test_options_of_every_kind() -> None:
    written = option_string(
        {
            **{"bps": "1M", "iops": 100, "iops_rd": 0.5, "iops_wr": Fraction(1, 3)},
            **{"allow_other": True, "ro": False, "group": None, "fsname": "a,b\\c"},
        }
    )
    assert written == ("bps=1M,iops=100,iops_rd=0.5,iops_wr=0.333333,allow_other,fsname=a\\,b\\\\c")
    assert option_string({}) == ""


def test_what_is_on_can_be_switched_off() -> None:
    said = option_string({"volatile": True, "auto_da_alloc": False, "nonempty": False})
    assert said == "volatile,auto_da_alloc=off"
    assert option_string({"volatile": True, "auto_da_alloc": True}) == "volatile,auto_da_alloc=on"
    assert option_string({"volatile": True, "auto_da_alloc": None, "sector": 512}) == (
        "volatile,sector=512"
    )
    for options in ({"auto_da_alloc": "off"}, {"auto_da_alloc": False}):
        assert not parse_options([option_string({"volatile": True, **options})]).auto_da_alloc


def test_a_path_is_made_absolute() -> None:
    assert option_string({"config": Path("a,b")}) == f"config={escape(os.getcwd())}/a\\,b"


@given(st.text(), st.floats(min_value=0.001, max_value=1e14) | st.integers(0, 10**15))
def test_options_read_back(text: str, number: float) -> None:
    options = parse_options([option_string({"fsname": "x" + text, "bps": number})])
    assert options.fsname == "x" + text
    assert options.limits == parse_options([option_string({"bps": number})]).limits
    if isinstance(number, int):
        assert options.limits.bps == number


@pytest.mark.parametrize("value", [[1], object(), b"x", {}])
def test_what_is_no_value(value: object) -> None:
    with pytest.raises(UsageError, match=r"bps: .* is neither a number nor text"):
        option_string({"bps": value})  # type: ignore[dict-item]


@pytest.mark.parametrize("name", ["", "a,b", "bps=1M,iops"])
def test_what_is_no_name(name: str) -> None:
    with pytest.raises(UsageError, match="is not the name of an option"):
        option_string({name: "1"})


def test_none_lifts_in_flight() -> None:
    assert changes({"bps": None, "group": None, "iops": 5, "weight": "7"}) == {
        **{"bps": "0", "group": "", "iops": "5", "weight": "7"}
    }
    with pytest.raises(UsageError, match="iops: True is neither"):
        changes({"iops": True})
