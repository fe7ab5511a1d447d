"""Inode lifetimes against a model: lookups and forgets in any order, on real files."""

from __future__ import annotations

import errno
import os
import time
from pathlib import Path

import pyfuse3
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from throttlefs.fuse.deleted import deleted_among
from throttlefs.fuse.inode import Inode
from throttlefs.fuse.inodes import InodeTable
from throttlefs.host.stash import STASH_NAME, open_stash

NAMES = [b"a", b"b", b"d/x", b"d/y", b"d/e/z"]


@pytest.fixture(scope="module")
def tree(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("tree")
    (root / "d/e").mkdir(parents=True)
    for name in NAMES:
        (root / os.fsdecode(name)).write_bytes(name)
    os.link(root / "a", root / "a2")
    return root


def table(root: Path, bound: int = 100) -> InodeTable:
    return InodeTable(os.open(root, os.O_PATH), bound)


def look_up_one(inodes: InodeTable, parent: Inode, name: bytes) -> Inode:
    fd = inodes.open_now(parent, name)
    assert fd >= 0
    return inodes.adopt(parent, name, fd, os.fstat(fd))


def let_go(inodes: InodeTable, number: int, count: int) -> bool:
    """Forget; whether that was the last of the inode, whose descriptor is then closed."""
    inode = inodes.forget(number, count)
    if inode is None:
        return False
    if inode.fd >= 0:
        os.close(inode.fd)
    return True


def look_up(inodes: InodeTable, path: bytes) -> int:
    """Look up each part of *path*, as the kernel does; the number of the last."""
    inode = inodes.root
    for name in path.split(b"/"):
        inode = look_up_one(inodes, inode, name)
    return inode.number


def open_descriptors() -> int:
    return len(os.listdir("/proc/self/fd"))


actions = st.lists(
    st.tuples(st.sampled_from(["lookup", "forget", "use"]), st.sampled_from(NAMES)), max_size=60
)


@settings(max_examples=200, deadline=None)
@given(actions=actions, bound=st.integers(1, 6))
def test_descriptors_stay_bounded_and_inodes_right(
    tree: Path, actions: list[tuple[str, bytes]], bound: int
) -> None:
    before = open_descriptors()
    inodes = table(tree, bound)
    lookups: dict[int, int] = {}
    paths: dict[int, bytes] = {}
    for action, path in actions:
        if action == "lookup":
            inode = inodes.root
            parts = path.split(b"/")
            for depth, name in enumerate(parts):
                inode = look_up_one(inodes, inode, name)
                lookups[inode.number] = lookups.get(inode.number, 0) + 1
                paths[inode.number] = b"/".join(parts[: depth + 1])
        elif action == "forget" and lookups:
            # Children first: the kernel holds a directory while it holds what is in it.
            number = max(lookups, key=lambda number: paths[number].count(b"/"))
            assert let_go(inodes, number, lookups.pop(number))
            with pytest.raises(OSError, match="Stale"):
                inodes.get(number)
        else:
            for number in lookups:
                st_ = os.fstat(inodes.fd(inodes.get(number)))
                real = os.stat(tree / os.fsdecode(paths[number]))
                assert (st_.st_dev, st_.st_ino) == (real.st_dev, real.st_ino)
                assert inodes.get(number).path == paths[number]
        assert inodes.descriptors <= bound + 2, "those in use at the moment aside"
        assert len(inodes) == len(lookups) + 1
    for number, count in lookups.items():
        assert let_go(inodes, number, count)
    assert len(inodes) == 1
    inodes.close()
    assert open_descriptors() <= before + len(lookups) + len(actions), "nothing kept"


def test_hard_links_are_one_inode_and_numbers_are_those_of_src(tree: Path) -> None:
    inodes = table(tree)
    one, two = look_up(inodes, b"a"), look_up(inodes, b"a2")
    assert one == two == os.stat(tree / "a").st_ino
    assert inodes.get(one).lookups == 2
    assert not let_go(inodes, one, 1)
    assert let_go(inodes, one, 1)
    inodes.close()


def test_another_file_of_the_same_name_is_not_taken_for_the_old_one(tmp_path: Path) -> None:
    (tmp_path / "f").write_text("old")
    inodes = table(tmp_path, bound=1)
    number = look_up(inodes, b"f")
    for name in "ghi":  # push f's descriptor out
        (tmp_path / name).write_text(name)
        look_up(inodes, name.encode())
    (tmp_path / "new").write_text("new")
    os.rename(tmp_path / "new", tmp_path / "f")
    inode = inodes.get(number)
    if inode.fd < 0:
        with pytest.raises(OSError, match="Stale"):
            inodes.fd(inode)
    else:
        assert os.fstat(inode.fd).st_nlink == 0
    inodes.close()


def test_a_listed_file_opens_its_descriptor_when_first_used(tree: Path) -> None:
    inodes = table(tree)
    now = time.clock_gettime_ns(time.CLOCK_REALTIME)
    inode = inodes.lookup_listed(inodes.root, b"b", os.stat(tree / "b"), now)
    assert (inode.fd, inodes.descriptors) == (-1, 0)
    assert os.fstat(inodes.fd(inode)).st_ino == os.stat(tree / "b").st_ino
    inodes.close()


def test_pinned_descriptors_are_not_evicted(tree: Path) -> None:
    inodes = table(tree, bound=1)
    inode = inodes.get(look_up(inodes, b"a"))
    with inodes.pinned(inode) as fd:
        for path in (b"b", b"d/x", b"d/y"):
            look_up(inodes, path)
        assert inode.fd == fd
        os.fstat(fd)
    inodes.close()


def test_a_rename_is_noted(tmp_path: Path) -> None:
    (tmp_path / "f").write_text("x")
    (tmp_path / "d").mkdir()
    inodes = table(tmp_path)
    number = look_up(inodes, b"f")
    directory = inodes.get(look_up(inodes, b"d"))
    os.rename(tmp_path / "f", tmp_path / "d/g")
    inodes.renamed(inodes.get(number).key, directory, b"g")
    assert inodes.get(number).path == b"d/g"
    assert inodes.root.number == pyfuse3.ROOT_INODE
    assert inodes.root.path == b""
    inodes.close()


def test_what_was_deleted_below_is_let_go(tmp_path: Path) -> None:
    """Unless a thread works with it or somebody has it open; a new file of its number is new."""
    for name in ("gone", "kept", "open", "pinned"):
        (tmp_path / name).touch()
    (tmp_path / "directory").mkdir()
    inodes = table(tmp_path)
    found = {
        name: look_up_one(inodes, inodes.root, name)
        for name in map(os.fsencode, os.listdir(tmp_path))
    }
    for name in ("gone", "open", "pinned"):
        os.unlink(tmp_path / name)
    os.rmdir(tmp_path / "directory")
    gone, held_open = found[b"gone"], found[b"open"]
    held_open.handle_fds.append(os.dup(held_open.fd))

    def sweep() -> list[int]:
        with inodes.all_pinned(inodes.held()) as looked_at:
            deleted, _ = deleted_among(looked_at)
        return [fd for fd, _ in inodes.take_deleted(deleted)]

    with inodes.pinned(found[b"pinned"]):
        fd = gone.fd
        assert sweep() == [fd]
    os.close(fd)
    with pytest.raises(OSError) as info:
        inodes.fd(gone)
    assert info.value.errno == errno.ESTALE
    pinned = found[b"pinned"].fd
    assert sweep() == [pinned]
    os.close(pinned)
    (tmp_path / "kept").rename(tmp_path / "gone")
    assert look_up_one(inodes, inodes.root, b"gone") is found[b"kept"]
    os.close(held_open.handle_fds.pop())
    assert inodes.forget(gone.number, 1) is gone
    assert gone.fd == -1
    inodes.close()


def test_in_a_new_generation_everything_has_to_be_looked_up_again(tree: Path) -> None:
    inodes = table(tree)
    inode = look_up_one(inodes, inodes.root, b"a")
    inodes.begin_generation()
    with pytest.raises(OSError) as caught:
        inodes.get(inode.number)
    assert caught.value.errno == errno.ESTALE
    assert inodes.get(inodes.root.number) is inodes.root
    assert look_up_one(inodes, inodes.root, b"a") is inode
    assert inodes.get(inode.number) is inode
    assert not let_go(inodes, inode.number, 1)
    assert let_go(inodes, inode.number, 1)
    inodes.close()


def test_a_removed_file_gives_up_its_descriptor_if_it_is_in_the_hidden_directory(
    tmp_path: Path,
) -> None:
    (tmp_path / "file").write_bytes(b"found again")
    inodes = table(tmp_path)
    stash = open_stash("SRC", inodes.root.fd, STASH_NAME, make=True)
    assert stash is not None
    inode = look_up_one(inodes, inodes.root, b"file")
    inodes.look_in(stash)
    assert stash.keep(inodes.root.fd, b"file", inode.key)
    (tmp_path / "file").unlink()
    inodes._held.evict(1)
    assert inode.fd < 0
    assert os.fstat(inodes.fd(inode)).st_ino == inode.key[1]
    stash.unclaim(inode.key)
    stash.drop(inode.key, lambda _: False)
    inode.recently_used = False
    assert inodes._held.evict(1) == 0, "it could not be found any more"
    inodes.close()
    stash.close()
