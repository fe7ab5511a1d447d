"""The scripts that install what is missing: no network, no real Python, a world of fakes."""

import os
import shutil
import signal
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.unit.launcher_world import FAKE_PYTHON, World


@pytest.fixture
def world() -> Iterator[World]:
    """Below /tmp itself, for pytest's directories are closed to other users."""
    with tempfile.TemporaryDirectory(prefix="throttlefs-launcher-", dir="/tmp") as name:
        os.chmod(name, 0o755)
        yield World(Path(name))


@pytest.fixture
def installed(world: World) -> World:
    result = world.run()
    assert (result.returncode, world.installs(), world.venvs_made()) == (0, 1, 1), result.stderr
    return world


ARGUMENTS = ["mount", "with space", "", "*", "-o", "bps=1M", "line\nbreak", "--", "$HOME"]


@pytest.mark.parametrize("how", ["absolute", "relative", "symlink", "sibling"])
def test_the_launcher_hands_everything_on(installed: World, how: str) -> None:
    world = installed
    link = world.fakes / "link to it"
    link.symlink_to(os.path.relpath(world.launcher, world.fakes))
    command, cwd = {
        "absolute": ([world.launcher], Path("/")),
        "relative": (["scripts/throttlefs"], world.checkout),
        "symlink": ([link], world.fakes),
        "sibling": (["bash", "throttlefs"], world.launcher.parent),
    }[how]
    world.does("throttlefs", r"""printf '%s\0' "$PWD" "$@"; cat; exit 7""")
    result = world.run(*command, *ARGUMENTS, cwd=cwd, given="the input")
    assert (result.returncode, result.stderr) == (7, "")
    assert result.stdout.split("\0") == [str(cwd), *ARGUMENTS, "the input"]
    assert world.installs() == 1


def test_the_launcher_adds_nothing_to_the_environment(installed: World) -> None:
    installed.does("throttlefs", "env -0")
    environment = {"PATH": str(installed.fakes), "FAKES": str(installed.fakes), "A": "b c"}
    result = installed.run(env=environment)
    seen = dict(line.split("=", 1) for line in result.stdout.split("\0") if line)
    for of_every_shell in ("_", "PWD", "OLDPWD", "SHLVL"):
        seen.pop(of_every_shell, None)
    assert seen == environment


def test_a_first_start_speaks_on_stderr_alone_and_a_second_not_at_all(world: World) -> None:
    first = world.run()
    assert (first.returncode, first.stdout) == (0, "")
    assert "installing Python packages" in first.stderr
    log = world.log()
    second = world.run()
    assert (second.returncode, second.stdout, second.stderr) == (0, "", "")
    # Nothing but throttlefs itself was run.
    assert world.log().removeprefix(log) == "throttlefs \n"


def test_the_installation_leaves_the_input_alone(world: World) -> None:
    world.does("pip", "cat >/dev/null")
    world.does("throttlefs", "cat")
    assert world.run(given="the input").stdout == "the input"


@pytest.mark.parametrize("name", ["pyproject.toml", "scripts/constraints.txt"])
def test_an_update_is_installed(installed: World, name: str) -> None:
    with open(installed.checkout / name, "a") as file:
        file.write("# changed\n")
    assert installed.run().returncode == 0
    assert (installed.installs(), installed.venvs_made()) == (2, 1)
    assert installed.run().stderr == ""


def test_extras_are_installed_beside_each_other(installed: World) -> None:
    installed.run(installed.checkout / "scripts" / "test", "--version")
    assert "--editable .[test,bench,packages]" in installed.log()
    assert (installed.installs(), installed.venvs_made()) == (2, 1)
    assert installed.run().stderr == ""


