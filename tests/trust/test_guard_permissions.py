"""Who may do what through a mount: the same as on a plain directory, whatever is tried.

Several users do the same random things in a plain directory and through a mount of its twin.
Results, errors, and the modes, owners and ACLs that come of them have to be the same.
"""

from __future__ import annotations

import errno
import fcntl
import os
import random
import stat
import struct
from pathlib import Path
from typing import Any

import pytest

from tests.soak import Soak, Tally
from tests.support import MountFactory
from tests.trust.users import ANNA, BERT, CARL, PEOPLE, Failed, acl, directories, outcome, workers
from throttlefs.host import syscalls

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="only root can become somebody else")

GROUP = 2000
_GET_FLAGS, _SET_FLAGS = 0x80086601, 0x40086602  # ioctl_iflags(2)
_IMMUTABLE, _APPEND_ONLY = 0x10, 0x20

_ACCESS, _DEFAULT = "system.posix_acl_access", "system.posix_acl_default"

PLACES = ["open", "sticky", "setgid", "setgid-sticky", "annas", "acl", "roots", "closed"]
NAMES = ["a", "b", "c", "directory", "directory/a", "directory/b"]
MODES = [0o600, 0o644, 0o666, 0o755, 0o777, 0o4755, 0o2755, 0o6711, 0o2644, 0o1777, 0o2770, 0]
# Root follows them as well, so they must not lead out of the test's own directories.
LINKS = ["b", "../open/b", "nowhere"]
ACLS = [
    acl(7, [(BERT.uid, 7)], 5, 7, 0),
    acl(6, [(ANNA.uid, 6), (CARL.uid, 0)], 0, 6, 4),
    acl(7, [(CARL.uid, 7)], 7, 1, 5),
]


def furnish(root: Path) -> None:
    """The places in which things are tried."""
    for place in PLACES:
        (root / place).mkdir()
    for place, mode in {
        "open": 0o777,
        "sticky": 0o1777,
        "setgid": 0o2775,
        "setgid-sticky": 0o3777,
        "annas": 0o755,
        "acl": 0o770,
        "roots": 0o755,
        "closed": 0o700,
    }.items():
        os.chown(root / place, ANNA.uid if place in ("annas", "acl") else 0, 0)
        if place.startswith("setgid"):
            os.chown(root / place, 0, GROUP)
        os.chmod(root / place, mode)
    os.setxattr(root / "acl", _ACCESS, acl(7, [(BERT.uid, 7), (CARL.uid, 5)], 0, 7, 0))
    os.setxattr(root / "acl", _DEFAULT, acl(7, [(BERT.uid, 6), (CARL.uid, 7)], 7, 6, 4))
    for place in PLACES:
        for name, person in zip(("a", "b", "c"), PEOPLE[1:], strict=True):
            file = root / place / name
            file.write_bytes(b"old")
            os.chmod(file, 0o666 if name == "b" else 0o640)
            os.chown(file, person.uid, GROUP if name == "c" else person.gid)
    for name, flag in (("immutable", _IMMUTABLE), ("append-only", _APPEND_ONLY)):
        (root / "open" / name).write_bytes(b"old")
        os.chmod(root / "open" / name, 0o666)
        set_flag(root / "open" / name, flag)


def set_flag(path: Path, flag: int) -> None:
    """Make a file immutable (or, with 0, mutable again) where the filesystem can."""
    fd = os.open(path, os.O_RDONLY)
    try:
        fcntl.ioctl(fd, _SET_FLAGS, struct.pack("l", flag))
    except OSError as exc:
        if exc.errno not in (errno.ENOTTY, errno.EOPNOTSUPP):
            raise
    finally:
        os.close(fd)


# -- what is tried ----------------------------------------------------------------------------


def use(path: str, flags: int, mode: int, data: bytes) -> Any:
    fd = os.open(path, flags | os.O_NONBLOCK | os.O_NOFOLLOW, mode)
    try:
        if flags & (os.O_WRONLY | os.O_RDWR):
            return os.write(fd, data)
        return os.read(fd, 100) if stat.S_ISREG(os.fstat(fd).st_mode) else None
    finally:
        os.close(fd)


def look(path: str) -> Any:
    st = os.lstat(path)
    size = st.st_size if not stat.S_ISDIR(st.st_mode) else 0
    return oct(st.st_mode), st.st_uid, st.st_gid, st.st_nlink, size


def rename(old: str, new: str, flags: int) -> None:
    here = syscalls.AT_FDCWD
    syscalls.renameat2(here, os.fsencode(old), here, os.fsencode(new), flags)


FUNCTIONS = {
    "use": use,
    "look": look,
    "rename": rename,
    "mkdir": os.mkdir,
    "rmdir": os.rmdir,
    "unlink": os.unlink,
    "symlink": os.symlink,
    "link": os.link,
    "mknod": os.mknod,
    "chmod": os.chmod,
    "chown": os.lchown,
    "truncate": os.truncate,
    "utime": os.utime,
    "setxattr": os.setxattr,
    "getxattr": os.getxattr,
    "removexattr": os.removexattr,
    "listxattr": lambda path: sorted(os.listxattr(path)),
    "listdir": lambda path: sorted(os.listdir(path)),
    "access": os.access,
    "readlink": os.readlink,
}


def try_in_both(umask: int, sides: list[int], name: str, arguments: tuple[Any, ...]) -> list[Any]:
    """Run in a worker: the same in each of the directories *sides*."""
    found = []
    os.umask(umask)
    for side in sides:
        os.fchdir(side)
        found.append(outcome(lambda: FUNCTIONS[name](*arguments)))
    return found


