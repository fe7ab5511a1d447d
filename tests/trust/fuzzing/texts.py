"""What people write: options, numbers, limits, configuration files, patterns."""

from __future__ import annotations

import re
from functools import lru_cache

from tests.unit.control.bare_mount import NoAlarm
from throttlefs.cli.mount8 import with_subcommand
from throttlefs.policy.config_writer import write_config
from throttlefs.policy.governor import Governor
from throttlefs.policy.policy import make_policy
from throttlefs.settings.config import Config, parse_config
from throttlefs.settings.config_table import ConfigError
from throttlefs.settings.globs import Glob, GlobError
from throttlefs.settings.globset import GlobSet
from throttlefs.settings.limits import (
    LIMIT_NAMES,
    Limits,
    LimitsError,
    canonical_name,
    format_limit,
    parse_limit,
)
from throttlefs.settings.option_values import OptionError
from throttlefs.settings.options import escape, parse_options
from throttlefs.settings.units import (
    MAX_VALUE,
    UnitError,
    format_bytes,
    format_requests,
    parse_byte_rate,
    parse_bytes,
    parse_request_rate,
    quoted,
)
from throttlefs.throttle import Throttle

from .target import check_line, plain


def _text(data: bytes) -> str:
    return data.decode("utf-8", "surrogateescape")  # as Python has its arguments


def options(data: bytes) -> None:
    """-o strings, one a line. Their text form reads back as the same, and so does any value."""
    strings = _text(data).split("\n")
    with_subcommand(strings, ("mount", "set"))
    try:
        found = parse_options(strings)
    except OptionError as error:
        check_line(str(error))
        assert quoted(error.option)[1:-1] in str(error) or error.option in str(error)
    else:
        assert parse_options([str(found)]) == found
        assert parse_options([",".join(strings)]) == found or "\\" in ",".join(strings)
    assert parse_options([f"ro,fsname={escape(_text(data)) or 'x'}"]).fsname == (_text(data) or "x")


def units(data: bytes) -> None:
    """Sizes and numbers, as text and as the numbers of JSON and TOML."""
    text = _text(data)
    values: list[str | int | float] = [text, int.from_bytes(data[:4000], "big", signed=True)]
    if re.fullmatch(r"[-+0-9.eE]{1,400}|nan|-?inf", text):
        try:
            values.append(float(text))
        except ValueError:
            pass
    for value in values:
        for parse, form in (
            (parse_bytes, format_bytes),
            (parse_byte_rate, format_bytes),
            (parse_request_rate, format_requests),
        ):
            try:
                number = parse(value)
            except UnitError as error:
                check_line(str(error))
            else:
                assert 0 <= number <= MAX_VALUE
                assert parse(form(number)) == number


def limits(data: bytes) -> None:
    """Limits, NAME=VALUE a line. A set is valid or refused, and reads back."""
    pairs = [line.partition("=")[::2] for line in _text(data).split("\n")]
    for name, value in pairs:
        try:
            number = parse_limit(name, value)
        except LimitsError as error:
            check_line(str(error))
            assert error.option == name
        else:
            if number <= MAX_VALUE:
                assert parse_limit(name, format_limit(_canonical(name), number)) == number
    try:
        found = Limits.parse(dict(pairs))
    except LimitsError as error:
        check_line(str(error))
        assert error.option in dict(pairs)
    else:
        assert (
            Limits.parse(dict(item.split("=") for item in str(found).split(",") if item)) == found
        )
        assert Limits(**found.as_dict()) == found


def _canonical(name: str) -> str:
    return canonical_name(name) or name


def config(data: bytes) -> None:
    """A configuration file. What it says can be put in force, written down and read again."""
    try:
        found = parse_config(_text(data), "limits.toml")
    except ConfigError as error:
        check_line(str(error))
        assert str(error).startswith("limits.toml: ")
        return
    policy = make_policy(parse_options([]), found)
    governor = Governor(Throttle(clock=lambda: 10**12, alarm=NoAlarm()), policy)
    governor.image((1, 1), b"db/a.img")
    governor.reload(make_policy(parse_options(["bps=1M,group=g"]), Config()), lambda key: None)
    governor.reload(policy, lambda key: None)
    image = governor.throttle.image((1, 1))
    held = policy.for_path(b"db/a.img")
    assert image.meter.limits == held.limits
    assert (image.parent.name if image.parent else None, image.weight) == (held.group, held.weight)
    written = write_config(policy.default, policy.groups, [], found.images, found.faults)
    again = make_policy(parse_options([]), parse_config(written, "written.toml"))
    assert (again.default, again.groups) == (policy.default, policy.groups)
    assert again.config.images == found.images
    assert again.config.faults == found.faults


def globs(data: bytes) -> None:
    """A pattern, a NUL and a path: matches as one that tries every possibility, if short."""
    text, path = (_text(part)[:8200] for part in data.partition(b"\0")[::2])
    try:
        glob = Glob(text)
    except GlobError as error:
        check_line(str(error))
        return
    path = path[:300] if len(text) > 300 else path[:4096]
    found = GlobSet([glob]).first(path) == 0
    if len(text) <= 40 and len(path) <= 40:
        assert found == _matches_model(text, path), (text, path)


