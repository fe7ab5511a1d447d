"""Power cuts of a mount: what is left of its names and links, and what programs see of them."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

import throttlefs
from tests.mounted.power_worker import HIDDEN, PosixWorker, Worker, code, hidden_files, picture
from tests.support import let_the_clock_go_on, wait_for


@pytest.fixture
def source(tmp_path: Path) -> Path:
    path = tmp_path / "src"
    path.mkdir()
    return path


def posix_cuts(source: Path, flush_directory: bool) -> set[tuple[bool, bool]]:
    """Which of a file's old and new name are left after it was flushed and renamed."""
    left = set()
    with throttlefs.mounted(source, volatile=True, names="posix") as disk:
        for seed in range(12):
            old, new = disk.path / f"old{seed}", disk.path / f"new{seed}"
            with open(old, "wb", buffering=0) as file:
                let_the_clock_go_on()
                file.write(b"x")
                os.fsync(file.fileno())
            sync(disk.path)
            old.rename(new)
            sync(new)
            if flush_directory:
                sync(disk.path)
            assert disk.power_cut(seed=seed).not_rolled_back == ()
            disk.power_on()
            left.add((old.exists(), new.exists()))
            for path in (old, new):
                assert not path.exists() or path.read_bytes() == b"x"
    return left


def sync(path: Path) -> None:
    fd = os.open(path, os.O_RDONLY)
    os.fsync(fd)
    os.close(fd)


@pytest.mark.timeout(900)
def test_what_is_left_is_what_a_disk_could_have(source, rng, request):
    """Names are those of a moment, contents versions since the last flush; what was flushed is."""
    undone = lost = 0
    with throttlefs.mounted(source, volatile=True) as disk:
        worker = Worker(disk.path, source, rng)
        for _ in range(1200 if request.config.getoption("--soak") else 8):
            worker.work(rng.randrange(40))
            report = disk.power_cut(seed=rng.randrange(1 << 30))
            assert report.not_rolled_back == ()
            lost += report.lost_bytes
            undone += worker.look_after_cut()
            disk.power_on()
            assert picture(disk.path).keys() == picture(source).keys()
    assert undone
    assert lost
    assert not (source / HIDDEN).exists()


@pytest.mark.timeout(900)
def test_posix_names_are_versions_since_the_fsync_of_their_directory(source, rng, request):
    undone = 0
    with throttlefs.mounted(source, volatile=True, names="posix") as disk:
        worker = PosixWorker(disk.path, source, rng)
        for _ in range(600 if request.config.getoption("--soak") else 8):
            worker.work(rng.randrange(40))
            assert disk.power_cut(seed=rng.randrange(1 << 30)).not_rolled_back == ()
            undone += worker.look_after_cut()
            disk.power_on()
            assert picture(disk.path).keys() == picture(source).keys()
    assert undone


def test_what_a_dry_run_says_is_what_happens(source, rng):
    with throttlefs.mounted(source, volatile=True) as disk:
        worker = Worker(disk.path, source, rng)
        worker.work(40)
        (disk.path / "the last").touch()
        before = picture(source)
        foretold = next(
            said
            for said in (disk.power_cut(seed=seed, dry_run=True) for seed in range(100))
            if said.names
        )
        assert picture(source) == before
        happened = disk.power_cut(seed=foretold.seed)
        assert (happened.names, happened.files) == (foretold.names, foretold.files)


def test_posix_names_need_an_fsync_of_their_directory(source):
    assert len(posix_cuts(source, flush_directory=False)) == 4


def test_posix_names_are_durable_after_an_fsync_of_their_directory(source):
    assert posix_cuts(source, flush_directory=True) == {(False, True)}


def test_a_file_that_was_flushed_but_not_its_directory_is_no_change_by_others(source):
    left = set()
    with throttlefs.mounted(source, volatile=True, names="posix") as disk:
        for seed in range(8):
            path = disk.path / f"file{seed}"
            with open(path, "wb", buffering=0) as file:
                let_the_clock_go_on()
                file.write(b"x")
                os.fsync(file.fileno())
            assert disk.power_cut(seed=seed).not_rolled_back == ()
            disk.power_on()
            left.add(path.exists())
    assert left == {True, False}


