"""Many patterns matched at once are the patterns matched one by one."""

import dataclasses

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from tests.unit.settings import positions
from throttlefs.settings import globset
from throttlefs.settings.config import Config, ImageRule
from throttlefs.settings.globs import Glob, GlobError
from throttlefs.settings.globset import GlobSet


def _glob_or_none(text):
    try:
        return Glob(text)
    except GlobError:
        return None


_PIECES = ["a", "b", "ä", "/", "/", "?", "*", "**", "**/", "/**/", "[ab]", "[!a]", "[b-ä]", "\\*"]
_GLOBS = (
    st.lists(st.sampled_from(_PIECES), min_size=1, max_size=9)
    .map("".join)
    .map(_glob_or_none)
    .filter(lambda glob: glob is not None)
)
_PATHS = st.text("aabäz*//\udcff", max_size=14)


def first_by_positions(globs, path):
    return next((n for n, glob in enumerate(globs) if positions.matches(glob, path)), None)


@given(st.lists(_GLOBS, max_size=6), st.lists(_PATHS, min_size=1, max_size=5))
@example([Glob("**/*a"), Glob("**/**/b")], ["b", "x/y/b", "xa", "x/ya"])
@example([Glob("a*/**"), Glob("[!b]*")], ["a", "a/", "a/b/c", "c"])
def test_the_first_match_is_that_of_the_patterns_one_by_one(globs, paths):
    found = GlobSet(globs)
    for path in [*paths, *paths]:  # known directories the second time
        assert found.first(path) == first_by_positions(globs, path)


@given(st.lists(_GLOBS, min_size=1, max_size=4), st.lists(_PATHS, min_size=1, max_size=12))
def test_what_is_forgotten_is_found_again(globs, paths):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(globset, "_MOST_KEPT", 600)
        patch.setattr(globset, "_MOST_CHARACTERS", 2)
        found = GlobSet(globs)
        for path in paths:
            assert found.first(path) == first_by_positions(globs, path)


class Counted(int):
    """An integer that counts how often a step was taken."""

    taken = 0

    def __rand__(self, other):
        Counted.taken += 1
        return int(other) & int(self)


def steps_taken(found, path):
    """How many characters of *path* the patterns were stepped through for."""
    accepts = found._accepts
    for character in set(path) - {"/"}:
        accepts[character] = Counted(accepts[character])
    Counted.taken = 0
    found.first(path)
    return Counted.taken


@pytest.mark.parametrize("patterns", [1, 500])
def test_a_character_is_one_step_however_many_patterns_there_are(patterns):
    texts = [f"**/a*{n}*/**/*b*{n}.img" for n in range(patterns)]
    found = GlobSet([Glob(text) for text in texts])
    path = "/".join(["a" * 250] * 15)
    assert steps_taken(found, path) <= len(path)


def test_a_further_file_of_a_directory_costs_its_name_only():
    found = GlobSet([Glob("**/db/*.img"), Glob("**/x*/**/*.raw")])
    directories = "/".join(f"{number}" * 200 for number in range(9))
    assert steps_taken(found, f"{directories}/one.img") > len(directories) - 20
    assert steps_taken(found, f"{directories}/two.img") == len("two.img")


def test_what_is_kept_is_bounded_whatever_paths_there_are():
    found = GlobSet([Glob("**/x*/*")])
    for number in range(60_000):
        found.first(f"{number}/a")
        assert found._kept <= globset._MOST_KEPT + 2000
    for number in range(10_000):
        found.first(chr(0x4E00 + number))
    assert len(found._accepts) <= globset._MOST_CHARACTERS
    assert len({id(mask) for mask in found._accepts.values()}) <= 4, "one integer for all alike"


def rule(text):
    return ImageRule(Glob(text))


def test_of_a_path_beyond_path_max_the_near_directories_and_the_name_count():
    config = Config(images=(rule("**/slow-*.img"), rule("d*/**/*.raw"), rule("**/far/*")))
    deep = b"/".join([b"d" * 250] * 1500)
    assert config.rule_for(deep + b"/slow-1.img") == config.images[0]
    assert config.rule_for(deep + b"/a.raw") == config.images[1]
    assert config.rule_for(deep + b"/far/a.img") is None, "no directory out there counts"
    near = b"/".join([b"d" * 250] * 15)
    assert len(near) < 4000
    assert config.rule_for(near + b"/far/a.img") == config.images[2]
    assert config.rule_for(b"n" * 5000) is None
    wanted = deep[:4096].rpartition(b"/")[0].decode() + "/a.raw"
    assert positions.matches(config.images[1].glob, wanted)


def test_a_configuration_is_compared_by_what_it_says():
    one, other = (Config(images=(rule("a*"),)) for _ in range(2))
    one.rule_for(b"x/y")
    assert one == other
    assert dataclasses.replace(one, images=(rule("b"),)).rule_for(b"b") == rule("b")
