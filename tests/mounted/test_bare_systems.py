"""Systems that lack something: /dev/fuse, the right to mount, a writable /run, /etc/mtab."""

from __future__ import annotations

import os
import shutil
import signal
import stat
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.namespaces import Namespace, namespace
from tests.support import THROTTLEFS, needs_root, wait_for
from throttlefs.host import runtime
from throttlefs.host.prerequisites import in_container

pytestmark = needs_root("make such a system")

# The one right beside a user's own is to read this Python, which may lie below /root.
AS_NOBODY = [
    *("setpriv", "--reuid=65534", "--regid=65534", "--clear-groups"),
    *("--inh-caps=+dac_read_search", "--ambient-caps=+dac_read_search"),
]


CHECKOUT = Path(__file__).parents[2]


@pytest.fixture
def system() -> Iterator[Namespace]:
    """A mount namespace, to take things away from."""
    with namespace("mount") as made:
        yield made


@pytest.fixture
def paths() -> Iterator[tuple[Path, Path]]:
    """SRC and DST that every user may reach, nobody's."""
    directory = Path("/tmp") / f"throttlefs-bare-{os.getpid()}"
    made = directory / "src", directory / "mnt"
    for path in (directory, *made):
        path.mkdir()
        os.chown(path, 65534, 65534)
    yield made
    shutil.rmtree(directory)


def one_line(result: subprocess.CompletedProcess[str]) -> str:
    assert (result.returncode, result.stdout) == (1, ""), result.stderr
    (line,) = result.stderr.splitlines()
    assert line.startswith("throttlefs: ")
    return line


# -- containers -------------------------------------------------------------------------------


def take_dev_fuse_away(system: Namespace) -> None:
    assert system.run("mount", "-t", "tmpfs", "tmpfs", "/dev").returncode == 0
    assert system.run("mknod", "-m", "666", "/dev/null", "c", "1", "3").returncode == 0


def test_without_dev_fuse(paths: tuple[Path, Path]) -> None:
    """The cure is another in a container, which has a PID namespace of its own."""
    with namespace("mount", "pid") as container:
        take_dev_fuse_away(container)
        line = one_line(container.throttlefs("mount", *paths))
        assert line == (
            "throttlefs: /dev/fuse is missing;"
            " start the container with --device /dev/fuse --cap-add SYS_ADMIN"
        )


def test_without_dev_fuse_on_the_machine_itself(
    system: Namespace, paths: tuple[Path, Path]
) -> None:
    if in_container():
        pytest.skip("this is a container")
    take_dev_fuse_away(system)
    line = one_line(system.throttlefs("mount", *paths))
    assert line == ("throttlefs: /dev/fuse is missing; load the kernel module with: modprobe fuse")
    line = one_line(system.run("env", "container=lxc", *THROTTLEFS, "mount", *paths))
    assert "--device /dev/fuse" in line


@pytest.mark.parametrize("kinds", [("mount", "pid"), ("mount",)])
def test_root_that_may_not_mount(paths: tuple[Path, Path], kinds: tuple[str, ...]) -> None:
    with namespace(*kinds) as made:
        without = ["setpriv", "--bounding-set=-sys_admin", "--inh-caps=-sys_admin"]
        line = one_line(made.run(*without, *THROTTLEFS, "mount", *paths))
        assert "root may not mount here, it lacks the capability SYS_ADMIN; " in line
        assert line.endswith("--cap-add SYS_ADMIN") == ("pid" in kinds or in_container())


def test_a_user_who_cannot_become_root_by_fusermount3(
    system: Namespace, paths: tuple[Path, Path]
) -> None:
    open_dev_fuse(system)
    command = [*AS_NOBODY, "--no-new-privs", *THROTTLEFS, "mount", *paths]
    assert "no_new_privs" in one_line(system.run(*command))


def open_dev_fuse(system: Namespace) -> None:
    """As udev has it: open to everybody."""
    device = os.stat("/dev/fuse").st_rdev
    assert system.run("mount", "-t", "tmpfs", "tmpfs", "/mnt").returncode == 0
    numbers = (os.major(device), os.minor(device))
    assert system.run("mknod", "-m", "666", "/mnt/fuse", "c", *numbers).returncode == 0
    assert system.run("mount", "--bind", "/mnt/fuse", "/dev/fuse").returncode == 0


# -- /run -------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["read-only", "another's"])
def test_root_without_a_run_of_its_own(
    system: Namespace, paths: tuple[Path, Path], kind: str
) -> None:
    """As on a read-only system, and in a user namespace, where /run/throttlefs is another's."""
    if kind == "read-only":
        command = ["mount", "-o", "remount,ro", "/run"]
    else:
        command = ["install", "-d", "-o", "65534", "-m", "700", "/run/throttlefs"]
    assert system.run(*command).returncode == 0
    source, target = paths
    (source / "f").touch()
    result = system.throttlefs("mount", source, target)
    assert (result.returncode, result.stderr) == (0, "")
    directory = Path("/tmp/throttlefs-0")
    st = directory.lstat()
    assert (st.st_uid, stat.S_IMODE(st.st_mode)) == (0, 0o700)
    assert system.throttlefs("set", target / "f", "bps=1M").stdout == "f: bps off -> 1M\n"
    assert system.throttlefs("umount", target).returncode == 0
    assert system.points() == []
    if not os.listdir(directory):
        directory.rmdir()


