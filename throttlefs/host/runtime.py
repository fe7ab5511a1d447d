"""The runtime directory: how a command finds the daemon of a mount.

Each mount leaves one small file and its control socket there, named by its device number (which
no other mount has while it lives). The file has the daemon's process id and start time, which
tells a daemon from a later process of the same id.
"""

from __future__ import annotations

import json
import os
import signal
import stat
import tempfile
from dataclasses import asdict, dataclass

from throttlefs.errors import ThrottlefsError

from .mountinfo import MountEntry, read_mounts

_LARGEST_PID = 1 << 22  # proc(5), pid_max


@dataclass(frozen=True, slots=True)
class MountRecord:
    """What a daemon says of itself: *start_time* in clock ticks since boot (proc(5))."""

    pid: int
    start_time: int
    source: str
    target: str

    def is_alive(self) -> bool:
        """Whether the daemon still runs."""
        return process_start_time(self.pid) == self.start_time

    def send(self, number: signal.Signals) -> None:
        """Signal the daemon, and nobody else who may have its process id by now.

        Raises `OSError`: ProcessLookupError if it is gone, PermissionError if it is another
        user's.
        """
        descriptor = os.pidfd_open(self.pid)
        try:
            if not self.is_alive():
                raise ProcessLookupError
            signal.pidfd_send_signal(descriptor, number)
        finally:
            os.close(descriptor)


def process_start_time(pid: int) -> int | None:
    """When process *pid* started, in clock ticks since boot; None if there is none or a zombie."""
    try:
        with open(f"/proc/{pid}/stat", "rb") as file:
            # The command's name, in parentheses, may itself hold spaces and parentheses.
            fields = file.read().rpartition(b")")[2].split()
    except (FileNotFoundError, ProcessLookupError):
        return None
    return None if fields[0] in (b"Z", b"X") else int(fields[19])


def runtime_directory() -> str:
    """This user's directory for the state of running mounts, made if missing.

    ``/run/throttlefs`` for root, else below XDG_RUNTIME_DIR or ``/run/user/UID``, else a 0700
    directory in the temporary directory. Raises `ThrottlefsError` if it belongs to somebody
    else, since its contents would be believed.
    """
    uid = os.geteuid()
    user_dir = f"/run/user/{uid}"
    if uid == 0:
        path = "/run/throttlefs"
    elif os.environ.get("XDG_RUNTIME_DIR"):
        path = os.path.join(os.environ["XDG_RUNTIME_DIR"], "throttlefs")
    elif os.path.isdir(user_dir):
        path = f"{user_dir}/throttlefs"
    else:
        path = os.path.join(tempfile.gettempdir(), f"throttlefs-{uid}")
    try:
        os.makedirs(path, mode=0o700, exist_ok=True)
        st = os.lstat(path)
    except OSError as exc:
        raise ThrottlefsError(
            f"cannot make the runtime directory {path}: {exc.strerror};"
            " set XDG_RUNTIME_DIR to a directory of yours"
        ) from None
    if not stat.S_ISDIR(st.st_mode) or st.st_uid != uid or st.st_mode & 0o022:
        raise ThrottlefsError(
            f"the runtime directory {path} is not a directory that only you can write;"
            " remove it or set XDG_RUNTIME_DIR"
        )
    return path


def _record_path(mount: MountEntry) -> str:
    return os.path.join(runtime_directory(), f"{mount.major}-{mount.minor}.json")


def socket_path(mount: MountEntry) -> str:
    """Where the control socket of *mount* is, beside its record."""
    return os.path.join(runtime_directory(), f"{mount.major}-{mount.minor}.sock")


def find_socket(mount: MountEntry) -> str | None:
    """The control socket of *mount*, which may be another user's if we are root.

    Only a socket of the user who mounted is believed.
    """
    owner = os.geteuid() if mount.user_id is None else mount.user_id
    for directory in _directories_of(owner):
        path = os.path.join(directory, f"{mount.major}-{mount.minor}.sock")
        try:
            st = os.lstat(path)
        except OSError:
            continue
        if stat.S_ISSOCK(st.st_mode) and st.st_uid == owner:
            return path
    return None


def _directories_of(uid: int) -> list[str]:
    """Where a daemon of the user *uid* may keep its state, as `runtime_directory` chooses."""
    if uid == 0:
        return ["/run/throttlefs"]
    own = os.environ.get("XDG_RUNTIME_DIR") if uid == os.geteuid() else None
    return [
        *([os.path.join(own, "throttlefs")] if own else []),
        f"/run/user/{uid}/throttlefs",
        os.path.join(tempfile.gettempdir(), f"throttlefs-{uid}"),
    ]


def write_record(mount: MountEntry, source: str, target: str) -> None:
    """Leave the record of this process's *mount*."""
    pid = os.getpid()
    start_time = process_start_time(pid)
    assert start_time is not None
    path = _record_path(mount)
    temporary = f"{path}.{pid}"
    with open(os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "w") as file:
        json.dump(asdict(MountRecord(pid, start_time, source, target)), file)
    os.rename(temporary, path)


def remove_record(mount: MountEntry) -> None:
    """Remove this process's record of *mount*; one of a later mount of its number stays."""
    try:
        record = read_record(mount)
        if record is not None and record.pid == os.getpid():
            os.unlink(_record_path(mount))
    except (OSError, ThrottlefsError):
        pass  # somebody else has tidied up


def clear_dead_records() -> None:
    """Remove what daemons left behind that were killed."""
    directory = runtime_directory()
    # A mount that is just starting may have the number of a dead one, and no record yet.
    mounted = {f"{entry.major}-{entry.minor}" for entry in read_mounts()}
    for name in os.listdir(directory):
        stem, extension = os.path.splitext(name)
        path = os.path.join(directory, name)
        if extension != ".json" or stem in mounted:
            continue
        record = _read(path)
        if record is None or not record.is_alive():
            for leftover in (path, os.path.join(directory, stem + ".sock")):
                try:
                    os.unlink(leftover)
                except FileNotFoundError:
                    pass


def read_record(mount: MountEntry) -> MountRecord | None:
    """The record of *mount*, if this user's directory has one."""
    return _read(_record_path(mount))


def _read(path: str) -> MountRecord | None:
    try:
        with open(path) as file:
            record = MountRecord(**json.load(file))
    except (FileNotFoundError, ValueError, TypeError, RecursionError):
        return None
    numbers, texts = (record.pid, record.start_time), (record.source, record.target)
    is_sound = (
        all(type(number) is int and number > 0 for number in numbers)
        and record.pid <= _LARGEST_PID
        and all(isinstance(text, str) for text in texts)
    )
    return record if is_sound else None