def test_everything_stays_after_a_sync_of_the_disk(source):
    with throttlefs.mounted(source, volatile=True) as disk:
        (disk.path / "d").mkdir()
        (disk.path / "d" / "file").write_bytes(b"kept")
        disk.sync()
        assert hidden_files(source) == []
        for seed in range(3):
            report = disk.power_cut(seed=seed)
            assert (report.lost_bytes, report.undone_changes) == (0, 0)
            disk.power_on()
        assert (disk.path / "d" / "file").read_bytes() == b"kept"


def test_links_are_counted_without_the_hidden_ones(source):
    with throttlefs.mounted(source, volatile=True) as disk:
        path, second = disk.path / "file", disk.path / "second"
        path.write_bytes(b"x")
        second.hardlink_to(path)
        with open(path, "rb") as file:
            counts = [os.fstat(file.fileno()).st_nlink]
            path.unlink()
            counts.append(second.stat().st_nlink)
            second.unlink()
            counts.append(os.fstat(file.fileno()).st_nlink)
        assert counts == [2, 1, 0]
        assert len(hidden_files(source)) == 1
        sync(disk.path)
        wait_for(lambda: hidden_files(source) == [])


def test_the_hidden_directory_is_neither_listed_nor_found_nor_made(source):
    with throttlefs.mounted(source, volatile=True) as disk:
        hidden = disk.path / HIDDEN
        assert os.listdir(disk.path) == []
        assert not hidden.exists()
        (disk.path / "file").touch()
        assert code(hidden.mkdir) == "EPERM"
        assert code((disk.path / "file").rename, hidden) == "EPERM"
        (disk.path / "d").mkdir()
        (disk.path / "d" / HIDDEN).mkdir()  # elsewhere it is a name like any other
        assert os.listdir(disk.path / "d") == [HIDDEN]


def test_removing_is_refused_as_on_any_filesystem(source):
    with throttlefs.mounted(source, volatile=True) as disk:
        full, empty, file = disk.path / "full", disk.path / "empty", disk.path / "file"
        (full / "below").mkdir(parents=True)
        empty.mkdir()
        file.touch()
        assert code(full.rmdir) == "ENOTEMPTY"
        assert code(file.rmdir) == "ENOTDIR"
        assert code(empty.unlink) in ("EISDIR", "EPERM")
        assert code(empty.rename, full) == "ENOTEMPTY"
        assert code(empty.rename, file) == "ENOTDIR"
        assert code(file.rename, empty) == "EISDIR"
        assert code((disk.path / "none").unlink) == "ENOENT"
        assert sorted(os.listdir(disk.path)) == ["empty", "file", "full"]
        assert hidden_files(source) == []
        full.rename(empty)
        assert os.listdir(disk.path / "empty") == ["below"]


def test_a_file_made_without_a_name_gets_one_or_is_gone(source):
    names = set()
    with throttlefs.mounted(source, volatile=True) as disk:
        for seed in range(8):
            fd = os.open(disk.path, os.O_TMPFILE | os.O_RDWR, 0o600)
            os.write(fd, b"contents")
            os.fsync(fd)
            path = disk.path / f"named{seed}"
            os.link(f"/proc/self/fd/{fd}", path, follow_symlinks=True, src_dir_fd=fd)
            disk.power_cut(seed=seed)
            os.close(fd)
            disk.power_on()
            names.add(path.exists())
            assert not path.exists() or path.read_bytes() == b"contents"
    assert names == {True, False}


def test_a_deleted_file_that_is_still_open_works_to_its_end(source):
    with throttlefs.mounted(source, volatile=True) as disk:
        path = disk.path / "file"
        with open(path, "w+b", buffering=0) as file:
            file.write(b"before")
            path.unlink()
            sync(disk.path)
            file.write(b" after")
            file.seek(0)
            assert file.read() == b"before after"
        path.write_bytes(b"another")
        assert path.read_bytes() == b"another"