def test_the_client_library_comes_when_limits_are_to_be_shared(installed: World) -> None:
    config = installed.fakes / "limits.toml"
    config.write_text('[group.tenant]\nbps = "1M"\n')
    launcher = installed.launcher
    for words in (["-o", "bps=1M"], ["-o", f"bps=1M,config={config}"], ["--config", config]):
        installed.run(launcher, "mount", "src", "dst", *words)
    assert installed.installs() == 1
    config.write_text('[group.tenant]\n  shared = "valkey://store/0/tenant"\n')
    installed.run(launcher, "mount", "src", "dst", "--config", config)
    assert "--editable .[cluster]" in installed.log()
    assert (installed.installs(), installed.venvs_made()) == (2, 1)
    for words in (["-o", f"config={config},bps=1M"], ["-o", "group=g,shared=valkey://a/0/b"]):
        assert installed.run(launcher, "mount", "src", "dst", *words).stderr == ""
    assert installed.installs() == 2


def test_a_moved_checkout_gets_a_new_venv(installed: World) -> None:
    installed.checkout = installed.checkout.rename(installed.fakes / "elsewhere")
    assert installed.run().returncode == 0
    assert (installed.installs(), installed.venvs_made()) == (2, 2)


def test_a_new_python_gets_a_new_venv(installed: World) -> None:
    """As after an upgrade of the distribution, when the old interpreter is gone."""
    os.rename(installed.fakes / "python3", installed.fakes / "python3.13")
    assert installed.run().returncode == 0
    assert (installed.installs(), installed.venvs_made()) == (2, 2)


def test_another_libfuse_gets_pyfuse3_built_anew(installed: World) -> None:
    """As after an upgrade that brings libfuse3.so.4 and takes libfuse3.so.3 away."""
    (installed.fakes / "libfuse3.so").unlink()
    result = installed.run()
    assert (result.returncode, result.stdout) == (0, "")
    assert "building pyfuse3 anew" in result.stderr
    assert "--no-cache-dir --no-binary pyfuse3 --force-reinstall" in installed.log()
    assert (installed.installs(), installed.venvs_made()) == (3, 1)
    assert installed.run().stderr == ""


def test_a_pyfuse3_that_cannot_be_loaded_is_named(world: World) -> None:
    (world.fakes / "libfuse3.so").unlink()
    world.does("pip", "if [[ $* == *--no-binary* ]]; then exit 0; fi")
    result = world.run()
    assert (result.returncode, result.stdout) == (1, "")
    last = result.stderr.splitlines()[-1]
    assert last == "throttlefs: could not load pyfuse3: libfuse3.so.3 is not there"


def test_an_interrupted_installation_is_repaired(world: World) -> None:
    world.does("pip", 'touch "$FAKES/pip-runs"; sleep 30')
    with world.start() as process:
        until(world.fakes / "pip-runs")
        os.killpg(process.pid, signal.SIGKILL)
    world.does("pip", "")
    assert world.run().returncode == 0
    assert (world.installs(), world.venvs_made()) == (2, 2)
    assert world.run().stderr == ""


def test_an_interrupt_ends_it(world: World) -> None:
    # As pip: takes the signal, and ends as if it were a failure like any other.
    world.does("pip", 'trap "exit 1" INT; touch "$FAKES/pip-runs"; sleep 30')
    with world.start() as process:
        until(world.fakes / "pip-runs")
        os.killpg(process.pid, signal.SIGINT)
        _, err = process.communicate(timeout=10)
    assert process.returncode == 130
    assert "could not" not in err


def test_starts_at_once_install_once(world: World) -> None:
    world.does("pip", 'touch "$FAKES/pip-runs"; until [[ -e $FAKES/go ]]; do sleep 0.01; done')
    first = world.start()
    until(world.fakes / "pip-runs")
    others = [world.start() for _ in range(3)]
    for other in others:
        assert other.stderr is not None
        assert "waiting for it" in other.stderr.readline()
    (world.fakes / "go").touch()
    for process in (first, *others):
        process.communicate(timeout=30)
        assert process.returncode == 0
    assert (world.installs(), world.venvs_made()) == (1, 1)
    assert world.log().count("throttlefs \n") == 4


def until(path: Path) -> None:
    deadline = time.monotonic() + 30
    while not path.exists():
        assert time.monotonic() < deadline, f"{path} did not appear"
        time.sleep(0.01)