_STEP = re.compile(
    r"(?P<dirs>(?<![^/])\*\*/)|(?P<stars>\*+)|(?P<any>\?)|\\(?P<escaped>.)"
    r"|\[(?P<not>[!^]?)(?P<set>(?:\\.|\]|[^\\\]])(?:\\.|[^\\\]])*)\]|(?P<one>.)",
    re.DOTALL,
)


def _matches_model(text: str, path: str) -> bool:
    """The description of patterns, by trying every possibility."""
    steps = list(_STEP.finditer(text.removeprefix("/")))

    @lru_cache(None)
    def goes(step: int, at: int) -> bool:
        if step == len(steps):
            return at == len(path)
        found = steps[step]
        rest = range(at, len(path) + 1)
        if found["dirs"]:
            return any(goes(step + 1, to) for to in rest if to == at or path[to - 1] == "/")
        if found["stars"]:
            deep = len(found["stars"]) > 1
            return any(goes(step + 1, to) for to in rest if deep or "/" not in path[at:to])
        if at == len(path):
            return False
        character = path[at]
        if found["any"]:
            fits = character != "/"
        elif found["set"] is not None:
            fits = character != "/" and _in_set(found["set"], character) != bool(found["not"])
        else:
            fits = character == (found["escaped"] or found["one"])
        return fits and goes(step + 1, at + 1)

    return goes(0, 0)


def _in_set(members: str, character: str) -> bool:
    pairs = re.findall(r"(\\.|.)(?:-(\\.|.))?", members, re.DOTALL)
    # Each is one character, or two with the backslash that takes it literally.
    return any(first[-1] <= character <= (last or first)[-1] for first, last in pairs)


_LIMITS = [name.encode() for name in (*LIMIT_NAMES, "throttling.bps-total", "x-iops-read-max")]
_VALUES = [b"0", b"1", b"1M", b"1.5k", b"909T", b"1000T", b".5", b"10", b"60", b"-5", b"1e3"]

TARGETS = (
    plain(
        options,
        [
            b"bps=1M,iops=500", b"bps_rd=1M,bps_rd_max=5M,bps_rd_max_length=9,group=g,weight=9",
            b"config=a\\,b\\\\,ro,nodev\nfsname=x,attr_timeout=.5,cache=none,engine=uring",
            b"rw,users,allow_other,metrics=[::1]:9100,max_background=5,max_inflight=4M,nonempty",
        ],
        [*_LIMITS, *_VALUES, b"x-", b"comment=", b"user=", b"group=", b"metrics=", b"subtype="],
    ),
    plain(units, [b"1.5M", b"3000", b"1e9", b".25K", b"0"], _VALUES, long=200_000),
    plain(
        limits,
        [
            b"bps=1M\niops=5\niops_size=4k", b"bps-total=5\nbps-total-max=9\nbps_max_length=6",
            b"iops_rd=5\niops_rd_max=7\niops_rd_max_length=5",
        ],
        [*_LIMITS, *_VALUES, b"_max", b"_max_length=", b"\n"],
    ),
    plain(
        config,
        [
            b'[defaults]\niops = 5\ngroup = "vms"\n[[image]]\npath = "db/*.img"\nbps = "2M"\n'
            b'[[image]]\npath = "vm/**"\ngroup = ""\nweight = 7\n[group.vms]\nbps = "50M"\n'
            b'parent = "host"\n[group.host]\niops = 5000\niops_max = 6000\n',
            b'[[image]]\npath = "**"\ngroup = "a"\n[group.a]\nparent = "b"\n[group.b]\n',
            b'[[fault]]\npath = ["a", "b/**"]\nop = ["write", "flush"]\nerror = "EIO"\nnth = 3\n'
            b'[[fault]]\ndelay = "1.5s"\nop = "read"\nrange = "1M-"\nat = "1s"\nlasting = "5ms"\n',
        ],
        [*_LIMITS, b"[[image]]\n", b"[[fault]]\n", b"torn = 512\n", b"lose = true\n",
         b"[defaults]\n", b'[group."', b"path = ", b"parent = ",
         b".a" * 50,
         b"1979-05-27", b"{a = 1}", b"[1]", b"= nan\n", b"= 1e400\n", b"weight = ", b'"""', b"#"],
        long=60_000,
    ),
    plain(
        globs,
        [b"db/*.img\0db/a.img", b"a/**/b\0a/x/y/b", b"[!a-c]x?\0dxy", b"**/*.[ri]\0a/b/c.i"],
        [b"*", b"**/", b"**", b"?", b"[a-z]", b"[!", b"]", b"\\", b"/", b"a", b"*a" * 30, b"/\0"],
        long=200_000,
    ),
)  # fmt: skip
