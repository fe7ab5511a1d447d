"""Power cuts of a mount: what is left of its names and files, and that nothing hangs."""

from __future__ import annotations

import errno
import mmap
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path

import pytest

import throttlefs
from tests.mounted.power_worker import HIDDEN, PosixWorker, Worker, hidden_files, picture
from tests.support import (
    MountFactory,
    detach,
    fails,
    needs_feature,
    needs_root,
    run_throttlefs,
    wait_for,
)
from throttlefs.host import runtime
from throttlefs.host.files import clock_of_files


@pytest.fixture
def source(tmp_path: Path) -> Path:
    path = tmp_path / "src"
    path.mkdir()
    return path


def let_the_clock_go_on() -> None:
    """A change of a file is somebody else's if it comes later than a tick of 10 ms after ours."""
    began = clock_of_files()
    wait_for(lambda: clock_of_files() > began + 30_000_000)


def code(call: Callable[..., object], *args: object, **kwargs: object) -> str:
    """The name of the error that the call gets, or "done"."""
    try:
        call(*args, **kwargs)
    except OSError as exc:
        return errno.errorcode[exc.errno or 0]
    return "done"


# -- which states are left -----------------------------------------------------------------


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
        before = picture(source)
        foretold = disk.power_cut(seed=3, dry_run=True)
        assert picture(source) == before
        happened = disk.power_cut(seed=3)
        assert (happened.names, happened.files) == (foretold.names, foretold.files)
        assert happened.names


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


# -- what programs see ---------------------------------------------------------------------


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


# -- power off and on ----------------------------------------------------------------------


def test_every_request_fails_while_the_power_is_off_and_old_handles_for_ever(source):
    (source / "file").write_bytes(b"contents")
    with throttlefs.mounted(source, volatile=True) as disk:
        path = disk.path / "file"
        fd, directory = os.open(path, os.O_RDWR), os.open(disk.path, os.O_RDONLY)
        disk.power_cut(seed=1)
        calls: list[Callable[[], object]] = [
            lambda: os.pread(fd, 8, 0),
            lambda: os.pwrite(fd, b"x", 0),
            lambda: os.fsync(fd),
            lambda: os.ftruncate(fd, 1),
            lambda: os.lseek(fd, 0, os.SEEK_DATA),
            lambda: os.posix_fallocate(fd, 0, 10),
        ]
        names: list[Callable[[], object]] = [
            lambda: path.read_bytes(),
            lambda: (disk.path / "new").touch(),
            lambda: os.listdir(disk.path),
            lambda: os.statvfs(disk.path),
            lambda: os.listxattr(disk.path),
        ]
        assert [code(call) for call in [*calls, *names]] == ["EIO"] * 11
        assert code(os.listdir, directory) == "EIO"
        assert disk.qmp("x-throttlefs-query")["power"]["state"] == "off"
        with pytest.raises(throttlefs.ThrottlefsError, match="off already"):
            disk.power_cut()
        with pytest.raises(throttlefs.ThrottlefsError, match="throttlefs power-on"):
            disk.sync()
        disk.power_on()
        with pytest.raises(throttlefs.ThrottlefsError, match="is on"):
            disk.power_on()
        assert path.read_bytes() == b"contents"
        assert [code(call) for call in calls] == ["EIO"] * 6
        assert code(os.listdir, directory) == "EIO"
        assert code(os.close, fd) in ("EIO", "done")  # the kernel knows that the inode is dead
        os.close(directory)
        path.write_bytes(b"new contents")
        assert (source / "file").read_bytes() == b"new contents"


