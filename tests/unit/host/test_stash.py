"""The hidden directory of a volatile mount: its lock, its files, and how it goes."""

import os
import stat
import threading
from contextlib import ExitStack

import pytest

from throttlefs.errors import ThrottlefsError
from throttlefs.host.stash import MARK, STASH_NAME, open_stash, stash_name


@pytest.fixture
def source(tmp_path):
    fd = os.open(tmp_path, os.O_PATH)
    yield fd
    os.close(fd)


def key_of(path):
    st = path.lstat()
    return st.st_dev, st.st_ino


def test_a_second_mount_of_src_is_refused_by_name_while_the_lock_is_held(tmp_path, source):
    stash = open_stash("SRC", source, STASH_NAME, make=True)
    for make in (True, False):
        with pytest.raises(ThrottlefsError, match="SRC is mounted already"):
            open_stash("SRC", source, STASH_NAME, make=make)
    stash.close()
    assert os.listdir(tmp_path) == []
    assert open_stash("SRC", source, STASH_NAME, make=False) is None


def test_what_a_killed_mount_has_left_is_taken_away(tmp_path, source):
    stash = open_stash("SRC", source, STASH_NAME, make=True)
    (tmp_path / "file").write_bytes(b"x")
    (tmp_path / "dir").mkdir()
    (tmp_path / "dir" / "closed").mkdir(mode=0)
    (tmp_path / "dir").chmod(0)
    assert stash.keep(source, b"file", key_of(tmp_path / "file"))
    stash.move_in(source, b"dir", key_of(tmp_path / "dir"))
    os.close(stash.fd)
    stash = open_stash("SRC", source, STASH_NAME, make=False)
    stash.sweep()
    stash.close()
    assert os.listdir(tmp_path) == ["file"]
    assert (tmp_path / "file").stat().st_nlink == 1


def test_a_file_comes_back_by_its_link_and_a_directory_by_its_move(tmp_path, source):
    stash = open_stash("SRC", source, STASH_NAME, make=True)
    (tmp_path / "file").write_bytes(b"x")
    (tmp_path / "dir").mkdir()
    file, directory = key_of(tmp_path / "file"), key_of(tmp_path / "dir")
    assert stash.keep(source, b"file", file)
    assert stash.keep(source, b"file", file)  # once more does no harm
    assert not stash.is_last_name(file)
    (tmp_path / "file").unlink()
    for _ in range(2):
        stash.unclaim(file)
    assert stash.is_last_name(file)
    stash.move_in(source, b"dir", directory)
    assert stash.keys == {file, directory}
    stash.link_out(source, b"back", file)
    stash.move_out(source, b"dir2", directory)
    assert (key_of(tmp_path / "back"), key_of(tmp_path / "dir2")) == (file, directory)
    assert stash.has(file)
    assert not stash.has(directory)
    stash.close()


def test_a_file_that_was_replaced_meanwhile_is_not_kept(tmp_path, source):
    stash = open_stash("SRC", source, STASH_NAME, make=True)
    (tmp_path / "file").write_bytes(b"x")
    dev, ino = key_of(tmp_path / "file")
    assert not stash.keep(source, b"file", (dev, ino + 1))
    assert stash.keys == set()
    assert (tmp_path / "file").stat().st_nlink == 1
    stash.close()


@pytest.mark.parametrize("mode", [0o777, 0o755, 0o700, 0])
def test_a_directory_that_no_mount_has_made_is_left_alone(tmp_path, source, mode, caplog):
    """Somebody who may write to SRC has given it that name: it stops no mount, and stays whole."""
    directory = tmp_path / os.fsdecode(STASH_NAME)
    directory.mkdir()
    (directory / "private").write_text("x")
    directory.chmod(mode)
    if mode == 0 and os.geteuid() == 0:
        os.chown(directory, 12345, 12345)
    assert open_stash("SRC", source, STASH_NAME, make=False) is None
    assert f"SRC/{os.fsdecode(STASH_NAME)}" in caplog.text
    assert "left alone" in caplog.text
    with pytest.raises(ThrottlefsError, match=r"was not made by a mount of yours|another user's"):
        open_stash("SRC", source, STASH_NAME, make=True)
    directory.chmod(0o700)
    assert os.listdir(directory) == ["private"]


def test_what_is_no_directory_stops_only_a_mount_that_needs_one(tmp_path, source):
    (tmp_path / os.fsdecode(STASH_NAME)).write_text("x")
    assert open_stash("SRC", source, STASH_NAME, make=False) is None
    with pytest.raises(ThrottlefsError, match="Not a directory"):
        open_stash("SRC", source, STASH_NAME, make=True)


def test_an_empty_one_that_a_killed_mount_has_left_becomes_the_next_ones(tmp_path, source):
    (tmp_path / os.fsdecode(STASH_NAME)).mkdir(mode=0o700)
    stash = open_stash("SRC", source, STASH_NAME, make=True)
    stash.sweep()
    os.close(stash.fd)
    open_stash("SRC", source, STASH_NAME, make=False).close()
    assert os.listdir(tmp_path) == []


def test_one_file_has_its_hidden_directory_beside_it():
    assert stash_name(b"db.img") == b".db.img.throttlefs-volatile"
    assert stash_name(b"") == STASH_NAME


def test_a_filesystem_with_hard_links_is_known_by_a_try(tmp_path, source):
    stash = open_stash("SRC", source, STASH_NAME, make=True)
    before = os.listdir(stash.fd)
    stash.check_links()
    assert os.listdir(stash.fd) == before
    stash.close()


