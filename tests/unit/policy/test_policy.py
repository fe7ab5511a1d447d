import dataclasses

import pytest

from throttlefs.policy.policy import GroupPolicy, make_policy
from throttlefs.settings.config import parse_config
from throttlefs.settings.limits import NO_LIMITS, Limits
from throttlefs.settings.options import parse_options
from throttlefs.throttle import ImagePolicy

M = 1 << 20


def policy(options, config=""):
    return make_policy(parse_options([options]), parse_config(config, "limits.toml"))


def test_o_limits_are_each_images_own():
    both = policy("bps=1M,weight=7")
    assert both.for_path(b"any") == ImagePolicy(Limits(bps=M), None, 7)
    assert both.groups == {}


def test_o_limits_beside_a_group_are_the_groups():
    shared = policy("bps=1M,group=g,weight=7")
    assert shared.for_path(b"any") == ImagePolicy(NO_LIMITS, "g", 7)
    assert shared.groups == {"g": GroupPolicy(Limits(bps=M))}


def test_nothing_said():
    assert policy("").for_path(b"any") == ImagePolicy(NO_LIMITS, None, 100)
    assert policy("group=g").groups == {"g": GroupPolicy()}


FILE = """
[defaults]
bps = "3M"
group = "t"
weight = 30
[group.t]
bps = "9M"
[group.g]
weight = 5
parent = "t"
"""


@pytest.mark.parametrize(
    ("options", "default"),
    [
        ("", ImagePolicy(Limits(bps=3 * M), "t", 30)),
        ("iops=1", ImagePolicy(Limits(iops=1), "t", 30)),
        ("bps=0", ImagePolicy(NO_LIMITS, "t", 30)),
        ("group=g", ImagePolicy(Limits(bps=3 * M), "g", 30)),
        ("bps=1M,group=g", ImagePolicy(NO_LIMITS, "g", 30)),
        ("weight=100", ImagePolicy(Limits(bps=3 * M), "t", 100)),
        ("weight=1,group=new", ImagePolicy(Limits(bps=3 * M), "new", 1)),
    ],
)
def test_o_comes_before_defaults(options, default):
    assert policy(options, FILE).default == default
    assert policy(options, FILE).for_path(b"any") == default


def test_groups_come_from_both():
    assert policy("", FILE).groups == {
        "t": GroupPolicy(Limits(bps=9 * M)),
        "g": GroupPolicy(NO_LIMITS, 5, "t"),
    }
    # The table says nothing of limits: -o does, and the table all the rest.
    assert policy("bps=1M,group=g", FILE).groups["g"] == GroupPolicy(Limits(bps=M), 5, "t")
    # The table has limits, which override those of -o.
    assert policy("bps=1M,group=t", FILE).groups["t"] == GroupPolicy(Limits(bps=9 * M))
    assert policy("bps=1M,group=new", FILE).groups["new"] == GroupPolicy(Limits(bps=M))


IMAGES = """
[group.db]
bps = "50M"
[[image]]
path = "limits"
iops = 5
[[image]]
path = "free"
bps = 0
[[image]]
path = "group"
group = "db"
[[image]]
path = "both"
iops = 5
group = "db"
[[image]]
path = "out"
group = ""
[[image]]
path = "weight"
weight = 400
[[image]]
path = "silent"
"""


@pytest.mark.parametrize(
    ("path", "alone", "grouped"),
    [
        # -o bps=1M,weight=7 without and with group=g
        (b"other", (Limits(bps=M), None, 7), (NO_LIMITS, "g", 7)),
        (b"limits", (Limits(iops=5), None, 7), (Limits(iops=5), "g", 7)),
        (b"free", (NO_LIMITS, None, 7), (NO_LIMITS, "g", 7)),
        (b"group", (NO_LIMITS, "db", 7), (NO_LIMITS, "db", 7)),
        (b"both", (Limits(iops=5), "db", 7), (Limits(iops=5), "db", 7)),
        (b"out", (Limits(bps=M), None, 7), (NO_LIMITS, None, 7)),
        (b"weight", (Limits(bps=M), None, 400), (NO_LIMITS, "g", 400)),
        (b"silent", (Limits(bps=M), None, 7), (NO_LIMITS, "g", 7)),
    ],
)
def test_an_images_table_overrides_the_default(path, alone, grouped):
    assert policy("bps=1M,weight=7", IMAGES).for_path(path) == ImagePolicy(*alone)
    assert policy("bps=1M,weight=7,group=g", IMAGES).for_path(path) == ImagePolicy(*grouped)


def test_another_default_holds_for_whom_no_table_says_otherwise():
    before = policy("bps=1M", IMAGES)
    after = dataclasses.replace(before, default=ImagePolicy(Limits(bps=5), None, 9))
    assert after.for_path(b"other") == ImagePolicy(Limits(bps=5), None, 9)
    assert after.for_path(b"limits") == ImagePolicy(Limits(iops=5), None, 9)
    assert before.for_path(b"other") == ImagePolicy(Limits(bps=M), None, 100)
