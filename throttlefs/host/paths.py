"""Checks SRC and DST of a mount before anything is mounted; each error has its cure."""

from __future__ import annotations

import os
import shlex
import stat
from contextlib import ExitStack
from dataclasses import dataclass

from throttlefs import FILESYSTEM_TYPE
from throttlefs.errors import ThrottlefsError

from . import lookup, trusted
from .liveness import answers
from .mountinfo import mounted_at, read_mounts, resolve_mount_point

_ANSWER_WITHIN_S = 10.0
_FUSE_CONF = "/etc/fuse.conf"


@dataclass(frozen=True, slots=True)
class MountPaths:
    """SRC and DST, absolute and with their symlinks resolved: two directories or two files."""

    source: str
    target: str
    is_file: bool = False
    """Whether SRC is one image, a regular file or a block device."""

    def open_source(self) -> int:
        """A descriptor (O_PATH) of SRC as it was checked. Raises `OSError`, `ThrottlefsError`."""
        return _open_as_checked(self.source, "SRC", self.is_file)

    def pinned_target(self, stack: ExitStack) -> str:
        """A path that leads to DST as it was checked, whatever its name means by then.

        It is valid until *stack* ends. Raises `ThrottlefsError`.
        """
        try:
            descriptor = _open_as_checked(self.target, "DST", self.is_file)
        except OSError as exc:
            raise ThrottlefsError(f"DST {self.target}: {exc.strerror}") from None
        stack.callback(os.close, descriptor)
        return f"/proc/self/fd/{descriptor}"


def _open_as_checked(path: str, which: str, is_file: bool) -> int:
    """Open *path*. It has no symlinks, unless somebody has put one there since the check."""
    descriptor = os.open(path, os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC)
    is_directory = stat.S_ISDIR(os.fstat(descriptor).st_mode)
    if os.readlink(f"/proc/self/fd/{descriptor}") != path or is_directory == is_file:
        os.close(descriptor)
        raise ThrottlefsError(f"{which} {path} has become another file meanwhile; try again")
    return descriptor


def check_paths(source: str, target: str, nonempty: bool) -> MountPaths:
    """Resolve *source* and *target*, and check that one can be mounted on the other.

    Raises `ThrottlefsError` that names the culprit and the cure.
    """
    _check_answers(source, "SRC")
    _check_answers(target, "DST")
    is_file = _source_is_file(source)
    resolved = os.fsdecode(resolve_mount_point(os.fsencode(target)))
    led_to: str | None = resolved
    if os.geteuid() == 0:
        try:
            led_to = trusted.destination(target)
        except trusted.ForeignLinkError as exc:
            raise ThrottlefsError(f"DST {target}: {exc.strerror}; name where it leads") from None
    paths = MountPaths(os.path.realpath(source), resolved, is_file)
    _check_not_mounted(target, paths.target)
    target_stat = _stat(target, "DST", _how_to_make(source, target, is_file))
    _check_same_kind(source, target, is_file, target_stat)
    _check_apart(source, target, paths, nonempty)
    if is_file:
        empty = target_stat.st_size == 0
    else:
        try:
            empty = not os.listdir(paths.target)
        except PermissionError:
            raise ThrottlefsError(f"DST {target}: you may not read this directory") from None
    if not empty and not nonempty:
        raise ThrottlefsError(
            f"DST {target} is not empty, and a mount would hide what is in it;"
            f" choose an empty {'file' if is_file else 'directory'}, or give -o nonempty"
        )
    if led_to != resolved:  # another user's symlink has come and gone between the two
        raise ThrottlefsError(f"DST {target} has become another file meanwhile; try again")
    return paths


def _check_answers(path: str, which: str) -> None:
    """Raise `ThrottlefsError` if *path* is on a mount whose daemon does not answer.

    A process that looks at such a mount waits for ever, and cannot be killed.
    """
    mounts = read_mounts()
    mount = lookup.mount_of(lookup.resolve(os.fsencode(path), mounts, lookup.is_fuse), mounts)
    # Do not ask another mount of ours: it may be late only because of its limits.
    if mount is None or not lookup.is_fuse(mount) or lookup.is_ours(mount):
        return
    if not answers(mount, _ANSWER_WITHIN_S):
        point = os.fsdecode(mount.point)
        raise ThrottlefsError(
            f"{which} {path} lies on a mount that does not answer, {point} ({mount.fstype});"
            f" see to its daemon, or take it away with: umount --lazy {shlex.quote(point)}"
        )


def check_visible(paths: MountPaths, which: str, path: str, cure: str) -> None:
    """Raise `ThrottlefsError` if the mount would hide *path*, which is used by its name.

    *which* says what it is, and *cure* what to do instead.
    """
    resolved = os.path.realpath(path)
    if resolved == paths.target or (not paths.is_file and _is_inside(resolved, paths.target)):
        raise ThrottlefsError(
            f"{which} {path} lies in DST {paths.target} and would be hidden by the mount; {cure}"
        )


def check_log_file(paths: MountPaths, path: str) -> None:
    """Raise `ThrottlefsError` unless *path* can be the log of this mount."""
    if paths.source != paths.target:
        check_visible(paths, "the log file", path, "choose a place outside of it")
    if paths.is_file and os.path.exists(path) and os.path.samefile(path, paths.source):
        raise ThrottlefsError(f"the log file {path} is SRC itself; choose another file")


