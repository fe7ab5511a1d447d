import pickle

import pytest
from hypothesis import given
from hypothesis import strategies as st

from throttlefs.settings import mountflags, option_values
from throttlefs.settings.limits import LIMIT_NAMES, QEMU_DASHED_NAMES, Limits
from throttlefs.settings.option_values import OptionError
from throttlefs.settings.options import (
    MountOptions,
    as_option,
    escape,
    parse_options,
    why_not_in_flight,
)


def parse(*strings):
    return parse_options(strings)


def refusal(*strings):
    with pytest.raises(OptionError) as caught:
        parse_options(strings)
    return caught.value


def test_nothing_said():
    assert parse() == parse("") == parse(",,", "") == MountOptions()
    nothing = MountOptions()
    assert nothing.limits == Limits()
    assert (nothing.weight, nothing.group, nothing.config) == (100, None, None)
    assert (nothing.attr_timeout, nothing.entry_timeout) == (1.0, 1.0)
    assert (nothing.cache, nothing.engine) == ("writeback", "auto")
    assert (nothing.max_inflight, nothing.max_background) == (256 << 20, 10_000)
    assert not nothing.limits_given
    assert nothing.fuse_options() == ["default_permissions"]


def test_limits_under_all_their_names():
    assert parse("bps=1.5M,iops=3k").limits == Limits(bps=1572864, iops=3000)
    assert parse("throttling.bps-total=1M").limits == Limits(bps=1 << 20)
    assert parse("x-iops-read=5,x-iops-read-max=7").limits == Limits(iops_rd=5, iops_rd_max=7)
    assert parse("iops_max=9", "iops=3,iops-total-max-length=4").limits == Limits(
        iops=3, iops_max=9, iops_max_length=4
    )


@pytest.mark.parametrize("name", LIMIT_NAMES + QEMU_DASHED_NAMES)
def test_every_limit_needs_a_value(name):
    assert f"{name} needs a value" in str(refusal(name))
    assert f"{name} needs a value" in str(refusal(f"{name}="))
    assert refusal(f"{name}=banana").option == name


def test_values():
    everything = parse(
        "group=db,weight=10000,config=/etc/a b.toml,attr_timeout=0.25,entry_timeout=0,nonempty",
        "auto_cache,cache=none,engine=threads,max_inflight=2M,max_background=65535",
        "metrics=localhost:9100,fsname=my images,subtype=throttlefs",
    )
    assert everything.given == {
        *("group", "weight", "config", "attr_timeout", "entry_timeout", "cache", "engine"),
        *("max_inflight", "max_background", "metrics", "fsname"),
    }
    assert everything == MountOptions(
        group="db",
        weight=10000,
        config="/etc/a b.toml",
        attr_timeout=0.25,
        entry_timeout=0.0,
        nonempty=True,
        auto_cache=True,
        cache="none",
        engine="threads",
        max_inflight=2 << 20,
        max_background=65535,
        metrics="localhost:9100",
        fsname="my images",
        given=everything.given,
    )


def test_qemus_name_of_the_group():
    options = parse("throttling.group=db,throttling.bps-total=1M")
    assert options == parse("group=db,bps=1M")
    assert str(options) == "bps=1M,group=db"
    assert parse("group=a,throttling.group=b") == parse("throttling.group=a,group=b")
    assert parse("group=a,throttling.group=b").group == "b", "the later wins"


def test_a_limit_of_nothing_is_something_said():
    assert parse("bps=0").limits == parse().limits
    assert parse("bps=0").limits_given
    assert parse("bps=0") != parse()