@pytest.mark.parametrize(
    ("output", "reason", "venvs"),
    [
        ("[Errno -3] Temporary failure in name resolution", "no network (the package", 1),
        ("OSError: [Errno 28] No space left on device", "the disk is full", 2),
        ("[Errno 13] Permission denied: '/x'", "[Errno 13] Permission denied: '/x'", 2),
        ("certificate verify failed: CERTIFICATE_VERIFY_FAILED", "TLS certificate", 2),
    ],
)
def test_a_failure_gets_one_line(world: World, output: str, reason: str, venvs: int) -> None:
    world.does("pip", f'echo "lengthy"; echo "{output}" >&2; exit 1')
    result = world.run()
    assert (result.returncode, result.stdout) == (1, "")
    assert "lengthy" not in result.stderr
    last = result.stderr.splitlines()[-1]
    assert last.startswith("throttlefs: could not install the Python packages: ")
    assert reason in last
    # What failed before anything was changed is built upon; what may be half done is not.
    world.does("pip", "")
    assert world.run().returncode == 0
    assert world.venvs_made() == venvs


def test_an_unknown_failure_shows_the_end_of_the_output(world: World) -> None:
    world.does("pip", 'for i in {1..200}; do echo "line $i."; done; exit 1')
    result = world.run()
    assert result.returncode == 1
    assert "line 200." in result.stderr
    assert "line 100." not in result.stderr


def test_missing_packages_are_named_to_who_may_not_install_them(world: World) -> None:
    for name in ("fusermount3", "gcc"):
        (world.fakes / name).unlink()
    world.fake("apt-get")
    result = world.run()
    assert result.returncode == 1
    assert result.stderr == (
        "throttlefs: Debian packages are missing; as root, run: apt-get update && "
        "apt-get install --no-install-recommends fuse3 gcc libc6-dev\n"
    )
    assert "apt-get" not in world.log()
    (world.fakes / "apt-get").unlink()
    result = world.run()
    assert result.returncode == 1
    assert "install what Debian calls fuse3 gcc libc6-dev" in result.stderr


def test_missing_packages_are_installed_by_who_may(world: World) -> None:
    for name in ("fusermount3", "pkg-config"):
        (world.fakes / name).unlink()
    world.does("sudo", '[[ $1 == -n ]] && shift && "$@"')
    world.fake("sudo")
    world.fake("true")
    world.fake("apt-get")
    world.does(
        "apt-get",
        """if [[ " $* " == *" install "* ]]; then
            for name in fusermount3 pkg-config; do ln -s any "$FAKES/$name"; done
        fi""",
    )
    result = world.run()
    assert result.returncode == 0, result.stderr
    apt = [line for line in world.log().splitlines() if line.startswith("apt-get")]
    assert len(apt) == 2
    assert " update" in apt[0]
    assert apt[1].endswith("--no-install-recommends fuse3 pkg-config libfuse3-dev")
    assert world.run().stderr == ""


def test_a_package_that_cannot_be_had_ends_it(world: World) -> None:
    (world.fakes / "fusermount3").unlink()
    world.does("sudo", '[[ $1 == -n ]] && shift && "$@"')
    for name in ("sudo", "true", "apt-get"):
        world.fake(name)
    world.does("apt-get", 'echo "E: Unable to locate package fuse3" >&2; exit 100')
    result = world.run()
    assert result.returncode == 1
    assert "E: Unable to locate package fuse3" in result.stderr
    assert result.stderr.splitlines()[-1].startswith("throttlefs: could not install the Debian")
    assert not world.venv.exists()


def test_an_old_python_is_passed_over(world: World) -> None:
    (world.fakes / "python3.probe").write_text("echo 3.9; exit 3\n")
    result = world.run()
    assert result.returncode == 1
    assert "Python 3.11 or newer is needed, and python3 is 3.9 here" in result.stderr
    world.fake("python3.12", FAKE_PYTHON)
    assert world.run().returncode == 0
    assert (world.venv / "bin" / "python").resolve() == world.fakes / "python3.12"


def test_an_incomplete_python_is_completed_by_its_own_packages(world: World) -> None:
    os.rename(world.fakes / "python3", world.fakes / "python3.12")
    (world.fakes / "python3").symlink_to("python3.12")
    (world.fakes / "python3.probe").write_text('readlink -f -- "$0"; echo venv; echo dev; exit\n')
    shutil.copy(world.fakes / "python3.probe", world.fakes / "python3.12.probe")
    world.fake("apt-get")
    result = world.run()
    assert result.returncode == 1
    assert result.stderr.endswith("--no-install-recommends python3.12-venv python3.12-dev\n")


