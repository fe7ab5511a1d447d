"""What a power cut leaves of names: a state that a disk could have, by steps that can be cut short.

Programs make, link, move, exchange and remove files and directories in a tree in memory, and sync
some. Then the power is cut, and the cut itself is ended amid its steps and begun again.
"""

import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from throttlefs.device.volatile.journal import Journal
from throttlefs.device.volatile.names import Named, Slot, SlotChange

from .names_world import ROOT, Picture, Program, World

KINDS = (0, 0, 1, 1, 2, 3, 4, 5, 6, 6, 6)
"""See `Program.step`: create, mkdir, remove, link, tmpfile, exchange, and mostly rename."""

STEPS = st.lists(
    st.tuples(st.sampled_from(KINDS), st.integers(0, 9), st.integers(0, 9), st.integers(0, 8)),
    max_size=40,
)
CUTS = st.lists(st.integers(0, 12), max_size=3)
SEEDS = st.integers(0, 2**32)


def run(world: World, steps: list[tuple[int, int, int, int]], syncs: set[int]) -> list[Picture]:
    """Do *steps*, and commit the root after each that *syncs* names; returns all states since."""
    program = Program(world)
    pictures = [world.picture()]
    for number, step in enumerate(steps):
        before = world.journal.newest
        program.step(*step)
        if world.journal.newest > before:
            pictures.append(world.picture())
        if number in syncs:
            world.journal.commit(ROOT, world.journal.newest)
            world.sweep()
            pictures = pictures[-1:]
    return pictures


@given(STEPS, st.sets(st.integers(0, 39), max_size=3), SEEDS, CUTS)
def test_ordered_names_are_those_of_a_moment_since_the_last_commit(steps, syncs, seed, cuts):
    world = World(Journal(ordered=True))
    pictures = run(world, steps, syncs)
    choice = world.journal.choose(random.Random(seed))
    undone = len(choice.undone)
    assert world.cut(choice, cuts) == []
    assert world.picture() == pictures[len(pictures) - 1 - undone]


def many_steps(rng: random.Random, count: int = 60) -> list[tuple[int, int, int, int]]:
    """Longer runs than Hypothesis makes: directories lie deep in each other, and are moved."""
    kinds = (0, 1, 1, 1, 2, 3, 5, 6, 6, 6, 6)
    return [
        (rng.choice(kinds), rng.randrange(60), rng.randrange(60), rng.randrange(9))
        for _ in range(count)
    ]


def test_deep_trees_that_are_turned_inside_out_come_back(rng):
    for _ in range(300):
        world = World(Journal(ordered=True))
        pictures = run(world, many_steps(rng), {rng.randrange(60)})
        choice = world.journal.choose(rng)
        undone = len(choice.undone)
        cuts = [rng.randrange(20) for _ in range(rng.randrange(4))]
        assert world.cut(choice, cuts) == []
        assert world.picture() == pictures[len(pictures) - 1 - undone]


@given(STEPS, SEEDS)
def test_a_cut_after_a_cut_finds_a_tree_like_any_other(steps, seed):
    rng = random.Random(seed)
    world = World(Journal(ordered=True))
    for _ in range(3):
        pictures = run(world, steps, set())
        choice = world.journal.choose(rng)
        undone = len(choice.undone)
        world.cut(choice)
        assert world.picture() == pictures[len(pictures) - 1 - undone]
        world.journal = Journal(ordered=True)


class PosixModel:
    """Which versions each slot may have: those since the last fsync of its directory."""

    def __init__(self, world: World) -> None:
        self.world = world
        self.versions: dict[Slot, list[Named | None]] = {}

    def look(self) -> None:
        picture = self.world.picture()
        for slot in {*picture, *self.versions}:
            known = self.versions.setdefault(slot, [None])
            now = self.world.folders[slot.directory].get(slot.name)
            if known[-1] != now:
                known.append(now)

    def sync(self, directory) -> None:
        for slot, known in self.versions.items():
            if slot.directory == directory:
                del known[:-1]


def check_posix(steps, syncs: dict[int, int], rng: random.Random, cuts: list[int]) -> None:
    """Do *steps*, fsync a directory after those in *syncs*, cut, and look at each slot."""
    world = World(Journal(ordered=False))
    program, model = Program(world), PosixModel(world)
    for number, step in enumerate(steps):
        program.step(*step)
        model.look()
        if number in syncs:
            directories = world.directories()
            directory = directories[syncs[number] % len(directories)]
            world.journal.commit(directory, world.journal.newest)
            world.sweep()
            model.sync(directory)
    world.cut(world.journal.choose(rng), cuts)
    after = world.picture()
    directories = [named.key for named in after.values() if named.is_directory]
    assert len(directories) == len(set(directories)), "a directory has two parents"
    for slot, versions in model.versions.items():
        if slot.directory in {ROOT, *directories}:
            assert after.get(slot) in versions, slot