def something(dice: random.Random) -> tuple[str, tuple[Any, ...]]:
    """One thing to try."""

    def path() -> str:
        special = dice.random() < 0.08
        if special:
            return dice.choice(["open/immutable", "open/append-only", "acl", "sticky", "annas"])
        return place()

    def place() -> str:
        return f"{dice.choice(PLACES)}/{dice.choice(NAMES)}"

    mode = dice.choice(MODES)
    flags = dice.choice([os.O_RDONLY, os.O_WRONLY, os.O_RDWR, os.O_WRONLY | os.O_APPEND])
    flags |= dice.choice([0, os.O_CREAT, os.O_CREAT | os.O_EXCL, os.O_TRUNC])
    uid, gid = dice.choice([-1, 0, 1001, 1002]), dice.choice([0, 1001, GROUP, 2001])
    attribute = dice.choice(["user.x", "user.x", "trusted.x", "security.x", _ACCESS, _DEFAULT])
    value = dice.choice(ACLS) if "acl" in attribute else b"value"
    return dice.choice(
        [
            *[("use", (path(), flags, mode, b"data"))] * 4,
            *[("mkdir", (place(), mode))] * 2,
            ("mknod", (place(), dice.choice([stat.S_IFIFO, stat.S_IFSOCK, stat.S_IFREG]) | mode)),
            ("rmdir", (place(),)),
            *[("unlink", (path(),))] * 2,
            *[("rename", (place(), place(), dice.choice([0, 0, 1, 2])))] * 2,
            ("link", (place(), place())),
            ("symlink", (dice.choice(LINKS), place())),
            *[("chmod", (path(), mode))] * 3,
            *[("chown", (path(), uid, gid))] * 3,
            ("truncate", (path(), dice.choice([0, 1, 10]))),
            ("utime", (path(), dice.choice([None, (1.0, 2.0)]))),
            *[("setxattr", (path(), attribute, value, dice.choice([0, 0, 1, 2])))] * 2,
            ("getxattr", (path(), attribute)),
            ("removexattr", (place(), attribute)),
            ("listxattr", (path(),)),
            ("listdir", (dice.choice(PLACES),)),
            ("access", (place(), dice.choice([os.R_OK, os.W_OK, os.X_OK]))),
            ("readlink", (path(),)),
            ("look", (path(),)),
        ]
    )


# -- what came of it --------------------------------------------------------------------------


def state(root: Path) -> dict[str, Any]:
    """All that is below *root*, but for times."""
    found: dict[str, Any] = {}
    for directory, names, files in os.walk(root):
        for name in (*names, *files):
            path = os.path.join(directory, name)
            attributes = {
                attribute: os.getxattr(path, attribute, follow_symlinks=False)
                for attribute in os.listxattr(path, follow_symlinks=False)
            }
            found[os.path.relpath(path, root)] = (look(path), attributes)
    return found


def same(arguments: tuple[Any, ...], one: Any, other: Any) -> bool:
    """Whether it went the same way. A file that is immutable behind the mount is not known to be
    so in front of it: then another error may come first."""
    special = not {"open/immutable", "open/append-only"}.isdisjoint(arguments)
    return one == other or (special and isinstance(one, Failed) and isinstance(other, Failed))


def forgive_lost_bits(plain_root: Path, source_root: Path, path: str) -> None:
    """Writing takes setuid and setgid away, also where root or a member would have kept them.

    Not from a file of root's own group that it cannot be executed by: there it means nothing.
    """
    plain = Path(os.path.realpath(plain_root / path))
    assert plain.is_relative_to(plain_root)
    source = source_root / plain.relative_to(plain_root)
    if not os.path.lexists(plain) or not os.path.lexists(source):
        return
    kept, left = (stat.S_IMODE(path.lstat().st_mode) for path in (plain, source))
    harmless = not left & stat.S_IXGRP and kept | stat.S_ISGID == left
    if kept != left and (kept == left | kept & (stat.S_ISUID | stat.S_ISGID) or harmless):
        os.chmod(plain, left)


@pytest.mark.parametrize("seed", [1, 2])
def test_the_same_as_without_a_mount(
    make_mount: MountFactory, tmp_path: Path, soak: Soak, tally: Tally, seed: int
) -> None:
    plain = tmp_path / "plain"
    plain.mkdir()
    mount = make_mount("allow_other")
    steps = soak.choose(1_000, 30_000)
    dice = random.Random(seed)
    furnish(plain)
    furnish(mount.source)
    history: list[str] = []
    try:
        with directories([plain, mount.path]) as sides, workers(PEOPLE) as processes:
            for step in range(steps):
                number = dice.choice([0, 1, 1, 1, 2, 2, 2, 3, 3])
                name, arguments = something(dice)
                umask = dice.choice([0, 0o022, 0o022, 0o027, 0o077])
                one, other = processes[number].run(try_in_both, umask, sides, name, arguments)
                history.append(f"{PEOPLE[number]} {umask:o} {name}{arguments}: {one}")
                assert same(arguments, one, other), "\n".join(
                    [*history[-12:], f"through the mount: {other}"]
                )
                if name in ("use", "truncate", "chown"):
                    forgive_lost_bits(plain, mount.source, arguments[0])
                if step % 20 == 19:
                    assert state(mount.source) == state(plain), "\n".join(history[-20:])
                tally.note(checked="results, modes, owners and ACLs, as on a plain directory")
    finally:
        for root in (plain, mount.source):
            for special in ("immutable", "append-only"):
                set_flag(root / "open" / special, 0)