def test_a_checkout_that_may_not_be_written(installed: World) -> None:
    """As when root installed it for all: its venv is used, and only root can bring it up."""
    if os.geteuid() == 0:
        for path in (installed.checkout, installed.venv):
            os.chown(path, 0, 0)
    installed.checkout.chmod(0o555)
    installed.venv.chmod(0o555)
    try:
        result = installed.run()
        assert (result.returncode, result.stderr) == (0, "")
        (installed.checkout / "pyproject.toml").write_text("# changed\n")
        result = installed.run()
        assert result.returncode == 1
        assert f"{installed.venv} is missing or out of date" in result.stderr
        if os.geteuid() == 0:
            assert f"run {installed.launcher} once as root" in result.stderr
    finally:
        installed.checkout.chmod(0o755)
        installed.venv.chmod(0o755)


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can hide a Python from the user")
def test_a_python_that_only_the_owner_may_run(installed: World) -> None:
    """As when root makes it with a Python below /root: to install again would not help."""
    hidden = installed.fakes / "hidden"
    hidden.mkdir(mode=0o700)
    os.rename(installed.fakes / "python3", hidden / "python3")
    python = installed.venv / "bin" / "python"
    python.unlink()
    python.symlink_to(hidden / "python3")
    stamp = installed.venv / ".installed-runtime"
    _, *rest = stamp.read_text().splitlines()
    stamp.write_text("\n".join([str(hidden / "python3"), *rest]) + "\n")
    for path in (installed.checkout, installed.venv):
        os.chown(path, 0, 0)
    result = installed.run()
    assert (result.returncode, result.stdout) == (1, "")
    assert result.stderr == (
        f"throttlefs: {installed.venv} was made with a Python that you may not run,"
        f" {hidden}/python3: use a clone of your own, or as root make it anew with the system's:"
        f" rm -r {installed.venv} && PATH=/usr/bin:/bin {installed.launcher} --version\n"
    )


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can hide a directory from the user")
def test_an_environment_that_only_the_owner_may_read(installed: World) -> None:
    """As when root made it with umask 077."""
    for path in (installed.checkout, installed.venv):
        os.chown(path, 0, 0)
    installed.venv.chmod(0o700)
    result = installed.run()
    assert (result.returncode, result.stdout) == (1, "")
    assert result.stderr.endswith(f"or as root open it with: chmod -R go+rX {installed.venv}\n")


def test_the_tests_run_to_the_end_and_pytest_has_the_last_word(world: World) -> None:
    script = world.checkout / "scripts" / "test"
    result = world.run(script)
    assert result.returncode == 0, result.stderr
    assert "FAILED" not in result.stdout
    world.does("ruff", '[[ $1 != format ]] || { echo "would reformat x"; exit 1; }')
    result = world.run(script)
    assert result.returncode == 1
    assert "would reformat x" in result.stdout
    *_, ruff, form, mypy, shellcheck, tests, mounted, others = result.stdout.splitlines()
    words = [" ".join(line.split()) for line in (ruff, form, mypy, shellcheck, tests)]
    assert words == [
        "ruff check ok",
        "ruff format --check FAILED",
        "mypy ok",
        "shellcheck ok",
        "pytest ok",
    ]
    assert mounted == others == "=== 3 passed in 0.01s ==="
    world.does("ruff", "")
    world.does("pytest", "exit 1")
    assert world.run(script).returncode == 1


def test_arguments_of_the_tests_are_for_pytest_alone(world: World) -> None:
    world.does("pytest", 'echo "$PWD"; exit 5')
    result = world.run(world.checkout / "scripts" / "test", "tests/unit", "-k", "a b")
    assert (result.returncode, result.stdout) == (5, f"{world.checkout}\n")
    assert "-m pytest tests/unit -k a b\n" in world.log()
    assert "ruff check" not in world.log()