@given(STEPS, st.dictionaries(st.integers(0, 39), st.integers(0, 9), max_size=5), SEEDS, CUTS)
def test_posix_names_are_each_one_of_their_versions_since_the_last_fsync(steps, syncs, seed, cuts):
    check_posix(steps, syncs, random.Random(seed), cuts)


def test_posix_names_in_deep_trees_are_versions_of_their_slots_too(rng):
    for _ in range(300):
        syncs = {rng.randrange(60): rng.randrange(60) for _ in range(rng.randrange(5))}
        check_posix(many_steps(rng), syncs, rng, [rng.randrange(20)])


def check_posix_keeps_directories(steps, rng: random.Random) -> None:
    world = World(Journal(ordered=False))
    program = Program(world)
    for name in (b"a", b"b"):
        world.change("mkdir", (Slot(ROOT, name), world.new(directory=True)))
    durable = set(world.directories())
    world.journal.commit_all()
    removed = set()
    for step in steps:
        program.step(*step)
        removed |= durable - set(world.directories())
        if not rng.randrange(10):
            world.journal.commit(rng.choice(world.directories()), world.journal.newest)
            world.sweep()
    world.cut(world.journal.choose(rng))
    assert durable - removed <= set(world.directories())


@given(STEPS, SEEDS)
def test_posix_loses_no_directory_that_was_durable_and_is_not_removed(steps, seed):
    check_posix_keeps_directories(steps, random.Random(seed))


def test_posix_loses_no_directory_in_deep_trees_either(rng):
    for _ in range(300):
        check_posix_keeps_directories(many_steps(rng), rng)


# -- numbers, commits, memory --------------------------------------------------------------

A, B, FILE, OTHER = Slot(ROOT, b"a"), Slot(ROOT, b"b"), Named((1, 20)), Named((1, 21))


def seeds_of(journal: Journal, count: int = 200):
    return [journal.choose(random.Random(seed)) for seed in range(count)]


def test_each_prefix_is_drawn_and_an_fsync_of_any_file_commits_all_that_is_earlier():
    journal = Journal(ordered=True)
    journal.rename(("create", "a"), [SlotChange(A, None, FILE)])
    renamed = journal.rename(
        ("rename", "a", "b"), [SlotChange(A, FILE, None), SlotChange(B, None, FILE)]
    )
    undone = {tuple(change.text() for change in one.undone) for one in seeds_of(journal)}
    assert undone == {(), ("rename a -> b",), ("create a", "rename a -> b")}
    journal.commit((1, 99), renamed - 1)
    undone = {tuple(change.text() for change in one.undone) for one in seeds_of(journal)}
    assert undone == {(), ("rename a -> b",)}
    journal.commit((1, 99), renamed)
    assert {len(one.undone) for one in seeds_of(journal)} == {0}


def test_limits_of_sizes_lie_between_the_commit_and_the_newest():
    journal = Journal(ordered=True)
    for _ in range(10):
        journal.note(FILE.key, journal.tick())
    journal.commit(FILE.key, 4)
    assert journal.committed(FILE.key) == 4
    assert {one.limit_of(FILE.key) for one in seeds_of(journal)} == set(range(4, 11))


def test_posix_commits_the_sizes_of_one_file_alone():
    journal = Journal(ordered=False)
    for key in (FILE.key, OTHER.key) * 5:
        journal.note(key, journal.tick())
    journal.commit(FILE.key, 7)
    assert (journal.committed(FILE.key), journal.committed(OTHER.key)) == (7, 0)
    limits = [(one.limit_of(FILE.key), one.limit_of(OTHER.key)) for one in seeds_of(journal, 400)]
    assert {first for first, _ in limits} == set(range(7, 10))
    assert {second for _, second in limits} == set(range(11))


