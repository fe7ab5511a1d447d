"""Profiles in -o and in the file: who has which, and what wins."""

from __future__ import annotations

from pathlib import Path

import pytest

from throttlefs.errors import UsageError
from throttlefs.policy.loading import read_policy
from throttlefs.policy.policy import Policy, make_policy
from throttlefs.settings.config import parse_config
from throttlefs.settings.config_table import ConfigError, ConfigValueError
from throttlefs.settings.device import NO_DEVICE
from throttlefs.settings.limits import NO_LIMITS
from throttlefs.settings.options import OptionError, parse_options
from throttlefs.settings.profiles import ProfileError

M = 1 << 20
MS = 10**6

OWN = """
[profile.cellar]
base = "hdd-7200"
latency_flush = "12ms"

[profile.plain]
bps = "5M"
"""


def policy(options: str, toml: str = "") -> Policy:
    return make_policy(parse_options([options]), parse_config(toml, "limits.toml"))


def test_a_profile_in_o_is_each_images() -> None:
    default = policy("profile=aws-gp3,iops=6000,size=500G").default
    assert (default.limits.iops, default.limits.bps) == (6000, 125 * M)
    assert default.device.profile == "aws-gp3"
    assert default.device.size == 500 << 30
    assert default.device.latency_rd[0] == 410_000


def test_a_profile_beside_a_group_is_the_groups() -> None:
    both = policy("profile=hdd-7200,group=disk")
    assert (both.default.limits, both.default.device) == (NO_LIMITS, NO_DEVICE)
    group = both.groups["disk"]
    assert group.device.rpm == 7200
    assert group.limits.bps == 210_000_000


def test_a_profile_of_the_file_is_known_to_o() -> None:
    device = policy("profile=cellar", OWN).default.device
    assert (device.profile, device.rpm, device.latency_flush) == ("cellar", 7200, (12 * MS,))


def test_a_profile_has_all_limits_and_the_whole_device() -> None:
    toml = OWN + '[defaults]\niops = 7\nlatency = "1ms"\n[[image]]\npath = "a"\nprofile = "plain"\n'
    image = policy("", toml).for_path(b"a")
    assert image.limits.as_dict() == {"bps": 5 * M}
    assert image.device.as_dict() == {"profile": "plain"}
    assert not image.device.is_slow
    over = policy("profile=sd-card", toml).for_path(b"b")
    assert over.limits.iops == 0
    assert over.device.latency == ()


@pytest.mark.parametrize("table", ["[defaults]", '[[image]]\npath = "**"', "[group.g]"])
def test_every_table_takes_a_profile(table: str) -> None:
    toml = f'{OWN}{table}\nprofile = "cellar"\nseed = 5\nbps-total = "9M"\n'
    found = policy("", toml)
    held = found.groups["g"] if "group" in table else found.for_path(b"x")
    assert held.limits.bps == 9 * M
    assert held.device.as_text() == {
        "profile": "cellar",
        "latency_flush": "12ms",
        "queue_depth": "32",
        "seek": "230us/13.7ms",
        "rpm": "7200",
        "size": "4000787030016",
        "seed": "5",
    }


def test_a_later_profile_in_o_wins_and_zero_is_none() -> None:
    assert policy("profile=aws-gp3,profile=sd-card").default.device.profile == "sd-card"
    found = policy("profile=aws-gp3,profile=0,bps=1M").default
    assert (found.limits.bps, found.limits.iops, found.device) == (M, 0, NO_DEVICE)


def test_options_are_written_as_they_were_given() -> None:
    options = parse_options(["profile=aws-gp3,iops-total=6000,group=g,ro"])
    assert str(options) == "profile=aws-gp3,iops-total=6000,group=g,ro"
    again = parse_options([str(options)])
    assert again == options
    assert again.beside_profile == options.beside_profile


def test_what_holds_only_with_the_profile_is_taken() -> None:
    assert policy("profile=aws-gp3,iops_max=9000").default.limits.iops_max == 9000


@pytest.mark.parametrize(
    ("options", "toml", "error", "message"),
    [
        ("profile=nvmee", "", ProfileError, "unknown profile 'nvmee'; did you mean 'nvme'?"),
        ("profile=", "", OptionError, "profile needs a value, e.g. profile=hdd-7200"),
        ("profile=aws-gp3,iops_max=9", "", Exception, "iops_max=9 is below iops=3000"),
        ("profile=aws-gp3,latency=5", "", OptionError, "latency: '5' has no unit"),
        ("", '[profile.a]\nbase = "a"', ConfigValueError, "includes itself: a -> a"),
        ("", '[profile.a]\nbase = "nvmee"', ConfigValueError, "did you mean 'nvme'?"),
        ("", '[profile.a]\nbps_max = "2M"', ConfigValueError, "needs bps"),
        ("", "[profile.a]\nbsp = 1", ConfigValueError, "unknown key 'bsp'"),
        ("", "profile = 1", ConfigValueError, "write [profile.NAME]"),
        ("", '[defaults]\nprofile = "cellr"' + OWN, ConfigValueError, "did you mean 'cellar'?"),
        ("", "[defaults]\nprofile = 5", ConfigValueError, "'5' is not the name of a profile"),
        ("", '[defaults]\nprofile = "nvme"\nbps_max = 1', ConfigError, "needs bps"),
    ],
)
def test_mistakes(options: str, toml: str, error: type[Exception], message: str) -> None:
    with pytest.raises(error) as caught:
        policy(options, toml)
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


def test_the_status_of_a_wrong_profile_is_that_of_a_wrong_command_line(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="unknown profile 'x'"):
        read_policy(parse_options(["profile=x"]))
    with pytest.raises(UsageError, match="iops_max=9 is below"):
        read_policy(parse_options(["profile=aws-gp3,iops_max=9"]))
    with pytest.raises(UsageError, match="group 'g': seek needs size"):
        read_policy(parse_options(["profile=hdd-7200,size=0,group=g"]))
    file = tmp_path / "own.toml"
    file.write_text('[profile.a]\nbase = "a"')
    with pytest.raises(Exception, match="includes itself") as caught:
        read_policy(parse_options([f"config={file}"]))
    assert caught.value.exit_status == 2


def test_a_file_without_profiles_reads_none(monkeypatch: pytest.MonkeyPatch) -> None:
    """They cost a few ms, and most mounts have none."""

    def unexpected() -> None:
        raise AssertionError

    monkeypatch.setattr("throttlefs.settings.config.shipped", unexpected)
    assert policy("bps=1M", '[defaults]\niops = 5\nlatency = "5ms"').default.limits.bps == M
