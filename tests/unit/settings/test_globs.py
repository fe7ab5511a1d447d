import fnmatch
import re

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from throttlefs.settings.globs import Glob, GlobError
from throttlefs.settings.globset import GlobSet


def matches(pattern, path):
    return GlobSet([Glob(pattern)]).first(path) == 0


@pytest.mark.parametrize(
    ("pattern", "yes", "no"),
    [
        ("disk.img", ["disk.img"], ["disk_img", "a/disk.img", "disk.img2", "Disk.img", ""]),
        ("/disk.img", ["disk.img"], ["a/disk.img"]),
        ("./disk.img", ["disk.img"], ["a/disk.img"]),
        ("./**", ["disk.img", "a/disk.img"], []),
        ("*.img", ["a.img", ".img", ".a.img"], ["a/b.img", "a.img/b", "a.imgs"]),
        ("db/*", ["db/a", "db/"], ["db/a/b", "db", "xdb/a"]),
        ("?.img", ["a.img", "\N{GREEK SMALL LETTER PI}.img"], ["/.img", ".img", "ab.img"]),
        ("a?b", ["axb"], ["a/b", "ab"]),
        ("**", ["a", "a/b", "a/b/c"], []),
        ("vm/**", ["vm/a", "vm/a/b"], ["vm", "vms/a"]),
        ("**.img", ["a.img", "a/b.img"], ["a.raw"]),
        ("**/*.img", ["a.img", "a/b.img", "a/b/c.img"], ["a.raw", "a.img/b"]),
        ("a/**/b", ["a/b", "a/x/b", "a/x/y/b"], ["ab", "a/xb", "ax/b"]),
        ("a**/b", ["a/b", "ax/b", "ax/y/b"], ["b", "ab"]),
        ("**/a/**/b", ["a/b", "x/a/y/b", "a/a/b"], ["xa/b", "b"]),
        ("***", ["a/b"], []),
        ("[ab].img", ["a.img", "b.img"], ["c.img", "ab.img"]),
        ("[a-c]x", ["ax", "cx"], ["dx", "-x"]),
        ("[!a-c]x", ["dx"], ["ax", "/x", "x"]),
        ("[^a-c]x", ["dx"], ["ax", "/x"]),
        ("[]a]", ["]", "a"], ["[", "b"]),
        ("[!]a]", ["b"], ["]", "a"]),
        ("[a-]", ["a", "-"], ["b"]),
        ("[-a]", ["a", "-"], ["b"]),
        ("[[]x", ["[x"], ["x"]),
        (r"[\]]", ["]"], ["\\"]),
        (r"[\\a]", ["\\", "a"], ["]"]),
        ("a[/]b", [], ["a/b"]),
        (r"\*.img", ["*.img"], ["a.img", r"\a.img"]),
        (r"a\[b", ["a[b"], ["a\\[b"]),
        ("a]", ["a]"], ["a"]),
        ("a\nb*", ["a\nb", "a\nb\n"], ["a"]),
    ],
)
def test_patterns(pattern, yes, no):
    assert [path for path in yes if not matches(pattern, path)] == []
    assert [path for path in no if matches(pattern, path)] == []


def test_one_wildcard_is_one_byte_that_is_not_utf8():
    path = b"disk-\xff.img".decode("utf-8", "surrogateescape")
    assert matches("disk-?.img", path)
    assert not matches("disk-??.img", path)
    assert matches("*.img", path)


@pytest.mark.parametrize(
    ("pattern", "why"),
    [
        ("", "empty"),
        ("/", "empty"),
        ("./", "empty"),
        ("vm/", r"its files are 'vm/\*\*'"),
        ("a[bc", r"'\[' without its '\]'"),
        ("a[", "without"),
        ("a[]", "without"),
        ("a[!", "without"),
        ("a[b-", "without"),
        ("a[b\\", "without"),
        ("a\\", "backslash"),
        ("[z-a]", "wrong way round"),
        ("a" * 8193, "longer than 8192"),
        ("[[:alpha:]]", "range such as a-z"),
    ],
)
def test_what_is_no_pattern(pattern, why):
    with pytest.raises(GlobError, match=why) as caught:
        Glob(pattern)
    assert str(caught.value).isprintable()


def test_equal_by_text():
    assert Glob("a*") == Glob("a*")
    assert hash(Glob("a*")) == hash(Glob("a*"))
    assert Glob("a*") != Glob("a?")


def test_many_stars_take_no_exponential_time():
    assert not matches("*a" * 40 + "b", "a" * 400)
    assert not matches("**/" * 40 + "b", "a/" * 200)


def model(tokens, path, name_starts=True):
    """The description of patterns, word by word, by trying every possibility."""
    if not tokens:
        return path == ""
    first, rest = tokens[0], tokens[1:]
    if first == "**" and name_starts and rest[:1] == ["/"]:
        ends = [0, *(match.end() for match in re.finditer("/", path))]
        return any(model(rest[1:], path[end:]) for end in ends)
    if first.startswith("*"):
        reach = path if len(first) > 1 else path.partition("/")[0]
        return any(model(rest, path[n:], False) for n in range(len(reach) + 1))
    if path == "":
        return False
    here = path[0]
    if first == "?":
        fits = here != "/"
    elif first.startswith("["):
        inverted = first[1] in "!^"
        members = first[1 + inverted : -1]
        fits = here != "/" and (here in members) != inverted
    else:
        fits = here == first.removeprefix("\\")
    return fits and model(rest, path[1:], first == "/")


_PATTERNS = st.lists(
    st.sampled_from(
        ["a", "b", "/", "/", "?", "*", "*", "**", "**/", "[a]", "[!a]", "[^b]", "[b-]", "\\*"]
    ),
    min_size=1,
    max_size=9,
).map("".join)
_PATHS = st.text("aab//*-", max_size=9)


@given(_PATTERNS, _PATHS)
@example("/**/a", "a")
@example("a/**/**/b", "a/b")
def test_patterns_match_what_the_model_matches(pattern, path):
    relative = pattern.removeprefix("/")
    if relative == "" or relative.endswith("/"):
        with pytest.raises(GlobError):
            Glob(pattern)
        return
    tokens = re.findall(r"\*+|\[[^]]*\]|\\.|.", relative)
    assert matches(pattern, path) == model(tokens, path)


@given(
    st.text("ab*?[]!-.", min_size=1, max_size=8).map(lambda text: text.replace("**", "*")),
    st.text("abc.-]!", max_size=8),
)
def test_within_one_name_patterns_are_those_of_fnmatch(pattern, name):
    try:
        glob = Glob(pattern)
    except GlobError:
        return  # fnmatch takes these literally
    assert (GlobSet([glob]).first(name) == 0) == fnmatch.fnmatchcase(name, pattern)


@given(st.text(max_size=12) | st.text("a*?[]!^-/\\:", max_size=12), st.text(max_size=12))
def test_any_text_is_a_pattern_or_a_glob_error(pattern, path):
    try:
        glob = Glob(pattern)
    except GlobError as error:
        assert str(error).isprintable()  # noqa: PT017
    else:
        assert GlobSet([glob]).first(path) in (0, None)


@given(
    st.text(min_size=1, max_size=12).filter(
        lambda t: t[0] != "/" and t[-1] != "/" and t[:2] != "./"
    )
)
def test_what_is_escaped_matches_itself_alone(path):
    pattern = re.sub(r"([*?[\\])", r"\\\1", path)
    assert matches(pattern, path)
    assert not matches(pattern, path + "a")
    assert not matches(pattern, path[:-1])