@pytest.mark.parametrize("ordered", [True, False])
def test_attributes_go_back_to_what_they_were(ordered):
    journal = Journal(ordered=ordered)
    journal.set_attributes(("chmod", "a"), FILE.key, {"mode": 0o644})
    journal.set_attributes(("chmod", "a"), FILE.key, {"mode": 0o600})
    journal.set_attributes(("setxattr", "a"), FILE.key, {b"user.x": None})
    values = [one.values.get(FILE.key, {}) for one in seeds_of(journal)]
    assert {one.get("mode") for one in values} == {0o644, 0o600, None}
    assert all(b"user.x" in one for one in values if "mode" in one)
    journal.commit(FILE.key, 1)
    values = [one.values.get(FILE.key, {}) for one in seeds_of(journal)]
    assert {one.get("mode") for one in values} == {0o600, None}


def test_posix_may_lose_either_name_of_a_renamed_file_or_leave_it_both():
    journal = Journal(ordered=False)
    journal.rename(("create", "a"), [SlotChange(A, None, FILE)])
    journal.commit_all()
    journal.rename(("rename", "a", "b"), [SlotChange(A, FILE, None), SlotChange(B, None, FILE)])
    left = {
        (one.then.get(A, None) == FILE, one.then.get(B, FILE) == FILE) for one in seeds_of(journal)
    }
    assert left == {(True, True), (True, False), (False, True), (False, False)}


def test_posix_knows_where_a_file_is_whose_new_name_alone_is_durable():
    journal = Journal(ordered=False)
    new = Slot((1, 30), b"new")
    journal.rename(("create", "a"), [SlotChange(A, None, FILE)])
    journal.commit_all()
    journal.rename(("rename", "a", "b"), [SlotChange(A, FILE, None), SlotChange(B, None, FILE)])
    changes = [SlotChange(B, FILE, None), SlotChange(new, None, FILE)]
    journal.rename(("rename", "b", "d/new"), changes)
    journal.commit(new.directory, journal.newest)
    assert journal.whereabouts() == {FILE.key: new}
    assert new.directory in journal.mentioned()
    journal.rename(("unlink", "d/new"), [SlotChange(new, FILE, None)])
    assert journal.whereabouts() == {}
    journal.commit_all()
    assert journal.freed() == [FILE.key]


@pytest.mark.parametrize("ordered", [True, False])
def test_a_removed_file_is_freed_when_its_removal_is_durable(ordered):
    journal = Journal(ordered=ordered)
    journal.rename(("create", "a"), [SlotChange(A, None, FILE)])
    removed = journal.rename(("unlink", "a"), [SlotChange(A, FILE, None)])
    assert journal.freed() == []
    journal.commit(ROOT, removed - 1)
    assert journal.freed() == []
    journal.commit(ROOT, removed)
    assert journal.freed() == [FILE.key]
    assert (len(journal), journal.freed()) == (0, [])


@pytest.mark.parametrize("ordered", [True, False])
def test_the_older_half_becomes_durable_when_there_are_too_many_changes(ordered):
    journal = Journal(ordered=ordered, most_changes=100)
    for number in range(1000):
        slot = Slot(ROOT, b"%d" % number)
        journal.rename(("create", "x"), [SlotChange(slot, None, Named((1, 100 + number)))])
        assert len(journal) <= 100
    assert journal.committed(FILE.key) >= 900


@pytest.mark.parametrize("ordered", [True, False])
def test_the_same_seed_leaves_the_same(ordered):
    journal = Journal(ordered=ordered)
    for number in range(50):
        slot = Slot((1, number % 3), b"%d" % (number % 7))
        journal.rename(("create", "x"), [SlotChange(slot, None, Named((1, 100 + number)))])
    first, second = (journal.choose(random.Random(5)) for _ in range(2))
    assert (first.then, first.undone) == (second.then, second.undone)


@pytest.mark.parametrize("ordered", [True, False])
def test_long_paths_and_large_attributes_are_kept_up_to_a_bound(ordered):
    journal = Journal(ordered=ordered, most_size=100_000)
    for number in range(1000):
        journal.rename(("create", "x" * 900), [SlotChange(Slot(ROOT, b"%d" % number), None, FILE)])
        assert len(journal) <= 111
        journal.set_attributes(("setxattr", "x"), FILE.key, {b"user.large": bytes(900)})
        assert len(journal) <= 111
    assert len(journal) > 50
    journal.commit_all()
    journal.set_attributes(("setxattr", "x"), FILE.key, {b"user.large": bytes(90_000)})
    assert len(journal) == 1


def test_what_is_known_of_flushed_files_is_kept_up_to_a_bound():
    journal = Journal(ordered=False, most_changes=100)
    for number in range(1000):
        key = (1, 1000 + number)
        journal.note(key, journal.tick())
        journal.commit(key, journal.newest)
        assert journal.committed(key) == journal.newest
    assert len(journal._committed) <= 101
