"""Keeps the runtime directory, where a command finds the daemon of a mount.

Each mount has one small file and its control socket there, named by its device number, which no
other mount has at the same time. The file has the daemon's process id and start time, which tells a
daemon from a later process of the same id. It also has the daemon's namespaces, because daemons of
other namespaces may share the directory.
"""

from __future__ import annotations

import json
import os
import stat
from dataclasses import asdict, dataclass

from throttlefs.errors import ThrottlefsError

from .mountinfo import MountEntry, read_mounts
from .namespaces import own_namespaces, proc_shows_own_ids

LARGEST_PID = 1 << 22  # proc(5), pid_max
_BOOT_ID = "/proc/sys/kernel/random/boot_id"
_LONGEST_RECORD = 1 << 16  # bytes; two paths of PATH_MAX, escaped, are less


@dataclass(frozen=True, slots=True)
class MountRecord:
    """The record that a daemon leaves of itself.

    *start_time* is in clock ticks since boot (proc(5)); *pid_ns* and *mnt_ns* are the namespaces
    that it runs in, as in `Namespaces`. The mount ends with the process *owner_pid*, if that is not
    0, which started at *owner_start_time* in the boot *boot_id*.
    """

    pid: int
    start_time: int
    source: str
    target: str
    pid_ns: int
    mnt_ns: int
    owner_pid: int = 0
    owner_start_time: int = 0
    boot_id: str = ""

    def can_be_judged(self) -> bool:
        """Whether this process can see if the daemon runs: only in the same PID namespace."""
        return self.pid_ns == own_namespaces().pid and proc_shows_own_ids()

    def is_alive(self) -> bool:
        """Whether the daemon still runs; valid only if the record `can_be_judged`."""
        return process_start_time(self.pid) == self.start_time

    def owner_has_ended(self) -> bool:
        """Whether the mount has an owner, and it has ended; False if this process cannot tell."""
        if not self.owner_pid or not self.can_be_judged() or self.boot_id != boot_id():
            return False
        return process_start_time(self.owner_pid) != self.owner_start_time


def boot_id() -> str:
    """What tells this boot of the machine from all others (random(4)); empty if nothing does."""
    try:
        with open(_BOOT_ID) as file:
            return file.read().strip()
    except OSError:
        return ""


def process_start_time(pid: int | str) -> int | None:
    """When process *pid* started, in clock ticks since boot; None if there is none or a zombie.

    *pid* may be ``self``.
    """
    try:
        with open(f"/proc/{pid}/stat", "rb") as file:
            # The command's name, in parentheses, may itself hold spaces and parentheses.
            fields = file.read().rpartition(b")")[2].split()
    except (FileNotFoundError, ProcessLookupError):
        return None
    return None if fields[0] in (b"Z", b"X") else int(fields[19])


def runtime_directory() -> str:
    """This user's directory for the state of running mounts, made if missing.

    For root it is the first usable one of ``/run/throttlefs``, one below XDG_RUNTIME_DIR if that
    belongs to root, and one in ``/tmp``: /run may be read-only, or belong to another user in a user
    namespace. For others it is below XDG_RUNTIME_DIR or ``/run/user/UID``, else a 0700 directory in
    ``/tmp``.

    Raises `ThrottlefsError` if it cannot be made or belongs to somebody else, because commands
    trust its contents.
    """
    uid = os.geteuid()
    if uid == 0:
        return _directory_of_root()
    path = directories_of(uid)[0]
    if _named_directory() is None and not os.path.isdir(os.path.dirname(path)):
        path = directories_of(uid)[-1]
    problem = _make_own(path)
    if problem is not None:
        raise ThrottlefsError(f"{problem}; set XDG_RUNTIME_DIR to a directory of yours")
    return path


def _directory_of_root() -> str:
    problems = []
    for path in directories_of(0):
        problem = _make_own(path)
        if problem is None:
            return path
        problems.append(problem)
    raise ThrottlefsError(
        f"{problems[0]}, and there is no other place; make /run writable,"
        " for example with: mount -t tmpfs tmpfs /run"
    )


def _make_own(path: str) -> str | None:
    """Make the directory *path*, if missing; returns why it cannot be used, or None."""
    try:
        os.makedirs(path, mode=0o700, exist_ok=True)
        st = os.lstat(path)
    except OSError as exc:
        return f"cannot make the runtime directory {path}: {exc.strerror}"
    if not stat.S_ISDIR(st.st_mode) or st.st_uid != os.geteuid() or st.st_mode & 0o022:
        return f"the runtime directory {path} is not a directory that only you can write"
    if not os.access(path, os.W_OK):
        return f"cannot write to the runtime directory {path}"
    return None


def _name(mount: MountEntry, extension: str) -> str:
    return f"{mount.major}-{mount.minor}.{extension}"


def socket_path(directory: str, mount: MountEntry) -> str:
    """The place of the control socket of *mount* in the runtime directory *directory*."""
    return os.path.join(directory, _name(mount, "sock"))


def _owner(mount: MountEntry) -> int:
    return os.geteuid() if mount.user_id is None else mount.user_id