def _source_is_file(source: str) -> bool:
    """Whether SRC is a file or block device, not a directory; raises if it can be neither."""
    mode = _stat(source, "SRC").st_mode
    if stat.S_ISDIR(mode):
        kind, needed = "directory", os.R_OK | os.X_OK
    elif stat.S_ISREG(mode):
        kind, needed = "file", os.R_OK
    elif stat.S_ISBLK(mode):
        kind, needed = "device", os.R_OK
    else:
        raise ThrottlefsError(
            f"SRC {source} is neither a directory, a regular file nor a block device;"
            " name an image, or the directory of the images"
        )
    if not os.access(source, needed):
        raise ThrottlefsError(
            f"SRC {source}: you may not read this {kind}; {_how_to_allow(source)}"
        )
    return kind != "directory"


def _how_to_allow(source: str) -> str:
    """The command that gives this user the right to read SRC *source*."""
    user, quoted = os.geteuid(), shlex.quote(source)
    if os.stat(source).st_uid == user and user != 0:
        return f"it is yours: allow it with chmod u+rX {quoted}"
    if user == 0:  # NFS, or another user's FUSE mount
        return "root neither: mount as a user who may"
    return f"ask its owner to allow it (setfacl -m u:{user}:rX {quoted}), or mount as root"


def _how_to_make(source: str, target: str, is_file: bool) -> str:
    """How to make DST *target*, which does not exist."""
    parent = os.path.dirname(target.rstrip("/")) or "."
    quoted = shlex.quote(target)
    if is_file:
        make = f"touch {quoted}"
        if not os.path.isdir(parent):
            make = f"mkdir -p {shlex.quote(parent)} && {make}"
        return f"; make it with: {make}"
    make = f"mkdir {quoted}" if os.path.isdir(parent) else f"mkdir -p {quoted}"
    if not os.path.splitext(target.rstrip("/"))[1]:
        return f"; make it with: {make}"
    return (
        f", and has to be a directory as SRC {source} is one; name one image as SRC to have a file,"
        f" or make the directory with: {make}"
    )


def _check_same_kind(source: str, target: str, is_file: bool, target_stat: os.stat_result) -> None:
    """The kernel mounts directories on directories and files on files."""
    if is_file and not stat.S_ISREG(target_stat.st_mode):
        raise ThrottlefsError(
            f"SRC {source} is one image and DST {target} is not a regular file;"
            " name an empty file (make one with: touch FILE), or give SRC's directory"
        )
    if not is_file and not stat.S_ISDIR(target_stat.st_mode):
        raise ThrottlefsError(
            f"SRC {source} is a directory and DST {target} is not a directory;"
            " make one with: mkdir DIRECTORY, or give one file of SRC"
        )


def _stat(path: str, which: str, cure: str = "") -> os.stat_result:
    try:
        return os.stat(path)
    except FileNotFoundError:
        raise ThrottlefsError(f"{which} {path} does not exist{cure}") from None
    except PermissionError:
        raise ThrottlefsError(
            f"{which} {path}: you may not search a directory above it;"
            " ask its owner to allow it, or mount as root"
        ) from None
    except OSError as exc:
        raise ThrottlefsError(f"{which} {path}: {exc.strerror}") from None


def _check_not_mounted(target: str, resolved: str) -> None:
    mount = mounted_at(os.fsencode(resolved))
    if mount is None or mount.fstype != FILESYSTEM_TYPE:
        return
    raise ThrottlefsError(
        f"DST {target} is already a throttlefs mount of {os.fsdecode(mount.source)};"
        f" unmount it first with: throttlefs umount {target}"
    )


def _check_apart(source: str, target: str, paths: MountPaths, nonempty: bool) -> None:
    if paths.source == paths.target:
        if not nonempty:
            raise ThrottlefsError(
                f"DST {target} is SRC itself; give -o nonempty to mount it over itself"
            )
    elif paths.is_file:
        return  # nothing lies inside a file, and another name of SRC may be mounted over
    elif _is_inside(paths.target, paths.source):
        raise ThrottlefsError(
            f"DST {target} lies inside SRC {source}; choose a directory outside of it"
        )
    elif _is_inside(paths.source, paths.target):
        raise ThrottlefsError(
            f"SRC {source} lies inside DST {target} and would be hidden by the mount;"
            " choose a directory beside it"
        )


def _is_inside(inner: str, outer: str) -> bool:
    """Whether *inner* lies below *outer*. It compares inodes, so it sees through bind mounts."""
    outer_stat = os.stat(outer)
    path = os.path.dirname(inner)
    while True:
        try:
            st = os.stat(path)
        except OSError:
            path = os.path.dirname(path)  # it does not exist, or we may not search it
            continue
        if (st.st_dev, st.st_ino) == (outer_stat.st_dev, outer_stat.st_ino):
            return True
        if path == "/":
            return False
        path = os.path.dirname(path)


def check_may_allow_others(option: str) -> None:
    """Raise `ThrottlefsError` unless this user may give *option*, allow_other or allow_root."""
    if os.geteuid() == 0:
        return
    try:
        with open(_FUSE_CONF) as file:
            if any(line.strip() == "user_allow_other" for line in file):
                return
    except OSError:
        pass
    raise ThrottlefsError(
        f"you may not use -o {option}; put the line user_allow_other into {_FUSE_CONF} as root,"
        " or leave the option out"
    )