def test_root_without_any_place_for_its_state(system: Namespace, paths: tuple[Path, Path]) -> None:
    assert system.run("mount", "-o", "remount,ro", "/run").returncode == 0
    # A checkout below /tmp must be found again after /tmp is covered.
    assert system.run("mount", "--bind", CHECKOUT, "/mnt").returncode == 0
    # Not sticky: who owns what others can take away is not to be believed.
    assert system.run("mount", "-t", "tmpfs", "-o", "mode=777", "tmpfs", "/tmp").returncode == 0
    if CHECKOUT.is_relative_to("/tmp"):
        assert system.run("mkdir", "-p", CHECKOUT).returncode == 0
        assert system.run("mount", "--bind", "/mnt", CHECKOUT).returncode == 0
    made = "/tmp/src", "/tmp/mnt"
    assert system.run("mkdir", *made).returncode == 0
    line = one_line(system.throttlefs("mount", *made))
    assert "cannot make the runtime directory /run/throttlefs: Read-only file system" in line
    assert "mount -t tmpfs tmpfs /run" in line
    assert "XDG_RUNTIME_DIR" not in line
    assert system.points() == []


# -- /etc/mtab --------------------------------------------------------------------------------


@pytest.fixture
def without_mtab(system: Namespace) -> Namespace:
    """A system for nobody to mount on, without /etc/mtab, where fusermount3 looks mounts up."""
    open_dev_fuse(system)
    assert system.run("mkdir", "/mnt/etc").returncode == 0
    for name in ("passwd", "group", "ld.so.cache", "fuse.conf"):
        if os.path.exists(f"/etc/{name}"):
            assert system.run("cp", "-p", f"/etc/{name}", "/mnt/etc").returncode == 0
    assert system.run("mount", "--bind", "/mnt/etc", "/etc").returncode == 0
    return system


def as_nobody(system: Namespace, *arguments: object) -> subprocess.CompletedProcess[str]:
    run = Path(str(arguments[-1])).parent / "run"
    environment = {**os.environ, "XDG_RUNTIME_DIR": str(run)}
    return system.run(*AS_NOBODY, *THROTTLEFS, *arguments, env=environment)


def mount_as_nobody(system: Namespace, paths: tuple[Path, Path]) -> int:
    """Mount, and return the daemon's process id."""
    (paths[0].parent / "run").mkdir(exist_ok=True)
    os.chown(paths[0].parent / "run", 65534, 65534)
    log = paths[0].parent / "log"
    result = as_nobody(system, "mount", "--log-file", log, *paths)
    assert (result.returncode, result.stderr) == (0, "")
    assert system.points() == [str(paths[1])]
    shown = as_nobody(system, "show", "--json", paths[1]).stdout
    return int(shown.partition('"pid": ')[2].split(",")[0])


def has_ended(pid: int) -> bool:
    return runtime.process_start_time(pid) is None


@pytest.mark.parametrize("how", ["umount", "SIGTERM", "SIGKILL"])
def test_without_etc_mtab(without_mtab: Namespace, paths: tuple[Path, Path], how: str) -> None:
    """umount(8) does what fusermount3 cannot, for a mount that is dead as well."""
    system, (_, target) = without_mtab, paths
    pid = mount_as_nobody(system, paths)
    if how.startswith("SIG"):
        os.kill(pid, getattr(signal, how))
        wait_for(lambda: has_ended(pid), 20)
    if how != "SIGTERM":
        result = as_nobody(system, "umount", target)
        assert (result.returncode, result.stderr) == (0, "")
    assert system.points() == []
    assert has_ended(pid)


def test_without_etc_mtab_a_busy_mount_is_busy(
    without_mtab: Namespace, paths: tuple[Path, Path]
) -> None:
    """Its users are named, and a second signal ends it, and leaves nothing."""
    system, (_, target) = without_mtab, paths
    pid = mount_as_nobody(system, paths)
    holder = [*system.enter(), *AS_NOBODY, "sh", "-c", f"exec 5>{target}/f; echo; read line"]
    with subprocess.Popen(holder, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        process.stdout.readline()
        line = one_line(as_nobody(system, "umount", target))
        assert f"sh[{process.pid}] (open file)" in line
        os.kill(pid, signal.SIGTERM)
        log = paths[0].parent / "log"
        wait_for(lambda: "SIGTERM" in log.read_text())
        os.kill(pid, signal.SIGTERM)
        wait_for(lambda: has_ended(pid), 20)
        assert system.points() == []
        process.communicate(b"\n")


def test_without_etc_mtab_and_umount_the_cure_is_named(
    without_mtab: Namespace, paths: tuple[Path, Path]
) -> None:
    system, (_, target) = without_mtab, paths
    umount = shutil.which("umount")
    assert umount is not None
    spare = shutil.copy(umount, paths[0].parent / "spare-umount")
    pid = mount_as_nobody(system, paths)
    assert system.run("mount", "--bind", "/dev/null", umount).returncode == 0
    line = one_line(as_nobody(system, "umount", target))
    assert line == (
        f"throttlefs: cannot unmount {target}: fusermount3 needs /etc/mtab, which is missing;"
        " as root: ln -s /proc/self/mounts /etc/mtab"
    )
    os.kill(pid, signal.SIGTERM)
    log = paths[0].parent / "log"
    wait_for(lambda: "ERROR" in log.read_text(), 30)
    assert "ln -s /proc/self/mounts /etc/mtab; served on under its limits" in log.read_text()
    assert "stays in use" not in log.read_text()
    assert as_nobody(system, "show", target).returncode == 0
    assert system.run("ln", "-s", "/proc/self/mounts", "/etc/mtab").returncode == 0
    # From 3.17 on fusermount3 leaves the unmounting to umount(8).
    assert system.run(spare, umount).returncode == 0
    assert as_nobody(system, "umount", target).returncode == 0
    wait_for(lambda: has_ended(pid), 20)
