"""Groups that share their limits: what -o and the file say, and what a reload leaves alone."""

from __future__ import annotations

import pytest

from tests.unit.policy.test_governor import Clock, governor, policy
from throttlefs.errors import ThrottlefsError
from throttlefs.policy.config_writer import write_config
from throttlefs.settings.config import parse_config
from throttlefs.settings.limits import Limits
from throttlefs.settings.shared import OnLost, SharedStore, parse_store_address
from throttlefs.throttle import SharedGroup

ADDRESS = "valkey://store/0/k"
STORE = SharedStore(parse_store_address(ADDRESS))
TOML = f"""
[group.tenant]
bps = "8M"
shared = "{ADDRESS}"

[group.plain]
bps = "1M"
"""


def test_where_a_group_is_shared():
    assert policy("", TOML).stores() == {"tenant": STORE}
    assert policy(f"group=g,shared={ADDRESS}").stores() == {"g": STORE}
    both = policy(f"group=tenant,shared={ADDRESS},on_lost=open", TOML)
    assert both.stores() == {"tenant": SharedStore(STORE.address, None, OnLost.OPEN)}
    assert both.groups["tenant"].limits == Limits.parse({"bps": "8M"})


def test_a_reload_leaves_limits_alone_that_belong_to_all_hosts():
    made = governor(Clock(), "", TOML)
    throttle = made.throttle
    assert isinstance(throttle.group("tenant"), SharedGroup)
    assert not isinstance(throttle.group("plain"), SharedGroup)
    for name in ("tenant", "plain"):
        throttle.set_group_limits(name, Limits(bps=5))
    made.reload(policy("", TOML), lambda key: None)
    assert throttle.group("tenant").meter.limits == Limits(bps=5)
    assert throttle.group("plain").meter.limits == Limits.parse({"bps": "1M"})


@pytest.mark.parametrize(
    "other",
    [
        TOML.replace(f'shared = "{ADDRESS}"', ""),
        TOML.replace("/k", "/other"),
        TOML.replace('bps = "1M"', f'shared = "{ADDRESS}"'),
        TOML + f'[group.new]\nshared = "{ADDRESS}"\n',
    ],
)
def test_a_reload_does_not_change_what_is_shared(other: str):
    made = governor(Clock(), "", TOML)
    before = made.policy
    with pytest.raises(ThrottlefsError, match="shared cannot change in flight"):
        made.reload(policy("", other), lambda key: None)
    assert made.policy is before
    assert {group.name for group in made.throttle.groups()} == {"tenant", "plain"}


def test_what_is_shared_is_written_as_it_is_read():
    given = policy(
        "",
        TOML.replace("[group.plain]", 'password_file = "/p"\non_lost = "closed"\n[group.plain]'),
    )
    text = write_config(given.default, given.groups, (), ())
    assert parse_config(text, "f").groups["tenant"].shared == given.stores()["tenant"]