def test_a_mapping_from_before_is_dead_and_a_new_one_is_not(source, make_mount: MountFactory):
    (source / "file").write_bytes(bytes(8192))
    mounted = make_mount("volatile")
    needs_feature(mounted, "shared-mmap")
    program = subprocess.Popen(
        [sys.executable, "-c", MAPPING, str(mounted.path / "file")],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert program.stdin is not None
    assert program.stdout is not None
    assert program.stdout.readline() == "mapped\n"
    assert run_throttlefs("power-cut", mounted.path).returncode == 0
    assert (source / "file").read_bytes() == bytes(8192)
    assert run_throttlefs("power-on", mounted.path).returncode == 0
    with open(mounted.path / "file", "r+b") as file, mmap.mmap(file.fileno(), 8192) as mapping:
        mapping[0:3] = b"new"
        mapping.flush()
        program.stdin.write("\n")
        program.stdin.flush()
        assert program.wait(30) == -signal.SIGBUS
    assert (source / "file").read_bytes()[:4] == b"new\0"


MAPPING = """
import mmap, sys
with open(sys.argv[1], "r+b") as file:
    mapping = mmap.mmap(file.fileno(), 8192)
    mapping[0:3] = b"old"
    print("mapped", flush=True)
    input()
    mapping[0:3] = b"bad"
"""


def waiting(disk: throttlefs.Disk) -> int:
    (image,) = disk.qmp("x-throttlefs-query")["images"]
    return sum(image["waiting"].values())


def test_what_waits_gets_eio_at_once_and_is_not_written(source):
    (source / "file").write_bytes(b"old")
    with throttlefs.mounted(source, volatile=True, iops_wr=0.01) as disk:
        path = disk.path / "file"
        results: list[str] = []

        def write() -> None:
            with open(path, "r+b", buffering=0) as file:
                results.append(code(file.write, b"new"))

        first = threading.Thread(target=write)
        first.start()
        first.join(30)
        threads = [threading.Thread(target=write) for _ in range(5)]
        for thread in threads:
            thread.start()
        with disk.fault("file", op="read", hang=True) as fault:
            reading = threading.Thread(target=lambda: results.append(code(path.read_bytes)))
            reading.start()
            wait_for(lambda: fault.waiting == 1)
            wait_for(lambda: waiting(disk) >= 5)
            disk.power_cut(seed=1)
            for thread in [*threads, reading]:
                thread.join(20)
                assert not thread.is_alive()
        assert sorted(results) == ["EIO"] * 6 + ["done"]
        assert (source / "file").read_bytes() in (b"old", b"new")


def test_a_killed_program_and_an_unmount_end_while_the_power_is_off(
    source, make_mount: MountFactory
):
    mounted = make_mount("volatile")
    program = subprocess.Popen(
        [sys.executable, "-c", BUSY, str(mounted.path / "file")], stdout=subprocess.PIPE
    )
    assert program.stdout is not None
    program.stdout.readline()
    assert run_throttlefs("power-cut", mounted.path).returncode == 0
    program.kill()
    assert program.wait(20) == -signal.SIGKILL
    mounted.umount()
    assert not (source / HIDDEN).exists()


BUSY = """
import os, sys
fd = os.open(sys.argv[1], os.O_RDWR | os.O_CREAT)
print("open", flush=True)
while True:
    try:
        os.pwrite(fd, b"x" * 4096, 0)
    except OSError:
        pass
"""


# -- SRC, locks, kills ---------------------------------------------------------------------


def test_a_second_mount_of_src_is_refused_and_the_first_goes_on(
    source, make_mount: MountFactory, tmp_path
):
    mounted = make_mount("volatile")
    (tmp_path / "second").mkdir()
    for options in ([], ["-o", "volatile"]):
        line = fails("mount", source, tmp_path / "second", *options)
        assert f"SRC {source} is mounted already" in line
    (mounted.path / "file").write_bytes(b"x")
    mounted.umount()
    make_mount(target=tmp_path / "second").umount()


@pytest.mark.parametrize("options", ["", "volatile"])
def test_a_daemon_that_is_killed_loses_nothing(source, make_mount: MountFactory, options):
    mounted = make_mount("volatile")
    (mounted.path / "d").mkdir()
    (mounted.path / "file").write_bytes(b"unflushed")
    (mounted.path / "removed").touch()
    (mounted.path / "removed").unlink()
    (mounted.path / "d").rmdir()
    before = picture(source)
    os.kill(mounted.pid, signal.SIGKILL)
    wait_for(lambda: runtime.process_start_time(mounted.pid) is None)
    detach(mounted.path)
    assert len(hidden_files(source)) == 2
    again = make_mount(options)
    assert picture(source) == before
    assert os.listdir(again.path) == ["file"]
    assert (again.path / "file").read_bytes() == b"unflushed"
    again.umount()
    assert os.listdir(source) == ["file"]


def renamed(names: list[str], count: int) -> bool:
    """Whether *names* are those of files of which the first so many have been renamed."""
    new = sorted(name for name in names if name.startswith("new"))
    expected = [f"new{number:04}" for number in range(len(new))]
    old = [f"old{number:04}" for number in range(len(new), count)]
    return sorted(names) == sorted(expected + old)


@pytest.mark.parametrize("options", ["", "volatile"])
def test_a_cut_that_is_killed_is_finished_by_the_next_mount(
    source, make_mount: MountFactory, options, tmp_path
):
    count = 300
    for number in range(count):
        (source / f"old{number:04}").touch()
    mounted = make_mount("volatile")
    for number in range(count):
        (mounted.path / f"old{number:04}").rename(mounted.path / f"new{number:04}")
    seed = next(
        seed for seed in range(100) if f'"undone-changes": {count}' in dry_run(mounted.path, seed)
    )
    cutting = subprocess.Popen(
        [sys.executable, "-m", "throttlefs", "power-cut", mounted.path, "--seed", str(seed)],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    plan = source / HIDDEN / "plan"
    wait_for(lambda: plan.exists() or cutting.poll() is not None)
    os.kill(mounted.pid, signal.SIGKILL)
    cutting.wait(30)
    wait_for(lambda: runtime.process_start_time(mounted.pid) is None)
    detach(mounted.path)
    is_amid = plan.exists()
    again = make_mount(options)
    names = os.listdir(again.path)
    assert renamed(names, count)
    assert not is_amid or "new0000" not in names
    again.umount()
    assert not (source / HIDDEN).exists()
    assert list(Path("/var/tmp").glob(f".throttlefs-undo-{mounted.pid}-*")) == []


def dry_run(mount: Path, seed: int) -> str:
    return run_throttlefs("power-cut", mount, "--dry-run", "--json", "--seed", seed).stdout


def test_one_file_as_src_has_its_hidden_directory_beside_it(tmp_path, make_mount: MountFactory):
    image, point = tmp_path / "disk.img", tmp_path / "mnt.img"
    image.write_bytes(b"old" * 1000)
    point.touch()
    mounted = make_mount("volatile", source=image, target=point)
    assert (tmp_path / f".disk.img{HIDDEN}").is_dir()
    contents = set()
    for seed in range(6):
        with open(point, "r+b", buffering=0) as file:
            file.write(b"new" * 1000)
        assert run_throttlefs("power-cut", point, "--seed", seed).returncode == 0
        assert run_throttlefs("power-on", point).returncode == 0
        contents.add(image.read_bytes())
        image_now = image.read_bytes()
        assert point.read_bytes() == image_now
        image.write_bytes(b"old" * 1000)
    assert contents == {b"old" * 1000, b"new" * 1000}
    mounted.umount()
    assert sorted(os.listdir(tmp_path)) == ["disk.img", "mnt.img", "mnt.img.log"]


def test_a_file_that_was_changed_in_src_is_named_and_left_alone(source):
    with throttlefs.mounted(source, volatile=True) as disk:
        for name in ("mine", "his"):
            (disk.path / name).write_bytes(b"through the mount")
        let_the_clock_go_on()
        (source / "his").write_bytes(b"in SRC itself")
        seed = next(
            seed for seed in range(100) if disk.power_cut(seed=seed, dry_run=True).not_rolled_back
        )
        report = disk.power_cut(seed=seed)
        assert report.not_rolled_back == ("his",)
        assert (source / "his").read_bytes() == b"in SRC itself"
        disk.power_on()
        assert (disk.path / "his").read_bytes() == b"in SRC itself"


@pytest.mark.parametrize("where", ["in it", "above it"])
def test_no_names_go_back_if_somebody_changed_their_directories_in_src(source, where):
    with throttlefs.mounted(source, volatile=True) as disk:
        for name in ("a", "a/b", "c"):
            (disk.path / name).mkdir()
        disk.sync()
        (disk.path / "a" / "b").rename(disk.path / "b")
        (disk.path / "b" / "mine").touch()
        (disk.path / "c").rmdir()
        let_the_clock_go_on()
        if where == "in it":
            (source / "b" / "his").touch()
        else:
            (source / "b").rename(source / "his")
        seed = next(
            seed
            for seed in range(100)
            if disk.power_cut(seed=seed, dry_run=True).not_rolled_back == ("b",)
        )
        report = disk.power_cut(seed=seed)
        assert (report.not_rolled_back, report.names) == (("b",), ())
        disk.power_on()
        named = {"in it": ["a", "b", "b/his", "b/mine"], "above it": ["a", "his", "his/mine"]}
        assert list(picture(source)) == named[where]
        assert list(picture(disk.path)) == named[where]


@needs_root("mount a directory at another place")
def test_names_on_another_mount_below_src_are_final(source, tmp_path):
    """A bind mount is of the same filesystem, but nothing can be linked or moved across it."""
    (tmp_path / "elsewhere" / "empty").mkdir(parents=True)
    (tmp_path / "elsewhere" / "file").write_bytes(b"x")
    (source / "bound").mkdir()
    subprocess.run(["mount", "--bind", tmp_path / "elsewhere", source / "bound"], check=True)
    try:
        with throttlefs.mounted(source, volatile=True) as disk:
            bound = disk.path / "bound"
            (bound / "file").unlink()
            (bound / "empty").rmdir()
            (bound / "new").write_bytes(b"new")
            (bound / "new").rename(bound / "newer")
            (disk.path / "here").touch()
            seed = next(
                seed
                for seed in range(100)
                if disk.power_cut(seed=seed, dry_run=True).undone_changes == 3
            )
            disk.power_cut(seed=seed)
            disk.power_on()
            assert sorted(os.listdir(disk.path)) == ["bound"]
            assert os.listdir(bound) == ["newer"]
    finally:
        subprocess.run(["umount", source / "bound"], check=True)


def test_the_hidden_directory_of_somebody_else_is_not_touched(make_mount, source, tmp_path):
    (source / HIDDEN).mkdir(mode=0o755)
    (source / HIDDEN / "precious").touch()
    (tmp_path / "mnt").mkdir()
    line = fails("mount", source, tmp_path / "mnt", "-o", "volatile")
    assert "was not made by a mount of yours" in line
    assert os.listdir(source / HIDDEN) == ["precious"]
    mounted = make_mount(source=source)
    assert os.listdir(mounted.path / HIDDEN) == ["precious"]
