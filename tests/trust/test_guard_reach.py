"""Nobody comes where he may not, and nobody with access takes the mount from others."""

from __future__ import annotations

import ctypes
import json
import os
import socket
import stat
import subprocess
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.qmp import socket_of
from tests.soak import Soak
from tests.support import THROTTLEFS, Mounted, MountFactory, run_throttlefs
from tests.trust.users import ANNA, BERT, ROOT, Failed, directories, outcome, workers
from throttlefs.control.client import QmpClient
from throttlefs.control.locate import own_mounts
from throttlefs.errors import ThrottlefsError
from throttlefs.settings.units import printable

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="only root can become somebody else")

DENIED = (Failed("EACCES"), Failed("EPERM"))
UGLY = b"\xff\x1b]0;owned\x07\n\x9b31mline"


def attempt(function: Callable[..., Any], *arguments: Any) -> Any:
    """Run in a worker."""
    return outcome(lambda: function(*arguments))


def attempt_at(side: int, function: Callable[..., Any], *arguments: Any) -> Any:
    """Run in a worker, which need not be able to walk to *side*."""
    return outcome(lambda: function(*arguments, dir_fd=side))


def connect(path: str) -> None:
    with socket.socket(socket.AF_UNIX) as client:
        client.connect(path)


def test_without_allow_other_a_mount_is_its_users_alone(mounted: Mounted) -> None:
    """Not even through descriptors of root's, or the daemon's own files in /proc."""
    (mounted.source / "file").write_bytes(b"secret")
    os.chmod(mounted.source / "file", 0o666)
    os.chmod(mounted.source, 0o777)
    daemon = f"/proc/{mounted.pid}"
    own = os.listdir(f"{daemon}/fd")
    assert own
    with directories([mounted.path]) as (side,), workers([ANNA]) as (anna,):
        for call in (
            [os.stat, "file"],
            [os.open, "file", os.O_RDONLY],
            [os.open, ".", os.O_RDONLY],
            [os.open, "new", os.O_CREAT | os.O_WRONLY],
            [os.mkdir, "new"],
            [os.unlink, "file"],
            [os.chmod, "file", 0o777],
            [os.readlink, "file"],
        ):
            assert anna.run(attempt_at, side, *call) in DENIED, call
        for call in (
            [os.fchdir, side],
            [os.listdir, side],
            [os.getxattr, side, "user.x"],
            *([os.listdir, f"{daemon}/{link}"] for link in ("fd", "root", "cwd", "map_files")),
            *([os.open, f"{daemon}/fd/{fd}", os.O_RDONLY] for fd in own),
            [connect, socket_of(mounted.entry)],
            [os.listdir, os.path.dirname(socket_of(mounted.entry))],
        ):
            assert anna.run(attempt, *call) in DENIED, call
    assert os.listdir(mounted.source) == ["file"]


def test_nobody_climbs_out(make_mount: MountFactory) -> None:
    mount = make_mount("allow_other")
    (mount.source.parent / "outside").write_bytes(b"secret")
    up = mount.path / ".." / "outside"
    assert up.read_bytes() == b"secret"  # the kernel's own way up, as from any mount
    device = mount.path.stat().st_dev
    with directories([mount.path]) as (side,):
        assert os.stat("..", dir_fd=side).st_dev != device
    (mount.path / "d").mkdir()
    (mount.path / "d" / "link").symlink_to("../../../outside")
    (mount.path / "d" / "absolute").symlink_to(mount.source.parent / "outside")
    with QmpClient(socket_of(mount.entry), "mnt") as client:
        for name in ("link", "absolute", "../d/../../outside"):
            with pytest.raises(ThrottlefsError, match="not found"):
                client.run("x-throttlefs-set", device=f"d/{name}", values={"bps": "1M"})


def test_file_handles_are_roots_and_lead_into_the_mount(make_mount: MountFactory) -> None:
    mount = make_mount("allow_other")
    (mount.path / "file").write_bytes(b"data")
    handle = name_to_handle(os.fsencode(mount.path / "file"))
    if isinstance(handle, OSError):
        return  # this kernel gives none of a FUSE filesystem
    with directories([mount.path]) as (side,), workers([ANNA, ROOT]) as (anna, root):
        assert anna.run(attempt, open_handle, side, handle) in (*DENIED, Failed("ESTALE"))
        found = root.run(attempt, open_handle, side, handle)
    assert found in (b"data", Failed("ESTALE"))