def find_socket(mount: MountEntry) -> str | None:
    """The control socket of *mount*, which may be another user's if we are root.

    Only a socket of the user who mounted is trusted.
    """
    owner = _owner(mount)
    for directory in directories_of(owner):
        path = os.path.join(directory, _name(mount, "sock"))
        try:
            st = os.lstat(path)
        except OSError:
            continue
        if stat.S_ISSOCK(st.st_mode) and st.st_uid == owner:
            return path
    return None


def directories_of(uid: int) -> list[str]:
    """Where a daemon of the user *uid* may keep its state, best first."""
    named = _named_directory() if uid == os.geteuid() else None
    if uid == 0:
        in_tmp = ["/tmp/throttlefs-0"] if os.path.isdir("/tmp") and _is_sticky("/tmp") else []
        own = [os.path.join(named, "throttlefs")] if named and _is_roots(named) else []
        return ["/run/throttlefs", *own, *in_tmp]
    return [
        *([os.path.join(named, "throttlefs")] if named else []),
        f"/run/user/{uid}/throttlefs",
        # Not TMPDIR: commands must find the mounts of a shell that has another one.
        f"/tmp/throttlefs-{uid}",
    ]


def _named_directory() -> str | None:
    """XDG_RUNTIME_DIR; a relative path is ignored (XDG Base Directory Specification)."""
    named = os.environ.get("XDG_RUNTIME_DIR", "")
    return named if os.path.isabs(named) else None


def _is_sticky(directory: str) -> bool:
    """Whether nobody else can remove or rename files that root makes in it."""
    return bool(os.stat(directory).st_mode & stat.S_ISVTX)


def _is_roots(directory: str) -> bool:
    """Whether only root can write there: sudo may hand on the XDG_RUNTIME_DIR of its caller."""
    try:
        st = os.lstat(directory)
    except OSError:
        return False
    return stat.S_ISDIR(st.st_mode) and st.st_uid == 0 and not st.st_mode & 0o022


def write_record(
    directory: str, mount: MountEntry, source: str, target: str, owner: tuple[int, int] = (0, 0)
) -> None:
    """Leave the record of this process's *mount* in the runtime directory *directory*.

    *owner* is the id and start time of the process that the mount ends with.
    """
    record = _own_record(source, target, owner)
    path = os.path.join(directory, _name(mount, "json"))
    temporary = f"{path}.{record.pid}.{record.pid_ns}"
    with open(os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "w") as file:
        json.dump(asdict(record), file)
    os.rename(temporary, path)


def _own_record(source: str, target: str, owner: tuple[int, int]) -> MountRecord:
    start_time = process_start_time("self")
    assert start_time is not None
    own = own_namespaces()
    return MountRecord(os.getpid(), start_time, source, target, own.pid, own.mnt, *owner, boot_id())


def remove_record(directory: str, mount: MountEntry) -> None:
    """Remove this process's record of *mount*; one of a later mount of its number stays."""
    try:
        path = os.path.join(directory, _name(mount, "json"))
        record = _read(path, os.geteuid())
        if record is not None:
            owner = (record.owner_pid, record.owner_start_time)
            if record == _own_record(record.source, record.target, owner):
                os.unlink(path)
    except OSError:
        pass  # somebody else has removed it


def clear_dead_records() -> None:
    """Remove the files of daemons that were killed.

    Only those of our own namespaces: other containers that share the directory have mounts that we
    do not see, and process ids that are not valid here.
    """
    directory = runtime_directory()
    own = own_namespaces()
    # A mount that is just starting may have the number of a dead one, and no record yet.
    mounted = {f"{entry.major}-{entry.minor}" for entry in read_mounts()}
    for name in os.listdir(directory):
        stem, extension = os.path.splitext(name)
        path = os.path.join(directory, name)
        if extension != ".json" or stem in mounted:
            continue
        record = _read(path, os.geteuid())
        if record is None or record.mnt_ns != own.mnt or not record.can_be_judged():
            continue
        if not record.is_alive():
            for leftover in (path, os.path.join(directory, stem + ".sock")):
                try:
                    os.unlink(leftover)
                except FileNotFoundError:
                    pass


def read_record(mount: MountEntry) -> MountRecord | None:
    """The record of *mount*, which may be another user's if we are root.

    Only a record of the user who mounted is trusted.
    """
    owner = _owner(mount)
    for directory in directories_of(owner):
        record = _read(os.path.join(directory, _name(mount, "json")), owner)
        if record is not None:
            return record
    return None


def _read(path: str, owner: int) -> MountRecord | None:
    """The record in the file *path*, if there is one that belongs to *owner*."""
    try:
        # In another user's directory that name may be anything: a FIFO, a symlink.
        flags = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
        with open(os.open(path, flags), "rb") as file:
            st = os.fstat(file.fileno())
            if not stat.S_ISREG(st.st_mode) or st.st_uid != owner:
                return None
            record = MountRecord(**json.loads(file.read(_LONGEST_RECORD)))
    except (OSError, ValueError, TypeError, RecursionError):
        return None
    numbers = (record.pid, record.start_time, record.pid_ns, record.mnt_ns)
    is_sound = (
        all(type(number) is int and number > 0 for number in numbers)
        and all(
            type(number) is int and number >= 0
            for number in (record.owner_pid, record.owner_start_time)
        )
        and max(record.pid, record.owner_pid) <= LARGEST_PID
        and all(isinstance(text, str) for text in (record.source, record.target, record.boot_id))
    )
    return record if is_sound else None