@pytest.mark.parametrize(
    ("string", "flags"),
    [
        ("ro,rw", "rw"),
        ("rw,ro,noexec", "ro noexec"),
        ("noexec,ro,exec", "ro exec"),
        ("noatime", "noatime"),
        ("noatime,relatime", ""),
        ("diratime,noatime,nodiratime", "noatime nodiratime"),
        ("allow_other,allow_root", "allow_root"),
        ("allow_root,allow_other", "allow_other"),
        ("sync,dirsync,async", "dirsync async"),
        ("user", "noexec nosuid nodev"),
        ("user=joe", "noexec nosuid nodev"),
        ("users,exec,dev", "nosuid exec dev"),
        ("exec,users", "noexec nosuid nodev"),
        ("owner,suid", "nodev suid"),
        ("group", "nosuid nodev"),
        ("group=group", ""),
        ("defaults,auto,noauto,nofail,nouser,_netdev,comment=a,comment=,x-systemd.automount", ""),
        ("X-mount.mkdir=0755,x-gvfs-show,uhelper=udisks2,helper=x,relatime", ""),
        ("nodiratime,diratime,nolazytime,norelatime,nostrictatime", ""),
        ("default_permissions,auto_unmount", "auto_unmount"),
    ],
)
def test_flags(string, flags):
    assert parse(string).flags == tuple(flags.split())
    assert parse(*string.split(",")).flags == tuple(flags.split())
    told = [flag for flag in flags.split() if flag != "nodiratime"]
    assert parse(string).fuse_options() == ["default_permissions", *told]


@pytest.mark.parametrize(
    ("string", "files", "directories"),
    [
        ("", False, False),
        ("noatime", True, True),
        ("nodiratime", False, True),
        ("nodiratime,diratime", False, False),
        ("noatime,diratime", True, True),  # as in the kernel
        ("noatime,atime", False, False),
        ("noatime,relatime,nodiratime", False, True),
    ],
)
def test_whose_access_times_stay(string, files, directories):
    assert parse(string).noatime == files
    assert parse(string).nodiratime == directories


@pytest.mark.parametrize("name", ["strictatime", "lazytime"])
def test_access_times_that_the_filesystem_of_src_alone_can_keep(name):
    assert str(refusal(f"ro,{name}")) == (
        f"option {name!r} cannot be used: access times are kept by the filesystem of SRC:"
        " give it to that one's mount"
    )


def test_flags_read_by_throttlefs_itself():
    some = parse("ro,noatime,allow_other,auto_unmount")
    assert some.read_only
    assert some.noatime
    assert some.allow_other
    assert some.auto_unmount
    assert not some.allow_root
    assert parse("allow_root").allow_root
    assert not parse("ro,rw").read_only


@pytest.mark.parametrize(
    ("name", "option"),
    [
        ("bps", "bps"),
        ("bps-total", "bps-total"),
        ("allow-other", "allow_other"),
        ("nonempty", "nonempty"),
        ("rate-limit", "bps"),
        ("help", None),
        ("", None),
    ],
)
def test_what_an_option_is_called_in_o(name, option):
    assert as_option(name) == option
    if option is not None:
        assert as_option(option) == option


def test_what_cannot_change_in_flight():
    assert "cache cannot change in flight" in why_not_in_flight("cache")
    assert "nonempty cannot change" in why_not_in_flight("nonempty")
    assert why_not_in_flight("bsp") is None
    assert why_not_in_flight("bps") is None


def test_escapes():
    assert parse(r"config=a\,b,bps=5").config == "a,b"
    assert parse(r"config=a\\,bps=5").config == "a\\"
    assert parse(r"config=a\\\,b").config == "a\\,b"
    assert parse(r"config=a\b").config == r"a\b"
    assert parse("config=a\\").config == "a\\"
    assert parse("config=a=b").config == "a=b"
    assert parse("config=a\nb").config == "a\nb"