def name_to_handle(path: bytes) -> bytes | OSError:
    buffer = ctypes.create_string_buffer(8 + 128)
    ctypes.cast(buffer, ctypes.POINTER(ctypes.c_uint))[0] = 128
    libc, mount_id = ctypes.CDLL(None, use_errno=True), ctypes.c_int()
    if libc.name_to_handle_at(-100, path, buffer, ctypes.byref(mount_id), 0):
        return OSError(ctypes.get_errno())
    return buffer.raw


def open_handle(side: int, handle: bytes) -> bytes:
    libc = ctypes.CDLL(None, use_errno=True)
    fd = libc.open_by_handle_at(side, ctypes.create_string_buffer(handle), os.O_RDONLY)
    if fd < 0:
        raise OSError(ctypes.get_errno(), "open_by_handle_at")
    return os.read(fd, 100)


# -- what is printed --------------------------------------------------------------------------


def test_no_name_acts_on_a_terminal(make_mount: MountFactory, tmp_path: Path) -> None:
    point = os.fsdecode(os.path.join(os.fsencode(tmp_path), b"mnt\x1b[2J\n\xff"))
    mount = make_mount("", source=tmp_path / "src", target=Path(point))
    image = os.path.join(os.fsencode(mount.path), UGLY)
    with open(image, "wb") as file:
        file.write(b"data")
        for command in (
            ["list"],
            ["show", mount.path],
            ["top", mount.path, "--count", "1", "--interval", "0.1"],
            ["set", os.fsdecode(image), "bps=1M"],
            ["umount", "/nowhere\x1b[2J"],
        ):
            result = subprocess.run(
                [*THROTTLEFS, *map(os.fsencode, map(str, command))],
                capture_output=True,
                timeout=60,
                check=False,
            )
            said = (result.stdout + result.stderr).decode()
            assert said, command
            assert printable(said.replace("\n", "")) == said.replace("\n", ""), command
            assert "Traceback" not in said


def serve_nonsense(path: Path, answers: bytes, for_ever: bool = False) -> socket.socket:
    """A control socket that another user might offer."""
    listener = socket.socket(socket.AF_UNIX)
    listener.bind(str(path))
    listener.listen()

    def serve() -> None:
        try:
            client, _ = listener.accept()
            client.sendall(answers)
            while for_ever:
                client.sendall(bytes(1 << 16))
            time.sleep(0.1)
            client.close()
        except OSError:
            pass

    threading.Thread(target=serve, daemon=True).start()
    return listener


@pytest.mark.parametrize(
    "answers",
    [b"", b"[]\n", b'{"QMP": 1}\n{"error": 5}\n', b'{"QMP": 1}\n{}\n', b"[" * 100_000 + b"\n"],
)
def test_a_server_that_talks_nonsense_is_one_line(tmp_path: Path, answers: bytes) -> None:
    with serve_nonsense(tmp_path / "sock", answers) as listener:
        if not answers:
            listener.close()
        with pytest.raises(ThrottlefsError):
            QmpClient(str(tmp_path / "sock"), "mnt")


