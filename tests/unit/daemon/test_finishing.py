"""The plan of a power cut, done in real directories, and finished after a kill amid it."""

import os
import random
from contextlib import ExitStack
from functools import partial
from pathlib import Path

import pytest

from throttlefs.daemon.cut_plan import CutPlan, FileToRestore, PlanFiles, as_text, pack_values
from throttlefs.daemon.finishing import clear_up, do
from throttlefs.device.volatile.journal import Journal
from throttlefs.device.volatile.names import Named, Slot, SlotChange
from throttlefs.device.volatile.steps import Place, route
from throttlefs.errors import ThrottlefsError
from throttlefs.host.stash import STASH_NAME, open_stash

CALLS = ("chmod", "fchmod", "ftruncate", "link", "pwrite", "rename", "setxattr", "unlink")
"""The calls that change something in SRC; the daemon can be killed before each of them."""


class KilledError(BaseException):
    pass


class Source:
    """SRC with a hidden directory, a journal of what is done in it, and power cuts."""

    def __init__(self, path: Path) -> None:
        self.path = path / "src"
        self.path.mkdir(parents=True)
        self.log = path / "undo"
        self.root_fd = os.open(self.path, os.O_PATH)
        self.stash = open_stash(str(self.path), self.root_fd, STASH_NAME, make=True)
        self.journal = Journal(ordered=True)
        self.pictures = []
        self.dirty: dict[Path, bytes] = {}

    def close(self) -> None:
        self.stash.close()
        os.close(self.root_fd)

    def reopen(self) -> None:
        """The daemon was killed: the next one opens the hidden directory."""
        os.close(self.stash.fd)
        self.stash = open_stash(str(self.path), self.root_fd, STASH_NAME, make=False)
        assert self.stash is not None

    # -- what programs do ------------------------------------------------------------------

    def named(self, path: str) -> Named:
        st = (self.path / path).lstat()
        return Named((st.st_dev, st.st_ino), (self.path / path).is_dir())

    def slot(self, path: str) -> Slot:
        return Slot(self.named(os.path.dirname(path)).key, os.fsencode(os.path.basename(path)))

    def make(self, path: str, contents: bytes | None) -> None:
        whole = self.path / path
        whole.mkdir() if contents is None else whole.write_bytes(contents)
        self._note(("create", path), [SlotChange(self.slot(path), None, self.named(path))])

    def remove(self, path: str) -> None:
        slot, named = self.slot(path), self.named(path)
        self._hide(path)
        self._note(("remove", path), [SlotChange(slot, named, None)])

    def move(self, old: str, new: str) -> None:
        source, target = self.named(old), None
        if (self.path / new).exists():
            target = self.named(new)
            self._hide(new)
        (self.path / old).rename(self.path / new)
        changes = [
            SlotChange(self.slot(old), source, None),
            SlotChange(self.slot(new), target, source),
        ]
        self._note(("rename", old, new), changes)

    def _hide(self, path: str) -> None:
        slot, named = self.slot(path), self.named(path)
        directory = os.open((self.path / path).parent, os.O_PATH)
        if named.is_directory:
            self.stash.move_in(directory, slot.name, named.key)
        else:
            self.stash.keep(directory, slot.name, named.key)
            os.unlink(slot.name, dir_fd=directory)
        os.close(directory)

    def _note(self, words, changes) -> None:
        self.journal.rename(words, changes)
        self.pictures.append(self.picture())

    def write(self, path: str, new: bytes) -> None:
        """Replace contents that a cut brings back."""
        self.dirty[self.path / path] = (self.path / path).read_bytes()
        (self.path / path).write_bytes(new)
        (self.path / path).chmod(0o440)  # only its owner may write to it again, if he changes that
        self.journal.commit_all()
        self.pictures = [self.picture()]

    def picture(self) -> dict[str, object]:
        found = {}
        for path in sorted(self.path.rglob("*")):
            name = str(path.relative_to(self.path))
            if not name.startswith(os.fsdecode(STASH_NAME)):
                st = path.stat()
                contents = None if path.is_dir() else path.read_bytes()
                found[name] = (st.st_ino, st.st_mode, contents)
        return found

    # -- a power cut -----------------------------------------------------------------------

    def places(self) -> dict[tuple[int, int], Place]:
        return {
            self.named(name).key: Place(*self.slot(name))
            for name, (_, _, contents) in self.picture().items()
            if contents is None
        }

    def plan(self, seed: int) -> tuple[CutPlan, list, dict[str, object]]:
        """A plan with its pieces, and what SRC is to be then."""
        choice = self.journal.choose(random.Random(seed))
        way = route(self.named("").key, self.places(), choice.now, choice.then)
        plan = CutPlan(str(self.log))
        pieces = []
        log = b""
        for path, old in self.dirty.items():
            st = path.stat()
            self.stash.keep(self.root_fd, os.fsencode(path.name), (st.st_dev, st.st_ino))
            times = (st.st_atime_ns, st.st_mtime_ns)
            plan.files.append(FileToRestore(st.st_ino, path.name, len(old), st.st_mode, *times))
            pieces.append([(0, len(old) // 2, len(log)), (len(old) // 2, 3, -1)])
            rest = len(old) // 2 + 3
            pieces[-1].append((rest, len(old) - rest, len(log) + rest))
            log += old
        plan.steps = [
            (step.kind, step.slot.directory[1], as_text(step.slot.name), step.named.key[1],
             step.named.is_directory)
            for step in way.steps
        ]  # fmt: skip
        plan.paths = {key[1]: [as_text(path) for path in found] for key, found in way.paths.items()}
        self.log.write_bytes(log)
        wanted = self.pictures[len(self.pictures) - 1 - len(choice.undone)]
        return plan, pieces, wanted


@pytest.fixture
def make_source(tmp_path):
    with ExitStack() as stack:

        def make(name: str) -> Source:
            source = Source(tmp_path / name)
            stack.callback(source.close)
            return source

        yield make


def a_day(source: Source) -> None:
    """Much is done to SRC."""
    source.make("deep", None)
    source.make("deep/er", None)
    source.make("deep/er/file", b"the deepest")
    source.make("top", b"old" * 10)
    source.make("other", b"kept")
    source.make("empty", None)
    source.write("top", b"new and longer" * 10)
    source.move("deep/er", "er")
    source.move("deep", "er/deep")  # each now lies in the other
    source.move("other", "er/deep/other")
    source.remove("er/file")
    source.make("er/file", b"another")
    source.remove("empty")
    source.make("empty", b"now a file")
    source.make("young", None)
    source.make("young/file", b"young")
    source.move("er/deep/other", "young/file")


def wanted_of(source: Source, wanted: dict[str, object]) -> dict[str, object]:
    """*wanted*, with the contents that the undo log brings back."""
    half = len(b"old" * 10) // 2
    old = b"old" * 10
    ino, mode, _ = wanted["top"]
    return {**wanted, "top": (ino, mode, old[:half] + bytes(3) + old[half + 3 :])}


@pytest.mark.parametrize("seed", range(12))
def test_src_is_brought_to_what_was_chosen(make_source, seed):
    source = make_source("one")
    a_day(source)
    before = (source.path / "top").stat()
    plan, pieces, wanted = source.plan(seed)
    files = PlanFiles(source.stash.fd)
    files.write(plan, pieces)
    files.begin()
    assert do(plan, source.root_fd, source.stash) == []
    assert source.picture() == wanted_of(source, wanted)
    after = (source.path / "top").stat()
    assert (after.st_mtime_ns, after.st_mode) == (before.st_mtime_ns, before.st_mode)
    source.stash.sweep()
    assert list(source.log.parent.glob("undo*")) == []


@pytest.mark.parametrize("seed", [3, 4])
def test_a_cut_that_is_killed_anywhere_is_finished_by_the_next_mount(
    make_source, monkeypatch, seed
):
    """It is killed before each call in turn, and the next try once more, a few calls later."""
    for kill in range(1000):
        source = make_source(str(kill))
        a_day(source)
        plan, pieces, wanted = source.plan(seed)
        files = PlanFiles(source.stash.fd)
        files.write(plan, pieces)
        files.begin()
        killed = _killed_at(kill, monkeypatch, partial(do, plan, source.root_fd, source.stash))
        source.reopen()
        _killed_at(5, monkeypatch, partial(clear_up, "SRC", source.root_fd, source.stash))
        source.reopen()
        clear_up("SRC", source.root_fd, source.stash)
        assert source.picture() == wanted_of(source, wanted), kill
        assert list(source.log.parent.glob("undo*")) == [], kill
        assert os.listdir(source.path / os.fsdecode(STASH_NAME)) == ["made-by-throttlefs"]
        if not killed:
            assert kill > 15
            return
    pytest.fail("it never came to its end")


def _killed_at(count, monkeypatch, call) -> bool:
    """Whether *call* was killed before its change number *count*."""
    left = [count]

    def counted(real):
        def wrapper(*args, **kwargs):
            if not left[0]:
                raise KilledError
            left[0] -= 1
            return real(*args, **kwargs)

        return wrapper

    with monkeypatch.context() as patch:
        for name in CALLS:
            patch.setattr(os, name, counted(getattr(os, name)))
        try:
            call()
        except KilledError:
            return True
    return False


def test_a_cut_that_had_not_begun_changes_nothing_and_leaves_no_log(make_source):
    source = make_source("one")
    a_day(source)
    plan, pieces, _ = source.plan(1)
    before = source.picture()
    PlanFiles(source.stash.fd).write(plan, pieces)
    source.reopen()
    clear_up("SRC", source.root_fd, source.stash)
    assert source.picture() == before
    assert list(source.log.parent.glob("undo*")) == []


def test_a_cut_whose_undo_log_is_gone_is_named_and_nothing_is_changed(make_source):
    source = make_source("one")
    a_day(source)
    plan, pieces, _ = source.plan(1)
    before = source.picture()
    files = PlanFiles(source.stash.fd)
    files.write(plan, pieces)
    files.begin()
    source.log.unlink()
    with pytest.raises(ThrottlefsError, match="cannot be finished") as caught:
        clear_up("SRC", source.root_fd, source.stash)
    assert str(source.log) in str(caught.value)
    assert source.picture() == before


def test_attributes_go_back_too(make_source):
    source = make_source("one")
    source.make("file", b"x")
    source.make("dir", None)
    inodes = {name: source.named(name).key[1] for name in ("file", "dir")}
    os.setxattr(source.path / "file", "user.new", b"1")
    os.setxattr(source.path / "file", "user.old", b"changed")
    source.stash.keep(source.root_fd, b"file", source.named("file").key)
    values = {"mode": 0o640, b"user.old": b"\xff\0old", b"user.new": None, "mtime": 5 * 10**9}
    plan = CutPlan(str(source.log), paths={inodes["dir"]: ["dir"]})
    plan.values = {
        inodes["file"]: pack_values(values),
        inodes["dir"]: pack_values({"mode": 0o750}),
    }
    source.log.write_bytes(b"")
    files = PlanFiles(source.stash.fd)
    files.write(plan, [])
    files.begin()
    source.reopen()
    clear_up("SRC", source.root_fd, source.stash)
    file = source.path / "file"
    assert (file.stat().st_mode & 0o777, file.stat().st_mtime_ns) == (0o640, 5 * 10**9)
    assert os.listxattr(file) == ["user.old"]
    assert os.getxattr(file, "user.old") == b"\xff\0old"
    assert (source.path / "dir").stat().st_mode & 0o777 == 0o750


def test_a_name_that_somebody_took_in_src_stays_his_and_is_told_of(make_source):
    source = make_source("one")
    source.make("file", b"mine")
    source.journal.commit_all()
    source.remove("file")
    choice = next(
        choice
        for choice in (source.journal.choose(random.Random(seed)) for seed in range(50))
        if choice.undone
    )
    way = route(source.named("").key, {}, choice.now, choice.then)
    plan = CutPlan(str(source.log), paths={source.named("").key[1]: [""]})
    plan.steps = [
        (step.kind, step.slot.directory[1], "file", step.named.key[1], False) for step in way.steps
    ]
    (source.path / "file").write_bytes(b"his")
    source.log.write_bytes(b"")
    files = PlanFiles(source.stash.fd)
    files.write(plan, [])
    files.begin()
    (failed,) = do(plan, source.root_fd, source.stash)
    assert failed.slot.name == b"file"
    assert (source.path / "file").read_bytes() == b"his"
