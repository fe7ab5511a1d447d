import textwrap

import pytest
from hypothesis import given
from hypothesis import strategies as st

from throttlefs.settings.config import (
    NO_CONFIG,
    Config,
    Defaults,
    GroupRule,
    ImageRule,
    parse_config,
)
from throttlefs.settings.config_table import ConfigError
from throttlefs.settings.globs import Glob
from throttlefs.settings.limits import Limits
from throttlefs.settings.units import quoted


def parse(text):
    return parse_config(textwrap.dedent(text), "limits.toml")


def refusal(text):
    with pytest.raises(ConfigError) as caught:
        parse(text)
    message = str(caught.value)
    assert message.startswith("limits.toml: ")
    assert message.isprintable()
    return message


def test_a_whole_file():
    config = parse(
        """
        [defaults]
        bps = "10M"
        weight = 50

        [[image]]
        path = "db/*.qcow2"
        bps-total = "1.5M"
        "throttling.iops-total" = 3000
        iops_size = 4096
        group = "db"
        weight = 200

        [[image]]
        path = "**/scratch*"
        bps = 0
        group = ""

        [[image]]
        path = "vip"

        [group.db]
        iops = "3k"
        weight = 300
        parent = "tenant one"

        [group."tenant one"]
        bps = 20971520.0
        """
    )
    assert config == Config(
        defaults=Defaults(limits=Limits(bps=10 << 20), weight=50),
        images=(
            ImageRule(
                Glob("db/*.qcow2"),
                limits=Limits(bps=1572864, iops=3000, iops_size=4096),
                group="db",
                weight=200,
            ),
            ImageRule(Glob("**/scratch*"), limits=Limits(), group=""),
            ImageRule(Glob("vip")),
        ),
        groups={
            "db": GroupRule(Limits(iops=3000), weight=300, parent="tenant one"),
            "tenant one": GroupRule(Limits(bps=20 << 20)),
        },
    )


def test_qemus_name_of_the_group():
    config = parse("[group.db]\n[defaults]\n'throttling.group' = 'db'\n'throttling.bps-total' = 5")
    assert config.defaults == Defaults(Limits(bps=5), "db")


def test_nothing_said():
    assert parse("") == parse("# nothing\n[defaults]\n") == NO_CONFIG
    assert parse("image = []") == NO_CONFIG
    assert NO_CONFIG.rule_for(b"any") is None


def test_the_first_match_wins():
    config = parse(
        """
        [[image]]
        path = "vm/special.img"
        weight = 1
        [[image]]
        path = "vm/*"
        weight = 2
        [[image]]
        path = "**"
        weight = 3
        """
    )
    weights = {
        path: config.rule_for(path).weight
        for path in (b"vm/special.img", b"/vm/special.img", b"vm/a", b"vm/a/b", b"\xff\xfe")
    }
    assert list(weights.values()) == [1, 1, 2, 3, 3]