def test_a_server_without_end_is_left(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("throttlefs.control.client._LONGEST_ANSWER", 1 << 20)
    nonsense = serve_nonsense(tmp_path / "sock", b"", for_ever=True)
    with nonsense, pytest.raises(ThrottlefsError, match="does not answer"):
        QmpClient(str(tmp_path / "sock"), "mnt")


def test_a_server_of_a_third_user_is_not_believed(tmp_path: Path) -> None:
    os.chmod(tmp_path, 0o777)
    with directories([tmp_path]) as (side,), workers([ANNA]) as (anna,):
        assert anna.run(attempt, listen_below, side) is None
        with pytest.raises(ThrottlefsError, match="another user's"):
            QmpClient(str(tmp_path / "sock"), "mnt", owner=BERT.uid)


_kept: list[socket.socket] = []


def listen_below(side: int) -> None:
    """Run in a worker."""
    os.fchdir(side)
    listener = socket.socket(socket.AF_UNIX)
    listener.bind("sock")
    listener.listen()
    _kept.append(listener)


# -- taking it all ----------------------------------------------------------------------------


def open_many(side: int, count: int) -> tuple[int, Any]:
    """Run in a worker: open a file as often as it goes; how often, and what came then."""
    os.fchdir(side)
    for number in range(count):
        result = outcome(lambda: os.open("file", os.O_RDONLY))
        if isinstance(result, Failed):
            return number, result
    return count, None


def test_one_user_does_not_open_all_there_is(tmp_path: Path, make_mount: MountFactory) -> None:
    """The daemon's descriptors; then others may still open files and look around."""
    bound = 900
    mount = limited(make_mount, tmp_path, bound)
    (mount.source / "file").write_bytes(b"data")
    os.chmod(mount.source / "file", 0o644)
    for number in range(200):
        (mount.source / f"other{number}").touch()
    with directories([mount.path]) as (side,), workers([ANNA, BERT]) as (anna, bert):
        opened, why = anna.run(open_many, side, 2 * bound)
        assert why == Failed("EMFILE")
        assert opened == bound // 3
        bert.run(os.fchdir, side)
        assert bert.run(open_many, side, 100) == (100, None)
        for number in range(200):
            assert not isinstance(bert.run(attempt, os.stat, f"other{number}"), Failed)
        assert bert.run(attempt, os.listdir, ".") != []
    assert run_throttlefs("show", mount.path).returncode == 0
    assert (mount.path / "file").read_bytes() == b"data"
    with directories([mount.path]) as (side,), workers([ANNA]) as (anna,):
        assert anna.run(open_many, side, 100) == (100, None), "what was closed is given back"


def limited(make_mount: MountFactory, tmp_path: Path, descriptors: int) -> Mounted:
    """A mount whose daemon may not have more descriptors than that."""
    wrapper = ["prlimit", f"--nofile={descriptors}:{descriptors}", "setpriv"]
    wrapper += ["--bounding-set=-sys_resource", "--inh-caps=-sys_resource"]
    original = THROTTLEFS[:]
    THROTTLEFS[:0] = wrapper
    try:
        return make_mount("allow_other")
    finally:
        THROTTLEFS[:] = original


def test_names_values_and_depths_of_any_size(make_mount: MountFactory, soak: Soak) -> None:
    mount = make_mount("allow_other")
    os.chmod(mount.source, 0o777)
    file = mount.path / "file"
    file.touch()
    assert outcome(lambda: os.setxattr(file, "user.x", bytes(1 << 16))) in (
        None,
        Failed("ENOSPC"),
        Failed("E2BIG"),
    )
    assert outcome(lambda: os.setxattr(file, "user.x", bytes(1 << 17))) == Failed("E2BIG")
    assert outcome(lambda: (mount.path / ("x" * 256)).touch()) == Failed("ENAMETOOLONG")
    depth = soak.choose(200, 10_000)
    here = os.open(mount.path, os.O_RDONLY | os.O_DIRECTORY)
    for _ in range(depth):
        os.mkdir("d", dir_fd=here)
        inner = os.open("d", os.O_RDONLY | os.O_DIRECTORY, dir_fd=here)
        os.close(here)
        here = inner
    deep = os.open("file", os.O_CREAT | os.O_RDWR, 0o600, dir_fd=here)
    os.write(deep, b"deep")
    result = run_throttlefs("show", mount.path)
    assert (result.returncode, result.stderr) == (0, "")
    assert os.pread(deep, 10, 0) == b"deep"
    os.close(deep)
    os.close(here)
    subprocess.run(["rm", "-rf", mount.path / "d"], check=True, timeout=600)
    assert os.listdir(mount.source) == ["file"]
    assert "Traceback" not in mount.log


def test_own_mounts_are_ones_own(mounted: Mounted) -> None:
    assert mounted.entry.point in [entry.point for entry in own_mounts()]
    with workers([ANNA]) as (anna,):
        assert anna.run(attempt, own_mounts) == []
    answer = run_throttlefs("list", "--json")
    assert str(mounted.path) in [one["target"] for one in json.loads(answer.stdout)]
    assert stat.S_ISDIR(mounted.path.stat().st_mode)