@pytest.mark.parametrize(
    ("string", "option", "message"),
    [
        ("bsp=1M", "bsp", "unknown option 'bsp'; did you mean 'bps'?"),
        ("allow_ohter", "allow_ohter", "did you mean 'allow_other'?"),
        ("BPS=1", "BPS", "did you mean 'bps'?"),
        (" bps=1", " bps", "unknown option ' bps'; did you mean 'bps'?"),
        ("iops-totl=1", "iops-totl", "did you mean 'iops-total'?"),
        ("rbps=1", "rbps", "did you mean 'bps_rd'?"),
        ("rate=1", "rate", "unknown option 'rate'; did you mean 'bps'?"),
        ("limit=1", "limit", "did you mean 'bps'?"),
        ("Bandwidth=1", "Bandwidth", "did you mean 'bps'?"),
        ("throughput=1", "throughput", "did you mean 'bps'?"),
        ("requests=1", "requests", "did you mean 'iops'?"),
        ("device-read-bps=1", "device-read-bps", "did you mean 'bps_rd'?"),
        ("burst=1", "burst", "did you mean 'bps_max'?"),
        ("total_bytes_sec=1", "total_bytes_sec", "did you mean 'bps'?"),
        ("x-bps-totl=1", "x-bps-totl", "did you mean 'bps-total'?"),
        ("x-iops", "x-iops", "needs a value"),
        ("qqqq", "qqqq", "unknown option 'qqqq'"),
        ("=5", "", "unknown option ''"),
        ("bps=banana", "bps", "'banana' is not a number"),
        ("bps=-1", "bps", "'-1' is negative"),
        ("bps=2000T", "bps", "'2000T' is too large"),
        ("bps=banana,bps=1M", "bps", "'banana' is not a number"),
        ("bps_max=1M", "bps_max", "bps_max=1M needs bps"),
        ("bps=1M,bps_max=2M,bps=0", "bps_max", "bps_max=2M needs bps"),
        ("bps=2M,bps-total-max=1M", "bps-total-max", "bps-total-max=1M is below bps=2M"),
        ("iops_size=4K", "iops_size", "iops_size=4K has nothing to count"),
        ("iops_max_length=0", "iops_max_length", "at least 1 second"),
        ("ro=1", "ro", "ro='1': ro takes no value"),
        ("nonempty=", "nonempty", "nonempty takes no value"),
        ("users=joe", "users", "users takes no value"),
        ("weight", "weight", "weight needs a value, e.g. weight=100"),
        ("weight=0", "weight", "from 1 to 10000"),
        ("weight=10001", "weight", "from 1 to 10000"),
        ("weight=1.5", "weight", "from 1 to 10000"),
        ("weight=\N{ARABIC-INDIC DIGIT THREE}", "weight", "from 1 to 10000"),
        ("group=", "group", "group needs a value"),
        ("group=a\nb", "group", "cannot name a group"),
        ("group=" + "x" * 256, "group", "cannot name a group"),
        ("throttling.group=", "throttling.group", "throttling.group needs a value"),
        ("throttling.group", "throttling.group", "throttling.group needs a value"),
        (
            "throttling.group=a\nb",
            "throttling.group",
            "throttling.group: 'a\\nb' cannot name a group",
        ),
        ("config=", "config", "config needs a value"),
        ("attr_timeout=-1", "attr_timeout", "'-1' is not a number of seconds"),
        ("attr_timeout=nan", "attr_timeout", "not a number of seconds"),
        ("entry_timeout=1e3", "entry_timeout", "not a number of seconds"),
        ("entry_timeout=1000000001", "entry_timeout", "not a number of seconds"),
        ("cache=fast", "cache", "none of writeback, none, writethrough, directsync, unsafe"),
        ("engine=gas", "engine", "none of auto, uring, threads"),
        ("max_inflight=1M", "max_inflight", "the smallest value is 2M"),
        ("max_inflight=many", "max_inflight", "'many' is not a number"),
        ("max_background=0", "max_background", "from 1 to 65535"),
        ("max_background=65536", "max_background", "from 1 to 65535"),
        ("max_background=1K", "max_background", "from 1 to 65535"),
        ("max_read=128K", "max_read", "leave it out"),
        ("metrics=9100", "metrics", "'9100' is not HOST:PORT"),
        ("metrics=:9100", "metrics", "is not HOST:PORT"),
        ("metrics=h:0", "metrics", "is not HOST:PORT"),
        ("metrics=h:65536", "metrics", "is not HOST:PORT"),
        ("metrics=::1:9100", "metrics", "is not HOST:PORT"),
        ("subtype=ext4", "subtype", "always fuse.throttlefs"),
        ("remount", "remount", "'throttlefs set'"),
        ("uid=5", "uid", "those of SRC"),
        ("nosymfollow", "nosymfollow", "cannot be used"),
    ],
)
def test_what_cannot_be_used_is_named_in_one_line(string, option, message):
    error = refusal("ro", string)
    assert error.option == option
    assert message in str(error)
    assert str(error).isprintable()
    assert (option or "''") in str(error)
    assert str(pickle.loads(pickle.dumps(error))) == str(error)