def test_paths_need_not_be_utf8():
    config = parse('[[image]]\npath = "disk-?.img"')
    assert config.rule_for(b"disk-\xff.img") == config.images[0]
    assert config.rule_for("disk-\N{GREEK SMALL LETTER PI}.img".encode()) == config.images[0]
    assert config.rule_for(b"disk-\xff\xff.img") is None


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("[[images]]", "unknown table 'images'; did you mean 'image'?"),
        ("[default]", "unknown table 'default'; did you mean 'defaults'?"),
        ("bps = 5", "bps stands outside a table"),
        ("[image]\npath = 'a'", "write [[image]]"),
        ("image = 5", "write [[image]]"),
        ("image = [5]", "write [[image]]"),
        ("defaults = 5", "write [defaults]"),
        ("[[defaults]]", "write [defaults]"),
        ("[[group]]", "write [group.NAME]"),
        ("group = 'db'", "write [group.NAME]"),
        ("[group]\nbps = 5", "[group]: bps is not a table"),
        ("[group.'']", "[group.'']: name: the name of the group is missing"),
        ('[group."a\\nb"]', r"[group.'a\nb']: name: 'a\nb' cannot name a group"),
        ("[[image]]\nbps = 5", "[[image]] number 1: path: is missing"),
        ("[[image]]\npath = 5", "[[image]] number 1: path: '5' is not a string"),
        (
            "[[image]]\npath = 'a'\n[[image]]\npath = 'b['",
            "[[image]] number 2 (path 'b['): path: 'b[' has a '[' without its ']'",
        ),
        ("[[image]]\npath = ''", "number 1 (path ''): path: the pattern is empty"),
        (
            "[[image]]\npath = 'a'\n[[image]]\npath = 'a'",
            "number 2 (path 'a'): path: number 1 has the same",
        ),
        (
            "[[image]]\npath = '*.raw'\nbsp = 5",
            "[[image]] number 1 (path '*.raw'): unknown key 'bsp'; did you mean 'bps'?",
        ),
        ("[[image]]\npath = 'a'\nparent = 'b'", "unknown key 'parent'"),
        ("[group.a]\npath = 'b'", "[group.a]: unknown key 'path'"),
        ("[group.a]\nwieght = 5", "[group.a]: unknown key 'wieght'; did you mean 'weight'?"),
        ("[defaults]\nparent = 'b'", "[defaults]: unknown key 'parent'"),
        ("[defaults]\nrbps = 5", "did you mean 'bps_rd'?"),
        ("[defaults]\nbps = 'banana'", "[defaults]: bps: 'banana' is not a number"),
        ("[defaults]\nbps = true", "[defaults]: bps: 'True' is not a number"),
        ("[defaults]\nbps = [1]", "[defaults]: bps: '[1]' is not a number"),
        ("[defaults]\nbps = 2024-01-01", "[defaults]: bps: '2024-01-01' is not a number"),
        ("[defaults]\nbps = inf", "[defaults]: bps: inf is not a number"),
        ("[defaults]\nbps = -1", "[defaults]: bps: '-1' is negative"),
        ("[defaults]\nbps.total = 1", "[defaults]: bps: "),
        ("[defaults]\nbps_max_length = 1.5", "bps_max_length: '1.5' is not a whole number"),
        ("[defaults]\nbps = 1\nbps-total = 2", "bps-total and bps are the same limit"),
        ("[group.g]\nbps-total-max = 5", "[group.g]: bps-total-max=5 needs bps"),
        ("[group.g]\niops_size = 5", "[group.g]: iops_size=5 has nothing to count"),
        ("[group.g]\nweight = 0", "[group.g]: weight: '0' is not a whole number from 1 to 10000"),
        ("[group.g]\nweight = 1.0", "weight: '1.0' is not a whole number"),
        ("[defaults]\nweight = true", "[defaults]: weight: 'True' is not a whole number"),
        ("[defaults]\ngroup = 'db'", "[defaults]: group: there is no group 'db'; add a table"),
        (
            "[[image]]\npath = 'a'\ngroup = 'guets'\n[group.guests]",
            "[[image]] number 1 (path 'a'): group: there is no group 'guets'; "
            "did you mean 'guests'?",
        ),
        ("[[image]]\npath = 'a'\ngroup = 5", "group: '5' is not the name of a group"),
        ("[defaults]\n'throttling.group' = 'db'", "throttling.group: there is no group 'db'"),
        (
            "[defaults]\n'throttling.group' = ''\ngroup = ''",
            "[defaults]: group: throttling.group is the same: give one of them",
        ),
        ("[group.a]\n'throttling.group' = 'b'", "[group.a]: unknown key 'throttling.group'"),
        ("[group.a]\nparent = 'zzz'", "[group.a]: parent: there is no group 'zzz'; add a table"),
        ("[group.a]\nparent = ['b']", "parent: \"['b']\" is not the name of a group"),
        ("[group.a]\nparent = 'a'", "[group.a]: parent: a group cannot be above itself: a -> a"),
        (
            "[group.x]\nparent='a'\n[group.a]\nparent='b'\n[group.b]\nparent='c'\n"
            "[group.c]\nparent='a'",
            "[group.a]: parent: a group cannot be above itself: a -> b -> c -> a",
        ),
        (
            "".join(f"[group.g{n}]\nparent='g{n + 1}'\n" for n in range(32)) + "[group.g32]",
            "[group.g0]: parent: more than 32 groups would be one inside the other",
        ),
        ("[defaults]\nbps = \n", "is not valid TOML: Invalid value (at line 2, column 7)"),
        ("[defaults]\nbps = 1\nbps = 2\n", "Cannot overwrite a value (at line 3"),
        ("[group.a]\n[group.a]\n", "is not valid TOML: Cannot declare"),
        ("a = " + "9" * 5000, "is not valid TOML: "),
        ("a = " + "[" * 100_000, "is not valid TOML: nested too deep"),
    ],
)
def test_errors_name_table_and_key(text, expected):
    assert expected in refusal(text)


def test_a_key_of_thousands_of_parts():
    """Some Pythons print so deep a table; some tomllibs refuse it before there is one to name."""
    printed = quoted("{" + "'a': {" * 3000)
    assert refusal("[defaults]\nbps" + ".a" * 3000 + "=1") in {
        "limits.toml: [defaults]: bps: a value nested too deep is not a number",
        f"limits.toml: [defaults]: bps: {printed} is not a number",
        "limits.toml: is not valid TOML: nested too deep",
    }


_NAMES = st.sampled_from("abcdefgh")


@given(st.dictionaries(_NAMES, st.none() | _NAMES, max_size=8))
def test_cycles_of_parents_are_found_and_nothing_else(parents):
    text = ""
    for name, parent in parents.items():
        text += f"[group.{name}]\n" + (f"parent = '{parent}'\n" if parent else "")
    known = all(parent is None or parent in parents for parent in parents.values())

    def above(name, steps):
        return name if name is None or steps == 0 else above(parents.get(name), steps - 1)

    cyclic = known and any(above(name, len(parents)) for name in parents)
    try:
        groups = parse(text).groups
    except ConfigError as error:
        assert not known or cyclic
        assert ("above itself" in str(error)) == cyclic  # noqa: PT017
    else:
        assert known
        assert not cyclic
        assert {name: rule.parent for name, rule in groups.items()} == parents


_LINES = st.sampled_from(
    [
        *("[defaults]", "[[image]]", "[group.a]", "[group.b]", "[group]", "[[group]]", "[image]"),
        *("path = '*'", "path = 'a'", "path = '['", "path = 5", "path.a = 5"),
        *("bps = 5", "bps = '1M'", "bps_max = 9", "bps-total = 1", "iops_size = 4", "bps = ''"),
        *("group = 'a'", "group = 'c'", "group = ''", "group = 1", "parent = 'b'", "parent = 'a'"),
        *("weight = 5", "weight = -5", "weight = nan", "bsp = 5", "iops = 1e400", "iops = []"),
    ]
)


@given(st.text(max_size=40) | st.lists(_LINES | st.text(max_size=6), max_size=8).map("\n".join))
def test_any_text_is_a_config_or_a_config_error(text):
    try:
        config = parse_config(text, "limits.toml")
    except ConfigError as error:
        message = str(error)
        assert message.startswith("limits.toml: ")
        assert message.isprintable()
    else:
        for group in config.groups.values():
            assert group.parent is None or group.parent in config.groups
        for rule in (*config.images, config.defaults):
            assert not rule.group or rule.group in config.groups