def test_a_file_that_is_claimed_is_not_dropped(tmp_path, source):
    stash = open_stash("SRC", source, STASH_NAME, make=True)
    (tmp_path / "file").touch()
    (tmp_path / "second").hardlink_to(tmp_path / "file")
    key = key_of(tmp_path / "file")
    for name in (b"file", b"second"):
        assert stash.keep(source, name, key)
        os.unlink(name, dir_fd=source)
    stash.drop(key, lambda _: False)
    assert stash.has(key)
    assert not stash.is_last_name(key)
    stash.unclaim(key)
    stash.drop(key, lambda _: False)
    assert stash.has(key)
    stash.unclaim(key)
    assert stash.is_last_name(key)
    stash.drop(key, lambda _: False)
    assert not stash.has(key)
    stash.close()


def test_a_file_that_has_come_to_be_needed_is_not_dropped(tmp_path, source):
    stash = open_stash("SRC", source, STASH_NAME, make=True)
    (tmp_path / "file").touch()
    key = key_of(tmp_path / "file")
    assert stash.keep(source, b"file", key)
    stash.unclaim(key)
    stash.drop(key, {key}.__contains__)
    assert stash.has(key)
    stash.close()


def test_a_directory_is_removed_however_deep_it_is(tmp_path, source):
    stash = open_stash("SRC", source, STASH_NAME, make=True)
    os.mkdir(tmp_path / "top")
    key = key_of(tmp_path / "top")
    with ExitStack() as stack:
        fd = os.open(tmp_path / "top", os.O_PATH)
        for _ in range(1200):
            os.mkdir("below", dir_fd=fd)
            below = os.open("below", os.O_PATH, dir_fd=fd)
            os.close(fd)
            fd = below
        stack.callback(os.close, fd)
        os.close(os.open("file", os.O_CREAT | os.O_WRONLY, dir_fd=fd))
        os.symlink("file", "symlink", dir_fd=fd)
    stash.move_in(source, b"top", key)
    stash.drop(key, lambda _: False)
    assert os.listdir(tmp_path / os.fsdecode(STASH_NAME)) == [os.fsdecode(MARK)]
    stash.close()


def test_what_cannot_be_removed_is_told_of_and_stays_for_the_next_mount(
    tmp_path, source, monkeypatch, caplog
):
    """Somebody who is in a removed directory, in SRC itself, makes a file there meanwhile."""
    stash = open_stash("SRC", source, STASH_NAME, make=True)
    (tmp_path / "dir").mkdir()
    (tmp_path / "file").touch()
    directory = key_of(tmp_path / "dir")
    stash.keep(source, b"file", key_of(tmp_path / "file"))
    stash.move_in(source, b"dir", directory)
    hidden = tmp_path / os.fsdecode(STASH_NAME)
    inside = hidden / os.fsdecode(stash.name_of(directory))
    real = os.rmdir

    def rmdir(name, **kwargs):
        (inside / "late").touch()
        real(name, **kwargs)

    with monkeypatch.context() as patch:
        patch.setattr(os, "rmdir", rmdir)
        stash.close()
    assert "stays in SRC's hidden directory: Directory not empty" in caplog.text
    assert sorted(os.listdir(hidden)) == sorted([inside.name, os.fsdecode(MARK)])
    open_stash("SRC", source, STASH_NAME, make=True).close()
    assert os.listdir(tmp_path) == ["file"]


def test_no_symlink_leads_the_removal_elsewhere(tmp_path, source, monkeypatch):
    """A directory becomes a symlink while it is removed."""
    stash = open_stash("SRC", source, STASH_NAME, make=True)
    precious = tmp_path / "precious"
    precious.mkdir(mode=0o755)
    (precious / "file").touch()
    (tmp_path / "dir").mkdir()
    (tmp_path / "dir" / "below").mkdir()
    key = key_of(tmp_path / "dir")
    stash.move_in(source, b"dir", key)
    inside = tmp_path / os.fsdecode(STASH_NAME) / os.fsdecode(stash.name_of(key))
    real = os.stat

    def swapped(name, **kwargs):
        found = real(name, **kwargs)
        if name in ("below", b"below"):
            (inside / "below").rmdir()
            (inside / "below").symlink_to(precious)
        return found

    with monkeypatch.context() as patch:
        patch.setattr(os, "stat", swapped)
        stash.sweep()
    assert stat.S_IMODE(precious.stat().st_mode) == 0o755
    assert os.listdir(precious) == ["file"]
    stash.close()
    assert sorted(os.listdir(tmp_path)) == ["precious"]


def test_a_claim_is_taken_back_without_waiting_for_a_removal(tmp_path, source, monkeypatch):
    """The loop takes claims back, and a large file may take seconds to remove."""
    stash = open_stash("SRC", source, STASH_NAME, make=True)
    keys = []
    for name in ("large", "small"):
        (tmp_path / name).touch()
        keys.append(key_of(tmp_path / name))
        assert stash.keep(source, os.fsencode(name), keys[-1])
    stash.unclaim(keys[0])
    began, taken_back = threading.Event(), threading.Event()
    real = os.unlink

    def unlink(name, **kwargs):
        began.set()
        assert taken_back.wait(20)
        real(name, **kwargs)

    with monkeypatch.context() as patch:
        patch.setattr(os, "unlink", unlink)
        removing = threading.Thread(target=stash.drop, args=(keys[0], lambda _: False))
        removing.start()
        assert began.wait(20)
        stash.unclaim(keys[1])
        taken_back.set()
        removing.join(20)
    assert not stash.has(keys[0])
    stash.close()