@pytest.mark.parametrize(
    ("address", "parts"),
    [
        ("127.0.0.1:9100", ("127.0.0.1", 9100)),
        ("[::1]:1", ("::1", 1)),
        ("my-host.example_x:65535", ("my-host.example_x", 65535)),
    ],
)
def test_addresses(address, parts):
    assert option_values.split_address(parse(f"metrics={address}").metrics) == parts


_FLAGS = st.sampled_from([*mountflags.FLAG_NAMES, "nonempty", "auto_cache"])
_TEXT = st.text(st.characters(codec="utf-8"), min_size=1, max_size=8)
_PATHS = st.text(min_size=1, max_size=8)
_NAMES = st.text(st.characters(categories=["L", "P", "S", "N"]), min_size=1, max_size=8)
_PAIRS = st.one_of(
    st.tuples(st.sampled_from(["config", "fsname"]), _PATHS | _TEXT),
    st.tuples(st.just("group"), _NAMES),
    st.tuples(st.just("weight"), st.integers(1, 10_000).map(str)),
    st.tuples(
        st.sampled_from(["attr_timeout", "entry_timeout"]),
        st.decimals(0, 10**9, places=12).map(lambda d: format(d, "f")),
    ),
    st.tuples(st.just("cache"), st.sampled_from(option_values.CACHE_MODES)),
    st.tuples(st.just("engine"), st.sampled_from(option_values.ENGINES)),
    st.tuples(st.just("max_inflight"), st.integers(2 << 20, 10**15).map(str)),
    st.tuples(st.just("max_background"), st.integers(1, 65_535).map(str)),
    st.tuples(st.sampled_from(LIMIT_NAMES[:6]), st.integers(0, 10**15).map(str)),
)
_ITEMS = _FLAGS | _PAIRS.map(lambda pair: f"{pair[0]}={escape(pair[1])}")
_STRINGS = st.lists(st.lists(_ITEMS, max_size=4).map(",".join), max_size=3)


@given(_STRINGS)
def test_the_text_form_reads_back_as_the_same(strings):
    once = parse(*strings)
    assert parse(str(once)) == once
    assert str(parse(str(once))) == str(once)


@given(_STRINGS)
def test_how_options_are_spread_over_strings_does_not_matter(strings):
    assert parse(*strings) == parse(",".join(strings))


@given(st.lists(_PAIRS, min_size=1, max_size=6))
def test_the_later_wins(pairs):
    got = parse(",".join(f"{name}={escape(value)}" for name, value in pairs))
    last = dict(pairs)
    assert got == parse(*(f"{name}={escape(value)}" for name, value in last.items()))
    for name in ("config", "fsname", "group", "cache", "engine"):
        assert getattr(got, name) == last.get(name, getattr(MountOptions(), name))
    for name in LIMIT_NAMES[:6]:
        assert getattr(got.limits, name) == int(last.get(name, 0))


@given(_PATHS)
def test_any_text_can_be_escaped(text):
    assert parse(f"bps=1,config={escape(text)},iops=2").config == text


@given(st.text(max_size=30) | st.lists(_ITEMS | st.text(max_size=5), max_size=4).map(",".join))
def test_any_text_is_options_or_an_option_error(text):
    try:
        once = parse(text)
    except OptionError as error:
        assert str(error).isprintable()  # noqa: PT017
    else:
        assert parse(str(once)) == once


@given(st.lists(_FLAGS, max_size=8))
def test_no_two_flags_contradict_each_other(words):
    flags = parse(",".join(words)).flags
    positives = [flag.removeprefix("no") for flag in flags]
    assert len(set(positives)) == len(positives)
    for first, second in [("ro", "rw"), ("sync", "async"), ("allow_other", "allow_root")]:
        assert not {first, second} <= set(flags)


def test_the_longest_fraction_reads_back():
    once = parse("attr_timeout=." + "0" * 62 + "1")
    assert parse(str(once)) == once
