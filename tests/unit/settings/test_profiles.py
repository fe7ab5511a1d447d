"""Profiles: bases, what wins beside them, mistakes, and the shipped ones."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path

import pytest

from throttlefs.settings.config import parse_config
from throttlefs.settings.device import LATENCIES
from throttlefs.settings.limits import RATES, LimitsError
from throttlefs.settings.profile_text import write_profile
from throttlefs.settings.profiles import (
    LONGEST_CHAIN,
    SOURCE_KINDS,
    Library,
    Profile,
    ProfileError,
    Source,
    overlaid,
    read_profiles,
    setting_name,
    shipped,
    split_settings,
)

NAMES = [
    *("hdd-7200", "sata-ssd", "nvme", "sd-card", "usb2-stick", "floppy"),
    *("aws-gp2", "aws-gp3", "aws-st1", "aws-io2"),
    *(f"azure-p{size}" for size in (10, 15, 20, 30, 40, 50)),
    *("gcp-pd-standard", "gcp-pd-balanced", "gcp-pd-ssd"),
]


def library(**tables: dict[str, object]) -> Library:
    return Library({}).extended(
        read_profiles({name.replace("_", "-"): t for name, t in tables.items()})
    )


def test_a_profile_stands_on_its_base() -> None:
    found = library(
        disk={"latency": "5ms", "queue_depth": 4, "summary": "a disk"},
        mine={"base": "disk", "queue_depth": 8, "bps": "1M"},
        third={"base": "mine", "latency_wr": "7ms"},
    )
    assert found.settings("third") == {
        "latency": "5ms",
        "queue_depth": 8,
        "bps": "1M",
        "latency_wr": "7ms",
    }
    assert [profile.name for profile in found.chain("third")] == ["third", "mine", "disk"]


@pytest.mark.parametrize(
    ("below", "above", "result"),
    [
        ({"iops": 3000}, {"iops": 6000}, {"iops": 6000}),
        # A rate and one that grows with the size are two ways to say one thing.
        (
            {"iops_per_gib": 3, "iops_at_least": 100, "iops_at_most": 16000},
            {"iops": 500},
            {"iops": 500},
        ),
        ({"bps": "1M"}, {"bps_per_gib": "768K"}, {"bps_per_gib": "768K"}),
        # A burst below the new rate could not hold with it.
        ({"iops": 500, "iops_max": 3500, "iops_max_length": 9}, {"iops": 5000}, {"iops": 5000}),
        (
            {"iops": 500, "iops_max": 3500, "iops_max_length": 9},
            {"iops": 600},
            {"iops": 600, "iops_max": 3500, "iops_max_length": 9},
        ),
        ({"bps": "1M", "bps_max": "2M"}, {"bps": 0}, {"bps": 0}),
        # latency is for all three, as if nothing had been said of one alone.
        ({"latency_rd": "1ms", "latency_flush": "9ms"}, {"latency": "5ms"}, {"latency": "5ms"}),
        (
            {"latency": "1ms"},
            {"latency": "5ms", "latency_rd": "2ms"},
            {"latency": "5ms", "latency_rd": "2ms"},
        ),
        # iops_size has nothing to count then.
        ({"iops": 100, "iops_size": "1M", "bps": 1}, {"iops": "0"}, {"iops": "0", "bps": 1}),
        ({}, {"seed": 1}, {"seed": 1}),
    ],
)
def test_what_is_said_above_wins(below: dict, above: dict, result: dict) -> None:
    assert overlaid(below, above) == result


def test_what_is_given_beside_a_profile_wins_by_any_name() -> None:
    found = library(disk={"bps": "10M", "iops": 100, "latency_rd": "5ms"})
    assert found.with_given("disk", {"bps-total": "20M", "latency_read": "1ms"}) == {
        "iops": 100,
        "bps-total": "20M",
        "latency_read": "1ms",
    }


@pytest.mark.parametrize(
    ("tables", "name", "message"),
    [
        ({"a": {"base": "a"}}, "a", "profile 'a' includes itself: a -> a"),
        (
            {"a": {"base": "b"}, "b": {"base": "c"}, "c": {"base": "b"}},
            "a",
            "profile 'b' includes itself: b -> c -> b",
        ),
        (
            {"mine": {"base": "hdd-7201"}, "hdd-7200": {}},
            "mine",
            "profile 'mine': base: unknown profile 'hdd-7201'; did you mean 'hdd-7200'?",
        ),
        ({"aws-gp3": {}}, "gp3", "unknown profile 'gp3'; did you mean 'aws-gp3'?"),
        ({"a": {}}, "what", "unknown profile 'what'; throttlefs profile list has all"),
    ],
)
def test_a_wrong_name_or_base_is_told(tables: dict, name: str, message: str) -> None:
    found = Library(read_profiles(tables))
    with pytest.raises(ProfileError) as caught:
        found.settings(name)
    assert str(caught.value) == message


def test_a_chain_has_an_end() -> None:
    last = LONGEST_CHAIN
    tables = {f"p{n}": {"base": f"p{n + 1}"} for n in range(last)} | {f"p{last}": {}}
    found = Library(read_profiles(tables))
    assert len(found.chain("p1")) == LONGEST_CHAIN
    with pytest.raises(ProfileError, match=f"'p0': its base has .* {LONGEST_CHAIN} profiles"):
        found.chain("p0")


def test_the_profiles_of_a_file_are_checked_once(monkeypatch: pytest.MonkeyPatch) -> None:
    checked: list[str] = []
    check = Library.check

    def counted(library: Library, name: str) -> None:
        checked.append(name)
        check(library, name)

    monkeypatch.setattr(Library, "check", counted)
    names = [f"p{number}" for number in range(5)]
    text = [f'[profile.{name}]\nbase = "floppy"\n' for name in names]
    text += [f'[[image]]\npath = "{name}"\nprofile = "{name}"\n' for name in names]
    parse_config("".join(text), "f")
    assert checked == names


@pytest.mark.parametrize(
    ("tables", "message"),
    [
        ([], "profile is not a table of tables: write [profile.NAME]"),
        ({"a": 1}, "[profile]: 'a' is not a table: write [profile.NAME]"),
        ({"a,b": {}}, "[profile.a,b]: a profile's name has no comma, and is not empty"),
        ({"a": {"latncy": 1}}, "[profile.a]: unknown key 'latncy'; did you mean 'latency'?"),
        ({"a": {"latency": 5}}, "[profile.a]: latency: '5' has no unit; write e.g. 5ms"),
        ({"a": {"bps": "x"}}, "[profile.a]: bps: 'x' is not a number"),
        ({"a": {"bps": 1, "bps_total": 1}}, "[profile.a]: bps_total and bps are the same"),
        ({"a": {"base": 1}}, "[profile.a]: base: '1' is not the name of a profile"),
        ({"a": {"summary": 1}}, "[profile.a]: summary: '1' is not text"),
        ({"a": {"source": 1}}, "[profile.a]: source is not an array of tables"),
        (
            {"a": {"source": [{"off": 1}]}},
            "[profile.a]: source: unknown key 'off'; did you mean 'of'",
        ),
        ({"a": {"source": [{"of": ["x"]}]}}, "[profile.a]: source: of: \"['x']\" is not a list"),
        ({"a": {"source": [{"kind": "x"}]}}, "[profile.a]: source: kind: 'x' is none of vendor"),
        ({"a": {"source": [{"kind": ["x"]}]}}, "[profile.a]: source: kind: \"['x']\" is none of"),
        (
            {"a": {"profile": "floppy"}},
            "[profile.a]: profile: what a profile is built on is called",
        ),
        ({"a": {"source": [{"url": 1}]}}, "[profile.a]: source: origin, url, date and note are"),
    ],
)
def test_a_mistake_names_table_and_key(tables: object, message: str) -> None:
    with pytest.raises(ProfileError) as caught:
        read_profiles(tables)
    assert str(caught.value).startswith(message)
    assert "\n" not in str(caught.value)


def test_settings_that_do_not_hold_together_are_told() -> None:
    with pytest.raises(ProfileError, match="profile 'a': bps_max=2M needs bps"):
        library(a={"bps_max": "2M"})
    # Another may add what is missing, so only those that are new are looked at.
    assert library(a={"bps": "1M"}, b={"base": "a", "bps_max": "2M"}).settings("b")


def test_a_profile_is_read_back_as_it_was_written() -> None:
    source = Source(("bps",), "measured", 'a "disk"', "https://x", "2026-11-25", "two\nlines")
    undated = Source(("bps",), "derived", "", "", "last year", "")
    text = write_profile("my disk", {"bps": 5, "latency": "5ms"}, "ein \u00e9", [source, undated])
    profile = read_profiles(tomllib.loads(text)["profile"])["my disk"]
    assert profile == Profile(
        "my disk", {"bps": 5, "latency": "5ms"}, None, "ein \u00e9", (source, undated)
    )


# The shipped ones.


def test_the_package_has_their_files() -> None:
    """Also when it is built and installed: setuptools takes only what it is told."""
    root = Path(__file__).resolve().parents[3]
    data = tomllib.loads((root / "pyproject.toml").read_text())["tool"]["setuptools"]
    (pattern,) = data["package-data"]["throttlefs.settings"]
    place = root / "throttlefs" / "settings"
    assert {*place.glob(pattern)} == {*(place / "shipped").iterdir()} != set()


def test_the_shipped_profiles_are_those_that_the_docs_promise() -> None:
    assert sorted(shipped().names) == sorted(NAMES)


@pytest.mark.parametrize("name", NAMES)
def test_a_shipped_profile_holds_together(name: str) -> None:
    limits, device = split_settings(shipped().settings(name))
    assert not limits.unlimited or device.is_slow
    assert shipped().profile(name).summary


@pytest.mark.parametrize("name", NAMES)
def test_each_figure_of_a_shipped_profile_has_a_source_and_a_date(name: str) -> None:
    profile = shipped().profile(name)
    assert {of for source in profile.sources for of in source.of} == set(profile.values)
    for source in profile.sources:
        assert source.kind in SOURCE_KINDS
        assert source.origin
        assert re.fullmatch(r"20\d\d-\d\d-\d\d", source.date)
        assert source.url.startswith("https://") or source.kind in ("secondary", "derived")
        assert source.note or source.kind not in ("derived", "unchecked") or not source.url


@pytest.mark.parametrize("name", NAMES)
def test_the_figures_of_a_shipped_profile_are_those_of_a_disk(name: str) -> None:
    limits, device = split_settings(shipped().settings(name))
    for latency in map(device.latency_of, LATENCIES):
        assert not latency or 10_000 <= latency[0] <= latency[-1] <= 10**9
    if device.queue_depth and device.latency_rd and limits.iops_rd:
        # The places must be enough for the rate: N / latency.
        assert device.queue_depth * 10**9 / device.latency_rd[0] >= 0.95 * limits.iops_rd
    if device.has_head:
        assert device.seek
        assert device.rpm
        assert device.size
    if limits.bps and limits.bps_max:
        assert limits.bps_max_length > 1


def test_the_average_seek_of_the_hard_disk_is_the_data_sheets() -> None:
    """Over random ways the square root of the way has an average of 8/15."""
    _, device = split_settings(shipped().settings("hdd-7200"))
    least, most = device.seek
    assert (least + (most - least) * 8 / 15) / 1e6 == pytest.approx(7.4, rel=0.01)


@pytest.mark.parametrize(
    ("name", "rate", "seconds"), [("p10", 500, 1800), ("p15", 1100, 1800), ("p20", 2300, 1800)]
)
def test_azure_bursts_for_30_minutes(name: str, rate: int, seconds: int) -> None:
    limits, _ = split_settings(shipped().settings(f"azure-{name}"))
    volume = limits.iops_max * limits.iops_max_length
    assert limits.iops == rate
    assert volume / (limits.iops_max - rate) == pytest.approx(seconds, rel=0.002)
    volume = limits.bps_max * limits.bps_max_length
    assert volume / (limits.bps_max - limits.bps) == pytest.approx(seconds, rel=0.002)


def test_gp2_has_5_4_million_credits() -> None:
    settings = shipped().settings("aws-gp2")
    assert settings["iops_max"] * settings["iops_max_length"] == 5_400_000


def test_given_options_win_over_a_shipped_profile() -> None:
    given = {"iops": 6000, "size": "500G"}
    limits, device = split_settings(shipped().with_given("aws-gp3", given))
    assert (limits.iops, limits.bps) == (6000, 125 << 20)
    assert device.size == 500 << 30


def test_the_larger_azure_disks_have_no_burst_of_their_base() -> None:
    limits, _ = split_settings(shipped().settings("azure-p30"))
    assert {name: getattr(limits, f"{name}_max") for name in RATES} == dict.fromkeys(RATES, 0)


def test_a_wrong_value_beside_a_profile_names_what_was_given() -> None:
    with pytest.raises(LimitsError, match="bps-total: 'x' is not a number"):
        split_settings(shipped().with_given("aws-gp3", {"bps-total": "x"}))


def test_setting_names() -> None:
    assert setting_name("bps-total") == "bps"
    assert setting_name("latency-read") == "latency_rd"
    assert setting_name("weight") is None
